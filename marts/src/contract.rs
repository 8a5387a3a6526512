//! Contracts: whether the rows keep what a port promises. Asked of the tables that are about to be published; a
//! broken promise stops the publish, and readers keep what they had.
//!
//! Types are settled when definitions are resolved. Null counts stand in the tables' statistics, exactly. Keys
//! are counted by a query over the key's columns.

use std::sync::Arc;

use datafusion::arrow::util::display::array_value_to_string;
use starmere_lake::delta::Snapshot;
use starmere_lake::provider::PinnedTable;
use starmere_lake::session::Engine;
use starmere_lake::store::Store;

use crate::meaning::Port;

/// What is wrong with the rows behind a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{port}` breaks its contract: {reason}")]
pub struct Breach {
    pub port: String,
    pub reason: String,
}

/// Checks the rows of `snapshot` against the promises of `port`. An error says that it could not be checked.
pub async fn check(engine: &Engine, store: &Store, snapshot: &Arc<Snapshot>, port: &Port) -> Result<Option<Breach>, String> {
    if let Some(reason) = nulls(snapshot, port) {
        return Ok(Some(Breach { port: port.full_name(), reason }));
    }
    if port.primary_key.is_empty() {
        return Ok(None);
    }
    let reason = doubles(engine, store, snapshot, port).await.map_err(|error| error.to_string())?;
    Ok(reason.map(|reason| Breach { port: port.full_name(), reason }))
}

fn nulls(snapshot: &Snapshot, port: &Port) -> Option<String> {
    let promised = port.columns.iter().filter(|column| !column.nullable);
    for column in promised {
        for add in snapshot.files() {
            let stats: Option<serde_json::Value> = add.stats.as_deref().and_then(|stats| serde_json::from_str(stats).ok());
            let count = stats.as_ref().and_then(|stats| stats["nullCount"][&column.from].as_u64());
            if let Some(count) = count.filter(|&count| count > 0) {
                return Some(format!("`{}` is never null by contract, and has no value in {count} rows", column.name));
            }
        }
    }
    None
}

async fn doubles(
    engine: &Engine,
    store: &Store,
    snapshot: &Arc<Snapshot>,
    port: &Port,
) -> datafusion::error::Result<Option<String>> {
    let session = engine.session();
    let table = session.read_table(Arc::new(PinnedTable::new(store, snapshot.clone())))?;
    let from = |name: &String| {
        let column = port.columns.iter().find(|column| column.name == *name);
        column.map_or_else(|| name.clone(), |column| column.from.clone())
    };
    let keys: Vec<_> = port.primary_key.iter().map(|name| datafusion::prelude::ident(from(name))).collect();
    let count = datafusion::functions_aggregate::count::count(datafusion::prelude::lit(1)).alias("rows_with_this_key");
    let doubled = table
        .aggregate(keys, vec![count])?
        .filter(datafusion::prelude::ident("rows_with_this_key").gt(datafusion::prelude::lit(1)))?
        .limit(0, Some(1))?;
    for batch in doubled.collect().await? {
        if batch.num_rows() > 0 {
            let values: Result<Vec<String>, _> = batch.columns().iter().map(|column| array_value_to_string(column, 0)).collect();
            let mut values = values?;
            let count = values.pop().unwrap_or_default();
            let key = port.primary_key.join(", ");
            return Ok(Some(format!("({key}) tells rows apart by contract, and {count} rows have ({})", values.join(", "))));
        }
    }
    Ok(None)
}
