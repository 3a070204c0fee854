// The full `copilot` instead of the small runtime: one conversation with everything, direct and through Jetway.
//
// On its first start `copilot` unpacks 235 MB. That goes where Jetway puts it too, once for all homes.

import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { echo } from "../sdk-ts/fixtures.mjs";
import { conformance, say } from "../sdk-ts/harness.mjs";

const scope = resolve(dirname(fileURLToPath(import.meta.url)), "../node_modules/@github");
const platform = readdirSync(scope).find((name) => /^copilot-linux-\w+$/.test(name));
process.env.COPILOT_RUNTIME_BIN = join(scope, platform, "copilot");
process.env.COPILOT_CACHE_HOME ??= join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "jetway/copilot");

conformance("the full copilot", {
  "a tool, a permission, and resumed": async (t) => {
    const asked = [];
    const onPermissionRequest = (request) => {
      asked.push(request.kind);
      return { kind: "approve-once" };
    };
    const client = await t.client();
    const settings = { tools: [{ ...echo, skipPermission: true }], onPermissionRequest };
    const { session, recorder, config } = await t.session(client, settings);
    const deltas = await say(session, "[[say one two three]]");
    const tool = await say(session, '[[tool echo {"text":"hi"}]]');
    const shell = await say(session, '[[tool bash {"command":"echo hello","description":"greet"}]]');
    assert.match(tool, /<hi>/);
    assert.deepEqual(asked, ["shell"]);
    const before = recorder.lines();
    await session.disconnect();
    const again = await t.resume(client, config);
    const history = await say(again.session, "history");
    assert.match(history, /^History: \[\[say one two three\]\] \|/);
    return { version: (await client.getStatus()).version, deltas, tool, shell, before, history };
  },
});
