// `make seeds`: the requests of the field's own documents, word for word but for host, token and session id,
// against Jetway and real CLI servers. Prints what was sent and answered; fails on any surprise.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";

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
const RUNNING = "curl https://cc-api.example.com/api/v1/sessions?status=running";
const COMPLETED = "curl https://cc-api.example.com/api/v1/sessions?status=completed";
const DETAIL = `curl https://cc-api.example.com/api/v1/sessions/{session_id} \\
  -H "Authorization: Bearer \${GITHUB_TOKEN}"`;
const removal = (query) => `curl -X DELETE https://cc-api.example.com/api/v1/sessions/{session_id}${query} \\
  -H "Authorization: Bearer \${GITHUB_TOKEN}"`;
/** The documents show these as handlers: what they read of a request is what is sent here. */
const post = (path, body) => `curl -X POST https://cc-api.example.com/api/v1${path} \\
  -H "Authorization: Bearer \${GITHUB_TOKEN}"${body ? ` -H "Content-Type: application/json" -d '${JSON.stringify(body)}'` : ""}`;

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
  await until(async () => (await ids(RUNNING)).length === 3, () => "all three run");
  assert.deepEqual(await ids(COMPLETED), []);

  const detail = await curl(DETAIL, 200, { id: second });
  assert.deepEqual(detail.config.timeout_minutes, 60);
  assert.deepEqual([detail.config.cpu_limit, detail.config.memory_limit], ["2", "4Gi"]);
  assert.ok(!JSON.stringify(detail).includes("ghp_"), "a secret is shown");
  const server = "-y @modelcontextprotocol/server-github ghp_xxxxx";
  // Started when its session is first asked something.
  await until(() => gateway.npx().includes(server), () => `its MCP server among: ${gateway.npx()}`);

  await curl(removal(""), 204, { id: first });
  await curl(removal("?delete_pvc=false"), 204, { id: second });
  await curl(removal("?force=true"), 204, { id: third });
  assert.deepEqual(await ids(RUNNING), []);
  const record = await curl(DETAIL, 200, { id: third });
  assert.equal(record.status, "terminated");
  assert.match(record.ended_at, TIME);
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
  await chats(curl);
  console.log("\nEvery request was answered as its document says.");
});
