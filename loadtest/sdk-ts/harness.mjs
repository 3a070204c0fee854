// Runs each case against every target and, when there are several, compares what it returns.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

import { startModel, startTarget, targetNames } from "./processes.mjs";
import { lines, normalise } from "./transcript.mjs";

/** How long anything on loopback may take on a busy machine. */
export const PATIENCE_MS = 20_000;

/** Waits until `probe` returns something truthy, and returns it. */
export async function until(probe, what, within = PATIENCE_MS) {
  const deadline = Date.now() + within;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (Date.now() > deadline)
      assert.fail(`not in ${within} ms: ${typeof what === "function" ? what() : what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** What the error of `promise` says; fails when there is none. */
export async function refusal(promise) {
  try {
    await promise;
  } catch (error) {
    return String(error.message ?? error);
  }
  return assert.fail("should have been refused");
}

/** Remembers a session's events from its first one on. */
export class Recorder {
  /** @type {import("@github/copilot-sdk").SessionEvent[]} */
  events = [];

  /** Handed to the SDK as `onEvent`. */
  take = (event) => this.events.push(event);

  lines(from = 0) {
    return lines(this.events.slice(from));
  }

  of(type) {
    return this.events.filter((event) => event.type === type);
  }

  /** Waits for the `count`-th event of `type`. */
  async seen(type, count = 1) {
    return until(
      () => this.of(type)[count - 1],
      () => `${count} × ${type} among\n${this.lines().join("\n")}`,
    );
  }

  /** Waits until nothing more is likely: the session went idle, which it does after an error as well, and then quiet. */
  async settled(count = 1) {
    await this.seen("session.idle", count);
    await quiet(this);
  }
}

/** Waits until no event has come for a moment; only to catch events that should not come. */
async function quiet(recorder, forMs = 250) {
  let [count, since] = [recorder.events.length, Date.now()];
  await until(() => {
    if (recorder.events.length !== count) [count, since] = [recorder.events.length, Date.now()];
    return Date.now() - since >= forMs;
  }, "silence");
}

/** What a case gets: one target, and clients and sessions on it that are cleaned up after it. */
export class Scene {
  #cleanups = [];

  constructor(target, model, test) {
    this.target = target;
    this.model = model;
    this.#test = test;
  }

  #test;

  /** Ends the case as skipped, loudly. */
  skip(why) {
    process.stderr.write(`SKIPPED ${this.#test.name}: ${why}\n`);
    this.#test.skip(why);
    throw new Skipped(why);
  }

  /** Runs `cleanup` after the case, last one first. */
  defer(cleanup) {
    this.#cleanups.push(cleanup);
  }

  /** A connected client of `user`. */
  async client(user = "alice", options = {}) {
    const connection = RuntimeConnection.forUri(this.target.address, {
      connectionToken: this.target.token(user),
    });
    const client = new CopilotClient({ connection, ...options });
    this.defer(() => client.forceStop());
    await client.start();
    return client;
  }

  /** A bring-your-own-key provider that is the scripted model. */
  provider(extra = {}) {
    return { type: "openai", baseUrl: this.model.baseUrl, apiKey: "sk-test", ...extra };
  }

  /** A directory of the case's own. */
  async dir() {
    const dir = join(this.target.dir, randomUUID());
    await mkdir(dir, { recursive: true });
    return dir;
  }

  /** Session settings: scripted model, streaming, everything approved, an own directory. */
  async config(extra = {}) {
    return {
      sessionId: randomUUID(),
      model: "scripted",
      provider: this.provider(),
      streaming: true,
      onPermissionRequest: approveAll,
      workingDirectory: await this.dir(),
      ...extra,
    };
  }

  /** A new session and the recorder of its events. */
  async session(client, extra = {}) {
    const recorder = new Recorder();
    const config = await this.config({ onEvent: recorder.take, ...extra });
    const session = await client.createSession(config);
    return { session, recorder, config };
  }

  /** The session of `config` again, for `client`. */
  async resume(client, config, extra = {}) {
    const recorder = new Recorder();
    const { sessionId, ...rest } = config;
    const session = await client.resumeSession(sessionId, { ...rest, onEvent: recorder.take, ...extra });
    return { session, recorder };
  }

  /** Shares a session, which only Jetway can: `user` takes part in it. */
  async share(sessionId, owner, user) {
    const url = `http://${this.target.http}/api/v1/sessions/${sessionId}/members/${user}`;
    const headers = { "Jetway-User": owner, "Content-Type": "application/json" };
    const answer = await fetch(url, { method: "PUT", headers, body: '{"role":"member"}' });
    assert.ok(answer.ok, `${answer.status} ${await answer.text()}`);
  }

  /** The model's ledger lines of the prompts that carry `nonce`. */
  async asked(nonce) {
    return (await this.model.ledger()).filter((entry) => entry.nonce === nonce);
  }

  async close() {
    for (const cleanup of this.#cleanups.reverse()) {
      await Promise.resolve(cleanup()).catch(() => {});
    }
  }
}

class Skipped extends Error {}

/**
 * Registers a group of cases. Each is an async function of a {@link Scene} that asserts what must hold on
 * any target and returns what must be the same on all of them.
 * @param {string} group
 * @param {Record<string, (scene: Scene) => Promise<unknown>>} cases
 * @param {{ concurrency?: number }} options how many cases may share a target at a time
 */
export function conformance(group, cases, { concurrency = 4 } = {}) {
  describe(group, { concurrency }, () => {
    let model;
    const targets = [];
    before(async () => {
      model = await startModel();
      for (const name of targetNames) targets.push(await startTarget(name));
    });
    after(async () => {
      await Promise.all([...targets, model].map((program) => program?.stop()));
    });
    for (const [name, run] of Object.entries(cases)) {
      it(name, { timeout: 60_000 * targetNames.length }, async (test) => {
        const outcomes = [];
        for (const target of targets) {
          const scene = new Scene(target, model, test);
          try {
            outcomes.push(normalise(await run(scene)));
          } catch (error) {
            if (error instanceof Skipped) return;
            error.message = `on ${target.name}: ${error.message}`;
            throw error;
          } finally {
            await scene.close();
          }
        }
        if (process.env.SHOW) console.log(name, JSON.stringify(outcomes[0], null, 1));
        for (const outcome of outcomes.slice(1)) {
          assert.deepEqual(outcome, outcomes[0], `${targetNames.slice(1)} differ from ${targetNames[0]}`);
        }
      });
    }
  });
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Ends the CLI process of `user`, where only Jetway outlives that: once what it told is on its disk, and with no answer
 * on its way to it, which would be lost too.
 */
export async function lose(t, user) {
  if (!t.target.kill) return;
  await sleep(500);
  assert.ok(t.target.kill(user) > 0, "no process was killed");
  await sleep(200);
}

/** A turn's final text. */
export async function say(session, prompt, options = {}) {
  const message = await session.sendAndWait({ prompt, ...options }, PATIENCE_MS);
  return message?.data.content;
}
