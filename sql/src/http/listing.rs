//! What there is to query, and what runs.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use starmere_lake::echo::cut;
use uuid::Uuid;

use super::formats::column;
use crate::{
    access::Caller,
    error::QueryError,
    query::{Queries, RunningQuery},
    view::TableInfo,
    wire::wire_schema,
};

/// `GET /v1/tables`
pub(super) async fn tables(
    State(queries): State<Queries>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Value>, QueryError> {
    let view = queries.view().await?.seen_by(&caller);
    let tables: Vec<Value> = view.tables.iter().map(table).collect();
    Ok(Json(json!({ "snapshot": view.snapshot, "tables": tables })))
}

fn table(table: &TableInfo) -> Value {
    let schema = wire_schema(&table.arrow_schema);
    let columns: Vec<Value> = schema
        .fields()
        .iter()
        .map(|field| {
            let mut column = column(field);
            for words in ["description", "means"] {
                column[words] = field.metadata().get(words).cloned().into();
            }
            column
        })
        .collect();
    let foreign_keys: Vec<Value> = table
        .foreign_keys
        .iter()
        .map(|key| {
            // Nobody checks that there is what they refer to.
            json!({ "columns": key.columns, "to": key.to, "to_columns": key.to_columns, "informational": true })
        })
        .collect();
    json!({
        "catalog": table.catalog,
        "schema": table.schema,
        "name": table.name,
        "full_name": table.full_name(),
        "kind": table.kind.word().to_lowercase(),
        "description": table.description,
        "columns": columns,
        "primary_key": table.primary_key,
        "foreign_keys": foreign_keys,
    })
}

/// `GET /v1/queries`
pub(super) async fn queries(State(queries): State<Queries>, Extension(caller): Extension<Caller>) -> Json<Value> {
    let seen = queries.running().into_iter().filter(|query| caller.sees_queries_of(&query.user));
    let running: Vec<Value> = seen.map(|query| running(&query)).collect();
    Json(json!({ "queries": running }))
}

fn running(query: &RunningQuery) -> Value {
    let age = Utc::now().signed_duration_since(query.started_at);
    json!({
        "id": query.id.to_string(),
        "sql": *query.sql,
        "user": query.user,
        "started_at": query.started_at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "running_ms": age.num_milliseconds().max(0),
        "stopping": query.is_stopping,
    })
}

/// `DELETE /v1/queries/{id}`
pub(super) async fn cancel(
    State(queries): State<Queries>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, QueryError> {
    // Those of others are as unknown as those that do not run: ids are no secret to whoever guesses them.
    let known = id.parse::<Uuid>().is_ok_and(|id| {
        let running = queries.running();
        let seen = running.iter().any(|query| query.id == id && caller.sees_queries_of(&query.user));
        seen && queries.cancel(id)
    });
    if !known {
        return Err(QueryError::not_found(format!("no query `{}` runs", cut(&id)))
            .with_hint("`GET /v1/queries` lists what runs"));
    }
    Ok(Json(json!({ "cancelled": id })))
}
