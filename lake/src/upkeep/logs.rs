//! Keeping logs short: commits of long ago are packed, and few checkpoints are left.
//!
//! ```text
//!  commits   0 ……… 999 │ 1000 ……… 1999 │ 2000 … 2431          2431 is the newest
//!            archive   │ archive       │ the log
//!  checkpoints               800       1600   2000   2200  …   2350  2400
//!            the older, the fewer: a sixteenth of their age apart; the newest two always stay
//! ```
//!
//! So the log has a bounded number of objects, and an earlier version can still be read: from the checkpoint before it,
//! and from commits, packed or not. Commits are packed when they are an hour old and older than two checkpoints:
//! whoever reads commit by commit is beyond them. A writer that is not finds out ([`crate::delta::archive`]).

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::ObjectMeta;

use super::{Cleaned, Keep};
use crate::delta::{CHECKPOINT_EVERY, archive, checkpoint};
use crate::paths::{self, TablePath};
use crate::store::Store;
use crate::{Error, Result};

/// Checkpoints are so much of their age apart.
const SHARE: u64 = 16;
/// Commits that are larger together are left: they are few and large already.
const MOST_BYTES: u64 = 64 << 20;
/// Commits that are read side by side.
const SIDE_BY_SIDE: usize = 16;

/// An object of a log.
#[derive(Clone, Copy, Debug, Default)]
struct Object {
    /// In milliseconds since 1970.
    modified: i64,
    bytes: u64,
}

/// A log, as it is listed: by version.
#[derive(Debug, Default)]
struct Log {
    commits: BTreeMap<u64, Object>,
    checkpoints: BTreeMap<u64, Object>,
    /// By their first versions.
    archives: BTreeSet<u64>,
}

/// What to do with a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The first versions of archives that are to be made.
    pack: Vec<u64>,
    /// Commits that are in an archive and in the log.
    doubled: Vec<u64>,
    /// Checkpoints that nobody needs.
    checkpoints: Vec<u64>,
}

/// How far apart checkpoints are, so far behind the newest one.
fn step(distance: u64) -> u64 {
    match distance / SHARE / CHECKPOINT_EVERY {
        0 => CHECKPOINT_EVERY,
        steps => CHECKPOINT_EVERY << steps.ilog2(),
    }
}

/// Decides what to do with objects that are as old as `since`. Pure.
fn decide(log: &Log, since: i64) -> Plan {
    let is_old = |object: &Object| object.modified <= since;
    let is_packed = |version: u64| log.archives.contains(&archive::first_of(version));
    let mut plan = Plan { doubled: log.commits.keys().copied().filter(|&v| is_packed(v)).collect(), ..Plan::default() };
    let mut newest = log.checkpoints.keys().rev().copied();
    let (Some(newest), Some(second)) = (newest.next(), newest.next()) else { return plan };
    let is_superfluous = |(&version, object): (&u64, &Object)| {
        let is_kept = version >= second || version.is_multiple_of(step(newest - version)) || !is_old(object);
        (!is_kept).then_some(version)
    };
    plan.checkpoints = log.checkpoints.iter().filter_map(is_superfluous).collect();
    let firsts: BTreeSet<u64> = log.commits.keys().map(|&version| archive::first_of(version)).collect();
    for first in firsts.into_iter().filter(|&first| !is_packed(first) && archive::last_of(first) <= second) {
        let (mut count, mut bytes, mut all_old) = (0, 0, true);
        for (_, object) in log.commits.range(first..=archive::last_of(first)) {
            count += 1;
            bytes += object.bytes;
            all_old &= is_old(object);
        }
        if count == archive::PACK && bytes <= MOST_BYTES && all_old {
            plan.pack.push(first);
        }
    }
    plan
}

impl Log {
    fn of(table: &TablePath, objects: &[ObjectMeta]) -> Self {
        let mut log = Self::default();
        for meta in objects {
            let object = Object { modified: meta.last_modified.timestamp_millis(), bytes: meta.size };
            if let Some(first) = paths::archive_version(&meta.location) {
                log.archives.insert(first);
            } else if !table.is_log(&meta.location) {
                // Data files, and what is beside them.
            } else if let Some(version) = paths::commit_version(&meta.location) {
                log.commits.insert(version, object);
            } else if let Some(version) = paths::checkpoint_version(&meta.location) {
                log.checkpoints.insert(version, object);
            }
        }
        log
    }
}

/// Packs the commits of a table and deletes its checkpoints as far as they are old; with `dry`, only tells.
pub(super) async fn tidy(
    store: &Store,
    table: &TablePath,
    objects: &[ObjectMeta],
    keep: &Keep,
    dry: bool,
    cleaned: &mut Cleaned,
) -> Result<()> {
    let log = Log::of(table, objects);
    let plan = decide(&log, keep.logs_since);
    let mut newest = log.checkpoints.keys().rev().copied();
    if !dry && let (Some(newest), Some(second)) = (newest.next(), newest.next()) {
        checkpoint::announce_again(store, table, second, newest).await?;
    }
    for first in plan.pack {
        if !dry && !packed(store, table, first).await? {
            continue;
        }
        let of_pack = log.commits.range(first..=archive::last_of(first));
        cleaned.packed += archive::PACK as usize;
        cleaned.files += archive::PACK as usize;
        cleaned.bytes += of_pack.map(|(_, object)| object.bytes).sum::<u64>();
    }
    for doubled in plan.doubled.chunk_by(|a, b| archive::first_of(*a) == archive::first_of(*b)) {
        if !dry {
            delete_packed(store, table, doubled).await?;
        }
        cleaned.files += doubled.len();
        cleaned.bytes += doubled.iter().map(|version| log.commits[version].bytes).sum::<u64>();
    }
    cleaned.files += plan.checkpoints.len();
    cleaned.bytes += plan.checkpoints.iter().map(|version| log.checkpoints[version].bytes).sum::<u64>();
    if !dry {
        store.delete(plan.checkpoints.iter().map(|&version| table.checkpoint(version))).await?;
    }
    Ok(())
}

/// Packs the commits from `first` on, and takes them out of the log; whether they were all there.
async fn packed(store: &Store, table: &TablePath, first: u64) -> Result<bool> {
    let versions = first..=archive::last_of(first);
    let read = |version| async move {
        let text = store.read(&table.commit(version)).await?;
        Ok::<_, Error>(text.map(|text| (version, text)))
    };
    let texts: Vec<_> = stream::iter(versions.clone()).map(read).buffered(SIDE_BY_SIDE).try_collect().await?;
    // Another clean-up may be packing them as well.
    let Some(commits) = texts.into_iter().collect::<Option<Vec<_>>>() else { return Ok(false) };
    archive::pack(store, table, commits).await?;
    store.delete(versions.map(|version| table.commit(version))).await?;
    Ok(true)
}

/// Takes commits out of the log that share an archive and are in it.
async fn delete_packed(store: &Store, table: &TablePath, versions: &[u64]) -> Result<()> {
    let Some(&first) = versions.first() else { return Ok(()) };
    let packed = archive::texts(store, table, first).await?.unwrap_or_default();
    let there: BTreeSet<u64> = packed.into_iter().map(|(version, _)| version).collect();
    if let Some(missing) = versions.iter().find(|version| !there.contains(*version)) {
        let path = table.archive(archive::first_of(*missing), archive::last_of(*missing)).to_string();
        return Err(Error::Corrupt { path, reason: format!("commit {missing} is not in it") });
    }
    store.delete(versions.iter().map(|&version| table.commit(version))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(newest: u64) -> Log {
        let object = |modified: u64| Object { modified: modified as i64, bytes: 10 };
        let commits = (0..=newest).map(|version| (version, object(version))).collect();
        let checkpoints =
            (1..=newest / CHECKPOINT_EVERY).map(|n| (n * CHECKPOINT_EVERY, object(n * CHECKPOINT_EVERY))).collect();
        Log { commits, checkpoints, archives: BTreeSet::new() }
    }

    #[test]
    fn commits_are_packed_when_they_are_old_and_two_checkpoints_back() {
        let nothing: Vec<u64> = Vec::new();
        assert_eq!(decide(&log(99), i64::MAX).pack, nothing, "there is one checkpoint");
        let before_second = (0..50 / archive::PACK).map(|n| n * archive::PACK).collect::<Vec<_>>();
        assert_eq!(decide(&log(149), i64::MAX).pack, before_second);
        assert_eq!(decide(&log(149), archive::PACK as i64 - 1).pack, [0], "others are young");
        assert_eq!(decide(&log(149), 0).pack, nothing);
        let mut holed = log(149);
        holed.commits.remove(&3);
        assert_eq!(decide(&holed, i64::MAX).pack, before_second[1..], "a commit is missing");
        let mut large = log(149);
        large.commits.insert(5, Object { modified: 0, bytes: MOST_BYTES });
        assert_eq!(decide(&large, i64::MAX).pack, before_second[1..], "they are large");
        let mut doubled = log(149);
        doubled.archives.insert(0);
        let plan = decide(&doubled, 0);
        assert_eq!(plan.doubled, (0..archive::PACK).collect::<Vec<_>>(), "however young they are");
    }

    #[test]
    fn few_checkpoints_are_left_and_none_comes_back() {
        let mut checkpoints: BTreeMap<u64, Object> = BTreeMap::new();
        for number in 1..=20_000 {
            checkpoints.insert(number * CHECKPOINT_EVERY, Object::default());
            let log = Log { checkpoints, ..Log::default() };
            let plan = decide(&log, 0);
            checkpoints = log.checkpoints;
            plan.checkpoints.iter().for_each(|version| _ = checkpoints.remove(version));
        }
        let newest = 20_000 * CHECKPOINT_EVERY;
        assert!(checkpoints.contains_key(&newest) && checkpoints.contains_key(&(newest - CHECKPOINT_EVERY)));
        assert!(checkpoints.len() < 400, "{} checkpoints", checkpoints.len());
        // Whatever version is read, the checkpoint before it is not far.
        let mut before = 0;
        for &version in checkpoints.keys() {
            let allowed = ((newest - before) / 8).max(4 * CHECKPOINT_EVERY);
            assert!(before == 0 || version - before <= allowed, "from {before} to {version}");
            before = version;
        }
    }
}
