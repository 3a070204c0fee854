// The life of a session: listed, looked up, read, resumed, suspended, deleted.

import assert from "node:assert/strict";

import { waitingTool } from "./fixtures.mjs";
import { conformance, refusal, say } from "./harness.mjs";
import { lines } from "./transcript.mjs";

conformance("sessions", {
  "listed with their summary": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "a summary of this");
    const listed = (await client.listSessions()).find((each) => each.sessionId === session.sessionId);
    assert.ok(listed.startTime <= listed.modifiedTime);
    assert.equal(listed.context.workingDirectory, config.workingDirectory);
    return { summary: listed.summary, isRemote: listed.isRemote };
  },

  "looked up by id": async (t) => {
    const client = await t.client();
    const { session } = await t.session(client);
    await say(session, "hello");
    const { sessionId, summary, isRemote } = await client.getSessionMetadata(session.sessionId);
    assert.equal(sessionId, session.sessionId);
    return { summary, isRemote };
  },

  "filtered by directory": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "hello");
    const found = await client.listSessions({ workingDirectory: config.workingDirectory });
    assert.deepEqual(
      found.map((each) => each.sessionId),
      [session.sessionId],
    );
    return client.listSessions({ workingDirectory: "/nowhere/at/all" });
  },

  "found by prefix": async (t) => {
    const client = await t.client();
    const { session } = await t.session(client);
    await say(session, "hello");
    const found = await client.rpc.sessions.findByPrefix({ prefix: session.sessionId.slice(0, 13) });
    assert.equal(found.sessionId, session.sessionId);
  },

  "the last one is known": async (t) => {
    const client = await t.client("carol");
    const { session } = await t.session(client);
    await say(session, "hello");
    assert.equal(typeof (await client.getLastSessionId()), "string");
  },

  "its events can be read back": async (t) => {
    const { session } = await t.session(await t.client());
    await say(session, "one");
    await say(session, "two");
    return lines(await session.getEvents());
  },

  "deleted, and gone": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "hello");
    await client.deleteSession(session.sessionId);
    assert.equal(await client.getSessionMetadata(session.sessionId), undefined);
    assert.match(await refusal(t.resume(client, config)), /not found/i);
  },

  "an id of the client's choosing, twice": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "first life");
    await client.deleteSession(session.sessionId);
    const again = await t.session(client, { ...config });
    assert.equal(again.session.sessionId, session.sessionId);
    return { answer: await say(again.session, "history") };
  },

  "resumed with its history": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "first");
    await session.disconnect();
    const again = await t.resume(client, config);
    const answer = await say(again.session, "history");
    assert.equal(answer, "History: first");
    return { answer, lines: again.recorder.lines(), events: lines(await again.session.getEvents()) };
  },

  "resumed by another client while the first is there": async (t) => {
    const { session, config } = await t.session(await t.client());
    await say(session, "first");
    const again = await t.resume(await t.client(), config);
    return { answer: await say(again.session, "history") };
  },

  "a session without a message cannot be resumed": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await session.disconnect();
    assert.match(await refusal(t.resume(client, config)), /not found/i);
  },

  "suspended in a tool call, which the next client answers by its old id": async (t) => {
    const before = waitingTool();
    const client = await t.client();
    const { session, recorder, config } = await t.session(client, { tools: [before.tool] });
    await session.send({ prompt: "[[tool wait]]" });
    const { requestId } = (await recorder.seen("external_tool.requested")).data;
    await session.rpc.suspend();
    await client.forceStop();
    const again = await t.resume(await t.client(), config, { tools: [], continuePendingWork: true });
    const result = await again.session.rpc.tools.handlePendingToolCall({ requestId, result: "late result" });
    const last = await again.recorder.seen("assistant.message");
    await again.recorder.seen("session.idle");
    return { result, answer: last.data.content };
  },

  "without continuePendingWork a pending call is closed": async (t) => {
    const before = waitingTool();
    const client = await t.client();
    const { session, config } = await t.session(client, { tools: [before.tool] });
    await session.send({ prompt: "[[tool wait]]" });
    await before.called;
    await session.rpc.suspend();
    await client.forceStop();
    const again = await t.resume(await t.client(), config, { tools: [waitingTool().tool] });
    const answer = await say(again.session, "and now?");
    return { answer, events: lines(await again.session.getEvents()) };
  },

  // Alone, the CLI ends the turn with its last connection. Through Jetway it runs on for pool.keep_turns, and who
  // comes back sees the rest of it.
  "a lost connection, and the session goes on": async (t) => {
    const client = await t.client();
    const { session, recorder, config } = await t.session(client);
    await say(session, "before");
    await session.send({ prompt: "[[stream 150 10 20]]" });
    await recorder.seen("assistant.message_delta", 8);
    await client.forceStop();
    const again = await t.resume(await t.client(), config);
    if (t.target.name === "jetway") {
      await again.recorder.seen("assistant.message_delta");
      await again.recorder.seen("session.idle");
    }
    const answer = await say(again.session, "history");
    assert.match(answer, /^History: before/);
  },
});
