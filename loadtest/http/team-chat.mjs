// `make team-chat`: a team in one session over HTTP, half of it at each of two gateways before one real CLI server. Turns
// are in strict order: one at a time, each answered for itself, in the order in which they were granted.
//
//   node loadtest/http/team-chat.mjs [--users N] [--turns N]

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";

import { Interrupted, launch, withPrograms } from "../demo/launch.mjs";
import { freePort, reachable } from "../demo/ports.mjs";
import { runtimePath } from "../sdk-ts/processes.mjs";

const { values } = parseArgs({
  options: { users: { type: "string", default: "20" }, turns: { type: "string", default: "5" } },
});
const USERS = Number(values.users);
const TURNS = Number(values.turns);
/** How long all of it may take on a busy machine. */
const PATIENCE_MS = 300_000;
const team = Array.from({ length: USERS }, (_, n) => `user-${n}`);

/** A Redis, a real CLI server, and two gateways before it. */
async function scene(dir) {
  const port = await freePort();
  const store = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--dir", dir];
  await launch("/usr/bin/redis-server", store, []);
  await reachable(port);
  const model = await launch("scripted-model", [], ["scripted model"], { profile: "debug" });
  const home = join(dir, "copilot");
  mkdirSync(home);
  const env = { ...process.env, HOME: dir, COPILOT_HOME: home, COPILOT_OFFLINE: "1" };
  const flags = ["--headless", "--port", "0", "--host", "127.0.0.1", "--no-auto-update", "--log-level", "error"];
  const cli = await launch(runtimePath(), flags, ["CLI server"], { env });
  const config = join(dir, "jetway.toml");
  writeFileSync(
    config,
    `[listen]\nsdk = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\nadmin = "off"\n` +
      `[pool]\nmode = "fleet"\n[[pool.fleet]]\naddress = "127.0.0.1:${cli.found["CLI server"]}"\n` +
      `[redis]\nurl = "redis://127.0.0.1:${port}"\n[directory]\nstore = "redis"\n` +
      `[locks]\nstore = "redis"\nwait = "5m"\n[tenants.default]\nuser_share = "100%"\n` +
      `[tenants.default.provider]\nbase_url = "${model.found["scripted model"]}"\nmodel = "scripted"\n`,
  );
  const gateway = () => launch("jetway", ["serve", "--config", config], ["sdk", "http"], { profile: "debug" });
  const gateways = [await gateway(), await gateway()];
  return { home, gateways: gateways.map((one) => one.found.http) };
}

async function send(http, user, path, body) {
  const headers = { "Jetway-User": user, "Content-Type": "application/json" };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const answer = await fetch(`http://${http}/api/v1${path}`, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
    signal,
  });
  const text = await answer.text();
  assert.ok(answer.ok, `${user}: ${answer.status} ${text}`);
  return JSON.parse(text);
}

/** What a gateway tells of a session, until `stop`. */
function follow(http, user, id, stop) {
  const seen = [];
  const reading = (async () => {
    const headers = { "Jetway-User": user };
    const stream = await fetch(`http://${http}/api/v1/sessions/${id}/events`, { headers, signal: stop });
    let text = "";
    for await (const chunk of stream.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) {
        const [, type] = block.match(/^event: (.*)$/m) ?? [];
        if (type) seen.push({ type, data: JSON.parse(block.match(/^data: (.*)$/m)[1]) });
      }
    }
  })().catch((error) => error.name === "AbortError" || Promise.reject(error));
  return { seen, reading };
}

const prompt = (user, n) => `[[say ${user} said ${n}]]`;
const answer = (user, n) => `${user} said ${n}`;

/** Everybody says everything that they have to say, one thing after the other; all at once. */
async function talk(gateways, id) {
  const say = async (user, at) => {
    for (let n = 0; n < TURNS; n++) {
      const said = await send(gateways[at % 2], user, "/team-chat", { session: id, message: prompt(user, n) });
      assert.equal(said.content, answer(user, n), "everybody hears the answer to what they said");
    }
  };
  await Promise.all(team.map(say));
}

/** The turns in a transcript, which must not overlap: each prompt with its own answer before the next prompt. */
function turns(events, source) {
  const all = [];
  for (const { type, data } of events) {
    if (type === "user.message") {
      const last = all.at(-1);
      assert.ok(!last || last.answer !== undefined, `${source}: ${data.content} began in the middle of ${last?.prompt}`);
      all.push({ prompt: data.content, answer: undefined });
    } else if (type === "assistant.message" && data.content) {
      assert.ok(all.length, `${source}: an answer to nothing`);
      all.at(-1).answer = data.content;
    }
  }
  for (const { prompt, answer } of all) assert.equal(prompt, `[[say ${answer}]]`, `${source}: another's answer`);
  return all.map(({ prompt }) => prompt);
}

async function main(dir) {
  const { home, gateways } = await scene(dir);
  const members = team.slice(1).map((user) => ({ user }));
  const { session_id: id } = await send(gateways[0], team[0], "/sessions", { name: "team", members });
  const stop = new AbortController();
  const told = gateways.map((http, at) => follow(http, team[at], id, stop.signal));
  const begun = Date.now();
  await talk(gateways, id);
  const seconds = (Date.now() - begun) / 1000;
  const wanted = team.flatMap((user) => Array.from({ length: TURNS }, (_, n) => prompt(user, n)));

  // Written down some hundred milliseconds later.
  const file = join(home, "session-state", id, "events.jsonl");
  let kept;
  for (let tries = 0; tries < 50; tries++) {
    kept = readFileSync(file, "utf8").trim().split("\n").map((line) => JSON.parse(line));
    if (kept.filter((event) => event.type === "assistant.message").length >= wanted.length) break;
    await setTimeout(200);
  }
  stop.abort();
  const order = turns(kept, "events.jsonl");
  assert.deepEqual([...order].sort(), [...wanted].sort(), "each turn once");

  let changes = 0;
  for (const [at, { seen, reading }] of told.entries()) {
    await reading;
    assert.ok(!seen.some(({ type }) => type === "jetway.snapshot"), "nothing was missed");
    const heard = turns(seen, `gateway ${at}`);
    assert.deepEqual(heard, order, `gateway ${at} tells what was written down`);
    // A grant is told to all, and the next comes after the turn that it was for.
    const grants = seen.filter(
      ({ type, data }) =>
        type === "user.message" || (type === "session.info" && data.infoType === "jetway.turn_started"),
    );
    const expected = order.flatMap(() => ["session.info", "user.message"]);
    assert.deepEqual(grants.map(({ type }) => type), expected, `gateway ${at}: a grant, its turn, the next grant`);
    // Its own line is worked off in the order in which it was told.
    const line = seen.filter(({ type }) => type === "jetway.turn_started").map(({ data }) => data.user);
    const users = order.map((text) => text.match(/say (\S+)/)[1]);
    const ours = users.filter((user) => team.indexOf(user) % 2 === at);
    assert.deepEqual(line, ours, `gateway ${at}: first come, first served`);
    changes = users.slice(1).filter((user, n) => team.indexOf(user) % 2 !== team.indexOf(users[n]) % 2).length;
  }
  console.log(
    `${order.length} turns of ${USERS} users at two gateways in ${seconds.toFixed(1)} s: 0 overlaps, ` +
      `each answered for itself, in the order of ${order.length} grants, which changed gateways ${changes} times`,
  );
}

const dir = mkdtempSync(join(tmpdir(), "jetway-team-"));
try {
  await withPrograms(() => main(dir));
} catch (error) {
  if (!(error instanceof Interrupted)) console.error(error);
  process.exitCode = 1;
} finally {
  rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
}
process.exit();
