//! Which version of a member held when: the look-up that facts are keyed by.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use starmere_lake::delta::{Add, Snapshot, Table, Wanted};
use starmere_lake::events::timestamp;
use starmere_lake::paths;

use super::END;
use crate::Result;
use crate::derived::differing;
use crate::keys::UNKNOWN;

/// Durable keys are hashes already.
#[derive(Clone, Debug, Default)]
pub struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_i64(&mut self, key: i64) {
        // Keys are cut to 62 bits; the table wants the high ones set too.
        self.0 = (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// By durable key.
pub(super) type ByKey<V> = HashMap<i64, V, BuildHasherDefault<Same>>;

/// Members, by durable key.
pub type Members = HashSet<i64, BuildHasherDefault<Same>>;

/// Tells of most durable keys that they are not among some, without looking them up: a bit stands for the last digits of each.
pub(super) struct Sieve {
    words: Vec<u64>,
}

impl Sieve {
    /// Bits for each key: one in so many of the others gets through.
    const BITS: usize = 16;

    pub(super) fn of<'a>(keys: impl ExactSizeIterator<Item = &'a i64>) -> Self {
        let bits = (keys.len() * Self::BITS).next_power_of_two().max(u64::BITS as usize);
        let mut words = vec![0; bits / u64::BITS as usize];
        for &key in keys {
            let (word, bit) = Self::place(words.len(), key);
            words[word] |= bit;
        }
        Self { words }
    }

    /// If not, the key is none of them.
    pub(super) fn may_have(&self, key: i64) -> bool {
        let (word, bit) = Self::place(self.words.len(), key);
        self.words[word] & bit != 0
    }

    /// The word and the bit of a key; there are as many words as a power of two.
    fn place(words: usize, key: i64) -> (usize, u64) {
        let digits = key as u64;
        ((digits / u64::from(u64::BITS)) as usize & (words - 1), 1 << (digits % u64::from(u64::BITS)))
    }
}

/// Asks a table for the rows of these members.
pub(crate) fn those(members: &Arc<Members>) -> Wanted {
    let (members, sieve) = (members.clone(), Sieve::of(members.iter()));
    Arc::new(move |durable| sieve.may_have(durable) && members.contains(&durable))
}

/// The versions of all members: from when, and the key.
#[derive(Clone, Debug, Default)]
pub struct Index {
    members: ByKey<(u32, u32)>,
    versions: Vec<(i64, i64)>,
}

/// Members whose versions changed, and when: half-open spans of `occurred_at`.
#[derive(Clone, Debug, Default)]
pub struct Affected {
    spans: ByKey<(i64, i64)>,
}

impl Affected {
    /// Nobody changed.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Whose versions changed.
    pub fn members(&self) -> impl Iterator<Item = i64> {
        self.spans.keys().copied()
    }

    /// Whether a fact about `durable` at this time may have another key now.
    pub fn touches(&self, durable: i64, occurred_at: i64) -> bool {
        self.spans.get(&durable).is_some_and(|&(from, to)| from <= occurred_at && occurred_at < to)
    }

    /// From the first to the last change, over all members.
    pub fn span(&self) -> (i64, i64) {
        let all = self.spans.values();
        all.fold((i64::MAX, i64::MIN), |(from, to), &(first, last)| (from.min(first), to.max(last)))
    }
}

fn columns(name: &str) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(format!("{name}_key"), DataType::Int64, false),
        Field::new(format!("{name}_durable_key"), DataType::Int64, false),
        Field::new("valid_from", timestamp(), false),
        Field::new("valid_to", timestamp(), false),
    ]))
}

/// One version: member, from, to, key.
type Row = (i64, i64, i64, i64);

async fn read(table: &Table, add: &Add, name: &str, only: Option<&Wanted>) -> Result<Vec<Row>> {
    let columns = columns(name);
    let batch = match only {
        None => table.read(add, &columns).await?,
        Some(members) => table.read_where(add, &columns, columns.field(1).name(), members).await?,
    };
    Ok(rows(&batch))
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let long = |index: usize| batch.column(index).as_primitive::<Int64Type>().values();
    let time = |index: usize| batch.column(index).as_primitive::<TimestampMicrosecondType>().values();
    let (key, durable, from, to) = (long(0), long(1), time(2), time(3));
    (0..batch.num_rows()).map(|row| (durable[row], from[row], to[row], key[row])).collect()
}

/// The files of a dimension, those together that may have the same members.
fn by_bucket(snapshot: &Snapshot) -> Vec<Vec<&Arc<Add>>> {
    let mut buckets: BTreeMap<Option<u32>, Vec<&Arc<Add>>> = BTreeMap::new();
    for add in snapshot.files() {
        buckets.entry(paths::file_group(&add.path)).or_default().push(add);
    }
    match buckets.contains_key(&None) {
        true => vec![buckets.into_values().flatten().collect()],
        false => buckets.into_values().collect(),
    }
}

impl Index {
    /// Loads the index of the dimension `name` at a version of its table: of all members, or of some only.
    pub async fn load(table: &Table, snapshot: &Snapshot, name: &str, only: Option<&Arc<Members>>) -> Result<Self> {
        let only = only.map(those);
        let mut index = Self::default();
        if only.is_none() {
            let rows = snapshot.rows().and_then(|rows| usize::try_from(rows).ok());
            index.versions.reserve_exact(rows.unwrap_or_default());
        }
        for files in by_bucket(snapshot) {
            let mut rows: Vec<Row> = Vec::new();
            for add in files {
                rows.extend(read(table, add, name, only.as_ref()).await?);
            }
            rows.sort_unstable();
            for member in rows.chunk_by(|a, b| a.0 == b.0).filter(|member| member[0].0 != UNKNOWN) {
                index.members.insert(member[0].0, (index.versions.len() as u32, member.len() as u32));
                index.versions.extend(member.iter().map(|&(_, from, _, key)| (from, key)));
            }
        }
        Ok(index)
    }

    /// The memory that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        // Of a hash table, each place has a byte beside it.
        let place = size_of::<(i64, (u32, u32))>() + 1;
        self.members.capacity() * place + self.versions.capacity() * size_of::<(i64, i64)>()
    }

    /// An index of nobody, with room for so many versions.
    #[cfg(test)]
    pub(crate) fn with_capacity(versions: usize) -> Self {
        Self { versions: Vec::with_capacity(versions), ..Self::default() }
    }

    /// The key of the version of `durable` that held at `occurred_at`; 0 where there is no such member.
    pub fn key(&self, durable: i64, occurred_at: i64) -> i64 {
        let Some(&(start, count)) = self.members.get(&durable) else { return UNKNOWN };
        let versions = &self.versions[start as usize..(start + count) as usize];
        // Before the beginning of time there is still the first version.
        let after = versions.partition_point(|&(from, _)| from <= occurred_at).max(1);
        versions[after - 1].1
    }

    /// The versions of `durable` after its first: from when, and the key.
    pub fn versions(&self, durable: i64) -> impl Iterator<Item = (i64, i64)> {
        let versions = self.members.get(&durable).map(|&(start, count)| start as usize..(start + count) as usize);
        versions.into_iter().flat_map(|range| self.versions[range].iter().skip(1).copied())
    }

    /// The members whose versions differ between two versions of the table, and when: by the files that came and went.
    /// Where it is known that all of them are among `only`, no others are looked at.
    ///
    /// A version is known by its beginning and its key. That another one now ends it is no difference of its own: the
    /// other one is, from when it begins.
    pub async fn affected(
        table: &Table,
        before: &Snapshot,
        after: &Snapshot,
        name: &str,
        only: Option<&Arc<Members>>,
    ) -> Result<Affected> {
        let without = |of: &Snapshot, other: &Snapshot| -> Vec<Arc<Add>> {
            of.files().filter(|add| other.file(&add.path).is_none()).cloned().collect()
        };
        let columns = columns(name);
        let known_by: Vec<&str> = columns.fields()[..3].iter().map(|field| field.name().as_str()).collect();
        // Where only the ends of a file's versions are others, nobody's version is.
        let (came, went) = differing(without(after, before), without(before, after), &known_by);
        let mut counts: HashMap<(i64, i64, i64), (i32, i64)> = HashMap::new();
        let only = only.map(those);
        for (add, sign) in went.into_iter().map(|add| (add, -1)).chain(came.into_iter().map(|add| (add, 1))) {
            for row in read(table, &add, name, only.as_ref()).await? {
                let (durable, from, to, key) = row;
                let (count, end) = counts.entry((durable, from, key)).or_insert((0, to));
                (*count, *end) = (*count + sign, to.max(*end));
            }
        }
        let mut affected = Affected::default();
        for ((durable, from, _), (_, to)) in counts.into_iter().filter(|(_, (count, _))| *count != 0) {
            // The last version has no end.
            let to = if to == END { i64::MAX } else { to };
            let from = if from == super::BEGINNING { i64::MIN } else { from };
            let span = affected.spans.entry(durable).or_insert((from, to));
            *span = (span.0.min(from), span.1.max(to));
        }
        Ok(affected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sieve_keeps_all_and_lets_few_others_through() {
        for count in [0, 1, 3, 64, 5_000] {
            let key = |number: i64| number.wrapping_mul(0x5851_F42D_4C95_7F2D) & (i64::MAX >> 1);
            let keys: Vec<i64> = (0..count).map(key).chain([UNKNOWN, i64::MAX]).collect();
            let sieve = Sieve::of(keys.iter());
            assert!(keys.iter().all(|&key| sieve.may_have(key)), "{count}");
            let through = (count..count + 10_000).filter(|&number| sieve.may_have(key(number))).count();
            assert!(through < 1_500, "{count}: {through}");
        }
    }
}
