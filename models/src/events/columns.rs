//! From JSON values to typed columns. A value that does not fit is refused with the reason; null only where the
//! text says null or nothing.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder,
    StringBuilder, TimestampMicrosecondBuilder,
};
use starmere_lake::json::{self, Kind, Paths, Span};
use starmere_lake::time;

use crate::define::FieldType;

/// A column in the making.
#[derive(Debug)]
pub(super) struct Column {
    values: Values,
    field_type: FieldType,
    /// Whether the text said anything; null where it said that the value is as it was.
    present: BooleanBuilder,
}

/// What Debezium writes in place of a large value that an update left as it was, since the database's log has it no more:
/// as text, and as bytes are written.
const UNCHANGED: [&[u8]; 2] = [b"__debezium_unavailable_value", b"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="];

#[derive(Debug)]
enum Values {
    Text(StringBuilder),
    Bool(BooleanBuilder),
    Int(Int32Builder),
    Bigint(Int64Builder),
    Decimal(Decimal128Builder, u8, i8),
    Double(Float64Builder),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

impl Column {
    pub(super) fn new(field_type: FieldType) -> Self {
        let values = match field_type {
            FieldType::String | FieldType::Json => Values::Text(StringBuilder::new()),
            FieldType::Bool => Values::Bool(BooleanBuilder::new()),
            FieldType::Int => Values::Int(Int32Builder::new()),
            FieldType::Bigint => Values::Bigint(Int64Builder::new()),
            FieldType::Decimal(precision, scale) => Values::Decimal(Decimal128Builder::new(), precision, scale),
            FieldType::Double => Values::Double(Float64Builder::new()),
            FieldType::Date => Values::Date(Date32Builder::new()),
            FieldType::Timestamp => Values::Timestamp(TimestampMicrosecondBuilder::new()),
        };
        Self { values, field_type, present: BooleanBuilder::new() }
    }

    /// The one value that a definition gives, read as an event's would be; none where it does not fit.
    pub(super) fn only(field_type: FieldType, value: &str) -> Option<ArrayRef> {
        let text = serde_json::json!({ "value": value }).to_string();
        let mut found = [Span::MISSING];
        json::scan(&Paths::new(&["value"]), text.as_bytes(), &mut found).ok()?;
        let mut column = Self::new(field_type);
        column.push(found[0], text.as_bytes()).ok()?;
        Some(column.finish().0).filter(|values| values.is_valid(0))
    }

    /// Adds the value at `span` of `text`. On an error a null is added, so that columns stay aligned.
    pub(super) fn push(&mut self, span: Span, text: &[u8]) -> Result<(), String> {
        if span.kind == Kind::String && UNCHANGED.contains(&span.raw(text)) {
            self.present.append_null();
            self.null();
            return Ok(());
        }
        self.present.append_value(span.kind != Kind::Missing);
        if matches!(span.kind, Kind::Missing | Kind::Null) {
            self.null();
            return Ok(());
        }
        if self.fits(span, text).is_some() {
            return Ok(());
        }
        self.null();
        let raw = String::from_utf8_lossy(span.raw(text));
        let shown: String = raw.chars().take(40).collect();
        Err(format!("`{shown}` is not of type {}", self.field_type))
    }

    /// Adds nothing.
    pub(super) fn push_missing(&mut self) {
        self.present.append_value(false);
        self.null();
    }

    fn null(&mut self) {
        match &mut self.values {
            Values::Text(values) => values.append_null(),
            Values::Bool(values) => values.append_null(),
            Values::Int(values) => values.append_null(),
            Values::Bigint(values) => values.append_null(),
            Values::Decimal(values, ..) => values.append_null(),
            Values::Double(values) => values.append_null(),
            Values::Date(values) => values.append_null(),
            Values::Timestamp(values) => values.append_null(),
        }
    }

    fn fits(&mut self, span: Span, text: &[u8]) -> Option<()> {
        let raw = || std::str::from_utf8(span.raw(text)).ok();
        // What may be written as a number or as text.
        let number = || matches!(span.kind, Kind::Number | Kind::String).then(raw)?;
        // Most numbers are written in the plainest way.
        let plain = || matches!(span.kind, Kind::Number | Kind::String).then(|| plain(span.raw(text)))?;
        match &mut self.values {
            Values::Text(values) if self.field_type == FieldType::Json => match span.kind {
                Kind::String => values.append_value(format!("\"{}\"", raw()?)),
                _ => values.append_value(raw()?),
            },
            Values::Text(values) => match span.kind {
                Kind::String => values.append_value(span.str(text)),
                Kind::Number | Kind::True | Kind::False => values.append_value(raw()?),
                _ => return None,
            },
            Values::Bool(values) => match (span.kind, raw()?) {
                (Kind::True, _) | (Kind::String, "true") => values.append_value(true),
                (Kind::False, _) | (Kind::String, "false") => values.append_value(false),
                _ => return None,
            },
            Values::Int(values) => {
                let value = plain().filter(|(_, places)| *places == 0).map(|(value, _)| value);
                values.append_value(i32::try_from(value.map_or_else(|| integer(number()?), Some)?).ok()?);
            }
            Values::Bigint(values) => {
                let value = plain().filter(|(_, places)| *places == 0).map(|(value, _)| value);
                values.append_value(value.map_or_else(|| integer(number()?), Some)?);
            }
            Values::Decimal(values, precision, scale) => {
                let value = plain().and_then(|plain| scaled(plain, *precision, *scale));
                values.append_value(value.map_or_else(|| decimal(number()?, *precision, *scale), Some)?);
            }
            Values::Double(values) => {
                let value: f64 = number()?.trim().parse().ok()?;
                // -0.0 and 0.0 are one value, and nothing else has two.
                value.is_finite().then(|| values.append_value(value + 0.0))?;
            }
            Values::Date(values) if span.kind == Kind::String => values.append_value(date(&span.str(text))?),
            Values::Timestamp(values) if span.kind == Kind::String => {
                values.append_value(time::micros(&span.str(text))?);
            }
            Values::Date(_) | Values::Timestamp(_) => return None,
        }
        Some(())
    }

    /// The values, and which were there: null where they are said to be as they were.
    pub(super) fn finish(mut self) -> (ArrayRef, arrow::array::BooleanArray) {
        let values: ArrayRef = match &mut self.values {
            Values::Text(values) => Arc::new(values.finish()),
            Values::Bool(values) => Arc::new(values.finish()),
            Values::Int(values) => Arc::new(values.finish()),
            Values::Bigint(values) => Arc::new(values.finish()),
            Values::Decimal(values, precision, scale) => {
                let typed = values.finish().with_precision_and_scale(*precision, *scale);
                Arc::new(typed.expect("the type was checked when it was parsed"))
            }
            Values::Double(values) => Arc::new(values.finish()),
            Values::Date(values) => Arc::new(values.finish()),
            Values::Timestamp(values) => Arc::new(values.finish().with_timezone("UTC")),
        };
        (values, self.present.finish())
    }
}

/// A number of up to 18 digits, without an exponent: its digits, and how many of them are behind the point.
fn plain(text: &[u8]) -> Option<(i64, u32)> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let (mut value, mut places, mut is_behind) = (0_i64, 0, false);
    if !(1..=19).contains(&digits.len()) {
        return None;
    }
    for &byte in digits {
        match byte {
            b'0'..=b'9' => {
                value = value.checked_mul(10)?.checked_add(i64::from(byte - b'0'))?;
                places += u32::from(is_behind);
            }
            b'.' if !is_behind && digits.len() > 1 => is_behind = true,
            _ => return None,
        }
    }
    Some((if is_negative { -value } else { value }, places))
}

/// The unscaled value of a plain number as a decimal; `None` where the long way has to tell.
fn scaled((value, places): (i64, u32), precision: u8, scale: i8) -> Option<i128> {
    let shift = u32::try_from(scale).ok()?.checked_sub(places)?;
    let value = i128::from(value).checked_mul(10_i128.checked_pow(shift)?)?;
    (value.unsigned_abs() < 10_u128.checked_pow(u32::from(precision))?).then_some(value)
}

fn integer(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| i64::try_from(decimal(text, 38, 0)?).ok())
}

/// The unscaled value of a decimal text; `None` where digits would be lost.
pub(crate) fn decimal(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let text = text.trim();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0_i128;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    let shift = i32::from(scale).checked_add(exponent)?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    if value != 0 {
        if shift >= 0 {
            value = value.checked_mul(10_i128.checked_pow(shift as u32)?)?;
        } else {
            let divisor = 10_i128.checked_pow(shift.unsigned_abs())?;
            if value % divisor != 0 {
                return None;
            }
            value /= divisor;
        }
    }
    let limit = 10_i128.pow(u32::from(precision));
    (value < limit).then_some(if negative { -value } else { value })
}

/// Days since 1970 of `2024-02-29`.
fn date(text: &str) -> Option<i32> {
    let date: chrono::NaiveDate = text.trim().parse().ok()?;
    let days = date.signed_duration_since(chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?).num_days();
    i32::try_from(days).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_every_digit_or_are_refused() {
        for (text, expected) in [
            ("12.5", Some(1250)),
            ("-0.01", Some(-1)),
            ("12.500", Some(1250)),
            ("1e2", Some(10000)),
            ("1.5E-1", Some(15)),
            ("+7", Some(700)),
            (".5", Some(50)),
            ("0e999999", Some(0)),
            ("12.501", None),
            ("12345678.90", None),
            ("three", None),
            ("", None),
            (".", None),
            ("1e999999999", None),
            ("--1", None),
        ] {
            assert_eq!(decimal(text, 9, 2), expected, "{text}");
        }
    }

    #[test]
    fn plain_numbers_are_what_the_long_way_says() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut plain_ones = 0;
        for _ in 0..200_000 {
            let length = random.usize(0..22);
            let text: String = (0..length)
                .map(|_| b"0123456789012345678901234567890123456789.-+e "[random.usize(..45)] as char)
                .collect();
            let Some(found) = plain(text.as_bytes()) else { continue };
            plain_ones += 1;
            if found.1 == 0 && !text.contains('.') {
                assert_eq!(Some(found.0), integer(&text), "{text}");
            }
            if let Some(value) = scaled(found, 9, 2) {
                assert_eq!(Some(value), decimal(&text, 9, 2), "{text}");
            }
        }
        assert!(plain_ones > 10_000, "{plain_ones}");
        assert_eq!(plain(b"-12.50"), Some((-1250, 2)));
        assert_eq!(scaled((-125, 1), 9, 2), Some(-1250));
        for text in ["", "-", ".", "1e3", "+1", "1.2.3", "12345678901234567890"] {
            assert_eq!(plain(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn integers_may_be_written_in_many_ways() {
        for (text, expected) in
            [("3", Some(3)), ("3.0", Some(3)), ("1e3", Some(1000)), ("3.5", None), ("9223372036854775808", None)]
        {
            assert_eq!(integer(text), expected, "{text}");
        }
    }
}
