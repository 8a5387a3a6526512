//! Timestamps as they are written in events: RFC 3339, microseconds, UTC.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

/// The beginning of time: 0001-01-01, in microseconds since 1970.
pub const BEGINNING: i64 = -62_135_596_800_000_000;
/// The end of time: 9999-12-31.
pub const END: i64 = 253_402_214_400_000_000;

/// Whether something can have happened then: from the beginning of time up to its end.
pub fn is_possible(micros: i64) -> bool {
    (BEGINNING..END).contains(&micros)
}

/// Microseconds since 1970 of an RFC 3339 text. Text without an offset is taken as UTC; digits beyond
/// microseconds are cut. `None` where the text is no time.
pub fn micros(text: &str) -> Option<i64> {
    quick(text.as_bytes()).or_else(|| {
        let text = text.trim();
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Some(at.timestamp_micros());
        }
        let separated = text.replacen(' ', "T", 1);
        let at = separated.parse::<NaiveDateTime>().ok();
        let at = at.or_else(|| separated.parse::<NaiveDate>().ok()?.and_hms_opt(0, 0, 0));
        at.map(|at| at.and_utc().timestamp_micros())
    })
}

/// The common case without chrono: `2024-01-31T12:00:00[.123456]Z`.
fn quick(text: &[u8]) -> Option<i64> {
    let (b'Z', body) = text.split_last()? else { return None };
    let body_len = body.len();
    if body_len < 19 || body[4] != b'-' || body[7] != b'-' || body[10] != b'T' || body[13] != b':' || body[16] != b':' {
        return None;
    }
    let number = |range: std::ops::Range<usize>| {
        body[range].iter().try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let length = match month {
        2 => 28 + i64::from((year % 4 == 0 && year % 100 != 0) || year % 400 == 0),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if day < 1 || day > length || hour > 23 || minute > 59 || second > 59 || year < 1 {
        return None;
    }
    let fraction = match body_len {
        19 => 0,
        21..=29 if body[19] == b'.' => {
            let digits = (body_len - 20).min(6);
            number(20 + digits..body_len)?;
            number(20..20 + digits)? * 10_i64.pow(6 - digits as u32)
        }
        _ => return None,
    };
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + fraction)
}

/// Days since 1970 in the proleptic Gregorian calendar. Source: Howard Hinnant, "chrono-Compatible Low-Level
/// Date Algorithms", `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let of_era = year - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_way_agrees_with_chrono() {
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 8) as i64 % 250_000_000_000_000_000;
            let text = DateTime::from_timestamp_micros(at).unwrap().format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
            if text.len() == 27 {
                assert_eq!(quick(text.as_bytes()), Some(at), "{text}");
            }
        }
    }

    #[test]
    fn times_of_many_writers_are_read() {
        let noon = 1_709_208_000_000_000;
        for text in [
            "2024-02-29T12:00:00Z",
            "2024-02-29T13:00:00+01:00",
            "2024-02-29 12:00:00",
            "2024-02-29T12:00:00.000000123Z",
        ] {
            assert_eq!(micros(text), Some(noon), "{text}");
        }
        assert_eq!(micros("2024-02-29"), Some(noon - 43_200_000_000));
        for text in ["", "2023-02-29T12:00:00Z", "2024-02-29T24:00:00Z", "yesterday", "2024-02-29T12:00:00.1x3Z"] {
            assert_eq!(micros(text), None, "{text}");
        }
    }
}
