//! From a member's changes to its versions: the pure fold.
//!
//! Works on row numbers: an attribute's value is the row of the change log that set it, so values of any type are
//! compared and copied by column. Per member:
//!
//! ```text
//! changes in the order of events, those taken back left out
//!   └► instants (same occurred_at): state after the last change of each
//!        └► a version opens where a versioned value, the deleted mark or the lifetime differs from the version before
//! lifetimes end with a delete; `overwrite` and `keep` are decided per lifetime, for all of its versions
//! beside a value: the current and the original one of the lifetime; the previous one, which held before the value's
//! last change, of the lifetime or, where changes open versions, before the version
//! ```

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DynComparator, Int64Array, RecordBatch, TimestampMicrosecondArray,
    UInt32Array, make_comparator,
};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};

use super::changes::UNCHANGED;
use super::{Action, BEGINNING, Dimension, END, FIRST_KEY};
use crate::define::{Beside, History};
use crate::keys::{Keys, UNKNOWN};
use crate::{Error, Result};

/// A version in the making.
struct Version {
    valid_from: i64,
    /// The first change of the instant that opened it; none for an inferred member.
    opened_by: Option<u32>,
    values: Vec<Option<u32>>,
    /// Of each value, the one before its last change.
    previous: Vec<Option<u32>>,
    deleted: bool,
    lifetime: usize,
}

/// What a lifetime comes to, for each value.
#[derive(Clone)]
struct Settled {
    first: Vec<Option<u32>>,
    last: Vec<Option<u32>>,
    previous: Vec<Option<u32>>,
    /// As its last instant has left them.
    left: Vec<Option<u32>>,
}

impl Settled {
    fn nothing(values: usize) -> Self {
        let none = || vec![None; values];
        Self { first: none(), last: none(), previous: none(), left: none() }
    }
}

/// Columns of the change log, typed.
struct Log<'a> {
    durable: &'a [i64],
    action: &'a [i32],
    number: &'a [i64],
    occurred_at: &'a [i64],
    text: [&'a arrow::array::StringArray; 5],
    partition: &'a [i32],
    position: &'a [i64],
}

const STREAM: usize = 0;
const SOURCE: usize = 1;
const TOPIC: usize = 2;
const EVENT_ID: usize = 3;
const PRESENT: usize = 4;

impl<'a> Log<'a> {
    fn of(changes: &'a RecordBatch) -> Self {
        let long = |index: usize| changes.column(index).as_primitive::<Int64Type>().values().as_ref();
        let int = |index: usize| changes.column(index).as_primitive::<Int32Type>().values().as_ref();
        let text = |index: usize| changes.column(index).as_string::<i32>();
        Self {
            durable: long(0),
            action: int(1),
            number: long(2),
            occurred_at: changes.column(3).as_primitive::<TimestampMicrosecondType>().values(),
            text: [text(4), text(5), text(6), text(9), text(10)],
            partition: int(7),
            position: long(8),
        }
    }

    fn text(&self, column: usize, row: u32) -> &'a str {
        self.text[column].value(row as usize)
    }

    /// The order of events; what one event says several times goes by the order of `from`.
    fn order(&self, a: u32, b: u32) -> Ordering {
        let (i, j) = (a as usize, b as usize);
        self.occurred_at[i]
            .cmp(&self.occurred_at[j])
            .then_with(|| self.text(STREAM, a).cmp(self.text(STREAM, b)))
            .then_with(|| self.text(SOURCE, a).cmp(self.text(SOURCE, b)))
            .then_with(|| self.text(TOPIC, a).cmp(self.text(TOPIC, b)))
            .then_with(|| self.partition[i].cmp(&self.partition[j]))
            .then_with(|| self.position[i].cmp(&self.position[j]))
            .then_with(|| self.number[i].cmp(&self.number[j]))
    }

    fn coordinates(&self, row: u32) -> (&'a str, &'a str, &'a str, i32, i64, &'a str) {
        let at = row as usize;
        let text = |column| self.text(column, row);
        (text(STREAM), text(SOURCE), text(TOPIC), self.partition[at], self.position[at], text(EVENT_ID))
    }
}

/// The versions of all members in `changes`, which holds all changes of each; sorted by durable key and time.
pub fn fold(dimension: &Dimension, changes: &RecordBatch) -> Result<RecordBatch> {
    let folded = Fold::new(dimension, changes).and_then(Fold::run);
    folded.map_err(Error::columns(format!("versions of {}", dimension.name)))?
}

struct Fold<'a> {
    dimension: &'a Dimension,
    changes: &'a RecordBatch,
    log: Log<'a>,
    keys: Keys,
    natural: Vec<DynComparator>,
    /// Compares two rows' values of an attribute or reference.
    compare: Vec<DynComparator>,
    nulls: Vec<&'a ArrayRef>,
    history: Vec<History>,
    output: Output,
}

#[derive(Default)]
struct Output {
    key: Vec<i64>,
    durable: Vec<i64>,
    /// The change that has the natural key.
    natural: Vec<Option<u32>>,
    values: Vec<Vec<Option<u32>>>,
    /// Of each attribute, what is shown beside it.
    beside: Vec<Vec<Vec<Option<u32>>>>,
    valid_from: Vec<i64>,
    valid_to: Vec<i64>,
    deleted: Vec<bool>,
    inferred: Vec<bool>,
}

type ArrowResult<T> = Result<T, arrow::error::ArrowError>;

impl<'a> Fold<'a> {
    fn new(dimension: &'a Dimension, changes: &'a RecordBatch) -> ArrowResult<Self> {
        let comparator = |column: &ArrayRef| make_comparator(column, column, SortOptions::default());
        let first = dimension.first_attribute();
        let values = &changes.columns()[first..];
        let mut history: Vec<History> = dimension.attributes.iter().map(|attribute| attribute.history).collect();
        history.resize(values.len(), History::Version);
        Ok(Self {
            dimension,
            changes,
            log: Log::of(changes),
            keys: dimension.keys(),
            natural: changes.columns()[FIRST_KEY..first].iter().map(comparator).collect::<ArrowResult<_>>()?,
            compare: values.iter().map(comparator).collect::<ArrowResult<_>>()?,
            nulls: values.iter().collect(),
            history,
            output: Output {
                values: vec![Vec::new(); values.len()],
                beside: dimension.attributes.iter().map(|attribute| vec![Vec::new(); attribute.beside.len()]).collect(),
                ..Output::default()
            },
        })
    }

    fn run(mut self) -> ArrowResult<Result<RecordBatch>> {
        let mut order: Vec<u32> = (0..self.changes.num_rows() as u32).collect();
        let log = &self.log;
        order.sort_unstable_by(|&a, &b| {
            log.durable[a as usize].cmp(&log.durable[b as usize]).then_with(|| log.order(a, b))
        });
        let durable = self.log.durable;
        for member in order.chunk_by(|&a, &b| durable[a as usize] == durable[b as usize]) {
            if let Err(error) = self.member(member) {
                return Ok(Err(error));
            }
        }
        self.finish().map(Ok)
    }

    fn member(&mut self, rows: &[u32]) -> Result<()> {
        let durable = self.log.durable[rows[0] as usize];
        if let Some(&other) =
            rows.iter().find(|&&row| self.natural.iter().any(|c| c(rows[0] as usize, row as usize).is_ne()))
        {
            return Err(self.collision(durable, rows[0], other));
        }
        let is = |row: u32, action: Action| self.log.action[row as usize] == action as i32;
        let taken_back: HashSet<_> =
            rows.iter().filter(|&&row| is(row, Action::TakenBack)).map(|&row| self.log.coordinates(row)).collect();
        let mentions: i64 =
            rows.iter().filter(|&&row| is(row, Action::Mention)).map(|&row| self.log.number[row as usize]).sum();
        let events: Vec<u32> = rows
            .iter()
            .copied()
            .filter(|&row| !is(row, Action::Mention) && !is(row, Action::TakenBack))
            .filter(|&row| taken_back.is_empty() || !taken_back.contains(&self.log.coordinates(row)))
            .collect();
        if events.is_empty() {
            if mentions > 0 {
                let (values, previous) = (vec![None; self.history.len()], vec![None; self.history.len()]);
                let valid_from = BEGINNING;
                let version = Version { valid_from, opened_by: None, values, previous, deleted: false, lifetime: 0 };
                self.emit(durable, rows[0], &[version], &[Settled::nothing(self.history.len())], true);
            }
            return Ok(());
        }
        let (versions, settled) = self.versions(&events);
        self.emit(durable, events[0], &versions, &settled, false);
        Ok(())
    }

    /// Walks the instants; the versions, and what each lifetime comes to.
    fn versions(&self, events: &[u32]) -> (Vec<Version>, Vec<Settled>) {
        let mut versions: Vec<Version> = Vec::new();
        let mut values: Vec<Option<u32>> = vec![None; self.history.len()];
        let (mut deleted, mut lifetime) = (false, 0);
        // As the instant before has left them, within the lifetime.
        let mut before: Option<Vec<Option<u32>>> = None;
        let mut settled = vec![Settled::nothing(self.history.len())];
        for instant in events.chunk_by(|&a, &b| self.log.occurred_at[a as usize] == self.log.occurred_at[b as usize]) {
            for &row in instant {
                if self.log.action[row as usize] == Action::Delete as i32 {
                    deleted = true;
                    continue;
                }
                if deleted {
                    deleted = false;
                    self.note_changes(before.take(), &values, &mut settled[lifetime]);
                    lifetime += 1;
                    values.fill(None);
                    settled.push(Settled::nothing(self.history.len()));
                }
                let is_state = self.log.action[row as usize] == Action::State as i32;
                let present = self.log.text(PRESENT, row).as_bytes();
                for (index, value) in values.iter_mut().enumerate() {
                    let there = present.get(index) == Some(&b'1');
                    if there || (is_state && present.get(index) != Some(&UNCHANGED)) {
                        *value = Some(row).filter(|_| there && self.nulls[index].is_valid(row as usize));
                        settled[lifetime].first[index] = settled[lifetime].first[index].or(*value);
                        settled[lifetime].last[index] = *value;
                    }
                }
            }
            self.note_changes(before.replace(values.clone()), &values, &mut settled[lifetime]);
            settled[lifetime].left.clone_from(&values);
            let opens = versions.last().is_none_or(|last| {
                last.deleted != deleted || last.lifetime != lifetime || self.differ(&last.values, &values)
            });
            if opens {
                let valid_from =
                    if versions.is_empty() { BEGINNING } else { self.log.occurred_at[instant[0] as usize] };
                let opened_by = Some(instant[0]);
                let previous = settled[lifetime].previous.clone();
                versions.push(Version { valid_from, opened_by, values: values.clone(), previous, deleted, lifetime });
            }
        }
        for version in &mut versions {
            let settled = &settled[version.lifetime];
            for (index, history) in self.history.iter().enumerate() {
                match history {
                    // Some version of a mini-dimension's history has just this combination.
                    _ if self.dimension.attributes.get(index).is_some_and(|attribute| attribute.apart) => {
                        version.values[index] = settled.left[index];
                    }
                    History::Keep => version.values[index] = settled.first[index],
                    History::Overwrite => {
                        version.values[index] = settled.last[index];
                        version.previous[index] = settled.previous[index];
                    }
                    History::Version => {}
                }
            }
        }
        (versions, settled)
    }

    /// Remembers the values that an instant has changed.
    fn note_changes(&self, before: Option<Vec<Option<u32>>>, values: &[Option<u32>], settled: &mut Settled) {
        for (index, before) in before.into_iter().flatten().enumerate() {
            if self.differs(index, before, values[index]) {
                settled.previous[index] = before;
            }
        }
    }

    fn differ(&self, a: &[Option<u32>], b: &[Option<u32>]) -> bool {
        let mut versioned = (0..self.history.len()).filter(|&index| self.history[index] == History::Version);
        versioned.any(|index| self.differs(index, a[index], b[index]))
    }

    /// Whether two values of an attribute or a reference differ.
    fn differs(&self, index: usize, a: Option<u32>, b: Option<u32>) -> bool {
        match (a, b) {
            (None, None) => false,
            (Some(i), Some(j)) => i != j && self.compare[index](i as usize, j as usize).is_ne(),
            _ => true,
        }
    }

    fn emit(&mut self, durable: i64, natural: u32, versions: &[Version], settled: &[Settled], inferred: bool) {
        for (number, version) in versions.iter().enumerate() {
            let key = match version.opened_by {
                Some(row) if number > 0 => {
                    self.keys.version(durable, self.log.text(STREAM, row), self.log.text(EVENT_ID, row))
                }
                _ => durable,
            };
            let output = &mut self.output;
            output.key.push(key);
            output.durable.push(durable);
            output.natural.push(Some(natural));
            for (column, value) in output.values.iter_mut().zip(&version.values) {
                column.push(*value);
            }
            let settled = &settled[version.lifetime];
            for (index, attribute) in self.dimension.attributes.iter().enumerate() {
                for (column, beside) in output.beside[index].iter_mut().zip(&attribute.beside) {
                    column.push(match beside {
                        Beside::Current => settled.last[index],
                        Beside::Previous => version.previous[index],
                        Beside::Original => settled.first[index],
                    });
                }
            }
            output.valid_from.push(version.valid_from);
            output.valid_to.push(versions.get(number + 1).map_or(END, |next| next.valid_from));
            output.deleted.push(version.deleted);
            output.inferred.push(inferred);
        }
    }

    fn collision(&self, key: i64, first: u32, second: u32) -> Error {
        let shown = |row: u32| {
            let columns = &self.changes.columns()[FIRST_KEY..self.dimension.first_attribute()];
            let parts: Vec<String> = columns
                .iter()
                .map(|column| arrow::util::display::array_value_to_string(column, row as usize).unwrap_or_default())
                .collect();
            parts.join(", ")
        };
        Error::Collision { dimension: self.dimension.name.to_string(), key, first: shown(first), second: shown(second) }
    }

    fn finish(self) -> ArrowResult<RecordBatch> {
        let output = self.output;
        let first = self.dimension.first_attribute();
        let rows = |rows: Vec<Option<u32>>| UInt32Array::from(rows);
        let natural = rows(output.natural);
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(output.key)), Arc::new(Int64Array::from(output.durable))];
        for column in &self.changes.columns()[FIRST_KEY..first] {
            columns.push(take(column, &natural, None)?);
        }
        let mut beside = output.beside.into_iter();
        let attributes = self.dimension.attributes.len();
        // Of mini-dimensions, in the places of their attributes.
        let mut apart: Vec<ArrayRef> = Vec::with_capacity(attributes);
        for (index, values) in output.values.into_iter().enumerate() {
            if index == attributes {
                columns.extend(current_minis(self.dimension, &apart));
            }
            let of = self.changes.column(first + index);
            let taken = take(of, &rows(values), None)?;
            if let Some(beside) = beside.next() {
                apart.push(taken.clone());
                if self.dimension.attributes[index].apart {
                    continue;
                }
                columns.push(taken);
                for values in beside {
                    columns.push(take(of, &rows(values), None)?);
                }
            } else {
                if self.dimension.references[index - attributes].as_of_version {
                    // Known once the parent's versions are looked at.
                    columns.push(Arc::new(Int64Array::from(vec![UNKNOWN; taken.len()])));
                }
                // A reference to nobody points to the unknown member.
                let keys: Int64Array =
                    taken.as_primitive::<Int64Type>().iter().map(|key| Some(key.unwrap_or(UNKNOWN))).collect();
                columns.push(Arc::new(keys));
            }
        }
        if apart.len() == self.changes.num_columns() - first {
            columns.extend(current_minis(self.dimension, &apart));
        }
        if let Some(name) = &self.dimension.keys_of {
            columns[0] = Arc::new(combinations(name, &apart));
        }
        let current: BooleanArray = output.valid_to.iter().map(|&to| Some(to == END)).collect();
        columns.push(Arc::new(TimestampMicrosecondArray::from(output.valid_from).with_timezone("UTC")));
        columns.push(Arc::new(TimestampMicrosecondArray::from(output.valid_to).with_timezone("UTC")));
        columns.push(Arc::new(current));
        columns.push(Arc::new(BooleanArray::from(output.deleted)));
        columns.push(Arc::new(BooleanArray::from(output.inferred)));
        RecordBatch::try_new(self.dimension.schema(), columns)
    }
}

/// The keys of combinations of values in the mini-dimension `name`; that of nobody, where there is no value.
fn combinations(name: &crate::define::ModelName, values: &[ArrayRef]) -> Int64Array {
    let keys = Keys::new(&name.to_string()).of_values(values);
    let is_nothing = |row: usize| values.iter().all(|column| column.is_null(row));
    let row = |(row, key): (usize, &i64)| if is_nothing(row) { UNKNOWN } else { *key };
    Int64Array::from_iter_values(keys.values().iter().enumerate().map(row))
}

/// Of each mini-dimension, the key of the combination that a member has now.
fn current_minis(dimension: &Dimension, attributes: &[ArrayRef]) -> Vec<ArrayRef> {
    let of = |mini: &super::Mini| -> ArrayRef {
        let values: Vec<ArrayRef> = mini.attributes.iter().map(|&index| attributes[index].clone()).collect();
        Arc::new(combinations(&mini.name, &values))
    };
    dimension.minis.iter().map(of).collect()
}
