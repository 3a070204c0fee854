// Several clients on one server and on one session.

import assert from "node:assert/strict";

import { echo, deferred } from "./fixtures.mjs";
import { conformance, refusal, say, until } from "./harness.mjs";

/** Two clients of one user on one session that has had a turn. */
async function pair(t, first = {}, second = {}) {
  const one = await t.session(await t.client(), first);
  await say(one.session, "hello");
  const two = await t.resume(await t.client(), { ...one.config, tools: undefined }, second);
  return { one, two };
}

conformance("sharing", {
  "both hear a turn": async (t) => {
    const { one, two } = await pair(t);
    const before = one.recorder.events.length;
    await say(two.session, "from the second");
    await one.recorder.seen("session.idle", 2);
    const own = (recorder) => recorder.lines().filter((line) => !line.startsWith("session."));
    assert.deepEqual(one.recorder.lines(before), own(two.recorder).concat("session.idle"));
    return own(two.recorder);
  },

  "the first answer to a permission request wins": async (t) => {
    const open = { onPermissionRequest: () => ({ kind: "no-result" }) };
    const { one, two } = await pair(t, { tools: [echo], ...open }, open);
    await one.session.send({ prompt: '[[tool echo {"text":"x"}]]' });
    const [{ data }] = await Promise.all(
      [one, two].map(({ recorder }) => recorder.seen("permission.requested")),
    );
    const { requestId } = data;
    const first = await two.session.rpc.permissions.handlePendingPermissionRequest({
      requestId,
      result: { kind: "approve-once" },
    });
    const second = await one.session.rpc.permissions.handlePendingPermissionRequest({
      requestId,
      result: { kind: "reject" },
    });
    const last = await two.recorder.seen("assistant.message", 2);
    return { first, second, answer: last.data.content };
  },

  "the first answer to a question wins": async (t) => {
    const silent = deferred();
    const { one, two } = await pair(
      t,
      { onUserInputRequest: () => silent.promise },
      { onUserInputRequest: () => ({ answer: "me first", wasFreeform: true }) },
    );
    const answer = await say(one.session, '[[tool ask_user {"question":"who?"}]]');
    silent.resolve({ answer: "too late", wasFreeform: true });
    await until(() => two.recorder.of("session.idle").length, "idle on both");
    return { answer };
  },

  "hooks of every client are called": async (t) => {
    const called = [];
    const hooks = (who) => ({ hooks: { onPreToolUse: () => void called.push(who) } });
    const { one } = await pair(t, { tools: [echo], ...hooks("one") }, hooks("two"));
    await say(one.session, '[[tool echo {"text":"x"}]]');
    return called.sort();
  },

  "one leaves in mid-turn, the other hears the end": async (t) => {
    const { one, two } = await pair(t);
    await one.session.send({ prompt: "[[stream 30 10 20]]" });
    await two.recorder.seen("assistant.message_delta");
    await one.session.disconnect();
    const last = await two.recorder.seen("assistant.message");
    await two.recorder.seen("session.idle");
    return { length: last.data.content.length };
  },

  "both send at once, and both are answered": async (t) => {
    const { one, two } = await pair(t);
    await Promise.all([one.session.send({ prompt: "from one" }), two.session.send({ prompt: "from two" })]);
    await two.recorder.seen("assistant.message", 2);
    return two.recorder
      .of("assistant.message")
      .map((event) => event.data.content)
      .sort();
  },

  "either can abort": async (t) => {
    const { one, two } = await pair(t);
    await one.session.send({ prompt: "[[stream 1000 10 20]]" });
    await one.recorder.seen("assistant.message_delta", 8);
    await two.session.abort();
    await one.recorder.seen("abort");
    await one.recorder.seen("session.idle", 2);
    return one.recorder.lines().slice(-3);
  },

  "a tool's name can be taken once": async (t) => {
    const { session, config } = await t.session(await t.client(), { tools: [echo] });
    await say(session, "hello");
    const message = await refusal(t.resume(await t.client(), config));
    assert.match(message, /already registered/);
  },

  "many clients on one server": async (t) => {
    const clients = await Promise.all(Array.from({ length: 8 }, () => t.client()));
    const answers = clients.map(async (client, n) => say((await t.session(client)).session, `client ${n}`));
    return Promise.all(answers);
  },
});
