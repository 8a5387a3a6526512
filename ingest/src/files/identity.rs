//! Which file is which: the pure decision.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use starmere_lake::landing::SourcePartition;

/// How many bytes of the beginning narrow the candidates down.
pub(super) const HEAD: u64 = 1024;

/// What is known of a file that has landed, in part or whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Where it was last seen, relative to the source's root.
    pub path: String,
    /// Bytes landed, unpacked.
    pub length: u64,
    /// Digest of those bytes.
    pub digest: String,
    /// Digest of the first [`HEAD`] of them, or of all where there are fewer.
    pub head: String,
    /// The position behind what landed, where that is not [`Self::length`]: files of Parquet and Avro count rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<i64>,
    /// Of a file that is known by all of its bytes, not all rows have landed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// Size, time of change and inode of the file when all of it had landed: while these stay, nobody reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

impl Mark {
    /// How many bytes [`Self::head`] covers.
    pub(super) fn head_length(&self) -> u64 {
        self.length.min(HEAD)
    }
}

/// What the file system says of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub size: u64,
    pub modified_ns: i64,
    pub inode: u64,
}

/// A known file: its partition in the table, and its mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub partition: SourcePartition,
    pub mark: Mark,
}

impl Known {
    /// A partition with what its commits say of it; none where that is not what files have.
    pub(super) fn of(partition: SourcePartition, mark: serde_json::Value) -> Option<Self> {
        Some(Self { partition, mark: serde_json::from_value(mark).ok()? })
    }
}

/// A file as it was found, and which known files it begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub path: String,
    /// Known files whose landed bytes are this file's beginning, by index; and whether nothing but them is in it.
    pub begins_with: Vec<(usize, bool)>,
    /// The file is as it was when all of it had landed, by its known index; then nobody read it.
    pub untouched: Option<usize>,
}

/// What to do with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// All of it has landed.
    Unchanged { known: usize },
    /// Land what comes after the landed bytes of this known file.
    Continue { known: usize },
    /// Its content has landed from another file that is still there; as this incarnation of its path it is known from
    /// now on.
    Copy { known: usize, incarnation: u32 },
    /// Its content lands from this other file of the same run.
    Twin { of: usize },
    /// Land all of it, as this incarnation of its path.
    New { incarnation: u32 },
    /// Another content was landed from this path, and is nowhere to be found now.
    Replaced { known: usize },
}

/// Decides about all files of a source at once, since a file may be where another was.
pub fn decide(known: &[Known], observed: &[Observed]) -> Vec<Decision> {
    let mut decisions: Vec<Option<Decision>> = vec![None; observed.len()];
    let mut claimed = vec![false; known.len()];
    let at = |path: &str| (0..known.len()).rev().find(|&index| known[index].mark.path == path);

    // Files that are where they were.
    for (file, decision) in observed.iter().zip(&mut decisions) {
        if let Some(index) = file.untouched {
            (*decision, claimed[index]) = (Some(Decision::Unchanged { known: index }), true);
        } else if let Some(index) = at(&file.path)
            && let Some(&(_, whole)) = file.begins_with.iter().find(|&&(candidate, _)| candidate == index)
        {
            claimed[index] = true;
            let whole = whole && !known[index].mark.is_partial;
            *decision =
                Some(if whole { Decision::Unchanged { known: index } } else { Decision::Continue { known: index } });
        }
    }
    // Files that are where another was, or that nobody saw before: the longest match that is free is theirs.
    for (file, decision) in observed.iter().zip(&mut decisions).filter(|(_, decision)| decision.is_none()) {
        let longest = |free: bool| {
            let candidates =
                file.begins_with.iter().filter(|&&(index, whole)| claimed[index] != free && (free || whole));
            candidates.max_by_key(|&&(index, _)| known[index].mark.length).copied()
        };
        if let Some((index, _)) = longest(true) {
            claimed[index] = true;
            *decision = Some(Decision::Continue { known: index });
        } else if let Some((index, _)) = longest(false) {
            *decision = Some(Decision::Copy { known: index, incarnation: next_incarnation(known, &file.path) });
        }
    }
    // What is left is new; but where a path's former content is nowhere, not in a copy either, it was replaced.
    let claimed_contents: HashSet<(u64, &str)> = known
        .iter()
        .zip(&claimed)
        .filter(|&(_, &claimed)| claimed)
        .map(|(file, _)| (file.mark.length, file.mark.digest.as_str()))
        .collect();
    let is_nowhere = |mark: &Mark| !claimed_contents.contains(&(mark.length, mark.digest.as_str()));
    observed
        .iter()
        .zip(decisions)
        .map(|(file, decision)| {
            decision.unwrap_or_else(|| match at(&file.path) {
                Some(index) if is_nowhere(&known[index].mark) => Decision::Replaced { known: index },
                _ => Decision::New { incarnation: next_incarnation(known, &file.path) },
            })
        })
        .collect()
}

/// Of files with one content that would land in the same run, the first lands and the others are copies, as they
/// would be if they came later. `contents` tells what is equal, where a whole line is in it.
pub fn find_twins(decisions: &mut [Decision], contents: &[Option<String>]) {
    let mut first: HashMap<&str, usize> = HashMap::new();
    // A file that goes on is there already.
    for new in [false, true] {
        for (place, (decision, content)) in decisions.iter_mut().zip(contents).enumerate() {
            let Some(content) = content else { continue };
            if matches!(decision, Decision::New { .. }) != new {
                continue;
            }
            match first.entry(content) {
                Entry::Occupied(other) if new => *decision = Decision::Twin { of: *other.get() },
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => {
                    free.insert(place);
                }
            }
        }
    }
}

/// The incarnation after the last of a topic that is named for `path`.
fn next_incarnation(known: &[Known], path: &str) -> u32 {
    let used = known.iter().filter(|file| file.partition.topic == path).map(|file| file.partition.incarnation + 1);
    used.max().unwrap_or(0)
}
