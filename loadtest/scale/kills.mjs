// `make kills`: every second `kill -9` of one CLI process in ten, under users who take turns all the time, each with an
// SDK connection and a process of their own. No acknowledged turn may be lost, and none may run twice.
//
//   node loadtest/scale/kills.mjs [--users N] [--seconds N] [--over SECONDS] [--profile release|debug] [--json]
//
// Every prompt has a nonce. Three ledgers are joined by it:
//
// * the clients': a turn whose `session.send` was answered has ended once: with `session.idle` and an answer, or with
//   one `session.error` (`turn_indeterminate`, or why it failed). One whose send was not answered has an error for it;
// * the model's: no nonce was asked for twice; that of a completed turn was answered whole;
// * `events.jsonl` of every home: a completed turn's prompt stands in it once, an answer behind it; no prompt twice.
//
// Timed from the kill: until the client whose turn ran hears of it (at most 2 s), and until the first delta of that
// user's next turn, which is sent as soon as the last one's end is known (at most 5 s). All clients are in this process:
// by how much its own events came too late stands beside.

import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

import { Interrupted, launch, runtimes, withPrograms } from "../demo/launch.mjs";
import { owner, quantile } from "./measure.mjs";

const KILL_EVERY_MS = 1_000;
/** Of the processes that run, each time. */
const SHARE = 10;
const HEARD_MS = 2_000;
const AGAIN_MS = 5_000;
/** The longest that a turn may take to end, on however slow a machine. */
const TURN_MS = 120_000;
/** Between an end and the next prompt a second end would be seen. */
const PAUSE_MS = 250;
/** A turn streams for about a second, so that most kills hit one that runs. */
const STREAM = "[[stream 10 20 100]]";

const { values: options } = parseArgs({
  options: {
    users: { type: "string", default: "200" },
    seconds: { type: "string", default: "60" },
    over: { type: "string", default: "60" },
    profile: { type: "string", default: "release" },
    json: { type: "boolean", default: false },
  },
});
const [users, seconds, over] = [options.users, options.seconds, options.over].map(Number);
for (const value of [users, seconds]) if (!(value > 0)) throw new Error("numbers above 0, please");

class User {
  turns = [];
  #wake = () => {};

  constructor(n) {
    this.name = `user-${n}`;
  }

  async join(address, baseUrl) {
    const connection = RuntimeConnection.forUri(address, { connectionToken: this.name });
    this.client = new CopilotClient({ connection });
    await this.client.start();
    const provider = { type: "openai", baseUrl, apiKey: "not-needed" };
    const settings = { model: "scripted", provider, streaming: true, onPermissionRequest: approveAll };
    this.session = await this.client.createSession(settings);
    this.session.on((event) => this.#hear(event));
    await this.turn();
  }

  /** The turn that runs. */
  get running() {
    const last = this.turns.at(-1);
    return last && last.ends.length === 0 && !last.refused ? last : undefined;
  }

  #hear(event) {
    const turn = this.turns.at(-1);
    if (!turn) return;
    if (event.type === "assistant.message_delta") turn.firstDelta ??= performance.now();
    if (event.type === "assistant.message") turn.answered = true;
    if (event.type === "session.idle") this.#end(turn, turn.answered ? "completed" : "empty");
    if (event.type === "session.error") {
      this.#end(turn, event.data.errorType === "turn_indeterminate" ? "indeterminate" : `failed: ${event.data.message}`);
    }
  }

  #end(turn, how) {
    turn.ends.push({ how, at: performance.now() });
    this.#wake();
  }

  /** One turn, to its end. */
  async turn() {
    const turn = { nonce: `${this.name}-${this.turns.length}`, ends: [], acknowledged: false };
    this.turns.push(turn);
    const ended = new Promise((wake) => (this.#wake = wake));
    try {
      await this.session.send({ prompt: `${STREAM} nonce:${turn.nonce}` });
      turn.acknowledged = true;
    } catch (error) {
      turn.refused = `${error.code ?? ""} ${error.message}`;
      return;
    }
    const late = sleep(TURN_MS, "late", { ref: false });
    if ((await Promise.race([ended, late])) === "late") turn.late = true;
  }

  /** Turns, one after the other, until `isOver`. */
  async work(isOver) {
    while (!isOver()) {
      await sleep(PAUSE_MS + Math.random() * PAUSE_MS);
      await this.turn();
    }
  }
}

/** Kills until `until`; what was killed, when, and which turn ran then. */
async function killing(jetway, byName, until) {
  const kills = [];
  while (performance.now() < until) {
    const began = performance.now();
    const pids = runtimes(jetway).sort(() => Math.random() - 0.5);
    for (const pid of pids.slice(0, Math.max(1, Math.round(pids.length / SHARE)))) {
      const user = byName.get(owner(pid));
      const turn = user?.running;
      try {
        process.kill(pid, "SIGKILL");
        if (user) kills.push({ user, at: performance.now(), turn });
      } catch {} // It ended.
    }
    await sleep(Math.max(0, KILL_EVERY_MS - (performance.now() - began)));
  }
  return kills;
}

/** The prompts of a home's sessions, by nonce: how often each stands there, and whether an answer follows. */
function transcript(home) {
  const found = new Map();
  const sessions = join(home, ".copilot/session-state");
  for (const id of readdirSync(sessions)) {
    let lines;
    try {
      lines = readFileSync(join(sessions, id, "events.jsonl"), "utf8").split("\n");
    } catch {
      continue; // A directory of locks.
    }
    let current;
    for (const line of lines.filter(Boolean)) {
      const event = JSON.parse(line);
      if (event.type === "user.message") {
        const nonce = JSON.stringify(event.data).match(/nonce:([\w-]+)/)?.[1];
        current = found.get(nonce) ?? { times: 0, answered: false };
        current.times += 1;
        found.set(nonce, current);
      }
      if (event.type === "assistant.message" && current) current.answered = true;
    }
  }
  return found;
}

/** What is wrong, joining the three ledgers. */
function findings(everyone, model, state) {
  const wrong = { lost: [], twice: [], transcript: [] };
  const asked = new Map();
  for (const { nonce, event } of model) {
    const seen = asked.get(nonce) ?? { began: 0, ended: 0 };
    if (event in seen) seen[event] += 1;
    asked.set(nonce, seen);
  }
  for (const user of everyone) {
    const written = transcript(join(state, "local", user.name));
    for (const turn of user.turns) {
      const { nonce, ends } = turn;
      const [atModel, inFile] = [asked.get(nonce) ?? { began: 0, ended: 0 }, written.get(nonce) ?? { times: 0 }];
      const how = ends.map((end) => end.how).join(", ");
      if (turn.acknowledged && (ends.length === 0 || how === "empty")) wrong.lost.push(`${nonce}: acknowledged, ${how || "no end"}`);
      if (ends.length > 1) wrong.twice.push(`${nonce}: ended ${how}`);
      if (atModel.began > 1) wrong.twice.push(`${nonce}: asked of the model ${atModel.began} times`);
      if (inFile.times > 1) wrong.twice.push(`${nonce}: ${inFile.times} times in events.jsonl`);
      if (how !== "completed") continue;
      if (atModel.ended !== 1) wrong.lost.push(`${nonce}: completed, answered by the model ${atModel.ended} times`);
      if (inFile.times !== 1 || !inFile.answered) wrong.transcript.push(`${nonce}: completed, ${inFile.times} times in events.jsonl`);
    }
  }
  return wrong;
}

/** How long after the kill that ended a turn its user heard, and was answered again. */
function waits(kills) {
  const [heard, again] = [[], []];
  for (const user of new Set(kills.map((kill) => kill.user))) {
    const his = kills.filter((kill) => kill.user === user);
    for (const [n, turn] of user.turns.entries()) {
      const end = turn.ends[0];
      if (end?.how !== "indeterminate") continue;
      // A turn may have waited for a process that was killed as it started: what ended it was the last kill.
      const kill = his.findLast((each) => each.at <= end.at);
      if (!kill) continue;
      heard.push(end.at - kill.at);
      const next = user.turns.slice(n + 1).find((each) => each.firstDelta);
      // Who was killed again meanwhile has that kill to count from.
      if (next && !his.some((each) => each.at > end.at && each.at < next.firstDelta)) again.push(next.firstDelta - kill.at);
    }
  }
  return { heard, again };
}

async function measure(dir) {
  const [config, state] = [join(dir, "jetway.toml"), join(dir, "state")];
  writeFileSync(
    config,
    `[listen]\nsdk = "127.0.0.1:0"\nhttp = "off"\nadmin = "off"\n` +
      `[pool.process]\nstate_dir = "${state}"\nmax_processes = ${users}\nmemory_budget = "100%"\nstart_timeout = "2m"\n` +
      `[tenants.default]\nmax_processes = ${users}\nmax_concurrent_turns = ${users}\nmax_active_sessions = ${users}\n` +
      `requests_per_second = ${users * 100}\n`,
  );
  const launchOptions = { profile: options.profile };
  const model = await launch("scripted-model", [], ["scripted model"], launchOptions);
  const baseUrl = model.found["scripted model"];
  const jetway = await launch("jetway", ["serve", "--config", config], ["sdk"], launchOptions);
  const everyone = Array.from({ length: users }, (_, n) => new User(n));

  const joining = performance.now();
  await Promise.all(
    everyone.map(async (user, n) => {
      await sleep((n * over * 1000) / users);
      await user.join(jetway.found.sdk, baseUrl);
    }),
  );
  options.json || console.log(`${users} users joined in ${Math.round((performance.now() - joining) / 1000)} s; killing for ${seconds} s …`);

  const until = performance.now() + seconds * 1000;
  const late = monitorEventLoopDelay({ resolution: 10 });
  late.enable();
  const working = everyone.map((user) => user.work(() => performance.now() > until));
  const kills = await killing(jetway.pid, new Map(everyone.map((user) => [user.name, user])), until);
  await Promise.all(working);
  late.disable();
  // One more for everybody: nobody's session was left unusable. Whoever was killed last may still be starting.
  const last = performance.now() + AGAIN_MS;
  await Promise.all(
    everyone.map(async (user) => {
      do await user.turn();
      while (user.turns.at(-1).refused && performance.now() < last && (await sleep(PAUSE_MS, true)));
    }),
  );
  const unusable = everyone.filter((user) => user.turns.at(-1).ends[0]?.how !== "completed").map((user) => user.name);
  const ledger = (await (await fetch(new URL("/ledger", baseUrl))).text()).split("\n").filter(Boolean);
  await Promise.allSettled(everyone.map((user) => user.client.stop()));
  process.kill(jetway.pid, "SIGTERM");
  await jetway.exited;

  const wrong = findings(everyone, ledger.map((line) => JSON.parse(line)), state);
  const turns = everyone.flatMap((user) => user.turns);
  const count = (how) => turns.filter((turn) => turn.ends[0]?.how === how).length;
  const { heard, again } = waits(kills);
  const ms = (values) =>
    values.length ? { of: values.length, p50: Math.round(quantile(values, 0.5)), p99: Math.round(quantile(values, 0.99)), max: Math.round(Math.max(...values)) } : { of: 0 };
  return {
    users,
    seconds,
    kills: kills.length,
    kills_in_mid_turn: kills.filter((kill) => kill.turn).length,
    turns: turns.length,
    acknowledged: turns.filter((turn) => turn.acknowledged).length,
    completed: count("completed"),
    indeterminate: count("indeterminate"),
    failed: turns.filter((turn) => turn.ends[0]?.how.startsWith("failed")).map((turn) => turn.ends[0].how),
    not_acknowledged: turns.filter((turn) => turn.refused).map((turn) => turn.refused),
    unusable,
    ...wrong,
    clients_late_ms: { p50: Math.round(late.percentile(50) / 1e6), p99: Math.round(late.percentile(99) / 1e6) },
    heard_ms: ms(heard),
    again_ms: ms(again),
  };
}

function show(result) {
  const { heard_ms: heard, again_ms: again } = result;
  console.log(`
kill -9 of one CLI process in ten every second for ${result.seconds} s, ${result.users} users: ${result.kills} kills, ${result.kills_in_mid_turn} in mid-turn

  turns                 ${result.turns}: ${result.acknowledged} acknowledged, of all ${result.completed} completed, ${result.indeterminate} indeterminate, ${result.failed.length} failed
  lost                  ${result.lost.length}
  twice                 ${result.twice.length}
  completed, not in the transcript   ${result.transcript.length}
  not acknowledged      ${result.not_acknowledged.length}
  unusable sessions     ${result.unusable.length}
  the clients themselves were late by p50 ${result.clients_late_ms.p50} ms, p99 ${result.clients_late_ms.p99} ms
  kill → heard          p50 ${heard.p50} ms, p99 ${heard.p99} ms, at most ${heard.max} ms (of ${heard.of}; ≤ ${HEARD_MS})
  kill → next delta     p50 ${again.p50} ms, p99 ${again.p99} ms, at most ${again.max} ms (of ${again.of}; ≤ ${AGAIN_MS})`);
  for (const what of ["lost", "twice", "transcript", "unusable", "failed", "not_acknowledged"]) {
    const counts = new Map();
    for (const line of result[what]) counts.set(line, (counts.get(line) ?? 0) + 1);
    for (const [line, times] of [...counts].slice(0, 10)) console.log(`  ${what}: ${line}${times > 1 ? ` (${times} times)` : ""}`);
  }
}

const dir = mkdtempSync(join(tmpdir(), "jetway-kills-"));
try {
  const result = await withPrograms(() => measure(dir));
  if (options.json) console.log(JSON.stringify(result));
  else show(result);
  const clean = ["lost", "twice", "transcript", "unusable", "failed"].every((what) => result[what].length === 0);
  const inTime = result.heard_ms.of > 0 && result.heard_ms.max <= HEARD_MS && result.again_ms.max <= AGAIN_MS;
  process.exitCode = clean && inTime ? 0 : 1;
} catch (error) {
  if (!(error instanceof Interrupted)) console.error(error);
  process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
}
process.exit();
