//! How many events rows are, before and after they are read anew: rows with one id are copies of one event.
//!
//! What is noted of a row is hashes: of its id, of the event that it was, of what it says. Those of all rows are sorted; what
//! does not fit into memory, on the disk:
//!
//! ```text
//! note ─► entries ─► (full) sorted ─► run, a file without a name ─┐
//!                                     run                         ├─► all in order ─► one id after the other
//!            rest, sorted ────────────────────────────────────────┘
//! ```

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, IntoInnerError, Seek, Write};

/// The id, the event that the row was, what it says, the file that the row is in.
type Entry = [u64; 4];

/// So many runs become one.
const RUNS: usize = 64;
/// So much of a run is read at once.
const PIECE: usize = 1 << 15;
/// Of rows with one id, so many different contents are told apart; beyond, each counts as another one.
const CONTENTS: usize = 1 << 16;

/// Hashes of rows.
#[derive(Debug)]
pub(crate) struct Identities {
    before: Sorted,
    after: Sorted,
    /// Rows without an id of before.
    new: u64,
}

/// What the ids come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Events, each once.
    pub(crate) before: u64,
    pub(crate) after: u64,
    /// Events of before that become copies of another one.
    pub(crate) copies: u64,
    /// Of them, those that say something else.
    pub(crate) swallowed: u64,
}

impl Identities {
    /// Takes about so much memory.
    pub(crate) fn within(bytes: usize) -> Self {
        Self { before: Sorted::within(bytes / 2), after: Sorted::within(bytes / 2), new: 0 }
    }

    /// Notes a row of a file: its ids before and after, where it is an event, and what it says.
    pub(crate) fn note(
        &mut self,
        before: Option<&str>,
        after: Option<&str>,
        content: u64,
        file: u64,
    ) -> io::Result<()> {
        let before = before.map(|id| xxhash_rust::xxh3::xxh3_64(id.as_bytes()));
        if let Some(before) = before {
            self.before.push([before, 0, 0, file])?;
        }
        let Some(after) = after else { return Ok(()) };
        let was = before.unwrap_or_else(|| {
            self.new += 1;
            xxhash_rust::xxh3::xxh3_64_with_seed(&self.new.to_le_bytes(), 1)
        });
        self.after.push([xxhash_rust::xxh3::xxh3_64(after.as_bytes()), was, content, file])
    }

    /// What the rows of these files come to.
    pub(crate) fn tell(&mut self, is_there: impl Fn(u64) -> bool) -> io::Result<Told> {
        let (mut told, mut last) = (Told::default(), None);
        self.before.each(|entry| {
            if is_there(entry[3]) && last.replace(entry[0]) != Some(entry[0]) {
                told.before += 1;
            }
            Ok(())
        })?;
        let mut open: Option<Event> = None;
        self.after.each(|entry| {
            if !is_there(entry[3]) {
                return Ok(());
            }
            match open.as_mut().filter(|event| event.id == entry[0]) {
                Some(event) => event.add(entry),
                None => {
                    if let Some(event) = open.replace(Event::of(entry)) {
                        event.end(&mut told);
                    }
                }
            }
            Ok(())
        })?;
        if let Some(event) = open {
            event.end(&mut told);
        }
        Ok(told)
    }
}

/// Rows with one id, in order.
struct Event {
    id: u64,
    /// The event of before that was seen last, and how many there were.
    last: u64,
    were: u64,
    /// What the first row of the first one says; what the first rows of others say, which differs.
    first: u64,
    contents: HashSet<u64>,
    differ: u64,
}

impl Event {
    fn of(&[id, was, content, _]: &Entry) -> Self {
        Self { id, last: was, were: 1, first: content, contents: HashSet::new(), differ: 0 }
    }

    fn add(&mut self, &[_, was, content, _]: &Entry) {
        if was == self.last {
            return;
        }
        (self.last, self.were) = (was, self.were + 1);
        let is_other = match self.contents.len() < CONTENTS {
            _ if content == self.first => false,
            true => self.contents.insert(content),
            false => !self.contents.contains(&content),
        };
        self.differ += u64::from(is_other);
    }

    fn end(&self, told: &mut Told) {
        told.after += 1;
        told.copies += self.were - 1;
        told.swallowed += self.differ;
    }
}

/// Entries in order.
#[derive(Debug)]
struct Sorted {
    most: usize,
    entries: Vec<Entry>,
    runs: Vec<File>,
}

impl Sorted {
    fn within(bytes: usize) -> Self {
        // A list that grows takes twice its length for a moment.
        Self { most: (bytes / 2 / size_of::<Entry>()).max(1), entries: Vec::new(), runs: Vec::new() }
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        self.entries.push(entry);
        if self.entries.len() < self.most {
            return Ok(());
        }
        self.entries.sort_unstable();
        let mut run = BufWriter::new(tempfile::tempfile()?);
        self.entries.iter().try_for_each(|entry| write(&mut run, entry))?;
        self.entries.clear();
        self.runs.push(run.into_inner().map_err(IntoInnerError::into_error)?);
        if self.runs.len() < RUNS {
            return Ok(());
        }
        let mut run = BufWriter::new(tempfile::tempfile()?);
        self.each(|entry| write(&mut run, entry))?;
        self.runs = vec![run.into_inner().map_err(IntoInnerError::into_error)?];
        Ok(())
    }

    /// Gives all entries, in order.
    fn each(&mut self, mut to: impl FnMut(&Entry) -> io::Result<()>) -> io::Result<()> {
        self.entries.sort_unstable();
        for run in &mut self.runs {
            run.rewind()?;
        }
        let mut runs: Vec<_> = self.runs.iter().map(|run| BufReader::with_capacity(PIECE, run)).collect();
        let mut rest = self.entries.iter().copied();
        // The next entry of each; that of the rest comes after those of the runs.
        let mut next = BinaryHeap::new();
        for number in 0..=runs.len() {
            let first = match runs.get_mut(number) {
                Some(run) => read(run)?,
                None => rest.next(),
            };
            next.extend(first.map(|entry| Reverse((entry, number))));
        }
        while let Some(Reverse((entry, number))) = next.pop() {
            to(&entry)?;
            let after = match runs.get_mut(number) {
                Some(run) => read(run)?,
                None => rest.next(),
            };
            next.extend(after.map(|entry| Reverse((entry, number))));
        }
        Ok(())
    }
}

fn write(into: &mut impl Write, entry: &Entry) -> io::Result<()> {
    entry.iter().try_for_each(|value| into.write_all(&value.to_le_bytes()))
}

fn read(from: &mut impl BufRead) -> io::Result<Option<Entry>> {
    if from.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut entry = Entry::default();
    for value in &mut entry {
        let mut bytes = [0; size_of::<u64>()];
        from.read_exact(&mut bytes)?;
        *value = u64::from_le_bytes(bytes);
    }
    Ok(Some(entry))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use fastrand::Rng;

    use super::*;

    type Row<'a> = (Option<&'a str>, Option<&'a str>, u64, u64);

    fn told(bytes: usize, rows: &[Row<'_>]) -> Told {
        let mut identities = Identities::within(bytes);
        for &(before, after, content, file) in rows {
            identities.note(before, after, content, file).unwrap();
        }
        identities.tell(|file| file < 9).unwrap()
    }

    #[test]
    fn events_that_become_copies_of_another_are_counted() {
        let of = |before, after, copies, swallowed| Told { before, after, copies, swallowed };
        let (a, b, x, y) = (Some("a"), Some("b"), Some("x"), Some("y"));
        assert_eq!(told(1 << 20, &[]), Told::default());
        assert_eq!(told(1 << 20, &[(a, x, 1, 0), (a, y, 2, 0)]), of(1, 2, 0, 0), "what was swallowed comes back");
        assert_eq!(told(1 << 20, &[(a, x, 1, 0), (b, x, 2, 0)]), of(2, 1, 1, 1));
        assert_eq!(told(1 << 20, &[(a, x, 1, 0), (b, x, 1, 0)]), of(2, 1, 1, 0), "the same event, sent again");
        assert_eq!(told(1 << 20, &[(a, x, 1, 0), (a, x, 2, 0)]), of(1, 1, 0, 0), "copies stay copies");
        assert_eq!(told(1 << 20, &[(None, x, 1, 0), (None, x, 2, 0), (b, None, 3, 0)]), of(1, 1, 1, 1));
        assert_eq!(told(1 << 20, &[(a, x, 1, 0), (b, x, 2, 9)]), of(1, 1, 0, 0), "a file that is gone");
    }

    /// Compares with maps, however little memory there is.
    #[test]
    fn less_memory_counts_the_same() {
        for seed in 0..20 {
            let mut random = Rng::with_seed(seed);
            let names: Vec<String> = (0..60).map(|number| number.to_string()).collect();
            let name = |random: &mut Rng| random.bool().then(|| names[random.usize(0..names.len())].as_str());
            let row = |random: &mut Rng| (name(random), name(random), random.u64(0..4), random.u64(8..10));
            let rows: Vec<Row<'_>> = (0..random.usize(0..3_000)).map(|_| row(&mut random)).collect();
            let (mut before, mut after) = (BTreeSet::<&str>::new(), BTreeMap::<&str, BTreeSet<String>>::new());
            for (number, (was, is, ..)) in rows.iter().enumerate().filter(|(_, row)| row.3 < 9) {
                before.extend(*was);
                let was = was.map_or_else(|| format!("new {number}"), str::to_owned);
                if let Some(is) = is {
                    after.entry(is).or_default().insert(was);
                }
            }
            let copies: usize = after.values().map(|were| were.len() - 1).sum();
            let expected = (before.len() as u64, after.len() as u64, copies as u64);
            let of = |told: Told| (told.before, told.after, told.copies);
            let much = told(1 << 20, &rows);
            assert_eq!(of(much), expected, "seed {seed}");
            for bytes in [1 << 9, 1 << 13] {
                assert_eq!(told(bytes, &rows).swallowed, much.swallowed, "seed {seed}, {bytes} bytes");
                assert_eq!(of(told(bytes, &rows)), expected, "seed {seed}, {bytes} bytes");
            }
        }
    }
}
