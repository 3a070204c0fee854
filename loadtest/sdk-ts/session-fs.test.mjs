// A client that keeps its sessions' files itself. One server takes one such client.

import assert from "node:assert/strict";

import { conformance, say, until } from "./harness.mjs";

/** A file system in memory. */
function memory() {
  const files = new Map();
  const dirs = new Set(["/"]);
  const missing = (path) => Object.assign(new Error(`ENOENT: ${path}`), { code: "ENOENT" });
  const children = (path) => {
    const prefix = path.endsWith("/") ? path : `${path}/`;
    const below = [...files.keys(), ...dirs].filter((each) => each.startsWith(prefix));
    return [...new Set(below.map((each) => each.slice(prefix.length).split("/")[0]).filter(Boolean))];
  };
  const isDirectory = (path) => dirs.has(path) || children(path).length > 0;
  const times = { mtime: new Date(0).toISOString(), birthtime: new Date(0).toISOString() };
  const provider = {
    readFile: async (path) => files.get(path) ?? Promise.reject(missing(path)),
    writeFile: async (path, content) => void files.set(path, content),
    appendFile: async (path, content) => void files.set(path, (files.get(path) ?? "") + content),
    exists: async (path) => files.has(path) || isDirectory(path),
    stat: async (path) => {
      if (!files.has(path) && !isDirectory(path)) throw missing(path);
      return {
        isFile: files.has(path),
        isDirectory: !files.has(path),
        size: files.get(path)?.length ?? 0,
        ...times,
      };
    },
    mkdir: async (path) => void dirs.add(path),
    readdir: async (path) => children(path),
    readdirWithTypes: async (path) =>
      children(path).map((name) => ({ name, type: files.has(`${path}/${name}`) ? "file" : "directory" })),
    rm: async (path) => {
      for (const each of [...files.keys()])
        if (each === path || each.startsWith(`${path}/`)) files.delete(each);
      dirs.delete(path);
    },
    rename: async (from, to) => {
      files.set(to, files.get(from));
      files.delete(from);
    },
  };
  return { files, provider };
}

const sessionFs = { initialCwd: "/", sessionStatePath: "/state", conventions: "posix" };

conformance("session files kept by the client", {
  "a session's events go to the provider, and come back from it": async (t) => {
    const client = await t.client("dora", { sessionFs });
    const { files, provider } = memory();
    const createSessionFsProvider = () => provider;
    const { session, config } = await t.session(client, { createSessionFsProvider, workingDirectory: "/" });
    await say(session, "kept by me");
    const log = () => [...files].find(([path]) => path.endsWith("events.jsonl"))?.[1] ?? "";
    await until(() => log().includes("kept by me"), "the event log");
    await session.disconnect();
    const again = await t.resume(client, config);
    const answer = await say(again.session, "history");
    assert.equal(answer, "History: kept by me");
    return { answer };
  },
});
