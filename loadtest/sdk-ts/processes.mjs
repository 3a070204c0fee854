// Starts and stops the programs under test, each by its own process id.

import { spawn } from "node:child_process";
import { mkdtemp, mkdir, rm, writeFile } from "node:fs/promises";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const built = (name) => resolve(here, "../../target/debug", name);
/** The connection token of the direct runtime; through Jetway the token is the user's name. */
const DIRECT_TOKEN = "conformance-token";
const START_TIMEOUT_MS = 20_000;

/** The runtime that the installed SDK brings for this platform. */
export function runtimePath() {
  if (process.env.COPILOT_RUNTIME_BIN) return process.env.COPILOT_RUNTIME_BIN;
  const scope = resolve(here, "../node_modules/@github");
  for (const name of readdirSync(scope).filter((name) => name.startsWith("copilot-sdk-"))) {
    const prebuilds = join(scope, name, "prebuilds");
    for (const platform of existsSync(prebuilds) ? readdirSync(prebuilds) : []) {
      const path = join(prebuilds, platform, "copilot-runtime");
      if (existsSync(path)) return path;
    }
  }
  throw new Error(`no copilot-runtime below ${scope}: run npm ci in loadtest/`);
}

/**
 * Starts `command` and waits until its standard output matches every one of `patterns`.
 * @returns {Promise<{ matches: RegExpMatchArray[], stop: () => Promise<void> }>}
 */
async function launch(command, args, env, patterns) {
  const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  let errors = "";
  child.stderr.on("data", (data) => (errors = (errors + data).slice(-4000)));
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const stop = async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), 5000);
    await exited;
    clearTimeout(late);
  };
  const matches = await new Promise((resolve, reject) => {
    const fail = (why) => reject(new Error(`${command}: ${why}\n${output}${errors}`));
    const timer = setTimeout(() => fail("not ready in time"), START_TIMEOUT_MS);
    child.once("error", (error) => fail(error.message));
    child.once("exit", (code) => fail(`exited with ${code}`));
    child.stdout.on("data", (data) => {
      output = (output + data).slice(-4000);
      const found = patterns.map((pattern) => output.match(pattern));
      if (found.every(Boolean)) {
        clearTimeout(timer);
        resolve(found);
      }
    });
  }).catch(async (error) => {
    await stop();
    throw error;
  });
  return { matches, stop };
}

/** The scripted model: see loadtest/src/model/mod.rs for what a prompt makes it do. */
export async function startModel() {
  const command = process.env.SCRIPTED_MODEL_BIN ?? built("scripted-model");
  const { matches, stop } = await launch(command, [], process.env, [/listening on (http:\S+)\n/]);
  const baseUrl = matches[0][1];
  const ledger = async () => {
    const text = await (await fetch(new URL("/ledger", baseUrl))).text();
    return text
      .trim()
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  };
  return { baseUrl, ledger, stop };
}

/** A home that holds nothing of the machine's own set-up. */
async function scratch() {
  const dir = await mkdtemp(join(tmpdir(), "jetway-sdk-"));
  await mkdir(join(dir, "home"));
  const work = join(dir, "work");
  await mkdir(work);
  const env = { PATH: process.env.PATH, HOME: join(dir, "home"), COPILOT_HOME: join(dir, "home", "copilot") };
  // The full CLI unpacks itself once into this, instead of once for each home.
  if (process.env.COPILOT_CACHE_HOME) env.COPILOT_CACHE_HOME = process.env.COPILOT_CACHE_HOME;
  return { dir, work, env, remove: () => rm(dir, { recursive: true, force: true, maxRetries: 3 }) };
}

const targets = {
  /** A CLI server of its own, without Jetway. */
  async direct() {
    const { work, env, remove } = await scratch();
    env.COPILOT_CONNECTION_TOKEN = DIRECT_TOKEN;
    const { matches, stop } = await launch(runtimePath(), ["--headless", "--port", "0"], env, [/port (\d+)/]);
    const stopAll = async () => {
      await stop();
      await remove();
    };
    return {
      name: "direct",
      address: `127.0.0.1:${matches[0][1]}`,
      token: () => DIRECT_TOKEN,
      dir: work,
      stop: stopAll,
    };
  },

  /** Jetway on its defaults, anonymous, with state of its own. */
  async jetway() {
    const { dir, work, env, remove } = await scratch();
    const config = join(dir, "jetway.toml");
    await writeFile(
      config,
      `[listen]\nsdk = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n` +
        `[auth]\nanonymous = true\n` +
        // Four files of tests at once are no usual tenant.
        `[tenants.default]\nrequests_per_second = 10000\n` +
        `[pool.process]\nstate_dir = "${join(dir, "state")}"\ncommand = ["${runtimePath()}"]\n` +
        // The sessions' directories, and the MCP server that some of them start.
        `sandbox_paths = ["${here}"]\n[tenants.default.policy]\nallow_paths = ["${work}"]\n`,
    );
    const command = process.env.JETWAY_BIN ?? built("jetway");
    const { matches, stop } = await launch(command, ["serve", "--config", config], env, [
      /sdk listening on (\S+:\d+)/,
      /http listening on (\S+:\d+)/,
    ]);
    const stopAll = async () => {
      await stop();
      await remove();
    };
    return {
      name: "jetway",
      address: matches[0][1],
      http: matches[1][1],
      token: (user) => user,
      dir: work,
      kill: (user) => killOf(dir, user),
      stop: stopAll,
    };
  },
};

/** Ends `user`'s CLI process below `dir` as a fault would; returns how many processes it was. */
function killOf(dir, user) {
  const pids = readdirSync("/proc").filter((name) => {
    try {
      const told = readFileSync(`/proc/${name}/environ`, "utf8").split("\0");
      return Number(name) && told.some((line) => line.includes(dir) && line.split("/").includes(user));
    } catch {
      return false; // Not a process, or it ended.
    }
  });
  for (const pid of pids) {
    try {
      process.kill(Number(pid), "SIGKILL");
    } catch (error) {
      // One goes with another.
      if (error.code !== "ESRCH") throw error;
    }
  }
  return pids.length;
}

/** The targets named in `TARGETS`, by default only the runtime itself. */
export const targetNames = (process.env.TARGETS ?? "direct").split(",").map((name) => name.trim());

/** @param {string} name */
export async function startTarget(name) {
  const start = targets[name];
  if (!start) throw new Error(`TARGETS: ${name} is none of ${Object.keys(targets)}`);
  return start();
}
