//! Taking rejected rows up again, after their stream's mapping was mended.
//!
//! A row whose envelope can be read now takes the place of its reject: same payload, key, headers and place in its
//! source. All of them are in one commit at an exact version:
//!
//! ```text
//! files with such rejects ─► the same without them    (dataChange false: nobody who has read them reads them again)
//!                         └► the rows, repaired       (dataChange true: builds see them as new events)
//! ```
//!
//! Where somebody else commits in between, everything is decided again. On a crash, nothing or all of it is done.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use object_store::path::Path;
use starmere_lake::delta::{Add, Commit, EncodedFile, REWRITE, Remove, Txn};
use starmere_lake::formats::{Header, Incoming};
use starmere_lake::landing::{Oversized, SourcePartition, Stream, Tallies, row_digest};
use starmere_lake::store::Backoff;
use starmere_lake::{Error as LakeError, events};

use crate::envelope::{Mapping, Reader};
use crate::rows::{Batch, Types};
use crate::{Error, Result};

/// Attempts begin for so long while others commit in between; each reads all files with rejects.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    pub events: u64,
    pub types: Types,
    /// Rows that still cannot be read.
    pub still_rejected: u64,
    /// The table's version afterwards.
    pub version: u64,
}

/// Takes up what can be read by `mapping` now.
pub async fn repair(stream: &Stream, mapping: &Mapping) -> Result<Repaired> {
    let mut backoff = Backoff::lasting(PATIENCE);
    loop {
        let attempted = attempt(stream, mapping).await;
        if !matches!(attempted, Err(Error::Lake(LakeError::Conflict { .. }))) || !backoff.pause().await {
            return attempted;
        }
    }
}

async fn attempt(stream: &Stream, mapping: &Mapping) -> Result<Repaired> {
    let (table, snapshot) = (stream.table(), stream.open().await?);
    let mut repairing = Repairing {
        stream: stream.clone(),
        reader: Reader::of(mapping.clone(), stream).await?,
        batch: Batch::default(),
        parts: BTreeMap::new(),
        rejected: Tallies::default(),
        repaired: Tallies::default(),
        still_rejected: 0,
    };
    let (mut removes, mut adds) = (Vec::new(), Vec::new());
    for add in snapshot.files().filter(|add| has_rejects(add)) {
        let batch = table.read(add, events::file_schema()).await?;
        let stays = repairing.take_up(&batch).await?;
        if stays.true_count() == batch.num_rows() {
            continue;
        }
        removes.push(Remove { data_change: false, ..add.remove() });
        let rest = filter_record_batch(&batch, &stays).map_err(LakeError::columns("rows without rejects"))?;
        if rest.num_rows() > 0 {
            let mut file = EncodedFile::of(events::file_schema(), &[rest], &events::file_options())?;
            if let Some(Some(day)) = add.partition_values.get(events::INGEST_DATE) {
                file = file.in_partition(events::INGEST_DATE, day.clone());
            }
            let mut add = table.upload(file).await?;
            add.data_change = false;
            adds.push(add);
        }
    }
    let Repairing { batch, rejected, repaired, still_rejected, .. } = repairing;
    let rows = batch.finish()?;
    let mut outcome = Repaired {
        events: rows.counts.events,
        types: rows.counts.types.clone(),
        still_rejected,
        version: snapshot.version(),
    };
    let Some(file) = rows.encode()? else { return Ok(outcome) };
    adds.push(table.upload(file).await?);
    let commit = Commit {
        adds,
        removes,
        txns: vec![Txn::now(REWRITE.to_owned(), snapshot.version() as i64 + 1)],
        operation: "UPDATE",
        facts: serde_json::json!({ "forgotten": rejected.into_vec(), "repaired": repaired.into_vec() }),
    };
    outcome.version = table.commit(&snapshot, commit).await?.version();
    Ok(outcome)
}

/// Whether a file may have rejected rows, as far as its statistics tell.
fn has_rejects(add: &Add) -> bool {
    add.rows().is_none_or(|rows| add.nulls("rejection") != Some(rows))
}

type Place = (String, String, i32);

struct Repairing {
    stream: Stream,
    reader: Reader,
    batch: Batch,
    parts: BTreeMap<Place, usize>,
    /// What is taken out, and what takes its place.
    rejected: Tallies,
    repaired: Tallies,
    still_rejected: u64,
}

impl Repairing {
    /// Adds the rows that can be read now to the batch; the others stay.
    async fn take_up(&mut self, rows: &RecordBatch) -> Result<BooleanArray> {
        let column = |name: &str| rows.column_by_name(name).expect("a batch of the stream's schema has its columns");
        let text = |name: &str| column(name).as_string::<i32>();
        let (ids, sources, topics) = (text("event_id"), text("source"), text("topic"));
        let partitions = column("partition").as_primitive::<Int32Type>();
        let positions = column("position").as_primitive::<Int64Type>();
        let times = column("occurred_at").as_primitive::<TimestampMicrosecondType>();
        let (payloads, keys) = (column("payload").as_binary::<i32>(), column("key").as_binary::<i32>());
        let (rejections, ops) = (text("rejection"), text("op"));
        let headers = column("headers").as_list::<i32>();
        let mut stays = vec![true; rows.num_rows()];
        for (row, stays) in stays.iter_mut().enumerate().filter(|(row, _)| rejections.is_valid(*row)) {
            let (payload, key) = (payloads.value(row), keys.is_valid(row).then(|| keys.value(row)));
            let kept = self.kept(payload, rejections.value(row)).await?;
            let of_row = headers.is_valid(row).then(|| headers.value(row));
            let of_row = of_row.as_ref().map(|headers| {
                let headers = headers.as_struct();
                let (names, values) = (headers.column(0).as_string::<i32>(), headers.column(1).as_binary::<i32>());
                let header = |place| (names.value(place), values.is_valid(place).then(|| values.value(place)));
                (0..headers.len()).map(header).collect::<Vec<Header<'_>>>()
            });
            let is_tombstone = payload.is_empty() && ops.is_valid(row);
            let event = Incoming {
                payload: (!is_tombstone).then_some(kept.as_deref().unwrap_or(payload)),
                key,
                headers: of_row.as_deref(),
                timestamp: times.is_valid(row).then(|| times.value(row) / 1_000),
            };
            let is_too_long =
                event.payload.is_some_and(|payload| payload.len() > self.reader.mapping().max_event_bytes);
            let is_lost = Oversized::of(payload, rejections.value(row)).is_some() && kept.is_none();
            if is_too_long || is_lost || self.reader.read(&event).rejection.is_some() {
                self.still_rejected += 1;
                continue;
            }
            *stays = false;
            let position = positions.value(row);
            let place = (sources.value(row).to_owned(), topics.value(row).to_owned(), partitions.value(row));
            self.rejected.add(&place.0, &place.1, place.2, 1, row_digest(position, payload, key));
            match self.parts.get(&place) {
                Some(&part) => self.batch.go_on(part),
                None => {
                    let (source, topic, partition) = place.clone();
                    let of = SourcePartition { source, topic, incarnation: 0, partition };
                    self.parts.insert(place.clone(), self.batch.begin(of, position));
                }
            }
            let id = Some(ids.value(row).to_owned());
            let pushed = self.batch.push(&mut self.reader, &event, position, position + 1, id)?;
            self.repaired.add(&place.0, &place.1, place.2, 1, pushed.digest);
        }
        Ok(stays.into())
    }

    /// An event that was too long for a row, where it is short enough now and still there.
    async fn kept(&self, payload: &[u8], rejection: &str) -> Result<Option<Vec<u8>>> {
        let Some(kept) = Oversized::of(payload, rejection) else { return Ok(None) };
        let limit = self.reader.mapping().max_event_bytes as u64;
        let store = self.stream.table().store();
        let Some(path) = Path::parse(&kept.path).ok().filter(|_| kept.bytes <= limit) else { return Ok(None) };
        if kept.damage(store).await?.is_some() {
            return Ok(None);
        }
        Ok(store.read(&path).await?.map(|bytes| bytes.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use starmere_lake::delta::Warehouse;
    use starmere_lake::paths::TablePath;
    use starmere_lake::store::Store;

    use super::*;
    use crate::envelope::TypeOf;

    async fn land(stream: &Stream, mapping: &Mapping, events: &[Incoming<'_>]) {
        let from = stream.open().await.unwrap().rows().unwrap() as i64;
        let mut reader = Reader::new(mapping.clone(), &Default::default());
        let mut batch = Batch::default();
        batch.begin(SourcePartition { source: "s".into(), topic: "t".into(), incarnation: 0, partition: 0 }, from);
        for (event, position) in events.iter().zip(from..) {
            batch.push(&mut reader, event, position, position + 1, None).unwrap();
        }
        batch.finish().unwrap().land(stream).await.unwrap();
    }

    #[tokio::test]
    async fn rejects_are_taken_up_in_their_places() {
        let store = Store::memory();
        let stream = Stream::new("s", Warehouse::new(store).table(TablePath::stream("d", "s")));
        let before = Mapping::new(TypeOf::Path("type".into()), Some("at".into()));
        let after = Mapping { time: Some("$timestamp".into()), ..before.clone() };
        let headers: [Header<'_>; 1] = [("trace", Some(b"7"))];
        let event = |payload| Incoming {
            key: Some(b"k"),
            headers: Some(&headers),
            timestamp: Some(5),
            ..Incoming::of(payload)
        };
        let timeless = event(b"{\"type\":\"paid\"}");
        let timely = event(b"{\"type\":\"paid\",\"at\":\"2024-01-01T00:00:00Z\"}");
        land(&stream, &before, &[timely, timeless, event(b"{")]).await;
        land(&stream, &before, &[timeless]).await;
        let untouched = repair(&stream, &before).await.unwrap();
        assert_eq!((untouched.events, untouched.still_rejected, untouched.version), (0, 3, 2));
        let repaired = repair(&stream, &after).await.unwrap();
        assert_eq!((repaired.events, repaired.still_rejected, repaired.version), (2, 1, 3));
        assert_eq!(repaired.types.iter().collect::<Vec<_>>(), [("paid", 2)]);
        let again = repair(&stream, &after).await.unwrap();
        assert_eq!((again.events, again.version), (0, 3), "they are taken up once");
        let snapshot = stream.open().await.unwrap();
        assert_eq!((snapshot.rows(), snapshot.files().len()), (Some(4), 2), "the second file was all rejects");
        let mut found = Vec::new();
        for add in snapshot.files() {
            let rows = stream.table().read(add, events::file_schema()).await.unwrap();
            let text = |row, name| {
                let column = rows.column_by_name(name).unwrap();
                arrow::util::display::array_value_to_string(column, row).unwrap()
            };
            for row in 0..rows.num_rows() {
                found.push(
                    ["position", "event_id", "event_type", "occurred_at", "key", "rejection"]
                        .map(|name| text(row, name)),
                );
            }
        }
        found.sort();
        assert_eq!(found[1], ["1", "s/t/0/0/1", "paid", "1970-01-01T00:00:00.005Z", "6b", ""]);
        assert_eq!(found[2][5], "not JSON: expected a member name in quotes or `}` at byte 1");
        assert_eq!(found[3][..3], ["3", "s/t/0/0/3", "paid"]);
        let commit = &stream.table().commits(2, 3).await.unwrap()[0];
        assert_eq!((commit.added().count(), commit.removed().count()), (1, 0), "only what is repaired is new");
    }
}
