//! Amounts as Kubernetes writes them: `500m`, `2`, `512Mi`, `10Gi`.

/// Bytes for each unit of a size.
const SIZES: [(&str, f64); 8] = [
    ("Ki", 1024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
];

/// How sizes are written, for people.
pub(crate) const SIZE: &str = "a number with one of Ki, Mi, Gi, Ti, k, M, G, T, or without";
/// How numbers of processors are.
pub(crate) const CORES: &str = "a number with m, for thousandths, or without";

/// Bytes.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let unit = SIZES.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (number, unit) = unit.unwrap_or((text, 1.0));
    // Saturates: nobody has more than can be counted.
    positive(number).map(|n| ((n * unit) as u64).max(1))
}

/// Processors.
pub(crate) fn cores(text: &str) -> Option<f64> {
    match text.strip_suffix('m') {
        Some(thousandths) => positive(thousandths).map(|n| n / 1000.0),
        None => positive(text),
    }
}

fn positive(text: &str) -> Option<f64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse().ok().filter(|n: &f64| digits && *n > 0.0 && *n < 1e18)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_kubernetes() {
        assert_eq!([cores("2"), cores("500m"), cores("0.5")], [Some(2.0), Some(0.5), Some(0.5)]);
        assert_eq!(
            [bytes("512Mi"), bytes("10G"), bytes("1.5Ki")],
            [Some(512 << 20), Some(10_000_000_000), Some(1536)]
        );
        assert_eq!(bytes("999999999Ti"), Some(u64::MAX));
        for bad in ["", "m", "-1", "2 cores", "1e3", "0", "NaN", "Gi", "4GiB"] {
            assert!(cores(bad).is_none() && bytes(bad).is_none(), "{bad}");
        }
    }
}
