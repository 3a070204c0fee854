// Agent factories: an experimental part of the SDK.

import { conformance } from "./harness.mjs";

conformance("factories", {
  "runs can be listed": async (t) => {
    const { session } = await t.session(await t.client());
    return session.factory.listRuns().catch((error) => ({ refused: error.message }));
  },

  "an unknown factory": async (t) => {
    const { session } = await t.session(await t.client());
    return session.factory.run("nope").catch((error) => ({ refused: error.message }));
  },

  "a factory that runs": async (t) =>
    t.skip(
      "factories are registered by extensions that the CLI itself starts; runtime 1.0.85 has none to offer headless",
    ),
});
