//! Periods of periodic snapshots: how long they are, and which one has a moment.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use chrono::{Datelike, Months, NaiveDate};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds.
const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// How long a period is: `month`, as the calendar has them, or `3 months`, counted from the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    count: Option<NonZeroU16>,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

const UNITS: [(&str, Unit); 7] = [
    ("minute", Unit::Minute),
    ("hour", Unit::Hour),
    ("day", Unit::Day),
    ("week", Unit::Week),
    ("month", Unit::Month),
    ("quarter", Unit::Quarter),
    ("year", Unit::Year),
];

impl Period {
    /// Whether it begins and ends with a day.
    pub(crate) fn is_of_days(self) -> bool {
        !matches!(self.unit, Unit::Minute | Unit::Hour)
    }

    /// Whether it is so many of a unit, from the first one on.
    pub(crate) fn is_counted(self) -> bool {
        self.count.is_some()
    }

    /// When the period that has `moment` begins, and when the next one does, in microseconds since 1970. Those that are counted
    /// are counted from `first`.
    pub(crate) fn around(self, moment: i64, first: i64) -> Option<(i64, i64)> {
        let count = self.count.map(|count| i64::from(count.get()));
        match self.unit {
            Unit::Minute => around(moment, count.map_or(0, |_| first), MINUTE * count.unwrap_or(1)),
            Unit::Hour => around(moment, count.map_or(0, |_| first), HOUR * count.unwrap_or(1)),
            Unit::Day => around(moment, count.map_or(0, |_| first), DAY * count.unwrap_or(1)),
            // 1970-01-05 was a Monday.
            Unit::Week => around(moment, count.map_or(4 * DAY, |_| first), 7 * DAY * count.unwrap_or(1)),
            Unit::Month => months_around(moment, count.map(|_| first), count.unwrap_or(1)),
            Unit::Quarter => months_around(moment, count.map(|_| first), 3 * count.unwrap_or(1)),
            Unit::Year => months_around(moment, count.map(|_| first), 12 * count.unwrap_or(1)),
        }
    }
}

fn around(moment: i64, first: i64, length: i64) -> Option<(i64, i64)> {
    let begin = moment.checked_sub(moment.checked_sub(first)?.rem_euclid(length))?;
    Some((begin, begin.checked_add(length)?))
}

/// The same of months, which are of no one length. Without a `first` they are the calendar's.
fn months_around(moment: i64, first: Option<i64>, length: i64) -> Option<(i64, i64)> {
    let of = day(moment)?;
    let first = match first {
        Some(first) => day(first)?,
        None => NaiveDate::from_ymd_opt(of.year(), 1, 1)?,
    };
    // What begins on a 31st begins on the last day of a month that has none.
    let begin = |number: i64| {
        let months = Months::new(u32::try_from(number.checked_mul(length)?.unsigned_abs()).ok()?);
        let begin = if number < 0 { first.checked_sub_months(months) } else { first.checked_add_months(months) };
        begin.map(|begin| begin.signed_duration_since(NaiveDate::default()).num_days() * DAY)
    };
    let apart = 12 * i64::from(of.year() - first.year()) + i64::from(of.month0()) - i64::from(first.month0());
    let number = apart.div_euclid(length);
    match begin(number)? {
        later if later > moment => Some((begin(number - 1)?, later)),
        begun => Some((begun, begin(number + 1)?)),
    }
}

/// The day of a moment.
pub(crate) fn day(moment: i64) -> Option<NaiveDate> {
    NaiveDate::default().checked_add_signed(chrono::TimeDelta::days(moment.div_euclid(DAY)))
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = UNITS.iter().find(|(_, unit)| *unit == self.unit).map_or("", |(word, _)| word);
        match self.count.map(NonZeroU16::get) {
            None => f.write_str(word),
            Some(1) => write!(f, "1 {word}"),
            Some(count) => write!(f, "{count} {word}s"),
        }
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (count, word) = match text.split_whitespace().collect::<Vec<_>>().as_slice() {
            [word] => (None, *word),
            [count, word] => (Some(*count), *word),
            _ => (None, text),
        };
        let singular = word.strip_suffix('s').filter(|_| count.is_some()).unwrap_or(word);
        let Some(&(_, unit)) = UNITS.iter().find(|(word, _)| *word == singular) else {
            let hint = match text.starts_with(|first: char| first.is_ascii_digit()) && count.is_none() {
                true => "write a number and a unit, as in `15 minutes`".to_owned(),
                false => super::suggestion(singular, UNITS.map(|(word, _)| word)),
            };
            return Err(format!("`{text}` is no period: {hint}"));
        };
        let Some(count) = count else { return Ok(Self { count: None, unit }) };
        match count.parse().ok().filter(|_| !count.starts_with('+')) {
            Some(count) => Ok(Self { count: Some(count), unit }),
            None => Err(format!("`{text}` is no period: `{count}` is not a number from 1 to {}", u16::MAX)),
        }
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Period {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let units = UNITS.map(|(word, _)| word);
        schemars::json_schema!({
            "description": "As the calendar has it (`month`), or several, counted from `from` (`3 months`)",
            "anyOf": [
                { "enum": units },
                { "type": "string", "pattern": format!("^[1-9][0-9]{{0,4}} +({})s?$", units.join("|")) }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> i64 {
        let text = if text.len() > 10 { format!("{text}:00Z") } else { format!("{text}T00:00:00Z") };
        chrono::DateTime::parse_from_rfc3339(&text).unwrap().timestamp_micros()
    }

    #[test]
    fn each_moment_has_a_period() {
        for (period, first, at, begin, next) in [
            ("day", "2024-01-01", "2024-02-29T23:59", "2024-02-29", "2024-03-01"),
            ("week", "2024-01-03", "2024-01-07", "2024-01-01", "2024-01-08"),
            ("week", "2024-01-03", "0001-01-01", "0001-01-01", "0001-01-08"),
            ("month", "2024-01-15", "2024-02-29", "2024-02-01", "2024-03-01"),
            ("quarter", "2024-01-15", "1969-12-31", "1969-10-01", "1970-01-01"),
            ("year", "2024-01-15", "9998-12-31", "9998-01-01", "9999-01-01"),
            ("hour", "2024-01-01T00:30", "2024-01-01T00:59", "2024-01-01", "2024-01-01T01:00"),
            ("minute", "2024-01-01", "1969-12-31T23:59", "1969-12-31T23:59", "1970-01-01"),
            // Those that are counted begin with the first one.
            ("1 week", "2023-12-31", "2024-01-06T23:59", "2023-12-31", "2024-01-07"),
            ("2 weeks", "2024-01-03", "2024-01-16", "2024-01-03", "2024-01-17"),
            ("10 days", "2024-01-03", "2023-12-31", "2023-12-24", "2024-01-03"),
            ("15 minutes", "2024-01-01T00:05", "2024-01-01T00:20", "2024-01-01T00:20", "2024-01-01T00:35"),
            ("8 hours", "2024-01-01T06:00", "2024-01-02T05:59", "2024-01-01T22:00", "2024-01-02T06:00"),
            ("12 months", "2023-04-01", "2024-03-31T23:59", "2023-04-01", "2024-04-01"),
            ("1 quarter", "2024-02-01", "2024-05-01", "2024-05-01", "2024-08-01"),
            ("2 years", "2024-02-29", "2026-02-28", "2026-02-28", "2028-02-29"),
            ("2 years", "2024-02-29", "2026-02-27", "2024-02-29", "2026-02-28"),
            ("1 month", "2024-01-31", "2024-02-28", "2024-01-31", "2024-02-29"),
            ("1 month", "2024-01-31", "2024-03-30", "2024-02-29", "2024-03-31"),
            ("1 month", "2024-01-31", "2023-12-30", "2023-11-30", "2023-12-31"),
        ] {
            let found = period.parse::<Period>().unwrap().around(moment(at), moment(first));
            assert_eq!(found, Some((moment(begin), moment(next))), "{period} from {first} at {at}");
        }
    }

    #[test]
    fn periods_follow_each_other() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..2_000 {
            let (unit, _) = UNITS[random.usize(..UNITS.len())];
            let text = if random.bool() { unit.to_owned() } else { format!("{} {unit}s", random.u16(2..40)) };
            let period: Period = text.parse().unwrap();
            assert_eq!(period.to_string(), text);
            let first = random.i64(-80_000..80_000) * DAY;
            let mut at = random.i64(-2_000_000_000..4_000_000_000) * 1_000_000;
            for _ in 0..4 {
                let (begin, next) = period.around(at, first).unwrap();
                assert!(begin <= at && at < next, "{text} {first} {at}");
                for within in [begin, next - 1] {
                    assert_eq!(period.around(within, first), Some((begin, next)), "{text} {first} {at}");
                }
                at = next;
            }
        }
    }

    #[test]
    fn what_is_no_period() {
        for (text, expected) in [
            ("fortnight", "`fortnight` is no period: "),
            ("0 days", "`0 days` is no period: `0` is not a number from 1 to 65535"),
            ("70000 days", "`70000 days` is no period: `70000` is not a number"),
            ("-1 day", "`-1 day` is no period: `-1` is not a number"),
            ("+1 day", "`+1 day` is no period: `+1` is not a number"),
            ("15minutes", "`15minutes` is no period: write a number and a unit, as in `15 minutes`"),
            ("5", "`5` is no period: write a number and a unit"),
            ("1 full day", "`1 full day` is no period: write a number and a unit"),
            ("months", "`months` is no period: did you mean `month`?"),
            ("1 monht", "`1 monht` is no period: did you mean `month`?"),
            ("", "`` is no period: "),
        ] {
            let found = text.parse::<Period>().unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
