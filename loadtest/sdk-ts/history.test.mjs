// What can be done with a session's past: compaction, rewinding, forking, truncating, reading the log.

import assert from "node:assert/strict";

import { conformance, say } from "./harness.mjs";
import { lines } from "./transcript.mjs";

conformance("history", {
  compaction: async (t) => {
    const { session, recorder } = await t.session(await t.client());
    for (const prompt of ["one", "two", "three"]) await say(session, prompt);
    const result = await session.rpc.history.compact();
    assert.equal(result.success, true);
    await recorder.seen("session.compaction_complete");
    const answer = await say(session, "after");
    return {
      removed: result.messagesRemoved,
      answer,
      starts: recorder.of("session.compaction_start").length,
    };
  },

  "compaction of nothing": async (t) => {
    const { session } = await t.session(await t.client());
    return session.rpc.history.compact().then(
      ({ success }) => ({ success }),
      (error) => ({ refused: error.message }),
    );
  },

  "rewinding the conversation": async (t) => {
    const { session } = await t.session(await t.client(), { enableFileChangeTracking: true });
    for (const prompt of ["one", "two", "three"]) await say(session, prompt);
    const { points, fileChangeTrackingEnabled } = await session.rpc.history.listRewindPoints();
    const point = points.find((each) => JSON.stringify(each).includes("two"));
    assert.ok(point, `a point for "two" among ${JSON.stringify(points)}`);
    await session.rpc.history.previewRewind({ eventId: point.eventId });
    const { outcome } = await session.rpc.history.rewind({ eventId: point.eventId, mode: "conversation" });
    const answer = await say(session, "history");
    assert.equal(answer, "History: one");
    return { points: points.length, fileChangeTrackingEnabled, outcome };
  },

  forking: async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "common");
    const fork = await client.rpc.sessions.fork({ sessionId: session.sessionId, name: "branch" });
    const branch = await t.resume(client, { ...config, sessionId: fork.sessionId });
    await say(branch.session, "only in the branch");
    const [trunk, own] = [await say(session, "history"), await say(branch.session, "history")];
    assert.equal(trunk, "History: common");
    assert.equal(own, "History: common | only in the branch");
    return { name: fork.name };
  },

  truncating: async (t) => {
    const { session, recorder } = await t.session(await t.client());
    for (const prompt of ["one", "two"]) await say(session, prompt);
    const { id } = recorder.of("user.message")[1];
    await session.rpc.history.truncate({ eventId: id });
    return { answer: await say(session, "history") };
  },

  "a summary for a hand-off": async (t) => {
    const { session } = await t.session(await t.client());
    await say(session, "hello");
    const result = await session.rpc.history.summarizeForHandoff();
    return { keys: Object.keys(result) };
  },

  "the event log, read in pages": async (t) => {
    const { session } = await t.session(await t.client());
    await say(session, "hello");
    const pages = [];
    let cursor;
    do {
      const page = await session.rpc.eventLog.read({ cursor, max: 3 });
      assert.ok(page.events.length <= 3);
      pages.push(...page.events);
      cursor = page.hasMore ? page.cursor : undefined;
    } while (cursor && pages.length < 1000);
    return lines(pages.filter((event) => !event.ephemeral));
  },

  "the event log, waited for": async (t) => {
    const { session } = await t.session(await t.client());
    let { cursor } = await session.rpc.eventLog.tail();
    const awaited = (async () => {
      for (;;) {
        const page = await session.rpc.eventLog.read({ cursor, waitMs: 2000 });
        const found = page.events.find((event) => event.type === "user.message");
        if (found) return found.data.content;
        cursor = page.cursor;
      }
    })();
    await say(session, "awaited");
    return awaited;
  },

  "what was persisted can be read without resuming": async (t) => {
    const client = await t.client();
    const { session } = await t.session(client);
    await say(session, "hello");
    await client.rpc.sessions.save({ sessionId: session.sessionId });
    const { events } = await client.rpc.sessions.readPersistedEvents({
      sessionId: session.sessionId,
      max: 100,
    });
    return lines(events);
  },
});
