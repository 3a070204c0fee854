// A session's workspace: its files, directories and checkpoints.

import assert from "node:assert/strict";

import { conformance, refusal, say } from "./harness.mjs";

conformance("workspaces", {
  files: async (t) => {
    const { session } = await t.session(await t.client());
    const { workspaces } = session.rpc;
    await workspaces.createFile({ path: "a.txt", content: "first" });
    await workspaces.createFile({ path: "notes/b.txt", content: "second ü" });
    const { files } = await workspaces.listFiles();
    const { content } = await workspaces.readFile({ path: "notes/b.txt" });
    return { files: files.sort(), content };
  },

  "they outlive the connection": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "hello");
    await session.rpc.workspaces.createFile({ path: "kept.txt", content: "kept" });
    await session.disconnect();
    const again = await t.resume(client, config);
    return again.session.rpc.workspaces.readFile({ path: "kept.txt" });
  },

  "no way out": async (t) => {
    const { session } = await t.session(await t.client());
    assert.ok(await refusal(session.rpc.workspaces.readFile({ path: "../../../../etc/passwd" })));
    assert.ok(await refusal(session.rpc.workspaces.createFile({ path: "../escape.txt", content: "x" })));
  },

  "a file that is not there": async (t) => {
    const { session } = await t.session(await t.client());
    return refusal(session.rpc.workspaces.readFile({ path: "none.txt" }));
  },

  "the workspace itself": async (t) => {
    const { session } = await t.session(await t.client());
    await say(session, "hello");
    const { workspace } = await session.rpc.workspaces.getWorkspace();
    assert.equal(workspace.id, session.sessionId);
    return {
      path: typeof session.workspacePath,
      keys: Object.keys(workspace).filter((key) => key !== "summary").length > 3,
    };
  },

  checkpoints: async (t) => {
    const { session } = await t.session(await t.client());
    return session.rpc.workspaces.listCheckpoints();
  },
});
