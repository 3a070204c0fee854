// A turn that the model provider spoils: what the SDK hears, and that the next turn works.

import assert from "node:assert/strict";

import { conformance, refusal, say } from "./harness.mjs";

/** The runtime retries failures for up to half a minute. */
const RETRIES_MS = 50_000;

async function failed(t, script) {
  const { session, recorder } = await t.session(await t.client());
  const message = await refusal(session.sendAndWait({ prompt: script }, RETRIES_MS));
  await recorder.settled();
  const lines = recorder.lines();
  const answer = await say(session, "and now?");
  return { message, lines, answer };
}

conformance(
  "model errors",
  {
    401: (t) => failed(t, "[[error 401 bad key]]"),
    400: (t) => failed(t, "[[error 400 bad request]]"),
    404: (t) => failed(t, "[[error 404 no such model]]"),
    413: (t) => failed(t, "[[error 413 too large]]"),
    429: (t) => failed(t, "[[error 429 slow down]]"),
    "500, retried": (t) => failed(t, "[[error 500 broken]]"),
    "cut in mid-stream, retried": (t) => failed(t, "[[say half an]][[cut]]"),
    "nobody listens": async (t) => {
      const { session, recorder } = await t.session(await t.client(), {
        provider: t.provider({ baseUrl: "http://127.0.0.1:9/v1" }),
      });
      const message = await refusal(session.sendAndWait({ prompt: "hello?" }, RETRIES_MS));
      await recorder.settled();
      // Who notices says it in words of its own: the runtime, or the proxy that is a sandbox's way out.
      assert.match(message, /Could not connect|502 connection refused/i);
      return recorder.lines().map((line) => line.replace(/^session\.error [^]*/, "session.error"));
    },
  },
  { concurrency: 8 },
);
