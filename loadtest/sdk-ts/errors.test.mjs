// What goes wrong must go wrong in the same way, or in Jetway's own documented way.

import assert from "node:assert/strict";

import { conformance, refusal } from "./harness.mjs";
import { Wire } from "./wire.mjs";

/** An error of the wire, without its text: Jetway words its own refusals differently. */
const refused = ({ error }) => {
  assert.equal(typeof error?.code, "number", "an error with a code");
  assert.equal(typeof error.message, "string");
  return "refused";
};

conformance("errors", {
  "resuming an unknown session": async (t) => {
    const message = await refusal((await t.client()).resumeSession("no-such-session", await t.config()));
    assert.match(message, /not found/i);
  },

  "deleting an unknown session": async (t) => {
    const message = await refusal((await t.client()).deleteSession("no-such-session"));
    assert.match(message, /not found/i);
  },

  "metadata of an unknown session": async (t) =>
    (await (await t.client()).getSessionMetadata("no-such-session")) ?? "none",

  "sending to an unknown session": async (t) => {
    const wire = await Wire.connected(t);
    const answer = await wire.call("session.send", { sessionId: "no-such-session", prompt: "hi" });
    assert.match(answer.error.message, /not found/i);
    return refused(answer);
  },

  "an unknown method": async (t) => {
    const wire = await Wire.connected(t);
    return refused(await wire.call("session.noSuchMethod", { sessionId: "x" }));
  },

  "parameters of the wrong type": async (t) => {
    const { session } = await t.session(await t.client());
    return { refused: /./.test(await refusal(session.rpc.mode.set({ mode: 7 }))) };
  },

  "a session id of a bad form": async (t) => {
    const client = await t.client();
    return {
      refused: /./.test(await refusal(client.createSession(await t.config({ sessionId: "../escape" })))),
    };
  },

  "JSON that is none, and the connection lives": async (t) => {
    const wire = await Wire.connected(t);
    const before = wire.frames.length;
    wire.send("{nonsense");
    const answer = await wire.answer(before);
    assert.ok(answer.error.code <= -32600);
    if (!wire.closed) assert.equal((await wire.call("ping", { message: "x" })).result.message, "pong: x");
  },

  "a batch": async (t) => {
    const wire = await Wire.connected(t);
    const before = wire.frames.length;
    wire.send('[{"jsonrpc":"2.0","id":90,"method":"ping","params":{}}]');
    return refused(await wire.answer(before));
  },

  "string ids come back as strings": async (t) => {
    const wire = await Wire.connected(t);
    const before = wire.frames.length;
    wire.send('{"jsonrpc":"2.0","id":"a-1","method":"ping","params":{"message":"m"}}');
    return { id: (await wire.answer(before)).id };
  },

  "answers may overtake": async (t) => {
    const wire = await Wire.connected(t);
    const { session } = await t.session(await t.client());
    const poll = wire.call("session.eventLog.read", {
      sessionId: session.sessionId,
      cursor: (await session.rpc.eventLog.tail()).cursor,
      waitMs: 1500,
    });
    const started = Date.now();
    await wire.call("ping", { message: "fast" });
    assert.ok(Date.now() - started < 1200, "ping waited for the long poll");
    await poll;
  },
});
