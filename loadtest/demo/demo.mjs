// `make demo`: a real conversation through Jetway, told as it happens.
//
// Starts Jetway on its embedded defaults and, without COPILOT_GITHUB_TOKEN, our scripted model; lets two users
// talk at once with the official, unmodified SDK; then stays up until Ctrl-C (DEMO_ONCE=1: exits).

import { execFile } from "node:child_process";
import { promisify } from "node:util";

import { CopilotClient, RuntimeConnection, defineTool } from "@github/copilot-sdk";

import { Interrupted, launch, runtimes, withPrograms } from "./launch.mjs";

const real = Boolean(process.env.COPILOT_GITHUB_TOKEN);
const once = process.env.DEMO_ONCE === "1";
const TURN_MS = real ? 120_000 : 20_000;

const colour = process.stdout.isTTY ? (n, text) => `\x1b[${n}m${text}\x1b[0m` : (_, text) => text;
const [bold, dim, red, green, yellow] = [1, 2, 31, 32, 33].map((n) => (text) => colour(n, text));

/** Words of a user that come within this time are shown together, lest two who talk at once take turns word by word. */
const TOGETHER_MS = 150;

/** The one place that prints. A line of words goes on until somebody else has something to say. */
const stage = {
  speaker: undefined,
  waiting: new Map(),

  line(text = "", speaker) {
    if (speaker) this.flush(speaker);
    process.stdout.write(`${this.speaker ? "\n" : ""}${text}\n`);
    this.speaker = undefined;
  },

  word(speaker, prefix, text) {
    const words = this.waiting.get(speaker);
    if (words) words.text += text;
    else {
      this.waiting.set(speaker, { prefix, text });
      setTimeout(() => this.flush(speaker), TOGETHER_MS);
    }
  },

  flush(speaker) {
    const words = this.waiting.get(speaker);
    if (!words) return;
    this.waiting.delete(speaker);
    if (this.speaker !== speaker) process.stdout.write(`${this.speaker ? "\n" : ""}${words.prefix}`);
    this.speaker = speaker;
    process.stdout.write(words.text);
  },
};
const say = (text) => stage.line(text);
const step = (text) => say(`\n${bold(text)}`);

/** What a user says; for the scripted model the prompt says what is to happen. */
const prompts = (city) => ({
  hello: real ? "Say hello in one short sentence." : "[[say Hello! Each of these words came as a delta of its own.]]",
  tool: real ? `Use the weather tool for ${city} and tell me the result.` : `[[tool weather {"city":"${city}"}]]`,
  shell: real
    ? "Run `echo hello from the shell` and show its output."
    : '[[tool bash {"command":"echo hello from the shell","description":"greet"}]]',
  history: real ? "What did I ask you so far? One line." : "history",
});

/** A tool of this program's own, which the model may call. */
const weather = (called) =>
  defineTool("weather", {
    description: "The weather in a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    skipPermission: true,
    handler: ({ city }) => {
      called(city);
      return `${city}: sunny, 22 degrees`;
    },
  });

/** One user of the demo: an SDK client, and a voice on the stage. */
class User {
  cities = [];
  permissions = [];

  constructor(name, shade, city) {
    [this.name, this.city, this.prompts] = [name, city, prompts(city)];
    this.prefix = (what, paint) => `  ${colour(shade, name.padEnd(5))} ${paint(what.padEnd(10))} `;
  }

  tell(what, text, paint = dim) {
    stage.line(`${this.prefix(what, paint)} ${text}`, this.name);
  }

  settings(model) {
    return {
      ...(real ? {} : { model: "scripted", provider: { type: "openai", baseUrl: model, apiKey: "not-needed" } }),
      streaming: true,
      tools: [
        weather((city) => {
          this.cities.push(city);
          this.tell("tool", `the model called this program's own weather tool for ${city}`, yellow);
        }),
      ],
      onPermissionRequest: (request) => {
        this.permissions.push(request.kind);
        const what = request.fullCommandText ?? request.kind;
        this.tell("permission", `the CLI asks whether it may run: ${what}   → approved once`, yellow);
        return { kind: "approve-once" };
      },
    };
  }

  /** Says `prompt`, shows the answer's deltas as they come, and returns it. */
  async turn(session, prompt) {
    let deltas = 0;
    const off = session.on("assistant.message_delta", ({ data }) => {
      const prefix = this.prefix(deltas++ ? "…" : "hears", green);
      stage.word(this.name, `${prefix} `, data.deltaContent.replaceAll("\n", " ⏎ ") + dim("·"));
    });
    this.tell("asks", prompt);
    const answer = await session.sendAndWait({ prompt }, TURN_MS);
    off();
    stage.flush(this.name);
    if (!answer || deltas === 0) throw new Error(`${this.name}: no streamed answer to ${prompt}`);
    return answer.data.content;
  }

  async converse(address, model) {
    const connection = RuntimeConnection.forUri(address, { connectionToken: this.name });
    const client = new CopilotClient({ connection });
    const settings = this.settings(model);
    const session = await client.createSession(settings);
    this.tell("session", session.sessionId);
    await this.turn(session, this.prompts.hello);
    await this.turn(session, this.prompts.tool);
    if (this.cities.length === 0) throw new Error(`${this.name}: the custom tool was not called`);
    await this.turn(session, this.prompts.shell);
    if (this.permissions.length === 0) throw new Error(`${this.name}: no permission was asked`);

    await session.disconnect();
    this.tell("session", "left");
    const resumed = await client.resumeSession(session.sessionId, settings);
    this.tell("session", "resumed: what was said is still there");
    const history = await this.turn(resumed, this.prompts.history);
    if (!real && !history.includes(this.city)) throw new Error(`${this.name}: the history is gone: ${history}`);
    await resumed.disconnect();
    await client.stop();
  }
}

/** The same without an SDK: what `next` prints, each as it is typed. */
function requests(http) {
  const post = (path, body) =>
    `curl -sS http://${http}/api/v1${path} -H 'Jetway-User: ada' -H 'Content-Type: application/json' -d '${JSON.stringify(body)}'`;
  const hello = { prompt: prompts("").hello };
  return {
    create: post("/sessions", { name: "first over HTTP" }),
    ask: post("/sessions/latest/messages", hello),
    stream: `${post("/sessions/latest/messages", hello)} -N -H 'Accept: text/event-stream'`,
  };
}

/** Types them into a shell. */
async function overHttp(http) {
  const { create, ask, stream } = requests(http);
  const shell = async (line) => (await promisify(execFile)("bash", ["-c", line], { timeout: TURN_MS })).stdout;
  const made = JSON.parse(await shell(create));
  stage.line(`  ${dim("made")}      session ${made.name}, ${made.session_id}`);
  const { content } = JSON.parse(await shell(ask));
  if (!content) throw new Error("no answer over HTTP");
  stage.line(`  ${dim("answered")}  ${content}`);
  const events = (await shell(stream)).match(/^event: .*$/gm) ?? [];
  if (!events.includes("event: jetway.turn_ended")) throw new Error(`a turn without an end: ${events}`);
  stage.line(`  ${dim("streamed")}  ${events.length} events, from ${events[0].slice(7)} to ${events.at(-1).slice(7)}`);
}

function next({ sdk, http, admin }, model) {
  const byok = real ? "" : `\n      model: "scripted", provider: { type: "openai", baseUrl: "${model}", apiKey: "any" },`;
  say(`
${bold("Jetway is up.")} What to try next:

  ${bold("Your own application")}, with the official SDK as it is (npm install @github/copilot-sdk):

    import { CopilotClient, RuntimeConnection, approveAll } from "@github/copilot-sdk";

    const client = new CopilotClient({
      connection: RuntimeConnection.forUri("${sdk}", { connectionToken: "your-name" }),
    });
    const session = await client.createSession({
      onPermissionRequest: approveAll,${byok}
    });
    console.log((await session.sendAndWait({ prompt: "hello" })).data.content);
    await client.stop();

  Any official SDK will do: the address is ${sdk}, the connection token is the user's name.
  Each new name gets a CLI process of its own.

  ${bold("HTTP")}, from anything that has it: make a session, say something, see an answer as it comes:

    ${Object.values(requests(http)).join("\n\n    ")}

  ${bold("The whole contract")}     http://${http}/docs, http://${http}/api/v1/openapi.json
  ${bold("Is it ready?")}           curl http://${admin}/readyz
  ${bold("Metrics")}                curl http://${admin}/metrics
  ${bold("Copilot's own models")}   COPILOT_GITHUB_TOKEN=… make demo
  ${bold("Configuration")}          target/release/jetway check      (every key, with its default)
  ${bold("Keys for real users")}    target/release/jetway key new --tenant acme

${bold("Ctrl-C")} stops it.`);
}

/** Why the demo failed, and what to do where we know it. */
function explain(error) {
  const [, key] = error.message.match(/cannot listen on listen\.(\w+).*Address already in use/) ?? [];
  const remedy = key
    ? `\n\nAnother program listens there, perhaps another demo. Stop it, or choose another port:\n\n` +
      `  JETWAY__LISTEN__${key.toUpperCase()}=127.0.0.1:0 make demo`
    : "";
  return error.message + remedy;
}

async function demo() {
  step("Starting Jetway on its embedded defaults: no Redis, no account");
  const model = real ? undefined : (await launch("scripted-model", [], ["scripted model"])).found["scripted model"];
  // Sessions that name no model provider have this one; sessions of the SDK name theirs.
  const provider = { JETWAY__TENANTS__DEFAULT__PROVIDER__BASE_URL: model, JETWAY__TENANTS__DEFAULT__PROVIDER__MODEL: "scripted" };
  const env = { ...process.env, ...(real ? {} : provider) };
  const jetway = await launch("jetway", [], ["sdk", "http", "admin"], { env });
  const ports = jetway.found;
  say(`  Jetway   SDK port ${ports.sdk}, HTTP port ${ports.http}, admin port ${ports.admin}`);
  say(real ? "  models   Copilot's" : `  models   ${model}, our own scripted one: [[…]] in a prompt tells it what to do`);

  step("Two users talk at once, with the official TypeScript SDK as it is");
  say(dim("  SDK (this program) → Jetway → a Copilot CLI server of the user's own → model"));
  say(dim("  each · ends a delta of the streamed answer\n"));
  const users = [new User("ada", 36, "Kyoto"), new User("linus", 35, "Oslo")];
  await Promise.all(users.map((user) => user.converse(ports.sdk, model)));
  const processes = runtimes(jetway.pid);
  if (processes.length < users.length) throw new Error("the users shared a CLI process");
  say(`\n  Jetway started a CLI process for each of them: ${processes.map((pid) => `pid ${pid}`).join(", ")}`);
  step("The same over HTTP, with curl");
  await overHttp(ports.http);
  step("Everything worked.");
  if (once) return;
  next(ports, model);
  throw new Error(await jetway.exited);
}

try {
  await withPrograms(demo);
} catch (error) {
  if (!(error instanceof Interrupted)) {
    say(`\n${red("The demo failed:")} ${explain(error)}`);
    process.exitCode = 1;
  }
}
process.exit();
