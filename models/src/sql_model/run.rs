//! Bringing a SQL model's table up to date.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionContext, ident, lit};
use futures::{StreamExt, TryStreamExt};
use starmere_lake::catalog::Pin;
use starmere_lake::delta::{Add, FileOptions, Snapshot};
use starmere_lake::paths;
use starmere_lake::provider::PinnedTable;

use super::changed::{Changed, SIGN, difference};
use super::closure::closure;
use super::query::{ByKey, WATERMARK, key_name};
use super::sums::Sum;
use super::{LookUp, PERIODIC, SqlModel, Strategy, over};
use crate::build::{Builder, Built};
use crate::define::ModelName;
use crate::derived::{Change, DEFINITION, Derived, differing, small_file};
use crate::dimension::{Affected, Index, Members, changed_since, those};
use crate::expression::{cast_rows, reason};
use crate::keys::UNKNOWN;
use crate::resolve::Model;
use crate::{Error, Result, keys};

/// The part of a model that is its rows.
const ROWS: &str = "rows";
/// The setting of the table that says by how many bits of a hash of the grain its files are split.
const SETTING: &str = "starmere.buckets";
/// Rows of the largest input, for each bucket.
const BUCKET_ROWS: u64 = 1 << 20;
const MAX_BUCKET_BITS: u32 = 8;
/// So many bytes of rows are gathered before files are written.
const GATHERED_BYTES: usize = 256 << 20;
/// Rows in a batch where rows are large: of a periodic snapshot's query each has all of its periods in a list, before they
/// are rows; and where memory lacks.
const SMALL_BATCH_ROWS: usize = 1024;
/// More grains than these are not looked up one by one: all rows are computed again.
const MOST_KEYS: usize = 2_000_000;

/// The rows that came or went, by input; those of which none did are left out.
type Changes = HashMap<ModelName, Changed>;

/// An input as it was and as it is.
struct Input {
    now: Arc<Snapshot>,
    before: Option<Arc<Snapshot>>,
    added: Vec<Arc<Add>>,
    removed: Vec<Arc<Add>>,
    /// Of a dimension: no other members' rows came or went.
    members: Option<Arc<Members>>,
}

impl Input {
    async fn open(
        builder: &Builder,
        name: &ModelName,
        pins: &BTreeMap<String, Pin>,
        consumed: Option<u64>,
    ) -> Result<Self> {
        let pin = &pins[&name.to_string()];
        let table = builder.warehouse().table(pin.path.clone());
        let now = table.snapshot_at(pin.version).await?;
        let Some(consumed) = consumed else {
            return Ok(Self { now, before: None, added: vec![], removed: vec![], members: None });
        };
        let before = table.snapshot_at(consumed).await?;
        let added = now.files().filter(|add| before.file(&add.path).is_none()).cloned().collect();
        let removed: Vec<_> = before.files().filter(|add| now.file(&add.path).is_none()).cloned().collect();
        let members = match removed.is_empty() {
            true => None,
            false => changed_since(builder, name, &before, pins).await?,
        };
        Ok(Self { now, before: Some(before), added, removed, members })
    }

    fn has_changed(&self) -> bool {
        !self.added.is_empty() || !self.removed.is_empty()
    }

    /// How many rows more there are than before. (A file that was rewritten has most of its rows still.)
    fn rows_more(&self) -> u64 {
        let rows = |files: &[Arc<Add>]| files.iter().filter_map(|add| add.rows()).sum::<u64>();
        rows(&self.added).saturating_sub(rows(&self.removed))
    }

    /// How many rows may have come or gone.
    fn rows_changed(&self) -> u64 {
        if self.before.is_none() {
            return self.now.rows().unwrap_or_default();
        }
        self.added.iter().chain(&self.removed).filter_map(|add| add.rows()).sum()
    }
}

/// Computes again what the changes of the inputs touch.
pub(crate) async fn build(builder: &Builder, model: &Arc<SqlModel>, pins: &BTreeMap<String, Pin>) -> Result<Built> {
    match attempt(builder, model, pins, Joins::Hashed).await {
        Err(error @ Error::Memory { .. }) => {
            tracing::debug!(model = %model.name, %error, "rows are joined in order");
            attempt(builder, model, pins, Joins::Sorted).await
        }
        built => built,
    }
}

/// How rows are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joins {
    /// One side is held in memory: quick, and it must have room there.
    Hashed,
    /// Both sides are sorted, and what has no room goes to the disk.
    Sorted,
}

async fn attempt(
    builder: &Builder,
    model: &Arc<SqlModel>,
    pins: &BTreeMap<String, Pin>,
    joins: Joins,
) -> Result<Built> {
    let mut inputs: BTreeMap<String, u64> = BTreeMap::new();
    for name in model.inputs() {
        let pin = pins
            .get(&name.to_string())
            .ok_or_else(|| Error::Task(format!("`{name}` is built before `{}`", model.name)))?;
        inputs.insert(name.to_string(), pin.version);
    }
    let mut rows = builder.derived(&model.name, &model.fingerprint, ROWS).await?;
    let mut built = Built::default();
    if !rows.is_current(&inputs)? {
        let mut opened = HashMap::new();
        for name in model.inputs() {
            opened.insert(name.clone(), Input::open(builder, name, pins, rows.consumed(&name.to_string())).await?);
        }
        built.rows_read = opened.values().map(|input| input.rows_changed()).sum();
        let largest = opened.values().filter_map(|input| input.now.rows()).max().unwrap_or_default();
        let bits = largest.div_ceil(BUCKET_ROWS).max(1).next_power_of_two().ilog2().min(MAX_BUCKET_BITS);
        let is_new = inputs.keys().any(|input| rows.consumed(input).is_none());
        let definition = (DEFINITION, Model::Sql(model.clone()).made_by().to_string());
        let snapshot = rows.create(&model.schema(), &[(SETTING, bits.to_string()), definition]).await?;
        let bits = snapshot.setting(SETTING).and_then(|bits| bits.parse().ok()).unwrap_or(0).min(MAX_BUCKET_BITS);
        let look_ups = Vec::new();
        let mut work =
            Work { builder, model: model.clone(), inputs: opened, snapshot, bits, watermark: None, look_ups, joins };
        work.watermark = work.watermark(model.query.watermark(|_, model| work.now(model))).await?;
        work.look_ups = work.look_ups(pins).await?;
        builder.progress(&model.name).begin("computing", 0);
        let mut change = Change::default();
        let step = match (is_new, work.inputs.values().any(Input::has_changed)) {
            (true, _) => Step::Whole,
            (false, false) => Step::Replace(Touched::default()),
            (false, true) => work.step(&rows).await?,
        };
        let added = match step {
            Step::Add(sum) => work.add(&rows, *sum, &mut change).await?,
            Step::Replace(touched) => Some(work.replace(&rows, touched, &mut change).await?),
            Step::Whole => None,
        };
        let replaced;
        (built.rows_written, replaced) = match added {
            Some(done) => done,
            None => work.whole(&rows, &mut change).await?,
        };
        if replaced > 0 {
            built.mended.insert("replaced".to_owned(), replaced);
        }
        rows.commit(change, &inputs).await?;
    }
    built.rows = rows.snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
    built.pins.insert(model.name.to_string(), rows.pin(&inputs)?);
    Ok(built)
}

/// What a change of the inputs comes to.
enum Step {
    /// All rows are computed again.
    Whole,
    /// Those that changes touch are.
    Replace(Touched),
    /// Rows only came, and the answer is their sum: it grows by this.
    Add(Box<Sum>),
}

/// What rows are found by that changes touch: grains, or columns of them, as the table has them.
#[derive(Default)]
struct Touched {
    batches: Vec<RecordBatch>,
    rows: HashSet<OwnedRow>,
}

struct Work<'a> {
    builder: &'a Builder,
    model: Arc<SqlModel>,
    inputs: HashMap<ModelName, Input>,
    /// Of the table before.
    snapshot: Arc<Snapshot>,
    bits: u32,
    /// How far the rows go in time, where the query asks that.
    watermark: Option<ScalarValue>,
    /// The model's, in order.
    look_ups: Vec<Dimension>,
    joins: Joins,
}

/// A dimension in which keys are looked up.
struct Dimension {
    index: Arc<Index>,
    /// Members whose versions changed since the table was made.
    affected: Option<Affected>,
}

impl Work<'_> {
    fn session(&self) -> Result<SessionContext> {
        let mut state = self.builder.session()?.state();
        if self.model.kind == PERIODIC || self.joins == Joins::Sorted {
            *state.config_mut() = state.config().clone().with_batch_size(SMALL_BATCH_ROWS);
        }
        state.config_mut().options_mut().optimizer.prefer_hash_join = self.joins == Joins::Hashed;
        Ok(SessionContext::new_with_state(state))
    }

    fn failed(&self, error: &DataFusionError) -> Error {
        if let Some(damage) = starmere_lake::damage::among(error) {
            return damage.into();
        }
        let reason = reason(error);
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Error::Memory { model: self.model.name.to_string(), reason },
            _ => Error::Query { model: self.model.name.to_string(), reason },
        }
    }

    fn columns(&self) -> impl FnOnce(arrow::error::ArrowError) -> Error {
        Error::columns(self.model.name.to_string())
    }

    fn pinned(&self, snapshot: &Arc<Snapshot>) -> Arc<dyn TableProvider> {
        Arc::new(PinnedTable::new(self.builder.warehouse().store(), snapshot.clone()))
    }

    fn now(&self, model: &ModelName) -> Arc<dyn TableProvider> {
        self.pinned(&self.inputs[model].now)
    }

    fn before(&self, model: &ModelName) -> Arc<dyn TableProvider> {
        let input = &self.inputs[model];
        self.pinned(input.before.as_ref().unwrap_or(&input.now))
    }

    /// The rows of an input that came or went, in the columns that the query reads.
    async fn changed(
        &self,
        session: &SessionContext,
        name: &ModelName,
        input: &Input,
        read: &BTreeSet<String>,
    ) -> Result<Changed> {
        let store = self.builder.warehouse().store();
        let of = |snapshot: &Arc<Snapshot>, files: &[Arc<Add>]| {
            Arc::new(PinnedTable::of(store, snapshot.clone(), files.to_vec())) as Arc<dyn TableProvider>
        };
        let whole = self.pinned(&input.now).schema();
        let mut columns: Vec<String> =
            whole.fields().iter().map(|field| field.name().clone()).filter(|name| read.contains(name)).collect();
        if columns.is_empty() {
            // Rows that are only counted came or went all the same.
            columns.extend(whole.fields().first().map(|field| field.name().clone()));
        }
        let names: Vec<&str> = columns.iter().map(String::as_str).collect();
        let (came, went) = differing(input.added.clone(), input.removed.clone(), &names);
        let added = of(&input.now, &came);
        let Some(before) = input.before.as_ref().filter(|_| !went.is_empty()) else {
            return Ok(Changed { table: added, only_came: true, is_empty: came.is_empty() });
        };
        let (added, removed) = match &input.members {
            None => (added, of(before, &went)),
            Some(members) => {
                let durable = format!("{}_durable_key", name.name);
                let wanted = those(members);
                let fields = columns.iter().filter_map(|name| whole.field_with_name(name).ok().cloned());
                let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                let table = self.builder.warehouse().table(input.now.path().clone());
                let mut both: Vec<Arc<dyn TableProvider>> = Vec::new();
                for files in [&came, &went] {
                    let mut rows = Vec::new();
                    for add in files {
                        rows.push(table.read_where(add, &schema, &durable, &wanted).await?);
                    }
                    let rows = MemTable::try_new(schema.clone(), vec![rows]).map_err(|error| self.failed(&error))?;
                    both.push(Arc::new(rows));
                }
                (both.remove(0), both.remove(0))
            }
        };
        let frame = |table| session.read_table(table).map_err(|error| self.failed(&error));
        let found = difference(&whole, &columns, frame(added)?, frame(removed)?).await;
        found.map_err(|error| self.failed(&error))
    }

    async fn step(&self, rows: &Derived) -> Result<Step> {
        let Strategy::ByKey(by_key) = &self.model.query.strategy else { return Ok(Step::Whole) };
        let came: u64 = self.inputs.values().map(Input::rows_more).sum();
        let all_rows: u64 = self.inputs.values().filter_map(|input| input.now.rows()).sum();
        if came > all_rows / 2 {
            return Ok(Step::Whole);
        }
        let before = self.model.query.watermark(|_, model| self.before(model));
        if self.watermark(before).await? != self.watermark {
            return Ok(Step::Whole);
        }
        let session = self.session()?;
        let reads = self.model.query.reads(&session.state()).map_err(|error| self.failed(&error))?;
        let mut changed: Changes = HashMap::new();
        for (name, read) in &reads {
            let Some(input) = self.inputs.get(name).filter(|input| input.has_changed()) else { continue };
            let came_or_went = self.changed(&session, name, input, read).await?;
            if !came_or_went.is_empty {
                changed.insert(name.clone(), came_or_went);
            }
        }
        if let Some(sum) = self.more(by_key, &session, &changed).await? {
            return Ok(Step::Add(Box::new(sum)));
        }
        let Some(mut touched) = self.touched(by_key, &session, &changed).await? else { return Ok(Step::Whole) };
        self.rekeyed(rows, &mut touched).await?;
        Ok(Step::Replace(touched))
    }

    /// The table of a scan, while the rows that came or went of the one at `place` are looked at. Those before it in `order`
    /// are as they are now, those after it as they were.
    fn table_at(
        &self,
        at: usize,
        model: &ModelName,
        (order, place): (&[usize], usize),
        changed: &Changed,
    ) -> Arc<dyn TableProvider> {
        let turn = |place: usize| order.iter().position(|&of| of == place);
        match turn(at).cmp(&turn(place)) {
            Ordering::Less => self.now(model),
            Ordering::Equal => changed.table.clone(),
            Ordering::Greater => self.before(model),
        }
    }

    /// What rows add that came; none where one went, or the answer is no sum.
    async fn more(&self, by_key: &ByKey, session: &SessionContext, changed: &Changes) -> Result<Option<Sum>> {
        let scans = self.model.query.scans.iter().enumerate();
        let scans: Vec<_> = scans.filter_map(|(place, name)| Some((place, changed.get(name)?))).collect();
        let is_more = scans.iter().all(|&(place, changed)| changed.only_came && by_key.is_kept(place));
        if changed.is_empty()
            || !by_key.is_sum
            || !is_more
            || !self.model.look_ups.is_empty()
            || self.watermark.is_some()
        {
            return Ok(None);
        }
        let (mut batches, mut rows) = (Vec::new(), 0);
        // New versions of dimensions come first: the facts that were there meet none of them.
        let mut order: Vec<usize> = (0..self.model.query.scans.len()).collect();
        order.sort_by_key(|&place| !by_key.is_fresh(place));
        for (place, changed) in scans.into_iter().filter(|&(place, _)| !by_key.is_fresh(place)) {
            let plan = self.model.query.over(|at, model| self.table_at(at, model, (&order, place), changed));
            let mut found = self.execute(session, plan.map_err(|error| self.failed(&error))?).await?;
            while let Some(batch) = found.next().await {
                // A sum that is beyond its type may be within it together with the others.
                let Ok(batch) = batch else { return Ok(None) };
                let Ok(batch) = self.cast(&batch, &self.model.schema()) else { return Ok(None) };
                rows += batch.num_rows();
                batches.push(batch);
                if rows > MOST_KEYS {
                    return Ok(None);
                }
            }
        }
        Sum::of(&self.model.schema(), &self.model.grain, &batches).map_err(self.columns())
    }

    /// The grains that changes touch; none where all rows have to be computed again.
    async fn touched(&self, by_key: &ByKey, session: &SessionContext, changed: &Changes) -> Result<Option<Touched>> {
        let mut touched = Touched::default();
        let converter = self.converter(&self.key_names())?;
        let order: Vec<usize> = (0..self.model.query.scans.len()).collect();
        for (place, name) in self.model.query.scans.iter().enumerate() {
            let Some(changed) = changed.get(name) else { continue };
            let plan = by_key.touched(place, |at, model| self.table_at(at, model, (&order, place), changed));
            let Some(plan) = plan.map_err(|error| self.failed(&error))? else { return Ok(None) };
            let mut found = self.execute(session, plan).await?;
            while let Some(batch) = found.next().await {
                self.touch(batch.map_err(|error| self.failed(&error))?, &converter, &mut touched)?;
                if touched.rows.len() > MOST_KEYS {
                    return Ok(None);
                }
            }
        }
        Ok(Some(touched))
    }

    async fn look_ups(&self, pins: &BTreeMap<String, Pin>) -> Result<Vec<Dimension>> {
        let mut dimensions = Vec::new();
        for look_up in &self.model.look_ups {
            let (name, input) = (&look_up.dimension, &self.inputs[&look_up.dimension]);
            let table = self.builder.warehouse().table(pins[&name.to_string()].path.clone());
            let index = self.builder.index(&table, &input.now, &name.name).await?;
            let affected = match input.before.as_ref().filter(|_| input.has_changed()) {
                Some(before) => {
                    let only = input.members.as_ref();
                    Some(Index::affected(&table, before, &input.now, &name.name, only).await?)
                }
                None => None,
            };
            dimensions.push(Dimension { index, affected });
        }
        Ok(dimensions)
    }

    /// The durable keys, and the times, of rows for a look-up.
    fn mentions(look_up: &LookUp, batch: &RecordBatch) -> Option<(Int64Array, Vec<i64>)> {
        let durable = batch.column_by_name(&look_up.durable)?.as_primitive_opt::<Int64Type>()?.clone();
        let last = over(batch.column_by_name(&look_up.at)?)?.map(|over| over - 1).collect();
        Some((durable, last))
    }

    /// The rows with their keys looked up.
    fn keyed(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let (schema, mut columns) = (batch.schema(), batch.columns().to_vec());
        for (look_up, dimension) in self.model.look_ups.iter().zip(&self.look_ups) {
            let (Some((durable, times)), Ok(place)) = (Self::mentions(look_up, &batch), schema.index_of(&look_up.key))
            else {
                continue;
            };
            let keys =
                durable.iter().zip(times).map(|(durable, at)| dimension.index.key(durable.unwrap_or(UNKNOWN), at));
            columns[place] = Arc::new(Int64Array::from_iter_values(keys));
        }
        RecordBatch::try_new(schema, columns).map_err(self.columns())
    }

    /// Adds what rows are found by whose keys are others now.
    async fn rekeyed(&self, rows: &Derived, touched: &mut Touched) -> Result<()> {
        if self.look_ups.iter().all(|dimension| dimension.affected.is_none()) {
            return Ok(());
        }
        let looked = self.model.look_ups.iter().flat_map(|look_up| [&look_up.key, &look_up.durable, &look_up.at]);
        let mut names = self.key_names();
        names.extend(looked);
        names.sort();
        names.dedup();
        let narrow = Arc::new(Schema::new(self.fields(&names)));
        let converter = self.converter(&self.key_names())?;
        for add in self.snapshot.files() {
            let batch = rows.table.read(add, &narrow).await?;
            let mut mask = vec![false; batch.num_rows()];
            for (look_up, dimension) in self.model.look_ups.iter().zip(&self.look_ups) {
                let (Some(affected), Some((durable, times))) = (&dimension.affected, Self::mentions(look_up, &batch))
                else {
                    continue;
                };
                let Some(keys) =
                    batch.column_by_name(&look_up.key).and_then(|keys| keys.as_primitive_opt::<Int64Type>())
                else {
                    continue;
                };
                for (row, &at) in times.iter().enumerate() {
                    let durable = durable.value(row);
                    mask[row] |= affected.touches(durable, at) && dimension.index.key(durable, at) != keys.value(row);
                }
            }
            let batch = filter_record_batch(&batch, &BooleanArray::from(mask)).map_err(self.columns())?;
            let named = self.key_names().into_iter().enumerate();
            let named = named.filter_map(|(number, name)| {
                batch.column_by_name(name).map(|column| (key_name(number), column.clone(), true))
            });
            let keys = RecordBatch::try_from_iter_with_nullable(named).map_err(self.columns())?;
            self.touch(keys, &converter, touched)?;
        }
        Ok(())
    }

    /// Adds to what is touched.
    fn touch(&self, batch: RecordBatch, converter: &RowConverter, touched: &mut Touched) -> Result<()> {
        let keys = self.keys(&batch)?;
        let rows = converter.convert_columns(keys.columns()).map_err(self.columns())?;
        let new: BooleanArray = rows.iter().map(|key| Some(touched.rows.insert(key.owned()))).collect();
        touched.batches.push(filter_record_batch(&keys, &new).map_err(self.columns())?);
        Ok(())
    }

    /// How far the rows go in time, by a plan; none where the query does not ask.
    async fn watermark(&self, plan: PlanResult<Option<LogicalPlan>>) -> Result<Option<ScalarValue>> {
        let plan = plan.map_err(|error| self.failed(&error))?;
        let Some(plan) = plan else { return Ok(None) };
        let mut found = self.execute(&self.session()?, plan).await?;
        while let Some(batch) = found.next().await {
            let batch = batch.map_err(|error| self.failed(&error))?;
            if batch.num_rows() > 0 {
                return ScalarValue::try_from_array(batch.column(0), 0).map(Some).map_err(|error| self.failed(&error));
            }
        }
        Ok(None)
    }

    /// `plan` with the watermark in the place of its parameter.
    fn bound(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        let Some(watermark) = self.watermark.clone() else { return Ok(plan) };
        plan.with_param_values(vec![(WATERMARK, watermark)]).map_err(|error| self.failed(&error))
    }

    async fn execute(
        &self,
        session: &SessionContext,
        plan: LogicalPlan,
    ) -> Result<datafusion::execution::SendableRecordBatchStream> {
        let frame = session.execute_logical_plan(plan).await.map_err(|error| self.failed(&error))?;
        frame.execute_stream().await.map_err(|error| self.failed(&error))
    }

    /// Columns of the grain by which rows are found.
    fn key_names(&self) -> Vec<&String> {
        let grain = &self.model.grain;
        match &self.model.query.strategy {
            Strategy::ByKey(by_key) => by_key.parts.iter().map(|&part| &grain[part]).collect(),
            Strategy::Whole(_) => grain.iter().collect(),
        }
    }

    fn fields(&self, names: &[&String]) -> Vec<Field> {
        let schema = self.model.schema();
        names.iter().filter_map(|name| schema.field_with_name(name).ok().cloned()).collect()
    }

    fn converter(&self, names: &[&String]) -> Result<RowConverter> {
        let fields = self.fields(names);
        let fields = fields.iter().map(|field| SortField::new(field.data_type().clone())).collect();
        RowConverter::new(fields).map_err(self.columns())
    }

    /// What rows are found by, as the table has it.
    fn keys(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let fields = self.fields(&self.key_names()).into_iter().enumerate();
        let fields: Vec<Field> = fields.map(|(number, field)| field.with_name(key_name(number))).collect();
        self.cast(batch, &Arc::new(Schema::new(fields)))
    }

    fn cast(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let mut errors = Vec::new();
        let columns = batch.columns().iter().zip(schema.fields());
        let columns = columns.map(|(column, field)| cast_rows(column, field.data_type(), field.name(), &mut errors));
        let columns: Vec<ArrayRef> = columns.collect();
        if let Some((_, reason)) = errors.into_iter().next() {
            return Err(Error::Query { model: self.model.name.to_string(), reason });
        }
        RecordBatch::try_new(schema.clone(), columns).map_err(self.columns())
    }

    /// The grain of the table's rows.
    fn grain(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.model.grain.iter().filter_map(|name| batch.column_by_name(name).cloned()).collect()
    }

    /// What the table's rows are found by.
    fn keys_of_rows(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.key_names().into_iter().filter_map(|name| batch.column_by_name(name).cloned()).collect()
    }

    /// Splits rows by the bucket of what they are found by.
    fn by_bucket(&self, batch: &RecordBatch) -> Result<BTreeMap<u32, RecordBatch>> {
        if self.bits == 0 {
            return Ok([(0, batch.clone())].into());
        }
        let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, hash) in keys::hashes(&self.keys_of_rows(batch)).into_iter().enumerate() {
            rows.entry((hash >> (64 - self.bits)) as u32).or_default().push(row as u32);
        }
        let taken =
            rows.into_iter().map(|(group, rows)| Ok((group, take_record_batch(batch, &UInt32Array::from(rows))?)));
        taken.collect::<Result<_, _>>().map_err(self.columns())
    }

    /// Computes all rows; how many, and how many were replaced. Files stay whose rows come out the same.
    async fn whole(&self, rows: &Derived, change: &mut Change) -> Result<(u64, u64)> {
        let session = self.session()?;
        let plan = self.model.query.over(|_, model| self.now(model)).map_err(|error| self.failed(&error))?;
        let plan = self.bound(plan)?;
        let answer = self.execute(&session, plan).await?;
        let schema = self.model.schema();
        let mut batches = answer.map(|batch| self.cast(&batch.map_err(|error| self.failed(&error))?, &schema)).boxed();
        if self.model.is_closure {
            let members: Vec<RecordBatch> = batches.try_collect().await?;
            let members = concat_batches(&schema, &members).map_err(self.columns())?;
            let closed = closure(&members).map_err(self.columns())?;
            batches = futures::stream::iter([Ok(closed)]).boxed();
        }
        let (mut gathered, mut bytes, mut count): (BTreeMap<u32, Vec<RecordBatch>>, usize, u64) =
            (BTreeMap::new(), 0, 0);
        let mut is_split = false;
        while let Some(batch) = batches.try_next().await? {
            let batch = self.keyed(batch)?;
            count += batch.num_rows() as u64;
            bytes += batch.get_array_memory_size();
            for (group, batch) in self.by_bucket(&batch)? {
                gathered.entry(group).or_default().push(batch);
            }
            if bytes > self.builder.scaled(GATHERED_BYTES) {
                self.write(rows, std::mem::take(&mut gathered), change).await?;
                (bytes, is_split) = (0, true);
            }
        }
        let mut stay: HashSet<String> = HashSet::new();
        if !is_split {
            for (group, batches) in std::mem::take(&mut gathered) {
                let batch = self.sorted(&batches)?;
                let in_group = |add: &&Arc<Add>| paths::file_group(&add.path) == Some(group);
                let files: Vec<&Arc<Add>> = self.snapshot.files().filter(in_group).collect();
                if let [file] = files.as_slice()
                    && file.rows() == Some(batch.num_rows() as u64)
                    && rows.table.read(file, &schema).await? == batch
                {
                    count -= batch.num_rows() as u64;
                    stay.insert(file.path.clone());
                    continue;
                }
                gathered.insert(group, vec![batch]);
            }
        }
        self.write(rows, gathered, change).await?;
        let removed: Vec<&Arc<Add>> = self.snapshot.files().filter(|add| !stay.contains(&add.path)).collect();
        change.removes.extend(removed.iter().map(|add| add.remove()));
        if !self.is_unique() {
            self.check_unique(&session, &change.adds).await?;
        }
        Ok((count, removed.iter().filter_map(|add| add.rows()).sum()))
    }

    fn is_unique(&self) -> bool {
        matches!(&self.model.query.strategy, Strategy::ByKey(by_key) if by_key.is_unique)
    }

    /// One batch, in the order of the grain.
    fn sorted(&self, batches: &[RecordBatch]) -> Result<RecordBatch> {
        let batch = concat_batches(&self.model.schema(), batches).map_err(self.columns())?;
        let columns = self.grain(&batch).into_iter().map(|values| SortColumn { values, options: None });
        let order = lexsort_to_indices(&columns.collect::<Vec<_>>(), None).map_err(self.columns())?;
        take_record_batch(&batch, &order).map_err(self.columns())
    }

    async fn write(
        &self,
        rows: &Derived,
        gathered: BTreeMap<u32, Vec<RecordBatch>>,
        change: &mut Change,
    ) -> Result<()> {
        for (group, batches) in gathered {
            let batch = self.sorted(&batches)?;
            change.adds.extend(rows.write(vec![batch], FileOptions::default(), Some(group)).await?);
        }
        Ok(())
    }

    /// Refuses files in which two rows have one grain.
    async fn check_unique(&self, session: &SessionContext, adds: &[Add]) -> Result<()> {
        let files = adds.iter().cloned().map(Arc::new).collect();
        let table = PinnedTable::of(self.builder.warehouse().store(), self.snapshot.clone(), files);
        let grain: Vec<_> = self.model.grain.iter().map(ident).collect();
        let twice = || {
            let counted =
                session.read_table(Arc::new(table))?.aggregate(grain.clone(), vec![sum(lit(1_i64)).alias(SIGN)])?;
            counted.filter(ident(SIGN).gt(lit(1_i64)))?.select(grain)?.limit(0, Some(1))
        };
        let found = twice().map_err(|error| self.failed(&error))?.collect().await;
        match found.map_err(|error| self.failed(&error))?.iter().find(|batch| batch.num_rows() > 0) {
            Some(batch) => Err(self.not_unique(batch.columns(), 0)),
            None => Ok(()),
        }
    }

    fn not_unique(&self, grain: &[ArrayRef], row: usize) -> Error {
        let parts = self.model.grain.iter().zip(grain);
        let parts =
            parts.map(|(name, column)| format!("{name} = {}", array_value_to_string(column, row).unwrap_or_default()));
        Error::Grain { model: self.model.name.to_string(), grain: parts.collect::<Vec<_>>().join(", ") }
    }

    /// Computes the rows with the touched grains again and puts them in the place of those that had them; how many
    /// there are now, and how many there were.
    async fn replace(&self, rows: &Derived, touched: Touched, change: &mut Change) -> Result<(u64, u64)> {
        let Strategy::ByKey(by_key) = &self.model.query.strategy else { return Ok((0, 0)) };
        if touched.rows.is_empty() {
            return Ok((0, 0));
        }
        let mut groups: BTreeMap<u32, Vec<RecordBatch>> = BTreeMap::new();
        for batch in &touched.batches {
            for hash in keys::hashes(self.keys(batch)?.columns()) {
                groups.entry(if self.bits == 0 { 0 } else { (hash >> (64 - self.bits)) as u32 }).or_default();
            }
        }
        let count = self.compute(by_key, &touched, &mut groups).await?;
        let converter = self.converter(&self.key_names())?;
        let (schema, mut replaced) = (self.model.schema(), 0);
        for (group, batches) in &mut groups {
            for add in self.of_group(*group) {
                let batch = rows.table.read(&add, &schema).await?;
                let keys = converter.convert_columns(&self.keys_of_rows(&batch)).map_err(self.columns())?;
                let stay: BooleanArray = keys.iter().map(|key| Some(!touched.rows.contains(&key.owned()))).collect();
                replaced += (stay.len() - stay.true_count()) as u64;
                batches.push(filter_record_batch(&batch, &stay).map_err(self.columns())?);
                change.removes.push(add.remove());
            }
        }
        self.write(rows, groups, change).await?;
        Ok((count, replaced))
    }

    /// The files of a bucket.
    fn of_group(&self, group: u32) -> Vec<Arc<Add>> {
        self.snapshot.files().filter(|add| paths::file_group(&add.path) == Some(group)).cloned().collect()
    }

    /// Adds what rows grow by; how many rows that are, and how many of them were there. None where a sum is beyond its type.
    async fn add(&self, rows: &Derived, mut sum: Sum, change: &mut Change) -> Result<Option<(u64, u64)>> {
        let (count, mut replaced) = (sum.len() as u64, 0);
        if count == 0 {
            return Ok(Some((0, 0)));
        }
        let mut groups: BTreeMap<u32, Vec<RecordBatch>> = BTreeMap::new();
        let mut removes = Vec::new();
        for group in self.by_bucket(sum.rows())?.into_keys() {
            for add in self.of_group(group) {
                let batch = rows.table.read(&add, &self.model.schema()).await?;
                let Some((batch, changed)) = sum.add_to(&batch).map_err(self.columns())? else { return Ok(None) };
                if changed > 0 || (batch.num_rows() as u64) < small_file(&self.snapshot) {
                    removes.push(add.remove());
                    groups.entry(group).or_default().push(batch);
                    replaced += changed;
                }
            }
        }
        let Some(rest) = sum.rest().map_err(self.columns())? else { return Ok(None) };
        for (group, batch) in self.by_bucket(&rest)? {
            groups.entry(group).or_default().push(batch);
        }
        change.removes.extend(removes);
        self.write(rows, groups, change).await?;
        Ok(Some((count, replaced)))
    }

    /// The rows with the touched grains, into their groups; how many.
    async fn compute(
        &self,
        by_key: &ByKey,
        touched: &Touched,
        groups: &mut BTreeMap<u32, Vec<RecordBatch>>,
    ) -> Result<u64> {
        let session = self.session()?;
        let schema = touched.batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        let keys = MemTable::try_new(schema, vec![touched.batches.clone()]).map_err(|error| self.failed(&error))?;
        let plan = by_key.restricted(&self.model.query, Arc::new(keys), |_, model| self.now(model));
        let plan = self.bound(plan.map_err(|error| self.failed(&error))?)?;
        let mut answer = self.execute(&session, plan).await?;
        let converter = self.converter(&self.model.grain.iter().collect::<Vec<_>>())?;
        let (mut seen, mut count) = (HashSet::new(), 0);
        while let Some(batch) = answer.next().await {
            let batch = self.cast(&batch.map_err(|error| self.failed(&error))?, &self.model.schema())?;
            let batch = self.keyed(batch)?;
            count += batch.num_rows() as u64;
            if !by_key.is_unique {
                let grain = self.grain(&batch);
                let keys = converter.convert_columns(&grain).map_err(self.columns())?;
                if let Some(row) = (0..batch.num_rows()).find(|&row| !seen.insert(keys.row(row).owned())) {
                    return Err(self.not_unique(&grain, row));
                }
            }
            for (group, batch) in self.by_bucket(&batch)? {
                groups.entry(group).or_default().push(batch);
            }
        }
        Ok(count)
    }
}
