//! The table for people and the file for machines.

use std::{fmt::Write as _, fs, io, path::Path};

use serde_json::{Map, Value, json};

use super::{
    goals::Goal,
    machine,
    measure::{Measure, Samples, Summary},
    peers::Kind,
};

/// The table in Markdown: medians with (min–max), and Jetway's ratios.
#[must_use]
pub fn table(samples: &Samples) -> String {
    let mut out = String::from("| |");
    Kind::ALL.iter().for_each(|kind| out += &format!(" {} |", kind.name()));
    out += " Jetway ÷ splice | ÷ HAProxy |\n|---|---|---|---|---|---|---|---|\n";
    for measure in Measure::ALL {
        if Kind::ALL.iter().all(|kind| samples.summary(measure, *kind).is_none()) {
            continue;
        }
        let _ = write!(out, "| {} |", measure.name());
        for kind in Kind::ALL {
            let cell = samples.summary(measure, kind).map(cell).unwrap_or_default();
            let _ = write!(out, " {cell} |");
        }
        for other in [Kind::Splice, Kind::Haproxy] {
            let jetway = samples.median(measure, Kind::Jetway);
            let ratio = jetway.zip(samples.median(measure, other)).map(|(ours, theirs)| ours / theirs);
            let _ = write!(out, " {} |", ratio.map(|r| format!("{r:.2}")).unwrap_or_default());
        }
        out.push('\n');
    }
    out
}

fn cell(summary: Summary) -> String {
    let Summary { median, min, max, .. } = summary;
    format!("{} ({}–{})", number(median), number(min), number(max))
}

/// Three significant digits, or all before the point.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The goals, one to a line.
#[must_use]
pub fn goals(goals: &[Goal]) -> String {
    let line = |goal: &Goal| {
        let mark = match goal.met() {
            Some(true) => "✓",
            Some(false) => "✗",
            None => "–",
        };
        let value = goal.value.map_or("not measured".into(), number);
        format!("{mark} {}: {value} (goal ≤ {})\n", goal.what, number(goal.at_most))
    };
    goals.iter().map(line).collect()
}

/// Writes everything as JSON.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, samples: &Samples, goals: &[Goal], skipped: &[String]) -> io::Result<()> {
    let mut measures = Map::new();
    for measure in Measure::ALL {
        let targets = Kind::ALL.iter().filter_map(|kind| Some((*kind, samples.summary(measure, *kind)?)));
        let targets: Map<String, Value> = targets.map(|(k, s)| (k.name().to_owned(), json!(s))).collect();
        if let (false, Value::String(name)) = (targets.is_empty(), json!(measure)) {
            measures.insert(name, Value::Object(targets));
        }
    }
    let goals: Vec<Value> = goals
        .iter()
        .map(|goal| json!({"what": goal.what, "value": goal.value, "at_most": goal.at_most, "met": goal.met()}))
        .collect();
    let whole = json!({
        "machine": machine::facts(),
        "frame": super::FRAME,
        "measures": measures,
        "goals": goals,
        "skipped": skipped,
    });
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, format!("{whole:#}\n"))
}
