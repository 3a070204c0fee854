// The protocol by hand, for what the SDK would never send.

import { connect } from "node:net";

import { until } from "./harness.mjs";

/** A raw connection: frames out, parsed frames and raw bytes in. */
export class Wire {
  raw = Buffer.alloc(0);
  frames = [];
  closed = false;
  #socket;
  #parsed = 0;
  #id = 0;

  /** @param {import("./harness.mjs").Scene} t */
  static async open(t) {
    const [host, port] = t.target.address.split(":");
    const wire = new Wire();
    wire.#socket = connect(Number(port), host);
    wire.#socket.on("data", (data) => wire.#take(data));
    wire.#socket.on("close", () => (wire.closed = true));
    wire.#socket.on("error", () => {});
    t.defer(() => wire.#socket.destroy());
    await new Promise((resolve, reject) => wire.#socket.once("connect", resolve).once("error", reject));
    return wire;
  }

  /** Connects as `user`, as an SDK does. */
  static async connected(t, user = "alice") {
    const wire = await Wire.open(t);
    await wire.call("connect", { token: t.target.token(user) });
    return wire;
  }

  /** Sends `text` as the body of a frame, whatever it is. */
  send(text) {
    this.#socket.write(`Content-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`);
  }

  /** Sends a request and returns the whole answer. */
  async call(method, params) {
    const id = this.#id++;
    this.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    return until(() => this.frames.find((frame) => frame.id === id), `an answer to ${method}`);
  }

  /** The next answer after the first `from` frames. What is told of other cases' sessions comes in between. */
  answer(from) {
    return until(() => this.frames.slice(from).find((frame) => !frame.method), "an answer");
  }

  #take(data) {
    this.raw = Buffer.concat([this.raw, data]);
    for (;;) {
      const rest = this.raw.subarray(this.#parsed);
      const head = rest.indexOf("\r\n\r\n");
      if (head < 0) return;
      const length = Number(/content-length: *(\d+)/i.exec(rest.subarray(0, head).toString())[1]);
      if (rest.length < head + 4 + length) return;
      this.frames.push(JSON.parse(rest.subarray(head + 4, head + 4 + length).toString()));
      this.#parsed += head + 4 + length;
    }
  }
}
