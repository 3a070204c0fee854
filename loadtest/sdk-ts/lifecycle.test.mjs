// Lifecycle events of a client's own sessions.

import { conformance, say, until } from "./harness.mjs";

conformance("lifecycle", {
  "created, updated, deleted": async (t) => {
    const client = await t.client();
    const seen = [];
    client.onLifecycle((event) => seen.push(event));
    const { session } = await t.session(client);
    const own = () =>
      seen.filter((event) => event.sessionId === session.sessionId).map((event) => event.type);
    await say(session, "hello");
    await client.deleteSession(session.sessionId);
    await until(
      () => own().includes("session.deleted"),
      () => `session.deleted among ${own()}`,
    );
    return [...new Set(own())].sort();
  },

  "one type only": async (t) => {
    const client = await t.client();
    const seen = [];
    client.onLifecycle("session.created", (event) => seen.push(event.type));
    const { session } = await t.session(client);
    await say(session, "hello");
    return [...new Set(seen)];
  },

  "another client of the same user hears of it": async (t) => {
    const listener = await t.client();
    const seen = [];
    listener.onLifecycle((event) => seen.push(event));
    const { session } = await t.session(await t.client());
    await until(() => seen.some((event) => event.sessionId === session.sessionId), "the other's session");
  },

  "no foreground without a terminal": async (t) => {
    const client = await t.client();
    const { session } = await t.session(client);
    const set = await client.setForegroundSessionId(session.sessionId).then(
      () => "set",
      () => "refused",
    );
    return { foreground: (await client.getForegroundSessionId()) ?? null, set };
  },
});
