// Tools that several groups of cases use.

const text = { type: "object", properties: { text: { type: "string" } } };

/** Returns its argument in angle brackets. */
export const echo = {
  name: "echo",
  description: "Echoes",
  parameters: text,
  handler: ({ text }) => `<${text}>`,
};

/** A promise and the functions that settle it. */
export function deferred() {
  let resolve, reject;
  const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
  return { promise, resolve, reject };
}

/** A tool that waits: `called` resolves when it is, and it answers with what `release` is given. */
export function waitingTool(name = "wait") {
  const called = deferred();
  const answer = deferred();
  const handler = (args, invocation) => {
    called.resolve({ args, invocation });
    return answer.promise;
  };
  const tool = { name, description: "Waits", parameters: text, handler };
  return { tool, called: called.promise, release: answer.resolve, fail: answer.reject };
}
