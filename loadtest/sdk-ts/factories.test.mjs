// Agent factories: an experimental part of the SDK.

import assert from "node:assert/strict";

import { conformance } from "./harness.mjs";

conformance("factories", {
  "runs can be listed": async (t) => {
    const { session } = await t.session(await t.client());
    return session.factory.listRuns().catch((error) => ({ refused: error.message }));
  },

  "an unknown factory": async (t) => {
    const { session } = await t.session(await t.client());
    const outcome = await session.factory.run("nope").catch((error) => ({ refused: error.message }));
    assert.ok(outcome);
    return outcome;
  },
});
