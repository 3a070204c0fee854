// A small MCP server over stdio: one tool that adds, one that asks the user.

import { createInterface } from "node:readline";

const send = (message) => process.stdout.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
const text = (content) => ({ content: [{ type: "text", text: content }] });

const tools = [
  {
    name: "add",
    description: "Adds two numbers",
    inputSchema: {
      type: "object",
      properties: { a: { type: "number" }, b: { type: "number" } },
      required: ["a", "b"],
    },
  },
  { name: "ask", description: "Asks the user", inputSchema: { type: "object", properties: {} } },
  { name: "fail", description: "Fails", inputSchema: { type: "object", properties: {} } },
];

const requestedSchema = { type: "object", properties: { color: { type: "string" } }, required: ["color"] };
const asking = new Map();

function call(id, { name, arguments: args }) {
  if (name === "add")
    return send({ id, result: text(`sum=${args.a + args.b} env=${process.env.MCP_MARK ?? ""}`) });
  if (name === "fail") return send({ id, result: { ...text("it failed"), isError: true } });
  const question = `ask-${id}`;
  asking.set(question, id);
  send({ id: question, method: "elicitation/create", params: { message: "which color?", requestedSchema } });
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const { id, method, params, result } = JSON.parse(line);
  if (asking.has(id)) {
    send({ id: asking.get(id), result: text(`the user said ${JSON.stringify(result ?? null)}`) });
    asking.delete(id);
  } else if (method === "initialize") {
    const { protocolVersion } = params;
    send({
      id,
      result: {
        protocolVersion,
        capabilities: { tools: {} },
        serverInfo: { name: "tiny", version: "1.0.0" },
      },
    });
  } else if (method === "tools/list") {
    send({ id, result: { tools } });
  } else if (method === "tools/call") {
    call(id, params);
  } else if (id !== undefined) {
    send({ id, error: { code: -32601, message: "no such method" } });
  }
});
