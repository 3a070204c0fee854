// What a case may compare: events and outcomes without the parts that differ from run to run.

/** Ephemeral chatter whose number and place vary between two runs of the same turn. */
const UNSTABLE = [
  /^model\./,
  /^pending_messages\.modified$/,
  /^session\.(title_changed|skills_loaded|mcp_servers_loaded|mcp_server_status_changed|tools_updated|usage_info)$/,
  /^session\.(custom_agents_updated|extensions_loaded|background_tasks_changed|context_changed|info|usage_checkpoint)$/,
  /^assistant\.(streaming_delta|usage|intent|tool_call_delta|reasoning_delta)$/,
  /^(system\.message|commands\.changed|capabilities\.changed|sandbox\.decision)$/,
  // Acknowledgements, which overtake what they acknowledge: the tool's end tells the outcome.
  /^(permission\.completed|external_tool\.completed|user_input\.completed|elicitation\.completed)$/,
  /^(command\.completed|hook\.(start|end)|tool\.execution_(partial_result|progress))$/,
  // A resuming client may hear of its own resumption once or twice.
  /^session\.(resume|managed_settings_resolved)$/,
  // An abort is reported beside the end that it causes, before or after it; `session.idle` comes last.
  /^(abort|agent\.interrupted)$/,
];

const REPLACEMENTS = [
  [/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "<uuid>"],
  [/call_[0-9a-f]+_/g, "call_"],
  [/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)/g, "<time>"],
  [/(\/[\w.-]+)*\/jetway-sdk-[\w-]+(\/[\w.-]+)*/g, "<path>"],
  [/127\.0\.0\.1:\d+/g, "<address>"],
  [/\b\d+\.\d+\.\d+(-\d+)?\b/g, "<version>"],
  [/shellId: \d+/g, "shellId: <n>"],
  [/(GenericFailure, ?)/g, ""],
  [/\d+\.\d+ seconds/g, "<n> seconds"],
];

/** Replaces ids, times, paths, addresses and versions in every string of `value`. */
export function normalise(value) {
  if (typeof value === "string") {
    return REPLACEMENTS.reduce((text, [pattern, by]) => text.replace(pattern, by), value);
  }
  if (Array.isArray(value)) return value.map(normalise);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, normalise(inner)]));
  }
  return value;
}

/** The part of an event's data that says what happened. */
function gist({ type, data }) {
  switch (type) {
    case "assistant.message":
      return [data.content, ...(data.toolRequests ?? []).map((call) => `→${call.name}`)]
        .filter(Boolean)
        .join(" ");
    case "user.message":
      return data.content;
    case "tool.execution_start":
      return data.toolName;
    case "tool.execution_complete":
      return data.success ? "ok" : `failed: ${data.error?.message}`;
    case "external_tool.requested":
      return data.toolName;
    case "permission.requested":
      return data.permissionRequest.kind;
    case "session.error":
      return `${data.errorType}: ${data.message}`;
    default:
      return "";
  }
}

/** One short line for each event that a user of the SDK acts on; runs of deltas become one line. */
export function lines(events) {
  const out = [];
  for (const event of events) {
    if (UNSTABLE.some((pattern) => pattern.test(event.type))) continue;
    const line = normalise(`${event.type} ${gist(event)}`.trim()).slice(0, 300);
    const repeated = event.type.endsWith("_delta") && out.at(-1) === line;
    if (!repeated) out.push(line);
  }
  return out;
}
