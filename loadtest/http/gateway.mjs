// Jetway with HTTP before real CLI servers and the scripted model, with state of its own.

import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout } from "node:timers/promises";

import { Interrupted, launch, root, withPrograms } from "../demo/launch.mjs";

/** How long anything may take on a busy machine. */
export const PATIENCE_MS = 60_000;

/** Waits until `probe` returns something truthy. */
export async function until(probe, what) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await probe())) {
    if (Date.now() > deadline) throw new Error(`not in ${PATIENCE_MS / 1000} s: ${what()}`);
    await setTimeout(50);
  }
}

/**
 * Runs `body` with a gateway, removes everything afterwards and ends the program: with 1 when something failed.
 * @typedef {{ http: string, sdk: string }} Addresses
 * @param {(gateway: Addresses & { npx: () => string[], another: (command: string[]) => Promise<Addresses> }) =>
 *   Promise<void>} body gets one more gateway, before other CLI servers, by `another`
 * @param {{ command?: string[], more?: string }} options another CLI server than the real one; more configuration
 */
export async function main(body, { command, more = "" } = {}) {
  const dir = mkdtempSync(join(tmpdir(), "jetway-http-"));
  try {
    await withPrograms(async () => {
      const model = await launch("scripted-model", [], ["scripted model"], { profile: "debug" });
      const { path, npx } = standIn(dir);
      const env = { ...process.env, PATH: path + delimiter + process.env.PATH };
      const serve = async (name, command, more) => {
        const own = join(dir, name);
        mkdirSync(own);
        const config = join(own, "jetway.toml");
        writeFileSync(
          config,
          `[listen]\nsdk = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\nadmin = "off"\n` +
            `[pool.process]\nstate_dir = "${join(own, "state")}"\nstart_timeout = "1m"\n` +
            // A sandbox would not see the stand-in below.
            `sandbox = "none"\n${command ? `command = ${JSON.stringify(command)}\n` : ""}` +
            `[directory]\npath = "${join(own, "directory.db")}"\n` +
            `[tenants.default.provider]\nbase_url = "${model.found["scripted model"]}"\nmodel = "scripted"\n${more}`,
        );
        const options = { profile: "debug", env };
        return (await launch("jetway", ["serve", "--config", config], ["sdk", "http"], options)).found;
      };
      const another = (command) => serve("another", command, "");
      await body({ ...(await serve("one", command, more)), npx, another });
    });
  } catch (error) {
    if (!(error instanceof Interrupted)) console.error(error);
    process.exitCode = 1;
  } finally {
    rmSync(dir, { recursive: true, force: true, maxRetries: 5 });
  }
  process.exit();
}

/** An `npx` that fetches nothing: it notes how it is called, and is an MCP server of our own. */
function standIn(dir) {
  const [path, log] = [join(dir, "bin"), join(dir, "npx.log")];
  mkdirSync(path);
  writeFileSync(log, "");
  const server = join(root, "loadtest/sdk-ts/mcp-server.mjs");
  writeFileSync(
    join(path, "npx"),
    `#!/bin/sh\necho "$@ $GITHUB_PERSONAL_ACCESS_TOKEN" >>"${log}"\nexec "${process.execPath}" "${server}"\n`,
  );
  chmodSync(join(path, "npx"), 0o755);
  return { path, npx: () => readFileSync(log, "utf8").trim().split("\n").filter(Boolean) };
}
