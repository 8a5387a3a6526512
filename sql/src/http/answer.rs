//! Runs a statement and streams its answer.
//!
//! ```text
//!   first batch ──► status and headers ──► begin ──► rows … ──► end
//!        │ error: its status                          │ error: said where the format can, else cut off
//! ```

use arrow::array::RecordBatch;
use axum::{
    Extension,
    body::Body,
    extract::{
        Query as AddressQuery, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{
    formats::{About, Write},
    request::{self, Address},
};
use crate::{
    access::Caller,
    counted::{self, Counted},
    error::{ErrorKind, QueryError},
    query::{Queries, Query},
};

/// The query's id, to cancel it by.
pub(super) const QUERY_ID: &str = "x-starmere-query-id";

/// The snapshot that the query sees.
pub(super) const SNAPSHOT: &str = "x-starmere-snapshot";

/// Who is refused because too many ask is told to ask again after so many seconds.
const RETRY_AFTER: &str = "5";

/// `POST /v1/sql`
pub(super) async fn run(
    queries: State<Queries>,
    caller: Extension<Caller>,
    address: Result<AddressQuery<Address>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match answer(queries, caller, address, headers, body).await {
        Ok(answer) => answer,
        Err(error) => {
            let is_busy = error.kind() == ErrorKind::Busy;
            let mut response = error.into_response();
            if is_busy {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
            }
            response
        }
    }
}

async fn answer(
    State(queries): State<Queries>,
    Extension(caller): Extension<Caller>,
    address: Result<AddressQuery<Address>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, QueryError> {
    let AddressQuery(address) = address.map_err(|rejection| {
        QueryError::invalid(format!("the address could not be read: {}", rejection.body_text()))
            .with_hint("`?format=json|jsonl|csv|arrow` and `?limit_rows=n` may stand there")
    })?;
    let body = body.map_err(|rejection| {
        QueryError::invalid(format!("the body could not be taken: {}", rejection.body_text()))
            .with_hint(format!("it may have {} bytes", super::MAX_BODY_BYTES))
    })?;
    let ask = request::read(&headers, address, &body)?;
    let (answer, asked) = counted::start(&queries, Query::new(ask.sql, caller).bind(ask.params)).await?;
    let about = About { schema: answer.schema, snapshot: answer.snapshot, query: answer.id };
    let writer = ask.format.writer(about)?;

    // Most errors show with the first batch; until then they can have a status of their own.
    let mut batches = asked.count(answer.batches);
    let first = batches.next().await.transpose()?;
    let left = ask.limit_rows.unwrap_or(u64::MAX);
    let pieces = Pieces { writer, batches, first, left, at: At::Begin };
    let body = Body::from_stream(stream::unfold(pieces, |mut pieces| async move {
        let piece = pieces.next().await?;
        Some((piece.map(Bytes::from), pieces))
    }));

    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(ask.format.media_type()));
    headers.insert(SNAPSHOT, HeaderValue::from(answer.snapshot));
    if let Ok(id) = HeaderValue::try_from(answer.id.to_string()) {
        headers.insert(QUERY_ID, id);
    }
    Ok(response)
}

/// An answer in the making.
struct Pieces {
    writer: Box<dyn Write>,
    batches: Counted,
    first: Option<RecordBatch>,
    /// Rows that may still be sent.
    left: u64,
    at: At,
}

enum At {
    Begin,
    Rows,
    Done,
}

impl Pieces {
    /// The next piece. An error is the last: the server then cuts the connection, so that no client takes
    /// half an answer for a whole one.
    async fn next(&mut self) -> Option<Result<Vec<u8>, QueryError>> {
        let piece = match self.at {
            At::Begin => {
                self.at = At::Rows;
                self.writer.begin()
            }
            At::Rows => self.rows().await,
            At::Done => return None,
        };
        if piece.is_err() {
            self.at = At::Done;
        }
        Some(piece)
    }

    async fn rows(&mut self) -> Result<Vec<u8>, QueryError> {
        let batch = match self.first.take() {
            Some(batch) => Some(Ok(batch)),
            None => self.batches.next().await,
        };
        match batch {
            Some(Ok(batch)) if batch.num_rows() as u64 > self.left => {
                self.at = At::Done;
                self.batches.enough();
                let last = batch.slice(0, usize::try_from(self.left).unwrap_or(usize::MAX));
                let mut piece = self.writer.rows(&last)?;
                piece.extend(self.writer.end(true)?);
                Ok(piece)
            }
            Some(Ok(batch)) => {
                self.left -= batch.num_rows() as u64;
                self.writer.rows(&batch)
            }
            Some(Err(error)) => {
                self.at = At::Done;
                tracing::debug!(error = %error.text(), "a query failed after its first rows");
                self.writer.failed(&error).ok_or(error)
            }
            None => {
                self.at = At::Done;
                self.writer.end(false)
            }
        }
    }
}
