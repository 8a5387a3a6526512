//! Rows of a stream's table, as the events that their sources gave.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use starmere_lake::delta::Snapshot;
use starmere_lake::formats::{Header, Incoming};
use starmere_lake::landing::{Oversized, SourcePartition, Stream};

use crate::http::is_made_id;
use crate::rows::HTTP;

/// Rows with all columns of a stream's files.
pub(crate) struct Stored<'a> {
    pub(crate) ids: &'a StringArray,
    pub(crate) types: &'a StringArray,
    pub(crate) versions: &'a Int32Array,
    /// When events happened; of a reject, when its source got it, where nothing better is known.
    pub(crate) times: &'a TimestampMicrosecondArray,
    pub(crate) landed: &'a TimestampMicrosecondArray,
    pub(crate) subjects: &'a StringArray,
    pub(crate) sources: &'a StringArray,
    pub(crate) topics: &'a StringArray,
    pub(crate) partitions: &'a Int32Array,
    pub(crate) positions: &'a Int64Array,
    pub(crate) ops: &'a StringArray,
    pub(crate) payloads: &'a BinaryArray,
    pub(crate) rejections: &'a StringArray,
    keys: &'a BinaryArray,
    headers: &'a ListArray,
}

impl<'a> Stored<'a> {
    pub(crate) fn of(rows: &'a RecordBatch) -> Self {
        let column = |name: &str| -> &'a ArrayRef {
            rows.column_by_name(name).expect("a batch of the stream's schema has its columns")
        };
        let text = |name: &str| column(name).as_string::<i32>();
        let time = |name: &str| column(name).as_primitive::<TimestampMicrosecondType>();
        Self {
            ids: text("event_id"),
            types: text("event_type"),
            versions: column("event_version").as_primitive::<Int32Type>(),
            times: time("occurred_at"),
            landed: time("ingested_at"),
            subjects: text("subject"),
            sources: text("source"),
            topics: text("topic"),
            partitions: column("partition").as_primitive::<Int32Type>(),
            positions: column("position").as_primitive::<Int64Type>(),
            ops: text("op"),
            payloads: column("payload").as_binary::<i32>(),
            rejections: text("rejection"),
            keys: column("key").as_binary::<i32>(),
            headers: column("headers").as_list::<i32>(),
        }
    }

    /// The id of an event; none of a reject.
    pub(crate) fn id(&self, row: usize) -> Option<&'a str> {
        (!self.is_reject(row)).then(|| self.ids.value(row))
    }

    pub(crate) fn is_reject(&self, row: usize) -> bool {
        self.rejections.is_valid(row)
    }

    pub(crate) fn key(&self, row: usize) -> Option<&'a [u8]> {
        self.keys.is_valid(row).then(|| self.keys.value(row))
    }

    pub(crate) fn headers(&self, row: usize) -> Option<Vec<Header<'a>>> {
        let all = self.headers.values().as_struct();
        let (names, values) = (all.column(0).as_string::<i32>(), all.column(1).as_binary::<i32>());
        let header = |place: usize| (names.value(place), values.is_valid(place).then(|| values.value(place)));
        self.headers.is_valid(row).then(|| {
            let offsets = self.headers.value_offsets();
            (offsets[row] as usize..offsets[row + 1] as usize).map(header).collect()
        })
    }

    /// What is kept beside the table of an event that is too long for a row.
    pub(crate) fn oversized(&self, row: usize) -> Option<Oversized> {
        self.is_reject(row).then(|| Oversized::of(self.payloads.value(row), self.rejections.value(row))).flatten()
    }

    /// The event, as its source gave it: with when it got it, as far as that is known.
    pub(crate) fn event<'b>(&self, row: usize, headers: Option<&'b [Header<'b>]>) -> Incoming<'b>
    where
        'a: 'b,
    {
        let payload = self.payloads.value(row);
        // The lake has no null payloads: an empty one of a deleted key is a tombstone's.
        let is_tombstone = payload.is_empty() && self.ops.is_valid(row);
        Incoming {
            payload: (!is_tombstone).then_some(payload),
            key: self.key(row),
            headers,
            timestamp: self.times.is_valid(row).then(|| self.times.value(row) / 1_000),
        }
    }

    /// Source, topic and partition.
    pub(crate) fn place(&self, row: usize) -> (&'a str, &'a str, i32) {
        (self.sources.value(row), self.topics.value(row), self.partitions.value(row))
    }
}

/// A text of a row.
pub(crate) fn text(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// Ids of rows whose payloads have none.
pub(crate) struct StandIns {
    stream: Stream,
    /// It has the rows.
    snapshot: Arc<Snapshot>,
    /// Rows of one partition come together: its only incarnation, if there is one.
    last: Option<(SourcePartition, bool)>,
}

impl StandIns {
    pub(crate) fn new(stream: &Stream, snapshot: &Arc<Snapshot>) -> Self {
        Self { stream: stream.clone(), snapshot: snapshot.clone(), last: None }
    }

    /// The id that landing gave the row, where that was not one of its payload; else one like those of landing. Where the
    /// partition was begun anew, the table does not say which time the row is of: then the id has when it landed.
    pub(crate) fn of(&mut self, rows: &Stored<'_>, row: usize) -> String {
        let (source, topic, partition) = rows.place(row);
        let (id, position) = (rows.ids.value(row), rows.positions.value(row));
        if is_made(id, (source, topic, partition, position), rows.payloads.value(row)) {
            return id.to_owned();
        }
        match self.is_the_only_one(source, topic, partition) {
            true => format!("{source}/{topic}/0/{partition}/{position}"),
            false => format!("{source}/{topic}/~{}/{partition}/{position}", rows.landed.value(row)),
        }
    }

    /// Whether the partition was never begun anew.
    fn is_the_only_one(&mut self, source: &str, topic: &str, partition: i32) -> bool {
        if let Some((last, only)) = &self.last
            && (last.source.as_str(), last.topic.as_str(), last.partition) == (source, topic, partition)
        {
            return *only;
        }
        let of = |incarnation| SourcePartition {
            source: source.to_owned(),
            topic: topic.to_owned(),
            incarnation,
            partition,
        };
        let (first, second) = (of(0), of(1));
        let only = self.stream.position(&self.snapshot, &first).is_some()
            && self.stream.position(&self.snapshot, &second).is_none();
        self.last = Some((first, only));
        only
    }
}

/// Whether a row came over HTTP with an id of its payload: the key of its request is not kept then.
pub(crate) fn has_lost_its_key(rows: &Stored<'_>, row: usize) -> bool {
    let (source, topic, partition) = rows.place(row);
    let place = (source, topic, partition, rows.positions.value(row));
    source == HTTP && !is_made(rows.ids.value(row), place, rows.payloads.value(row))
}

/// Whether an id was made by us: of the place of its row, or of the key of a request.
fn is_made(id: &str, (source, topic, partition, position): (&str, &str, i32, i64), payload: &[u8]) -> bool {
    let before =
        id.strip_prefix(source).and_then(|rest| rest.strip_prefix('/')?.strip_prefix(topic)?.strip_prefix('/'));
    let between = before.and_then(|rest| rest.strip_suffix(&format!("/{partition}/{position}")));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_of_its_place = between.is_some_and(|between| is_number(between.strip_prefix('~').unwrap_or(between)));
    is_of_its_place || is_made_id(id, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_we_made_are_known_again() {
        let place = ("files", "a/b.jsonl", 0, 17);
        for id in ["files/a/b.jsonl/0/0/17", "files/a/b.jsonl/3/0/17", "files/a/b.jsonl/~1700000000/0/17"] {
            assert!(is_made(id, place, b"x"), "{id}");
        }
        for id in
            ["17", "files/a/b.jsonl/0/0/18", "files/a/b.jsonl//0/17", "files/a/b.jsonl/x/0/17", "files/a/b.jsonl", ""]
        {
            assert!(!is_made(id, place, b"x"), "{id}");
        }
        let of_a_key = format!("key/of mine/7/{:032x}", xxhash_rust::xxh3::xxh3_128(b"x"));
        assert!(is_made(&of_a_key, place, b"x") && !is_made(&of_a_key, place, b"y"));
    }
}
