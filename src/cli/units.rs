//! Sizes, numbers and times for people.

/// A size in binary units, rounded to three digits: `4 GiB`, `1.46 MiB`, `512 bytes`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = if bytes == 1 { "byte" } else { UNITS[unit] };
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let value = format!("{value:.digits$}");
    let value = if digits > 0 { value.trim_end_matches('0').trim_end_matches('.') } else { &value };
    format!("{value} {name}")
}

/// A size with the exact number of bytes.
pub fn exact_size(bytes: u64) -> String {
    if bytes < 1024 { size(bytes) } else { format!("{} ({bytes} bytes)", size(bytes)) }
}

/// So many of something: `1 leak`, `2 leaks`.
pub fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A point in time in the Gregorian calendar: `2026-02-28 23:59:59 UTC`.
pub fn utc_time(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil_date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// Year, month and day that are so many days after 1 January 1970.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_400_YEARS: u64 = 146_097;
    const DAYS_TO_1970: u64 = 719_468;
    // Years are counted from March on: the day that only some of them have is the last one then.
    let days = days + DAYS_TO_1970;
    let (cycle, day_of_cycle) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let leap_days = |day: u64| day / 1460 + day / 146_096 - day / 36_524;
    let year_of_cycle = (day_of_cycle - leap_days(day_of_cycle)) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    // From March on, five months have 153 days, again and again.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (cycle * 400 + year_of_cycle + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_true() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1), "1 byte");
        assert_eq!(size(4 << 30), "4 GiB");
        assert_eq!(size(1_534_567), "1.46 MiB");
        assert_eq!(size((1 << 20) + 4096), "1 MiB");
        assert_eq!(size(100 << 10), "100 KiB");
        assert_eq!(size(10 << 30), "10 GiB");
        assert_eq!(exact_size(1536), "1.5 KiB (1536 bytes)");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!([0, 1, 2].map(|number| count(number, "leak", "leaks")), ["0 leaks", "1 leak", "2 leaks"]);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(utc_time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc_time(951_782_400 - 1), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc_time(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc_time(1_709_164_800), "2024-02-29 00:00:00 UTC");
        assert_eq!(utc_time(4_107_542_400), "2100-03-01 00:00:00 UTC");
        assert_eq!(utc_time(1_234_567_890), "2009-02-13 23:31:30 UTC");
        assert_eq!(utc_time(253_402_300_799), "9999-12-31 23:59:59 UTC");
    }

    #[test]
    fn no_day_is_left_out_and_none_comes_twice() {
        let lengths = |year: u64| {
            let divides = |every: u64| year.is_multiple_of(every);
            let leap = divides(4) && (!divides(100) || divides(400));
            [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        };
        let mut days = 0;
        for year in 1970..2500 {
            for (month, length) in (1..).zip(lengths(year)) {
                for day in 1..=length {
                    assert_eq!(civil_date(days), (year, month, day));
                    days += 1;
                }
            }
        }
    }
}
