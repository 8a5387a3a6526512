//! Commits of long ago: [`PACK`] of them in one object, word for word.
//!
//! A commit is an object of the log or an entry of an archive. Where there is an archive, the archive counts, whatever
//! the log has: upkeep writes the archive, reads it back, and only then deletes the commits from the log. So
//!
//! - readers of old commits look for the archive first, and for the log's object only where there is none;
//! - a writer that stalled, and whose version was made, packed and deleted by others meanwhile, creates an object that
//!   nobody had any more. Before it tells anybody, it looks for the archive of its version: the archive was there
//!   before the object was deleted, so the writer finds it, and has lost.
//!
//! ```text
//! commits v … v+PACK-1 ─► archive (put-if-absent) ─► read back, compare ─► delete the commits
//!                             │ crash: both are there, the archive counts      │ crash: the next clean-up goes on
//! ```
//!
//! An archive never changes. Its name follows from the versions in it, so nobody has to list archives.

use std::io::{self, Write};
use std::iter;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use super::{Committed, actions, snapshot};
use crate::paths::TablePath;
use crate::store::Store;
use crate::{Error, Result};

/// Commits of an archive. It says where a commit is, so it is the same for all warehouses, for good.
pub(crate) const PACK: u64 = if cfg!(test) { 20 } else { 1000 };
/// Objects that are read side by side.
const SIDE_BY_SIDE: usize = 16;
/// Archives that are read ahead.
const AHEAD: usize = 2;
/// Of zstd: commits are written once, and repeat each other much.
const LEVEL: i32 = 6;

/// Stands before a commit in an archive.
#[derive(Serialize, Deserialize)]
struct Heading {
    version: u64,
    /// Of the commit's text, which follows.
    bytes: usize,
}

/// The first version that shares an archive with `version`.
pub(crate) fn first_of(version: u64) -> u64 {
    version / PACK * PACK
}

/// The last one.
pub(crate) fn last_of(version: u64) -> u64 {
    first_of(version).saturating_add(PACK - 1)
}

/// Where the archive of `version` is, if there is one.
fn path_of(table: &TablePath, version: u64) -> Path {
    table.archive(first_of(version), last_of(version))
}

/// Whether the commit of `version` is in an archive.
pub(super) async fn is_packed(store: &Store, table: &TablePath, version: u64) -> Result<bool> {
    store.exists(&path_of(table, version)).await
}

/// The last version of the first archive that has one of the commits `from` to `to`, if there is any.
pub(super) async fn reaching(store: &Store, table: &TablePath, from: u64, to: u64) -> Result<Option<u64>> {
    for (from, _) in by_archive(from, to) {
        if is_packed(store, table, from).await? {
            return Ok(Some(last_of(from)));
        }
    }
    Ok(None)
}

/// The texts of the commits in the archive of `version`; none where there is no archive.
pub(crate) async fn texts(store: &Store, table: &TablePath, version: u64) -> Result<Option<Vec<(u64, Bytes)>>> {
    let path = path_of(table, version);
    let Some(packed) = store.read(&path).await? else { return Ok(None) };
    let corrupt = |reason: String| Error::Corrupt { path: path.to_string(), reason };
    let unpacked = tokio::task::spawn_blocking(move || unpacked(&packed)).await;
    unpacked.map_err(|error| corrupt(error.to_string()))?.map(Some).map_err(|error| corrupt(error.to_string()))
}

/// Makes the archive of these commits, all that share one, and reads it back: then the log may lose them.
pub(crate) async fn pack(store: &Store, table: &TablePath, commits: Vec<(u64, Bytes)>) -> Result<()> {
    let Some(first) = commits.first().map(|(version, _)| *version) else { return Ok(()) };
    let path = path_of(table, first);
    let corrupt = |reason: String| Error::Corrupt { path: path.to_string(), reason };
    let (bytes, commits) = tokio::task::spawn_blocking(move || (packed(&commits), commits))
        .await
        .map_err(|error| corrupt(error.to_string()))?;
    let bytes = bytes.map_err(|error| Error::Invalid { what: path.to_string(), reason: error.to_string() })?;
    // Whoever was first, the archive says the same.
    store.create(&path, bytes.into()).await?;
    match texts(store, table, first).await? {
        Some(found) if found == commits => Ok(()),
        Some(_) => Err(corrupt("it does not hold the commits of the log".to_owned())),
        None => Err(Error::Missing { object: path.to_string() }),
    }
}

fn packed(commits: &[(u64, Bytes)]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL)?;
    encoder.include_checksum(true)?;
    for (version, text) in commits {
        serde_json::to_writer(&mut encoder, &Heading { version: *version, bytes: text.len() })?;
        encoder.write_all(b"\n")?;
        encoder.write_all(text)?;
        if !text.ends_with(b"\n") {
            encoder.write_all(b"\n")?;
        }
    }
    encoder.finish()
}

fn unpacked(packed: &[u8]) -> io::Result<Vec<(u64, Bytes)>> {
    let all = Bytes::from(zstd::decode_all(packed)?);
    let mut commits = Vec::new();
    let mut at = 0;
    while at < all.len() {
        let line = all[at..].iter().position(|&byte| byte == b'\n').unwrap_or(all.len() - at);
        let Heading { version, bytes } = serde_json::from_slice(&all[at..at + line])?;
        let begin = at + line + 1;
        let end = begin.checked_add(bytes).filter(|&end| end <= all.len());
        let end = end.ok_or_else(|| io::Error::other(format!("the commit {version} is cut off")))?;
        let text = all.slice(begin..end);
        at = if text.ends_with(b"\n") { end } else { end + 1 };
        commits.push((version, text));
    }
    Ok(commits)
}

/// The versions `from` to `to`, by the archives that they are in, if they are in any.
fn by_archive(from: u64, to: u64) -> impl Iterator<Item = (u64, u64)> + Send {
    let mut next = Some(from);
    iter::from_fn(move || {
        let from = next.filter(|&from| from <= to)?;
        let end = last_of(from).min(to);
        next = end.checked_add(1);
        Some((from, end))
    })
}

/// The commits `from` to `to`, in order, wherever they are.
pub(super) fn history<'a>(
    store: &'a Store,
    table: &'a TablePath,
    from: u64,
    to: u64,
) -> impl Stream<Item = Result<Committed>> + Send + 'a {
    stream::iter(by_archive(from, to))
        .map(move |(from, to)| together(store, table, from, to))
        .buffered(AHEAD)
        .map_ok(|commits| stream::iter(commits.into_iter().map(Ok::<_, Error>)))
        .try_flatten()
}

/// The commits `from` to `to`, which share an archive if they are in one.
async fn together(store: &Store, table: &TablePath, from: u64, to: u64) -> Result<Vec<Committed>> {
    if let Some(found) = unarchived(store, table, from, to).await? {
        return Ok(found);
    }
    let mut read =
        stream::iter(from..=to).map(|version| snapshot::read_commit(store, table, version)).buffered(SIDE_BY_SIDE);
    let mut found = Vec::new();
    while let Some(commit) = read.try_next().await? {
        let Some(commit) = commit else { break };
        found.push(commit);
    }
    if found.len() as u64 == to - from + 1 {
        return Ok(found);
    }
    // Packed in the meantime, or lost.
    let missing = table.commit(from + found.len() as u64);
    unarchived(store, table, from, to).await?.ok_or_else(|| Error::Missing { object: missing.to_string() })
}

/// The commits `from` to `to` in their archive; none where there is no archive.
async fn unarchived(store: &Store, table: &TablePath, from: u64, to: u64) -> Result<Option<Vec<Committed>>> {
    let Some(texts) = texts(store, table, from).await? else { return Ok(None) };
    let path = path_of(table, from);
    let mut commits = Vec::with_capacity(texts.len());
    for (version, text) in texts.into_iter().filter(|(version, _)| (from..=to).contains(version)) {
        let actions = actions::decode(&format!("{path}, commit {version}"), &text)?;
        commits.push(Committed { version, actions });
    }
    let is_whole = commits.iter().map(|commit| commit.version).eq(from..=to);
    let reason = || format!("it does not have all commits from {from} to {to}");
    is_whole.then_some(Some(commits)).ok_or_else(|| Error::Corrupt { path: path.to_string(), reason: reason() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_survive_being_packed_word_for_word() {
        let texts = ["{\"a\":1}\n", "no newline", "", "\n", "several\nlines\n\n", "東京"];
        let commits: Vec<(u64, Bytes)> = (40..).zip(texts.map(Bytes::from)).collect();
        let packed = packed(&commits).unwrap();
        assert_eq!(unpacked(&packed).unwrap(), commits);
        for cut in 1..packed.len() {
            assert!(unpacked(&packed[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 1;
            if let Ok(found) = unpacked(&changed) {
                assert_eq!(found, commits, "changed at {at}");
            }
        }
    }

    #[test]
    fn versions_are_grouped_by_their_archives() {
        let groups = |from, to| by_archive(from, to).collect::<Vec<_>>();
        assert_eq!(groups(3, 3), [(3, 3)]);
        assert!(groups(5, 4).is_empty());
        assert_eq!(groups(18, 41), [(18, 19), (20, 39), (40, 41)]);
        assert_eq!(groups(u64::MAX, u64::MAX), [(u64::MAX, u64::MAX)]);
    }
}
