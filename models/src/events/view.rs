//! What payloads say, as JSON, in place of their bytes: for streams whose payloads are not JSON already.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use starmere_lake::Error as LakeError;
use starmere_lake::delta::Table;
use starmere_lake::formats::{Header, Incoming, Schemas, Unreadable, View};

use super::Stream;
use super::lake::lake_columns;
use crate::{Error, Result};

/// Columns that models read of the lake.
const COLUMNS: [&str; 9] =
    ["event_id", "event_type", "event_version", "occurred_at", "source", "topic", "partition", "position", "payload"];
/// Those that say what is not in the payload.
const OUTSIDE: [&str; 3] = ["key", "headers", "op"];

/// Why a row of the lake cannot be read; a column that a batch only has where there is such a row.
pub(super) const UNREADABLE: &str = "unreadable";

/// How a stream's payloads are read.
#[derive(Debug)]
pub struct Payloads {
    /// None: they are JSON.
    view: Option<Mutex<View>>,
    columns: SchemaRef,
}

impl Payloads {
    /// Those of `stream`, which is stored in `table`; with when they landed, where they are `audited`.
    pub async fn of(stream: &Stream, table: &Table, audited: bool) -> Result<Self> {
        let schemas = match stream.format.names_schemas() {
            true => Schemas::load(table).await?,
            false => Schemas::default(),
        };
        let view = View::new(&stream.format, &Arc::new(schemas), stream.paths());
        let mut columns = COLUMNS.to_vec();
        if !view.is_of_payloads() {
            columns.extend(OUTSIDE);
        }
        if audited {
            columns.push("ingested_at");
        }
        let view = (!view.is_verbatim()).then(|| Mutex::new(view));
        Ok(Self { view, columns: lake_columns(&columns) })
    }

    /// The columns that are read of the lake.
    pub(super) fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// The batch, with what all of its payloads say, as far as they can be read.
    pub fn texts(&self, batch: &RecordBatch, table: &Table) -> Result<RecordBatch> {
        let failed = || Error::columns("a batch of events");
        let schema = starmere_lake::events::file_schema();
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let field = schema.field_with_name(field.name()).map_err(failed())?.clone().with_nullable(true);
            columns.push(cast(column, field.data_type()).map_err(failed())?);
            fields.push(field);
        }
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed())?;
        let all = BooleanArray::from(vec![true; batch.num_rows()]);
        self.read(batch, &all, table)
    }

    /// The batch, with what the payloads of the rows in `wanted` say.
    pub(super) fn read(&self, batch: RecordBatch, wanted: &BooleanArray, table: &Table) -> Result<RecordBatch> {
        let Some(view) = &self.view else { return Ok(batch) };
        let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
        let column = |name: &str| batch.column_by_name(name);
        let place = column("payload").ok_or_else(|| Error::Task("a batch of events has no `payload`".into()))?;
        let payloads = place.as_binary::<i32>();
        let keys = column("key").map(|keys| keys.as_binary::<i32>());
        let headers = column("headers").map(Headers::of);
        let rejections = column("rejection").map(|rejections| rejections.as_string::<i32>());
        let ops = batch.column_by_name("op").map(|ops| ops.as_string::<i32>());
        let mut texts = BinaryBuilder::with_capacity(batch.num_rows(), payloads.value_data().len());
        let mut unreadable = StringBuilder::new();
        for row in 0..batch.num_rows() {
            if !wanted.value(row) {
                texts.append_value(b"");
                unreadable.append_null();
                continue;
            }
            let of_row = headers.as_ref().and_then(|headers| headers.row(row));
            // The lake has no null payloads: an empty one of a deleted key is a tombstone's.
            let payload = payloads.value(row);
            let is_tombstone = payload.is_empty() && ops.is_some_and(|ops| ops.is_valid(row));
            let event = Incoming {
                payload: (!is_tombstone).then_some(payload),
                key: keys.filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row)),
                headers: of_row.as_deref(),
                timestamp: None,
            };
            match view.json(&event) {
                Ok(text) => {
                    texts.append_value(text);
                    unreadable.append_null();
                }
                Err(Unreadable::Wrong(reason)) => {
                    texts.append_value(b"");
                    unreadable.append_value(reason);
                }
                // Only rejects name schemas that nobody has.
                Err(Unreadable::Unknown(_)) if rejections.is_some_and(|rejections| rejections.is_valid(row)) => {
                    texts.append_value(b"");
                    unreadable.append_value("its schema is not known");
                }
                Err(Unreadable::Unknown(id)) => {
                    let path = table.path().schemas_folder().to_string();
                    let reason =
                        format!("the schema {id}, which payloads were written with, is gone; restore it from a copy");
                    return Err(LakeError::Corrupt { path, reason }.into());
                }
            }
        }
        let unreadable = unreadable.finish();
        let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
        let mut columns = batch.columns().to_vec();
        let index = batch.schema().index_of("payload").map_err(Error::columns("a batch of events"))?;
        columns[index] = Arc::new(texts.finish());
        if unreadable.null_count() < unreadable.len() {
            fields.push(Arc::new(Field::new(UNREADABLE, DataType::Utf8, true)));
            columns.push(Arc::new(unreadable));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(Error::columns("a batch of events"))
    }
}

/// The column of headers.
struct Headers<'a> {
    lists: &'a arrow::array::ListArray,
    names: &'a arrow::array::StringArray,
    values: &'a BinaryArray,
}

impl<'a> Headers<'a> {
    fn of(column: &'a ArrayRef) -> Self {
        let lists = column.as_list::<i32>();
        let headers = lists.values().as_struct();
        Self { lists, names: headers.column(0).as_string(), values: headers.column(1).as_binary() }
    }

    fn row(&self, row: usize) -> Option<Vec<Header<'a>>> {
        self.lists.is_valid(row).then(|| {
            let offsets = self.lists.value_offsets();
            let range = offsets[row] as usize..offsets[row + 1] as usize;
            range
                .map(|place| (self.names.value(place), self.values.is_valid(place).then(|| self.values.value(place))))
                .collect()
        })
    }
}
