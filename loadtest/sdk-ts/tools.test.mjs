// Custom tools: results of every kind, several calls, rounds.

import assert from "node:assert/strict";

import { echo } from "./fixtures.mjs";
import { conformance, say } from "./harness.mjs";

const tool = (name, handler, extra = {}) => ({
  name,
  description: name,
  parameters: { type: "object" },
  handler,
  ...extra,
});

async function turn(t, tools, prompt, config = {}) {
  const { session, recorder } = await t.session(await t.client(), { tools, ...config });
  const answer = await say(session, prompt);
  await recorder.settled();
  return { answer, lines: recorder.lines() };
}

conformance("tools", {
  "a handler that throws": async (t) => {
    const broken = tool("broken", () => {
      throw new Error("no luck");
    });
    const outcome = await turn(t, [broken], "[[tool broken]]");
    assert.match(outcome.answer, /^tool broken returned: /);
    return outcome;
  },

  "a result that says it failed": (t) =>
    turn(
      t,
      [tool("failing", () => ({ textResultForLlm: "it failed", resultType: "failure", error: "because" }))],
      "[[tool failing]]",
    ),

  "a result that is an object": (t) =>
    turn(t, [tool("object", () => ({ a: [1, { b: null }] }))], "[[tool object]]"),
  "a result that is nothing": (t) => turn(t, [tool("nothing", () => undefined)], "[[tool nothing]]"),
  "a tool that does not exist": (t) => turn(t, [echo], "[[tool missing]]"),

  "several calls in one message": async (t) => {
    const seen = [];
    const count = tool("count", ({ n }) => {
      seen.push(n);
      return `n=${n}`;
    });
    const { session } = await t.session(await t.client(), { tools: [count, echo] });
    const answer = await say(
      session,
      '[[tool count {"n":1}]] [[tool echo {"text":"b"}]] [[tool count {"n":2}]]',
    );
    assert.deepEqual(seen.sort(), [1, 2]);
    return { answer: answer.split("\n").sort() };
  },

  "several rounds": async (t) => {
    const outcome = await turn(
      t,
      [echo],
      '[[tool echo {"text":"1"}]] [[then]] [[tool echo {"text":"2"}]] [[then]] [[say done]]',
    );
    assert.equal(outcome.answer, "done");
    return outcome;
  },

  "the invocation names the session, the call and the arguments": async (t) => {
    const seen = [];
    const spy = tool("spy", (args, invocation) => {
      seen.push({ args, ...invocation, signal: undefined, availableTools: undefined });
      return "ok";
    });
    const { session } = await t.session(await t.client(), { tools: [spy] });
    await say(session, '[[tool spy {"deep":{"a":[1,2]},"text":"ü€😀"}]]');
    assert.equal(seen[0].sessionId, session.sessionId);
    return seen;
  },

  "skipPermission needs no approval": (t) =>
    turn(t, [tool("free", () => "ok", { skipPermission: true })], "[[tool free]]", {
      onPermissionRequest: undefined,
    }),

  "overriding a built-in tool": (t) =>
    turn(t, [tool("view", () => "my view", { overridesBuiltInTool: true })], "[[tool view]]"),

  "availableTools leaves others out": async (t) => {
    const { session } = await t.session(await t.client(), {
      tools: [echo, tool("other", () => "x")],
      availableTools: ["echo"],
    });
    await say(session, "hi");
    const { tools } = await session.rpc.tools.getCurrentMetadata();
    return { tools: tools.map((each) => each.name) };
  },

  "a built-in tool works on the session's directory": async (t) => {
    const { writeFile } = await import("node:fs/promises");
    const { session, config } = await t.session(await t.client());
    await writeFile(`${config.workingDirectory}/found.txt`, "content of the file");
    const answer = await say(session, `[[tool view {"path":"${config.workingDirectory}/found.txt"}]]`);
    assert.match(answer, /content of the file/);
    return { answer };
  },

  "the shell runs in the session's directory": async (t) => {
    const { session, recorder, config } = await t.session(await t.client());
    const answer = await say(
      session,
      '[[tool bash {"command":"echo $((6*7)) > out && pwd && cat out","description":"compute"}]]',
    );
    assert.match(answer, /42/);
    assert.ok(answer.includes(config.workingDirectory));
    return { answer, lines: recorder.lines() };
  },
});
