//! How large the values of a function may become, by its arguments.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, OffsetSizeTrait};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::functions::regex::regexp_count;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs};

use super::MOST_OF_VALUE;

/// Bytes that each element of a list takes beside its own: by them elements of lists in lists are counted.
pub(crate) const ELEMENT: u64 = 4;
/// Bytes of a number or a time that is written, but for a floating one.
const WRITTEN: u64 = 48;
/// Bytes of a floating number that is written: all its digits.
const WRITTEN_FLOAT: u64 = 352;
/// Letters that two letters of a pattern of times may become.
const WRITTEN_TIME: u64 = 20;

/// What the size of a function's value depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Growth {
    /// A text, so many times.
    Repeated,
    /// As many letters as a number says.
    Padded,
    /// A list of a value, so many times.
    ListOfRepeated,
    /// A list from a start to a stop by steps.
    Series,
    /// A list of so many elements.
    Resized,
    /// A text, in which texts become others.
    Replaced,
    /// A text, in which what a pattern finds becomes another one.
    PatternReplaced,
    /// A text, in which letters become others.
    Translated,
    /// All arguments.
    Together,
    /// All arguments but the first, which stands between them.
    Separated,
    /// A list, in which elements become others.
    ListReplaced,
    /// The elements of a list, written.
    ListWritten,
    /// A list of the parts of a text.
    Split,
    /// A time, as a pattern has it.
    TimeWritten,
}

impl Growth {
    /// How the values of a function of the engine grow; `None` where they are not much larger than its arguments.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "repeat" => Self::Repeated,
            "lpad" | "rpad" => Self::Padded,
            "array_repeat" => Self::ListOfRepeated,
            "range" | "generate_series" => Self::Series,
            "array_resize" => Self::Resized,
            "replace" => Self::Replaced,
            "regexp_replace" => Self::PatternReplaced,
            "translate" => Self::Translated,
            "concat" | "overlay" | "array_concat" | "array_append" | "array_prepend" | "make_array" | "array_union"
            | "arrays_zip" | "map" => Self::Together,
            "concat_ws" => Self::Separated,
            "array_replace" | "array_replace_n" | "array_replace_all" => Self::ListReplaced,
            "array_to_string" => Self::ListWritten,
            "string_to_array" => Self::Split,
            "to_char" => Self::TimeWritten,
            _ => return None,
        })
    }

    /// Whether values have as many bytes as [`Self::sizes`] says, and no fewer.
    pub(super) fn is_exact(self) -> bool {
        self == Self::Repeated
    }

    /// At most so many bytes are needed for each row.
    pub(super) fn sizes(self, args: &[ColumnarValue], rows: usize) -> Result<Vec<u64>> {
        if self == Self::Series {
            return series(args, rows);
        }
        let sizes = args.iter().map(Sizes::of).collect::<Result<Vec<_>>>()?;
        let size = |arg: usize, row: usize| sizes.get(arg).map_or(0, |sizes| sizes.at(row));
        let together = |from: usize, row: usize| sizes.iter().skip(from).map(|sizes| sizes.at(row) + 16).sum::<u64>();
        let counts = match (self, args.get(1)) {
            (Self::Repeated | Self::Padded | Self::ListOfRepeated | Self::Resized, Some(counts)) => {
                Some(Counts::of(counts)?)
            }
            _ => None,
        };
        let count = |row: usize| counts.as_ref().map_or(0, |counts| counts.at(row));
        let of_row = |row: usize| match self {
            Self::Repeated => size(0, row).saturating_mul(count(row)),
            Self::Padded => count(row).saturating_mul(4),
            Self::ListOfRepeated => (size(0, row) + 16).saturating_mul(count(row)),
            Self::Resized => size(0, row).saturating_add((size(2, row) + 16).saturating_mul(count(row))),
            Self::Replaced => replaced(args, row, size(0, row), size(1, row), size(2, row)),
            Self::PatternReplaced => pattern_replaced(args, row, size(0, row), size(2, row)),
            Self::Translated => size(0, row).saturating_mul(4),
            Self::Together => together(0, row),
            Self::Separated => together(1, row).saturating_add(size(0, row).saturating_mul(args.len() as u64)),
            Self::ListReplaced => {
                size(0, row).saturating_add(elements(args.first(), row, size(0, row)).saturating_mul(size(2, row)))
            }
            Self::ListWritten => {
                let each = size(1, row) + size(2, row) + args.first().map_or(0, written);
                size(0, row).saturating_add(elements(args.first(), row, size(0, row)).saturating_mul(each))
            }
            Self::Split => (size(0, row) + 1).saturating_mul(20),
            Self::TimeWritten => size(1, row).saturating_mul(WRITTEN_TIME) + WRITTEN,
            Self::Series => 0,
        };
        Ok((0..rows).map(of_row).collect())
    }
}

/// How many bytes the values of an argument have.
pub(super) enum Sizes {
    All(u64),
    Each(Vec<u64>),
}

impl Sizes {
    pub(super) fn of(arg: &ColumnarValue) -> Result<Self> {
        Ok(match arg {
            ColumnarValue::Array(array) => Self::Each(sizes_of(array)),
            ColumnarValue::Scalar(value) => Self::All(size_of(value)?),
        })
    }

    pub(super) fn at(&self, row: usize) -> u64 {
        match self {
            Self::All(size) => *size,
            Self::Each(sizes) => sizes.get(row).copied().unwrap_or_default(),
        }
    }
}

/// How many bytes a constant has.
pub(super) fn size_of(value: &ScalarValue) -> Result<u64> {
    Ok(match value {
        ScalarValue::Binary(of) | ScalarValue::LargeBinary(of) | ScalarValue::BinaryView(of) => {
            of.as_ref().map_or(0, |of| of.len() as u64)
        }
        other => match other.try_as_str() {
            Some(text) => text.map_or(0, |text| text.len() as u64),
            None => match other.data_type().primitive_width() {
                Some(width) => width as u64,
                None => sizes_of(&other.to_array()?).first().copied().unwrap_or_default(),
            },
        },
    })
}

/// How many bytes each value of an array has.
pub(crate) fn sizes_of(array: &ArrayRef) -> Vec<u64> {
    match array.data_type() {
        DataType::Utf8 => between(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => between(array.as_string::<i64>().value_offsets()),
        DataType::Binary => between(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => between(array.as_binary::<i64>().value_offsets()),
        // The lowest half of a view's half is the length.
        DataType::Utf8View => array.as_string_view().views().iter().map(|view| u64::from(*view as u32)).collect(),
        DataType::BinaryView => array.as_binary_view().views().iter().map(|view| u64::from(*view as u32)).collect(),
        DataType::List(_) => of_lists(array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values()),
        DataType::LargeList(_) => of_lists(array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values()),
        DataType::FixedSizeList(of, length) => {
            let length = usize::try_from(*length).unwrap_or_default();
            if let Some(width) = width(of.data_type()) {
                return vec![length as u64 * (width + ELEMENT); array.len()];
            }
            let elements = sizes_of(array.as_fixed_size_list().values());
            let of_row = |row: usize| {
                let of = elements.get(row * length..(row + 1) * length).unwrap_or_default();
                of.iter().map(|size| size + ELEMENT).sum::<u64>()
            };
            (0..array.len()).map(of_row).collect()
        }
        DataType::Map(..) => {
            let entries: ArrayRef = Arc::new(array.as_map().entries().clone());
            of_lists(array.as_map().value_offsets(), &entries)
        }
        DataType::Struct(_) => {
            let columns: Vec<Vec<u64>> = array.as_struct().columns().iter().map(sizes_of).collect();
            (0..array.len()).map(|row| columns.iter().map(|column| column[row]).sum::<u64>()).collect()
        }
        other => {
            let all = array.get_array_memory_size() / array.len().max(1);
            vec![other.primitive_width().unwrap_or(all) as u64; array.len()]
        }
    }
}

/// Bytes of each value of a type, where all have the same: then nothing has to be made for each element of a list,
/// which may take less than a byte itself.
fn width(of: &DataType) -> Option<u64> {
    match of {
        DataType::Null | DataType::Boolean => Some(1),
        other => other.primitive_width().map(|width| width as u64),
    }
}

fn between<O: OffsetSizeTrait>(offsets: &[O]) -> Vec<u64> {
    offsets.windows(2).map(|ends| (ends[1] - ends[0]).as_usize() as u64).collect()
}

fn of_lists<O: OffsetSizeTrait>(offsets: &[O], elements: &ArrayRef) -> Vec<u64> {
    if let Some(width) = width(elements.data_type()) {
        return between(offsets).into_iter().map(|count| count * (width + ELEMENT)).collect();
    }
    // Lists of few rows of many share the elements of all.
    let (first, last) =
        (offsets.first().map_or(0, |end| end.as_usize()), offsets.last().map_or(0, |end| end.as_usize()));
    let mut before = Vec::with_capacity(last - first + 1);
    before.push(0);
    let mut sum = 0;
    for size in sizes_of(&elements.slice(first, last - first)) {
        sum += size + ELEMENT;
        before.push(sum);
    }
    let until = |end: O| before[end.as_usize() - first];
    offsets.windows(2).map(|ends| until(ends[1]) - until(ends[0])).collect()
}

/// A whole number for each row: 0 where there is none, or a negative one.
enum Counts {
    All(u64),
    Each(Int64Array),
}

impl Counts {
    fn of(arg: &ColumnarValue) -> Result<Self> {
        Ok(match arg {
            ColumnarValue::Array(array) => {
                Self::Each(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            ColumnarValue::Scalar(value) => match value.cast_to(&DataType::Int64)? {
                ScalarValue::Int64(Some(count)) => Self::All(u64::try_from(count).unwrap_or_default()),
                _ => Self::All(0),
            },
        })
    }

    fn at(&self, row: usize) -> u64 {
        match self {
            Self::All(count) => *count,
            Self::Each(counts) if counts.is_null(row) => 0,
            Self::Each(counts) => u64::try_from(counts.value(row)).unwrap_or_default(),
        }
    }
}

/// The text of an argument.
pub(super) fn text_of(arg: Option<&ColumnarValue>, row: usize) -> &str {
    match arg {
        Some(ColumnarValue::Scalar(value)) => value.try_as_str().flatten().unwrap_or_default(),
        Some(ColumnarValue::Array(array)) if array.is_valid(row) => match array.data_type() {
            DataType::Utf8 => array.as_string::<i32>().value(row),
            DataType::LargeUtf8 => array.as_string::<i64>().value(row),
            DataType::Utf8View => array.as_string_view().value(row),
            _ => "",
        },
        _ => "",
    }
}

/// Counted, where the text would be too large if it consisted of nothing but what is replaced.
fn replaced(args: &[ColumnarValue], row: usize, text: u64, from: u64, to: u64) -> u64 {
    if from == 0 || to <= from {
        return text;
    }
    let most = text.saturating_add((text / from).saturating_mul(to));
    if most <= MOST_OF_VALUE {
        return most;
    }
    let found = text_of(args.first(), row).matches(text_of(args.get(1), row)).count() as u64;
    text.saturating_add(found.saturating_mul(to - from))
}

/// Counted, where the text would be too large if the pattern found something at each letter.
fn pattern_replaced(args: &[ColumnarValue], row: usize, text: u64, to: u64) -> u64 {
    let flags = text_of(args.get(3), row);
    // Each reference stands for a part of what was found, and all that was found is a part of the text.
    let references = text_of(args.get(2), row).matches(['\\', '$']).count() as u64;
    let referred = text.saturating_mul(references);
    let with = |found: u64| text.saturating_add(referred).saturating_add(found.saturating_mul(to));
    if !flags.contains('g') {
        return with(1);
    }
    let most = with(text + 1);
    if most <= MOST_OF_VALUE {
        return most;
    }
    let found = found(text_of(args.first(), row), text_of(args.get(1), row), &flags.replace('g', ""));
    found.map_or(most, with)
}

/// How often a pattern is found in a text.
fn found(text: &str, pattern: &str, flags: &str) -> Option<u64> {
    let mut args = vec![ScalarValue::from(text), ScalarValue::from(pattern)];
    if !flags.is_empty() {
        args.extend([ScalarValue::Int64(Some(1)), ScalarValue::from(flags)]);
    }
    let field = |data_type: DataType| Arc::new(Field::new("count", data_type, true));
    let args = ScalarFunctionArgs {
        arg_fields: args.iter().map(|arg| field(arg.data_type())).collect(),
        args: args.into_iter().map(ColumnarValue::Scalar).collect(),
        number_rows: 1,
        return_field: field(DataType::Int64),
        config_options: Arc::new(ConfigOptions::default()),
    };
    let counted = regexp_count().invoke_with_args(args).and_then(|counted| counted.into_array(1)).ok()?;
    u64::try_from(counted.as_primitive_opt::<Int64Type>()?.value(0)).ok()
}

/// How many elements a list of `size` bytes has, those of lists in it included.
fn elements(list: Option<&ColumnarValue>, row: usize, size: u64) -> u64 {
    let (array, row) = match list {
        Some(ColumnarValue::Array(array)) => (array.clone(), row),
        Some(ColumnarValue::Scalar(ScalarValue::List(list))) => (list.clone() as ArrayRef, 0),
        Some(ColumnarValue::Scalar(ScalarValue::LargeList(list))) => (list.clone() as ArrayRef, 0),
        _ => return size / ELEMENT,
    };
    match array.data_type() {
        DataType::List(of) if !of.data_type().is_nested() => array.as_list::<i32>().value_length(row) as u64,
        DataType::LargeList(of) if !of.data_type().is_nested() => array.as_list::<i64>().value_length(row) as u64,
        _ => size / ELEMENT,
    }
}

/// Bytes of an element of a list when it is written, beside those that it has.
fn written(list: &ColumnarValue) -> u64 {
    let mut of = list.data_type();
    while let DataType::List(element) | DataType::LargeList(element) | DataType::FixedSizeList(element, _) = &of {
        of = element.data_type().clone();
    }
    match of {
        of if of.is_floating() => WRITTEN_FLOAT,
        of if of.is_string() => 0,
        _ => WRITTEN,
    }
}

fn series(args: &[ColumnarValue], rows: usize) -> Result<Vec<u64>> {
    let args = args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
    if args.iter().any(|arg| arg.data_type().is_null()) {
        return Ok(vec![0; rows]);
    }
    match args.as_slice() {
        [start, stop, step] if matches!(step.data_type(), DataType::Interval(_)) => spans(start, stop, step),
        _ => {
            let whole = args.iter().map(|arg| cast(arg, &DataType::Int64)).collect::<Result<Vec<_>, _>>()?;
            let at = |arg: usize, row: usize| {
                let of = whole.get(arg)?.as_primitive::<Int64Type>();
                of.is_valid(row).then(|| of.value(row))
            };
            let count = |row: usize| {
                let (start, stop, step) = match whole.len() {
                    1 => (0, at(0, row)?, 1),
                    2 => (at(0, row)?, at(1, row)?, 1),
                    _ => (at(0, row)?, at(1, row)?, at(2, row)?),
                };
                let goes_on = if step > 0 { start <= stop } else { start >= stop };
                (goes_on && step != 0).then(|| (start.abs_diff(stop) / step.unsigned_abs()).saturating_add(1))
            };
            Ok((0..rows).map(|row| count(row).unwrap_or_default().saturating_mul(8)).collect())
        }
    }
}

/// The same for days and times.
fn spans(start: &ArrayRef, stop: &ArrayRef, step: &ArrayRef) -> Result<Vec<u64>> {
    const DAY: f64 = 86_400.0;
    // On the day on which clocks are put forward an hour is missing.
    const SHORTEST_DAY: f64 = DAY - 3_600.0;
    let are_days = matches!(start.data_type(), DataType::Date32 | DataType::Date64);
    let seconds = |times: &ArrayRef| {
        let zone = match times.data_type() {
            DataType::Timestamp(_, zone) => zone.clone(),
            _ => None,
        };
        let seconds = cast(times, &DataType::Timestamp(TimeUnit::Second, zone))?;
        Ok::<_, arrow::error::ArrowError>(cast(&seconds, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
    };
    let (start, stop) = (seconds(start)?, seconds(stop)?);
    let step = cast(step, &DataType::Interval(IntervalUnit::MonthDayNano))?;
    let step = step.as_primitive::<IntervalMonthDayNanoType>();
    let count = |row: usize| {
        if start.is_null(row) || stop.is_null(row) || step.is_null(row) {
            return 0;
        }
        let (months, days, nanos) = IntervalMonthDayNanoType::to_parts(step.value(row));
        let parts = [i64::from(months), i64::from(days), nanos].map(i64::signum);
        let goes_back = parts.contains(&-1);
        let is_nothing = parts == [0; 3] || (are_days && parts[..2] == [0; 2]);
        let (start, stop) = (start.value(row) as f64, stop.value(row) as f64);
        let span = if goes_back { start - stop } else { stop - start };
        if is_nothing || span < -1.0 {
            return 1;
        }
        // Forward and back in one step: it may never arrive.
        if goes_back && parts.contains(&1) {
            return u64::MAX;
        }
        let step = (f64::from(months) * 28.0 * DAY + f64::from(days) * SHORTEST_DAY + nanos as f64 / 1e9).abs();
        ((span + 1.0) / step) as u64 + 2
    };
    // The engine does not know how many there will be, and takes room for twice as many.
    Ok((0..start.len()).map(|row| count(row).saturating_mul(16)).collect())
}
