//! The versions of a dimension: the fold of its change log, bucket by bucket.
//!
//! A bucket is a large file and small ones beside it. A build folds the members with new changes and compares what comes out
//! with the rows that they had:
//!
//! ```text
//! version was there, is another now     its columns that differ are written anew, the file's others are copied
//! version was not there                 goes into a small file, together with the rows of small files there are
//! version is gone                       the file's rows go into the new one
//! ```
//!
//! A reference to versions of a parent splits what is folded (see [`super::as_of`]): where a parent's versions are others now,
//! the members that refer to it are folded, too.
//!
//! So what is encoded follows from what has changed. A small file that has grown to a quarter of the large one has both
//! written as one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt32Array, new_null_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat_batches, filter_record_batch, interleave, or, take_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, Schema, TimestampMicrosecondType};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};
use starmere_lake::catalog::Pin;
use starmere_lake::delta::{Add, FileOptions, Remove, Snapshot, Table, Wanted};
use starmere_lake::events::timestamp;
use starmere_lake::paths;

use super::changes::CHANGES;
use super::index::{Affected, ByKey, Index, Members, Sieve, those};
use super::log::{SETTING, bucket_bits};
use super::{Action, BEGINNING, Dimension, END, FIRST_KEY, as_of, fold};
use crate::build::{Builder, Built};
use crate::define::ModelName;
use crate::derived::{Change, DEFINITION, Derived, consumed, small_file};
use crate::keys::{UNKNOWN, append_values};
use crate::resolve::Model;
use crate::{Error, Result};

/// The part of a dimension that is its rows.
pub const VERSIONS: &str = "rows";

/// Buckets that are folded side by side.
const SIDE_BY_SIDE: usize = 2;
/// The same, of those of which a few members are folded: some wait for the store while others are encoded.
const OF_CHANGES_SIDE_BY_SIDE: usize = 4;
/// A bucket's new file is small, or not larger than its largest one divided by this: else there will be one of all its
/// rows.
const SHARE: u64 = 4;

/// Folds what is new in the change log into the versions.
pub async fn build_versions(
    builder: &Builder,
    dimension: &Arc<Dimension>,
    changes_pin: &Pin,
    pins: &BTreeMap<String, Pin>,
) -> Result<Built> {
    let input = format!("{}/{CHANGES}", dimension.name);
    let mut inputs: BTreeMap<String, u64> = [(input.clone(), changes_pin.version)].into();
    for parent in dimension.inputs() {
        inputs.insert(parent.to_string(), pin_of(pins, dimension, parent)?.version);
    }
    let mut versions = builder.derived(&dimension.name, &dimension.fingerprint, VERSIONS).await?;
    let mut built = Built::default();
    if !versions.is_current(&inputs)? {
        let from = versions.consumed(&input);
        let log = builder.warehouse().table(changes_pin.path.clone());
        let log_snapshot = log.snapshot_at(changes_pin.version).await?;
        let bits = bucket_bits(&log_snapshot);
        let definition = (DEFINITION, Model::Dimension(dimension.clone()).made_by().to_string());
        versions.create(&dimension.schema(), &[(SETTING, bits.to_string()), definition]).await?;
        let mut affected = match from {
            None => None,
            Some(from) => Some(by_bucket(&log, from, changes_pin.version, dimension.key.len()).await?),
        };
        let parents = Arc::new(Parent::all(builder, dimension, &versions, pins).await?);
        if let Some(affected) = &mut affected {
            children(dimension, &versions, &parents, affected).await?;
        }
        let mut buckets = Vec::new();
        for group in 0..1_u32 << bits {
            let changed = affected.as_mut().map(|affected| affected.remove(&group));
            if matches!(changed, Some(None)) {
                continue;
            }
            buckets.push(Bucket {
                dimension: dimension.clone(),
                group,
                changed: changed.flatten(),
                log: log.clone(),
                changes: of_group(&log_snapshot, group),
                versions: versions.clone(),
                parents: parents.clone(),
            });
        }
        let progress = builder.progress(&dimension.name);
        progress.begin("folding", buckets.len() as u64);
        let mut change = Change::default();
        let at_once = builder.scaled(if from.is_some() { OF_CHANGES_SIDE_BY_SIDE } else { SIDE_BY_SIDE });
        let mut rewritten = futures::stream::iter(buckets).map(Bucket::rewrite).buffered(at_once);
        while let Some(bucket) = rewritten.try_next().await? {
            change.adds.extend(bucket.adds);
            change.removes.extend(bucket.removes);
            built.rows_written += bucket.rows;
            progress.add(1);
        }
        versions.commit(change, &inputs).await?;
    }
    built.rows = versions.snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
    built.pins.insert(dimension.name.to_string(), versions.pin(&inputs)?);
    Ok(built)
}

fn of_group(snapshot: &Snapshot, group: u32) -> Vec<Arc<Add>> {
    snapshot.files().filter(|add| paths::file_group(&add.path) == Some(group)).cloned().collect()
}

/// Members of which a change log says something new.
#[derive(Default)]
struct Changed {
    members: Members,
    /// Of these only that they are mentioned more often, with their natural keys. Who is there already stays as they are.
    mentioned: ByKey<Box<[u8]>>,
}

/// Of whom a change log says something new between two of its versions, by bucket. Natural keys have so many `parts`.
async fn by_bucket(log: &Table, from: u64, to: u64, parts: usize) -> Result<HashMap<u32, Changed>> {
    let snapshot = log.snapshot_at(to).await?;
    let fields = snapshot.schema().fields();
    // The member, the action, the number.
    let fields = fields[..3].iter().chain(&fields[FIRST_KEY..FIRST_KEY + parts]).cloned();
    let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut affected: HashMap<u32, Changed> = HashMap::new();
    for commit in log.commits(from, to).await? {
        for add in commit.added() {
            let batch = log.read(add, &columns).await?;
            let keys = batch.column(0).as_primitive::<Int64Type>().values();
            let actions = batch.column(1).as_primitive::<Int32Type>().values();
            let numbers = batch.column(2).as_primitive::<Int64Type>().values();
            let changed = affected.entry(paths::file_group(&add.path).unwrap_or_default()).or_default();
            for (row, &key) in keys.iter().enumerate() {
                let is_mention = actions[row] == Action::Mention as i32 && numbers[row] > 0;
                let natural = || natural(&batch.columns()[3..], row);
                // Two members with one key are told when they are folded.
                if !is_mention || *changed.mentioned.entry(key).or_insert_with(natural) != natural() {
                    changed.members.insert(key);
                }
            }
        }
    }
    Ok(affected)
}

/// The bytes of a natural key.
fn natural(columns: &[ArrayRef], row: usize) -> Box<[u8]> {
    let mut bytes = Vec::new();
    append_values(&mut bytes, columns, row);
    bytes.into()
}

/// The members of a dimension whose versions may be others than in its table `before`; none where nothing says so.
pub(crate) async fn changed_since(
    builder: &Builder,
    name: &ModelName,
    before: &Snapshot,
    pins: &BTreeMap<String, Pin>,
) -> Result<Option<Arc<Members>>> {
    let input = format!("{name}/{CHANGES}");
    // Where a parent's versions open some too, the change log does not tell of all.
    let follows_its_log = pins.get(&name.to_string()).is_some_and(|pin| pin.consumed.len() == 1);
    let (Some(log), Some(from), true) = (pins.get(&input), consumed(before, &input), follows_its_log) else {
        return Ok(None);
    };
    let table = builder.warehouse().table(log.path.clone());
    let by_bucket = by_bucket(&table, from, log.version, 0).await?;
    let members =
        by_bucket.into_values().flat_map(|changed| changed.members.into_iter().chain(changed.mentioned.into_keys()));
    Ok(Some(Arc::new(members.collect())))
}

fn pin_of<'a>(pins: &'a BTreeMap<String, Pin>, dimension: &Dimension, parent: &ModelName) -> Result<&'a Pin> {
    let pin = pins.get(&parent.to_string());
    pin.ok_or_else(|| Error::Task(format!("`{parent}` is built before `{}`", dimension.name)))
}

/// A dimension whose versions open versions of this one.
struct Parent {
    /// Which reference it is, by place.
    reference: usize,
    table: Table,
    snapshot: Arc<Snapshot>,
    /// Whose versions are others now than when this one's were made; none where nothing was made.
    affected: Option<Affected>,
    /// All of its versions, where all members are folded.
    index: Option<Arc<Index>>,
}

impl Parent {
    async fn all(
        builder: &Builder,
        dimension: &Dimension,
        versions: &Derived,
        pins: &BTreeMap<String, Pin>,
    ) -> Result<Vec<Self>> {
        let mut parents = Vec::new();
        for (place, reference) in dimension.references.iter().enumerate().filter(|(_, of)| of.as_of_version) {
            let name = &reference.target;
            let pin = pin_of(pins, dimension, name)?;
            let table = builder.warehouse().table(pin.path.clone());
            let snapshot = table.snapshot_at(pin.version).await?;
            let (affected, index) = match versions.consumed(&name.to_string()) {
                None => (None, Some(builder.index(&table, &snapshot, &name.name).await?)),
                Some(before) => {
                    let before = table.snapshot_at(before).await?;
                    let changed = changed_since(builder, name, &before, pins).await?;
                    let affected = Index::affected(&table, &before, &snapshot, &name.name, changed.as_ref()).await?;
                    (Some(affected), None)
                }
            };
            parents.push(Self { reference: place, table, snapshot, affected, index });
        }
        Ok(parents)
    }
}

/// Adds the members that refer to a parent whose versions are others now.
async fn children(
    dimension: &Dimension,
    versions: &Derived,
    parents: &[Parent],
    affected: &mut HashMap<u32, Changed>,
) -> Result<()> {
    let Some(snapshot) = &versions.snapshot else { return Ok(()) };
    for parent in parents {
        let Some(moved) = parent.affected.as_ref().filter(|affected| !affected.is_empty()) else { continue };
        let moved = those(&Arc::new(moved.members().collect()));
        let column = dimension.references[parent.reference].durable_column();
        let durable = Arc::new(Schema::new(vec![dimension.schema().field(1).clone()]));
        for add in snapshot.files() {
            let found = versions.table.read_where(add, &durable, &column, &moved).await?;
            let found = found.column(0).as_primitive::<Int64Type>().values();
            if !found.is_empty() {
                let changed = affected.entry(paths::file_group(&add.path).unwrap_or_default()).or_default();
                changed.members.extend(found);
            }
        }
    }
    Ok(())
}

/// One bucket's rewriting.
struct Bucket {
    dimension: Arc<Dimension>,
    group: u32,
    /// The members to fold anew; all where it is none.
    changed: Option<Changed>,
    log: Table,
    /// The files of its change log.
    changes: Vec<Arc<Add>>,
    versions: Derived,
    parents: Arc<Vec<Parent>>,
}

/// What a bucket's rewriting comes to.
#[derive(Default)]
struct Rewritten {
    adds: Vec<Add>,
    removes: Vec<Remove>,
    rows: u64,
}

/// A file of the bucket's versions.
struct Piece {
    add: Arc<Add>,
    /// Its rows of affected members: where they are in it, what they are, and which of the folded ones is the same version
    /// (known once these are).
    places: Vec<usize>,
    old: RecordBatch,
    new: Vec<Option<u32>>,
}

impl Piece {
    /// Its versions are all there still.
    fn is_whole(&self) -> bool {
        self.new.iter().all(Option::is_some)
    }
}

impl Bucket {
    async fn rewrite(mut self) -> Result<Rewritten> {
        let changed = self.changed.take();
        let bucket = Arc::new(self);
        let Some(Changed { mut members, mut mentioned }) = changed else {
            let folded = bucket.folded(None).await?;
            let add = bucket.write(vec![folded]).await?;
            return Ok(Rewritten {
                rows: add.iter().filter_map(Add::rows).sum(),
                adds: add.into_iter().collect(),
                removes: vec![],
            });
        };
        let of_group = bucket.versions.snapshot.as_ref().map(|snapshot| of_group(snapshot, bucket.group));
        let of_group = of_group.unwrap_or_default().into_iter();
        let files = try_join_all(of_group.map(|add| spawned(bucket.clone().with_keys(add)))).await?;
        for (add, keys) in &files {
            bucket.who_is_there(add, keys, &mut mentioned).await?;
        }
        members.extend(mentioned.into_keys());
        if members.is_empty() {
            return Ok(Rewritten::default());
        }
        let members = &Arc::new(members);
        let wanted = those(members);
        let pieces = files.into_iter().map(|(add, keys)| spawned(bucket.clone().piece(add, keys, wanted.clone())));
        let (folded, mut pieces) = tokio::try_join!(bucket.folded(Some(&wanted)), try_join_all(pieces))?;
        let by_version: HashMap<(i64, i64), u32> = versions(&folded).zip(0..).collect();
        for piece in &mut pieces {
            piece.new = versions(&piece.old).map(|version| by_version.get(&version).copied()).collect();
        }
        let fewest = bucket.versions.snapshot.as_ref().map_or(0, |snapshot| small_file(snapshot));
        let rows = |piece: &Piece| piece.add.rows().unwrap_or_default();
        let largest = pieces.iter().map(rows).max().unwrap_or_default();
        let is_rewritten = |piece: &Piece| rows(piece) < fewest || !piece.is_whole();
        let in_place: HashSet<u32> = pieces
            .iter()
            .filter(|piece| !is_rewritten(piece))
            .flat_map(|piece| piece.new.iter().flatten().copied())
            .collect();
        let small: u64 = pieces.iter().filter(|piece| is_rewritten(piece)).map(rows).sum();
        let new = small + (folded.num_rows() - in_place.len()) as u64;
        let is_all = new >= fewest && new * SHARE > largest;
        let mut rewritten = Rewritten::default();
        let mut together = Vec::new();
        let (gone, stay): (Vec<&Piece>, Vec<&Piece>) = pieces.iter().partition(|piece| is_all || is_rewritten(piece));
        for piece in gone {
            together.push(bucket.others(&piece.add, members).await?);
            rewritten.removes.push(piece.add.remove());
        }
        let is_new: BooleanArray =
            (0..folded.num_rows() as u32).map(|row| Some(is_all || !in_place.contains(&row))).collect();
        together.push(filter_record_batch(&folded, &is_new).map_err(bucket.columns())?);
        let spliced = try_join_all(stay.into_iter().map(|piece| bucket.spliced(piece, &folded)));
        let (spliced, add) = tokio::try_join!(spliced, bucket.write(together))?;
        for (remove, add, changed) in spliced.into_iter().flatten() {
            rewritten.removes.push(remove);
            rewritten.adds.push(add);
            rewritten.rows += changed;
        }
        rewritten.rows += add.iter().filter_map(Add::rows).sum::<u64>();
        rewritten.adds.extend(add);
        Ok(rewritten)
    }

    /// A file of the versions, and whose each of its rows is.
    async fn with_keys(self: Arc<Self>, add: Arc<Add>) -> Result<(Arc<Add>, ScalarBuffer<i64>)> {
        let durable = Arc::new(Schema::new(vec![self.dimension.schema().field(1).clone()]));
        let keys = self.versions.table.read(&add, &durable).await?;
        Ok((add, keys.column(0).as_primitive::<Int64Type>().values().clone()))
    }

    fn columns(&self) -> impl FnOnce(arrow::error::ArrowError) -> Error + use<> {
        Error::columns(self.dimension.name.to_string())
    }

    fn durable(&self) -> String {
        format!("{}_durable_key", self.dimension.name.name)
    }

    /// The rows of the members that are folded; where that is all of them, those that stand for no member as well.
    async fn folded(self: &Arc<Self>, members: Option<&Wanted>) -> Result<RecordBatch> {
        let schema = self.dimension.changes_schema();
        let changes = self.changes.iter().map(|add| {
            let (log, add, schema, members) = (self.log.clone(), add.clone(), schema.clone(), members.cloned());
            spawned(async move {
                Ok(match members {
                    Some(members) => log.read_where(&add, &schema, "durable_key", &members).await?,
                    None => log.read(&add, &schema).await?,
                })
            })
        });
        let changes = try_join_all(changes).await?;
        let (bucket, is_all) = (self.clone(), members.is_none());
        let task = tokio::task::spawn_blocking(move || {
            let changes = concat_batches(&schema, &changes).map_err(bucket.columns())?;
            let mut rows = vec![fold(&bucket.dimension, &changes)?];
            if is_all && bucket.group == 0 {
                for (key, label) in bucket.dimension.members.rows() {
                    rows.push(special_member(&bucket.dimension, key, label)?);
                }
            }
            concat_batches(&bucket.dimension.schema(), &rows).map_err(bucket.columns())
        });
        let mut folded = task.await.map_err(|error| Error::Task(error.to_string()))??;
        for parent in self.parents.iter() {
            let reference = &self.dimension.references[parent.reference];
            let index = match &parent.index {
                Some(index) => index.clone(),
                None => {
                    let referred = Arc::new(as_of::referred(&folded, reference).collect());
                    let (table, name) = (&parent.table, &reference.target.name);
                    Arc::new(Index::load(table, &parent.snapshot, name, Some(&referred)).await?)
                }
            };
            folded = as_of::split(&self.dimension, reference, &folded, &index).map_err(self.columns())?;
        }
        Ok(folded)
    }

    /// Takes those out of `mentioned` who have rows in a file. Who has the key of another member stays, and is told when folded.
    async fn who_is_there(&self, add: &Add, keys: &[i64], mentioned: &mut ByKey<Box<[u8]>>) -> Result<()> {
        let sieve = Sieve::of(mentioned.keys());
        let is_first = |row: usize| row == 0 || keys[row] != keys[row - 1];
        let is_mentioned = |row: usize| sieve.may_have(keys[row]) && mentioned.contains_key(&keys[row]);
        let places: Vec<usize> = (0..keys.len()).filter(|&row| is_mentioned(row) && is_first(row)).collect();
        let columns = Schema::new(self.dimension.schema().fields()[2..2 + self.dimension.key.len()].to_vec());
        let found = self.versions.table.read_at(add, &Arc::new(columns), &places).await?;
        for (row, place) in places.into_iter().enumerate() {
            if mentioned.get(&keys[place]).is_some_and(|key| *key == natural(found.columns(), row)) {
                mentioned.remove(&keys[place]);
            }
        }
        Ok(())
    }

    /// What a file has of members that are folded.
    async fn piece(self: Arc<Self>, add: Arc<Add>, keys: ScalarBuffer<i64>, is_wanted: Wanted) -> Result<Piece> {
        let places: Vec<usize> = (0..keys.len()).filter(|&row| is_wanted(keys[row])).collect();
        let old = self.versions.table.read_at(&add, &self.dimension.schema(), &places).await?;
        Ok(Piece { add, places, old, new: Vec::new() })
    }

    /// The rows of a file that are not folded.
    async fn others(&self, add: &Add, members: &Arc<Members>) -> Result<RecordBatch> {
        let batch = self.versions.table.read(add, &self.dimension.schema()).await?;
        let durable = batch.column(1).as_primitive::<Int64Type>().values();
        let mask: BooleanArray = durable.iter().map(|key| Some(!members.contains(key))).collect();
        filter_record_batch(&batch, &mask).map_err(self.columns())
    }

    /// The file with the values that its versions have now, and how many of them changed; none where nothing did.
    async fn spliced(&self, piece: &Piece, folded: &RecordBatch) -> Result<Option<(Remove, Add, u64)>> {
        let rows: UInt32Array = piece.new.iter().copied().collect();
        let new = take_record_batch(folded, &rows).map_err(self.columns())?;
        let (mut changed, mut differing) = (BooleanArray::from(vec![false; rows.len()]), Vec::new());
        for (column, field) in new.schema().fields().iter().enumerate() {
            let differs = distinct(piece.old.column(column), new.column(column)).map_err(self.columns())?;
            if differs.true_count() > 0 {
                changed = or(&changed, &differs).map_err(self.columns())?;
                differing.push((column, field.clone()));
            }
        }
        if differing.is_empty() {
            return Ok(None);
        }
        let (schema, table) = (self.dimension.schema(), &self.versions.table);
        let fields: Vec<_> = differing.iter().map(|(_, field)| field.clone()).collect();
        let whole = table.read(&piece.add, &Arc::new(Schema::new(fields))).await?;
        // Of each row, whether it is the file's or a folded one.
        let mut from: Vec<(usize, usize)> = (0..whole.num_rows()).map(|row| (0, row)).collect();
        for (row, &place) in piece.places.iter().enumerate() {
            from[place] = (1, row);
        }
        let values = whole.columns().iter().zip(&differing);
        let values = values.map(|(whole, (column, _))| interleave(&[whole, new.column(*column)], &from));
        let values = values.collect::<Result<Vec<_>, _>>().map_err(self.columns())?;
        let replaced = RecordBatch::try_new(whole.schema(), values).map_err(self.columns())?;
        let add = table.with_columns(&piece.add, &schema, replaced, self.options()).await?;
        Ok(Some((piece.add.remove(), add, changed.true_count() as u64)))
    }

    fn options(&self) -> FileOptions {
        FileOptions { bloom: vec![self.durable()], row_group: 1 << 17, ..FileOptions::default() }
    }

    /// Writes rows as one file, in the order of members and time.
    async fn write(self: &Arc<Self>, rows: Vec<RecordBatch>) -> Result<Option<Add>> {
        let bucket = self.clone();
        let task = tokio::task::spawn_blocking(move || bucket.sorted(&rows));
        let sorted = task.await.map_err(|error| Error::Task(error.to_string()))??;
        self.versions.write(vec![sorted], self.options(), Some(self.group)).await
    }

    fn sorted(&self, rows: &[RecordBatch]) -> Result<RecordBatch> {
        let whole = concat_batches(&self.dimension.schema(), rows).map_err(self.columns())?;
        let mut order: Vec<((i64, i64), u32)> = versions(&whole).zip(0..).collect();
        order.sort_unstable();
        let order: UInt32Array = order.into_iter().map(|(_, row)| row).collect();
        take_record_batch(&whole, &order).map_err(self.columns())
    }
}

/// Does the work on a thread of the runtime's, beside others.
async fn spawned<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|error| Error::Task(error.to_string()))?
}

/// Which versions the rows of a dimension are: of whom, and from when.
fn versions(rows: &RecordBatch) -> impl Iterator<Item = (i64, i64)> {
    let durable = rows.column(1).as_primitive::<Int64Type>().values().clone();
    let from = rows.column(rows.num_columns() - 5).as_primitive::<TimestampMicrosecondType>().values().clone();
    (0..durable.len()).map(move |row| (durable[row], from[row]))
}

/// A row that stands for no member; its attributes that are texts say so.
fn special_member(dimension: &Dimension, key: i64, label: Option<&str>) -> Result<RecordBatch> {
    let schema = dimension.schema();
    let whole = |key: i64| -> ArrayRef { Arc::new(Int64Array::from(vec![key])) };
    let own = [format!("{}_key", dimension.name.name), format!("{}_durable_key", dimension.name.name)];
    let is_natural = |name: &str| dimension.key.iter().any(|(key, _)| key == name);
    let time = |at: i64| -> ArrayRef {
        Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![at]).with_timezone("UTC"))
    };
    let flag = |value: bool| -> ArrayRef { Arc::new(BooleanArray::from(vec![value])) };
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "valid_from" => time(BEGINNING),
        "valid_to" => time(END),
        "is_current" => flag(true),
        "is_deleted" | "is_inferred" => flag(false),
        name if own.iter().any(|own| own == name) => whole(key),
        name if *field.data_type() == arrow::datatypes::DataType::Utf8 && !is_natural(name) => {
            Arc::new(StringArray::from(vec![label]))
        }
        _ if field.is_nullable() => new_null_array(field.data_type(), 1),
        _ => whole(UNKNOWN),
    });
    let columns: Vec<ArrayRef> = columns.collect();
    debug_assert_eq!(*columns[schema.fields().len() - 5].data_type(), timestamp(), "valid_from is fifth from the end");
    RecordBatch::try_new(schema, columns).map_err(Error::columns(dimension.name.to_string()))
}
