// What can be changed in a session while it lives: mode, model, name, plan, metadata, options.

import assert from "node:assert/strict";

import { conformance, say } from "./harness.mjs";

conformance("settings", {
  mode: async (t) => {
    const { session, recorder } = await t.session(await t.client());
    const before = await session.rpc.mode.get();
    const set = await session.rpc.mode.set({ mode: "plan" });
    const after = await session.rpc.mode.get();
    const [changed] = recorder.of("session.mode_changed").map((event) => event.data);
    return { before, status: set.status, after, changed };
  },

  model: async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await say(session, "with the first");
    await session.setModel("another-model");
    const current = await session.rpc.model.getCurrent();
    await say(session, "with the second nonce:model-switch");
    const models = (await t.asked("model-switch")).map((entry) => entry.model);
    return { current, models: [...new Set(models)], changes: recorder.of("session.model_change").length };
  },

  "models named by the client": async (t) => {
    const { session } = await t.session(await t.client(), {
      provider: undefined,
      model: "mine/small",
      providers: [{ name: "mine", type: "openai", baseUrl: t.model.baseUrl, apiKey: "sk-mine" }],
      models: [{ id: "small", provider: "mine", wireModel: "wire-small", maxContextWindowTokens: 64000 }],
    });
    const answer = await say(session, "hi nonce:named-models");
    const listed = await session.rpc.model.list().then(
      (list) => list.list?.length ?? Object.keys(list),
      () => "refused",
    );
    return { answer, model: (await t.asked("named-models"))[0].model, listed };
  },

  name: async (t) => {
    const { session } = await t.session(await t.client());
    const before = await session.rpc.name.get();
    await session.rpc.name.set({ name: "Release notes" });
    return { before, after: await session.rpc.name.get() };
  },

  "the name survives": async (t) => {
    const client = await t.client();
    const { session, config } = await t.session(client);
    await say(session, "hello");
    await session.rpc.name.set({ name: "Kept" });
    await session.disconnect();
    const again = await t.resume(client, config);
    return again.session.rpc.name.get();
  },

  plan: async (t) => {
    const { session } = await t.session(await t.client());
    const before = await session.rpc.plan.read();
    await session.rpc.plan.update({ content: "# Plan\n1. this" });
    const after = await session.rpc.plan.read();
    await session.rpc.plan.delete();
    return { before: before.exists, after: after.content, gone: (await session.rpc.plan.read()).exists };
  },

  "the client's metadata": async (t) => {
    const { session } = await t.session(await t.client());
    await say(session, "hello");
    await session.rpc.metadata.updateClientMetadata({ set: { "app.ticket": "J-1" } });
    return session.rpc.metadata.getClientMetadata();
  },

  "processing or not": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    const idle = await session.rpc.metadata.isProcessing();
    await session.send({ prompt: "[[delay 400]] x" });
    await recorder.seen("assistant.turn_start");
    const busy = await session.rpc.metadata.isProcessing();
    await recorder.seen("session.idle");
    return { idle, busy };
  },

  log: async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await session.log("noted", { level: "warning" });
    const event = await recorder.seen("session.warning");
    return event.data.message;
  },

  "usage, as the model reports it": async (t) => {
    const { session, recorder } = await t.session(await t.client());
    await say(session, "[[usage 123 45]] count");
    const { inputTokens, outputTokens } = (await recorder.seen("assistant.usage")).data;
    assert.deepEqual([inputTokens, outputTokens], [123, 45]);
    const metrics = await session.rpc.usage.getMetrics();
    return { keys: Object.keys(metrics).sort() };
  },

  agents: async (t) => {
    const { session } = await t.session(await t.client(), {
      customAgents: [
        { name: "reviewer", displayName: "Reviewer", description: "Reviews", prompt: "You review." },
      ],
    });
    const { agents } = await session.rpc.agent.list();
    await session.rpc.agent.select({ name: "reviewer" });
    const current = await session.rpc.agent.getCurrent();
    return { listed: agents.map((agent) => agent.name), current: current.agent?.name ?? null };
  },
});
