//! What a prompt asks the stub to do.

use std::time::Duration;

use super::{MAX_STREAM, MAX_WAIT};

/// One thing a turn does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Say(String),
    History,
    Deltas { count: usize, bytes: usize, pause: Duration },
    Delay(Duration),
    Tool(String),
    Permission,
    Hook,
    UserInput,
    Lag { time: Duration, all: bool },
    Error,
    Hang,
    Crash,
}

/// A prompt, read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
    pub(super) quiet: bool,
}

/// Reads a prompt; the error names the directive that cannot be read.
pub(super) fn parse(prompt: &str) -> Result<Script, String> {
    let mut script = Script::default();
    let mut text = String::new();
    let mut rest = prompt;
    while let Some((before, after)) = rest.split_once("[[") {
        let Some((inside, after)) = after.split_once("]]") else { break };
        text.push_str(before);
        rest = after;
        let unreadable = || format!("unreadable directive [[{inside}]]");
        match directive(inside).ok_or_else(unreadable)? {
            Some(step) => script.steps.push(step),
            None => script.quiet = true,
        }
    }
    text.push_str(rest);
    let silent = |step: &Step| matches!(step, Step::Delay(_) | Step::Lag { .. });
    if script.steps.iter().all(silent) {
        script.steps.push(Step::Say(format!("You said: {}", text.trim())));
    }
    Ok(script)
}

/// `Some(None)` is `quiet`, which is no step.
fn directive(inside: &str) -> Option<Option<Step>> {
    let mut words = inside.split_whitespace();
    let step = match words.next()? {
        "say" => return Some(Some(Step::Say(inside.trim_start().strip_prefix("say")?.trim().to_owned()))),
        "quiet" => None,
        "history" => Some(Step::History),
        "deltas" => {
            let (count, bytes): (usize, usize) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let pause = words.next().map_or(Some(Duration::ZERO), millis)?;
            if count.checked_mul(bytes)? > MAX_STREAM || pause > MAX_WAIT {
                return None;
            }
            Some(Step::Deltas { count, bytes, pause })
        }
        "delay" => Some(Step::Delay(millis(words.next()?).filter(|d| *d <= MAX_WAIT)?)),
        "tool" => Some(Step::Tool(words.next()?.to_owned())),
        "permission" => Some(Step::Permission),
        "hook" => Some(Step::Hook),
        "userinput" => Some(Step::UserInput),
        "lag" => {
            let time = millis(words.next()?).filter(|d| *d <= MAX_WAIT)?;
            let all = words.next().map_or(Some(false), |word| (word == "all").then_some(true))?;
            Some(Step::Lag { time, all })
        }
        "error" => Some(Step::Error),
        "hang" => Some(Step::Hang),
        "crash" => Some(Step::Crash),
        _ => return None,
    };
    words.next().is_none().then_some(step)
}

fn millis(word: &str) -> Option<Duration> {
    word.parse().ok().map(Duration::from_millis)
}

/// The last `nonce:[A-Za-z0-9-]+` of a prompt.
pub(super) fn nonce(prompt: &str) -> Option<String> {
    let (_, after) = prompt.rsplit_once("nonce:")?;
    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(after.len());
    (end > 0).then(|| after[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_in_order() {
        let script = parse("[[quiet]] a [[delay 5]][[tool t]] b [[deltas 2 3 4]] nonce:x-1").unwrap();
        assert!(script.quiet);
        let pause = Duration::from_millis(4);
        let deltas = Step::Deltas { count: 2, bytes: 3, pause };
        assert_eq!(script.steps, [Step::Delay(Duration::from_millis(5)), Step::Tool("t".into()), deltas]);
    }

    #[test]
    fn a_lag_is_for_others_or_for_all() {
        let time = Duration::from_millis(5);
        let script = parse("[[lag 5]] [[lag 5 all]]").unwrap();
        assert_eq!(script.steps[..2], [false, true].map(|all| Step::Lag { time, all }));
        assert!(parse("[[lag 5 some]]").is_err());
    }

    #[test]
    fn plain_text_is_said_back() {
        assert_eq!(parse(" hi [[delay 1]]").unwrap().steps[1], Step::Say("You said: hi".into()));
        assert_eq!(parse("[[say a b]]").unwrap().steps, [Step::Say("a b".into())]);
        assert_eq!(parse("x [[ y").unwrap().steps, [Step::Say("You said: x [[ y".into())]);
    }

    #[test]
    fn unreadable_directives_are_named() {
        for bad in
            ["deltas 1", "delay x", "nope", "hang 5", "deltas 999999999 999999999", "", "delay 99999999999"]
        {
            let prompt = format!("[[{bad}]]");
            assert_eq!(parse(&prompt), Err(format!("unreadable directive {prompt}")));
        }
    }

    #[test]
    fn nonces() {
        assert_eq!(nonce("nonce:a nonce:b-2 c"), Some("b-2".into()));
        assert_eq!(nonce("nonce: a"), None);
        assert_eq!(nonce("none"), None);
    }
}
