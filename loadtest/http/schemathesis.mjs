// `make schemathesis`: requests that the contract allows, and requests that it forbids, by the thousand. Nothing may
// be answered otherwise than the contract says. The CLI server is the stub: this is about HTTP.
//
//   node loadtest/http/schemathesis.mjs [OPTIONS OF `schemathesis run`]

import { spawn, spawnSync } from "node:child_process";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";

import { root } from "../demo/launch.mjs";
import { main } from "./gateway.mjs";

const data = join(process.env.XDG_DATA_HOME ?? join(homedir(), ".local/share"), "jetway");
const program = join(data, "schemathesis/bin/schemathesis");
const built = (name) => join(root, "target/debug", name);

const { stdout, stderr } = spawnSync(built("jetway"), ["key", "new", "--tenant", "acme"], { encoding: "utf8" });
const [key] = stdout.match(/jw_\w+/);
const [entry] = (stdout + stderr).match(/\[\[auth\.keys\]\]\n(\w+ = .*\n)+/);
const more = `${entry}
[tenants.acme]
requests_per_second = 100000
max_active_sessions = 100000
`;

await main(async ({ http }) => {
  const options = [
    ...["--config-file", join(root, "loadtest/http/schemathesis.toml"), "run", `http://${http}/api/v1/openapi.json`],
    ...["--header", `Authorization: Bearer ${key}`, "--header", "Jetway-User: ada"],
    // A stream without an end, and no HTTP.
    ...["--exclude-operation-id", "session_events", "--exclude-operation-id", "lifecycle_events", "--exclude-operation-id", "session_websocket"],
    ...process.argv.slice(2),
  ];
  const child = spawn(program, options, { cwd: tmpdir(), stdio: "inherit" });
  const code = await new Promise((ended, failed) => child.once("error", failed).once("exit", ended));
  if (code !== 0) throw new Error(`schemathesis ended with ${code}`);
}, { command: [built("stub-cli"), "--cloud", "10"], more });
