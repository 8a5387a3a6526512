//! SQL over HTTP, for programs and people with `curl`.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /v1/sql` | runs a statement |
//! | `GET /v1/queries` | what the caller runs now; what others run, for who may `operate` |
//! | `DELETE /v1/queries/{id}` | stops one of these |
//! | `GET /v1/tables` | what there is to query |
//! | `GET /healthz` | `ok`, to everybody |
//!
//! The body of `POST /v1/sql` is the statement itself, or with `Content-Type: application/json`
//!
//! ```json
//! { "sql": "SELECT * FROM sales.orders.order_lines WHERE customer_key = $1", "params": [42],
//!   "format": "json", "limit_rows": 1000 }
//! ```
//!
//! where `params` is a list, or an object for `$name`. It has 4 MiB at most. The format is taken from the body, else
//! from `?format=`, else from `Accept`, else it is JSON:
//!
//! | format | media type | |
//! | --- | --- | --- |
//! | `json` | `application/json` | `{"columns": …, "rows": [[…]], "row_count": …, "snapshot": …, "query_id": …}` |
//! | `jsonl` | `application/x-ndjson` | an object per row |
//! | `csv` | `text/csv` | with a header |
//! | `arrow` | `application/vnd.apache.arrow.stream` | an Arrow IPC stream |
//!
//! In JSON, integers are numbers whatever their size: beyond 2^53 a reader that keeps numbers as doubles rounds
//! them, so cast to text where that matters. Decimals are text, so that no digit is lost. Timestamps are
//! RFC 3339 (without an offset where the column has no time zone), binary is hexadecimal, `NaN` and infinities
//! are null.
//!
//! An answer is streamed, and kept on the server's disk where its reader is slow. Who is refused because too many ask
//! gets 429 with `Retry-After`. An error before the first row has its own status. One after that ends a JSON
//! answer with an `error` member and `jsonl` with a line `{"error": …}`; CSV and Arrow cannot say it, and the
//! connection is cut before the proper end. A client that hangs up cancels its query. Unknown paths and methods are
//! answered in JSON too.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{delete, get, post},
};

pub use self::{
    guard::{answering_all, guarded},
    hosts::{Hosts, for_hosts},
    json::nested_as_text,
};
use crate::{
    access::{Access, Right},
    query::Queries,
};

mod answer;
mod formats;
mod guard;
mod hosts;
mod json;
mod listing;
mod request;
#[cfg(test)]
mod tests;

/// A request's body may have this many bytes.
const MAX_BODY_BYTES: usize = 4 << 20;

/// The routes below, in words.
const PATHS: [&str; 5] =
    ["POST /v1/sql", "GET /v1/tables", "GET /v1/queries", "DELETE /v1/queries/{id}", "GET /healthz"];

/// The routes above. Merge it with others, then let [`answering_all`] answer what none of them takes.
pub fn router(queries: Queries, access: Arc<Access>) -> Router {
    let asking = Router::new()
        .route("/v1/sql", post(answer::run))
        .route("/v1/tables", get(listing::tables))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .route_layer(middleware::from_fn(guard::whole_body))
        .with_state(queries.clone());
    // Everybody sees their own.
    let running = Router::new()
        .route("/v1/queries", get(listing::queries))
        .route("/v1/queries/{id}", delete(listing::cancel))
        .with_state(queries);
    Router::new()
        .route("/healthz", get(health))
        .merge(guarded(asking, Arc::clone(&access), &[Right::Query, Right::Raw]))
        .merge(guarded(running, access, &[]))
}

/// `GET /healthz`: the process answers. Says nothing about the warehouse.
async fn health() -> &'static str {
    "ok\n"
}
