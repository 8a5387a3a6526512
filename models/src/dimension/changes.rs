//! The change log of a dimension: what events say about its members, in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array, new_null_array,
};
use arrow::compute::{filter_record_batch, take, take_record_batch};
use arrow::datatypes::Int64Type;
use futures::{StreamExt, TryStreamExt};
use starmere_lake::delta::{FileOptions, Snapshot};

use super::{Action, Dimension, Mentions};
use crate::build::{Builder, Built, Progress};
use crate::define::As;
use crate::derived::{Change, Derived};
use crate::events::{Decoded, Decoder, EventChanges};
use crate::expression::{RowError, cast_rows};
use crate::fact::Fact;
use crate::keys::UNKNOWN;
use crate::resolve::Model;
use crate::{Error, Result, rejects};

/// The part of a dimension that is its change log.
pub const CHANGES: &str = "changes";

/// Files of the lake that are read side by side.
const FILES_SIDE_BY_SIDE: usize = 2;
/// Changes of a bucket that are folded at once.
const BUCKET_CHANGES: usize = 400_000;
const MAX_BUCKET_BITS: u32 = 12;
/// The setting of both tables that says by how many bits they are split.
pub(super) const SETTING: &str = "starmere.buckets";

/// The bucket of a member: the first bits of its durable key, which is a hash of 62 bits.
fn bucket(durable: i64, bits: u32) -> u32 {
    if bits == 0 { 0 } else { (durable >> (62 - bits)) as u32 }
}

/// How many bits the tables of a dimension are split by: settled when its change log was made.
pub(super) fn bucket_bits(changes: &Snapshot) -> u32 {
    changes.setting(SETTING).and_then(|bits| bits.parse().ok()).unwrap_or(0).min(MAX_BUCKET_BITS)
}

/// Appends to the change log and to the rejects what is new in the streams.
pub async fn build_changes(builder: &Builder, dimension: &Arc<Dimension>) -> Result<Built> {
    let inputs = builder.stream_inputs(dimension.streams());
    let mut changes = builder.derived(&dimension.name, &dimension.fingerprint, CHANGES).await?;
    let mut rejected = builder.derived(&dimension.name, &dimension.fingerprint, "rejects").await?;
    let mut built = Built::default();
    if !changes.is_current(&inputs)? {
        let gathered = Gathered::new(builder, dimension, &changes).await?;
        built.rows_read = gathered.read;
        let count: usize = gathered.changes.iter().map(RecordBatch::num_rows).sum();
        let bits = count.div_ceil(builder.scaled(BUCKET_CHANGES)).next_power_of_two().ilog2().min(MAX_BUCKET_BITS);
        let snapshot = changes.create(&dimension.changes_schema(), &[(SETTING, bits.to_string())]).await?;
        let bits = bucket_bits(&snapshot);
        let mut change = Change::default();
        // Whoever changes has a bucket's log unpacked.
        let options = FileOptions::default();
        changes.put_together(&mut change, &dimension.changes_schema(), &options).await?;
        let (of, gathered_changes) = (dimension.clone(), gathered.changes);
        let by_bucket = tokio::task::spawn_blocking(move || by_bucket(&of, gathered_changes, bits)).await;
        let by_bucket = by_bucket.map_err(|error| Error::Task(error.to_string()))??;
        let mut written = futures::stream::iter(by_bucket)
            .map(|(group, rows)| changes.write(rows, options.clone(), Some(group)))
            .buffered(builder.scaled(FILES_SIDE_BY_SIDE));
        while let Some(add) = written.try_next().await? {
            change.adds.extend(add);
        }
        drop(written);
        changes.commit(change, &inputs).await?;
        built.rows_written = count as u64;
        // The usual case: both tables are equally far.
        if inputs.keys().all(|input| rejected.consumed(input) == gathered.from.get(input).copied().flatten()) {
            rejected.create(rejects::schema(), &[]).await?;
            let change = rejects::change(&rejected, gathered.rejects, &gathered.taken_back).await?;
            rejected.commit(change, &inputs).await?;
        }
    }
    if !rejected.is_current(&inputs)? {
        let gathered = Gathered::new(builder, dimension, &rejected).await?;
        rejected.create(rejects::schema(), &[]).await?;
        let change = rejects::change(&rejected, gathered.rejects, &gathered.taken_back).await?;
        rejected.commit(change, &inputs).await?;
    }
    built.rejects = rejected.snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
    built.pins.insert(format!("{}/{CHANGES}", dimension.name), changes.pin(&inputs)?);
    built.pins.insert(format!("{}/rejects", dimension.name), rejected.pin(&inputs)?);
    Ok(built)
}

/// What is new for a dimension in its streams.
struct Gathered {
    changes: Vec<RecordBatch>,
    rejects: Vec<RecordBatch>,
    taken_back: HashSet<rejects::Coordinates>,
    /// The versions from which the streams were read.
    from: BTreeMap<String, Option<u64>>,
    read: u64,
}

impl Gathered {
    async fn new(builder: &Builder, dimension: &Arc<Dimension>, derived: &Derived) -> Result<Self> {
        let mut gathered = Self {
            changes: Vec::new(),
            rejects: Vec::new(),
            taken_back: HashSet::new(),
            from: BTreeMap::new(),
            read: 0,
        };
        let mut mentions = Mentions::default();
        for stream in dimension.streams() {
            let input = builder.stream_input(stream);
            let from = derived.consumed(&input);
            gathered.from.insert(input, from);
            let events = builder.changes(stream, from).await?;
            gathered.read += events.rows() as u64;
            let reader = Arc::new(StreamReader::new(dimension, stream)?);
            if !reader.is_empty() {
                let progress = builder.progress(&dimension.name);
                progress.begin("reading", events.len() as u64);
                let at_once = builder.scaled(FILES_SIDE_BY_SIDE);
                gathered.read_all(&events, &reader, &mut mentions, &progress, at_once).await?;
                gathered.take_back(&events, &reader, stream, &mut mentions).await?;
            }
            for fact in reader.facts() {
                builder.mentions(fact, stream, from).await?.add_to(&dimension.name, &mut mentions);
            }
        }
        gathered.changes.extend(mentions.rows(dimension).map_err(Error::columns("mentions"))?);
        Ok(gathered)
    }

    async fn read_all(
        &mut self,
        events: &Arc<EventChanges>,
        reader: &Arc<StreamReader>,
        mentions: &mut Mentions,
        progress: &Progress,
        at_once: usize,
    ) -> Result<()> {
        let mut files = futures::stream::iter(0..events.len())
            .map(|file| {
                let (events, reader) = (events.clone(), reader.clone());
                let task = tokio::spawn(async move {
                    let (batch, counts) = events.read(file).await?;
                    let task = tokio::task::spawn_blocking(move || reader.read(&batch, &counts, false));
                    task.await.map_err(|error| Error::Task(error.to_string()))?
                });
                async move { task.await.map_err(|error| Error::Task(error.to_string()))? }
            })
            .buffered(at_once);
        while let Some(read) = files.try_next().await? {
            self.add(read, mentions, 1)?;
            progress.add(1);
        }
        Ok(())
    }

    async fn take_back(
        &mut self,
        events: &EventChanges,
        reader: &StreamReader,
        stream: &str,
        mentions: &mut Mentions,
    ) -> Result<()> {
        for file in 0..events.superseded_files() {
            let (batch, rows) = events.superseded(file).await?;
            self.taken_back.extend(rejects::coordinates(stream, &batch, &rows));
            let mut read = reader.read(&batch, &rows, true)?;
            read.rejects.clear();
            self.add(read, mentions, -1)?;
        }
        Ok(())
    }

    fn add(&mut self, read: Read, mentions: &mut Mentions, sign: i64) -> Result<()> {
        self.changes.extend(read.changes);
        self.rejects.extend(read.rejects);
        for (durable, natural) in read.mentions {
            mentions.add(&durable, &natural, sign).map_err(Error::columns("mentions"))?;
        }
        Ok(())
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
        let sources = sources.map(|(index, source)| Ok((index, decoder(&source.definition, &source.need)?)));
        let mut children = Vec::new();
        for model in &dimension.mentions {
            let Model::Dimension(child) = model else { continue };
            for (source, definition) in child.sources.iter().enumerate().filter(|(_, s)| s.stream == stream) {
                let decoder = decoder(&definition.definition, &definition.need)?;
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
        for (index, decoder) in &self.sources {
            let decoded = decoder.decode(batch, counts)?;
            let mut rejects = decoded.rejects.clone();
            let rows = change_rows(&self.dimension, *index, batch, &decoded, taken_back, &mut rejects)?;
            read.changes.push(rows);
            if !rejects.is_empty() {
                read.rejects.push(rejects::rows(&self.stream, batch, &rejects)?);
            }
        }
        for Child { dimension, source, decoder } in &self.children {
            let decoded = decoder.decode(batch, counts)?;
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
    let there = |columns: &BTreeSet<String>, row: usize| {
        let mut read = columns.iter().filter_map(|name| schema.index_of(name).ok()).peekable();
        read.peek().is_none() || read.any(|index| decoded.present[index].value(row))
    };
    for (index, expression) in &source.set {
        let attribute = &dimension.attributes[*index];
        let (computed, failed) = expression.evaluate(&input);
        errors.extend(failed);
        values[*index] = cast_rows(&computed, &attribute.field_type.arrow(), &attribute.name, &mut errors);
        (0..rows).filter(|&row| there(expression.columns(), row)).for_each(|row| present[row][*index] = b'1');
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

/// The rows of each bucket. What is split is let go, so that few rows are there twice.
fn by_bucket(dimension: &Dimension, batches: Vec<RecordBatch>, bits: u32) -> Result<BTreeMap<u32, Vec<RecordBatch>>> {
    let failed = || Error::columns(format!("changes of {}", dimension.name));
    let mut buckets: BTreeMap<u32, Vec<RecordBatch>> = BTreeMap::new();
    for batch in batches {
        let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, &durable) in batch.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
            rows.entry(bucket(durable, bits)).or_default().push(row as u32);
        }
        for (group, rows) in rows {
            let taken = take_record_batch(&batch, &UInt32Array::from(rows)).map_err(failed())?;
            buckets.entry(group).or_default().push(taken);
        }
    }
    Ok(buckets)
}
