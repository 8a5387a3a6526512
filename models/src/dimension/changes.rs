//! The change log of a dimension: what events say about its members, in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    new_null_array,
};
use arrow::compute::{filter, filter_record_batch, take};
use futures::{StreamExt, TryStreamExt};

use super::log::ChangeLog;
use super::{Action, Dimension, Mentions, Source};
use crate::build::{Builder, Built, Progress};
use crate::define::As;
use crate::derived::{Change, Derived};
use crate::events::{Decoded, Decoder, EventChanges};
use crate::expression::{RowError, cast_rows};
use crate::fact::Fact;
use crate::keys::UNKNOWN;
use crate::resolve::Model;
use crate::{Error, Result, rejects};

/// In the column `present` of the change log: the value is said to be as it was, by a state too.
pub(super) const UNCHANGED: u8 = b'=';
/// The part of a dimension that is its change log.
pub const CHANGES: &str = "changes";

/// Files of the lake that are read side by side.
const FILES_SIDE_BY_SIDE: usize = 2;
/// Members whose mentions become rows of the change log at once.
const MENTIONED_AT_ONCE: usize = 1 << 16;

/// Appends to the change log and to the rejects what is new in the streams.
pub async fn build_changes(builder: &Builder, dimension: &Arc<Dimension>) -> Result<Built> {
    let inputs = builder.stream_inputs(dimension.streams());
    let mut changes = builder.derived(&dimension.name, &dimension.fingerprint, CHANGES).await?;
    let mut rejected = builder.derived(&dimension.name, &dimension.fingerprint, "rejects").await?;
    let mut built = Built::default();
    if !changes.is_current(&inputs)? {
        let events = Events::since(builder, dimension, &changes).await?;
        built.rows_read = events.rows();
        let mut log = ChangeLog::new(builder, dimension, changes, events.decoded());
        let rejects = gather(builder, dimension, &events, &rejected, Some(&mut log)).await?;
        built.rows_written = log.count() as u64;
        let mut change = Change::default();
        changes = log.finish(&mut change).await?;
        changes.commit(change, &inputs).await?;
        // The usual case: both tables are equally far.
        if events.are_since(&rejected) {
            rejected.create(rejects::schema(), &[]).await?;
            let change = rejects.change(&rejected).await?;
            rejected.commit(change, &inputs).await?;
        }
    }
    if !rejected.is_current(&inputs)? {
        let events = Events::since(builder, dimension, &rejected).await?;
        let rejects = gather(builder, dimension, &events, &rejected, None).await?;
        rejected.create(rejects::schema(), &[]).await?;
        let change = rejects.change(&rejected).await?;
        rejected.commit(change, &inputs).await?;
    }
    built.rejects = rejected.snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
    built.pins.insert(format!("{}/{CHANGES}", dimension.name), changes.pin(&inputs)?);
    built.pins.insert(format!("{}/rejects", dimension.name), rejected.pin(&inputs)?);
    Ok(built)
}

/// What is new in a dimension's streams.
struct Events {
    streams: Vec<OfStream>,
}

/// What is new in one of them.
struct OfStream {
    stream: String,
    /// As the catalog calls it, and after which of its versions.
    input: String,
    since: Option<u64>,
    events: Arc<EventChanges>,
    reader: Arc<StreamReader>,
}

impl Events {
    async fn since(builder: &Builder, dimension: &Arc<Dimension>, derived: &Derived) -> Result<Self> {
        let mut streams = Vec::new();
        for stream in dimension.streams() {
            let input = builder.stream_input(stream);
            let since = derived.consumed(&input);
            let events = builder.changes(stream, since).await?;
            let reader = Arc::new(StreamReader::new(dimension, stream)?);
            streams.push(OfStream { stream: stream.to_owned(), input, since, events, reader });
        }
        Ok(Self { streams })
    }

    fn rows(&self) -> u64 {
        self.streams.iter().map(|of| of.events.rows() as u64).sum()
    }

    /// How many of them are decoded for this dimension, and not for facts alone.
    fn decoded(&self) -> usize {
        self.streams.iter().filter(|of| !of.reader.is_empty()).map(|of| of.events.rows()).sum()
    }

    fn are_since(&self, derived: &Derived) -> bool {
        self.streams.iter().all(|of| derived.consumed(&of.input) == of.since)
    }
}

/// Reads the new events: changes go into the `log`, where there is one, and what was `rejected` is returned.
async fn gather(
    builder: &Builder,
    dimension: &Arc<Dimension>,
    events: &Events,
    rejected: &Derived,
    log: Option<&mut ChangeLog<'_>>,
) -> Result<rejects::Gathered> {
    let rejects = rejects::Gathered::new(builder, rejected);
    // Mentions are rows of the change log alone.
    let counts_mentions = log.is_some();
    let mut gathering = Gathering { log, mentions: Mentions::default(), rejects };
    for OfStream { stream, since, events, reader, .. } in &events.streams {
        if !reader.is_empty() {
            let progress = builder.progress(&dimension.name);
            progress.begin("reading", events.len() as u64);
            let at_once = builder.scaled(FILES_SIDE_BY_SIDE);
            gathering.read_all(events, reader, &progress, at_once).await?;
            gathering.take_back(events, reader, stream).await?;
        }
        for fact in reader.facts().filter(|_| counts_mentions) {
            let mentioned = builder.mentions(fact, stream, *since).await?;
            gathering.mentions.extend(mentioned.take(&dimension.name)?);
        }
    }
    let Gathering { log, mentions, rejects } = gathering;
    if let Some(log) = log {
        for rows in mentions.rows(dimension, MENTIONED_AT_ONCE) {
            log.add(vec![rows.map_err(Error::columns("mentions"))?], 0).await?;
        }
    }
    Ok(rejects)
}

/// What the new events of a dimension have said so far.
struct Gathering<'a, 'b> {
    log: Option<&'a mut ChangeLog<'b>>,
    mentions: Mentions,
    rejects: rejects::Gathered,
}

impl Gathering<'_, '_> {
    async fn read_all(
        &mut self,
        events: &Arc<EventChanges>,
        reader: &Arc<StreamReader>,
        progress: &Progress,
        at_once: usize,
    ) -> Result<()> {
        let mut parts = futures::stream::iter(0..events.len())
            .map(|part| {
                let (events, reader) = (events.clone(), reader.clone());
                let task = tokio::spawn(async move {
                    let (batch, counts) = events.read(part).await?;
                    let decoded = counts.true_count();
                    let task = tokio::task::spawn_blocking(move || reader.read(&batch, &counts, false));
                    let read = task.await.map_err(|error| Error::Task(error.to_string()))??;
                    Ok::<_, Error>((read, decoded))
                });
                async move { task.await.map_err(|error| Error::Task(error.to_string()))? }
            })
            .buffered(at_once);
        while let Some((read, decoded)) = parts.try_next().await? {
            self.add(read, 1, decoded).await?;
            progress.add(1);
        }
        Ok(())
    }

    async fn take_back(&mut self, events: &EventChanges, reader: &StreamReader, stream: &str) -> Result<()> {
        for file in 0..events.superseded_files() {
            let (batch, rows) = events.superseded(file).await?;
            self.rejects.take_back(rejects::coordinates(stream, &batch, &rows));
            let mut read = reader.read(&batch, &rows, true)?;
            read.rejects.clear();
            self.add(read, -1, 0).await?;
        }
        Ok(())
    }

    /// Adds what so many events say that were `decoded`.
    async fn add(&mut self, read: Read, sign: i64, decoded: usize) -> Result<()> {
        for (durable, natural) in read.mentions {
            self.mentions.add(&durable, &natural, sign).map_err(Error::columns("mentions"))?;
        }
        if let Some(log) = &mut self.log {
            log.add(read.changes, decoded).await?;
        }
        self.rejects.add(read.rejects).await
    }
}

/// What a batch of the lake says.
#[derive(Default)]
struct Read {
    changes: Vec<RecordBatch>,
    rejects: Vec<RecordBatch>,
    mentions: Vec<(Int64Array, Vec<ArrayRef>)>,
}

/// Reads one stream for one dimension.
struct StreamReader {
    dimension: Arc<Dimension>,
    stream: String,
    /// Sources of the dimension, by index, with their decoders.
    sources: Vec<(usize, Decoder)>,
    children: Vec<Child>,
}

/// A source of a dimension whose events mention members of this one.
struct Child {
    dimension: Arc<Dimension>,
    source: usize,
    decoder: Decoder,
}

impl StreamReader {
    fn new(dimension: &Arc<Dimension>, stream: &str) -> Result<Self> {
        let sources = dimension.sources.iter().enumerate().filter(|(_, source)| source.stream == stream);
        let sources = sources.map(|(index, source)| Ok((index, decoder(&source.definition, &source.need)?.keeping())));
        let mut children = Vec::new();
        for model in &dimension.mentions {
            let Model::Dimension(child) = model else { continue };
            for (source, definition) in child.sources.iter().enumerate().filter(|(_, s)| s.stream == stream) {
                let decoder = decoder(&definition.definition, &definition.need)?.keeping();
                children.push(Child { dimension: child.clone(), source, decoder });
            }
        }
        let sources = sources.collect::<Result<_>>()?;
        Ok(Self { dimension: dimension.clone(), stream: stream.to_owned(), sources, children })
    }

    /// Its events say nothing, unless facts are made of them.
    fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.children.is_empty()
    }

    /// Facts of the stream's events, which mention members.
    fn facts(&self) -> impl Iterator<Item = &Arc<Fact>> {
        self.dimension.mentions.iter().filter_map(|model| match model {
            Model::Fact(fact) if fact.streams().contains(&*self.stream) => Some(fact),
            _ => None,
        })
    }

    fn read(&self, batch: &RecordBatch, counts: &BooleanArray, taken_back: bool) -> Result<Read> {
        let mut read = Read::default();
        // An event is one reject, in however many entries it could not be read.
        let mut rejected: BTreeMap<u32, String> = BTreeMap::new();
        for (index, decoder) in &self.sources {
            let source = &self.dimension.sources[*index];
            let decoded = those_that_belong(source, batch, decoder.decode(batch, counts)?)?;
            let mut rejects = decoded.rejects.clone();
            let rows = change_rows(&self.dimension, *index, batch, &decoded, taken_back, &mut rejects)?;
            read.changes.push(rows);
            for (row, reason) in rejects {
                rejected.entry(row).or_insert(reason);
            }
        }
        if !rejected.is_empty() {
            let rejects: Vec<(u32, String)> = rejected.into_iter().collect();
            read.rejects.push(rejects::rows(&self.stream, batch, &rejects)?);
        }
        for Child { dimension, source, decoder } in &self.children {
            let decoded = those_that_belong(&dimension.sources[*source], batch, decoder.decode(batch, counts)?)?;
            read.mentions.extend(child_mentions(dimension, *source, batch, &decoded, &self.dimension)?);
        }
        Ok(read)
    }
}

pub(crate) fn decoder(event: &crate::events::Event, need: &crate::events::Need) -> Result<Decoder> {
    Decoder::new(event, need).map_err(|error| Error::Expression {
        object: format!("event {}", event.name),
        expression: format!("step {} to version {}", error.step + 1, error.version),
        reason: error.reason,
    })
}

/// The columns that expressions of a source see: those every event has, then its fields.
pub(crate) fn with_built_in(
    batch: &RecordBatch,
    rows: &UInt32Array,
    fields: &RecordBatch,
    more: Option<ArrayRef>,
) -> Result<RecordBatch> {
    let named = |name: &str| -> Result<ArrayRef> {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::Task(format!("a batch of events has no column `{name}`")))?;
        take(column, rows, None).map_err(Error::columns("events"))
    };
    let mut columns =
        vec![("occurred_at".to_owned(), named("occurred_at")?), ("event_id".to_owned(), named("event_id")?)];
    columns.extend(more.map(|ordinal| ("ordinal".to_owned(), ordinal)));
    let schema = fields.schema();
    columns.extend(schema.fields().iter().map(|field| field.name().clone()).zip(fields.columns().iter().cloned()));
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .map_err(Error::columns("events"))
}

/// Without the events that the source leaves out. One of which that cannot be computed is a reject.
fn those_that_belong(source: &Source, batch: &RecordBatch, decoded: Decoded) -> Result<Decoded> {
    let Some(belongs) = &source.filter else { return Ok(decoded) };
    let input = with_built_in(batch, &decoded.rows, &decoded.fields, None)?;
    let (belong, failed) = belongs.evaluate(&input);
    // Null is no yes.
    let belong = belong.as_boolean();
    let mut rejects = decoded.rejects;
    rejects.extend(failed.into_iter().map(|(row, reason)| (decoded.rows.value(row), reason)));
    let object = || Error::columns("changes");
    let present =
        decoded.present.iter().map(|present| Ok(filter(present, belong).map_err(object())?.as_boolean().clone()));
    Ok(Decoded {
        rows: filter(&decoded.rows, belong).map_err(object())?.as_primitive().clone(),
        fields: filter_record_batch(&decoded.fields, belong).map_err(object())?,
        present: present.collect::<Result<_>>()?,
        elements: None,
        rejects,
    })
}

/// Rows of the change log, made of the events of one source.
fn change_rows(
    dimension: &Dimension,
    source_index: usize,
    batch: &RecordBatch,
    decoded: &Decoded,
    taken_back: bool,
    rejects: &mut Vec<(u32, String)>,
) -> Result<RecordBatch> {
    let source = &dimension.sources[source_index];
    let rows = decoded.rows.len();
    let input = with_built_in(batch, &decoded.rows, &decoded.fields, None)?;
    let mut errors: Vec<RowError> = Vec::new();
    source.rules.iter().for_each(|rule| rule.check(&input, &mut errors));
    let natural =
        natural_key(&dimension.key.iter().map(|(_, t)| *t).collect::<Vec<_>>(), &source.key, &input, &mut errors);
    for (column, (name, _)) in natural.iter().zip(&dimension.key) {
        errors.extend(
            (0..rows).filter(|&row| column.is_null(row)).map(|row| (row, format!("the key `{name}` has no value"))),
        );
    }
    let durable = dimension.keys().durable(&natural);
    let mut values: Vec<ArrayRef> =
        dimension.attributes.iter().map(|a| new_null_array(&a.field_type.arrow(), rows)).collect();
    values.extend(dimension.references.iter().map(|_| new_null_array(&arrow::datatypes::DataType::Int64, rows)));
    let mut present = vec![vec![b'0'; values.len()]; rows];
    let schema = decoded.fields.schema();
    let is_unchanged = |columns: &BTreeSet<String>, row: usize| {
        let mut read = columns.iter().filter_map(|name| schema.index_of(name).ok());
        read.any(|index| decoded.present[index].is_null(row))
    };
    let there = |columns: &BTreeSet<String>, row: usize| {
        let mut read = columns.iter().filter_map(|name| schema.index_of(name).ok()).peekable();
        read.peek().is_none() || read.any(|index| decoded.present[index].value(row))
    };
    for (index, expression) in &source.set {
        let attribute = &dimension.attributes[*index];
        let (computed, failed) = expression.evaluate(&input);
        errors.extend(failed);
        values[*index] = cast_rows(&computed, &attribute.field_type.arrow(), &attribute.name, &mut errors);
        for (row, present) in present.iter_mut().enumerate() {
            match expression.columns() {
                columns if is_unchanged(columns, row) => present[*index] = UNCHANGED,
                columns if there(columns, row) => present[*index] = b'1',
                _ => {}
            }
        }
    }
    for (index, expressions) in &source.references {
        let reference = &dimension.references[*index];
        let parent = natural_key(&reference.key_types, expressions, &input, &mut errors);
        let keys = crate::keys::Keys::new(&reference.target.to_string()).durable(&parent);
        let keys: Int64Array = keys.iter().map(|key| key.filter(|&key| key != UNKNOWN)).collect();
        let place = dimension.attributes.len() + index;
        values[place] = Arc::new(keys);
        // Parts that no field has a say in are there with the others.
        let parts: Vec<_> = expressions.iter().zip(&parent).filter(|(part, _)| !part.columns().is_empty()).collect();
        for (row, present) in present.iter_mut().enumerate() {
            if parts.iter().any(|(part, _)| is_unchanged(part.columns(), row)) {
                present[place] = UNCHANGED;
                continue;
            }
            let missing = parts.iter().find(|(part, _)| !there(part.columns(), row));
            let is_said = missing.is_none() || parts.iter().any(|(part, _)| there(part.columns(), row));
            if is_said {
                present[place] = b'1';
            }
            // A patch leaves the rest as it was, which is not known here; unless there is nobody in any case.
            if let (Some((part, _)), true, As::Patch) = (missing, is_said, source.meaning)
                && !parts.iter().any(|(part, values)| there(part.columns(), row) && values.is_null(row))
            {
                let (name, part) = (&reference.name, part.text());
                errors.push((row, format!("the patch says who `{name}` is only in part: `{part}` is missing")));
            }
        }
    }
    let text = |name: &str| -> Result<ArrayRef> {
        let column = batch
            .column_by_name(name)
            .ok_or_else(|| Error::Task(format!("a batch of events has no column `{name}`")))?;
        take(column, &decoded.rows, None).map_err(Error::columns("events"))
    };
    let action = if taken_back { Action::TakenBack } else { source.meaning.into() };
    let present: StringArray =
        present.into_iter().map(|bits| Some(bits.into_iter().map(char::from).collect::<String>())).collect();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(durable),
        Arc::new(Int32Array::from(vec![action as i32; rows])),
        Arc::new(Int64Array::from(vec![source_index as i64; rows])),
        text("occurred_at")?,
        Arc::new(StringArray::from(vec![source.stream.as_str(); rows])),
        text("source")?,
        text("topic")?,
        text("partition")?,
        text("position")?,
        text("event_id")?,
        Arc::new(present),
    ];
    columns.extend(natural);
    columns.extend(values);
    let changes = RecordBatch::try_new(dimension.changes_schema(), columns).map_err(Error::columns("changes"))?;
    without_errors(&changes, &decoded.rows, errors, rejects)
}

/// Leaves out the rows with errors and tells of them.
pub(crate) fn without_errors(
    rows: &RecordBatch,
    lake_rows: &UInt32Array,
    mut errors: Vec<RowError>,
    rejects: &mut Vec<(u32, String)>,
) -> Result<RecordBatch> {
    if errors.is_empty() {
        return Ok(rows.clone());
    }
    errors.sort();
    let mut good = vec![true; rows.num_rows()];
    for (row, reason) in errors {
        if std::mem::replace(&mut good[row], false) {
            rejects.push((lake_rows.value(row), reason));
        }
    }
    filter_record_batch(rows, &BooleanArray::from(good)).map_err(Error::columns("changes"))
}

/// The natural key's columns, in the types of the dimension.
pub(crate) fn natural_key(
    types: &[crate::define::FieldType],
    expressions: &[crate::expression::Expression],
    input: &RecordBatch,
    errors: &mut Vec<RowError>,
) -> Vec<ArrayRef> {
    let of = |(expression, field_type): (&crate::expression::Expression, &crate::define::FieldType)| {
        let (values, failed) = expression.evaluate(input);
        errors.extend(failed);
        cast_rows(&values, &field_type.arrow(), expression.text(), errors)
    };
    expressions.iter().zip(types).map(of).collect()
}

/// Members of `parent` that the events of a child's source mention.
fn child_mentions(
    child: &Dimension,
    source: usize,
    batch: &RecordBatch,
    decoded: &Decoded,
    parent: &Dimension,
) -> Result<Vec<(Int64Array, Vec<ArrayRef>)>> {
    // The child's own rejects mention nobody.
    let mut rejects = Vec::new();
    let accepted = change_rows(child, source, batch, decoded, false, &mut rejects)?;
    let mut mentions = Vec::new();
    let source = &child.sources[source];
    let input = with_built_in(batch, &decoded.rows, &decoded.fields, None)?;
    let rejected: HashSet<u32> = rejects.iter().map(|(row, _)| *row).collect();
    let good: BooleanArray = decoded.rows.values().iter().map(|row| Some(!rejected.contains(row))).collect();
    debug_assert_eq!(accepted.num_rows(), good.true_count(), "what is not rejected is a change");
    let input = filter_record_batch(&input, &good).map_err(Error::columns("mentions"))?;
    for (index, expressions) in &source.references {
        if child.references[*index].target == parent.name {
            let types: Vec<_> = parent.key.iter().map(|(_, field_type)| *field_type).collect();
            let natural = natural_key(&types, expressions, &input, &mut Vec::new());
            mentions.push((parent.keys().durable(&natural), natural));
        }
    }
    Ok(mentions)
}
