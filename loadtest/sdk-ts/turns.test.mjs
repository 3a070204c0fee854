// A turn: how it streams, and how it ends.

import assert from "node:assert/strict";

import { echo } from "./fixtures.mjs";
import { conformance, say } from "./harness.mjs";

conformance("turns", {
  "sendAndWait returns the final message": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    const answer = await say(session, "hello there");
    assert.equal(answer, "You said: hello there");
    await recorder.settled();
    return { answer, lines: recorder.lines() };
  },

  "send returns the message's id at once": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    const id = await session.send({ prompt: "[[delay 300]] later" });
    assert.equal(recorder.of("assistant.message").length, 0);
    await recorder.seen("session.idle");
    assert.equal(typeof id, "string");
    return { lines: recorder.lines() };
  },

  "deltas arrive in order and make up the message": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await say(session, "[[stream 40 100 1]]");
    const deltas = recorder.of("assistant.message_delta").map((event) => event.data.deltaContent);
    const whole = recorder.of("assistant.message").at(-1).data.content;
    assert.equal(deltas.join(""), whole);
    assert.equal(whole.length, 4000);
    return { deltas: deltas.length };
  },

  "without streaming there are no deltas": async (t) => {
    const { session, recorder } = await t.session(await t.client(), { streaming: false });
    const answer = await say(session, "quiet please");
    assert.equal(recorder.of("assistant.message_delta").length, 0);
    return { answer, lines: recorder.lines() };
  },

  "a turn with a tool": async (t) => {
    const { session, recorder } = await t.session(await t.client(), { tools: [echo] });
    const answer = await say(session, '[[tool echo {"text":"x"}]]');
    assert.equal(answer, "tool echo returned: <x>");
    await recorder.settled();
    return { answer, lines: recorder.lines() };
  },

  "the second turn knows the first": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await say(session, "one");
    await say(session, "two");
    const answer = await say(session, "history");
    assert.equal(answer, "History: one | two");
    return { lines: recorder.lines() };
  },

  "sendAndWait gives up after its timeout, the turn goes on": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await assert.rejects(session.sendAndWait({ prompt: "[[delay 600]] slow" }, 100), /Timeout after 100ms/);
    await recorder.seen("session.idle");
    return { lines: recorder.lines() };
  },

  "a sub-agent": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    const task = {
      description: "look",
      prompt: "look around",
      agent_type: "explore",
      name: "scout",
      mode: "sync",
    };
    const answer = await say(session, `[[tool task ${JSON.stringify(task)}]]`);
    const own = recorder.events.map((event) => event.type).filter((type) => type.startsWith("subagent."));
    return { answer, own: own.sort() };
  },

  "attachments are read": async (t) => {
    const { writeFile } = await import("node:fs/promises");
    const { session, recorder, config } = await t.session(await t.client());
    const path = `${config.workingDirectory}/note.txt`;
    await writeFile(path, "the note");
    await say(session, "see file", { attachments: [{ type: "file", path, displayName: "note.txt" }] });
    const [message] = recorder.of("user.message");
    return { attachments: message.data.attachments };
  },
});
