// Connecting, tokens, and what a client may ask before it has a session.

import assert from "node:assert/strict";

import { CopilotClient, RuntimeConnection } from "@github/copilot-sdk";

import { conformance, refusal, say } from "./harness.mjs";
import { Wire } from "./wire.mjs";

conformance("connect", {
  "a client connects and pings": async (t) => {
    const client = await t.client();
    const { message, protocolVersion } = await client.ping("hello");
    return { message, protocolVersion };
  },

  status: async (t) => {
    const { version, protocolVersion } = await (await t.client()).getStatus();
    return { version: typeof version, protocolVersion };
  },

  "auth status, without an account": async (t) => (await t.client()).getAuthStatus(),

  "models, without an account": async (t) => {
    const client = await t.client();
    return client.listModels().catch((error) => ({ error: error.message }));
  },

  "models, as the client lists them itself": async (t) => {
    const onListModels = () => [{ id: "own", name: "Own", capabilities: { supports: {}, limits: {} } }];
    return (await t.client("alice", { onListModels })).listModels();
  },

  "built-in tools and commands": async (t) => {
    const { rpc } = await t.client();
    const { tools } = await rpc.tools.list({});
    const { commands } = await rpc.commands.list();
    return {
      tools: tools.map((tool) => tool.name).sort(),
      commands: commands.map((command) => command.name).sort(),
    };
  },

  "two users at once": async (t) => {
    const turns = ["alice", "bob"].map(async (user) => {
      const { session, recorder } = await t.session(await t.client(user));
      const answer = await say(session, `[[delay 200]] [[say for ${user}]]`);
      assert.ok(recorder.events.length > 0);
      assert.ok(recorder.of("user.message").every((event) => event.data.content.includes(user)));
      return answer;
    });
    return Promise.all(turns);
  },

  "stop detaches, and the session can be resumed": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "before");
    assert.deepEqual(await client.stop(), []);
    const again = await t.resume(await t.client(), config);
    return { answer: await say(again.session, "history") };
  },

  "forceStop drops the connection, and the session can be resumed": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "before");
    await client.forceStop();
    const again = await t.resume(await t.client(), config);
    return { answer: await say(again.session, "history") };
  },

  "a session that was disconnected refuses": async (t) => {
    const { session } = await t.session(await t.client());
    await session.disconnect();
    assert.match(await refusal(session.send({ prompt: "anyone?" })), /not found/i);
  },

  // Jetway takes any token for a user's name when it is anonymous, so only the runtime itself refuses here.
  "a wrong token is refused": async (t) => {
    if (t.target.name !== "direct") return "refused";
    const connection = RuntimeConnection.forUri(t.target.address, { connectionToken: "wrong" });
    const client = new CopilotClient({ connection });
    t.defer(() => client.forceStop());
    assert.match(await refusal(client.start()), /AUTHENTICATION_FAILED/);
    return "refused";
  },

  // Without tokens the runtime answers at once; so may Jetway, to whom an anonymous client needs none.
  "nothing is answered before connect": async (t) => {
    if (t.target.name !== "direct") return "refused";
    const wire = await Wire.open(t);
    const { error } = await wire.call("ping", { message: "hi" });
    assert.ok(error.code < 0);
    return "refused";
  },
});
