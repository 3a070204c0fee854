// `make seeds`: the requests of the field's own documents, word for word but for host, token and session id,
// against Jetway and real CLI servers. Prints what was sent and answered; fails on any surprise.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

import { root } from "../demo/launch.mjs";
import { PATIENCE_MS, main, until } from "./gateway.mjs";

const CREATE = `curl -X POST https://cc-api.example.com/api/v1/sessions \\
  -H "Authorization: Bearer \${GITHUB_TOKEN}" \\
  -H "Content-Type: application/json" \\
  -d '{
    "name": "feature-dev-session",
    "config": {
      "cpu_limit": "2",
      "memory_limit": "4Gi",
      "pvc_enabled": true,
      "pvc_storage_size": "10Gi",
      "mcp_servers": {
        "github": {
          "command": "npx",
          "args": ["-y", "@modelcontextprotocol/server-github"],
          "env": {
            "GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_xxxxx"
          }
        }
      },
      "timeout_minutes": 60
    }
  }'`;
const BY_START = "curl https://cc-api.example.com/api/v1/sessions?sort=started_at&order=desc";
const BY_UPDATE = "curl https://cc-api.example.com/api/v1/sessions?sort=updated_at&order=desc";
const withStatus = (status) => `curl https://cc-api.example.com/api/v1/sessions?status=${status}`;
const DETAIL = `curl https://cc-api.example.com/api/v1/sessions/{session_id} \\
  -H "Authorization: Bearer \${GITHUB_TOKEN}"`;
const removal = (query) => `curl -X DELETE https://cc-api.example.com/api/v1/sessions/{session_id}${query} \\
  -H "Authorization: Bearer \${GITHUB_TOKEN}"`;
/** The documents show these as handlers: what they read of a request is what is sent here. */
const send = (method, path, body) => `curl -X ${method} https://cc-api.example.com/api/v1${path} \\
  -H "Authorization: Bearer \${GITHUB_TOKEN}"${body ? ` -H "Content-Type: application/json" -d '${JSON.stringify(body)}'` : ""}`;
const post = (path, body) => send("POST", path, body);

const run = promisify(execFile);
const TIME = /^\d{4}-\d\d-\d\dT[\d:.]+Z$/;

/** Somebody with a terminal. Where callers are anonymous, a token is just the user's name. */
const terminal = (http) => async (command, status, { id = "", user = "local" } = {}) => {
  const here = command
    .replace("{session_id}", id)
    // In quotes: to a shell, the documents' bare `&` ends the command.
    .replace(/https:\/\/cc-api\.example\.com(\S*)/, `"http://${http}$1"`);
  const shown = `curl() { command curl --silent --show-error --write-out '\\n%{http_code}' "$@"; }; ${here}`;
  const env = { ...process.env, GITHUB_TOKEN: user };
  const { stdout } = await run("bash", ["-c", shown], { env, timeout: PATIENCE_MS });
  const end = stdout.lastIndexOf("\n");
  const [body, code] = [stdout.slice(0, end), Number(stdout.slice(end + 1))];
  console.log(`\n$ ${here}\n${code} ${body}`);
  assert.equal(code, status, "the status");
  return body && JSON.parse(body);
};

/** What the documents show on pages is read here by id. */
const session = (curl, id) => curl(DETAIL, 200, { id });

/** Making, listing, seeing and deleting sessions. */
async function management(curl, gateway) {
  const made = [];
  for (let n = 0; n < 3; n++) made.push(await curl(CREATE, 201));
  const [first, second, third] = made.map((session) => session.session_id);
  for (const { name, user, status, created_at, connection_url, session_id } of made) {
    assert.deepEqual([name, user], ["feature-dev-session", "local"]);
    assert.ok(["pending", "running"].includes(status), status);
    assert.match(created_at, TIME);
    assert.equal(connection_url, `ws://${gateway.http}/ws/sessions/${session_id}`);
  }

  const ids = async (command) => (await curl(command, 200)).sessions.map((session) => session.session_id);
  assert.deepEqual(await ids(BY_START), [third, second, first]);
  await curl(post(`/sessions/${second}/messages`, { prompt: "[[say hello]]" }), 200);
  const updates = (await curl(BY_UPDATE, 200)).sessions.map((session) => session.updated_at);
  assert.deepEqual(updates, updates.toSorted().reverse());
  await until(async () => (await ids(withStatus("running"))).length === 3, () => "all three run");
  assert.deepEqual(await ids(withStatus("all")), [third, second, first]);
  for (const status of ["pending", "completed", "failed", "terminated"]) {
    assert.deepEqual(await ids(withStatus(status)), [], status);
  }

  const detail = await session(curl, second);
  assert.deepEqual(detail.config.timeout_minutes, 60);
  assert.deepEqual([detail.config.cpu_limit, detail.config.memory_limit], ["2", "4Gi"]);
  assert.ok(!JSON.stringify(detail).includes("ghp_"), "a secret is shown");
  // What it takes of what it may: memory and processors of its process, and its own files.
  assert.ok(detail.resources.memory_bytes > 1 << 20 && detail.resources.cpu_seconds > 0);
  const kept = { [second]: detail.workspace, [third]: (await session(curl, third)).workspace };
  assert.ok(Object.values(kept).every(existsSync), "its workspace is there");
  const server = "-y @modelcontextprotocol/server-github ghp_xxxxx";
  // Started when its session is first asked something.
  await until(() => gateway.npx().includes(server), () => `its MCP server among: ${gateway.npx()}`);

  await curl(removal(""), 204, { id: first });
  await curl(removal("?delete_pvc=false"), 204, { id: second });
  await curl(removal("?force=true"), 204, { id: third });
  assert.deepEqual([existsSync(kept[second]), existsSync(kept[third])], [true, false]);
  assert.deepEqual(await ids(withStatus("running")), []);
  assert.deepEqual(await ids(withStatus("terminated")), [third, second, first]);
  const record = await session(curl, third);
  assert.deepEqual([record.status, record.reason], ["terminated", "deleted"]);
  assert.match(record.ended_at, TIME);
}

/** The other statuses, and how sessions come to them. Returns what is to be seen of `timeout_minutes` when that is over. */
async function lifecycle(curl) {
  const make = (name, config) => curl(post("/sessions", { name, permissions: "approve", config }), 201);
  const timed = await make("timed", { timeout_minutes: 1 });

  const worker = await make("worker", { auto_delete_after_hours: 24 });
  const done = await curl(send("PATCH", "/sessions/worker", { status: "completed" }), 200);
  assert.deepEqual([done.status, done.completed_at], ["completed", done.ended_at]);
  const found = await curl(withStatus("completed"), 200);
  assert.deepEqual(found.sessions.map((s) => s.session_id), [worker.session_id]);
  await curl(post("/sessions/worker/messages", { prompt: "[[say back again]]" }), 200);
  await until(async () => (await session(curl, worker.session_id)).status === "running", () => "it runs again");

  const brief = await make("brief", { auto_delete_on_complete: true });
  await curl(send("PATCH", "/sessions/brief", { status: "completed" }), 200);
  const record = await session(curl, brief.session_id);
  assert.deepEqual([record.status, record.reason], ["terminated", "completed"]);

  const hog = await make("hog", { memory_limit: "256Mi" });
  // A tail of what has no lines is all of it.
  const command = { command: "head -c 1G /dev/zero | tail; sleep 60", description: "takes too much" };
  await curl(post("/sessions/hog/messages", { prompt: `[[tool bash ${JSON.stringify(command)}]]` }), 502);
  await until(async () => (await session(curl, hog.session_id)).status === "failed", () => "it has failed");
  const failed = await curl(withStatus("failed"), 200);
  assert.ok(failed.sessions.some((s) => s.session_id === hog.session_id && s.reason === "memory_limit"));
  await curl(post("/sessions/hog/messages", { prompt: "[[say on we go]]" }), 200);
  await curl(removal(""), 204, { id: hog.session_id });

  return async () => {
    const over = async () => (await quietly(curl, timed.session_id)).status;
    await until(async () => (await over()) === "terminated", () => "a minute is over");
    assert.equal((await session(curl, timed.session_id)).reason, "timeout");
  };
}

/** The same without a word in the transcript. */
async function quietly(curl, id) {
  const log = console.log;
  console.log = () => {};
  try {
    return await curl(DETAIL, 200, { id });
  } finally {
    console.log = log;
  }
}

/** Sessions in the cloud. Its part is played by the stub: the real one needs an account. */
async function cloud(curl, another) {
  const repository = { owner: "myorg", name: "myrepo", branch: "main" };
  // What `copilot-runtime` 1.0.85 says without an account, and `copilot` 1.0.102 as well.
  const refused = await curl(post("/sessions", { cloud: { repository } }), 501);
  assert.equal(refused.type, "urn:jetway:problem:not-implemented");

  const stub = await another([join(root, "target/debug/stub-cli"), "--cloud", "1500"]);
  const far = terminal(stub.http);
  const { session_id: id, status, reason } = await far(post("/sessions", { name: "far", cloud: { repository } }), 201);
  assert.deepEqual([status, reason], ["pending", "waiting for the cloud's agent"]);
  const asked = far(post("/sessions/far/messages", { prompt: "READMEを要約して" }), 200);
  await until(async () => (await quietly(far, id)).turn?.status === "pending", () => "its first prompt is held");
  assert.equal((await asked).content, "You said: READMEを要約して");
  assert.equal((await session(far, id)).status, "running");

  // By an SDK, whose application need not wait for `session.start` itself.
  const connection = RuntimeConnection.forUri(stub.sdk, { connectionToken: "local" });
  const client = new CopilotClient({ connection });
  const events = [];
  const onEvent = ({ type, data }) => events.push(data.infoType ?? data.producer ?? type);
  const config = { cloud: { repository }, streaming: true, onPermissionRequest: approveAll, onEvent };
  const theirs = await client.createSession(config);
  const said = await theirs.sendAndWait({ prompt: "READMEを要約して" }, PATIENCE_MS);
  assert.equal(said.data.content, "You said: READMEを要約して");
  const order = ["jetway.turn_pending", "copilot-agent", "user.message"].map((name) => events.indexOf(name));
  assert.ok(order[0] >= 0 && order[0] < order[1] && order[1] < order[2], events.join());
  console.log(`\n# the same by the TypeScript SDK:\n${events.join(" → ")}`);
  await client.stop();
}

/** Chats, a team's chat, and one question. */
async function chats(curl) {
  assert.deepEqual(await curl(post("/analyze", { prompt: "[[say positive]]" }), 200).then((a) => a.result), "positive");

  const { sessionId } = await curl(post("/chat/start"), 200);
  const say = (message) => curl(post("/chat/message", { sessionId, message }), 200).then((answer) => answer.content);
  assert.equal(await say("[[say one]]"), "one");
  assert.equal(await say("history"), "History: [[say one]]");
  assert.deepEqual(await curl(post("/chat/end", { sessionId }), 200), { success: true });
  await curl(post("/chat/message", { sessionId, message: "still there?" }), 410);

  const sticky = (message) => curl(post("/chat", { message }), 200).then((answer) => answer.content);
  assert.equal(await sticky("[[say two]]"), "two");
  assert.equal(await sticky("history"), "History: [[say two]]");

  const members = ["bob", "eve"].map((user) => ({ user }));
  await curl(post("/sessions", { name: "team-project-review", members }), 201);
  const said = await Promise.all(
    ["local", "bob", "eve"].map(async (user) => {
      const answer = await curl(post("/team-chat", { message: `[[say hello ${user}]]` }), 200, { user });
      assert.equal(answer.content, `hello ${user}`);
      return `[[say hello ${user}]]`;
    }),
  );
  const { content } = await curl(post("/team-chat", { message: "history" }), 200, { user: "bob" });
  assert.deepEqual(content.replace("History: ", "").split(" | ").sort(), said.sort());
  await curl(post("/team-chat", { message: "me too" }), 404, { user: "mallory" });
}

await main(async (gateway) => {
  const curl = terminal(gateway.http);
  await management(curl, gateway);
  const lastly = await lifecycle(curl);
  await cloud(curl, gateway.another);
  await chats(curl);
  await lastly();
  console.log("\nEvery request was answered as its document says.");
});
