//! A table at one version: the fold of its log up to there.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;

use super::actions::{self, Action, Add, Metadata, Protocol};
use super::layered::Layered;
use super::{Committed, archive, checkpoint};
use crate::paths::{self, TablePath};
use crate::store::Store;
use crate::{Error, Result};

/// A table at one version. Cheap to share, never changed once shared.
#[derive(Clone, Debug)]
pub struct Snapshot {
    path: TablePath,
    version: u64,
    /// When the version was committed, in milliseconds since 1970.
    timestamp: i64,
    pub(super) metadata: Arc<Metadata>,
    schema: SchemaRef,
    /// What writers have to know.
    writer_version: i32,
    files: Layered<Arc<Add>>,
    txns: Layered<i64>,
}

/// Commits that are read side by side where nobody knows how many there are.
const SIDE_BY_SIDE: u64 = 16;
/// Checkpoints may be cleaned up between being listed and being read.
const ATTEMPTS: usize = 3;

impl Snapshot {
    /// Folds `actions` (of a checkpoint, or of commit 0) into the first snapshot.
    pub(super) fn begin(path: &TablePath, version: u64, actions: Vec<Action>) -> Result<Self> {
        let metadata = actions.iter().find_map(|action| match action {
            Action::MetaData(metadata) => Some(Arc::new(metadata.clone())),
            _ => None,
        });
        let metadata = metadata.ok_or_else(|| Error::Corrupt {
            path: path.to_string(),
            reason: format!("version {version} has no metadata"),
        })?;
        let mut snapshot = Self {
            path: path.clone(),
            version,
            timestamp: 0,
            schema: schema_of(path, &metadata)?,
            writer_version: 0,
            metadata,
            files: Layered::default(),
            txns: Layered::default(),
        };
        snapshot.fold(actions)?;
        Ok(snapshot)
    }

    /// Folds the next commit in.
    pub(super) fn apply(&mut self, commit: Committed) -> Result<()> {
        debug_assert_eq!(commit.version, self.version + 1, "commits are folded one after the other");
        self.version = commit.version;
        self.fold(commit.actions)
    }

    fn fold(&mut self, actions: Vec<Action>) -> Result<()> {
        for action in actions {
            match action {
                Action::Add(add) => {
                    // A checkpoint does not say when its version was committed; its newest file does, nearly.
                    self.timestamp = self.timestamp.max(add.modification_time);
                    self.files.insert(add.path.clone(), Arc::new(add));
                }
                Action::Remove(remove) => self.files.remove(&remove.path),
                Action::Txn(txn) => {
                    self.txns.insert(txn.app_id, txn.version);
                }
                Action::MetaData(metadata) => {
                    self.schema = schema_of(&self.path, &metadata)?;
                    self.metadata = Arc::new(metadata);
                }
                Action::Protocol(protocol) => {
                    if protocol.min_reader_version > Protocol::OURS.min_reader_version {
                        return Err(Error::Corrupt {
                            path: self.path.to_string(),
                            reason: format!(
                                "another writer raised the reader version to {}; Starmere writes and reads version 1",
                                protocol.min_reader_version
                            ),
                        });
                    }
                    self.writer_version = protocol.min_writer_version;
                }
                Action::CommitInfo(info) => self.timestamp = info.timestamp,
            }
        }
        Ok(())
    }

    /// Whether the table is one that we may write.
    pub(super) fn check_writer(&self) -> Result<()> {
        let ours = Protocol::OURS.min_writer_version;
        if self.writer_version <= ours {
            return Ok(());
        }
        let reason = format!(
            "another writer raised the writer version to {}; Starmere writes version {ours}",
            self.writer_version
        );
        Err(Error::Corrupt { path: self.path.to_string(), reason })
    }

    /// Where the table is.
    pub fn path(&self) -> &TablePath {
        &self.path
    }

    /// What the table was called by whoever made it: a random number, the same for as long as the table is there.
    pub fn id(&self) -> &str {
        &self.metadata.id
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// When the version was committed, in milliseconds since 1970; where only a checkpoint was read, when its newest
    /// file was written.
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    /// All columns, those of the partitioning included.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns that are in the files' paths instead of in the files.
    pub fn partition_columns(&self) -> &[String] {
        &self.metadata.partition_columns
    }

    /// A setting that the table was made with.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.metadata.configuration.get(name).map(String::as_str)
    }

    /// The table's files, in order of path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Arc<Add>> {
        self.files.iter().map(|(_, add)| add)
    }

    /// A file of the table, by its path.
    pub fn file(&self, path: &str) -> Option<&Arc<Add>> {
        self.files.get(path)
    }

    /// How far `application` has come.
    pub fn txn(&self, application: &str) -> Option<i64> {
        self.txns.get(application).copied()
    }

    /// Every application's position.
    pub fn txns(&self) -> impl Iterator<Item = (&str, i64)> {
        self.txns.iter().map(|(application, &version)| (application.as_str(), version))
    }

    /// The number of nulls in a column, where every file tells.
    pub fn nulls(&self, column: &str) -> Option<u64> {
        self.files().map(|add| add.nulls(column)).sum()
    }

    /// The number of rows, where every file tells.
    pub fn rows(&self) -> Option<u64> {
        self.files().map(|add| add.rows()).sum()
    }
}

fn schema_of(path: &TablePath, metadata: &Metadata) -> Result<SchemaRef> {
    let corrupt = |reason| Error::Corrupt { path: path.to_string(), reason: format!("its schema: {reason}") };
    super::schema::from_delta(&metadata.schema_string).map_err(corrupt)
}

/// Loads the table at `version`, or at the newest one; `None` where there is no table, or no such version.
pub(super) async fn load(store: &Store, table: &TablePath, version: Option<u64>) -> Result<Option<Snapshot>> {
    for _ in 1..ATTEMPTS {
        match load_once(store, table, version).await {
            Err(Error::Missing { .. }) => {}
            loaded => return loaded,
        }
    }
    load_once(store, table, version).await
}

async fn load_once(store: &Store, table: &TablePath, version: Option<u64>) -> Result<Option<Snapshot>> {
    let hint = checkpoint::hint(store, table).await?.filter(|&hint| version.is_none_or(|version| hint <= version));
    // Listing begins just before the checkpoint's own commit.
    let after = hint.and_then(|hint| hint.checked_sub(1)).map(|before| table.commit(before));
    let mut listed = Listed::of(store, table, after.as_ref(), version).await?;
    if listed.base.is_none() && after.is_some() {
        // The hint points nowhere.
        listed = Listed::of(store, table, None, version).await?;
    }
    let Some(newest) = listed.newest else { return Ok(None) };
    let to = version.unwrap_or(newest);
    if to > newest && !archive::is_packed(store, table, to).await? {
        return Ok(None);
    }
    let from = match listed.base {
        Some(base) => base.checked_add(1),
        None => Some(0),
    };
    let from = from.filter(|&from| from <= to);
    if let Some(from) = from {
        listed.refuse_holes(store, table, from, to).await?;
    }
    let history = from.map(|from| archive::history(store, table, from, to));
    let mut history = std::pin::pin!(futures::stream::iter(history).flatten());
    let mut snapshot = match listed.base {
        Some(base) => Snapshot::begin(table, base, checkpoint::read(store, table, base).await?)?,
        None => match history.try_next().await? {
            Some(commit) => Snapshot::begin(table, 0, commit.actions)?,
            None => return Ok(None),
        },
    };
    while let Some(commit) = history.try_next().await? {
        snapshot.apply(commit)?;
    }
    Ok(Some(snapshot))
}

/// What a log has.
struct Listed {
    /// The newest checkpoint, of those that may be used.
    base: Option<u64>,
    /// In order.
    commits: Vec<u64>,
    /// The newest version that anything is there of.
    newest: Option<u64>,
}

impl Listed {
    /// Behind `after`; to be used up to `version`.
    async fn of(store: &Store, table: &TablePath, after: Option<&Path>, version: Option<u64>) -> Result<Self> {
        let objects = store.list(&table.log(), after).await?;
        let checkpoints = objects.iter().filter_map(|object| paths::checkpoint_version(&object.location));
        let mut commits: Vec<u64> =
            objects.iter().filter_map(|object| paths::commit_version(&object.location)).collect();
        commits.sort_unstable();
        let newest = checkpoints.clone().chain(commits.last().copied()).max();
        let base = checkpoints.filter(|&found| version.is_none_or(|version| found <= version)).max();
        Ok(Self { base, commits, newest })
    }

    /// Every commit from `from` to `to` must be here, or in an archive.
    async fn refuse_holes(&self, store: &Store, table: &TablePath, from: u64, to: u64) -> Result<()> {
        let mut expected = from;
        let start = self.commits.partition_point(|&commit| commit < from);
        for &found in self.commits[start..].iter().take_while(|&&commit| commit <= to) {
            while expected < found {
                // A folder that is listed while commits come may lack one and have the next. The log is asked first:
                // who packs a commit makes the archive before.
                if store.exists(&table.commit(expected)).await? {
                    expected += 1;
                    continue;
                }
                if !archive::is_packed(store, table, expected).await? {
                    let reason = format!("commit {expected} is missing, {found} is there");
                    return Err(Error::Corrupt { path: table.log().to_string(), reason });
                }
                expected = archive::last_of(expected).saturating_add(1);
            }
            expected = expected.max(found.saturating_add(1));
        }
        Ok(())
    }
}

/// Reads the commits after `snapshot`, up to the newest one.
pub(super) async fn advance(store: &Store, mut snapshot: Arc<Snapshot>) -> Result<Arc<Snapshot>> {
    let path = snapshot.path.clone();
    // Most often there is none.
    let mut width = 1;
    while let Some(from) = snapshot.version.checked_add(1) {
        let to = from.saturating_add(width - 1);
        let mut read =
            futures::stream::iter(from..=to).map(|version| read_commit(store, &path, version)).buffered(width as usize);
        while let Some(commit) = read.try_next().await? {
            match commit {
                Some(commit) => Arc::make_mut(&mut snapshot).apply(commit)?,
                None => return Ok(snapshot),
            }
        }
        width = (width * 2).min(SIDE_BY_SIDE);
    }
    Ok(snapshot)
}

/// Reads one commit; `None` where it does not exist.
pub(super) async fn read_commit(store: &Store, table: &TablePath, version: u64) -> Result<Option<Committed>> {
    let path = table.commit(version);
    let Some(text) = store.read(&path).await? else { return Ok(None) };
    let actions = actions::decode(path.as_ref(), &text)?;
    Ok(Some(Committed { version, actions }))
}
