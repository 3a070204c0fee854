// Many sessions, and much in one message.

import assert from "node:assert/strict";

import { conformance, say } from "./harness.mjs";

const MB = 1 << 20;

conformance(
  "load",
  {
    "ten sessions at once, each with its own answers": async (t) => {
      const client = await t.client();
      const turns = Array.from({ length: 10 }, async (_, n) => {
        const { session, recorder } = await t.session(client);
        const answers = [await say(session, `I am ${n}`), await say(session, "history")];
        assert.ok(
          recorder.of("user.message").every(({ data }) => ["history", `I am ${n}`].includes(data.content)),
        );
        return answers;
      });
      return Promise.all(turns);
    },

    "a prompt of a megabyte": async (t) => {
      const { session, recorder } = await t.session(await t.client(), {
        provider: t.provider({ maxPromptTokens: 4_000_000 }),
      });
      const prompt = "é€".repeat(MB / 5);
      const answer = await say(session, prompt);
      assert.ok(answer.startsWith("You said: é€"));
      assert.equal(recorder.of("user.message")[0].data.content, prompt);
      return { end: answer.slice(-20) };
    },

    "a tool's result of a megabyte": async (t) => {
      const large = {
        name: "large",
        description: "Large",
        parameters: { type: "object" },
        handler: () => "x".repeat(MB),
      };
      const { session } = await t.session(await t.client(), {
        tools: [large],
        largeOutput: { enabled: false },
        provider: t.provider({ maxPromptTokens: 4_000_000 }),
      });
      return { end: (await say(session, "[[tool large]]")).slice(-20) };
    },

    "an answer of a megabyte": async (t) => {
      const { session, recorder } = await t.session(await t.client());
      const answer = await say(session, "[[stream 1000 1048 0]]");
      assert.equal(answer.length, 1_048_000);
      assert.equal(
        recorder
          .of("assistant.message_delta")
          .map((event) => event.data.deltaContent)
          .join(""),
        answer,
      );
    },

    "a thousand pings": async (t) => {
      const client = await t.client();
      const answers = await Promise.all(Array.from({ length: 1000 }, (_, n) => client.ping(String(n))));
      assert.ok(answers.every(({ message }, n) => message === `pong: ${n}`));
    },
  },
  { concurrency: 1 },
);
