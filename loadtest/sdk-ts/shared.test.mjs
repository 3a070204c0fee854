// Sessions that several people share, which only Jetway has: everybody's turn is waited for, however it begins; and
// several may run the same application, though a CLI server takes a tool's name from one connection.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { deferred, echo, waitingTool } from "./fixtures.mjs";
import { Scene, lose, say, until } from "./harness.mjs";
import { startModel, startTarget } from "./processes.mjs";
import { Wire } from "./wire.mjs";

/** A tool `echo` that tells whose client it ran in. */
const echoOf = (user) => ({ ...echo, handler: ({ text }) => `${user}: ${text}` });

/**
 * A turn's final text, by the id of its prompt. The SDK's `sendAndWait` takes the next idle for its own, and that of
 * somebody else's turn may still be on its way to this client.
 */
async function turn({ session, recorder }, prompt) {
  const id = await session.send({ prompt });
  const begins = ({ type, data }) => type === "user.message" && data.messageId === id;
  const rest = () => recorder.events.slice(recorder.events.findIndex(begins));
  await until(() => recorder.events.some(begins) && rest().some(({ type }) => type === "session.idle"), prompt);
  return rest().findLast(({ type }) => type === "assistant.message")?.data.content;
}

/** Ada's session, which she shares with bob; both bring the same tool. */
async function team(t) {
  const ada = await t.client("ada");
  const { config, ...hers } = await t.session(ada, { tools: [echoOf("ada")] });
  await say(hers.session, "hello");
  await t.share(config.sessionId, "ada", "bob");
  const bob = await t.client("bob");
  const his = await t.resume(bob, config, { tools: [echoOf("bob")] });
  return { ada: { client: ada, ...hers }, bob: { client: bob, ...his }, config };
}

const call = '[[tool echo {"text":"x"}]]';

describe("shared sessions", () => {
  let model, target, scene;
  before(async () => {
    model = await startModel();
    target = await startTarget("jetway");
  });
  after(async () => {
    await target?.stop();
    await model?.stop();
  });
  const run = (name, of) =>
    it(name, { timeout: 60_000 }, async (test) => {
      scene = new Scene(target, model, test);
      try {
        await of(scene);
      } finally {
        await scene.close();
      }
    });

  run("each turn calls the tool of whose turn it is", async (t) => {
    const { ada, bob } = await team(t);
    for (const [user, who] of [["ada", ada], ["bob", bob], ["ada", ada]]) {
      assert.match(await turn(who, call), new RegExp(`returned: ${user}: x`));
    }
  });

  run("a tool stays when the one who brought it first is gone", async (t) => {
    const { ada, bob } = await team(t);
    await ada.client.forceStop();
    assert.match(await turn(bob, call), /returned: bob: x/);
  });

  run("a tool stays when its bringer leaves in mid-turn", async (t) => {
    const { ada, bob } = await team(t);
    const answer = turn(bob, `[[delay 1500]] ${call}`);
    await bob.recorder.seen("assistant.turn_start");
    await ada.client.forceStop();
    assert.match(await answer, /returned: bob: x/);
  });

  run("everyone hears the answer to what they said", async (t) => {
    const { ada, bob } = await team(t);
    for (let n = 0; n < 10; n += 1) {
      const answers = await Promise.all([ada, bob].map(({ session }, who) => say(session, `[[say ${who}-${n}]]`)));
      assert.deepEqual(answers, [`0-${n}`, `1-${n}`]);
      // What is still on its way to one of them would end their next call.
      const heard = ({ recorder: { events } }) => {
        const said = events.filter(({ type, data }) => type === "assistant.message" && data.content.endsWith(`-${n}`));
        return said.length === 2 && events.slice(events.indexOf(said[1])).some(({ type }) => type === "session.idle");
      };
      await until(() => [ada, bob].every(heard), "both have heard of both");
    }
  });

  run("turns that no prompt begins are waited for as well", async (t) => {
    const { ada, bob } = await team(t);
    const others = {
      fleet: (session) => session.rpc.fleet.start({ prompt: "[[delay 700]] all of you" }),
      agent: (session) =>
        session.rpc.tasks.startAgent({
          agentType: "explore",
          name: "look",
          description: "Looks",
          prompt: "[[delay 700]] look around",
        }),
    };
    for (const [what, begin] of Object.entries(others)) {
      await begin(ada.session);
      const id = await bob.session.send({ prompt: `[[say after the ${what}]]` });
      const own = () => bob.recorder.of("user.message").find((event) => event.data.messageId === id);
      await until(own, "his prompt");
      // Nothing else ran when it came.
      assert.equal(own().data.delivery, "idle", what);
    }
  });

  run("a turn that waits for its people outlives its CLI process", async (t) => {
    const [asked, answer] = [deferred(), deferred()];
    const onPermissionRequest = (request) => {
      asked.resolve(request);
      return answer.promise;
    };
    const ada = await t.session(await t.client("ada"), { onPermissionRequest });
    await say(ada.session, "hello");
    await t.share(ada.config.sessionId, "ada", "bob");
    const { tool, called, release } = waitingTool();
    const bob = await t.resume(await t.client("bob"), ada.config, { tools: [tool] });

    // Ada is asked whether a tool of bob's may run in her turn; then it does. Each time their process is killed.
    const id = await ada.session.send({ prompt: "[[tool wait]]" });
    await asked.promise;
    const next = bob.session.send({ prompt: "[[say and now bob]]" });
    await lose(t, "ada");
    answer.resolve({ kind: "approve-once" });
    let runs = false;
    called.then(() => (runs = true));
    await until(() => runs || ada.recorder.of("session.error").length, "a call of bob's tool");
    await lose(t, "ada");
    release("late");

    const said = ({ recorder }) => recorder.of("assistant.message").map(({ data }) => data.content);
    await until(() => [ada, bob].every((who) => said(who).at(-1) === "and now bob"), "bob's turn");
    assert.match(said(bob).at(-2), /returned: late/);
    const begun = bob.recorder.of("user.message").map(({ data }) => data.messageId);
    assert.deepEqual(begun.slice(-2), [id, await next]);
    for (const { recorder } of [ada, bob]) assert.deepEqual(recorder.of("session.error"), []);
  });

  run("turns that would begin by themselves are refused", async (t) => {
    const { config } = await team(t);
    const wire = await Wire.connected(t, "ada");
    const params = { sessionId: config.sessionId, interval: "10s", prompt: "tick" };
    const { error } = await wire.call("session.schedule.add", params);
    assert.equal(error?.data.rule, "own_time", JSON.stringify(error));
  });
});
