//! Durations, sizes and percentages as operators write them: a number and a unit, never a bare number.

use crate::{
    error::Problem,
    setting::{Text, quoted},
};
use std::{fmt, time::Duration};

/// Largest first, so that writing takes as much as fits of each in turn.
const DURATIONS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Largest first, decimal before binary where they stand for almost the same.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Splits `90s…` into 90, `s` and the rest. Digits that do not fit 64 bits are no number.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = text[digits..].find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len() - digits);
    Some((text[..digits].parse().ok()?, &text[digits..][..unit], &text[digits + unit..]))
}

fn scale(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

/// `15m`, `1h30m`, `250ms`. Units go from large to small, each at most once.
impl Text for Duration {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        fn millis(mut text: &str) -> Option<u64> {
            let (mut total, mut below) = (0_u64, u64::MAX);
            loop {
                let (number, unit, rest) = number_and_unit(text)?;
                let scale = scale(&DURATIONS, unit).filter(|scale| *scale < below)?;
                total = total.checked_add(number.checked_mul(scale)?)?;
                if rest.is_empty() {
                    return Some(total);
                }
                (text, below) = (rest, scale);
            }
        }
        millis(text).map(Duration::from_millis).ok_or_else(|| Self::problem(&quoted(text)))
    }

    fn text(&self) -> String {
        let mut left = u64::try_from(self.as_millis()).unwrap_or(u64::MAX);
        let mut text = String::new();
        for (unit, scale) in DURATIONS {
            if left >= scale {
                text += &format!("{}{unit}", left / scale);
                left %= scale;
            }
        }
        if text.is_empty() { "0s".to_owned() } else { text }
    }

    const WHAT: &str = "a duration";
    const REMEDY: &str = r#"write a number and a unit, such as "10s" or "15m""#;
}

/// A number of bytes, written `"8GiB"`, `"512MB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl Text for ByteSize {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let parse = || match number_and_unit(text)? {
            (number, unit, "") => number.checked_mul(scale(&SIZES, unit)?).map(ByteSize),
            _ => None,
        };
        parse().ok_or_else(|| Self::problem(&quoted(text)))
    }

    fn text(&self) -> String {
        self.to_string()
    }

    const WHAT: &str = "a size";
    const REMEDY: &str = r#"write a number and a unit, such as "8GiB" or "512MB""#;
}

/// In the largest unit that says it exactly.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = SIZES.iter().filter(|(_, scale)| self.0.is_multiple_of(*scale));
        match exact.min_by_key(|(_, scale)| self.0 / scale) {
            Some((unit, scale)) if self.0 > 0 => write!(f, "{}{unit}", self.0 / scale),
            _ => f.write_str("0B"),
        }
    }
}

/// How much memory something may use: a share of the host's or an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBudget {
    /// Per cent of the host's memory, 1 to 100.
    Percent(u8),
    /// Bytes, at least one.
    Bytes(u64),
}

impl MemoryBudget {
    /// The budget in bytes on a host (or in a control group) that has `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => (u128::from(total) * u128::from(percent) / 100) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Text for MemoryBudget {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let budget = match text.strip_suffix('%') {
            Some(percent) if percent.bytes().all(|b| b.is_ascii_digit()) => {
                percent.parse().ok().filter(|p| (1..=100).contains(p)).map(Self::Percent)
            }
            Some(_) => None,
            None => ByteSize::parse_text(text).ok().filter(|size| size.0 > 0).map(|size| Self::Bytes(size.0)),
        };
        budget.ok_or_else(|| Self::problem(&quoted(text)))
    }

    fn text(&self) -> String {
        match self {
            Self::Percent(percent) => format!("{percent}%"),
            Self::Bytes(bytes) => ByteSize(*bytes).to_string(),
        }
    }

    const WHAT: &str = "an amount of memory";
    const REMEDY: &str = r#"write a share of the host's from "1%" to "100%", or a size such as "8GiB""#;
}

/// A part of something, in per cent, 1 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(u8);

impl Share {
    /// So many per cent, 1 to 100.
    pub const fn percent(percent: u8) -> Self {
        Self(percent)
    }

    /// So much of `whole`, rounded up: of one there is one.
    pub fn of(self, whole: usize) -> usize {
        (whole as u128 * u128::from(self.0)).div_ceil(100) as usize
    }
}

impl Text for Share {
    fn parse_text(text: &str) -> Result<Self, Problem> {
        let percent = text.strip_suffix('%').filter(|p| p.bytes().all(|b| b.is_ascii_digit()));
        let percent = percent.and_then(|p| p.parse().ok()).filter(|p| (1..=100).contains(p));
        percent.map(Self).ok_or_else(|| Self::problem(&quoted(text)))
    }

    fn text(&self) -> String {
        format!("{}%", self.0)
    }

    const WHAT: &str = "a share";
    const REMEDY: &str = r#"write one from "1%" to "100%""#;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(text: &str) -> Option<u64> {
        Duration::parse_text(text).ok().map(|d| d.as_millis() as u64)
    }

    #[test]
    fn durations() {
        for (text, expected) in
            [("0s", 0), ("250ms", 250), ("10s", 10_000), ("1h30m", 5_400_000), ("2d", 172_800_000)]
        {
            assert_eq!(millis(text), Some(expected), "{text}");
            assert_eq!(Duration::from_millis(expected).text(), text);
        }
        assert_eq!(Duration::from_secs(90).text(), "1m30s");
        let bad = [
            "",
            "10",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "10 s",
            "1m1h",
            "1s1s",
            "1S",
            "1s ",
            "99999999999999999999s",
        ];
        for text in bad.into_iter().chain(["999999999999999999d", "1ß", "10 lightyears"]) {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in
            [("0B", 0), ("1KiB", 1024), ("512MB", 512_000_000), ("8GiB", 8 << 30), ("3B", 3)]
        {
            assert_eq!(ByteSize::parse_text(text).unwrap(), ByteSize(expected));
            assert_eq!(ByteSize(expected).to_string(), text);
        }
        for text in ["", "8", "8 GiB", "8gib", "8GiBs", "8GiB1", "-1B", "99999999TiB", "1G"] {
            assert!(ByteSize::parse_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares() {
        let of = |text: &str, whole| Share::parse_text(text).unwrap().of(whole);
        assert_eq!((of("80%", 20), of("80%", 1), of("1%", 50), of("50%", 3)), (16, 1, 1, 2));
        assert_eq!((of("100%", usize::MAX), of("80%", 0)), (usize::MAX, 0));
        for text in ["0%", "101%", "%", "80", "8.5%", "-5%", "80%%"] {
            assert!(Share::parse_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn budgets() {
        assert_eq!(MemoryBudget::parse_text("50%").unwrap().of(16 << 30), 8 << 30);
        assert_eq!(MemoryBudget::parse_text("100%").unwrap().of(u64::MAX), u64::MAX);
        assert_eq!(MemoryBudget::parse_text("8GiB").unwrap().of(1), 8 << 30);
        for text in ["0%", "101%", "%", "-5%", "+5%", "5.5%", "0B", "50", "50%%"] {
            assert!(MemoryBudget::parse_text(text).is_err(), "{text}");
        }
    }
}
