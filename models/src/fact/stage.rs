//! From events to a fact's rows, before they are keyed.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    UInt32Array,
};
use arrow::compute::{filter, filter_record_batch, prep_null_mask_filter, take};
use arrow::datatypes::{Field, Int32Type, Schema};

use super::{AUDIT, Fact, RoleKey, Source};
use crate::dimension::Target;
use crate::events::{Decoder, Elements};
use crate::expression::{RowError, cast_rows};
use crate::keys::{ERROR, Keys, NOT_APPLICABLE};
use crate::{Error, Result};

/// Stages rows of one fact, of one of its sources.
#[derive(Debug)]
pub struct Stage {
    fact: Arc<Fact>,
    source: usize,
    decoder: Decoder,
}

/// Rows of a fact, not keyed yet.
#[derive(Debug)]
pub struct Staged {
    /// The fact's own columns, then `occurred_at` and all others that say which event it was.
    pub columns: Vec<ArrayRef>,
    /// For each role, the durable key (of a generated dimension, the key).
    pub durable: Vec<Int64Array>,
    /// For each role, the natural key.
    pub natural: Vec<Vec<ArrayRef>>,
    pub rows: usize,
    /// Rows of the batch of the lake that do not fit, and why.
    pub rejects: Vec<(u32, String)>,
}

impl Stage {
    /// Stages of `fact` for the events of a stream.
    pub fn of(fact: &Arc<Fact>, stream: &str) -> Result<Vec<Self>> {
        let sources = fact.sources.iter().enumerate().filter(|(_, source)| source.stream == stream);
        let stage = |(place, source): (usize, &Source)| {
            let decoder = crate::dimension::decoder(&source.definition, &source.need)?;
            Ok(Self { fact: fact.clone(), source: place, decoder })
        };
        sources.map(stage).collect()
    }

    fn source(&self) -> &Source {
        &self.fact.sources[self.source]
    }

    /// Stages the events of a batch of the lake that count. An event with a row that does not fit is rejected
    /// whole.
    pub fn stage(&self, batch: &RecordBatch, counts: &BooleanArray) -> Result<Staged> {
        let failed = || Error::columns(format!("rows of {}", self.fact.name));
        let decoded = self.decoder.decode(batch, counts)?;
        let mut rejects = decoded.rejects;
        let is_of_elements = decoded.elements.is_some();
        // One row per event, or per element.
        let (lake_rows, fields, ordinal): (UInt32Array, RecordBatch, Int32Array) = match decoded.elements {
            None => {
                let ordinal = Int32Array::from(vec![1; decoded.rows.len()]);
                (decoded.rows, decoded.fields, ordinal)
            }
            Some(elements) => {
                let lake_rows = take(&decoded.rows, &elements.parent, None).map_err(failed())?;
                let fields = beside(&decoded.fields, &elements).map_err(failed())?;
                (lake_rows.as_primitive().clone(), fields, elements.ordinal)
            }
        };
        let ordinal: ArrayRef = Arc::new(ordinal);
        let input = crate::dimension::with_built_in(batch, &lake_rows, &fields, Some(ordinal))?;
        let (input, lake_rows) = self.only_those_that_belong(input, lake_rows, is_of_elements, &mut rejects)?;
        let mut errors: Vec<RowError> = Vec::new();
        self.source().rules.iter().for_each(|rule| rule.check(&input, &mut errors));
        let mut columns = Vec::with_capacity(self.fact.columns.len() + 3);
        for (column, expression) in self.fact.columns.iter().zip(&self.source().columns) {
            let (values, row_errors) = expression.evaluate(&input);
            errors.extend(row_errors);
            columns.push(cast_rows(&values, &column.field_type.arrow(), &column.name, &mut errors));
        }
        let named = |name: &str| {
            input.column_by_name(name).cloned().ok_or_else(|| Error::Task(format!("rows have no `{name}`")))
        };
        columns.extend([named("occurred_at")?, named("event_id")?, named("ordinal")?]);
        if self.fact.streams().len() > 1 {
            columns.push(Arc::new(StringArray::from(vec![self.source().stream.as_str(); input.num_rows()])));
        }
        if self.fact.audit {
            for (_, name) in AUDIT {
                let column =
                    batch.column_by_name(name).ok_or_else(|| Error::Task(format!("events have no `{name}`")))?;
                columns.push(take(column, &lake_rows, None).map_err(failed())?);
            }
        }
        let (mut durable, mut natural) = (Vec::new(), Vec::new());
        for (role, RoleKey { key, not_applicable, error }) in self.fact.roles.iter().zip(&self.source().keys) {
            let of_role = match &role.target {
                Target::Generated { generated, .. } => {
                    let value = crate::dimension::natural_key(&[generated.key_type()], key, &input, &mut errors);
                    durable.push(generated.keys(&value[0]));
                    Vec::new()
                }
                Target::Dimension { name, key_types, junk, .. } => {
                    let natural = crate::dimension::natural_key(key_types, key, &input, &mut errors);
                    let keys = Keys::new(&name.to_string());
                    durable.push(if *junk { keys.of_values(&natural) } else { keys.durable(&natural) });
                    natural
                }
            };
            natural.push(of_role);
            for (condition, special) in [(not_applicable, NOT_APPLICABLE), (error, ERROR)] {
                let (Some(condition), Some(keys)) = (condition, durable.last_mut()) else { continue };
                let (holds, row_errors) = condition.evaluate(&input);
                errors.extend(row_errors);
                let holds = holds.as_boolean();
                let row = |(row, key): (usize, &i64)| match holds.is_valid(row) && holds.value(row) {
                    true => special,
                    false => *key,
                };
                *keys = Int64Array::from_iter_values(keys.values().iter().enumerate().map(row));
            }
        }
        if is_of_elements {
            name_elements(&input, &mut errors);
        }
        let rows = input.num_rows();
        let staged = Staged { columns, durable, natural, rows, rejects };
        without(staged, &lake_rows, errors).map_err(failed())
    }

    fn only_those_that_belong(
        &self,
        input: RecordBatch,
        lake_rows: UInt32Array,
        is_of_elements: bool,
        rejects: &mut Vec<(u32, String)>,
    ) -> Result<(RecordBatch, UInt32Array)> {
        let Some(belongs) = &self.source().filter else { return Ok((input, lake_rows)) };
        let (values, mut failed) = belongs.evaluate(&input);
        if is_of_elements {
            name_elements(&input, &mut failed);
        }
        let values = values.as_boolean();
        let mut mask = if values.null_count() > 0 { prep_null_mask_filter(values) } else { values.clone() };
        if !failed.is_empty() {
            // The rows of an event whose filter failed stay for now, so that the event is rejected whole.
            let bad: std::collections::HashSet<u32> = failed.iter().map(|(row, _)| lake_rows.value(*row)).collect();
            rejects.extend(failed.iter().map(|(row, reason)| (lake_rows.value(*row), reason.clone())));
            rejects.sort_by_key(|(row, _)| *row);
            rejects.dedup_by_key(|(row, _)| *row);
            mask = (0..mask.len()).map(|row| Some(mask.value(row) && !bad.contains(&lake_rows.value(row)))).collect();
        }
        let object = || Error::columns(format!("rows of {}", self.fact.name));
        let input = filter_record_batch(&input, &mask).map_err(object())?;
        let lake_rows = filter(&lake_rows, &mask).map_err(object())?.as_primitive().clone();
        Ok((input, lake_rows))
    }
}

/// Says with each error which element of its event it is of.
fn name_elements(rows: &RecordBatch, errors: &mut [RowError]) {
    let Some(ordinal) = rows.column_by_name("ordinal").and_then(|column| column.as_primitive_opt::<Int32Type>()) else {
        return;
    };
    for (row, reason) in errors {
        *reason = format!("element {}: {reason}", ordinal.value(*row));
    }
}

/// The fields of elements, after those of their events; either may be none.
fn beside(events: &RecordBatch, elements: &Elements) -> Result<RecordBatch, arrow::error::ArrowError> {
    let own = elements.fields.schema();
    let fields: Vec<Arc<Field>> = events.schema().fields().iter().chain(own.fields()).cloned().collect();
    let of_events = events.columns().iter().map(|column| take(column, &elements.parent, None));
    let columns = of_events.chain(elements.fields.columns().iter().cloned().map(Ok)).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(elements.ordinal.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Leaves out all rows of events of which any row has an error.
fn without(
    mut staged: Staged,
    lake_rows: &UInt32Array,
    mut errors: Vec<RowError>,
) -> Result<Staged, arrow::error::ArrowError> {
    if errors.is_empty() {
        return Ok(staged);
    }
    errors.sort();
    let mut reasons = std::collections::BTreeMap::new();
    for (row, reason) in errors {
        reasons.entry(lake_rows.value(row)).or_insert(reason);
    }
    let good: BooleanArray = lake_rows.values().iter().map(|row| Some(!reasons.contains_key(row))).collect();
    let keep = |column: &ArrayRef| filter(column, &good);
    staged.columns = staged.columns.iter().map(keep).collect::<Result<_, _>>()?;
    staged.durable = staged
        .durable
        .iter()
        .map(|keys| Ok(filter(keys, &good)?.as_primitive().clone()))
        .collect::<Result<_, arrow::error::ArrowError>>()?;
    for natural in &mut staged.natural {
        *natural = natural.iter().map(keep).collect::<Result<_, _>>()?;
    }
    staged.rows = good.true_count();
    staged.rejects.extend(reasons);
    Ok(staged)
}
