//! What a model could not read: one row per event, with the reason and where the event is in the lake.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use starmere_lake::delta::{Add, FileOptions};
use starmere_lake::events::timestamp;

use crate::build::Builder;
use crate::derived::{Change, Derived};
use crate::{Error, Result};

/// The columns of a table of rejects.
pub fn schema() -> &'static SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        Arc::new(Schema::new(vec![
            text("stream"),
            text("event_id"),
            text("event_type"),
            Field::new("occurred_at", timestamp(), true),
            text("source"),
            text("topic"),
            Field::new("partition", DataType::Int32, true),
            Field::new("position", DataType::Int64, true),
            text("reason"),
        ]))
    });
    &SCHEMA
}

/// Rejected rows of a batch of the lake.
pub(crate) fn rows(stream: &str, batch: &RecordBatch, rejects: &[(u32, String)]) -> Result<RecordBatch> {
    let place: UInt32Array = rejects.iter().map(|(row, _)| Some(*row)).collect();
    let named = |name: &str| -> Result<ArrayRef> {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::Task(format!("a batch of events has no column `{name}`")))?;
        take(column, &place, None).map_err(Error::columns("rejects"))
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(vec![stream; rejects.len()])),
        named("event_id")?,
        named("event_type")?,
        named("occurred_at")?,
        named("source")?,
        named("topic")?,
        named("partition")?,
        named("position")?,
        Arc::new(rejects.iter().map(|(_, reason)| Some(reason.as_str())).collect::<StringArray>()),
    ];
    RecordBatch::try_new(schema().clone(), columns).map_err(Error::columns("rejects"))
}

/// Where a rejected or taken-back event is: stream, source, topic, partition, position.
pub(crate) type Coordinates = (String, String, String, i32, i64);

/// The coordinates of the rows of a batch that `which` marks.
pub(crate) fn coordinates(stream: &str, batch: &RecordBatch, which: &BooleanArray) -> HashSet<Coordinates> {
    let text = |name: &str| batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let (Some(source), Some(topic)) = (text("source"), text("topic")) else { return HashSet::new() };
    let (Some(partition), Some(position)) = (batch.column_by_name("partition"), batch.column_by_name("position"))
    else {
        return HashSet::new();
    };
    let (partition, position) =
        (partition.as_primitive::<arrow::datatypes::Int32Type>(), position.as_primitive::<Int64Type>());
    (0..batch.num_rows())
        .filter(|&row| which.value(row))
        .map(|row| {
            let text = |column: &StringArray| column.value(row).to_owned();
            (stream.to_owned(), text(source), text(topic), partition.value(row), position.value(row))
        })
        .collect()
}

/// The part of a build's memory that rejects may take which are in no file yet.
const SHARE: u64 = 16;

/// What is new for a table of rejects: a few rows in memory, the others in files that its next commit names.
#[derive(Debug)]
pub(crate) struct Gathered {
    table: Derived,
    rows: Vec<RecordBatch>,
    /// What the rows take, and may take.
    bytes: usize,
    most: usize,
    adds: Vec<Add>,
    taken_back: HashSet<Coordinates>,
}

impl Gathered {
    /// Of the table `rejected`.
    pub(crate) fn new(builder: &Builder, rejected: &Derived) -> Self {
        let (table, most) = (rejected.clone(), builder.share(SHARE));
        Self { table, rows: Vec::new(), bytes: 0, most, adds: Vec::new(), taken_back: HashSet::new() }
    }

    /// Adds rejects; writes those that there are where they have become too many.
    pub(crate) async fn add(&mut self, rows: Vec<RecordBatch>) -> Result<()> {
        self.bytes += rows.iter().map(RecordBatch::get_array_memory_size).sum::<usize>();
        self.rows.extend(rows);
        if self.bytes > self.most {
            self.bytes = 0;
            let rows = std::mem::take(&mut self.rows);
            self.adds.extend(self.table.write(rows, options(), None).await?);
        }
        Ok(())
    }

    /// Takes back the rejects of events that do not count any more.
    pub(crate) fn take_back(&mut self, events: HashSet<Coordinates>) {
        self.taken_back.extend(events);
    }

    /// What a commit to the table changes, whose newest version is in `rejected`.
    pub(crate) async fn change(self, rejected: &Derived) -> Result<Change> {
        let mut change = change(rejected, self.rows, &self.taken_back).await?;
        change.adds.extend(self.adds);
        Ok(change)
    }
}

/// Adds rejects, and takes back those of events that do not count any more.
async fn change(derived: &Derived, rows: Vec<RecordBatch>, taken_back: &HashSet<Coordinates>) -> Result<Change> {
    let mut change = Change::default();
    if let (Some(snapshot), false) = (&derived.snapshot, taken_back.is_empty()) {
        for add in snapshot.files() {
            let batch = derived.table.read(add, schema()).await?;
            let all = BooleanArray::from(vec![true; batch.num_rows()]);
            let streams = batch.column(0).as_string::<i32>();
            let keep: BooleanArray = (0..batch.num_rows())
                .map(|row| {
                    let one = coordinates(streams.value(row), &batch.slice(row, 1), &all.slice(row, 1));
                    Some(one.is_disjoint(taken_back))
                })
                .collect();
            if keep.true_count() < keep.len() {
                change.removes.push(add.remove());
                let kept = filter_record_batch(&batch, &keep).map_err(Error::columns("rejects"))?;
                change.adds.extend(derived.write(vec![kept], options(), None).await?);
            }
        }
    }
    derived.put_together(&mut change, schema(), &options()).await?;
    change.adds.extend(derived.write(rows, options(), None).await?);
    Ok(change)
}

fn options() -> FileOptions {
    FileOptions { small: true, ..FileOptions::default() }
}
