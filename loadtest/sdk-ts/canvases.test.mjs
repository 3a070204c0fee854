// Canvases that the client provides.

import assert from "node:assert/strict";

import { CanvasError, createCanvas } from "@github/copilot-sdk";

import { conformance, refusal, until } from "./harness.mjs";

function board(calls) {
  return createCanvas({
    id: "board",
    displayName: "Board",
    description: "A board",
    open: ({ instanceId, input }) => {
      calls.push({ open: instanceId, input });
      return { title: "The board", status: "ready" };
    },
    onClose: ({ instanceId }) => void calls.push({ close: instanceId }),
    actions: [
      { name: "draw", description: "Draws", handler: ({ input }) => ({ drawn: input }) },
      {
        name: "fail",
        description: "Fails",
        handler: () => {
          throw new CanvasError("no_ink", "out of ink");
        },
      },
    ],
  });
}

conformance("canvases", {
  "opened, used and closed": async (t) => {
    const calls = [];
    const { session, recorder } = await t.session(await t.client(), {
      canvases: [board(calls)],
      requestCanvasRenderer: true,
      canvasProvider: { id: "conformance", name: "Conformance" },
    });
    const { canvas } = session.rpc;
    const { canvases } = await canvas.list();
    const instance = await canvas.open({ canvasId: "board", instanceId: "board-1", input: { size: 3 } });
    await recorder.seen("session.canvas.opened");
    const result = await canvas.action.invoke({ instanceId: "board-1", actionName: "draw", input: { x: 1 } });
    const failure = await refusal(canvas.action.invoke({ instanceId: "board-1", actionName: "fail" }));
    const open = await canvas.listOpen();
    await canvas.close({ instanceId: "board-1" });
    await until(() => calls.some((call) => call.close), "the close");
    assert.equal(instance.title, "The board");
    return {
      listed: canvases.map((each) => each.canvasId),
      result,
      failure,
      open: open.openCanvases?.length,
      calls,
    };
  },
});
