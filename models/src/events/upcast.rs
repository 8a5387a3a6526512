//! Upcasters: how the columns of an old version become those of the new one.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, Scalar, new_null_array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{and, cast, is_not_null, is_null, or};
use arrow::datatypes::{DataType, Field, Schema};
use indexmap::IndexMap;

use super::columns::Column;
use crate::define::{FieldType, Step};
use crate::expression::{Compiler, Expression, RowError, cast_rows, castable};

/// Columns by name, each with what of it was there: null where it was said to be as it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    pub(super) columns: IndexMap<String, (ArrayRef, BooleanArray)>,
    pub(super) rows: usize,
}

impl Frame {
    fn batch(&self) -> RecordBatch {
        let fields: Vec<Field> =
            self.columns.iter().map(|(name, (values, _))| Field::new(name, values.data_type().clone(), true)).collect();
        let columns = self.columns.values().map(|(values, _)| values.clone()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
            .expect("the columns of a frame are of one length")
    }
}

/// The types of a frame's columns, known before there are rows.
pub(super) type Types = IndexMap<String, DataType>;

/// A step that is ready to run on one level: the event's fields, or its elements'.
#[derive(Clone, Debug)]
pub(super) enum Ready {
    Rename { from: String, to: String },
    Default { field: String, value: ArrayRef },
    Cast { field: String, to: DataType },
    Sql { field: String, expression: Expression },
    Drop { field: String },
}

/// Splits `lines.sku` into the field and its element's field.
pub(super) fn split(name: &str) -> (Option<&str>, &str) {
    match name.split_once('.') {
        Some((each, field)) => (Some(each), field),
        None => (None, name),
    }
}

/// The words of an expression, among which are all fields that it reads, however they are written.
pub(crate) fn words(expression: &str) -> BTreeSet<String> {
    let text = expression.to_lowercase();
    text.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect()
}

/// The fields a step writes, and those it reads to do so, on `level`; `None`: it is about another level.
fn effect<'a>(step: &'a Step, level: Option<&str>, names: &BTreeSet<String>) -> Option<(&'a str, Vec<String>)> {
    let on = |name: &'a str| {
        let (each, field) = split(name);
        (each == level).then_some(field)
    };
    Some(match step {
        Step::Rename(step) => (on(&step.to)?, vec![split(&step.from).1.to_owned()]),
        Step::Default(step) => (on(&step.field)?, vec![split(&step.field).1.to_owned()]),
        Step::Cast(step) => (on(&step.field)?, vec![split(&step.field).1.to_owned()]),
        Step::Drop(step) => (on(&step.field)?, Vec::new()),
        // They are written out as others.
        Step::Split(_) | Step::Merge(_) | Step::MapValues(_) => return None,
        Step::Sql(step) => {
            // Which of the names the text mentions is enough: reading one too many does no harm.
            let words = words(&step.expression);
            (on(&step.field)?, names.iter().filter(|name| words.contains(*name)).cloned().collect())
        }
    })
}

/// Which fields of the version before are needed, so that `needed` of this one can be had; and which steps lead
/// there.
pub(super) fn needed_before(
    steps: &[Step],
    level: Option<&str>,
    needed: &BTreeSet<String>,
    before: &BTreeSet<String>,
) -> (BTreeSet<String>, Vec<bool>) {
    let mut names: BTreeSet<String> = before.clone();
    names.extend(steps.iter().filter_map(|step| effect(step, level, before)).map(|(to, _)| to.to_owned()));
    let mut needed = needed.clone();
    let mut used = vec![false; steps.len()];
    for (number, step) in steps.iter().enumerate().rev() {
        let Some((to, from)) = effect(step, level, &names) else { continue };
        // What goes away under its old name is not what has that name later.
        let goes = matches!(step, Step::Rename(_)) && from.iter().any(|name| needed.remove(name));
        if needed.remove(to) || goes {
            used[number] = true;
            needed.extend(from);
        }
    }
    needed.retain(|name| before.contains(name));
    (needed, used)
}

/// Makes the steps that are `used` ready for columns of `types`, which become those of the version after; `all`
/// are the names there are. An error names the step.
pub(super) fn prepare(
    steps: &[Step],
    used: &[bool],
    level: Option<&str>,
    types: &mut Types,
    all: &BTreeSet<String>,
) -> Result<Vec<Ready>, (usize, String)> {
    let mut ready = Vec::new();
    for (number, step) in steps.iter().enumerate().filter(|(number, _)| used[*number]) {
        let at = |reason: String| (number, reason);
        let on = |name: &str| split(name).0 == level;
        let field_of = |name: &str| split(name).1.to_owned();
        let missing = |field: &str| {
            let why = match all.contains(field) {
                true => "a step before took it away".to_owned(),
                false => crate::define::suggestion(field, all.iter().map(String::as_str)),
            };
            at(format!("there is no field `{field}` at this step; {why}"))
        };
        match step {
            Step::Rename(step) if on(&step.to) => {
                if split(&step.from).0 != level {
                    return Err(at(format!("`{}` and `{}` are not on one level", step.from, step.to)));
                }
                let (from, to) = (field_of(&step.from), field_of(&step.to));
                match types.shift_remove(&from) {
                    Some(data_type) => {
                        types.insert(to.clone(), data_type);
                        ready.push(Ready::Rename { from, to });
                    }
                    None => return Err(missing(&from)),
                }
            }
            Step::Default(step) if on(&step.field) => {
                let field = field_of(&step.field);
                let text = step.value.0.as_deref();
                let text = text.ok_or_else(|| at("a default is a text, a number, true or false".into()))?;
                let own = if matches!(text, "true" | "false") { DataType::Boolean } else { DataType::Utf8 };
                let to = types.get(&field).cloned().unwrap_or(own);
                let value = FieldType::of(&to).and_then(|known| Column::only(known, text));
                let value = value.and_then(|value| cast(&value, &to).ok()).filter(|value| value.is_valid(0));
                let value = value.ok_or_else(|| at(format!("`{text}` is not of type {}", FieldType::name_of(&to))))?;
                types.insert(field.clone(), to);
                ready.push(Ready::Default { field, value });
            }
            Step::Cast(step) if on(&step.field) => {
                let (field, to) = (field_of(&step.field), step.field_type.arrow());
                match types.get_mut(&field) {
                    Some(from) if castable(from, &to) => {
                        *from = to.clone();
                        ready.push(Ready::Cast { field, to });
                    }
                    Some(from) => {
                        let from = FieldType::name_of(from);
                        return Err(at(format!("`{field}` is {from}, which cannot be made {}", step.field_type)));
                    }
                    None => return Err(missing(&field)),
                }
            }
            Step::Sql(step) if on(&step.field) => {
                let fields: Vec<Field> =
                    types.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true)).collect();
                let compiled = Compiler::new(&Arc::new(Schema::new(fields))).and_then(|c| c.compile(&step.expression));
                let expression = compiled.map_err(at)?;
                let field = field_of(&step.field);
                types.insert(field.clone(), plain_type(expression.data_type()));
                ready.push(Ready::Sql { field, expression });
            }
            Step::Drop(step) if on(&step.field) => {
                let field = field_of(&step.field);
                types.shift_remove(&field);
                ready.push(Ready::Drop { field });
            }
            _ => {}
        }
    }
    Ok(ready)
}

/// Whether a field's values mean the same in another type, so that no step need say how: a number with more digits, a text that
/// is read, a value that is written.
pub(crate) fn carries_over(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Decimal128, Float64, Int32, Int64, Timestamp, Utf8};
    match (from, to) {
        (Utf8, _) | (_, Utf8) => castable(from, to),
        (Int32, Int64 | Float64) | (Int32 | Int64, Decimal128(..)) | (Date32, Timestamp(..)) => true,
        (Decimal128(_, old), Decimal128(_, new)) => old <= new,
        _ => false,
    }
}

/// Runs the steps. Rows that fail are told.
pub(super) fn run(steps: &[Ready], frame: &mut Frame, errors: &mut Vec<RowError>) {
    for step in steps {
        match step {
            Ready::Rename { from, to } => {
                if let Some(column) = frame.columns.shift_remove(from) {
                    frame.columns.insert(to.clone(), column);
                }
            }
            Ready::Default { field, value } => {
                let (values, there) = frame.columns.get(field).cloned().unwrap_or_else(|| {
                    (new_null_array(value.data_type(), frame.rows), BooleanArray::from(vec![false; frame.rows]))
                });
                // What is as it was has a value.
                let all = BooleanArray::new(BooleanBuffer::new_set(frame.rows), there.nulls().cloned());
                let empty = is_null(&values).and_then(|nulls| and(&nulls, &is_not_null(&there)?));
                let filled = empty.and_then(|empty| zip(&empty, &Scalar::new(value.clone()), &values));
                let filled = filled.unwrap_or_else(|error| {
                    errors.extend((0..frame.rows).map(|row| (row, format!("the default of `{field}`: {error}"))));
                    values
                });
                frame.columns.insert(field.clone(), (filled, all));
            }
            Ready::Cast { field, to } => {
                if let Some((values, _)) = frame.columns.get_mut(field) {
                    *values = cast_rows(values, to, field, errors);
                }
            }
            Ready::Drop { field } => drop(frame.columns.shift_remove(field)),
            Ready::Sql { field, expression } => {
                let (values, failed) = expression.evaluate(&frame.batch());
                errors.extend(failed);
                let values = plain(values);
                let present = present(frame, expression);
                frame.columns.insert(field.clone(), (values, present));
            }
        }
    }
}

/// Text as plain strings: functions may answer with views.
pub(super) fn plain(values: ArrayRef) -> ArrayRef {
    match plain_type(values.data_type()) {
        to if to != *values.data_type() => cast(&values, &to).unwrap_or(values),
        _ => values,
    }
}

/// The type of such texts.
fn plain_type(of: &DataType) -> DataType {
    match of {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        other => other.clone(),
    }
}

/// What an expression makes is there where any of what it reads is; always, where it reads nothing. It is as it was where
/// any of that is.
fn present(frame: &Frame, expression: &Expression) -> BooleanArray {
    let read = expression.columns().iter().filter_map(|name| frame.columns.get(name)).map(|(_, present)| present);
    let any = read.cloned().reduce(|a, b| or(&a, &b).unwrap_or(a));
    any.unwrap_or_else(|| BooleanArray::from(vec![true; frame.rows]))
}

/// How the reason ends where a required field is null. A value that does not fit its type is null as well.
pub(super) const NO_VALUE: &str = "is required and has no value";

/// Marks rows where a column is null, as errors; but for those that `has_value` says have one.
pub(super) fn require(values: &ArrayRef, name: &str, has_value: impl Fn(usize) -> bool, errors: &mut Vec<RowError>) {
    if values.null_count() > 0 {
        let rows = (0..values.len()).filter(|&row| values.is_null(row) && !has_value(row));
        errors.extend(rows.map(|row| (row, format!("`{name}` {NO_VALUE}"))));
    }
}
