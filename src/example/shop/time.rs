//! Instants as microseconds since 1970 (UTC), days since 1970, and how both are written.
//!
//! Days to dates and back: Howard Hinnant, "chrono-compatible low-level date algorithms".

use super::random::Random;

pub(super) type Micros = i64;

pub(super) const SECOND: Micros = 1_000_000;
pub(super) const DAY: Micros = 86_400 * SECOND;

/// Between these the shop's customers order.
pub(super) const OPENS: Micros = midnight(2023, 1, 1);
pub(super) const CLOSES: Micros = midnight(2025, 7, 1);

/// Versions of a member tile all of time between these.
pub(super) const BEGINNING: Micros = midnight(1, 1, 1);
pub(super) const END: Micros = midnight(9999, 12, 31);

const fn midnight(year: i64, month: i64, day: i64) -> Micros {
    days(year, month, day) * DAY
}

pub(super) const fn days(year: i64, month: i64, day: i64) -> i64 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted - era * 400;
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

pub(super) fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `2024-03-05`
pub(super) fn date(days: i64) -> String {
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2024-03`, of the day in UTC.
pub(super) fn year_month(at: Micros) -> String {
    let (year, month, _) = civil(at.div_euclid(DAY));
    format!("{year:04}-{month:02}")
}

/// Whether `text` is a day that exists, as in `2024-03-05`.
pub(super) fn is_date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<i64>().unwrap_or(0));
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    match (year, month, day) {
        (Some(year), Some(month), Some(day)) => {
            (1..=12).contains(&month) && civil(days(year, month, day)) == (year, month, day)
        }
        _ => false,
    }
}

/// `2024-03-05T10:11:12.000000Z`
pub(super) fn instant(at: Micros) -> String {
    rfc3339(at, 0, 6, "Z")
}

/// An instant as some producer or other writes it: with a fraction or without, in UTC or in its own zone.
pub(super) fn as_some_write_it(at: Micros, random: &mut Random) -> String {
    let least = if at % SECOND == 0 {
        0
    } else if at % 1000 == 0 {
        3
    } else {
        6
    };
    let digits = if random.per_mille(100) { 6 } else { least };
    if !random.per_mille(120) {
        return rfc3339(at, 0, digits, "Z");
    }
    let (minutes, zone) =
        random.pick(&[(60, "+01:00"), (120, "+02:00"), (-300, "-05:00"), (330, "+05:30"), (0, "+00:00")]);
    rfc3339(at, minutes, digits, zone)
}

fn rfc3339(at: Micros, offset_minutes: i64, digits: usize, zone: &str) -> String {
    let local = at + offset_minutes * 60 * SECOND;
    let day = date(local.div_euclid(DAY));
    let micros = local.rem_euclid(DAY);
    let (seconds, fraction) = (micros / SECOND, micros % SECOND);
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if digits == 0 {
        return format!("{day}T{clock}{zone}");
    }
    let fraction = format!("{fraction:06}");
    format!("{day}T{clock}.{}{zone}", &fraction[..digits])
}

/// Some instant in the range, as precise as this or that producer's clock; never an odd microsecond.
/// Those are kept for deletes, so that no delete shares its instant with another change.
pub(super) fn moment(random: &mut Random, from: Micros, to: Micros) -> Micros {
    let at = random.between(from, to);
    match random.below(10) {
        0..5 => at - at.rem_euclid(SECOND),
        5..9 => at - at.rem_euclid(1000),
        _ => at - at.rem_euclid(2),
    }
}

#[cfg(test)]
mod tests {
    use super::{BEGINNING, DAY, END, civil, days, instant, is_date, rfc3339};

    #[test]
    fn days_and_dates_go_both_ways() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2024, 2, 29) + 1, days(2024, 3, 1));
        for day in (BEGINNING / DAY..=END / DAY).step_by(97) {
            let (year, month, of_month) = civil(day);
            assert_eq!(days(year, month, of_month), day);
        }
    }

    #[test]
    fn a_zone_shifts_the_clock_and_not_the_instant() {
        let at = days(2024, 3, 1) * DAY + 1_500_000;
        assert_eq!(instant(at), "2024-03-01T00:00:01.500000Z");
        assert_eq!(rfc3339(at, -300, 3, "-05:00"), "2024-02-29T19:00:01.500-05:00");
        assert_eq!(instant(BEGINNING), "0001-01-01T00:00:00.000000Z");
        assert_eq!(instant(END), "9999-12-31T00:00:00.000000Z");
    }

    #[test]
    fn days_that_do_not_exist_are_no_dates() {
        assert!(is_date("2024-02-29"));
        assert!(!is_date("2023-02-29") && !is_date("2024-02-31") && !is_date("2024-13-01"));
    }
}
