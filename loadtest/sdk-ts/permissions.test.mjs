// Permissions: asked, approved, denied, left for later.

import assert from "node:assert/strict";

import { echo } from "./fixtures.mjs";
import { conformance, say } from "./harness.mjs";

const SHELL = '[[tool bash {"command":"touch made","description":"make"}]]';

async function decided(t, prompt, onPermissionRequest) {
  const asked = [];
  const { session, recorder } = await t.session(await t.client(), {
    tools: [echo],
    onPermissionRequest: (request, invocation) => {
      asked.push({
        kind: request.kind,
        toolName: request.toolName,
        own: invocation.sessionId === session.sessionId,
      });
      return onPermissionRequest(request);
    },
  });
  const answer = await say(session, prompt);
  await recorder.settled();
  return { answer, asked, lines: recorder.lines() };
}

conformance("permissions", {
  "approved once": async (t) => {
    const outcome = await decided(t, '[[tool echo {"text":"yes"}]]', () => ({ kind: "approve-once" }));
    assert.equal(outcome.answer, "tool echo returned: <yes>");
    assert.equal(outcome.asked.length, 1);
    return outcome;
  },

  "a shell command is asked about too": (t) => decided(t, SHELL, () => ({ kind: "approve-once" })),

  "denied, with feedback for the model": async (t) => {
    const outcome = await decided(t, '[[tool echo {"text":"no"}]]', () => ({
      kind: "reject",
      feedback: "not today",
    }));
    assert.doesNotMatch(outcome.answer, /<no>/);
    return outcome;
  },

  "a shell command denied": (t) => decided(t, SHELL, () => ({ kind: "reject" })),

  "a handler that throws denies": (t) =>
    decided(t, '[[tool echo {"text":"no"}]]', () => {
      throw new Error("broken handler");
    }),

  "approved for the session is asked once": async (t) => {
    const { session } = await t.session(await t.client(), {
      tools: [echo],
      onPermissionRequest: (request) => {
        asked += 1;
        return { kind: "approve-for-session", approval: { kind: "custom-tool", toolName: request.toolName } };
      },
    });
    let asked = 0;
    const first = await say(session, '[[tool echo {"text":"1"}]]');
    const second = await say(session, '[[tool echo {"text":"2"}]]');
    return { first, second, asked };
  },

  "without a handler the tool is denied": async (t) => {
    const { session, recorder } = await t.session(await t.client(), {
      tools: [echo],
      onPermissionRequest: undefined,
    });
    const answer = await say(session, '[[tool echo {"text":"no"}]]');
    assert.doesNotMatch(answer, /<no>/);
    return { answer, lines: recorder.lines() };
  },

  "a request left open can be answered later, once": async (t) => {
    const { session, recorder } = await t.session(await t.client(), {
      tools: [echo],
      onPermissionRequest: () => ({ kind: "no-result" }),
    });
    const sent = session.sendAndWait({ prompt: '[[tool echo {"text":"late"}]]' });
    const { requestId } = (await recorder.seen("permission.requested")).data;
    const { permissions } = session.rpc;
    const pending = await permissions.pendingRequests();
    const first = await permissions.handlePendingPermissionRequest({
      requestId,
      result: { kind: "approve-once" },
    });
    const second = await permissions.handlePendingPermissionRequest({
      requestId,
      result: { kind: "reject" },
    });
    const message = await sent;
    assert.equal(message.data.content, "tool echo returned: <late>");
    return { pending: Object.values(pending)[0].length, first, second };
  },

  "an answer to a request that does not exist": async (t) => {
    const { session } = await t.session(await t.client());
    return session.rpc.permissions.handlePendingPermissionRequest({
      requestId: "nope",
      result: { kind: "approve-once" },
    });
  },
});
