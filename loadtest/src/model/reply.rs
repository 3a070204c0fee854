//! The answer to a request, as the frames of a stream or as one JSON body. Pure.

use std::time::Duration;

use serde_json::{Value, json};

use super::request::Ask;
use super::script::{End, Round, Said, Tool};

/// The most of a prompt that is echoed, and of a tool's result that is repeated, in bytes.
const EXCERPT: usize = 2000;

/// One thing to do while streaming.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// Send this server-sent event.
    Data(String),
    /// Wait before the next.
    Pause(Duration),
    /// Close the connection here.
    Cut,
    /// Send nothing more, and do not end.
    Hang,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    /// Before the first byte.
    pub delay: Duration,
    /// How it ends.
    pub end: End,
    id: String,
    model: String,
    said: Said,
    tools: Vec<Tool>,
    usage: Value,
    include_usage: bool,
}

impl Reply {
    /// The answer to `ask`. `serial` makes the ids of the message and its tool calls unique; `body_len` is
    /// the request's length, from which prompt tokens are estimated.
    pub(super) fn to(ask: &Ask, serial: u64, body_len: usize) -> Self {
        let round = ask.script.clone().unwrap_or_default();
        let said = text(ask, &round);
        let out = match &said {
            Said::Words(text) => text.len() / 4,
            Said::Deltas { count, bytes, .. } => count * bytes / 4,
        };
        let (prompt, completion) = round.usage.unwrap_or((body_len as u64 / 4, out as u64 + 1));
        let usage = json!({
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt.saturating_add(completion),
        });
        Self {
            delay: round.delay,
            end: round.end,
            id: format!("{serial:x}"),
            model: ask.model.clone(),
            said,
            tools: round.tools,
            usage,
            include_usage: ask.include_usage,
        }
    }

    /// The answer as a stream; frames are made one at a time, so a long one costs no memory.
    pub(super) fn frames(self) -> impl Iterator<Item = Frame> + Send {
        let (id, model) = (self.id.clone(), self.model.clone());
        let event = move |choices: Value, usage: Option<&Value>| {
            let mut chunk = json!({
                "id": format!("chatcmpl-{id}"),
                "object": "chat.completion.chunk",
                "created": 0,
                "model": model,
                "choices": choices,
            });
            if let Some(usage) = usage {
                chunk["usage"] = usage.clone();
            }
            Frame::Data(format!("data: {chunk}\n\n"))
        };
        let delta = |delta: Value| json!([{"index": 0, "delta": delta, "finish_reason": null}]);
        let mut tail = Vec::new();
        match self.end {
            End::Cut => tail.push(Frame::Cut),
            End::Hang => tail.push(Frame::Hang),
            End::Stop | End::Error { .. } => {
                let calls = self.calls().enumerate().map(|(index, mut call)| {
                    call["index"] = index.into();
                    event(delta(json!({"tool_calls": [call]})), None)
                });
                tail.extend(calls);
                let finish = json!([{"index": 0, "delta": {}, "finish_reason": self.finish_reason()}]);
                tail.push(event(finish, None));
                if self.include_usage {
                    tail.push(event(json!([]), Some(&self.usage)));
                }
                tail.push(Frame::Data("data: [DONE]\n\n".to_owned()));
            }
        }
        let head = event(delta(json!({"role": "assistant", "content": ""})), None);
        let body = deltas(self.said).map(move |piece| match piece {
            Piece::Pause(wait) => Frame::Pause(wait),
            Piece::Text(text) => event(delta(json!({"content": text})), None),
        });
        std::iter::once(head).chain(body).chain(tail)
    }

    /// The answer as one JSON body.
    pub(super) fn whole(self) -> Value {
        let content: String = match self.said {
            Said::Words(ref text) => text.clone(),
            Said::Deltas { count, bytes, .. } => (0..count).map(|n| filler(n, bytes)).collect(),
        };
        let mut message = json!({"role": "assistant", "content": content});
        if !self.tools.is_empty() {
            message["tool_calls"] = self.calls().collect();
        }
        json!({
            "id": format!("chatcmpl-{}", self.id),
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish_reason()}],
            "usage": self.usage,
        })
    }

    /// Whether not even the head of the answer is sent.
    pub(super) fn is_silent(&self) -> bool {
        self.end == End::Hang && self.said == Said::Words(String::new())
    }

    /// How long the whole answer takes when it is not streamed.
    pub(super) fn pauses(&self) -> Duration {
        match self.said {
            Said::Deltas { count, pause, .. } => {
                pause.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
            }
            Said::Words(_) => Duration::ZERO,
        }
    }

    fn calls(&self) -> impl Iterator<Item = Value> {
        self.tools.iter().enumerate().map(|(index, tool)| {
            json!({
                "id": format!("call_{}_{index}", self.id),
                "type": "function",
                "function": {"name": tool.name, "arguments": tool.arguments.to_string()},
            })
        })
    }

    fn finish_reason(&self) -> &'static str {
        if self.tools.is_empty() { "stop" } else { "tool_calls" }
    }
}

enum Piece {
    Text(String),
    Pause(Duration),
}

fn deltas(said: Said) -> Box<dyn Iterator<Item = Piece> + Send> {
    match said {
        Said::Words(text) => {
            let words: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
            Box::new(words.into_iter().map(Piece::Text))
        }
        Said::Deltas { count, bytes, pause } => {
            Box::new((0..count).flat_map(move |n| [Piece::Pause(pause), Piece::Text(filler(n, bytes))]))
        }
    }
}

/// The text of delta `n`: one letter, the next one for each delta, so that a lost or swapped one shows.
fn filler(n: usize, bytes: usize) -> String {
    let letter = char::from(b'a' + u8::try_from(n % 26).expect("below 26"));
    std::iter::repeat_n(letter, bytes).collect()
}

fn text(ask: &Ask, round: &Round) -> Said {
    if let Some(said) = &round.said {
        return said.clone();
    }
    if !round.tools.is_empty() || round.end == End::Hang {
        return Said::Words(String::new());
    }
    if !ask.results.is_empty() {
        let lines =
            ask.results.iter().map(|(name, result)| format!("tool {name} returned: {}", excerpt(result)));
        return Said::Words(lines.collect::<Vec<_>>().join("\n"));
    }
    let (prompt, before) =
        ask.prompts.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    Said::Words(if prompt.eq_ignore_ascii_case("history") {
        let prompts: Vec<String> = before.iter().map(|prompt| excerpt(prompt)).collect();
        format!("History: {}", prompts.join(" | "))
    } else {
        format!("You said: {}", excerpt(prompt))
    })
}

fn excerpt(text: &str) -> String {
    if text.len() <= EXCERPT {
        return text.to_owned();
    }
    let end = (0..=EXCERPT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}… ({} bytes)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(prompts: &[&str]) -> Reply {
        let messages: Vec<Value> =
            prompts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}, "messages": messages});
        let body = body.to_string();
        Reply::to(&Ask::read(body.as_bytes()).expect("readable"), 255, body.len())
    }

    fn chunks(frames: impl Iterator<Item = Frame>) -> Vec<Value> {
        let data = frames.filter_map(|frame| match frame {
            Frame::Data(data) => serde_json::from_str(data.trim().strip_prefix("data: ")?).ok(),
            _ => None,
        });
        data.collect()
    }

    fn content(chunks: &[Value]) -> Vec<&str> {
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
    }

    #[test]
    fn plain_text_is_echoed_word_by_word() {
        let chunks = chunks(reply(&["hello big world"]).frames());
        assert_eq!(content(&chunks), ["", "You ", "said: ", "hello ", "big ", "world"]);
        let last = chunks.last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert!(last["usage"]["prompt_tokens"].as_u64() > Some(0));
    }

    #[test]
    fn history_lists_earlier_prompts() {
        let whole = reply(&["one", "two", "History"]).whole();
        assert_eq!(whole["choices"][0]["message"]["content"], "History: one | two");
    }

    #[test]
    fn long_prompts_are_cut_at_a_character() {
        let whole = reply(&[&"é".repeat(3000)]).whole();
        let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(text.ends_with("… (6000 bytes)") && text.len() < 2100, "{}", text.len());
    }

    #[test]
    fn tool_calls_follow_what_is_said() {
        let chunks = chunks(reply(&[r#"[[say wait]][[tool a {"x":1}]][[tool b]]"#]).frames());
        let calls: Vec<&Value> = chunks
            .iter()
            .map(|c| &c["choices"][0]["delta"]["tool_calls"][0])
            .filter(|c| !c.is_null())
            .collect();
        assert_eq!(calls[0]["function"], json!({"name": "a", "arguments": "{\"x\":1}"}));
        assert_eq!((&calls[1]["index"], &calls[1]["id"]), (&json!(1), &json!("call_ff_1")));
        assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn a_cut_or_hanging_answer_has_no_end() {
        for (prompt, end) in [("[[say x]][[cut]]", Frame::Cut), ("[[say x]][[hang]]", Frame::Hang)] {
            assert_eq!(reply(&[prompt]).frames().last(), Some(end));
        }
    }
}
