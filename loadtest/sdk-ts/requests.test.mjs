// Requests from the server to the client: user input, elicitation, commands, system message, tokens.

import assert from "node:assert/strict";

import { conformance, refusal, say, until } from "./harness.mjs";

conformance("requests to the client", {
  "user input, from choices": async (t) => {
    const asked = [];
    const { session, recorder } = await t.session(await t.client(), {
      onUserInputRequest: (request) => {
        asked.push(request);
        return { answer: "blue", wasFreeform: false };
      },
    });
    const answer = await say(
      session,
      '[[tool ask_user {"question":"which color?","choices":["red","blue"]}]]',
    );
    assert.match(answer, /blue/);
    return { answer, asked, lines: recorder.lines() };
  },

  "user input, in the user's own words": async (t) => {
    const { session } = await t.session(await t.client(), {
      onUserInputRequest: () => ({ answer: "something between", wasFreeform: true }),
    });
    return { answer: await say(session, '[[tool ask_user {"question":"which color?"}]]') };
  },

  "a user input handler that throws": async (t) => {
    const { session } = await t.session(await t.client(), {
      onUserInputRequest: () => {
        throw new Error("nobody here");
      },
    });
    return { answer: await say(session, '[[tool ask_user {"question":"anyone?"}]]') };
  },

  "elicitation by the model": async (t) =>
    t.skip(
      "runtime 1.0.85 ignores askUserVariant: its ask_user answers that this session uses the legacy format",
    ),

  "elicitation by the client itself": async (t) => {
    const { session } = await t.session(await t.client(), {
      onElicitationRequest: ({ message }) => ({
        action: message === "sure?" ? "accept" : "decline",
        content: { confirmed: true },
      }),
    });
    assert.equal(session.capabilities.ui?.elicitation, true);
    const sure = await session.ui.confirm("sure?");
    const select = await session.ui.select("which?", ["a", "b"]);
    return { sure, select };
  },

  "elicitation without a handler": async (t) => {
    const { session } = await t.session(await t.client());
    return {
      capable: session.capabilities.ui?.elicitation ?? false,
      refused: await refusal(session.ui.confirm("sure?")),
    };
  },

  commands: async (t) => {
    const ran = [];
    const { session } = await t.session(await t.client(), {
      commands: [
        {
          name: "deploy",
          description: "Deploys",
          handler: ({ commandName, args }) => void ran.push({ commandName, args }),
        },
      ],
    });
    const { commands } = await session.rpc.commands.list({ includeClientCommands: true });
    const result = await session.rpc.commands.execute({ commandName: "deploy", args: "staging now" });
    await until(() => ran.length, "the command");
    return { listed: commands.some((command) => command.name === "deploy"), result, ran };
  },

  "a command that fails": async (t) => {
    const handler = () => {
      throw new Error("no such stage");
    };
    const { session } = await t.session(await t.client(), { commands: [{ name: "deploy", handler }] });
    return session.rpc.commands.execute({ commandName: "deploy", args: "" });
  },

  "the system message is transformed": async (t) => {
    const seen = [];
    const { session, recorder } = await t.session(await t.client(), {
      systemMessage: {
        mode: "customize",
        sections: {
          tone: {
            action: (content) => {
              seen.push(content.length > 0);
              return "Speak like a pirate.";
            },
          },
          safety: { action: "remove" },
        },
        content: "Added at the end.",
      },
    });
    await say(session, "ahoy");
    const { content } = recorder.of("system.message").at(-1).data;
    assert.match(content, /Speak like a pirate\./);
    assert.match(content, /Added at the end\./);
    return { seen };
  },

  "the system message is replaced": async (t) => {
    const { session, recorder } = await t.session(await t.client(), {
      systemMessage: { mode: "replace", content: "Only this." },
    });
    await say(session, "hi");
    return { content: recorder.of("system.message").at(-1).data.content };
  },

  "leaving plan mode is asked about": async (t) => {
    const asked = [];
    const { session } = await t.session(await t.client(), {
      onExitPlanModeRequest: ({ summary, actions }) => {
        asked.push({ summary, actions });
        return { approved: true, selectedAction: "interactive" };
      },
    });
    await session.rpc.mode.set({ mode: "plan" });
    await session.rpc.plan.update({ content: "# Plan" });
    const answer = await say(
      session,
      '[[tool exit_plan_mode {"summary":"all planned","actions":["interactive"],"recommendedAction":"interactive"}]]',
    );
    return { answer, asked, mode: await session.rpc.mode.get() };
  },

  "switching the model automatically": async (t) =>
    t.skip("only a quota error of Copilot's own models asks for it"),
  "a GitHub token from the client": async (t) => t.skip("needs an account"),

  "a bearer token is asked for": async (t) => {
    const asked = [];
    const provider = t.provider({
      apiKey: undefined,
      bearerTokenProvider: async ({ providerName }) => {
        asked.push(providerName);
        return "token-of-the-moment";
      },
    });
    const { session } = await t.session(await t.client(), { provider });
    await say(session, "hi nonce:bearer");
    const { createHash } = await import("node:crypto");
    const prefix = createHash("sha256").update("token-of-the-moment").digest("hex").slice(0, 12);
    const [entry] = (await t.asked("bearer")).slice(-2);
    assert.equal(entry.api_key_sha256_prefix, prefix);
    return { asked: [...new Set(asked)] };
  },

  "a bearer token that cannot be had": async (t) => {
    const provider = t.provider({
      apiKey: undefined,
      bearerTokenProvider: () => Promise.reject(new Error("vault is sealed")),
    });
    const { session } = await t.session(await t.client(), { provider });
    return refusal(session.sendAndWait({ prompt: "hi" }, 50_000));
  },
});
