// `make room`: people on several gateways take turns in one shared session of a real `copilot-runtime`, by the official
// SDK. Every prompt has a nonce; in the end the session's own file, the model's ledger and what each client saw must
// agree: every prompt once, no two turns at a time, everyone saw everything and who began it.
//
//   node loadtest/scale/room.mjs [--turns N] [--users N] [--gateways N] [--profile release|debug]

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

import { Interrupted, launch, withPrograms } from "../demo/launch.mjs";
import { freePort, reachable } from "../demo/ports.mjs";
import { runtimePath } from "../sdk-ts/processes.mjs";
import { quantile } from "./measure.mjs";

/** The longest that a turn may take from its prompt on, all turns before it included. */
const TURN_MS = 120_000;
const TOKEN = "room-token";
/** Events of a client that are shown when a turn does not end. */
const SHOWN = 30;

const { values: options } = parseArgs({
  options: {
    turns: { type: "string", default: "200" },
    users: { type: "string", default: "8" },
    gateways: { type: "string", default: "2" },
    profile: { type: "string", default: "release" },
  },
});
const number = (name) => {
  const value = Number(options[name]);
  if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} must be a whole number above 0`);
  return value;
};
const [turns, users, gateways] = ["turns", "users", "gateways"].map(number);

/** A Redis, a runtime, a model, and the gateways before them. */
async function stage(dir) {
  const launchOptions = { profile: options.profile };
  const model = await launch("scripted-model", [], ["scripted model"], launchOptions);
  const redis = await freePort();
  await launch("/usr/bin/redis-server", ["--port", `${redis}`, "--save", "", "--dir", dir], [], launchOptions);
  await reachable(redis);
  const home = join(dir, "copilot");
  const env = { PATH: process.env.PATH, HOME: dir, COPILOT_HOME: home, COPILOT_CONNECTION_TOKEN: TOKEN };
  const runtime = await launch(runtimePath(), ["--headless", "--port", "0"], ["CLI server"], { env });
  const config = join(dir, "jetway.toml");
  writeFileSync(
    config,
    `[listen]\nsdk = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n` +
      `[directory]\nstore = "redis"\n[redis]\nurl = "redis://127.0.0.1:${redis}"\n` +
      `[locks]\nstore = "redis"\nwait = "2m"\n` +
      `[pool]\nmode = "fleet"\n[[pool.fleet]]\n` +
      `address = "127.0.0.1:${runtime.found["CLI server"]}"\ntoken_env = "CLI_TOKEN"\n` +
      `[tenants.default]\nrequests_per_second = 10000\n`,
  );
  const jetway = { ...launchOptions, env: { ...process.env, CLI_TOKEN: TOKEN } };
  const all = Array.from({ length: gateways }, () =>
    launch("jetway", ["serve", "--config", config], ["sdk", "http", "admin"], jetway),
  );
  const found = (await Promise.all(all)).map((gateway) => gateway.found);
  return { model: model.found["scripted model"], gateways: found, home };
}

/** Somebody in the room, and all that their client has seen. */
class Person {
  events = [];
  #waiting = new Set();

  constructor(user, address) {
    this.user = user;
    const connection = RuntimeConnection.forUri(address, { connectionToken: user });
    this.client = new CopilotClient({ connection });
  }

  take = (event) => {
    this.events.push(event);
    for (const look of this.#waiting) look();
  };

  of(type) {
    return this.events.filter((event) => event.type === type);
  }

  /** Waits until `probe` returns something truthy; looks whenever an event comes. */
  async until(probe, what) {
    let look;
    const found = new Promise((resolve) => {
      look = () => {
        const value = probe();
        if (value) resolve(value);
      };
    });
    this.#waiting.add(look);
    look();
    const late = new AbortController();
    const timer = sleep(TURN_MS, undefined, { signal: late.signal }).then(
      () => assert.fail(`${this.user}: not within ${TURN_MS / 1000} s: ${what}`),
      () => {},
    );
    try {
      return await Promise.race([found, timer]);
    } finally {
      late.abort();
      this.#waiting.delete(look);
    }
  }

  /** A whole turn: the session goes idle after the prompt came back. Returns how long it waited for its turn. */
  async turn(prompt) {
    const since = performance.now();
    const messageId = await this.session.send({ prompt });
    const waited = performance.now() - since;
    await this.until(() => {
      const begun = this.events.findIndex((e) => e.type === "user.message" && e.data.messageId === messageId);
      return begun >= 0 && this.events.slice(begun).some((event) => event.type === "session.idle");
    }, `the end of ${prompt}`);
    return waited;
  }
}

/** The people, attached to one session that the first of them has made and shares. */
async function gather(stand) {
  const people = Array.from(
    { length: users },
    (_, n) => new Person(`user-${n}`, stand.gateways[n % gateways].sdk),
  );
  const settings = {
    model: "scripted",
    provider: { type: "openai", baseUrl: stand.model, apiKey: "not-needed" },
    streaming: true,
    onPermissionRequest: approveAll,
  };
  const [owner, ...others] = people;
  await owner.client.start();
  owner.session = await owner.client.createSession({ ...settings, onEvent: owner.take });
  await owner.turn("[[say welcome]]");
  const id = owner.session.sessionId;
  for (const person of others) {
    const url = `http://${stand.gateways[0].http}/api/v1/sessions/${id}/members/${person.user}`;
    const headers = { "Jetway-User": owner.user, "Content-Type": "application/json" };
    const answer = await fetch(url, { method: "PUT", headers, body: '{"role":"member"}' });
    assert.ok(answer.ok, `${answer.status} ${await answer.text()}`);
    await person.client.start();
    person.session = await person.client.resumeSession(id, { ...settings, onEvent: person.take });
  }
  // A Redis that is new grants nothing for the time of a lease, lest it be one that has forgotten who holds what.
  await others.at(-1).turn("[[say at last]]");
  return people;
}

/** What the session's file says of the turns, in its order. */
function persisted(home, id) {
  const text = readFileSync(join(home, "session-state", id, "events.jsonl"), "utf8");
  return text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}

const nonceOf = (text) => /nonce:([A-Za-z0-9-]+)/.exec(text ?? "")?.[1];

/** Each prompt stands in the session's file once, begun when nothing else ran and answered before the next. */
function checkFile(events, nonces) {
  const told = events.filter((e) => e.type === "user.message" && nonceOf(e.data.content));
  assert.deepEqual(told.map((e) => nonceOf(e.data.content)).sort(), [...nonces].sort(), "each prompt once");
  const queued = told.filter((e) => e.data.delivery !== "idle").map((e) => nonceOf(e.data.content));
  assert.deepEqual(queued, [], "prompts that came while another turn ran");
  let open;
  for (const event of events) {
    if (event.type === "user.message") {
      assert.equal(open, undefined, `${nonceOf(event.data.content)} began before ${open} had ended`);
      open = nonceOf(event.data.content) ?? event.id;
    }
    if (event.type === "assistant.turn_end") open = undefined;
  }
  return told.map((e) => nonceOf(e.data.content));
}

/** The model was asked once for each, and for one after the other. */
async function checkModel(model, order) {
  const text = await (await fetch(new URL("/ledger", model))).text();
  const lines = text.trim().split("\n").map((line) => JSON.parse(line));
  const begun = lines.filter((line) => line.nonce && line.event === "began");
  assert.deepEqual(begun.map((line) => line.nonce), order, "what the model was asked, in the file's order");
  let open;
  for (const line of lines.filter((each) => each.nonce)) {
    if (line.event === "began") {
      assert.equal(open, undefined, `the model was asked ${line.nonce} while ${open} was under way`);
      open = line.nonce;
    } else {
      assert.equal(line.event, "ended", `${line.nonce} ${line.event}`);
      open = undefined;
    }
  }
}

/** Between two turns of somebody there are a few of each of the others': gateways hand the session to and fro. */
function checkFair(order) {
  const last = new Map();
  for (const [at, nonce] of order.entries()) {
    const [user] = nonce.split("-turn-");
    const between = at - (last.get(user) ?? -1) - 1;
    assert.ok(between <= 3 * users, `${between} turns of others before ${nonce}: ${order.join(" ")}`);
    last.set(user, at);
  }
}

/** Everyone saw every event, in the same order, and heard whose each turn was. */
function checkClients(people, events, order) {
  const own = new Set(order);
  const first = events.findIndex((e) => e.type === "user.message" && own.has(nonceOf(e.data.content)));
  // What is written of somebody's coming is told before they are there.
  const ids = events.slice(first).map((event) => event.id);
  const whose = order.map((nonce) => nonce.split("-turn-")[0]);
  for (const person of people) {
    const seen = new Set();
    // A runtime may tell somebody twice that they have come.
    const told = person.events.filter(({ type }) => type !== "session.resume");
    const twice = told.filter(({ id }) => seen.has(id) || !seen.add(id)).map(({ type }) => type);
    assert.deepEqual(twice, [], `${person.user} saw events twice`);
    assert.deepEqual(ids.filter((id) => !seen.has(id)), [], `${person.user} missed events`);
    const prompts = person.of("user.message").map((e) => nonceOf(e.data.content));
    assert.deepEqual(prompts.filter((nonce) => own.has(nonce)), order, `${person.user} saw the turns in another order`);
    const started = person.of("session.info").filter((e) => e.data.infoType === "jetway.turn_started");
    assert.deepEqual(started.map((e) => e.data.message).slice(-order.length), whose, `${person.user}: whose turns`);
  }
}

/** What the gateways and the clients know, when a turn does not end. */
async function dump(stand, people) {
  for (const { admin } of stand.gateways) {
    const page = await fetch(`http://${admin}/admin/v1/status`).then((answer) => answer.text(), String);
    console.error(`${admin}: ${page}`);
  }
  for (const { user, events } of people) {
    const last = events.slice(-SHOWN).map((e) => e.type + (e.data.messageId ? `(${e.data.messageId})` : ""));
    console.error(`${user}: ${events.length} events, the last: ${last.join(" ")}`);
  }
}

async function run(dir) {
  const stand = await stage(dir);
  const people = await gather(stand);
  try {
    const since = performance.now();
    const asked = people.map(async (person, n) => {
      const waits = [];
      for (let turn = n; turn < turns; turn += users) {
        const nonce = `${person.user}-turn-${turn}`;
        waits.push({ nonce, ms: await person.turn(`[[say ok]] nonce:${nonce}`) });
      }
      return waits;
    });
    const waits = (await Promise.all(asked)).flat();
    const seconds = (performance.now() - since) / 1000;
    // Whoever waits does not hear of an idle before their own turn's.
    const all = ({ events }) => {
      const last = events.findLastIndex((event) => event.type === "user.message");
      const turn = events.slice(last);
      const count = events.filter((event) => nonceOf(event.data.content)).length;
      return count >= turns && turn.some((event) => event.type === "session.idle");
    };
    for (const person of people) await person.until(() => all(person), "what the others have seen");
    const events = persisted(stand.home, people[0].session.sessionId);
    const order = checkFile(events, waits.map(({ nonce }) => nonce));
    checkFair(order);
    await checkModel(stand.model, order);
    checkClients(people, events, order);
    const ms = waits.map(({ ms }) => ms);
    console.log(
      `ROOM: ${order.length} turns of ${users} people on ${gateways} gateways in one session of a real runtime, ` +
        `${seconds.toFixed(1)} s: each prompt once, 0 overlaps, ` +
        `${events.length} events in its file, all seen by all; ` +
        `a turn began after p50 ${Math.round(quantile(ms, 0.5))} ms, p99 ${Math.round(quantile(ms, 0.99))} ms`,
    );
  } catch (error) {
    await dump(stand, people);
    throw error;
  } finally {
    await Promise.allSettled(people.map(({ client }) => client.forceStop()));
  }
}

const dir = mkdtempSync(join(tmpdir(), "jetway-room-"));
try {
  await withPrograms(() => run(dir));
} catch (error) {
  if (!(error instanceof Interrupted)) console.error(error);
  process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
}
process.exit();
