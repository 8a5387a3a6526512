//! Statements: planned for `GetFlightInfo`, run for `DoGet`, prepared and told their parameters in between.

use std::{panic::AssertUnwindSafe, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::Schema,
};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightInfo,
    decode::FlightRecordBatchStream,
    error::FlightError,
    sql::{
        ActionCreatePreparedStatementResult, Command, CommandPreparedStatementQuery, ProstMessageExt,
        TicketStatementQuery,
    },
};
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use prost::Message;
use tonic::{Response, Status};
use uuid::Uuid;

use super::{
    encode::{self, DataStream},
    messages::{self, Messages},
    prepared::{PreparedStatements, size_of_row},
    ticket::{self, StatementTicket},
};
use crate::{
    access::Caller,
    counted::{self, Asked},
    error::QueryError,
    params::{Params, bare},
    query::{Answer, Queries, Query},
    wire::schema_digest,
};

/// So many rows of parameters can be bound at once; the statement runs once for each.
const MAX_BOUND_ROWS: usize = 10_000;

/// Bound parameters may take this much memory per statement.
pub(super) const MAX_BOUND_BYTES: usize = 16 << 20;

/// Plans a statement and hands out the ticket that runs it.
pub(super) async fn plan(
    queries: &Queries,
    sql: String,
    caller: &Caller,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let description = queries.describe(&sql, Arc::default(), caller).await?;
    if !description.parameters.is_empty() {
        let count = description.parameters.len();
        return Err(QueryError::invalid(format!("the statement has {count} parameters without values"))
            .with_hint("prepare the statement and bind its parameters")
            .into());
    }
    let schema = schema_digest(&description.schema);
    let handle = StatementTicket::new(sql, description.snapshot, schema).encode()?;
    let command = TicketStatementQuery { statement_handle: handle.into() };
    encode::info(&description.schema, command.as_any().encode_to_vec(), descriptor)
}

/// Runs what a ticket says.
pub(super) async fn run(queries: &Queries, handle: &[u8], caller: Caller) -> Result<Response<DataStream>, Status> {
    let ticket = StatementTicket::decode(handle)?;
    let mut query = Query::new(ticket.sql.clone(), caller).with_promise(ticket.promise());
    if let Some(id) = ticket.id() {
        query = query.with_id(id);
    }
    Ok(data(counted::start(queries, query).await?))
}

/// Prepares a statement: its columns and parameters as far as they are known.
pub(super) async fn prepare(
    queries: &Queries,
    prepared: &PreparedStatements,
    sql: String,
    caller: &Caller,
) -> Result<ActionCreatePreparedStatementResult, QueryError> {
    let description = queries.describe(&sql, Arc::default(), caller).await?;
    let ids = description.parameters.iter().map(|field| field.name().clone()).collect();
    let parameters = Schema::new(description.parameters);
    Ok(ActionCreatePreparedStatementResult {
        dataset_schema: encode::schema_bytes(&description.schema)?,
        parameter_schema: encode::schema_bytes(&parameters)?,
        prepared_statement_handle: prepared.create(caller, sql, ids)?,
    })
}

/// Plans a prepared statement with what is bound to it.
pub(super) async fn plan_prepared(
    queries: &Queries,
    prepared: &PreparedStatements,
    handle: &Bytes,
    caller: &Caller,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let statement = prepared.get(handle, caller)?;
    let description = queries.describe(&statement.sql, statement.rows, caller).await?;
    let command = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
    encode::info(&description.schema, command.as_any().encode_to_vec(), descriptor)
}

/// Runs a prepared statement with what is bound to it.
pub(super) async fn run_prepared(
    queries: &Queries,
    prepared: &PreparedStatements,
    handle: &Bytes,
    caller: Caller,
) -> Result<Response<DataStream>, Status> {
    let statement = prepared.get(handle, &caller)?;
    let id = Uuid::new_v4();
    prepared.running(handle, &caller, id)?;
    let query = Query::new(&*statement.sql, caller).bind_rows(statement.rows).with_id(id);
    Ok(data(counted::start(queries, query).await?))
}

/// Binds the rows that a client sends to a prepared statement; none unbinds.
pub(super) async fn bind(
    prepared: &PreparedStatements,
    handle: &Bytes,
    caller: &Caller,
    sent: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<(), Status> {
    let statement = prepared.get(handle, caller)?;
    // The library takes it for granted that what it reads was written by itself, and panics where it was not.
    let read = AssertUnwindSafe(bound_rows(&statement.parameters, sent)).catch_unwind().await;
    let rows = read.map_err(|_| messages::damaged("they are not what Arrow writes"))??;
    prepared.bind(handle, caller, rows)?;
    Ok(())
}

async fn bound_rows(
    parameters: &[String],
    sent: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
) -> Result<Vec<Params>, Status> {
    let mut messages = Messages::default();
    let sent = sent.map(move |message| {
        let message = message?;
        messages.check(&message).map_err(Status::from)?;
        Ok::<_, FlightError>(message)
    });
    let mut batches = FlightRecordBatchStream::new_from_flight_data(sent);
    let exceeded = || {
        QueryError::invalid(format!("the bound parameters exceed {MAX_BOUND_ROWS} rows or {MAX_BOUND_BYTES} bytes"))
            .with_hint("bind fewer rows at a time")
    };
    let (mut rows, mut bytes, mut copied) = (Vec::new(), 0_usize, 0_usize);
    while let Some(batch) = batches.try_next().await? {
        let values = batch.num_rows().saturating_mul(batch.num_columns()).saturating_mul(size_of::<ScalarValue>());
        bytes = bytes.saturating_add(batch.get_array_memory_size()).saturating_add(values);
        if bytes > MAX_BOUND_BYTES || batch.num_rows() > MAX_BOUND_ROWS.saturating_sub(rows.len()) {
            return Err(exceeded().into());
        }
        for row in 0..batch.num_rows() {
            let params = row_params(&batch, row, parameters)?;
            // Rows may share a value, and each has a copy.
            copied = copied.saturating_add(size_of_row(&params));
            if copied > 2 * MAX_BOUND_BYTES {
                return Err(exceeded().into());
            }
            rows.push(params);
        }
    }
    Ok(rows)
}

/// One bound row. Named parameters are matched by the columns' names where they are all there, else by order:
/// some drivers number the columns whatever they were told.
fn row_params(batch: &RecordBatch, row: usize, ids: &[String]) -> Result<Params, QueryError> {
    let value = |column: &ArrayRef| Ok::<_, QueryError>(within_union(ScalarValue::try_from_array(column, row)?));
    let values = batch.columns().iter().map(value).collect::<Result<Vec<_>, _>>()?;
    let named = ids.iter().any(|id| bare(id).parse::<usize>().is_err());
    if !named {
        return Ok(Params::Positional(values));
    }
    let schema = batch.schema();
    let columns: Vec<&str> = schema.fields().iter().map(|field| bare(field.name())).collect();
    let by_name = ids.iter().all(|id| columns.contains(&bare(id)));
    let names = if by_name { columns } else { ids.iter().map(|id| bare(id)).collect() };
    if names.len() != values.len() {
        return Err(QueryError::invalid(format!(
            "the statement has {} parameters, but {} columns were bound",
            ids.len(),
            values.len()
        )));
    }
    Ok(Params::Named(names.into_iter().map(str::to_owned).zip(values).collect()))
}

/// The value that a union holds: drivers that do not know a parameter's type send a union of all types, and mean the
/// value in it.
fn within_union(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Union(Some((_, value)), ..) => within_union(*value),
        ScalarValue::Union(None, ..) => ScalarValue::Null,
        other => other,
    }
}

/// The running query that a flight's tickets stand for, if any.
pub(super) fn running(prepared: &PreparedStatements, info: &FlightInfo, caller: &Caller) -> Option<Uuid> {
    ticket::commands(info).into_iter().find_map(|command| match command {
        Command::TicketStatementQuery(ticket) => StatementTicket::decode(&ticket.statement_handle).ok()?.id(),
        Command::CommandPreparedStatementQuery(command) => {
            prepared.get(&command.prepared_statement_handle, caller).ok()?.query
        }
        _ => None,
    })
}

fn data((answer, asked): (Answer, Asked)) -> Response<DataStream> {
    tracing::debug!(query = %answer.id, snapshot = answer.snapshot, "query runs for a Flight client");
    encode::data(Arc::clone(&answer.schema), asked.count(answer.batches))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{DictionaryArray, Int32Array, StringArray};
    use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
    use futures::stream;

    use super::*;

    /// A text that many rows share is sent once, and copied for each of them.
    #[tokio::test]
    async fn rows_that_share_a_value_count_it_for_each() {
        let bound = async |rows: i32, text: usize| {
            let keys = Int32Array::from_iter_values((0..rows).map(|_| 0));
            let texts = StringArray::from_iter_values(["x".repeat(text)]);
            let column: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(texts)));
            let batch = RecordBatch::try_from_iter([("1", column)]).unwrap();
            let encoder = FlightDataEncoderBuilder::new().with_dictionary_handling(DictionaryHandling::Resend);
            let sent: Vec<FlightData> = encoder.build(stream::iter([Ok(batch)])).try_collect().await.unwrap();
            bound_rows(&["$1".to_owned()], stream::iter(sent.into_iter().map(Ok))).await
        };
        assert_eq!(bound(1000, 1000).await.unwrap().len(), 1000);
        let refused = bound(1000, 1 << 20).await.unwrap_err();
        assert!(refused.message().contains("bound parameters exceed"), "{refused}");
    }
}
