// Several people run the same application, with the same tools, in one session. Only through Jetway: a CLI server
// takes a tool's name from one connection.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";

import { echo } from "./fixtures.mjs";
import { Scene, say, until } from "./harness.mjs";
import { startModel, startTarget } from "./processes.mjs";

/** A tool `echo` that tells whose client it ran in. */
const echoOf = (user) => ({ ...echo, handler: ({ text }) => `${user}: ${text}` });

/** Ada's session, which she shares with bob; both bring the same tool. */
async function team(t) {
  const ada = await t.client("ada");
  const { session, config } = await t.session(ada, { tools: [echoOf("ada")] });
  await say(session, "hello");
  await t.share(config.sessionId, "ada", "bob");
  const bob = await t.client("bob");
  const his = await t.resume(bob, config, { tools: [echoOf("bob")] });
  return { ada: { client: ada, session }, bob: { client: bob, ...his }, config };
}

const call = '[[tool echo {"text":"x"}]]';

describe("the same tools in one session", () => {
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
    for (const [who, { session }] of Object.entries({ ada, bob, again: ada })) {
      const user = session === ada.session ? "ada" : "bob";
      assert.match(await say(session, call), new RegExp(`returned: ${user}: x`), who);
    }
  });

  run("a tool stays when the one who brought it first is gone", async (t) => {
    const { ada, bob } = await team(t);
    await ada.client.forceStop();
    assert.match(await say(bob.session, call), /returned: bob: x/);
  });

  run("a tool stays when its bringer leaves in mid-turn", async (t) => {
    const { ada, bob } = await team(t);
    await bob.session.send({ prompt: `[[delay 1500]] ${call}` });
    await bob.recorder.seen("assistant.turn_start");
    await ada.client.forceStop();
    const answer = async () => bob.recorder.of("assistant.message").at(-1)?.data.content;
    await until(async () => /returned: bob: x/.test(await answer()), "his own tool's answer");
  });
});
