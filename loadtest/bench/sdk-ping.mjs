// Times `client.ping` of the official SDK; prints {"p50_ms", "p99_ms", "count"}.
//
//   node sdk-ping.mjs <directory with node_modules> <host:port> <count>

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [directory, address, count] = process.argv.slice(2);
const require = createRequire(join(directory, "package.json"));
const sdk = await import(pathToFileURL(require.resolve("@github/copilot-sdk")).href);
const { CopilotClient, RuntimeConnection } = sdk.CopilotClient ? sdk : sdk.default;

const client = new CopilotClient({ connection: RuntimeConnection.forUri(address) });
await client.start();
for (let i = 0; i < 5; i++) await client.ping("warm");
const times = [];
for (let i = 0; i < Number(count); i++) {
  const begun = performance.now();
  await client.ping("bench");
  times.push(performance.now() - begun);
}
times.sort((a, b) => a - b);
const at = (q) => times[Math.min(times.length - 1, Math.floor(times.length * q))];
console.log(JSON.stringify({ p50_ms: at(0.5), p99_ms: at(0.99), count: times.length }));
// The server is not ours to stop.
process.exit(0);
