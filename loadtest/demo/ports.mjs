// Ports of programs that are not ours.

import { createConnection, createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** A port that nobody has at the moment. */
export async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Waits until somebody listens there. */
export async function reachable(port) {
  for (let tries = 0; tries < 200; tries += 1) {
    const socket = createConnection(port, "127.0.0.1");
    const up = await new Promise((resolve) => {
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    });
    socket.destroy();
    if (up) return;
    await sleep(50);
  }
  throw new Error(`nobody listens on port ${port}`);
}
