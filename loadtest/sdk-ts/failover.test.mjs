// A CLI process that is killed in the middle of a turn, which only Jetway outlives. What the turn waited for is its
// people: it goes on in another process as if nothing had been.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { deferred, waitingTool } from "./fixtures.mjs";
import { conformance, lose, until } from "./harness.mjs";

function said({ recorder }) {
  assert.deepEqual(recorder.of("session.error"), []);
  return recorder.of("assistant.message").at(-1).data.content;
}

async function ends(recorder) {
  await recorder.settled();
  return said({ recorder });
}

async function read(config, name) {
  return readFile(join(config.workingDirectory, name), "utf8").catch(() => "");
}

const SHELL = '[[tool bash {"command":"echo once >> made","description":"make"}]]';

conformance("failover", {
  "a tool that runs while its CLI process is killed": async (t) => {
    const { tool, called, release } = waitingTool();
    const { session, recorder } = await t.session(await t.client("tool"), { tools: [tool] });
    await session.send({ prompt: "[[tool wait]]" });
    await called;
    await lose(t, "tool");
    release("late");
    const answer = await ends(recorder);
    await session.send({ prompt: "and now" });
    await recorder.seen("session.idle", 2);
    return { answer, next: recorder.of("assistant.message").at(-1).data.content };
  },

  "a person who is asked while its CLI process is killed": async (t) => {
    const [asked, answer] = [deferred(), deferred()];
    const { session, recorder, config } = await t.session(await t.client("asked"), {
      onPermissionRequest: (request) => {
        asked.resolve(request);
        return answer.promise;
      },
    });
    await session.send({ prompt: `${SHELL}[[then]][[say made it]]` });
    await asked.promise;
    await lose(t, "asked");
    answer.resolve({ kind: "approve-once" });
    return { answer: await ends(recorder), made: await read(config, "made") };
  },

  "a person who is asked by two clients while their CLI process is killed": async (t) => {
    const asked = [deferred(), deferred()];
    const answer = deferred();
    const open = (n) => ({
      onPermissionRequest: (request) => {
        asked[n].resolve(request);
        return n ? answer.promise : { kind: "no-result" };
      },
    });
    const one = await t.session(await t.client("two"), open(0));
    await one.session.send({ prompt: "hello" });
    await one.recorder.settled();
    const two = await t.resume(await t.client("two"), one.config, open(1));
    await one.session.send({ prompt: `${SHELL}[[then]][[say made it]]` });
    await Promise.all(asked.map(({ promise }) => promise));
    await lose(t, "two");
    answer.resolve({ kind: "approve-once" });
    await one.recorder.settled(2);
    return { answers: [one, two].map(said), made: await read(one.config, "made") };
  },

  // Whoever ran it again would do what it does twice.
  "a shell command that runs while its CLI process is killed": async (t) => {
    const { session, recorder, config } = await t.session(await t.client("shell"));
    const command = "echo once >> made; sleep 2; echo more >> made";
    await session.send({ prompt: `[[tool bash ${JSON.stringify({ command, description: "x" })}]]` });
    await until(async () => (await read(config, "made")) === "once\n", "its first output");
    await lose(t, "shell");
    if (t.target.kill) {
      const error = await recorder.seen("session.error");
      assert.equal(error.data.errorType, "turn_indeterminate");
    } else {
      await recorder.settled();
    }
    await session.send({ prompt: "[[say here]]" });
    await until(() => recorder.of("assistant.message").at(-1)?.data.content === "here", "the next turn");
    const lines = (await read(config, "made")).split("\n");
    return { once: lines.filter((line) => line === "once").length };
  },
});
