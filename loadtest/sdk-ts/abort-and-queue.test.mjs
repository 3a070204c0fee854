// Abort, steering (`immediate`) and queueing (`enqueue`).

import assert from "node:assert/strict";

import { waitingTool } from "./fixtures.mjs";
import { conformance, say } from "./harness.mjs";

const aborts = (recorder) => recorder.of("abort").map((event) => event.data.reason);
const prompts = (recorder) => recorder.of("user.message").map((event) => event.data.content);

conformance("abort and queue", {
  "abort ends a streaming turn": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    const sent = session.sendAndWait({ prompt: "[[stream 1000 10 20]] nonce:abort-stream" });
    await recorder.seen("assistant.message_delta", 3);
    await session.abort();
    const message = await sent;
    await recorder.settled();
    const lines = recorder.lines();
    assert.equal(await say(session, "still there?"), "You said: still there?");
    return { message: message?.data.content ?? null, aborts: aborts(recorder), lines };
  },

  "abort before the first token": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    const sent = session.sendAndWait({ prompt: "[[hang]]" });
    await recorder.seen("assistant.turn_start");
    await session.abort();
    await sent;
    await recorder.settled();
    return { aborts: aborts(recorder), lines: recorder.lines() };
  },

  "abort while a tool runs": async (t) => {
    const { tool, called, release } = waitingTool();
    const { session, recorder } = await t.session(await t.client(), { tools: [tool] });
    const sent = session.sendAndWait({ prompt: "[[tool wait]]" });
    const { invocation } = await called;
    await session.abort();
    await sent;
    await recorder.settled();
    release("too late");
    const lines = recorder.lines();
    assert.equal(await say(session, "next"), "You said: next");
    return { aborts: aborts(recorder), lines, signalled: invocation.signal?.aborted ?? null };
  },

  "abort when idle does nothing": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await say(session, "done");
    const before = recorder.events.length;
    await session.abort();
    await say(session, "more");
    return { aborts: aborts(recorder), lines: recorder.lines(before) };
  },

  "enqueue waits for the next turn": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await session.send({ prompt: "[[delay 1500]] first" });
    await recorder.seen("assistant.turn_start");
    await session.send({ prompt: "second", mode: "enqueue" });
    await session.send({ prompt: "third", mode: "enqueue" });
    await recorder.seen("assistant.message", 3);
    await recorder.settled();
    assert.deepEqual(prompts(recorder), ["[[delay 1500]] first", "second", "third"]);
    return { lines: recorder.lines() };
  },

  "immediate steers a running turn": async (t) => {
    const { tool, called, release } = waitingTool();
    const { session, recorder } = await t.session(await t.client(), { tools: [tool] });
    await session.send({ prompt: "[[tool wait]]" });
    await called;
    await session.send({ prompt: "rather this", mode: "immediate" });
    release("done");
    await recorder.settled();
    return { lines: recorder.lines() };
  },

  "immediate that comes too late runs before what is queued": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await session.send({ prompt: "[[delay 1500]] first" });
    await recorder.seen("assistant.turn_start");
    await session.send({ prompt: "queued", mode: "enqueue" });
    await session.send({ prompt: "urgent", mode: "immediate" });
    await recorder.seen("assistant.message", 3);
    await recorder.settled();
    assert.deepEqual(prompts(recorder), ["[[delay 1500]] first", "urgent", "queued"]);
    return { lines: recorder.lines() };
  },

  "abort with a message in the queue": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await session.send({ prompt: "[[hang]]" });
    await recorder.seen("assistant.turn_start");
    await session.send({ prompt: "queued", mode: "enqueue" });
    await session.abort();
    await recorder.settled();
    return { aborts: aborts(recorder), lines: recorder.lines() };
  },

  "an error with a message in the queue": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await session.send({ prompt: "[[delay 1500]][[error 400 no]]" });
    await recorder.seen("assistant.turn_start");
    await session.send({ prompt: "queued", mode: "enqueue" });
    await recorder.settled();
    return { lines: recorder.lines() };
  },

  "the queue can be read and cleared": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await session.send({ prompt: "[[delay 1500]] first" });
    await recorder.seen("assistant.turn_start");
    await session.send({ prompt: "second", mode: "enqueue" });
    const pending = await session.rpc.queue.pendingItems();
    await session.rpc.queue.clear();
    const after = await session.rpc.queue.pendingItems();
    await recorder.seen("session.idle");
    return {
      pending: pending.items.map((item) => item.displayText),
      after: after.items,
      prompts: prompts(recorder),
    };
  },
});
