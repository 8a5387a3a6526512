//! The calendar: a dimension of days that needs no events.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, BooleanArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Date32Type, Field, Schema, SchemaRef};
use chrono::{Datelike, Duration, NaiveDate};
use starmere_lake::Error as LakeError;

use crate::keys::UNKNOWN;
use crate::{Error, Result};

/// Days since 1970, first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Days {
    pub first: i32,
    pub last: i32,
}

/// Columns of a calendar; the key's column is named for the dimension.
pub fn schema(name: &str) -> SchemaRef {
    static REST: LazyLock<Vec<Field>> = LazyLock::new(|| {
        let whole = |name: &str| Field::new(name, DataType::Int32, true);
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        vec![
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
        ]
    });
    let mut fields = vec![Field::new(format!("{name}_key"), DataType::Int64, false)];
    fields.extend(REST.iter().cloned());
    Arc::new(Schema::new(fields))
}

/// The key of each day: yyyymmdd; 0 outside the calendar and where there is no day.
pub fn keys(days: &ArrayRef, calendar: Days) -> Int64Array {
    let days = days.as_primitive::<Date32Type>();
    let key = |day: Option<i32>| match day {
        Some(day) if (calendar.first..=calendar.last).contains(&day) => key(day),
        _ => UNKNOWN,
    };
    Int64Array::from_iter_values(days.iter().map(key))
}

fn day(days: i32) -> NaiveDate {
    NaiveDate::from_ymd_opt(1970, 1, 1).unwrap_or_default() + Duration::days(days.into())
}

fn key(days: i32) -> i64 {
    let day = day(days);
    i64::from(day.year()) * 10_000 + i64::from(day.month()) * 100 + i64::from(day.day())
}

/// All rows: the unknown member and the days.
pub fn rows(name: &str, calendar: Days) -> Result<RecordBatch> {
    let days: Vec<Option<NaiveDate>> =
        std::iter::once(None).chain((calendar.first..=calendar.last).map(|days| Some(day(days)))).collect();
    let whole = |of: fn(NaiveDate) -> u32| -> ArrayRef {
        Arc::new(days.iter().map(|day| day.map(|day| of(day) as i32)).collect::<Int32Array>())
    };
    let text = |format: &str| -> ArrayRef {
        Arc::new(days.iter().map(|day| day.map(|day| day.format(format).to_string())).collect::<StringArray>())
    };
    let keys: Int64Array =
        std::iter::once(UNKNOWN).chain((calendar.first..=calendar.last).map(key)).map(Some).collect();
    let dates: Date32Array = std::iter::once(None).chain((calendar.first..=calendar.last).map(Some)).collect();
    let weekend: BooleanArray = days.iter().map(|day| day.map(|day| day.weekday().number_from_monday() > 5)).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(keys),
        Arc::new(dates),
        whole(|day| day.year() as u32),
        whole(|day| day.month0() / 3 + 1),
        whole(|day| day.month()),
        text("%B"),
        whole(|day| day.day()),
        whole(|day| day.weekday().number_from_monday()),
        text("%A"),
        whole(|day| day.ordinal()),
        whole(|day| day.iso_week().year() as u32),
        whole(|day| day.iso_week().week()),
        text("%Y-%m"),
        Arc::new(weekend),
    ];
    RecordBatch::try_new(schema(name), columns)
        .map_err(LakeError::columns(format!("calendar `{name}`")))
        .map_err(Error::Lake)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_know_their_names() {
        let rows = rows("date", Days { first: 19_782, last: 19_783 }).unwrap();
        let printed = arrow::util::pretty::pretty_format_batches(&[rows]).unwrap().to_string();
        let days: Vec<&str> = printed.lines().skip(4).take(2).collect();
        assert!(
            days[0].contains("20240229") && days[0].contains("February") && days[0].contains("Thursday"),
            "{printed}"
        );
        assert!(days[1].contains("20240301") && days[1].contains("2024-03"), "{printed}");
    }
}
