//! Reading all rows of a stream anew, after its mapping was mended; and putting back what there was before.
//!
//! ```text
//! look:       files ─► rows, read again ─► what would change, and which events would become copies of others
//! carry out:  files whose rows change ─► the same rows in new files ─► one commit (see `starmere_lake::reread`)
//! take back:  files of before ─► one commit
//! ```
//!
//! Rereads are taken back one after the other, the last one first.
//!
//! Payload, key, headers and place of a row stay. Where somebody else commits in between, what is new is looked at as well,
//! and it is tried again. Until the commit nothing is changed, and on a crash new files are nobody's. Files are read and
//! written one after the other, a few rows at a time.
//!
//! Two rows with one id are copies of one event, of which builds count one. So a wrong id makes events vanish, and a reread
//! that would do that to events which say different things is refused, unless that is accepted.

pub(crate) mod identities;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int32Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use chrono::NaiveDate;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use starmere_lake::delta::{Action, Add, Commit, Committed, FileWriter, Snapshot, Table};
use starmere_lake::landing::{Stream, row_digest};
use starmere_lake::reread::{can_be_taken_back, positions, reread_at, tag};
use starmere_lake::store::Backoff;
use starmere_lake::upkeep::cut_of;
use starmere_lake::{Error as LakeError, events};

use crate::envelope::{Envelope, Mapping, Reader};
use crate::stored::{StandIns, Stored, has_lost_its_key, text};
use crate::{Error, Result};
use identities::{Identities, Told};

/// Once others have committed in between, attempts begin for so long.
const PATIENCE: Duration = Duration::from_secs(600);
/// Files that are looked for side by side.
const SIDE_BY_SIDE: usize = 16;
/// This part of the memory is for the ids of rows, and this one for rows that are read at once.
const IDS_PART: usize = 4;
const ROWS_PART: usize = 16;
/// Columns that are read anew.
const READ_ANEW: [&str; 7] = ["event_id", "event_type", "event_version", "occurred_at", "subject", "op", "rejection"];

/// How rows differ once they are read anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All rows.
    pub rows: u64,
    /// Rows that differ in anything.
    pub changed: u64,
    /// Events that stay events, and get another id, type, version, time or subject.
    pub ids: u64,
    pub types: u64,
    pub versions: u64,
    pub times: u64,
    pub subjects: u64,
    /// Rejects that become events, and events that become rejects.
    pub taken_up: u64,
    pub rejected: u64,
    /// Events over HTTP that had an id of their payload and have none any more: the key of their request is not known.
    pub keyless: u64,
}

impl Changes {
    fn add(&mut self, other: &Self) {
        let Self { rows, changed, ids, types, versions, times, subjects, taken_up, rejected, keyless } = other;
        self.rows += rows;
        self.changed += changed;
        self.ids += ids;
        self.types += types;
        self.versions += versions;
        self.times += times;
        self.subjects += subjects;
        self.taken_up += taken_up;
        self.rejected += rejected;
        self.keyless += keyless;
    }
}

/// What a reread would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    pub changes: Changes,
    /// Events, copies counted once, before and after.
    pub events_before: u64,
    pub events_after: u64,
    /// Events that become copies of another one; and those of them that say something else.
    pub copies: u64,
    pub swallowed: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reread {
    pub changes: Changes,
    /// The table's version afterwards.
    pub version: u64,
}

/// What came of taking a reread back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// The version that the reread had made.
    pub reread: u64,
    /// Rows of the files that were put back.
    pub rows: u64,
    /// The table's version afterwards.
    pub version: u64,
}

/// A file that was looked at.
#[derive(Debug)]
struct Looked {
    number: u64,
    changes: Changes,
}

/// A reread that has not been carried out.
#[derive(Debug)]
pub struct Rereading {
    stream: Stream,
    reader: Reader,
    memory: usize,
    /// By their paths.
    looked: BTreeMap<String, Looked>,
    /// New files, by the paths of those whose rows they have.
    written: BTreeMap<String, Add>,
    identities: Identities,
}

impl Rereading {
    /// Prepares to read the rows of `stream` by `mapping`, with so many bytes of memory.
    pub async fn new(stream: &Stream, mapping: &Mapping, memory: usize) -> Result<Self> {
        Ok(Self {
            stream: stream.clone(),
            reader: Reader::of(mapping.clone(), stream).await?,
            memory,
            looked: BTreeMap::new(),
            written: BTreeMap::new(),
            identities: Identities::within(memory / IDS_PART),
        })
    }

    /// What it would do now. Writes nothing.
    pub async fn look(&mut self) -> Result<Preview> {
        let snapshot = self.stream.open().await?;
        self.look_at(&snapshot).await?;
        let Told { before, after, copies, swallowed } = self.tell(&snapshot)?;
        let changes = self.changes(&snapshot);
        Ok(Preview { changes, events_before: before, events_after: after, copies, swallowed })
    }

    /// Reads the rows anew, in one commit. Unless that is accepted, no event becomes a copy of one that says something else.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: events would become copies. [`Error::Overtaken`]: others have committed for minutes.
    pub async fn carry_out(&mut self, accepts_copies: bool) -> Result<Reread> {
        let (mut backoff, mut is_told) = (None, false);
        loop {
            let snapshot = self.stream.open().await?;
            // To compare all ids takes long; what lands meanwhile is of the same mapping, as a rule.
            let is_same = self.look_at(&snapshot).await?;
            if !(accepts_copies || is_told && is_same) {
                let swallowed = self.tell(&snapshot)?.swallowed;
                refuse_copies(self.stream.name(), swallowed)?;
                is_told = true;
            }
            let changes = self.changes(&snapshot);
            if !accepts_copies {
                refuse_keyless(self.stream.name(), changes.keyless)?;
            }
            let old: Vec<Arc<Add>> = snapshot.files().filter(|add| self.is_changed(add)).cloned().collect();
            if old.is_empty() {
                return Ok(Reread { changes, version: snapshot.version() });
            }
            let mut adds = Vec::with_capacity(old.len());
            for add in &old {
                adds.push(self.written(add, &snapshot).await?);
            }
            let commit = Commit {
                removes: old.iter().map(|add| add.remove()).collect(),
                txns: positions(&snapshot),
                operation: "UPDATE",
                facts: serde_json::json!({ "reread": { "rows": changes.changed } }),
                adds,
            };
            if let Some(made) = commit_or_again(&self.stream, &snapshot, commit, &mut backoff).await? {
                return Ok(Reread { changes, version: made.version() });
            }
        }
    }

    fn is_changed(&self, add: &Add) -> bool {
        self.looked.get(&add.path).is_some_and(|looked| looked.changes.changed > 0)
    }

    /// What changes in all files of the snapshot, which were looked at.
    fn changes(&self, snapshot: &Snapshot) -> Changes {
        let mut all = Changes::default();
        for looked in snapshot.files().filter_map(|add| self.looked.get(&add.path)) {
            all.add(&looked.changes);
        }
        all
    }

    /// What the ids of the snapshot's rows come to, whose files were looked at.
    fn tell(&mut self, snapshot: &Snapshot) -> Result<Told> {
        let files = snapshot.files().filter_map(|add| self.looked.get(&add.path));
        let there: HashSet<u64> = files.map(|looked| looked.number).collect();
        self.identities.tell(|number| there.contains(&number)).map_err(Error::Sort)
    }

    /// Looks at the files that are new; whether nothing would change in any of them.
    async fn look_at(&mut self, snapshot: &Arc<Snapshot>) -> Result<bool> {
        let mut is_same = true;
        let mut stand_ins = StandIns::new(&self.stream, snapshot);
        let is_new = |add: &&Arc<Add>| !self.looked.contains_key(&add.path);
        let new: Vec<Arc<Add>> = snapshot.files().filter(is_new).cloned().collect();
        for add in &new {
            let number = self.looked.len() as u64;
            let mut changes = Changes::default();
            let mut rows = self.rows(add).await?;
            while let Some(batch) = rows.try_next().await? {
                let anew = read_anew(&mut self.reader, &mut stand_ins, &batch, &mut changes)?;
                note(&mut self.identities, &batch, &anew, number).map_err(Error::Sort)?;
            }
            is_same &= changes.changed == 0;
            self.looked.insert(add.path.clone(), Looked { number, changes });
        }
        Ok(is_same)
    }

    async fn rows(&self, add: &Add) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>> {
        let (table, bytes) = (self.stream.table(), self.memory / ROWS_PART);
        Ok(table.read_within(add, events::file_schema(), bytes).await?)
    }

    /// The file with the rows of `add`, read anew.
    async fn written(&mut self, add: &Add, snapshot: &Arc<Snapshot>) -> Result<Add> {
        if let Some(written) = self.written.get(&add.path) {
            return Ok(written.clone());
        }
        let mut stand_ins = StandIns::new(&self.stream, snapshot);
        let mut writer = FileWriter::new(events::file_schema().clone(), &events::file_options())?;
        let mut rows = self.rows(add).await?;
        while let Some(batch) = rows.try_next().await? {
            let anew = read_anew(&mut self.reader, &mut stand_ins, &batch, &mut Changes::default())?;
            // Encoding is what takes the time.
            let encoding = tokio::task::spawn_blocking(move || writer.write(&anew).map(|()| writer));
            writer = encoding.await.map_err(|error| Error::Task(error.to_string()))??;
        }
        let encoding = tokio::task::spawn_blocking(move || writer.finish());
        let mut file = encoding.await.map_err(|error| Error::Task(error.to_string()))??;
        if let Some(Some(day)) = add.partition_values.get(events::INGEST_DATE) {
            file = file.in_partition(events::INGEST_DATE, day.clone());
        }
        let mut made = self.stream.table().upload(file).await?;
        tag(&mut made);
        self.written.insert(add.path.clone(), made.clone());
        Ok(made)
    }
}

/// Refuses to make copies of events out of events that say something else.
///
/// # Errors
///
/// [`Error::Refused`]: there are some.
pub fn refuse_copies(stream: &str, swallowed: u64) -> Result<()> {
    if swallowed == 0 {
        return Ok(());
    }
    let events = if swallowed == 1 { "1 event".to_owned() } else { format!("{swallowed} events") };
    let reason = format!(
        "{events} of `{stream}` would become copies of others that say something else, and builds count one event for each id"
    );
    let hint = format!(
        "name in `id` of the stream's envelope what tells events apart; where they are copies, sent again with other words, \
         say `--allow-copies`, and see `starmere streams copies {stream}` then"
    );
    Err(Error::Refused { reason, hint })
}

/// Refuses to take their ids from events over HTTP that may have been sent again.
///
/// # Errors
///
/// [`Error::Refused`]: there are some.
pub fn refuse_keyless(stream: &str, keyless: u64) -> Result<()> {
    if keyless == 0 {
        return Ok(());
    }
    let events = if keyless == 1 { "1 event".to_owned() } else { format!("{keyless} events") };
    let reason = format!(
        "{events} of `{stream}` came over HTTP and would have no id any more: the `Idempotency-Key` of a request is kept only \
         where a payload has no id, so what was sent again would count again"
    );
    let hint = "name in `id` of the stream's envelope what all payloads have; where nothing was sent again, say `--allow-copies`";
    Err(Error::Refused { reason, hint: hint.into() })
}

/// Makes the commit; none where somebody else was first, and it is to be decided again.
async fn commit_or_again(
    stream: &Stream,
    snapshot: &Snapshot,
    commit: Commit,
    backoff: &mut Option<Backoff>,
) -> Result<Option<Arc<Snapshot>>> {
    let first = commit.adds.first().map(|add| add.path.clone());
    let error = match stream.table().commit(snapshot, commit).await {
        Ok(made) => return Ok(Some(made)),
        Err(error) => error,
    };
    // Conflict or unknown: the table tells.
    let newest = stream.open().await?;
    if first.is_some_and(|first| newest.file(&first).is_some()) {
        return Ok(Some(newest));
    }
    if !matches!(error, LakeError::Conflict { .. }) {
        return Err(error.into());
    }
    match backoff.get_or_insert_with(|| Backoff::lasting(PATIENCE)).pause().await {
        true => Ok(None),
        false => Err(Error::Overtaken { stream: stream.name().to_owned(), minutes: PATIENCE.as_secs() / 60 }),
    }
}

/// A reread that was not taken back yet: the last one of its stream.
#[derive(Debug)]
pub struct TakingBack {
    stream: Stream,
    /// The version that the reread has made.
    pub reread: u64,
    /// When that was, in milliseconds since 1970.
    pub at: i64,
    /// The last version by which rows were read anew or put back.
    last: Option<u64>,
    /// Files that the reread took out, and those that it put in.
    old: Vec<Arc<Add>>,
    new: Vec<Add>,
}

impl TakingBack {
    /// Looks for the reread. Writes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: there is none that can be taken back.
    pub async fn of(stream: &Stream) -> Result<Self> {
        let (table, snapshot) = (stream.table(), stream.open().await?);
        let last = reread_at(&snapshot);
        let Some((made, before)) = last_reread(table, last).await? else {
            let reason = if last.is_some() { "the last one is taken back already" } else { "there was none" };
            return Err(refused(stream, reason));
        };
        let at = made.info().map_or(0, |info| info.timestamp);
        if !can_be_taken_back(at, chrono::Utc::now().timestamp_millis()) {
            return Err(refused(stream, "it was days ago, and the files of before may be deleted"));
        }
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for action in made.actions {
            match action {
                Action::Add(add) => new.push(add),
                Action::Remove(removed) => match before.file(&removed.path) {
                    Some(add) => old.push(add.clone()),
                    None => return Err(refused(stream, "its commit is damaged")),
                },
                _ => {}
            }
        }
        let cut = cut_of(&snapshot);
        let wanted = old.iter().filter(|add| !is_forgotten(add, cut)).map(|add| table.path().file(&add.path));
        let wanted: Vec<Path> = wanted.collect();
        let looks = futures::stream::iter(wanted).map(|path| async move { table.store().exists(&path).await });
        let mut looks = std::pin::pin!(looks.buffer_unordered(SIDE_BY_SIDE));
        while let Some(is_there) = looks.try_next().await? {
            if !is_there {
                return Err(refused(stream, "a file of before is deleted"));
            }
        }
        Ok(Self { stream: stream.clone(), reread: made.version, at, last, old, new })
    }

    /// Puts the files of before in place of those of the reread, in one commit; what has landed since stays.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]: it cannot be taken back any more. [`Error::Overtaken`]: others have committed for minutes.
    pub async fn carry_out(&self) -> Result<TakenBack> {
        let mut backoff = None;
        loop {
            let snapshot = self.stream.open().await?;
            if reread_at(&snapshot) != self.last {
                return Err(refused(&self.stream, "others have read its rows anew, or put some back, meanwhile"));
            }
            // What retention has forgotten since stays forgotten.
            let cut = cut_of(&snapshot);
            let mut removes = Vec::with_capacity(self.new.len());
            for add in self.new.iter().filter(|add| !is_forgotten(add, cut)) {
                let Some(add) = snapshot.file(&add.path) else {
                    return Err(refused(&self.stream, "its rows were changed since, by a repair, say"));
                };
                removes.push(add.remove());
            }
            let now = chrono::Utc::now().timestamp_millis();
            let back = |add: &Arc<Add>| {
                let mut add = Add::clone(add);
                (add.modification_time, add.data_change) = (now, true);
                add
            };
            let adds: Vec<Add> = self.old.iter().filter(|add| !is_forgotten(add, cut)).map(back).collect();
            if adds.is_empty() {
                return Err(refused(&self.stream, "all of its rows are forgotten"));
            }
            let rows = adds.iter().filter_map(Add::rows).sum();
            let commit = Commit {
                adds,
                removes,
                txns: positions(&snapshot),
                operation: "RESTORE",
                facts: serde_json::json!({ "taken_back": self.reread }),
            };
            if let Some(made) = commit_or_again(&self.stream, &snapshot, commit, &mut backoff).await? {
                return Ok(TakenBack { reread: self.reread, rows, version: made.version() });
            }
        }
    }
}

/// The last reread that was not taken back, of those by version `last`: its commit, and the table before it.
async fn last_reread(table: &Table, mut last: Option<u64>) -> Result<Option<(Committed, Arc<Snapshot>)>> {
    while let Some(version) = last {
        let before = version.saturating_sub(1);
        let Some(made) = table.commits(before, version).await?.pop() else { break };
        let taken_back = made.info().and_then(|info| info.starmere.get("taken_back")?.as_u64());
        match taken_back {
            None => return Ok(Some((made, table.snapshot_at(before).await?))),
            // The one before it is the next.
            Some(of) => {
                let before = table.snapshot_at(of.saturating_sub(1)).await?;
                last = reread_at(&before);
            }
        }
    }
    Ok(None)
}

/// Whether the rows of a file landed before the day before which all is forgotten.
fn is_forgotten(add: &Add, cut: Option<NaiveDate>) -> bool {
    let landed = add.partition_values.get(events::INGEST_DATE).and_then(Option::as_deref);
    let landed = landed.and_then(|landed| landed.parse::<NaiveDate>().ok());
    landed.zip(cut).is_some_and(|(landed, cut)| landed < cut)
}

fn refused(stream: &Stream, reason: &str) -> Error {
    Error::Refused {
        reason: format!("no reread of `{}` can be taken back: {reason}", stream.name()),
        hint: format!("mend its definition, and run `starmere streams reread {}` again", stream.name()),
    }
}

/// What is found in rows anew, column by column.
#[derive(Default)]
struct Anew {
    ids: StringBuilder,
    types: StringBuilder,
    versions: Int32Builder,
    times: TimestampMicrosecondBuilder,
    subjects: StringBuilder,
    ops: StringBuilder,
    rejections: StringBuilder,
}

impl Anew {
    fn push(&mut self, id: &str, envelope: &Envelope<'_>) {
        self.ids.append_value(id);
        self.types.append_option(envelope.event_type.as_deref());
        self.versions.append_option(envelope.version);
        self.times.append_option(envelope.occurred_at);
        self.subjects.append_option(envelope.subject.as_deref());
        self.ops.append_option(envelope.op);
        self.rejections.append_option(envelope.rejection.as_deref());
    }

    /// What the row says already.
    fn keep(&mut self, stored: &Stored<'_>, row: usize) {
        self.ids.append_value(stored.ids.value(row));
        self.types.append_option(text(stored.types, row));
        self.versions.append_option(stored.versions.is_valid(row).then(|| stored.versions.value(row)));
        self.times.append_option(stored.times.is_valid(row).then(|| stored.times.value(row)));
        self.subjects.append_option(text(stored.subjects, row));
        self.ops.append_option(text(stored.ops, row));
        self.rejections.append_option(text(stored.rejections, row));
    }

    /// The rows of `batch` with these columns in place of its own.
    fn finish(mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: [ArrayRef; 7] = [
            Arc::new(self.ids.finish()),
            Arc::new(self.types.finish()),
            Arc::new(self.versions.finish()),
            Arc::new(self.times.finish().with_timezone("UTC")),
            Arc::new(self.subjects.finish()),
            Arc::new(self.ops.finish()),
            Arc::new(self.rejections.finish()),
        ];
        let mut all = batch.columns().to_vec();
        for (name, column) in READ_ANEW.into_iter().zip(columns) {
            let place = batch.schema().index_of(name).map_err(LakeError::columns("rows of a stream"))?;
            all[place] = column;
        }
        let anew = RecordBatch::try_new(batch.schema(), all).map_err(LakeError::columns("rows that are read anew"))?;
        Ok(anew)
    }
}

/// Reads rows of a stream's files again; how they differ is added to `changes`. A reject that still is one stays as it is, and
/// so does one that is kept beside the table.
fn read_anew(
    reader: &mut Reader,
    stand_ins: &mut StandIns,
    batch: &RecordBatch,
    changes: &mut Changes,
) -> Result<RecordBatch> {
    let stored = Stored::of(batch);
    let (limit, takes_time_of_source) = (reader.mapping().max_event_bytes, reader.takes_time_of_source());
    let mut anew = Anew::default();
    for row in 0..batch.num_rows() {
        changes.rows += 1;
        let was_reject = stored.is_reject(row);
        let is_too_long = stored.payloads.value(row).len() > limit || stored.oversized(row).is_some();
        if was_reject && is_too_long {
            anew.keep(&stored, row);
            continue;
        }
        let headers = stored.headers(row);
        let event = stored.event(row, headers.as_deref());
        let mut envelope = reader.read(&event);
        if was_reject && envelope.rejection.is_some() {
            anew.keep(&stored, row);
            continue;
        }
        let time = stored.times.is_valid(row).then(|| stored.times.value(row));
        // When its source got it is not kept of an event: its time is all there is, to the microsecond.
        let is_time_of_source = takes_time_of_source && envelope.occurred_at == event.timestamp.map(|at| at * 1_000);
        if is_time_of_source || (envelope.rejection.is_some() && envelope.occurred_at.is_none()) {
            envelope.occurred_at = time;
        }
        let id = match &envelope.id {
            Some(id) => id.clone(),
            None => {
                changes.keyless += u64::from(envelope.rejection.is_none() && has_lost_its_key(&stored, row));
                stand_ins.of(&stored, row).into()
            }
        };
        differ(&stored, row, &id, &envelope, changes);
        anew.push(&id, &envelope);
    }
    anew.finish(batch)
}

/// Adds how a row differs.
fn differ(stored: &Stored<'_>, row: usize, id: &str, envelope: &Envelope<'_>, changes: &mut Changes) {
    let differs = [
        stored.ids.value(row) != id,
        text(stored.types, row) != envelope.event_type.as_deref(),
        stored.versions.is_valid(row).then(|| stored.versions.value(row)) != envelope.version,
        stored.times.is_valid(row).then(|| stored.times.value(row)) != envelope.occurred_at,
        text(stored.subjects, row) != envelope.subject.as_deref(),
    ];
    let is_other =
        text(stored.ops, row) != envelope.op || text(stored.rejections, row) != envelope.rejection.as_deref();
    changes.changed += u64::from(is_other || differs.contains(&true));
    match (stored.is_reject(row), envelope.rejection.is_some()) {
        (true, _) => changes.taken_up += 1,
        (false, true) => changes.rejected += 1,
        (false, false) => {
            let Changes { ids, types, versions, times, subjects, .. } = changes;
            for (count, differs) in [ids, types, versions, times, subjects].into_iter().zip(differs) {
                *count += u64::from(differs);
            }
        }
    }
}

/// Notes the ids of rows, before and after.
fn note(identities: &mut Identities, before: &RecordBatch, after: &RecordBatch, file: u64) -> std::io::Result<()> {
    let (before, after) = (Stored::of(before), Stored::of(after));
    for row in 0..before.ids.len() {
        identities.note(before.id(row), after.id(row), content(&before, row), file)?;
    }
    Ok(())
}

/// A hash of what an event says: its payload and key.
pub(crate) fn content(rows: &Stored<'_>, row: usize) -> u64 {
    row_digest(0, rows.payloads.value(row), rows.key(row)) as u64
}

#[cfg(test)]
mod tests;
