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
//! Where somebody else commits in between, everything is decided again. On a crash, nothing or all of it is done. Where
//! rejects would become copies of events that say something else, it is refused, unless that is accepted: builds count one
//! event for each id.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use futures::TryStreamExt;
use object_store::path::Path;
use starmere_lake::delta::{Add, Commit, EncodedFile, REWRITE, Remove, Snapshot, Txn, hash_rows};
use starmere_lake::landing::{Oversized, SourcePartition, Stream, Tallies, row_digest};
use starmere_lake::store::Backoff;
use starmere_lake::{Error as LakeError, events};

use crate::envelope::{Mapping, Reader};
use crate::reread::identities::{Identities, Told};
use crate::reread::{content, refuse_copies};
use crate::rows::{Batch, Types};
use crate::stored::{StandIns, Stored};
use crate::{Error, Result};

/// Once others have committed in between, attempts begin for so long; each reads all files with rejects.
const PATIENCE: Duration = Duration::from_secs(600);
/// Memory for the ids of repaired rows and of events that have the same ones.
const IDS_BYTES: usize = 64 << 20;
/// Of files that may have one of these ids, so much is read at once.
const PIECE: usize = 16 << 20;

/// What a repair would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Rejects that become events.
    pub events: u64,
    /// Rejects that still cannot be read.
    pub still_rejected: u64,
    /// Of the events, those that become copies of another one; and those of them that say something else.
    pub copies: u64,
    pub swallowed: u64,
}

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

/// What taking up what can be read by `mapping` now would do. Writes nothing.
pub async fn look(stream: &Stream, mapping: &Mapping) -> Result<Preview> {
    let snapshot = stream.open().await?;
    let (mut repairing, _) = Repairing::of(stream, mapping, &snapshot).await?;
    let Told { copies, swallowed, .. } = repairing.tell(&snapshot).await?;
    let Repairing { ids, still_rejected, .. } = repairing;
    Ok(Preview { events: ids.len() as u64, still_rejected, copies, swallowed })
}

/// Takes up what can be read by `mapping` now. Unless that is accepted, no reject becomes a copy of an event that says
/// something else.
///
/// # Errors
///
/// [`Error::Refused`]: rejects would become copies.
pub async fn repair(stream: &Stream, mapping: &Mapping, accepts_copies: bool) -> Result<Repaired> {
    let mut backoff = None;
    loop {
        let attempted = attempt(stream, mapping, accepts_copies).await;
        let is_conflict = matches!(attempted, Err(Error::Lake(LakeError::Conflict { .. })));
        if !is_conflict || !backoff.get_or_insert_with(|| Backoff::lasting(PATIENCE)).pause().await {
            return attempted;
        }
    }
}

async fn attempt(stream: &Stream, mapping: &Mapping, accepts_copies: bool) -> Result<Repaired> {
    let (table, snapshot) = (stream.table(), stream.open().await?);
    let (mut repairing, files) = Repairing::of(stream, mapping, &snapshot).await?;
    if !accepts_copies {
        refuse_copies(stream.name(), repairing.tell(&snapshot).await?.swallowed)?;
    }
    let (mut removes, mut adds) = (Vec::new(), Vec::new());
    for (add, stays) in files {
        removes.push(Remove { data_change: false, ..add.remove() });
        let batch = table.read(&add, events::file_schema()).await?;
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
    stand_ins: StandIns,
    batch: Batch,
    parts: BTreeMap<Place, usize>,
    /// The ids of the rows in the batch, and what rows with these ids come to.
    ids: Vec<String>,
    identities: Identities,
    /// What is taken out, and what takes its place.
    rejected: Tallies,
    repaired: Tallies,
    still_rejected: u64,
}

impl Repairing {
    /// Reads the rejects of a snapshot again; with the files of those that can be read now, and which of their rows stay.
    async fn of(
        stream: &Stream,
        mapping: &Mapping,
        snapshot: &Arc<Snapshot>,
    ) -> Result<(Self, Vec<(Arc<Add>, BooleanArray)>)> {
        let mut repairing = Self {
            stream: stream.clone(),
            reader: Reader::of(mapping.clone(), stream).await?,
            stand_ins: StandIns::new(stream, snapshot),
            batch: Batch::default(),
            parts: BTreeMap::new(),
            ids: Vec::new(),
            identities: Identities::within(IDS_BYTES),
            rejected: Tallies::default(),
            repaired: Tallies::default(),
            still_rejected: 0,
        };
        let mut files = Vec::new();
        for add in snapshot.files().filter(|add| has_rejects(add)) {
            let batch = stream.table().read(add, events::file_schema()).await?;
            let stays = repairing.take_up(&batch).await?;
            if stays.true_count() < batch.num_rows() {
                files.push((add.clone(), stays));
            }
        }
        Ok((repairing, files))
    }

    /// Adds the rows that can be read now to the batch; the others stay.
    async fn take_up(&mut self, rows: &RecordBatch) -> Result<BooleanArray> {
        let stored = Stored::of(rows);
        let mut stays = vec![true; rows.num_rows()];
        for (row, stays) in stays.iter_mut().enumerate().filter(|(row, _)| stored.is_reject(*row)) {
            let (payload, key) = (stored.payloads.value(row), stored.key(row));
            let oversized = stored.oversized(row);
            let kept = match &oversized {
                Some(oversized) => self.kept(oversized).await?,
                None => None,
            };
            let headers = stored.headers(row);
            let mut event = stored.event(row, headers.as_deref());
            event.payload = event.payload.map(|payload| kept.as_deref().unwrap_or(payload));
            let is_too_long =
                event.payload.is_some_and(|payload| payload.len() > self.reader.mapping().max_event_bytes);
            let is_lost = oversized.is_some() && kept.is_none();
            if is_too_long || is_lost {
                self.still_rejected += 1;
                continue;
            }
            let found = {
                let envelope = self.reader.read(&event);
                envelope.rejection.is_none().then(|| envelope.id.map(Cow::into_owned))
            };
            let Some(id) = found else {
                self.still_rejected += 1;
                continue;
            };
            let id = id.unwrap_or_else(|| self.stand_ins.of(&stored, row));
            *stays = false;
            let position = stored.positions.value(row);
            let (source, topic, partition) = stored.place(row);
            let place = (source.to_owned(), topic.to_owned(), partition);
            self.rejected.add(source, topic, partition, 1, row_digest(position, payload, key));
            match self.parts.get(&place) {
                Some(&part) => self.batch.go_on(part),
                None => {
                    let (source, topic, partition) = place.clone();
                    let of = SourcePartition { source, topic, incarnation: 0, partition };
                    self.parts.insert(place, self.batch.begin(of, position));
                }
            }
            let said = event.payload.unwrap_or_default();
            let content = row_digest(0, said, key) as u64;
            self.identities.note(None, Some(&id), content, 0).map_err(Error::Sort)?;
            let pushed = self.batch.push(&mut self.reader, &event, position, position + 1, Some(id.clone()))?;
            self.repaired.add(source, topic, partition, 1, pushed.digest);
            self.ids.push(id);
        }
        Ok(stays.into())
    }

    /// What the ids of the rows come to, beside those of the events that there are.
    async fn tell(&mut self, snapshot: &Snapshot) -> Result<Told> {
        if self.ids.is_empty() {
            return Ok(Told::default());
        }
        let table = self.stream.table();
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(&self.ids));
        let hashes = hash_rows(&[ids]).unwrap_or_default();
        let ids: HashSet<&str> = self.ids.iter().map(String::as_str).collect();
        for add in snapshot.files() {
            let found = table.hashes(add, &["event_id"]).await?;
            let may_hold_some = found.is_none_or(|found| hashes.iter().any(|&hash| found.may_hold(hash)));
            if !may_hold_some {
                continue;
            }
            let mut rows = table.read_within(add, events::file_schema(), PIECE).await?;
            while let Some(batch) = rows.try_next().await? {
                let stored = Stored::of(&batch);
                for row in 0..batch.num_rows() {
                    let Some(id) = stored.id(row).filter(|id| ids.contains(id)) else { continue };
                    self.identities.note(Some(id), Some(id), content(&stored, row), 0).map_err(Error::Sort)?;
                }
            }
        }
        self.identities.tell(|_| true).map_err(Error::Sort)
    }

    /// An event that was too long for a row, where it is short enough now and still there.
    async fn kept(&self, kept: &Oversized) -> Result<Option<Vec<u8>>> {
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
    use starmere_lake::formats::{Header, Incoming};
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
        let untouched = repair(&stream, &before, false).await.unwrap();
        assert_eq!((untouched.events, untouched.still_rejected, untouched.version), (0, 3, 2));
        let repaired = repair(&stream, &after, false).await.unwrap();
        assert_eq!((repaired.events, repaired.still_rejected, repaired.version), (2, 1, 3));
        assert_eq!(repaired.types.iter().collect::<Vec<_>>(), [("paid", 2)]);
        let again = repair(&stream, &after, false).await.unwrap();
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

    /// Tries to have an event swallowed: a reject gets the id of another one.
    #[tokio::test]
    async fn rejects_become_no_copies_of_other_events_unless_that_is_accepted() {
        let stream = Stream::new("s", Warehouse::new(Store::memory()).table(TablePath::stream("d", "s")));
        let mapping = |time: &str| {
            let id = Some("shop".into());
            Mapping { id, ..Mapping::new(TypeOf::Constant("paid".into()), Some(time.into())) }
        };
        let event = |time, number| format!(r#"{{"shop":1,"{time}":"2024-01-01T00:00:00Z","n":{number}}}"#);
        let [known, again, other, third] =
            [event("at", 1), event("when", 1), event("when", 2), event("when", 2)].map(String::into_bytes);
        land(&stream, &mapping("at"), &[Incoming::of(&known)]).await;
        land(&stream, &mapping("at"), &[&again, &other, &third].map(|payload| Incoming::of(payload))).await;
        let preview = look(&stream, &mapping("when")).await.unwrap();
        assert_eq!(preview, Preview { events: 3, still_rejected: 0, copies: 3, swallowed: 2 });
        let refused = repair(&stream, &mapping("when"), false).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
        assert_eq!(stream.open().await.unwrap().version(), 2, "nothing is changed");
        let repaired = repair(&stream, &mapping("when"), true).await.unwrap();
        assert_eq!((repaired.events, repaired.version), (3, 3));
        assert_eq!(look(&stream, &mapping("when")).await.unwrap(), Preview::default());
    }
}
