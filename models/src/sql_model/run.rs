//! Bringing a SQL model's table up to date.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{SortColumn, concat_batches, filter_record_batch, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SessionContext, ident, lit};
use futures::StreamExt;
use starmere_lake::catalog::Pin;
use starmere_lake::delta::{Add, FileOptions, Snapshot};
use starmere_lake::paths;
use starmere_lake::provider::PinnedTable;

use super::query::{ByKey, key_name};
use super::{SqlModel, Strategy};
use crate::build::{Builder, Built};
use crate::define::ModelName;
use crate::derived::{Change, Derived};
use crate::expression::{cast_rows, reason};
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
/// More grains than these are not looked up one by one: all rows are computed again.
const MOST_KEYS: usize = 2_000_000;

/// An input as it was and as it is.
struct Input {
    now: Arc<Snapshot>,
    before: Option<Arc<Snapshot>>,
    added: Vec<Arc<Add>>,
    removed: Vec<Arc<Add>>,
}

impl Input {
    async fn open(builder: &Builder, pin: &Pin, consumed: Option<u64>) -> Result<Self> {
        let table = builder.warehouse().table(pin.path.clone());
        let now = table.snapshot_at(pin.version).await?;
        let Some(consumed) = consumed else { return Ok(Self { now, before: None, added: vec![], removed: vec![] }) };
        let before = table.snapshot_at(consumed).await?;
        let added = now.files().filter(|add| before.file(&add.path).is_none()).cloned().collect();
        let removed = before.files().filter(|add| now.file(&add.path).is_none()).cloned().collect();
        Ok(Self { now, before: Some(before), added, removed })
    }

    fn has_changed(&self) -> bool {
        !self.added.is_empty() || !self.removed.is_empty()
    }

    fn rows_changed(&self) -> u64 {
        self.added.iter().chain(&self.removed).filter_map(|add| add.rows()).sum()
    }
}

/// Computes again what the changes of the inputs touch.
pub(crate) async fn build(builder: &Builder, model: &Arc<SqlModel>, pins: &BTreeMap<String, Pin>) -> Result<Built> {
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
            let pin = &pins[&name.to_string()];
            opened.insert(name.clone(), Input::open(builder, pin, rows.consumed(&name.to_string())).await?);
        }
        built.rows_read = opened.values().map(|input| input.rows_changed()).sum();
        let largest = opened.values().filter_map(|input| input.now.rows()).max().unwrap_or_default();
        let bits = largest.div_ceil(BUCKET_ROWS).max(1).next_power_of_two().ilog2().min(MAX_BUCKET_BITS);
        let is_new = inputs.keys().any(|input| rows.consumed(input).is_none());
        let snapshot = rows.create(&model.schema(), &[(SETTING, bits.to_string())]).await?;
        let bits = snapshot.setting(SETTING).and_then(|bits| bits.parse().ok()).unwrap_or(0).min(MAX_BUCKET_BITS);
        let work = Work { builder, model: model.clone(), inputs: opened, snapshot, bits };
        let mut change = Change::default();
        let touched = match (is_new, work.inputs.values().any(Input::has_changed)) {
            (true, _) => None,
            (false, false) => Some(Touched::default()),
            (false, true) => work.touched().await?,
        };
        match touched {
            None => built.rows_written = work.whole(&rows, &mut change).await?,
            Some(touched) => {
                (built.rows_written, built.rows_mended) = work.replace(&rows, touched, &mut change).await?
            }
        }
        rows.commit(change, &inputs).await?;
    }
    built.rows = rows.snapshot.as_ref().and_then(|snapshot| snapshot.rows()).unwrap_or_default();
    built.pins.insert(model.name.to_string(), rows.pin(&inputs)?);
    Ok(built)
}

/// Grains that changes touch.
#[derive(Default)]
struct Touched {
    /// As the query has them.
    batches: Vec<RecordBatch>,
    /// As the table has them.
    rows: HashSet<OwnedRow>,
}

struct Work<'a> {
    builder: &'a Builder,
    model: Arc<SqlModel>,
    inputs: HashMap<ModelName, Input>,
    /// Of the table before.
    snapshot: Arc<Snapshot>,
    bits: u32,
}

impl Work<'_> {
    fn failed(&self, error: &DataFusionError) -> Error {
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

    /// The rows of an input that came or went.
    async fn changed(&self, session: &SessionContext, input: &Input) -> Result<Arc<dyn TableProvider>> {
        let store = self.builder.warehouse().store();
        let of = |snapshot: &Arc<Snapshot>, files: &[Arc<Add>]| {
            Arc::new(PinnedTable::of(store, snapshot.clone(), files.to_vec())) as Arc<dyn TableProvider>
        };
        let added = of(&input.now, &input.added);
        let Some(before) = input.before.as_ref().filter(|_| !input.removed.is_empty()) else { return Ok(added) };
        let schema = added.schema();
        // A file that was rewritten has most of its rows still.
        let signed = |table: Arc<dyn TableProvider>, sign: i64| {
            let columns = schema.fields().iter().map(|field| ident(field.name()));
            session.read_table(table)?.select(columns.chain([lit(sign).alias(SIGN)]).collect::<Vec<_>>())
        };
        let differing = || {
            let columns: Vec<_> = schema.fields().iter().map(|field| ident(field.name())).collect();
            let both = signed(added.clone(), 1)?.union(signed(of(before, &input.removed), -1)?)?;
            let summed = both.aggregate(columns.clone(), vec![sum(ident(SIGN)).alias(SIGN)])?;
            summed.filter(ident(SIGN).not_eq(lit(0_i64)))?.select(columns)
        };
        let rows = differing().map_err(|error| self.failed(&error))?.collect().await;
        let rows = rows.map_err(|error| self.failed(&error))?;
        let rows = rows.into_iter().map(|batch| RecordBatch::try_new(schema.clone(), batch.columns().to_vec()));
        let rows = rows.collect::<Result<Vec<_>, _>>().map_err(self.columns())?;
        let table = MemTable::try_new(schema, vec![rows]).map_err(|error| self.failed(&error))?;
        Ok(Arc::new(table))
    }

    /// The grains that changes touch; none where all rows have to be computed again.
    async fn touched(&self) -> Result<Option<Touched>> {
        let Strategy::ByKey(by_key) = &self.model.query.strategy else { return Ok(None) };
        let changed_rows: u64 = self.inputs.values().map(Input::rows_changed).sum();
        let all_rows: u64 = self.inputs.values().filter_map(|input| input.now.rows()).sum();
        if changed_rows > all_rows {
            return Ok(None);
        }
        let session = self.builder.session()?;
        let mut changed: HashMap<&ModelName, Arc<dyn TableProvider>> = HashMap::new();
        for (name, input) in self.inputs.iter().filter(|(_, input)| input.has_changed()) {
            changed.insert(name, self.changed(&session, input).await?);
        }
        let mut touched = Touched::default();
        let converter = self.converter()?;
        for (place, name) in self.model.query.scans.iter().enumerate() {
            let Some(rows) = changed.get(name) else { continue };
            let table = |at: usize, model: &ModelName| match at.cmp(&place) {
                std::cmp::Ordering::Less => self.now(model),
                std::cmp::Ordering::Equal => rows.clone(),
                std::cmp::Ordering::Greater => self.before(model),
            };
            let plan = by_key.touched(place, table).map_err(|error| self.failed(&error))?;
            let Some(plan) = plan else { return Ok(None) };
            let mut found = self.execute(&session, plan).await?;
            while let Some(batch) = found.next().await {
                let batch = batch.map_err(|error| self.failed(&error))?;
                let keys = converter.convert_columns(self.keys(&batch)?.columns()).map_err(self.columns())?;
                let new: BooleanArray = keys.iter().map(|key| Some(touched.rows.insert(key.owned()))).collect();
                touched.batches.push(filter_record_batch(&batch, &new).map_err(self.columns())?);
                if touched.rows.len() > MOST_KEYS {
                    return Ok(None);
                }
            }
        }
        Ok(Some(touched))
    }

    async fn execute(
        &self,
        session: &SessionContext,
        plan: LogicalPlan,
    ) -> Result<datafusion::execution::SendableRecordBatchStream> {
        let frame = session.execute_logical_plan(plan).await.map_err(|error| self.failed(&error))?;
        frame.execute_stream().await.map_err(|error| self.failed(&error))
    }

    fn grain_fields(&self) -> Vec<Field> {
        let schema = self.model.schema();
        self.model.grain.iter().filter_map(|name| schema.field_with_name(name).ok().cloned()).collect()
    }

    fn converter(&self) -> Result<RowConverter> {
        let fields = self.grain_fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        RowConverter::new(fields).map_err(self.columns())
    }

    /// Grains as the table has them.
    fn keys(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let fields = self.grain_fields().into_iter().enumerate();
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

    /// The places of the grain in the table's rows.
    fn grain(&self, batch: &RecordBatch) -> Vec<ArrayRef> {
        self.model.grain.iter().filter_map(|name| batch.column_by_name(name).cloned()).collect()
    }

    /// Splits rows by the bucket of their grain.
    fn by_bucket(&self, batch: &RecordBatch) -> Result<BTreeMap<u32, RecordBatch>> {
        if self.bits == 0 {
            return Ok([(0, batch.clone())].into());
        }
        let mut rows: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (row, hash) in keys::hashes(&self.grain(batch)).into_iter().enumerate() {
            rows.entry((hash >> (64 - self.bits)) as u32).or_default().push(row as u32);
        }
        let taken =
            rows.into_iter().map(|(group, rows)| Ok((group, take_record_batch(batch, &UInt32Array::from(rows))?)));
        taken.collect::<Result<_, _>>().map_err(self.columns())
    }

    /// Computes all rows; how many.
    async fn whole(&self, rows: &Derived, change: &mut Change) -> Result<u64> {
        let session = self.builder.session()?;
        let plan = self.model.query.over(|_, model| self.now(model)).map_err(|error| self.failed(&error))?;
        let mut answer = self.execute(&session, plan).await?;
        let (mut gathered, mut bytes, mut count): (BTreeMap<u32, Vec<RecordBatch>>, usize, u64) =
            (BTreeMap::new(), 0, 0);
        while let Some(batch) = answer.next().await {
            let batch = self.cast(&batch.map_err(|error| self.failed(&error))?, &self.model.schema())?;
            count += batch.num_rows() as u64;
            bytes += batch.get_array_memory_size();
            for (group, batch) in self.by_bucket(&batch)? {
                gathered.entry(group).or_default().push(batch);
            }
            if bytes > GATHERED_BYTES {
                self.write(rows, std::mem::take(&mut gathered), change).await?;
                bytes = 0;
            }
        }
        self.write(rows, gathered, change).await?;
        change.removes.extend(self.snapshot.files().map(|add| add.remove()));
        if !self.is_unique() {
            self.check_unique(&session, &change.adds).await?;
        }
        Ok(count)
    }

    fn is_unique(&self) -> bool {
        matches!(&self.model.query.strategy, Strategy::ByKey(by_key) if by_key.is_unique)
    }

    async fn write(
        &self,
        rows: &Derived,
        gathered: BTreeMap<u32, Vec<RecordBatch>>,
        change: &mut Change,
    ) -> Result<()> {
        for (group, batches) in gathered {
            let batch = concat_batches(&self.model.schema(), &batches).map_err(self.columns())?;
            let columns = self.grain(&batch).into_iter().map(|values| SortColumn { values, options: None });
            let order = lexsort_to_indices(&columns.collect::<Vec<_>>(), None).map_err(self.columns())?;
            let batch = take_record_batch(&batch, &order).map_err(self.columns())?;
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
        let converter = self.converter()?;
        let (schema, mut replaced) = (self.model.schema(), 0);
        for (group, batches) in &mut groups {
            let files: Vec<Arc<Add>> =
                self.snapshot.files().filter(|add| paths::file_group(&add.path) == Some(*group)).cloned().collect();
            for add in files {
                let batch = rows.table.read(&add, &schema).await?;
                let keys = converter.convert_columns(&self.grain(&batch)).map_err(self.columns())?;
                let stay: BooleanArray = keys.iter().map(|key| Some(!touched.rows.contains(&key.owned()))).collect();
                replaced += (stay.len() - stay.true_count()) as u64;
                batches.push(filter_record_batch(&batch, &stay).map_err(self.columns())?);
                change.removes.push(add.remove());
            }
        }
        self.write(rows, groups, change).await?;
        Ok((count, replaced))
    }

    /// The rows with the touched grains, into their groups; how many.
    async fn compute(
        &self,
        by_key: &ByKey,
        touched: &Touched,
        groups: &mut BTreeMap<u32, Vec<RecordBatch>>,
    ) -> Result<u64> {
        let session = self.builder.session()?;
        let schema = touched.batches.first().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        let keys = MemTable::try_new(schema, vec![touched.batches.clone()]).map_err(|error| self.failed(&error))?;
        let plan = by_key.restricted(&self.model.query, Arc::new(keys), |_, model| self.now(model));
        let mut answer = self.execute(&session, plan.map_err(|error| self.failed(&error))?).await?;
        let converter = self.converter()?;
        let (mut seen, mut count) = (HashSet::new(), 0);
        while let Some(batch) = answer.next().await {
            let batch = self.cast(&batch.map_err(|error| self.failed(&error))?, &self.model.schema())?;
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

/// Names a column that no model has.
const SIGN: &str = "$sign";
