//! Delta tables: what is in one at a version, and how to make the next version.
//!
//! We read and write the log ourselves, because our protocols need what libraries for it keep to themselves:
//! every `txn` position at once, a commit at an *exact* version that is never rebased, commit information per
//! source partition, and no clean-up that nobody asked for. The format is Delta's: reader version 1, writer
//! version 2, no deletion vectors, no column mapping; other engines read what we write (see
//! `tests/python/outsiders.py`). Source: the Delta transaction log protocol, `PROTOCOL.md` of delta-io.
//!
//! ```text
//!            create                 commit(base v)                 commit(base v)
//! absent ───────────────► v = 0 ───────────────────► v + 1   or   Conflict: read again, decide again
//!            (no data)           put-if-absent of <v+1>.json      Unavailable: outcome unknown, the same
//! ```
//!
//! On a crash: files without a commit are invisible; a commit is one object and therefore whole. A checkpoint
//! is written after a commit and may be missing; nothing depends on it but the time that opening takes. Commits of
//! long ago are packed, a thousand into one object (`archive`).

mod actions;
pub(crate) mod archive;
pub(crate) mod checkpoint;
mod file;
mod hashes;
mod known;
mod layered;
mod read;
mod remembered;
mod schema;
mod seal;
mod snapshot;
mod splice;
pub(crate) mod statistics;
#[cfg(test)]
mod tests;
mod write;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use object_store::ObjectStoreExt;

pub use actions::{Action, Add, CommitInfo, Metadata, Protocol, Remove, Txn};
pub use file::DataFile;
pub use hashes::{Hashes, append_value, hash_rows};
pub(crate) use known::Looked;
pub use known::Warehouse;
pub use read::Wanted;
pub(crate) use read::align;
pub use schema::{from_delta as schema_from_delta, to_delta as schema_to_delta};
pub(crate) use seal::{Seal, Sums};
pub use snapshot::Snapshot;
pub use write::{EncodedFile, FileOptions, FileWriter};

use crate::paths::{self, TablePath};
use crate::store::Store;
use crate::{Error, Result, format_number};

/// The `txn` application id of commits that rewrite files without changing rows' meaning.
pub const REWRITE: &str = "starmere/rewrite";

/// The tag of a file that says what its bytes are: their XXH3, of 128 bits, in hexadecimal digits.
const DIGEST: &str = "starmere.xxh3";
/// A checkpoint is written at every version divisible by this.
pub(crate) const CHECKPOINT_EVERY: u64 = 50;
/// A file that was written longer ago is not committed, in milliseconds: clean-up deletes what nobody has committed for
/// a week, and a writer may have slept for so long.
const OVERDUE: i64 = 5 * 24 * 60 * 60 * 1000;
/// From a known version to one so far ahead, commits are read; to one that is further, a checkpoint.
const NEAR: u64 = 4 * CHECKPOINT_EVERY;

/// What a commit adds to a table.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// New files.
    pub adds: Vec<Add>,
    /// Files that are no longer part of the table.
    pub removes: Vec<Remove>,
    /// Positions: application id and version.
    pub txns: Vec<Txn>,
    /// Name of what was done, for people who read the history.
    pub operation: &'static str,
    /// Facts for `verify` and `status`, stored in the commit's information under `starmere`.
    pub facts: serde_json::Value,
}

/// What one stored commit did.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The version that the commit made.
    pub version: u64,
    /// Its actions, in the order of the log.
    pub actions: Vec<Action>,
}

impl Committed {
    /// Files whose rows are new, in the sense of Delta's `dataChange`.
    pub fn added(&self) -> impl Iterator<Item = &Add> {
        self.actions.iter().filter_map(|action| match action {
            Action::Add(add) if add.data_change => Some(add),
            _ => None,
        })
    }

    /// Files whose rows are gone.
    pub fn removed(&self) -> impl Iterator<Item = &Remove> {
        self.actions.iter().filter_map(|action| match action {
            Action::Remove(remove) if remove.data_change => Some(remove),
            _ => None,
        })
    }

    /// The commit's information.
    pub fn info(&self) -> Option<&CommitInfo> {
        self.actions.iter().find_map(|action| match action {
            Action::CommitInfo(info) => Some(info),
            _ => None,
        })
    }
}

/// What became of a commit that was offered.
enum Made {
    Ours,
    /// Somebody else's has its version.
    Others,
    /// Its version was made and packed long ago.
    TooLate,
}

/// A Delta table in a warehouse.
#[derive(Clone, Debug)]
pub struct Table {
    warehouse: Warehouse,
    path: TablePath,
}

impl Table {
    /// Where the table is.
    pub fn path(&self) -> &TablePath {
        &self.path
    }

    /// The store that holds the table.
    pub fn store(&self) -> &Store {
        self.warehouse.store()
    }

    /// The newest version; `None` where the table does not exist.
    pub async fn snapshot(&self) -> Result<Option<Arc<Snapshot>>> {
        let known = self.warehouse.newest(&self.path);
        if let Some((newest, proven)) = &known
            && proven.is_lately()
        {
            let newest = snapshot::advance(self.store(), newest.clone()).await?;
            // Who was asleep meanwhile does not know. What was proven stays as old as it is: where clocks differ,
            // commits may be packed too early, and who only ever looks for the next one would never find it.
            if proven.is_lately() {
                self.warehouse.learn(&newest, *proven);
                return Ok(Some(newest));
            }
        }
        let looked = Looked::now();
        let newest = self.look(known.map(|(newest, _)| newest)).await?;
        if let Some(newest) = &newest {
            self.warehouse.learn(newest, looked);
        }
        Ok(newest)
    }

    /// The newest version, where it was long ago that nothing came after `known`. The next commit may have been packed
    /// at any time: then the log lacks it, or has what a writer left there that came too late. So what was read commit
    /// by commit, and what was missing then, is looked for in archives afterwards: it does not matter when somebody
    /// packs.
    async fn look(&self, known: Option<Arc<Snapshot>>) -> Result<Option<Arc<Snapshot>>> {
        // Where its own commit is packed, or gone with all of the table, much has happened.
        let is_there = match &known {
            Some(known) => self.store().exists(&self.path.commit(known.version())).await?,
            None => false,
        };
        let mut begin = known.filter(|_| is_there);
        loop {
            let begun = match begin.take() {
                Some(begun) => begun,
                None => match snapshot::load(self.store(), &self.path, None).await? {
                    Some(loaded) => Arc::new(loaded),
                    None => return Ok(None),
                },
            };
            let newest = snapshot::advance(self.store(), begun.clone()).await?;
            let (from, to) = (begun.version().saturating_add(1), newest.version().saturating_add(1));
            let Some(end) = archive::reaching(self.store(), &self.path, from, to).await? else {
                return Ok(Some(newest));
            };
            let missing = || Error::Missing { object: format!("a commit of {} up to version {end}", self.path) };
            begin = Some(self.go_on(begun, end).await?.ok_or_else(missing)?);
        }
    }

    /// The table at exactly `version`.
    pub async fn snapshot_at(&self, version: u64) -> Result<Arc<Snapshot>> {
        let mut reached = None;
        if let Some(known) = self.warehouse.nearest(&self.path, version)
            && version - known.version() <= NEAR
        {
            reached = self.go_on(known, version).await?;
        }
        if reached.is_none() {
            let loaded = snapshot::load(self.store(), &self.path, Some(version)).await?;
            reached = loaded.filter(|loaded| loaded.version() == version).map(Arc::new);
        }
        let missing = || Error::Missing { object: format!("version {version} of {}", self.path) };
        let reached = reached.ok_or_else(missing)?;
        self.warehouse.remember(&reached);
        Ok(reached)
    }

    /// `known` with the commits up to `version`; none where they are not all there.
    async fn go_on(&self, mut known: Arc<Snapshot>, version: u64) -> Result<Option<Arc<Snapshot>>> {
        let mut history = std::pin::pin!(self.history(known.version(), version));
        loop {
            match history.try_next().await {
                Ok(Some(commit)) => Arc::make_mut(&mut known).apply(commit)?,
                Ok(None) => return Ok(Some(known)),
                Err(Error::Missing { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The newest version, where the table is made first if it does not exist. Whoever loses the race to make
    /// it gets what the winner made.
    pub async fn open_or_create(&self, schema: &SchemaRef, partitioned_by: &[&str]) -> Result<Arc<Snapshot>> {
        self.open_or_create_with(schema, partitioned_by, &[]).await
    }

    /// The same, with settings that the table keeps for good.
    pub async fn open_or_create_with(
        &self,
        schema: &SchemaRef,
        partitioned_by: &[&str],
        settings: &[(&str, String)],
    ) -> Result<Arc<Snapshot>> {
        // Whoever loses the race to make it finds it the second time.
        for _ in 0..3 {
            if let Some(snapshot) = self.snapshot().await? {
                return Ok(snapshot);
            }
            let mut actions = [
                Action::CommitInfo(CommitInfo::new("CREATE TABLE", serde_json::Value::Null)),
                Action::Protocol(Protocol::OURS),
                Action::MetaData(Metadata::new(schema, partitioned_by)?.with(settings)),
            ];
            let bytes = actions::encode(&mut actions)?;
            // Commit 0 carries no data: whoever was first, the table is the same.
            self.store().create(&self.path.commit(0), bytes).await?;
        }
        let reason = "its commit 0 is there and is not listed".to_owned();
        Err(Error::Corrupt { path: self.path.to_string(), reason })
    }

    /// Makes the version after `base`, or nothing. [`Error::Conflict`]: somebody else made it, or the files are so old
    /// that they may be gone. Any other error: the outcome is unknown. After either, read the table again and decide
    /// again. Nothing is made in a warehouse that has got a newer format ([`Error::Format`]).
    pub async fn commit(&self, base: &Snapshot, commit: Commit) -> Result<Arc<Snapshot>> {
        format_number::as_noted(self.store())?;
        base.check_writer()?;
        let version = base.version() + 1;
        let conflict = || Error::Conflict { table: self.path.to_string(), version };
        let overdue = chrono::Utc::now().timestamp_millis() - OVERDUE;
        if let Some(add) = commit.adds.iter().find(|add| add.modification_time < overdue) {
            let file = &add.path;
            tracing::warn!(table = %self.path, version, file, "a file that was written days ago is not committed");
            return Err(conflict());
        }
        let mut actions = Vec::with_capacity(1 + commit.adds.len() + commit.removes.len() + commit.txns.len());
        actions.push(Action::CommitInfo(CommitInfo::new(commit.operation, commit.facts)));
        actions.extend(commit.txns.into_iter().map(Action::Txn));
        actions.extend(commit.removes.into_iter().map(Action::Remove));
        actions.extend(commit.adds.into_iter().map(Action::Add));
        let bytes = actions::encode(&mut actions)?;
        let looked = Looked::now();
        match self.make(version, &bytes).await {
            Ok(Made::Ours) => {}
            Ok(Made::Others) => return Err(conflict()),
            // What is known of the table may be of long ago: it is read anew, from its checkpoint on.
            Ok(Made::TooLate) => {
                self.warehouse.forget(&self.path);
                return Err(conflict());
            }
            Err(error) => {
                self.warehouse.forget(&self.path);
                return Err(error);
            }
        }
        let mut next = base.clone();
        next.apply(Committed { version, actions })?;
        let next = Arc::new(next);
        // There was none after it when it was begun; since then, the writer may have slept.
        self.warehouse.learn(&next, looked);
        if version.is_multiple_of(CHECKPOINT_EVERY)
            && let Err(error) = checkpoint::write(self.store(), &next).await
        {
            tracing::warn!(table = %self.path, version, %error, "no checkpoint was written; opening takes longer");
        }
        Ok(next)
    }

    /// Creates the commit, and makes sure that it is the one that counts. After an error nobody knows.
    async fn make(&self, version: u64, bytes: &Bytes) -> Result<Made> {
        let path = self.path.commit(version);
        let created = self.store().create(&path, bytes.clone()).await;
        if !matches!(created, Ok(true)) {
            // A store's client may have sent the request twice, or its answer may be lost: the object tells.
            match (self.store().read(&path).await?, created) {
                (Some(stored), _) if stored == *bytes => {}
                (Some(_), _) => return Ok(Made::Others),
                (None, Ok(_)) => return Ok(Made::TooLate),
                (None, Err(error)) => return Err(error),
            }
        }
        // The object was not there, which may be because somebody has packed it: see `archive`.
        let looks =
            futures::future::try_join(archive::is_packed(self.store(), &self.path, version), self.can_follow(version));
        let (is_packed, can_follow) = looks.await?;
        if !is_packed && can_follow {
            return Ok(Made::Ours);
        }
        if !is_packed {
            // A folder below the warehouse went away, say. Nobody may be told that this is in the table.
            self.store().delete([path]).await?;
            let reason = format!(
                "commit {} is not there any more, so {version} cannot follow it: bring its volume back, or restore it \
                 from a copy",
                version - 1
            );
            return Err(Error::Corrupt { path: self.path.to_string(), reason });
        }
        let packed = archive::texts(self.store(), &self.path, version).await?;
        if packed.is_some_and(|commits| commits.iter().any(|(of, text)| *of == version && text == bytes)) {
            return Ok(Made::Ours);
        }
        tracing::warn!(table = %self.path, version, "a commit came much too late and is taken away again");
        self.store().delete([path]).await?;
        Ok(Made::TooLate)
    }

    /// Whether the version before `version`, of which this process knows, is in the log: a commit after it, a checkpoint
    /// of it, or an archive.
    async fn can_follow(&self, version: u64) -> Result<bool> {
        let Some(before) = version.checked_sub(1) else { return Ok(true) };
        Ok(self.store().exists(&self.path.commit(before)).await?
            || self.store().exists(&self.path.checkpoint(before)).await?
            || archive::is_packed(self.store(), &self.path, before).await?)
    }

    /// The commits that lead from version `after` to version `to`, in order, wherever they are.
    pub fn history(&self, after: u64, to: u64) -> impl Stream<Item = Result<Committed>> + Send {
        // Nothing comes after the last number there is.
        let (from, to) = after.checked_add(1).map_or((1, 0), |from| (from, to));
        archive::history(self.store(), &self.path, from, to)
    }

    /// The same, all at once.
    pub async fn commits(&self, after: u64, to: u64) -> Result<Vec<Committed>> {
        self.history(after, to).try_collect().await
    }

    /// What is wrong with a file's object: it is gone, has another length, or other bytes than were written.
    pub async fn damage(&self, add: &Add) -> Result<Option<String>> {
        let path = self.path.file(&add.path);
        let failed = |source| Error::Store { action: "read", path: path.to_string(), source };
        let found = match self.store().objects().get(&path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(Some(format!("`{path}` is gone"))),
            Err(source) => return Err(failed(source)),
        };
        if i64::try_from(found.meta.size) != Ok(add.size) {
            return Ok(Some(format!("`{path}` has {} bytes, not {}", found.meta.size, add.size)));
        }
        // Files of before this was written down have none.
        let Some(Some(written)) = add.tags.as_ref().and_then(|tags| tags.get(DIGEST)) else { return Ok(None) };
        let mut digest = xxhash_rust::xxh3::Xxh3::new();
        let mut content = found.into_stream();
        while let Some(piece) = content.try_next().await.map_err(failed)? {
            digest.update(&piece);
        }
        let is_same = format!("{:032x}", digest.digest128()) == *written;
        Ok((!is_same).then(|| format!("`{path}` has other bytes than were written")))
    }

    /// A file like `add`, with the columns of `replaced` in place of its own; `replaced` has a row for each of the file's.
    pub async fn with_columns(
        &self,
        add: &Add,
        schema: &SchemaRef,
        replaced: RecordBatch,
        options: FileOptions,
    ) -> Result<Add> {
        let path = self.path.file(&add.path);
        let bytes = DataFile::of(self, add)?.whole().await?;
        let schema = schema.clone();
        let names = replaced.schema().fields().iter().map(|field| field.name().clone()).collect();
        let splice = move || splice::spliced(&bytes, &schema, &replaced, &options);
        let spliced = tokio::task::spawn_blocking(splice).await;
        let spliced = spliced
            .map_err(|error| Error::Invalid { what: "a task of a rewrite".into(), reason: error.to_string() })?;
        let mut file = spliced.map_err(Error::parquet(path.to_string()))?;
        if let Some(group) = paths::file_group(&add.path) {
            file = file.in_group(group);
        }
        let mut made = self.upload(file).await?;
        made.made_like(add, names);
        Ok(made)
    }

    /// Uploads an encoded file and tells how to add it.
    pub async fn upload(&self, mut file: EncodedFile) -> Result<Add> {
        let relative = paths::new_file(file.partition_pair(), file.group);
        let seal = Seal::put(&mut file.bytes)?;
        let size = file.bytes.len();
        let digest = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&file.bytes));
        self.store().write(&self.path.file(&relative), Bytes::from(file.bytes)).await?;
        Ok(Add {
            path: relative,
            partition_values: file.partition.into_iter().map(|(name, value)| (name, Some(value))).collect(),
            size: size as i64,
            modification_time: chrono::Utc::now().timestamp_millis(),
            data_change: true,
            stats: Some(file.statistics),
            tags: Some([(DIGEST.to_owned(), Some(digest)), seal.tag()].into()),
            parsed: Default::default(),
            counted: Default::default(),
        })
    }
}
