//! What a gateway tells of itself, for people to read.

use serde_json::Value;

use super::table::Table;

/// The whole status page.
pub(super) fn status(page: &Value) -> String {
    let totals = &page["totals"];
    let mut out = format!(
        "jetway {}, {} for {}, mode {}\n\
         {} connections of {} users; {} sessions attached, {} resting; {} turns running, {} calls being placed\n",
        text(&page["version"]),
        text(&page["state"]),
        time(&page["uptimeSeconds"]),
        text(&page["mode"]),
        totals["connections"],
        totals["users"],
        totals["sessions"],
        totals["resting"],
        totals["turns"],
        totals["placing"],
    );
    if page["memory"].is_object() {
        let memory = &page["memory"];
        let (used, budget) = (bytes(&memory["used"]), bytes(&memory["budget"]));
        out.push_str(&format!("{} CLI processes hold {used} of {budget}\n", memory["processes"]));
    }
    let states = totals["servers"].as_object().into_iter().flatten().filter(|(_, n)| **n != 0);
    let states: Vec<_> = states.map(|(state, n)| format!("{n} {state}")).collect();
    section(&mut out, &format!("servers ({})", states.join(", ")), servers(&page["servers"]));
    section(&mut out, "users", users(&page["users"]));
    section(&mut out, "sessions", sessions(&page["sessions"]));
    section(&mut out, "shared sessions, whose turn it is and who waits", locks(&page["locks"]));
    section(&mut out, "servers that went, last first", departed(&page["departed"]));
    out.truncate(out.trim_end().len());
    out
}

/// One server.
pub(super) fn server(row: &Value) -> String {
    servers(&Value::Array(vec![row.clone()])).to_string().trim_end().to_owned()
}

/// How far a server's drain is: one line.
pub(super) fn progress(row: &Value) -> String {
    let stay = match row["stateGroup"].is_null() && row["sessions"] != 0 && row["address"] == row["id"] {
        true => " (they stay until their clients leave: it shares its state with no other server)",
        false => "",
    };
    format!("{}: {} turns, {} sessions{stay}", text(&row["state"]), row["turns"], row["sessions"])
}

fn section(out: &mut String, title: &str, table: Table) {
    if !table.is_empty() {
        out.push_str(&format!("\n{title}\n{table}"));
    }
}

fn servers(rows: &Value) -> Table {
    let mut table = Table::new(&[
        "server",
        "state",
        "address",
        "pid",
        "users",
        "sessions",
        "turns",
        "memory",
        "age",
        "last turn",
        "sessions served",
        "turns served",
        "ping",
        "note",
    ]);
    for row in list(rows) {
        let said = [("", "draining"), ("worn: ", "worn"), ("", "problem")];
        let note = said.iter().filter(|(_, key)| !row[key].is_null());
        let note = note.map(|(what, key)| format!("{what}{}", text(&row[key])));
        table.row(vec![
            text(&row["id"]),
            text(&row["state"]),
            text(&row["address"]),
            text(&row["pid"]),
            text(&row["users"]),
            text(&row["sessions"]),
            text(&row["turns"]),
            bytes(&row["memory"]),
            time(&row["ageSeconds"]),
            time(&row["lastTurnSeconds"]),
            text(&row["served"]),
            text(&row["turnsServed"]),
            time(&row["pingSeconds"]),
            note.collect::<Vec<_>>().join("; "),
        ]);
    }
    table
}

fn users(rows: &Value) -> Table {
    let mut table =
        Table::new(&["user", "connections", "sessions", "resting", "turns", "unanswered", "last used"]);
    for row in list(rows) {
        let counts = ["connections", "sessions", "resting", "turns", "unanswered"].map(|key| text(&row[key]));
        let mut cells = vec![text(&row["user"])];
        cells.extend(counts);
        cells.push(time(&row["lastUsedSeconds"]));
        table.row(cells);
    }
    table
}

fn sessions(rows: &Value) -> Table {
    let mut table = Table::new(&["session", "owner", "server", "attached", "turns", "running", "last turn"]);
    for row in list(rows) {
        let turns = list(&row["turns"]);
        let oldest = turns.first().map_or_else(|| "-".to_owned(), |turn| time(&turn["seconds"]));
        table.row(vec![
            text(&row["id"]),
            text(&row["owner"]),
            text(&row["server"]),
            text(&row["attached"]),
            turns.len().to_string(),
            oldest,
            time(&row["lastTurnSeconds"]),
        ]);
    }
    table
}

fn locks(rows: &Value) -> Table {
    let mut table = Table::new(&["session", "owner", "fence", "held", "turn of", "since", "waiting"]);
    for row in list(rows) {
        let waiting: Vec<_> = list(&row["waiting"]).iter().map(|person| text(&person["user"])).collect();
        let (turn, elsewhere) = (&row["turn"], &row["elsewhere"]);
        let holder = if elsewhere.is_object() {
            format!("{} (another gateway)", text(&elsewhere["holder"]))
        } else {
            text(&turn["user"])
        };
        table.row(vec![
            text(&row["session"]),
            text(&row["owner"]),
            text(&row["fence"]),
            time(&row["heldSeconds"]),
            holder,
            time(&turn["seconds"]),
            if waiting.is_empty() { "-".to_owned() } else { waiting.join(", ") },
        ]);
    }
    table
}

fn departed(rows: &Value) -> Table {
    let mut table = Table::new(&["server", "pid", "ago", "lived", "why"]);
    for row in list(rows) {
        table.row(vec![
            text(&row["id"]),
            text(&row["pid"]),
            time(&row["agoSeconds"]),
            time(&row["livedSeconds"]),
            text(&row["why"]),
        ]);
    }
    table
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What an operator's terminal can be given: names of users, and what CLIs said, come from others.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        other => other.to_string(),
    }
}

/// `85ms`, `3s`, `12m40s`, `5h3m`, `3d4h`.
fn time(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_f64() else { return "-".to_owned() };
    let whole = seconds as u64;
    let two =
        |a: u64, x: &str, b: u64, y: &str| if b == 0 { format!("{a}{x}") } else { format!("{a}{x}{b}{y}") };
    match whole {
        0 => format!("{}ms", (seconds * 1000.0).round()),
        1..60 => format!("{whole}s"),
        60..3_600 => two(whole / 60, "m", whole % 60, "s"),
        3_600..86_400 => two(whole / 3_600, "h", whole % 3_600 / 60, "m"),
        _ => two(whole / 86_400, "d", whole % 86_400 / 3_600, "h"),
    }
}

/// `52MiB`, `8.0GiB`.
fn bytes(value: &Value) -> String {
    match value.as_u64() {
        None => "-".to_owned(),
        Some(n) if n < 1 << 20 => format!("{}KiB", n >> 10),
        Some(n) if n < 1 << 30 => format!("{}MiB", n >> 20),
        Some(n) => format!("{:.1}GiB", n as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_and_sizes() {
        let times = [0.0, 0.085, 3.4, 60.0, 760.0, 3_600.0, 18_200.0, 270_000.0].map(|s| time(&json!(s)));
        assert_eq!(times, ["0ms", "85ms", "3s", "1m", "12m40s", "1h", "5h3m", "3d3h"]);
        let sizes = [0, 4096, 52 << 20, 8_u64 << 30].map(|n| bytes(&json!(n)));
        assert_eq!(sizes, ["0KiB", "4KiB", "52MiB", "8.0GiB"]);
        assert_eq!((time(&Value::Null), bytes(&Value::Null)), ("-".into(), "-".into()));
    }

    #[test]
    fn what_others_wrote_does_not_move_the_cursor() {
        assert_eq!(text(&json!("a\u{1b}[2Jb\n")), "a [2Jb ");
    }
}
