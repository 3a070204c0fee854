// `make users`: many users at once, each with an SDK connection and a CLI process of their own, two turns each
// against the scripted model. Prints memory and the time from connect to the first delta; fails on any error.
//
//   node loadtest/scale/users.mjs [--users N] [--over SECONDS] [--profile release|debug] [--json]
//
// All come at once, unless --over spreads their arrival.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

import { Interrupted, launch, runtimes, withPrograms } from "../demo/launch.mjs";
import { cpu, kilobytes, pss, quantile, sum } from "./measure.mjs";

/** After its first turn a `copilot-runtime` keeps about 51 MB. */
const MB_EACH = 55;
const TURN_MS = 180_000;

const { values: options } = parseArgs({
  options: {
    users: { type: "string", default: "200" },
    over: { type: "string", default: "0" },
    profile: { type: "string", default: "release" },
    json: { type: "boolean", default: false },
  },
});
const [count, over] = [Number(options.users), Number(options.over)];
if (!Number.isInteger(count) || count < 1) throw new Error("--users must be a whole number above 0");
if (!(over >= 0)) throw new Error("--over must be a number of seconds");

/** One user's connection, session and two turns; the client stays connected. */
async function visit(user, address, baseUrl, clients) {
  const since = performance.now();
  const client = new CopilotClient({ connection: RuntimeConnection.forUri(address, { connectionToken: user }) });
  clients.push(client);
  await client.start();
  const provider = { type: "openai", baseUrl, apiKey: "not-needed" };
  const session = await client.createSession({ model: "scripted", provider, streaming: true, onPermissionRequest: approveAll });
  let first;
  session.on("assistant.message_delta", () => (first ??= performance.now()));
  const answer = await session.sendAndWait({ prompt: `[[say hello ${user}]]` }, TURN_MS);
  assert.equal(answer?.data.content, `hello ${user}`);
  const firstDeltaMs = first - since;
  [first] = [undefined];
  const asked = performance.now();
  const recalled = await session.sendAndWait({ prompt: "history" }, TURN_MS);
  assert.equal(recalled?.data.content, `History: [[say hello ${user}]]`);
  return { firstDeltaMs, secondTurnMs: first - asked };
}

async function measure(dir) {
  const config = join(dir, "jetway.toml");
  writeFileSync(
    config,
    `[listen]\nsdk = "127.0.0.1:0"\nhttp = "off"\nadmin = "off"\n` +
      `[pool.process]\nstate_dir = "${join(dir, "state")}"\nmax_processes = ${count}\nmemory_budget = "100%"\n` +
      // All of them start at once here, on however few cores.
      `start_timeout = "2m"\n` +
      `[tenants.default]\nmax_processes = ${count}\nmax_concurrent_turns = ${count}\nmax_active_sessions = ${count}\n` +
      `requests_per_second = ${count * 10}\n`,
  );
  const launchOptions = { profile: options.profile };
  const model = await launch("scripted-model", [], ["scripted model"], launchOptions);
  const jetway = await launch("jetway", ["serve", "--config", config], ["sdk"], launchOptions);

  const clients = [];
  const since = performance.now();
  const visits = Array.from({ length: count }, async (_, n) => {
    await setTimeout((n * over * 1000) / count);
    return visit(`user-${n}`, jetway.found.sdk, model.found["scripted model"], clients);
  });
  const outcomes = await Promise.allSettled(visits);
  const wallMs = performance.now() - since;
  const processes = runtimes(jetway.pid);
  const memory = processes.map(pss);
  const jetwayMb = pss(jetway.pid);
  const own = process.cpuUsage();
  const seconds = {
    clis: sum(processes.map(cpu)),
    jetway: cpu(jetway.pid),
    model: cpu(model.pid),
    clients: (own.user + own.system) / 1e6,
  };
  await Promise.allSettled(clients.map((client) => client.stop()));

  const done = outcomes.filter((each) => each.status === "fulfilled").map((each) => each.value);
  const errors = outcomes.filter((each) => each.status === "rejected").map((each) => String(each.reason));
  const [first, second] = [done.map((each) => each.firstDeltaMs), done.map((each) => each.secondTurnMs)];
  const ms = (values) => ({ p50: Math.round(quantile(values, 0.5)), p99: Math.round(quantile(values, 0.99)) });
  return {
    users: count,
    over_s: over,
    turns: done.length * 2,
    errors,
    processes: processes.length,
    wall_s: Number((wallMs / 1000).toFixed(1)),
    cpu_s: Object.fromEntries(Object.entries(seconds).map(([who, spent]) => [who, Number(spent.toFixed(1))])),
    pss_total_mb: Math.round(sum(memory)),
    pss_each_mb: { p50: Math.round(quantile(memory, 0.5)), max: Math.round(Math.max(...memory)) },
    jetway_pss_mb: Math.round(jetwayMb),
    connect_to_first_delta_ms: ms(first),
    second_turn_to_first_delta_ms: ms(second),
  };
}

function show(result) {
  const { users, turns, processes, connect_to_first_delta_ms: cold, second_turn_to_first_delta_ms: warm } = result;
  const spent = result.cpu_s;
  const arrival = over ? `over ${over} s` : "at once";
  console.log(`
${users} users ${arrival}, each with a CLI process of their own, two turns each

  turns                        ${turns} in ${result.wall_s} s, ${result.errors.length} errors
  CLI processes                ${processes}
  their memory together (PSS)  ${result.pss_total_mb} MB; one: ${result.pss_each_mb.p50} MB, at most ${result.pss_each_mb.max} MB
  Jetway's own memory          ${result.jetway_pss_mb} MB
  processor time               CLIs ${spent.clis} s, Jetway ${spent.jetway} s, clients ${spent.clients} s, model ${spent.model} s
  connect → first delta        p50 ${cold.p50} ms, p99 ${cold.p99} ms (the CLI's start included)
  second turn → first delta    p50 ${warm.p50} ms, p99 ${warm.p99} ms`);
  for (const error of [...new Set(result.errors)].slice(0, 10)) console.log(`  error: ${error}`);
}

const available = kilobytes("/proc/meminfo", "MemAvailable") / 1024;
if (count * MB_EACH > available) {
  console.error(`${count} users need about ${count * MB_EACH} MB, ${Math.round(available)} MB are free: --users N`);
  process.exit(1);
}
const dir = mkdtempSync(join(tmpdir(), "jetway-users-"));
try {
  const result = await withPrograms(() => measure(dir));
  if (options.json) console.log(JSON.stringify(result));
  else show(result);
  process.exitCode = result.errors.length === 0 && result.processes === count ? 0 : 1;
} catch (error) {
  if (!(error instanceof Interrupted)) console.error(error);
  process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
}
process.exit();
