//! Sizes and rates for people.

/// A size in binary units with three digits, and exact when it is a whole number of them: `4 GiB`, `1.46 MiB`, `512 bytes`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS[unit];
    match value {
        value if value.fract() == 0.0 => format!("{value} {name}"),
        value if value < 10.0 => format!("{value:.2} {name}"),
        value if value < 100.0 => format!("{value:.1} {name}"),
        value => format!("{value:.0} {name}"),
    }
}

/// A size with the exact number of bytes.
pub fn exact_size(bytes: u64) -> String {
    if bytes < 1024 { size(bytes) } else { format!("{} ({bytes} bytes)", size(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_true() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(4 << 30), "4 GiB");
        assert_eq!(size(1_534_567), "1.46 MiB");
        assert_eq!(exact_size(1536), "1.50 KiB (1536 bytes)");
    }
}
