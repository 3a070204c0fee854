// A client that makes the model requests itself. One server takes one such client.

import assert from "node:assert/strict";

import { CopilotRequestHandler } from "@github/copilot-sdk";

import { conformance, say } from "./harness.mjs";

class Spy extends CopilotRequestHandler {
  seen = [];

  async sendRequest(request, ctx) {
    this.seen.push({
      method: request.method,
      path: new URL(request.url).pathname,
      own: typeof ctx.sessionId,
    });
    return super.sendRequest(request, ctx);
  }
}

conformance("model requests made by the client", {
  "every request goes through the handler": async (t) => {
    const requestHandler = new Spy();
    const { session } = await t.session(await t.client("emil", { requestHandler }));
    const answer = await say(session, "through my own hands");
    assert.equal(answer, "You said: through my own hands");
    const streamed = await say(session, "[[stream 50 200 1]]");
    assert.equal(streamed.length, 10_000);
    return { answer, seen: requestHandler.seen };
  },
});
