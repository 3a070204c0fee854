// `make demo`: a real conversation through Jetway, told as it happens.
//
// Starts Jetway on its embedded defaults and, without COPILOT_GITHUB_TOKEN, our scripted model; lets two users
// talk at once with the official, unmodified SDK; then stays up until Ctrl-C (DEMO_ONCE=1: exits).

import { spawn } from "node:child_process";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

import { CopilotClient, RuntimeConnection, defineTool } from "@github/copilot-sdk";

const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
const real = Boolean(process.env.COPILOT_GITHUB_TOKEN);
const once = process.env.DEMO_ONCE === "1";
const START_MS = 30_000;
const TURN_MS = real ? 120_000 : 20_000;

const colour = process.stdout.isTTY ? (n, text) => `\x1b[${n}m${text}\x1b[0m` : (_, text) => text;
const say = (text = "") => console.log(text);
const step = (text) => say(`\n${colour(1, text)}`);

/** Starts one of our programs and reads the addresses that it announces, as `{ name: address }`. */
async function launch(program, args, names) {
  const child = spawn(join(root, "target/release", program), args, { cwd: root, stdio: ["ignore", "pipe", "pipe"] });
  const errors = [];
  createInterface(child.stderr).on("line", (line) => errors.push(line) > 20 && errors.shift());
  const found = {};
  await new Promise((ready, fail) => {
    const why = (reason) => fail(new Error(`${program} ${reason}\n${errors.join("\n")}`));
    const timer = setTimeout(() => why("was not ready in time"), START_MS);
    child.once("error", (error) => why(error.message));
    child.once("exit", (code) => why(`ended with exit code ${code}`));
    createInterface(child.stdout).on("line", (line) => {
      const [, name, address] = line.match(/^(.+?) listening on (\S+)$/) ?? [];
      if (name) found[name] = address;
      if (names.every((name) => found[name])) ready(clearTimeout(timer));
    });
  });
  const exited = new Promise((done) => child.once("exit", done));
  const stop = () => {
    child.kill("SIGTERM");
    return exited;
  };
  return { found, exited, stop };
}

/** What each user says; for the scripted model the prompt says what is to happen. */
const prompts = {
  hello: real ? "Say hello in one short sentence." : "[[say Hello! Every word of this came as a delta of its own.]]",
  tool: real ? "Use the weather tool for Kyoto and tell me the result." : '[[tool weather {"city":"Kyoto"}]]',
  shell: real ? "Run `echo hello from the shell` and show its output." : '[[tool bash {"command":"echo hello from the shell","description":"greet"}]]',
  history: real ? "What did I ask you so far? One line." : "history",
};

const weather = (asked) =>
  defineTool("weather", {
    description: "The weather in a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    skipPermission: true,
    handler: ({ city }) => {
      asked.push(city);
      return `${city}: sunny, 22 degrees`;
    },
  });

/** One user's conversation. Every line it prints begins with the user's name. */
async function converse(user, address, model) {
  const tell = (text) => say(`  ${colour(user === "ada" ? 36 : 35, user.padEnd(5))} ${text}`);
  const connection = RuntimeConnection.forUri(address, { connectionToken: user });
  const client = new CopilotClient({ connection });
  const [cities, permissions] = [[], []];
  const config = {
    ...(real ? {} : { model: "scripted", provider: { type: "openai", baseUrl: model, apiKey: "not-needed" } }),
    streaming: true,
    tools: [weather(cities)],
    onPermissionRequest: (request) => {
      permissions.push(request.kind);
      tell(`${colour(33, "permission")} asked for "${request.kind}" … approved once`);
      return { kind: "approve-once" };
    },
  };
  const turn = async (session, prompt) => {
    const deltas = [];
    const off = session.on("assistant.message_delta", (event) => deltas.push(event.data.deltaContent));
    tell(`${colour(2, "asks   ")} ${prompt}`);
    const answer = await session.sendAndWait({ prompt }, TURN_MS);
    off();
    tell(`${colour(32, "hears  ")} ${deltas.join(colour(2, "|"))}  ${colour(2, `(${deltas.length} deltas)`)}`);
    if (!answer || deltas.length === 0) throw new Error(`${user}: no streamed answer to ${prompt}`);
    return answer.data.content;
  };

  const session = await client.createSession(config);
  tell(`session ${session.sessionId} on a Copilot CLI process of ${user}'s own`);
  await turn(session, prompts.hello);
  await turn(session, prompts.tool);
  if (cities.length === 0) throw new Error(`${user}: the custom tool was not called`);
  tell(`${colour(33, "tool")} weather was called here, in this program, for ${cities.join()}`);
  await turn(session, prompts.shell);
  if (permissions.length === 0) throw new Error(`${user}: no permission was asked`);
  await session.disconnect();
  tell("left the session …");
  const resumed = await client.resumeSession(session.sessionId, config);
  tell("… and resumed it");
  const history = await turn(resumed, prompts.history);
  if (!real && !history.includes("Kyoto")) throw new Error(`${user}: the history is gone: ${history}`);
  await resumed.disconnect();
  await client.stop();
}

function next({ sdk, admin }, model) {
  const provider = real ? "" : `, provider: { type: "openai", baseUrl: "${model}" }, model: "scripted"`;
  say(`
${colour(1, "Jetway is up.")} What to try next:

  your own application   new CopilotClient({ connection: RuntimeConnection.forUri("${sdk}", { connectionToken: "your-name" }) })
                         createSession({ onPermissionRequest: approveAll${provider} })
  another SDK            any official Copilot SDK takes the address ${sdk}; the connection token is the user's name
  is it ready?           curl http://${admin}/readyz
  metrics                curl http://${admin}/metrics
  real models            COPILOT_GITHUB_TOKEN=… make demo
  configuration          target/release/jetway check     (everything there is, with its defaults)
  keys for real users    target/release/jetway key new --tenant acme

Ctrl-C stops it.`);
}

const programs = [];
const stopAll = async () => {
  for (const program of programs.splice(0).reverse()) await program.stop();
};
try {
  step("Starting Jetway on its embedded defaults: no Redis, no account");
  const model = real ? undefined : await launch("scripted-model", [], ["scripted model"]);
  if (model) programs.push(model);
  const jetway = await launch("jetway", [], ["sdk", "admin"]);
  programs.push(jetway);
  const modelUrl = model?.found["scripted model"];
  say(`  SDK port ${jetway.found.sdk}, admin port ${jetway.found.admin}`);
  say(real ? "  models: Copilot's" : `  models: our own scripted one (${modelUrl}); the prompts below tell it what to do`);
  step("Two users talk at once, each to a Copilot CLI process of their own");
  await Promise.all(["ada", "linus"].map((user) => converse(user, jetway.found.sdk, modelUrl)));
  step("Everything worked.");
  if (!once) {
    next(jetway.found, modelUrl);
    await Promise.race([new Promise((stop) => ["SIGINT", "SIGTERM"].forEach((s) => process.once(s, stop))), jetway.exited]);
    say("\nstopping …");
  }
  await stopAll();
} catch (error) {
  say(`\n${colour(31, "The demo failed:")} ${error.message}`);
  await stopAll();
  process.exitCode = 1;
}
