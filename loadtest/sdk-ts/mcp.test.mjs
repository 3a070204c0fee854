// MCP servers that the client brings: by command, and over HTTP with OAuth.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";

import { conformance, say, until } from "./harness.mjs";

const SERVER = fileURLToPath(new URL("mcp-server.mjs", import.meta.url));
const tiny = {
  type: "local",
  command: process.execPath,
  args: [SERVER],
  env: { MCP_MARK: "mark" },
  tools: ["*"],
};

/** An MCP server over HTTP that wants a bearer token. */
async function guarded(t) {
  const tokens = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => {
      const origin = `http://${request.headers.host}`;
      const json = (status, value, headers = {}) => {
        response.writeHead(status, { "content-type": "application/json", ...headers });
        response.end(value === undefined ? "" : JSON.stringify(value));
      };
      if (request.url.includes(".well-known/oauth-protected-resource")) {
        return json(200, { resource: `${origin}/mcp`, authorization_servers: [origin] });
      }
      if (request.url !== "/mcp") return json(404, {});
      const { authorization } = request.headers;
      if (authorization !== "Bearer good-token") {
        const where = `Bearer resource_metadata="${origin}/.well-known/oauth-protected-resource"`;
        return json(401, {}, { "www-authenticate": where });
      }
      tokens.push(authorization);
      if (request.method !== "POST") return json(405, {});
      const { id, method, params } = JSON.parse(body);
      if (id === undefined) return json(202);
      const results = {
        initialize: {
          protocolVersion: params?.protocolVersion,
          capabilities: { tools: {} },
          serverInfo: { name: "g", version: "1" },
        },
        "tools/list": {
          tools: [{ name: "hello", description: "Greets", inputSchema: { type: "object", properties: {} } }],
        },
        "tools/call": { content: [{ type: "text", text: "hello from behind the guard" }] },
      };
      json(200, { jsonrpc: "2.0", id, result: results[method] ?? {} });
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.defer(() => server.closeAllConnections() ?? server.close());
  return { url: `http://127.0.0.1:${server.address().port}/mcp`, tokens };
}

conformance("MCP", {
  "a server by command": async (t) => {
    const { session, recorder } = await t.session(await t.client(), { mcpServers: { tiny } });
    const answer = await say(session, '[[tool tiny-add {"a":2,"b":40}]]');
    assert.match(answer, /sum=42 env=mark/);
    const { servers } = await session.rpc.mcp.list();
    return {
      answer,
      servers: servers.map(({ name, status }) => ({ name, status })),
      lines: recorder.lines(),
    };
  },

  "its tools can be limited": async (t) => {
    const { session } = await t.session(await t.client(), {
      mcpServers: { tiny: { ...tiny, tools: ["add"] } },
    });
    await say(session, "hello");
    const { tools } = await session.rpc.tools.getCurrentMetadata();
    return tools.map((tool) => tool.name).filter((name) => name.startsWith("tiny"));
  },

  "a tool that fails": async (t) => {
    const { session } = await t.session(await t.client(), { mcpServers: { tiny } });
    return { answer: await say(session, "[[tool tiny-fail]]") };
  },

  "a hook before its tools": async (t) => {
    const called = [];
    const hooks = {
      onPreMcpToolCall: ({ serverName, toolName }) => void called.push({ serverName, toolName }),
    };
    const { session } = await t.session(await t.client(), { mcpServers: { tiny }, hooks });
    await say(session, '[[tool tiny-add {"a":1,"b":1}]]');
    return called;
  },

  "elicitation by a server": async (t) => {
    const asked = [];
    const { session } = await t.session(await t.client(), {
      mcpServers: { tiny },
      onElicitationRequest: ({ message, elicitationSource }) => {
        asked.push({ message, elicitationSource });
        return { action: "accept", content: { color: "blue" } };
      },
    });
    const answer = await say(session, "[[tool tiny-ask]]");
    assert.match(answer, /blue/);
    return { answer, asked };
  },

  "a command that does not exist": async (t) => {
    const { session } = await t.session(await t.client(), {
      mcpServers: { none: { ...tiny, command: "/no/such/program" } },
    });
    const answer = await say(session, "hello");
    const { servers } = await session.rpc.mcp.list();
    return { answer, servers: servers.map(({ name, status }) => ({ name, status })) };
  },

  "OAuth, with a token from the client": async (t) => {
    const { url, tokens } = await guarded(t);
    const asked = [];
    const { session } = await t.session(await t.client(), {
      mcpServers: { guarded: { type: "http", url, tools: ["*"] } },
      onMcpAuthRequest: ({ serverName, reason }) => {
        asked.push({ serverName, reason });
        return { kind: "token", accessToken: "good-token" };
      },
    });
    await say(session, "hello");
    await until(() => tokens.length, "the token at the server");
    // The CLI asks for the server's tools after that.
    const connected = async () => (await session.rpc.mcp.list()).servers.some(({ status }) => status === "connected");
    await until(connected, "the server's tools");
    const answer = await say(session, "[[tool guarded-hello]]");
    assert.match(answer, /behind the guard/);
    return { answer, asked };
  },

  "OAuth, cancelled by the client": async (t) => {
    const { url, tokens } = await guarded(t);
    const { session } = await t.session(await t.client(), {
      mcpServers: { guarded: { type: "http", url, tools: ["*"] } },
      onMcpAuthRequest: () => ({ kind: "cancelled" }),
    });
    const answer = await say(session, "hello");
    assert.equal(tokens.length, 0);
    return { answer };
  },
});
