//! Hashes of files, remembered: a build asks every file of a table which new ids it may have.

use std::collections::HashMap;

use object_store::path::Path;

use super::Hashes;
use crate::metrics::CACHED_HASHES;

/// So many bytes are remembered, about: the hashes of some 40 million rows.
const MOST: usize = 128 << 20;
/// What an entry takes beside its hashes, about.
const ENTRY: usize = 256;

/// Hashes by file and columns; files never change. What nobody asks for any more makes room for what is new. Where all
/// files are more than there is room for, those stay that were there first, since all are asked one after the other.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    by_file: HashMap<String, Entry>,
    bytes: usize,
    /// Counts the questions.
    asked: u64,
    /// When old entries were looked for.
    swept: u64,
}

#[derive(Debug)]
struct Entry {
    /// None: the file says nothing.
    hashes: Option<Hashes>,
    asked: u64,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY + self.hashes.as_ref().map_or(0, Hashes::size)
    }
}

fn key(file: &Path, columns: &[&str]) -> String {
    format!("{file} {}", columns.join(" "))
}

impl Remembered {
    /// What the file says, where that is known.
    pub(super) fn get(&mut self, file: &Path, columns: &[&str]) -> Option<Option<Hashes>> {
        self.asked += 1;
        let entry = self.by_file.get_mut(&key(file, columns))?;
        entry.asked = self.asked;
        Some(entry.hashes.clone())
    }

    /// A file says this.
    pub(super) fn insert(&mut self, file: &Path, columns: &[&str], hashes: Option<&Hashes>) {
        let entry = Entry { hashes: hashes.map(Hashes::copy), asked: self.asked };
        let bytes = entry.bytes();
        if self.bytes + bytes > MOST {
            self.sweep();
        }
        if self.bytes + bytes > MOST {
            return;
        }
        self.bytes += bytes;
        if let Some(before) = self.by_file.insert(key(file, columns), entry) {
            self.bytes -= before.bytes();
        }
        CACHED_HASHES.set(self.bytes);
    }

    /// Forgets what nobody has asked for while all others could have been asked for several times.
    fn sweep(&mut self) {
        let all = self.by_file.len() as u64;
        if self.asked - self.swept <= all {
            return;
        }
        self.swept = self.asked;
        let since = self.asked.saturating_sub(4 * all);
        self.by_file.retain(|_, entry| entry.asked >= since);
        self.bytes = self.by_file.values().map(Entry::bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::hashes;

    fn some(rows: u64) -> Hashes {
        let all: Vec<u64> = (0..rows).map(|row| row << 40).collect();
        let (bits, bytes) = hashes::encode(&all);
        Hashes::new(bits, bytes.into()).unwrap()
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_asked_for_stays() {
        let (large, small) = (some(1 << 20), some(10));
        let mut remembered = Remembered::default();
        let file = |number: u32| Path::from(format!("{number}.parquet"));
        for number in 0..300_u32 {
            for live in number.saturating_sub(8)..number {
                assert!(remembered.get(&file(live), &["id"]).is_some(), "{live} before {number}");
            }
            assert!(remembered.get(&file(number), &["id"]).is_none());
            remembered.insert(&file(number), &["id"], Some(&large));
            assert!(remembered.bytes <= MOST);
        }
        assert!(remembered.get(&file(299), &["other"]).is_none());
        remembered.insert(&file(299), &["other"], None);
        assert!(remembered.get(&file(299), &["other"]).unwrap().is_none());
        assert!(remembered.get(&file(299), &["id"]).unwrap().unwrap().may_hold(1 << 40));
        let counted = remembered.bytes;
        remembered.insert(&file(299), &["id"], Some(&small));
        assert!(remembered.bytes < counted);
    }
}
