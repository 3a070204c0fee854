// `make bench-density`: thousands of users attached by SDK connections, each with a session and a process of their own
// for every turn, inside a memory budget. Samples the processes' proportional memory all along, then has users take
// turns at random, and tells those whose process was up from those whose process had to be brought back.
//
//   node loadtest/scale/density.mjs [--users N] [--budget-mb N] [--seconds N] [--rate N] [--profile P] [--json]
//
// On a machine with less memory it takes fewer users and a smaller budget, and says so. The rate is what a machine can
// start CLIs for unless it is given, two a second for each processor: beyond that, times are those of a line.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

import { Interrupted, launch, runtimes, withPrograms } from "../demo/launch.mjs";
import { cpu, kilobytes, owner, pss, quantile, sum } from "./measure.mjs";

const TURN_MS = 180_000;
/** What clients, model and system need beside the CLI processes. */
const BESIDE_MB = 4096;
const SAMPLE_MS = 5_000;
const REST_MS = 20_000;

const { values: options } = parseArgs({
  options: {
    users: { type: "string", default: "2000" },
    "budget-mb": { type: "string", default: "8192" },
    seconds: { type: "string", default: "300" },
    rate: { type: "string", default: String(2 * availableParallelism()) },
    profile: { type: "string", default: "release" },
    json: { type: "boolean", default: false },
  },
});
let [users, budget] = [Number(options.users), Number(options["budget-mb"])];
const [seconds, rate] = [Number(options.seconds), Number(options.rate)];
for (const value of [users, budget, seconds, rate]) if (!(value > 0)) throw new Error("numbers above 0, please");

const free = kilobytes("/proc/meminfo", "MemAvailable") / 1024;
if (free < budget + BESIDE_MB) {
  const share = Math.max(0.05, (free - BESIDE_MB) / budget);
  [users, budget] = [Math.max(10, Math.floor(users * share)), Math.floor(budget * share)];
  console.error(`only ${Math.round(free)} MB are free: ${users} users in ${budget} MB instead`);
}

const say = (line) => options.json || console.log(line);

/** The users whose processes run, by the home that stands in each process's environment. */
class Processes {
  #user = new Map();

  constructor(jetway) {
    this.jetway = jetway;
  }

  pids() {
    const pids = runtimes(this.jetway);
    const gone = new Set(this.#user.keys());
    for (const pid of pids) {
      gone.delete(pid);
      if (!this.#user.has(pid)) this.#user.set(pid, owner(pid));
    }
    for (const pid of gone) this.#user.delete(pid);
    return pids;
  }

  up() {
    this.pids();
    return new Set(this.#user.values());
  }
}

class User {
  constructor(n) {
    this.name = `user-${n}`;
    this.busy = false;
  }

  async join(address, baseUrl) {
    const connection = RuntimeConnection.forUri(address, { connectionToken: this.name });
    this.client = new CopilotClient({ connection });
    await this.client.start();
    const provider = { type: "openai", baseUrl, apiKey: "not-needed" };
    const settings = { model: "scripted", provider, streaming: true, onPermissionRequest: approveAll };
    this.session = await this.client.createSession(settings);
    return this.turn(`joined ${this.name}`);
  }

  /** Milliseconds from the prompt to the first delta. */
  async turn(text) {
    let first;
    const off = this.session.on("assistant.message_delta", () => (first ??= performance.now()));
    const since = performance.now();
    try {
      const answer = await this.session.sendAndWait({ prompt: `[[say ${text}]]` }, TURN_MS);
      assert.equal(answer?.data.content, text);
      return first - since;
    } finally {
      off();
    }
  }
}

/** A metric of Jetway's, summed over its labels. */
async function metric(admin, name) {
  const text = await (await fetch(`http://${admin}/metrics`)).text();
  const lines = text.split("\n").filter((line) => line.startsWith(name) && /^[ {]/.test(line.slice(name.length)));
  return sum(lines.map((line) => Number(line.split(" ").at(-1))));
}

async function measure(dir) {
  const config = join(dir, "jetway.toml");
  writeFileSync(
    config,
    `[listen]\nsdk = "127.0.0.1:0"\nhttp = "off"\nadmin = "127.0.0.1:0"\n` +
      `[pool.process]\nstate_dir = "${join(dir, "state")}"\nmax_processes = ${users}\nmemory_budget = "${budget}MiB"\n` +
      `idle_timeout = "1h"\nstart_timeout = "1m"\n` +
      `[tenants.default]\nmax_processes = ${users}\nmax_concurrent_turns = ${users}\nmax_active_sessions = ${users}\n` +
      `requests_per_second = ${users * 10}\n`,
  );
  const launchOptions = { profile: options.profile };
  const model = await launch("scripted-model", [], ["scripted model"], launchOptions);
  const jetway = await launch("jetway", ["serve", "--config", config], ["sdk", "admin"], launchOptions);
  const processes = new Processes(jetway.pid);
  const everyone = Array.from({ length: users }, (_, n) => new User(n));
  const errors = [];

  const samples = [];
  let sampling = true;
  const sampler = (async () => {
    while (sampling) {
      const pids = processes.pids();
      samples.push({ mb: sum(pids.map(pss)), processes: pids.length });
      await sleep(SAMPLE_MS);
    }
  })();

  /** Begins `count` of something, `rate` a second, and waits for all. */
  const paced = async (count, begin) => {
    const all = [];
    for (let n = 0; n < count; n++) {
      all.push(begin(n).catch((error) => errors.push(String(error?.message ?? error))));
      await sleep(1000 / rate);
      if (n % 100 === 99) say(`  ${n + 1} of ${count}; ${samples.at(-1)?.processes} processes, ${Math.round(samples.at(-1)?.mb)} MB`);
    }
    await Promise.all(all);
  };

  say(`${users} users join, ${rate} a second …`);
  await paced(users, (n) => everyone[n].join(jetway.found.sdk, model.found["scripted model"]));

  say("at rest …");
  const spent = () => ({ clis: sum(processes.pids().map(cpu)), jetway: cpu(jetway.pid) });
  const before = spent();
  await sleep(REST_MS);
  const after = spent();
  const percent = (who) => Number((((after[who] - before[who]) / (REST_MS / 1000)) * 100).toFixed(2));
  const atRest = { clis_percent: percent("clis"), jetway_percent: percent("jetway"), jetway_mb: Math.round(pss(jetway.pid)) };

  say(`turns at random for ${seconds} s …`);
  const [up, back] = [[], []];
  const count = Math.floor(seconds * rate);
  await paced(count, async (n) => {
    const free = everyone.filter((user) => !user.busy && user.session);
    const user = free[Math.floor(Math.random() * free.length)];
    if (!user) return;
    user.busy = true;
    const was = processes.up().has(user.name) ? up : back;
    try {
      was.push(await user.turn(`turn ${n} of ${user.name}`));
    } finally {
      user.busy = false;
    }
  });

  sampling = false;
  await sampler;
  const [evictions, resumes] = [await metric(jetway.found.admin, "jetway_evictions_total"), await metric(jetway.found.admin, "jetway_resumes_total")];
  const most = Math.max(...samples.map((sample) => sample.mb));
  await Promise.allSettled(everyone.map((user) => user.client?.stop()));
  const ms = (values) => (values.length ? { turns: values.length, p50: Math.round(quantile(values, 0.5)), p99: Math.round(quantile(values, 0.99)) } : { turns: 0 });
  return {
    users,
    budget_mb: budget,
    errors,
    most_mb: Math.round(most),
    most_processes: Math.max(...samples.map((sample) => sample.processes)),
    samples: samples.length,
    at_rest: atRest,
    evictions,
    resumes,
    first_delta_process_up_ms: ms(up),
    first_delta_brought_back_ms: ms(back),
  };
}

function show(result) {
  const { first_delta_process_up_ms: up, first_delta_brought_back_ms: back, at_rest: rest } = result;
  const added = up.turns && back.turns ? `; added p50 ${back.p50 - up.p50} ms (aim: 100)` : "";
  console.log(`
${result.users} users attached, a session each, a process of their own for every turn, memory_budget ${result.budget_mb} MB

  errors                        ${result.errors.length}
  the processes' memory (PSS)   at most ${result.most_mb} MB in ${result.samples} samples, ${((result.most_mb / result.budget_mb) * 100).toFixed(1)} % of the budget
  processes                     at most ${result.most_processes}
  evictions, resumes            ${result.evictions}, ${result.resumes}
  at rest                       CLIs ${rest.clis_percent} % of a core, Jetway ${rest.jetway_percent} % and ${rest.jetway_mb} MB
  prompt → first delta          process up: p50 ${up.p50} ms, p99 ${up.p99} ms (${up.turns} turns)
                                brought back: p50 ${back.p50} ms, p99 ${back.p99} ms (${back.turns} turns)${added}`);
  for (const error of [...new Set(result.errors)].slice(0, 10)) console.log(`  error: ${error}`);
}

const dir = mkdtempSync(join(tmpdir(), "jetway-density-"));
try {
  const result = await withPrograms(() => measure(dir));
  if (options.json) console.log(JSON.stringify(result));
  else show(result);
  process.exitCode = result.errors.length === 0 && result.most_mb <= result.budget_mb * 1.05 ? 0 : 1;
} catch (error) {
  if (!(error instanceof Interrupted)) console.error(error);
  process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
}
process.exit();
