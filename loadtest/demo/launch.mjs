// Starts our own programs, learns their addresses, and stops them by their process ids, whatever happens.

import { spawn } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const START_MS = 30_000;
/** Above Jetway's own `drain.timeout`. */
const STOP_MS = 45_000;
/** Lines of a program's output that are kept, to say why it failed. */
const KEPT = 20;

const running = new Set();
let closing = false;

/** Thrown out of {@link withPrograms} after a signal. */
export class Interrupted extends Error {}

/** Runs `main`, and stops everything that it launched when it ends, however it ends. */
export async function withPrograms(main) {
  const interrupted = new Promise((_, reject) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
      process.on(signal, () => {
        if (running.size) console.error("\nstopping …");
        reject(new Interrupted(signal));
        // Jetway lets running turns end; a second signal hurries it.
        for (const { child, stopping } of running) if (stopping) child.kill("SIGTERM");
      });
    }
  });
  // What nobody waits for must not leave programs behind either: the SDK's writes to a Jetway that has gone, say.
  const failed = new Promise((_, reject) => {
    for (const event of ["unhandledRejection", "uncaughtException"]) process.on(event, reject);
  });
  try {
    return await Promise.race([main(), interrupted, failed]);
  } finally {
    // `main` may still be on its way: it starts nothing more.
    closing = true;
    // The last one first: Jetway's running turns still need the model.
    for (const program of [...running].reverse()) await program.stop();
  }
}

/** A line of a log: Jetway's are JSON when nobody is looking. */
function plain(line) {
  try {
    const { level, message } = JSON.parse(line);
    return `${level} ${message}`;
  } catch {
    return line;
  }
}

/**
 * Starts `target/<profile>/<program>`, or a program by its absolute path, inside {@link withPrograms}, and waits until it has said where each of
 * `names` listens.
 * @returns {Promise<{ pid: number, found: Record<string, string>, exited: Promise<string> }>}
 */
export async function launch(program, args, names, { profile = "release", ...options } = {}) {
  if (closing) throw new Interrupted(`${program} is not started any more`);
  // In a process group of its own: a Ctrl-C on the terminal is for us, who then stop it in order.
  const stdio = ["ignore", "pipe", "pipe"];
  const child = spawn(resolve(root, "target", profile, program), args, { cwd: root, detached: true, stdio, ...options });
  const [last, found] = [[], {}];
  const keep = (line) => last.push(plain(line)) > KEPT && last.shift();
  const exited = new Promise((done) => {
    child.once("error", (error) => done(error.message));
    child.once("close", (code, signal) => done(`ended with ${signal ?? `exit code ${code}`}`));
  }).then((how) => (running.delete(handle), [`${program} ${how}`, ...last].join("\n  ")));

  const stop = async () => {
    if (running.has(handle)) child.kill("SIGTERM");
    handle.stopping = true;
    const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await exited;
    clearTimeout(late);
  };
  const handle = { child, stop, stopping: false };
  running.add(handle);

  let timer;
  const ready = new Promise((resolve, reject) => {
    createInterface(child.stderr).on("line", keep);
    createInterface(child.stdout).on("line", (line) => {
      keep(line);
      const [, name, address] = line.match(/^(.+?) listening on (?:port )?(\S+)$/) ?? [];
      if (name) found[name] = address;
      if (names.every((name) => found[name])) resolve();
    });
    timer = setTimeout(() => reject(new Error(`${program} was not ready in ${START_MS / 1000} s`)), START_MS);
    exited.then((why) => reject(new Error(why)));
  });
  try {
    await ready;
  } catch (error) {
    await stop();
    throw error;
  } finally {
    clearTimeout(timer);
  }
  return { pid: child.pid, found, exited };
}

/** The ids of everything that process `parent` started, and what that started. */
function descendants(parent) {
  const children = new Map();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      // The name in parentheses may hold anything; the parent is the second field after it.
      const ppid = Number(readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1).split(" ")[1]);
      children.set(ppid, [...(children.get(ppid) ?? []), Number(pid)]);
    } catch {} // It ended.
  }
  const below = (pid) => (children.get(pid) ?? []).flatMap((child) => [child, ...below(child)]);
  return below(parent);
}

/** The descendants of `parent` that are Copilot CLI servers. */
export function runtimes(parent) {
  return descendants(parent).filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("copilot");
    } catch {
      return false; // It ended.
    }
  });
}
