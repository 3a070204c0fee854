// `make both-faces`: a session made over HTTP is continued by the official TypeScript SDK, and the other way round,
// on real CLI servers.

import assert from "node:assert/strict";

import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

import { PATIENCE_MS, main } from "./gateway.mjs";

/** Requests of one user. */
const requests = (http, user) => async (method, path, body, status = 200) => {
  const headers = { "Jetway-User": user, ...(body ? { "Content-Type": "application/json" } : {}) };
  const signal = AbortSignal.timeout(PATIENCE_MS);
  const address = `http://${http}/api/v1${path}`;
  const answer = await fetch(address, { method, headers, body: body && JSON.stringify(body), signal });
  const text = await answer.text();
  assert.equal(answer.status, status, `${method} ${path}: ${text}`);
  return text && JSON.parse(text);
};

await main(async ({ http, sdk }) => {
  const ada = requests(http, "ada");
  const ask = async (id, prompt) => (await ada("POST", `/sessions/${id}/messages`, { prompt })).content;
  const connection = RuntimeConnection.forUri(sdk, { connectionToken: "ada" });
  const client = new CopilotClient({ connection });
  const say = async (session, prompt) => (await session.sendAndWait({ prompt }, PATIENCE_MS)).data.content;
  const settings = { streaming: true, onPermissionRequest: approveAll };

  const { session_id: ours } = await ada("POST", "/sessions", { name: "from HTTP" }, 201);
  assert.equal(await ask(ours, "[[say one]]"), "one");
  const continued = await client.resumeSession(ours, settings);
  assert.equal(await say(continued, "history"), "History: [[say one]]");
  assert.equal(await say(continued, "[[say two]]"), "two");
  // With the SDK still there: both hear the same session.
  assert.match(await ask(ours, "history"), /\[\[say one\]\].*\[\[say two\]\]/);
  await continued.disconnect();
  console.log("made over HTTP, continued by the SDK, and by HTTP again");

  const theirs = await client.createSession(settings);
  assert.equal(await say(theirs, "[[say three]]"), "three");
  await theirs.disconnect();
  assert.equal(await ask(theirs.sessionId, "history"), "History: [[say three]]");
  const listed = (await ada("GET", "/sessions")).sessions.map((session) => session.session_id);
  assert.deepEqual(listed.sort(), [ours, theirs.sessionId].sort());
  const known = (await client.listSessions()).map((session) => session.sessionId);
  assert.ok([ours, theirs.sessionId].every((id) => known.includes(id)), known.join());
  await requests(http, "bob")("GET", `/sessions/${ours}`, undefined, 404);
  console.log("made by the SDK, continued over HTTP");

  await ada("DELETE", `/sessions/${theirs.sessionId}`, undefined, 204);
  await assert.rejects(client.resumeSession(theirs.sessionId, settings), /not found/i);
  await client.stop();
  console.log("ended over HTTP, gone for the SDK");
});
