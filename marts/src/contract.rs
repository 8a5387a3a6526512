//! Contracts: whether the rows keep what a port promises. Asked of the tables that are about to be published; a
//! broken promise holds its product back, and readers keep what they had.
//!
//! Types are settled when definitions are resolved. Null counts stand in the tables' statistics, exactly; of a file
//! that does not say, the rows are counted, unless it was there when the same promise was kept. Keys are counted by a
//! query over the key's columns: of new files only, and looked up in those of the others that may have them, where the
//! version published before has kept the same promise.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::common::{Column, JoinType, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::count;
use datafusion::prelude::{DataFrame, Expr, ident, lit};
use starmere_lake::delta::{Add, Snapshot, Table, hash_rows};
use starmere_lake::provider::PinnedTable;
use starmere_lake::session::Engine;

use crate::meaning::{self, Port};

/// The column of facts that says of which event a row is.
const EVENT_ID: &str = "event_id";
/// So many rows that break a contract are named, and so many of their events.
const MOST_NAMED: usize = 3;

/// What is wrong with the rows behind a port.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{port}` breaks its contract: {}", self.words())]
pub struct Breach {
    pub port: String,
    pub reason: String,
    /// Some of the rows, in all columns of the table.
    pub rows: Vec<RecordBatch>,
    /// The ids of some events that the rows are of.
    pub events: Vec<String>,
}

impl Breach {
    /// What is wrong, and some of the events that the rows are of.
    pub fn words(&self) -> String {
        let mut events: Vec<String> =
            self.events.iter().take(MOST_NAMED).map(|event| format!("event `{event}`")).collect();
        if self.events.len() > MOST_NAMED {
            events.push("others".to_owned());
        }
        match events.is_empty() {
            true => self.reason.clone(),
            false => format!("{}, of {}", self.reason, events.join(", ")),
        }
    }
}

/// Checks the rows of `snapshot`, which `told_apart` tells apart, against the promises of `port`, which those of `kept`
/// have kept. An error says that it could not be checked.
pub async fn check(
    engine: &Engine,
    table: &Table,
    snapshot: &Arc<Snapshot>,
    kept: Option<&Snapshot>,
    port: &Port,
    told_apart: &[String],
) -> datafusion::error::Result<Option<Breach>> {
    let broken = match nulls(engine, table, snapshot, kept, port).await? {
        Some(broken) => Some(broken),
        None if port.primary_key.is_empty() => None,
        None => doubles(engine, table, snapshot, kept, port).await?,
    };
    let Some(Broken { mut reason, rows: broken }) = broken else { return Ok(None) };
    // The breach is told, whether or not its rows are found.
    let rows = rows(engine, table, snapshot, broken.clone(), told_apart).await.unwrap_or_default();
    let events = events(engine, table, snapshot, broken).await.unwrap_or_default();
    reason += &named(&rows, told_apart);
    Ok(Some(Breach { port: port.full_name(), reason, rows, events }))
}

/// What is wrong, and which rows it is wrong with.
struct Broken {
    reason: String,
    rows: Expr,
}

/// Some of these rows, and one more where there are more than are named.
async fn rows(
    engine: &Engine,
    table: &Table,
    snapshot: &Arc<Snapshot>,
    broken: Expr,
    told_apart: &[String],
) -> datafusion::error::Result<Vec<RecordBatch>> {
    let table = Arc::new(PinnedTable::new(table.store(), snapshot.clone()));
    let rows = engine.session().read_table(table)?.filter(broken)?;
    let order = told_apart.iter().map(|name| ident(name.as_str()).sort(true, true)).collect();
    rows.sort(order)?.limit(0, Some(MOST_NAMED + 1))?.collect().await
}

/// `, in the rows (city: Ulm), (city: Bern)`. Nothing where all rows have one name: they break a key, which is told.
fn named(rows: &[RecordBatch], told_apart: &[String]) -> String {
    let name = |batch: &RecordBatch, row: usize| {
        let cell = |name: &String| {
            let values = batch.column_by_name(name)?;
            let value =
                if values.is_null(row) { "null".to_owned() } else { array_value_to_string(values, row).ok()? };
            Some(format!("{name}: {value}"))
        };
        format!("({})", told_apart.iter().filter_map(cell).collect::<Vec<_>>().join(", "))
    };
    let all = rows.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)));
    let mut names: Vec<String> = all.map(|(batch, row)| name(batch, row)).collect();
    let count = names.len();
    names.dedup();
    if told_apart.is_empty() || names.len() < count {
        return String::new();
    }
    if count > MOST_NAMED {
        names[MOST_NAMED] = "others".to_owned();
    }
    match names.as_slice() {
        [] => String::new(),
        [only] => format!(", in the row {only}"),
        _ => format!(", in the rows {}", names.join(", ")),
    }
}

/// The ids of events of some of these rows, and one more where there are more than are named, where the table says of
/// which events its rows are.
async fn events(
    engine: &Engine,
    table: &Table,
    snapshot: &Arc<Snapshot>,
    broken: Expr,
) -> datafusion::error::Result<Vec<String>> {
    if snapshot.schema().field_with_name(EVENT_ID).is_err() {
        return Ok(Vec::new());
    }
    let table = Arc::new(PinnedTable::new(table.store(), snapshot.clone()));
    let ids = engine.session().read_table(table)?.filter(broken)?.select(vec![ident(EVENT_ID)])?.distinct()?;
    let mut events = Vec::new();
    for batch in ids.sort(vec![ident(EVENT_ID).sort(true, true)])?.limit(0, Some(MOST_NAMED + 1))?.collect().await? {
        for row in 0..batch.num_rows() {
            events.push(array_value_to_string(batch.column(0), row)?);
        }
    }
    Ok(events)
}

async fn nulls(
    engine: &Engine,
    table: &Table,
    snapshot: &Arc<Snapshot>,
    kept: Option<&Snapshot>,
    port: &Port,
) -> datafusion::error::Result<Option<Broken>> {
    for column in promised(port) {
        let mut count = snapshot.files().filter_map(|add| add.nulls(&column.from)).find(|&count| count > 0);
        if count.is_none() {
            let uncounted = uncounted(snapshot, kept, column);
            if !uncounted.is_empty() {
                let rows = Arc::new(PinnedTable::of(table.store(), snapshot.clone(), uncounted));
                let rows = engine.session().read_table(rows)?.filter(ident(&column.from).is_null())?.count().await?;
                count = Some(rows as u64).filter(|&rows| rows > 0);
            }
        }
        if let Some(count) = count {
            let rows = if count == 1 { "row" } else { "rows" };
            let reason = format!("`{}` is never null by contract, and has no value in {count} {rows}", column.name);
            return Ok(Some(Broken { reason, rows: ident(&column.from).is_null() }));
        }
    }
    Ok(None)
}

/// The columns that are never null by contract.
fn promised(port: &Port) -> impl Iterator<Item = &meaning::Column> {
    port.columns.iter().filter(|column| !column.nullable)
}

/// The files that do not say how often a column has no value, without those that have kept the contract already.
fn uncounted(snapshot: &Snapshot, kept: Option<&Snapshot>, column: &meaning::Column) -> Vec<Arc<Add>> {
    let uncounted = snapshot.files().filter(|add| add.nulls(&column.from).is_none());
    let is_new = |add: &&Arc<Add>| !kept.is_some_and(|kept| was_there(snapshot, kept, add, &[column.from.as_str()]));
    uncounted.filter(is_new).cloned().collect()
}

/// So many rows are counted to check a port: those that are new, where the others have kept the same contract.
pub fn rows_to_count(snapshot: &Snapshot, kept: Option<&Snapshot>, port: &Port) -> u64 {
    let of_keys = match port.primary_key.is_empty() {
        true => Vec::new(),
        false => old_and_new(snapshot, kept, port).1,
    };
    let uncounted = promised(port).flat_map(|column| uncounted(snapshot, kept, column));
    of_keys.into_iter().chain(uncounted).filter_map(|add| add.rows()).sum()
}

fn column<'a>(port: &'a Port, name: &str) -> Option<&'a meaning::Column> {
    port.columns.iter().find(|column| column.name == *name)
}

/// The table's columns that are the port's key.
fn keys(port: &Port) -> Vec<&str> {
    let from = |name| column(port, name).map_or(name, |column| column.from.as_str());
    port.primary_key.iter().map(|name| from(name.as_str())).collect()
}

/// The files whose keys have kept the contract already, and the others.
fn old_and_new(snapshot: &Snapshot, kept: Option<&Snapshot>, port: &Port) -> (Vec<Arc<Add>>, Vec<Arc<Add>>) {
    let keys = keys(port);
    // Two rows without a key are two rows with one key, to a contract, but not to a join.
    let is_never_null = |name: &String| column(port, name).is_some_and(|column| !column.nullable);
    let kept = kept.filter(|_| port.primary_key.iter().all(is_never_null));
    snapshot.files().cloned().partition(|add| kept.is_some_and(|kept| was_there(snapshot, kept, add, &keys)))
}

/// Whether a file's values in these columns were in `kept`: it was there itself, or took the place of one that has the
/// same.
fn was_there(snapshot: &Snapshot, kept: &Snapshot, add: &Add, columns: &[&str]) -> bool {
    let is_gone = |file: &str| kept.file(file).is_some() && snapshot.file(file).is_none();
    kept.file(&add.path).is_some() || add.same_as(columns, is_gone).is_some()
}

async fn doubles(
    engine: &Engine,
    table: &Table,
    snapshot: &Arc<Snapshot>,
    kept: Option<&Snapshot>,
    port: &Port,
) -> datafusion::error::Result<Option<Broken>> {
    let session = engine.session();
    let keys = keys(port);
    let (old, new) = old_and_new(snapshot, kept, port);
    let rows = |files| {
        let rows = session.read_table(Arc::new(PinnedTable::of(table.store(), snapshot.clone(), files)))?;
        rows.select(keys.iter().map(|key| ident(*key)).collect::<Vec<_>>())
    };
    let new = rows(new)?;
    let count = count(lit(1)).alias("rows_with_this_key");
    let doubled = new.clone().aggregate(keys.iter().map(|key| ident(*key)).collect(), vec![count])?;
    let doubled = doubled.filter(ident("rows_with_this_key").gt(lit(1)))?;
    let mut found = first(doubled).await?;
    let old = if found.is_some() { Vec::new() } else { that_may_have(table, old, &keys, new.clone()).await? };
    if !old.is_empty() {
        let again = new.alias("new")?.join(rows(old)?.alias("old")?, JoinType::Inner, &keys, &keys, None)?;
        let shown = keys.iter().map(|key| Expr::Column(Column::new(Some("new"), *key)));
        found = first(again.select(shown.chain([lit(2)]).collect::<Vec<_>>())?).await?;
    }
    Ok(found.map(|mut values| {
        let count = values.pop().unwrap_or(ScalarValue::Null);
        let shown = |value: &ScalarValue| array_value_to_string(&value.to_array().ok()?, 0).ok();
        let shown: Vec<String> = values.iter().map(|value| shown(value).unwrap_or_default()).collect();
        let key = port.primary_key.join(", ");
        let reason = format!("({key}) tells rows apart by contract, and {count} rows have ({})", shown.join(", "));
        let has_it = |(name, value): (&&str, ScalarValue)| match value.is_null() {
            true => ident(*name).is_null(),
            false => ident(*name).eq(lit(value)),
        };
        let rows = keys.iter().zip(values).map(has_it).reduce(Expr::and).unwrap_or_else(|| lit(true));
        Broken { reason, rows }
    }))
}

/// Those of the files that may have a row with one of the keys in `new`.
async fn that_may_have(
    table: &Table,
    files: Vec<Arc<Add>>,
    keys: &[&str],
    new: DataFrame,
) -> datafusion::error::Result<Vec<Arc<Add>>> {
    if files.is_empty() {
        return Ok(files);
    }
    let mut hashes = Vec::new();
    for batch in new.collect().await? {
        match hash_rows(batch.columns()) {
            Some(more) => hashes.extend(more),
            None => return Ok(files),
        }
    }
    hashes.sort_unstable();
    let mut found = Vec::new();
    for add in files {
        let of_file = table.hashes(&add, keys).await.map_err(|error| DataFusionError::External(Box::new(error)))?;
        if of_file.is_none_or(|of_file| hashes.iter().any(|&hash| of_file.may_hold(hash))) {
            found.push(add);
        }
    }
    Ok(found)
}

/// The values of a row that the query gives, if it gives any.
async fn first(query: DataFrame) -> datafusion::error::Result<Option<Vec<ScalarValue>>> {
    for batch in query.limit(0, Some(1))?.collect().await? {
        if batch.num_rows() > 0 {
            let values = batch.columns().iter().map(|column| ScalarValue::try_from_array(column, 0));
            return Ok(Some(values.collect::<Result<_, _>>()?));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use starmere_lake::delta::{Commit, EncodedFile, FileOptions, Warehouse};
    use starmere_lake::paths::TablePath;
    use starmere_lake::store::Store;

    use super::*;

    type Rows<'a> = &'a [(Option<i64>, Option<&'a str>)];

    fn batch(rows: Rows<'_>) -> RecordBatch {
        let number = Int64Array::from_iter(rows.iter().map(|(number, _)| *number));
        let text = StringArray::from_iter(rows.iter().map(|(_, text)| *text));
        let columns: [(&str, arrow::array::ArrayRef); 2] = [("number", Arc::new(number)), ("text", Arc::new(text))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap()
    }

    async fn append(table: &Table, base: &Snapshot, rows: Rows<'_>, options: &FileOptions) -> Arc<Snapshot> {
        let batch = batch(rows);
        let add = table.upload(EncodedFile::of(&batch.schema(), &[batch], options).unwrap()).await.unwrap();
        table.commit(base, Commit { adds: vec![add], operation: "WRITE", ..Commit::default() }).await.unwrap()
    }

    fn port(key: &[&str], nullable: bool) -> Port {
        let column = |name: &str, from: &str, nullable| meaning::Column {
            name: name.into(),
            from: from.into(),
            data_type: "bigint".into(),
            nullable,
            means: None,
            description: None,
        };
        Port {
            domain: "sales".into(),
            product: "orders".into(),
            version: 1,
            name: "lines".into(),
            table: "sales.lines".into(),
            kind: "fact".into(),
            description: None,
            owner: None,
            columns: vec![column("id", "number", nullable), column("text", "text", true)],
            primary_key: key.iter().map(|name| (*name).to_owned()).collect(),
            foreign_keys: Vec::new(),
        }
    }

    /// What is said of a table of two files, the first of which has kept the contract: when the second one is new, and
    /// when all is.
    async fn said_with(port: &Port, old: Rows<'_>, new: Rows<'_>, options: &FileOptions) -> [Option<String>; 2] {
        let store = Store::memory();
        let engine = Engine::new(&store, 1 << 28).unwrap();
        let table = Warehouse::new(store.clone()).table(TablePath::stream("sales", "lines"));
        let empty = table.open_or_create(&batch(&[]).schema(), &[]).await.unwrap();
        let kept = append(&table, &empty, old, options).await;
        let snapshot = append(&table, &kept, new, options).await;
        let mut said = [None, None];
        for (said, kept) in said.iter_mut().zip([Some(kept.as_ref()), None]) {
            *said = check(&engine, &table, &snapshot, kept, port, &[]).await.unwrap().map(|breach| breach.to_string());
        }
        said
    }

    /// The same, whether or not files say which keys they may have.
    async fn said(port: &Port, old: Rows<'_>, new: Rows<'_>) -> [Option<String>; 2] {
        let columns = port.primary_key.iter().map(|name| if name == "id" { "number".to_owned() } else { name.clone() });
        let hashed = FileOptions { hashed: columns.collect(), ..FileOptions::default() };
        let said = said_with(port, old, new, &FileOptions::default()).await;
        assert_eq!(said, said_with(port, old, new, &hashed).await);
        said
    }

    #[tokio::test]
    async fn doubled_keys_are_found_wherever_they_are() {
        let old = &[(Some(1), Some("a")), (Some(2), Some("b"))];
        let breach = |key: &str, values: &str| {
            Some(format!(
                "`sales.orders_v1.lines` breaks its contract: ({key}) tells rows apart by contract, and 2 rows have \
                 ({values})"
            ))
        };
        let id = port(&["id"], false);
        assert_eq!(said(&id, old, &[(Some(3), Some("a"))]).await, [None, None]);
        for new in [&[(Some(2), Some("c"))][..], &[(Some(3), None), (Some(2), Some("c"))]] {
            assert_eq!(said(&id, old, new).await, [breach("id", "2"), breach("id", "2")], "with an old one");
        }
        assert_eq!(
            said(&id, old, &[(Some(3), None), (Some(3), None)]).await,
            [breach("id", "3"), breach("id", "3")],
            "among new ones"
        );
        let both = port(&["id", "text"], false);
        assert_eq!(said(&both, old, &[(Some(2), Some("a")), (Some(1), Some("b"))]).await, [None, None]);
        assert_eq!(
            said(&both, old, &[(Some(2), Some("b"))]).await,
            [breach("id, text", "2, b"), breach("id, text", "2, b")]
        );
        let nullable = &[(Some(1), None)];
        assert_eq!(
            said(&both, nullable, nullable).await,
            [breach("id, text", "1, "), breach("id, text", "1, ")],
            "null is a value"
        );
    }

    /// A file that was made of an old one is old as far as its key is the same.
    #[tokio::test]
    async fn keys_that_were_written_anew_are_looked_at_again() {
        for (key, is_told) in [("id", false), ("text", true)] {
            let store = Store::memory();
            let engine = Engine::new(&store, 1 << 28).unwrap();
            let table = Warehouse::new(store.clone()).table(TablePath::stream("sales", "lines"));
            let rows = &[(Some(1), Some("a")), (Some(2), Some("b"))];
            let schema = batch(rows).schema();
            let empty = table.open_or_create(&schema, &[]).await.unwrap();
            let kept = append(&table, &empty, rows, &FileOptions::default()).await;
            let old = kept.files().next().unwrap().clone();
            let texts = batch(&[(None, Some("c")), (None, Some("c"))]).project(&[1]).unwrap();
            let add = table.with_columns(&old, &schema, texts, FileOptions::default()).await.unwrap();
            let commit = Commit { adds: vec![add], removes: vec![old.remove()], ..Commit::default() };
            let snapshot = table.commit(&kept, commit).await.unwrap();
            let mut port = port(&[key], false);
            port.columns.iter_mut().for_each(|column| column.nullable = false);
            let said = check(&engine, &table, &snapshot, Some(&kept), &port, &[]).await.unwrap();
            assert_eq!(said.is_some(), is_told, "{key}: {said:?}");
        }
    }

    #[tokio::test]
    async fn nulls_are_found_where_none_may_be() {
        let rows = &[(Some(1), None), (None, Some("b"))];
        let breach =
            "`sales.orders_v1.lines` breaks its contract: `id` is never null by contract, and has no value in 1 row";
        assert_eq!(said(&port(&[], false), &[], rows).await[1].as_deref(), Some(breach));
        assert_eq!(said(&port(&[], true), &[], rows).await, [None, None]);
    }

    #[test]
    fn rows_and_events_are_named_as_far_as_they_are_few() {
        let apart = ["number".to_owned(), "text".to_owned()];
        let of = |rows: Rows<'_>| named(&[batch(rows)], &apart);
        let row = |number| (Some(number), Some("a"));
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[(Some(1), None)]), ", in the row (number: 1, text: null)");
        assert_eq!(of(&[row(1), row(2)]), ", in the rows (number: 1, text: a), (number: 2, text: a)");
        assert_eq!(of(&[row(1), row(1)]), "", "what does not tell them apart");
        let four: Vec<_> = (1..5).map(row).collect();
        assert!(of(&four).ends_with("(number: 3, text: a), others"), "{}", of(&four));
        assert_eq!(named(&[batch(&[row(1)])], &[]), "");
        let events = |count: usize| Breach {
            port: "a.b_v1.c".into(),
            reason: "why".into(),
            rows: Vec::new(),
            events: ["x", "y", "z", "u"][..count].iter().map(|id| (*id).to_owned()).collect(),
        };
        assert_eq!(events(0).to_string(), "`a.b_v1.c` breaks its contract: why");
        assert_eq!(events(1).words(), "why, of event `x`");
        assert_eq!(events(4).words(), "why, of event `x`, event `y`, event `z`, others");
    }

    /// Statistics may be missing: of other writers' files, and of columns in which they would help nobody.
    #[tokio::test]
    async fn nulls_are_counted_where_a_file_does_not_say_how_many_there_are() {
        let store = Store::memory();
        let engine = Engine::new(&store, 1 << 28).unwrap();
        let table = Warehouse::new(store.clone()).table(TablePath::stream("sales", "lines"));
        let empty = table.open_or_create(&batch(&[]).schema(), &[]).await.unwrap();
        let good = append(&table, &empty, &[(Some(1), None)], &FileOptions::default()).await;
        let id = port(&[], false);
        let said = async |snapshot: &Arc<Snapshot>, kept: Option<&Snapshot>| {
            check(&engine, &table, snapshot, kept, &id, &[]).await.unwrap().map(|breach| breach.reason)
        };
        let missing = |rows: &str| Some(format!("`id` is never null by contract, and has no value in {rows}"));
        let opaque = FileOptions { opaque: vec!["number".to_owned()], ..FileOptions::default() };
        let unsaid = append(&table, &good, &[(Some(2), None), (Some(3), None)], &opaque).await;
        assert!(unsaid.files().any(|add| add.nulls("number").is_none()), "a file does not say");
        assert_eq!((said(&unsaid, None).await, rows_to_count(&unsaid, None, &id)), (None, 2));
        let broken = append(&table, &unsaid, &[(Some(4), None), (None, None), (None, None)], &opaque).await;
        assert_eq!(said(&broken, None).await, missing("2 rows"));
        let kept = Some(unsaid.as_ref());
        assert_eq!((said(&broken, kept).await, rows_to_count(&broken, kept, &id)), (missing("2 rows"), 3));
        // What has kept the contract is not counted again.
        let kept = Some(broken.as_ref());
        assert_eq!((said(&broken, kept).await, rows_to_count(&broken, kept, &id)), (None, 0));
    }
}
