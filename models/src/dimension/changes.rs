//! The change log of a dimension: what events say about its members, in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch, take, take_record_batch};
use arrow::datatypes::Int64Type;
use starmere_lake::delta::{FileOptions, Snapshot};

use super::{Action, Dimension, FIRST_KEY};
use crate::build::{Builder, Built};
use crate::derived::{Change, Derived};
use crate::events::{Decoded, Decoder, EventChanges};
use crate::expression::{RowError, cast_rows};
use crate::keys::UNKNOWN;
use crate::resolve::Model;
use crate::{Error, Result, rejects};

/// The part of a dimension that is its change log.
pub const CHANGES: &str = "changes";

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
        let bits = count.div_ceil(BUCKET_CHANGES).next_power_of_two().ilog2().min(MAX_BUCKET_BITS);
        let snapshot = changes.create(&dimension.changes_schema(), &[(SETTING, bits.to_string())]).await?;
        let bits = bucket_bits(&snapshot);
        let mut change = Change::default();
        for (group, rows) in by_bucket(dimension, &gathered.changes, bits)? {
            let options = FileOptions { small: true, ..FileOptions::default() };
            change.adds.extend(changes.write(vec![rows], options, Some(group)).await?);
        }
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
            let reader = Arc::new(StreamReader::new(dimension, stream)?);
            for file in 0..events.len() {
                let (batch, counts) = events.read(file).await?;
                gathered.read += counts.true_count() as u64;
                let reader = reader.clone();
                let task = tokio::task::spawn_blocking(move || reader.read(&batch, &counts, false));
                let read = task.await.map_err(|error| Error::Task(error.to_string()))??;
                gathered.add(read, &mut mentions, 1);
            }
            gathered.take_back(&events, &reader, stream, &mut mentions).await?;
        }
        gathered.changes.extend(mentions.rows(dimension)?);
        Ok(gathered)
    }

    async fn take_back(
        &mut self,
        events: &EventChanges,
        reader: &StreamReader,
        stream: &str,
        mentions: &mut Mentions,
    ) -> Result<()> {
        for (batch, rows) in events.taken_back().await? {
            self.taken_back.extend(rejects::coordinates(stream, &batch, &rows));
            let mut read = reader.read(&batch, &rows, true)?;
            read.rejects.clear();
            self.add(read, mentions, -1);
        }
        Ok(())
    }

    fn add(&mut self, read: Read, mentions: &mut Mentions, sign: i64) {
        self.changes.extend(read.changes);
        self.rejects.extend(read.rejects);
        read.mentions.into_iter().for_each(|(durable, natural)| mentions.add(&durable, natural, sign));
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
    mentioning: Vec<Mentioning>,
}

/// A model whose events mention members.
enum Mentioning {
    Fact(crate::fact::Stage),
    Child { dimension: Arc<Dimension>, source: usize, decoder: Decoder },
}

impl StreamReader {
    fn new(dimension: &Arc<Dimension>, stream: &str) -> Result<Self> {
        let sources = dimension.sources.iter().enumerate().filter(|(_, source)| source.stream == stream);
        let sources = sources.map(|(index, source)| Ok((index, decoder(&source.definition, &source.need)?)));
        let mut mentioning = Vec::new();
        for model in &dimension.mentions {
            match model {
                Model::Fact(fact) => {
                    let stages = crate::fact::Stage::of(fact, stream)?;
                    mentioning.extend(stages.into_iter().map(Mentioning::Fact));
                }
                Model::Dimension(child) => {
                    for (source, definition) in child.sources.iter().enumerate().filter(|(_, s)| s.stream == stream) {
                        let decoder = decoder(&definition.definition, &definition.need)?;
                        mentioning.push(Mentioning::Child { dimension: child.clone(), source, decoder });
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            dimension: dimension.clone(),
            stream: stream.to_owned(),
            sources: sources.collect::<Result<_>>()?,
            mentioning,
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
        for mentioning in &self.mentioning {
            match mentioning {
                Mentioning::Fact(stage) => read.mentions.extend(stage.mentions(batch, counts, &self.dimension.name)?),
                Mentioning::Child { dimension, source, decoder } => {
                    let decoded = decoder.decode(batch, counts)?;
                    read.mentions.extend(child_mentions(dimension, *source, batch, &decoded, &self.dimension)?);
                }
            }
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
        let columns: BTreeSet<String> = expressions.iter().flat_map(|e| e.columns().clone()).collect();
        (0..rows).filter(|&row| there(&columns, row)).for_each(|row| present[row][place] = b'1');
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
        Arc::new(Int64Array::from(vec![0; rows])),
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

/// How often each member is mentioned, and its natural key.
#[derive(Default)]
struct Mentions {
    counts: HashMap<i64, (i64, usize, usize)>,
    natural: Vec<Vec<ArrayRef>>,
}

impl Mentions {
    fn add(&mut self, durable: &Int64Array, natural: Vec<ArrayRef>, sign: i64) {
        let batch = self.natural.len();
        let mut used = false;
        for (row, &key) in durable.values().iter().enumerate().filter(|(_, key)| **key > UNKNOWN) {
            let entry = self.counts.entry(key).or_insert_with(|| {
                used = true;
                (0, batch, row)
            });
            entry.0 += sign;
        }
        // The batch is kept only where it holds the natural key of somebody.
        self.natural.push(if used { natural } else { Vec::new() });
    }

    fn rows(self, dimension: &Dimension) -> Result<Option<RecordBatch>> {
        let mut members: Vec<(i64, i64, usize, usize)> = self
            .counts
            .into_iter()
            .filter(|(_, (count, ..))| *count != 0)
            .map(|(key, (count, batch, row))| (key, count, batch, row))
            .collect();
        if members.is_empty() {
            return Ok(None);
        }
        members.sort_unstable();
        let schema = dimension.changes_schema();
        let failed = || Error::columns("mentions");
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(members.iter().map(|member| member.0))),
            Arc::new(Int32Array::from(vec![Action::Mention as i32; members.len()])),
            Arc::new(Int64Array::from_iter_values(members.iter().map(|member| member.1))),
        ];
        columns
            .extend(schema.fields()[3..FIRST_KEY].iter().map(|field| new_null_array(field.data_type(), members.len())));
        let indices: Vec<(usize, usize)> = members.iter().map(|&(_, _, batch, row)| (batch, row)).collect();
        for part in 0..dimension.key.len() {
            let empty = new_null_array(schema.field(FIRST_KEY + part).data_type(), 0);
            let arrays: Vec<&dyn Array> = self
                .natural
                .iter()
                .map(|natural| natural.get(part).map_or(empty.as_ref(), |column| column.as_ref()))
                .collect();
            columns.push(arrow::compute::interleave(&arrays, &indices).map_err(failed())?);
        }
        let rest = schema.fields()[dimension.first_attribute()..].iter();
        columns.extend(rest.map(|field| new_null_array(field.data_type(), members.len())));
        RecordBatch::try_new(schema, columns).map(Some).map_err(failed())
    }
}

fn by_bucket(dimension: &Dimension, batches: &[RecordBatch], bits: u32) -> Result<BTreeMap<u32, RecordBatch>> {
    let failed = || Error::columns(format!("changes of {}", dimension.name));
    let whole = concat_batches(&dimension.changes_schema(), batches).map_err(failed())?;
    let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (row, &durable) in whole.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
        rows.entry(bucket(durable, bits)).or_default().push(row as u32);
    }
    let taken = rows.into_iter().map(|(group, rows)| Ok((group, take_record_batch(&whole, &UInt32Array::from(rows))?)));
    taken.collect::<Result<_, _>>().map_err(failed())
}
