// Starts our own programs, learns their addresses, and stops them by their process ids.

import { spawn } from "node:child_process";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const START_MS = 30_000;
/** Above Jetway's own `drain.timeout`. */
const STOP_MS = 45_000;
/** Lines of a program's output that are kept, to say why it failed. */
const KEPT = 20;

/**
 * Starts `target/<profile>/<program>` and waits until it has said where each of `names` listens.
 * @returns {Promise<{ pid: number, found: Record<string, string>, exited: Promise<string>, stop: () => Promise<string> }>}
 */
export async function launch(program, args, names, { profile = "release", ...options } = {}) {
  // In a process group of its own: a Ctrl-C on the terminal is for us, who then stop it in order.
  const stdio = ["ignore", "pipe", "pipe"];
  const child = spawn(join(root, "target", profile, program), args, { cwd: root, detached: true, stdio, ...options });
  const [last, found] = [[], {}];
  const keep = (line) => last.push(line) > KEPT && last.shift();
  let ended = false;
  const exited = new Promise((done) => {
    child.once("error", (error) => done(error.message));
    child.once("close", (code, signal) => done(`ended with ${signal ?? `exit code ${code}`}`));
  }).then((how) => ((ended = true), [`${program} ${how}`, ...last].join("\n  ")));

  const stop = async () => {
    if (!ended) child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    const how = await exited;
    clearTimeout(late);
    return how;
  };

  let timer;
  const ready = new Promise((resolve, reject) => {
    createInterface(child.stderr).on("line", keep);
    createInterface(child.stdout).on("line", (line) => {
      keep(line);
      const [, name, address] = line.match(/^(.+?) listening on (\S+)$/) ?? [];
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
  return { pid: child.pid, found, exited, stop };
}
