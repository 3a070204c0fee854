// Hooks: called when they should be, and obeyed.

import assert from "node:assert/strict";

import { echo } from "./fixtures.mjs";
import { conformance, say, until } from "./harness.mjs";

const NAMES = [
  "onSessionStart",
  "onUserPromptSubmitted",
  "onUserPromptTransformed",
  "onPreToolUse",
  "onPostToolUse",
  "onPostToolUseFailure",
  "onErrorOccurred",
  "onAgentStop",
  "onSessionEnd",
];

/** Every hook, writing down its calls and answering with `answers[name]`. */
function spies(answers = {}) {
  const calls = [];
  const hooks = Object.fromEntries(
    NAMES.map((name) => [
      name,
      (input) => {
        const { toolName, source, reason, prompt, stopReason, error } = input;
        const known = { name, toolName, source, reason, prompt, stopReason, error };
        calls.push(Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined)));
        return answers[name]?.(input);
      },
    ]),
  );
  return { calls, hooks };
}

conformance("hooks", {
  "every hook of a turn with a tool, in order": async (t) => {
    const { calls, hooks } = spies();
    const { session } = await t.session(await t.client(), { tools: [echo], hooks });
    await say(session, '[[tool echo {"text":"x"}]]');
    await session.disconnect();
    return calls;
  },

  "preToolUse denies": async (t) => {
    const { hooks } = spies({
      onPreToolUse: () => ({ permissionDecision: "deny", permissionDecisionReason: "policy" }),
    });
    const { session, recorder } = await t.session(await t.client(), { tools: [echo], hooks });
    const answer = await say(session, '[[tool echo {"text":"x"}]]');
    assert.doesNotMatch(answer, /<x>/);
    return { answer, lines: recorder.lines() };
  },

  "preToolUse allows without a prompt": async (t) => {
    const { hooks } = spies({ onPreToolUse: () => ({ permissionDecision: "allow" }) });
    const { session } = await t.session(await t.client(), {
      tools: [echo],
      hooks,
      onPermissionRequest: () => ({ kind: "reject" }),
    });
    return { answer: await say(session, '[[tool echo {"text":"x"}]]') };
  },

  "preToolUse changes the arguments": async (t) => {
    const { hooks } = spies({
      onPreToolUse: () => ({ permissionDecision: "allow", modifiedArgs: { text: "changed" } }),
    });
    const { session } = await t.session(await t.client(), { tools: [echo], hooks });
    const answer = await say(session, '[[tool echo {"text":"x"}]]');
    assert.match(answer, /<changed>/);
    return { answer };
  },

  "postToolUse changes the result": async (t) => {
    const { hooks } = spies({
      onPostToolUse: () => ({ modifiedResult: { textResultForLlm: "redacted", resultType: "success" } }),
    });
    const { session } = await t.session(await t.client(), { tools: [echo], hooks });
    const answer = await say(session, '[[tool echo {"text":"secret"}]]');
    assert.match(answer, /redacted/);
    return { answer };
  },

  "postToolUseFailure hears of a failed tool": async (t) => {
    const { calls, hooks } = spies();
    const failing = {
      ...echo,
      name: "failing",
      handler: () => ({ textResultForLlm: "no", resultType: "failure", error: "why" }),
    };
    const { session } = await t.session(await t.client(), { tools: [failing], hooks });
    await say(session, "[[tool failing]]");
    return calls.map((call) => call.name);
  },

  "userPromptSubmitted changes the prompt": async (t) => {
    const { hooks } = spies({ onUserPromptSubmitted: () => ({ modifiedPrompt: "something else" }) });
    const { session } = await t.session(await t.client(), { hooks });
    return { answer: await say(session, "original") };
  },

  "errorOccurred hears of the model's error": async (t) => {
    const { calls, hooks } = spies();
    const { session, recorder } = await t.session(await t.client(), { hooks });
    await session.sendAndWait({ prompt: "[[error 400 broken]]" }).catch(() => {});
    await recorder.settled();
    await until(() => calls.some((call) => call.name === "onErrorOccurred"), "the error hook", 3000).catch(
      () => {},
    );
    return calls;
  },

  "agentStop can ask for another round": async (t) => {
    let stops = 0;
    const { hooks } = spies({
      onAgentStop: () => (stops++ === 0 ? { decision: "block", reason: "one more thing" } : undefined),
    });
    const { session, recorder } = await t.session(await t.client(), { hooks });
    const answer = await say(session, "hello");
    return { answer, stops, lines: recorder.lines() };
  },

  "a hook that throws does not stop the turn": async (t) => {
    const { hooks } = spies({
      onPostToolUse: () => {
        throw new Error("broken hook");
      },
    });
    const { session } = await t.session(await t.client(), { tools: [echo], hooks });
    return { answer: await say(session, '[[tool echo {"text":"x"}]]') };
  },
});
