//! What a chat completion request asks, read from its body. Pure.

use serde::Deserialize;

use super::script::{self, Round};

/// One request, understood.
#[derive(Debug)]
pub(super) struct Ask {
    pub model: String,
    pub stream: bool,
    pub include_usage: bool,
    /// Messages in the conversation, of every role.
    pub messages: usize,
    /// Every user prompt, without the CLI's wrappers; the last is the one to answer.
    pub prompts: Vec<String>,
    /// Which request of its turn this is: 0, then one more for each message of tool calls.
    pub round: usize,
    /// This round's script; none when the script is used up.
    pub script: Option<Round>,
    /// Names and results of the turn's tool calls so far.
    pub results: Vec<(String, String)>,
    /// The last `nonce:…` of the prompt.
    pub nonce: Option<String>,
}

#[derive(Deserialize)]
struct Body {
    model: String,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    messages: Vec<Message>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Deserialize)]
struct ToolCall {
    id: String,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
}

impl Message {
    fn text(&self) -> String {
        match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().map(|part| part.text.as_str()).collect(),
        }
    }
}

impl Ask {
    /// Reads a request's body.
    ///
    /// # Errors
    /// A sentence for the caller, when the body or a directive in it cannot be read.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        let body: Body = serde_json::from_slice(body).map_err(|error| format!("body: {error}"))?;
        let prompts: Vec<String> = body
            .messages
            .iter()
            .filter(|message| message.role == "user")
            .map(|message| unwrapped(&message.text()).to_owned())
            .collect();
        let asked = body.messages.iter().rposition(|message| message.role == "user");
        let turn = &body.messages[asked.map_or(0, |at| at + 1)..];
        let prompt = prompts.last().map_or("", String::as_str);
        let round = turn.iter().filter(|message| message.calls().next().is_some()).count();
        let rounds = script::parse(prompt)?;
        Ok(Self {
            nonce: nonce(prompt),
            script: rounds.into_iter().nth(round),
            results: results(turn),
            round,
            messages: body.messages.len(),
            model: body.model,
            stream: body.stream,
            include_usage: body.stream_options.is_some_and(|options| options.include_usage),
            prompts,
        })
    }
}

impl Message {
    fn calls(&self) -> impl Iterator<Item = &ToolCall> {
        self.tool_calls.iter().flatten()
    }
}

fn results(turn: &[Message]) -> Vec<(String, String)> {
    let name = |id: &str| {
        let mut calls = turn.iter().flat_map(Message::calls);
        calls.find(|call| call.id == id).map_or("unknown", |call| &call.function.name).to_owned()
    };
    turn.iter()
        .filter(|message| message.role == "tool")
        .map(|message| (name(message.tool_call_id.as_deref().unwrap_or_default()), message.text()))
        .collect()
}

/// The text without the `<tag>…</tag>` blocks that the CLI puts before and after what the user wrote.
fn unwrapped(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let shorter = without_first_block(text).or_else(|| without_last_block(text));
        match shorter {
            // A prompt that is nothing but one block was written so by somebody: keep it.
            Some(shorter) if !shorter.is_empty() => text = shorter,
            _ => return text,
        }
    }
}

fn without_first_block(text: &str) -> Option<&str> {
    let (tag, _) = text.strip_prefix('<')?.split_once('>')?;
    let close = format!("</{}>", tag_name(tag)?);
    text.split_once(&close).map(|(_, rest)| rest.trim())
}

fn without_last_block(text: &str) -> Option<&str> {
    let (before, tag) = text.strip_suffix('>')?.rsplit_once("</")?;
    let open = format!("<{}>", tag_name(tag)?);
    before.rsplit_once(&open).map(|(rest, _)| rest.trim())
}

fn tag_name(tag: &str) -> Option<&str> {
    let name = tag.split(' ').next()?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    (!name.is_empty() && name.chars().all(legal)).then_some(name)
}

fn nonce(prompt: &str) -> Option<String> {
    let (_, after) = prompt.rsplit_once("nonce:")?;
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(after.len());
    (end > 0).then(|| after[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ask(messages: &Value) -> Ask {
        Ask::read(json!({"model": "m", "messages": messages}).to_string().as_bytes()).expect("readable")
    }

    #[test]
    fn wrappers_come_off() {
        for (wrapped, bare) in [
            ("<current_datetime>now</current_datetime>\n\nhi there", "hi there"),
            (
                "<a>x</a>\n<b c=\"d\">y</b>\nhi <i>you</i>!\n\n<system_reminder>z</system_reminder>",
                "hi <i>you</i>!",
            ),
            ("<only>this</only>", "<only>this</only>"),
            ("1 < 2 > 0", "1 < 2 > 0"),
        ] {
            assert_eq!(unwrapped(wrapped), bare);
        }
    }

    #[test]
    fn the_last_user_message_is_asked() {
        let asked = ask(&json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "first nonce:a-1"},
            {"role": "assistant", "content": "ok", "tool_calls": null},
            {"role": "user", "content": [{"type": "text", "text": "second nonce:b-2."}]},
        ]));
        assert_eq!(asked.prompts, ["first nonce:a-1", "second nonce:b-2."]);
        assert_eq!(asked.nonce.as_deref(), Some("b-2"));
        assert_eq!((asked.messages, asked.round), (4, 0));
        assert!(!asked.stream && !asked.include_usage);
    }

    #[test]
    fn rounds_are_counted_by_messages_of_tool_calls() {
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        let asked = ask(&json!([
            {"role": "user", "content": "[[tool a]][[tool b]][[then]][[say done]]"},
            {"role": "assistant", "content": null, "tool_calls": [call("1", "a"), call("2", "b")]},
            {"role": "tool", "tool_call_id": "2", "content": "two"},
            {"role": "tool", "tool_call_id": "1", "content": "one"},
        ]));
        assert_eq!(asked.round, 1);
        assert!(asked.script.is_some());
        let results = [("b".to_owned(), "two".to_owned()), ("a".to_owned(), "one".to_owned())];
        assert_eq!(asked.results, results);
    }
}
