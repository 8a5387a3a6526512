//! The calendar: a dimension of days.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Date32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef};
use chrono::{Datelike, Duration, NaiveDate};
use pure_rust_locales::{Locale, locale_match};
use starmere_lake::Error as LakeError;

use super::Columns;
use crate::define::SpecialMembers;
use crate::keys::UNKNOWN;
use crate::{Error, Result};

/// Days since 1970, first and last, and what is said of them.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Days {
    pub first: i32,
    pub last: i32,
    /// The month in which the fiscal year begins, where there is one.
    pub fiscal_year_begins: Option<u32>,
    /// Names of holidays, by day, where there is a list.
    pub holidays: Option<BTreeMap<i32, String>>,
    /// Languages in which days and months have names, too.
    pub locales: Vec<String>,
}

impl Days {
    /// Columns of the rows; the key's column is named for the dimension.
    pub(super) fn schema(&self, name: &str) -> SchemaRef {
        let whole = |name: &str| Field::new(name, DataType::Int32, true);
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let mut fields = vec![
            Field::new(format!("{name}_key"), DataType::Int64, false),
            Field::new("date", DataType::Date32, true),
            whole("year"),
            whole("quarter"),
            whole("month"),
            text("month_name"),
            whole("day_of_month"),
            whole("day_of_week"),
            text("day_name"),
            whole("day_of_year"),
            whole("iso_year"),
            whole("iso_week"),
            text("year_month"),
            Field::new("is_weekend", DataType::Boolean, true),
        ];
        if self.fiscal_year_begins.is_some() {
            fields.extend(["fiscal_year", "fiscal_quarter", "fiscal_month"].map(whole));
        }
        if self.holidays.is_some() {
            fields.extend([Field::new("is_holiday", DataType::Boolean, true), text("holiday")]);
        }
        for locale in &self.locales {
            let suffix = locale.to_lowercase();
            fields.extend([text(&format!("month_name_{suffix}")), text(&format!("day_name_{suffix}"))]);
        }
        Arc::new(Schema::new(fields))
    }

    /// The key of each day: yyyymmdd; 0 outside the calendar and where there is no day.
    pub(super) fn keys(&self, days: &ArrayRef) -> Int64Array {
        let days = days.as_primitive::<Date32Type>();
        let key = |day: Option<i32>| match day {
            Some(day) if (self.first..=self.last).contains(&day) => key(day),
            _ => UNKNOWN,
        };
        Int64Array::from_iter_values(days.iter().map(key))
    }

    pub(super) fn rows(&self, name: &str, members: &SpecialMembers) -> Result<RecordBatch> {
        let columns = Columns::new(members);
        let special = columns.special.len();
        let numbers = self.first..=self.last;
        let days: Vec<NaiveDate> = numbers.clone().map(day).collect();
        let whole = |of: &dyn Fn(&NaiveDate) -> u32| columns.whole(days.iter().map(|day| of(day) as i32));
        let text = |of: &dyn Fn(&NaiveDate) -> String| columns.text(days.iter().map(of));
        let flag = |of: &dyn Fn(&NaiveDate) -> bool| -> ArrayRef {
            let none = std::iter::repeat_n(None, special);
            Arc::new(none.chain(days.iter().map(|day| Some(of(day)))).collect::<BooleanArray>())
        };
        let dates: Date32Array = std::iter::repeat_n(None, special).chain(numbers.clone().map(Some)).collect();
        let mut all: Vec<ArrayRef> = vec![
            columns.keys(numbers.clone().map(key)),
            Arc::new(dates),
            whole(&|day| day.year() as u32),
            whole(&|day| day.month0() / 3 + 1),
            whole(&|day| day.month()),
            text(&|day| day.format("%B").to_string()),
            whole(&|day| day.day()),
            whole(&|day| day.weekday().number_from_monday()),
            text(&|day| day.format("%A").to_string()),
            whole(&|day| day.ordinal()),
            whole(&|day| day.iso_week().year() as u32),
            whole(&|day| day.iso_week().week()),
            text(&|day| day.format("%Y-%m").to_string()),
            flag(&|day| day.weekday().number_from_monday() > 5),
        ];
        if let Some(begins) = self.fiscal_year_begins {
            // A fiscal year is called by the year in which it ends.
            let month0 = |day: &NaiveDate| (day.month() + 12 - begins) % 12;
            all.push(whole(&|day| day.year() as u32 + u32::from(begins > 1 && day.month() >= begins)));
            all.push(whole(&|day| month0(day) / 3 + 1));
            all.push(whole(&|day| month0(day) + 1));
        }
        if let Some(holidays) = &self.holidays {
            let named = numbers.clone().map(|day| holidays.get(&day).cloned());
            let labels = columns.special.iter().map(|(_, label)| label.map(str::to_owned));
            all.push(flag(&|day| holidays.contains_key(&number(*day))));
            all.push(Arc::new(labels.chain(named).collect::<StringArray>()));
        }
        for locale in self.locales.iter().filter_map(|locale| known_locale(locale)) {
            let months = locale_match!(locale => LC_TIME::MON);
            let names = locale_match!(locale => LC_TIME::DAY);
            let of = |names: &[&str], at: u32| names.get(at as usize).copied().unwrap_or_default().to_owned();
            all.push(text(&|day| of(months, day.month0())));
            all.push(text(&|day| of(names, day.weekday().num_days_from_sunday())));
        }
        RecordBatch::try_new(self.schema(name), all)
            .map_err(LakeError::columns(format!("calendar `{name}`")))
            .map_err(Error::Lake)
    }
}

/// A language by its name, such as `de_CH`.
pub fn known_locale(name: &str) -> Option<Locale> {
    Locale::try_from(name).ok()
}

/// Days since 1970.
pub fn number(day: NaiveDate) -> i32 {
    day.signed_duration_since(NaiveDate::default()).num_days() as i32
}

/// Holidays of a file: a day, a comma and a name a line, either in quotes if need be. A first line without digits is a header.
pub fn holidays(text: &str) -> Result<BTreeMap<i32, String>, String> {
    let mut found: BTreeMap<i32, String> = BTreeMap::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (date, name) = line.split_once(',').unwrap_or((line, ""));
        let date = unquoted(date);
        match date.parse::<NaiveDate>() {
            Ok(day) => {
                if let Some(other) = found.insert(number(day), unquoted(name)) {
                    return Err(format!("line {}: {date} is there twice, as `{other}` before", index + 1));
                }
            }
            Err(_) if index == 0 && !date.contains(|character: char| character.is_ascii_digit()) => {}
            Err(_) => return Err(format!("line {}: `{date}` is not a day such as 2024-12-25", index + 1)),
        }
    }
    Ok(found)
}

/// A text as it is meant: without the quotes around it, and of two quotes within them one.
fn unquoted(text: &str) -> String {
    let text = text.trim();
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_owned(),
    }
}

fn day(days: i32) -> NaiveDate {
    NaiveDate::default() + Duration::days(days.into())
}

fn key(days: i32) -> i64 {
    let day = day(days);
    i64::from(day.year()) * 10_000 + i64::from(day.month()) * 100 + i64::from(day.day())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(days: &Days) -> Vec<String> {
        let rows = days.rows("date", &SpecialMembers::default()).unwrap();
        let printed = arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string();
        printed.lines().skip(4).map(str::to_owned).collect()
    }

    #[test]
    fn days_know_their_names() {
        let days = printed(&Days { first: 19_782, last: 19_783, ..Days::default() });
        assert!(
            days[0].contains("20240229") && days[0].contains("February") && days[0].contains("Thursday"),
            "{days:?}"
        );
        assert!(days[1].contains("20240301") && days[1].contains("2024-03"), "{days:?}");
    }

    #[test]
    fn fiscal_years_holidays_and_languages() {
        let holidays = holidays("date,name\n2024-03-29,Good Friday, observed\n\n2024-04-01,Easter\n").unwrap();
        let of = Days {
            first: 19_811,
            last: 19_814,
            fiscal_year_begins: Some(4),
            holidays: Some(holidays),
            locales: vec!["de_CH".to_owned(), "fr_FR".to_owned()],
        };
        let days = printed(&of);
        let has = |row: usize, words: &[&str]| {
            assert!(words.iter().all(|word| days[row].contains(&format!("| {word} "))), "{words:?}: {}", days[row]);
        };
        has(0, &["20240329", "2024", "4", "12", "Good Friday, observed", "März", "Freitag", "mars", "vendredi"]);
        has(3, &["20240401", "2025", "1", "Easter", "April", "Montag", "avril", "lundi"]);
    }

    #[test]
    fn a_file_of_holidays_may_be_wrong() {
        for (text, words) in [
            ("2024-12-25,a\n2024-12-25,b", "line 2: 2024-12-25 is there twice, as `a` before"),
            ("2024-12-25,a\nsoon,b", "line 2: `soon` is not a day"),
            ("2024-12-25;a\n2024-12-26;b", "line 1: `2024-12-25;a` is not a day"),
        ] {
            assert!(holidays(text).unwrap_err().starts_with(words));
        }
    }

    #[test]
    fn days_and_names_may_stand_in_quotes() {
        let named = holidays("\"day\",\"name\"\n\"2024-01-01\", \"A \"\"b\"\" c\"\n2024-01-02,Day of \"X\"").unwrap();
        assert_eq!(named.into_values().collect::<Vec<_>>(), ["A \"b\" c", "Day of \"X\""]);
    }
}
