//! From a prompt's directives to the rounds of an answer. Pure.

use std::time::Duration;

use serde_json::Value;

use super::{MAX_STREAM, MAX_WAIT};

/// What one request of a turn is answered with.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Round {
    /// Before anything is sent.
    pub delay: Duration,
    /// The text of the answer; none stands for an echo, or for the tools' results.
    pub said: Option<Said>,
    /// Tool calls, in order.
    pub tools: Vec<Tool>,
    /// How the answer ends.
    pub end: End,
    /// Prompt and completion tokens to report.
    pub usage: Option<(u64, u64)>,
}

/// The text of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// Sent word by word.
    Words(String),
    /// `count` deltas of `bytes` bytes, `pause` before each.
    Deltas { count: usize, bytes: usize, pause: Duration },
}

/// One tool call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tool {
    pub name: String,
    pub arguments: Value,
}

/// How an answer ends.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum End {
    #[default]
    Stop,
    /// Never, while the client stays.
    Hang,
    /// By closing the connection.
    Cut,
    /// It does not start: an HTTP error.
    Error { status: u16, message: String },
}

/// The rounds that `prompt` asks for: at least one, possibly empty.
///
/// # Errors
/// A sentence that says which directive could not be read.
pub(super) fn parse(prompt: &str) -> Result<Vec<Round>, String> {
    let mut rounds = vec![Round::default()];
    let mut rest = prompt;
    while let Some(start) = rest.find("[[") {
        rest = &rest[start + 2..];
        let name_end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_end);
        let round = rounds.last_mut().expect("there is always a round");
        if name == "tool" {
            let (tool, after) = tool(after)?;
            round.tools.push(tool);
            rest = after;
            continue;
        }
        if !is_directive(name) {
            continue;
        }
        let close = after.find("]]").ok_or_else(|| format!("[[{name}: no closing ]]"))?;
        let body = after[..close].trim();
        rest = &after[close + 2..];
        if name == "then" {
            rounds.push(Round::default());
        } else {
            apply(round, name, body).ok_or_else(|| format!("[[{name} {body}]]: cannot be read"))?;
        }
    }
    Ok(rounds)
}

/// Other double brackets (wiki links, nested JSON arrays) are text.
fn is_directive(name: &str) -> bool {
    matches!(name, "say" | "stream" | "then" | "delay" | "error" | "hang" | "cut" | "usage")
}

fn apply(round: &mut Round, name: &str, body: &str) -> Option<()> {
    match name {
        "say" => round.said = Some(Said::Words(body.to_owned())),
        "stream" => {
            let [count, bytes, pause] = numbers(body)?;
            let (count, bytes) = (usize::try_from(count).ok()?, usize::try_from(bytes).ok()?);
            if count.checked_mul(bytes.max(1))? > MAX_STREAM {
                return None;
            }
            round.said = Some(Said::Deltas { count, bytes, pause: wait(pause)? });
        }
        "delay" => {
            let [ms] = numbers(body)?;
            round.delay = wait(ms)?;
        }
        "usage" => {
            let [prompt, completion] = numbers(body)?;
            round.usage = Some((prompt, completion));
        }
        "error" => {
            let (status, message) = body.split_once(' ').unwrap_or((body, "scripted error"));
            let status = status.parse().ok().filter(|s| (400..600).contains(s))?;
            round.end = End::Error { status, message: message.to_owned() };
        }
        "hang" => round.end = End::Hang,
        "cut" => round.end = End::Cut,
        _ => return None,
    }
    Some(())
}

/// Reads ` NAME {json}]]`, where the JSON may itself hold `]]`; returns what follows.
fn tool(text: &str) -> Result<(Tool, &str), String> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| c.is_whitespace() || c == ']')
        .ok_or_else(|| "[[tool: no closing ]]".to_owned())?;
    let (name, after) = text.split_at(end);
    let after = after.trim_start();
    if name.is_empty() {
        return Err("[[tool]]: no name".to_owned());
    }
    let (arguments, after) = if after.starts_with("]]") {
        (Value::Object(serde_json::Map::new()), after)
    } else {
        let mut values = serde_json::Deserializer::from_str(after).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value @ Value::Object(_))) => value,
            _ => return Err(format!("[[tool {name}]]: the arguments are no JSON object")),
        };
        (value, after[values.byte_offset()..].trim_start())
    };
    let after = after.strip_prefix("]]").ok_or_else(|| format!("[[tool {name}: no closing ]]"))?;
    Ok((Tool { name: name.to_owned(), arguments }, after))
}

fn numbers<const N: usize>(body: &str) -> Option<[u64; N]> {
    let parsed: Option<Vec<u64>> = body.split_whitespace().map(|word| word.parse().ok()).collect();
    parsed?.try_into().ok()
}

fn wait(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms)).filter(|wait| *wait <= MAX_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn one(prompt: &str) -> Round {
        let mut rounds = parse(prompt).expect(prompt);
        assert_eq!(rounds.len(), 1, "{prompt}");
        rounds.remove(0)
    }

    #[test]
    fn plain_text_is_an_empty_round() {
        assert_eq!(one("hello [[wiki]] {\"a\":[[1]]}"), Round::default());
    }

    #[test]
    fn the_last_of_two_that_exclude_each_other_wins() {
        let round = one("a [[say one]] b [[stream 3 10 5]] [[hang]] [[cut]] [[delay 7]] [[usage 11 12]]");
        let pause = Duration::from_millis(5);
        assert_eq!(round.said, Some(Said::Deltas { count: 3, bytes: 10, pause }));
        assert_eq!(round.end, End::Cut);
        assert_eq!(round.delay, Duration::from_millis(7));
        assert_eq!(round.usage, Some((11, 12)));
    }

    #[test]
    fn tools_and_rounds() {
        let rounds = parse(
            r#"[[tool a {"x":[[1],[2]],"s":"]]"}]] [[tool b]] [[then]] [[tool c {}]] [[then]] [[say end]]"#,
        )
        .unwrap();
        let call = |name: &str, arguments| Tool { name: name.to_owned(), arguments };
        assert_eq!(rounds[0].tools, [call("a", json!({"x": [[1], [2]], "s": "]]"})), call("b", json!({}))]);
        assert_eq!(rounds[1].tools, [call("c", json!({}))]);
        assert_eq!(rounds[2].said, Some(Said::Words("end".to_owned())));
    }

    #[test]
    fn errors_name_the_directive() {
        for (prompt, named) in [
            ("[[stream 1 2]]", "[[stream 1 2]]"),
            ("[[stream 1000000000 1000000000 0]]", "[[stream"),
            ("[[delay 99999999999]]", "[[delay"),
            ("[[error 200 no]]", "[[error"),
            ("[[tool x [1]]]", "[[tool x]]"),
            ("[[tool x {}", "[[tool x"),
            ("[[say never closed", "[[say"),
        ] {
            let error = parse(prompt).expect_err(prompt);
            assert!(error.starts_with(named), "{prompt}: {error}");
        }
        let end = one("[[error 429 slow down please]]").end;
        assert_eq!(end, End::Error { status: 429, message: "slow down please".to_owned() });
    }
}
