//! The HTTP listener: `POST /v1/streams/{stream}/events`.
//!
//! The body is one event or an array (`application/json`), newline-delimited events (`application/x-ndjson`; also without
//! a content type, unless all of it is one document) or a form; for streams of CSV a header and records (`text/csv`); for
//! CloudEvents also one in structured or binary mode, or a batch. It may be packed. Requests that come within a declared
//! time are grouped into one commit and answered after it:
//!
//! ```text
//! request ─► read whole ─► signed? ─► unpack ─► events ─► queue (bounded) ─► batch ─► encode ─► land ─► answer
//!               │ cut off, too slow: │ no: 401               │ full: 429                               version, counts
//!               │ nothing lands
//! ```
//!
//! A body takes memory as it comes. Where requests find none, bodies that come slowly give theirs up; an extension of
//! the request, the [`Sender`], says whose they are.
//!
//! Each process run is a source partition of its own, positions count its events. So an event that is sent again
//! lands again; what makes it count once is its id: the producer's, or one made from the `Idempotency-Key`, the
//! line and a digest of the event's bytes: the same body counts once under a key, and another body under a key that
//! was used before is not lost. Without either the answer says `"delivery": "at least once"`.
//!
//! Definitions may change while the listener runs ([`Listener::renew`]): requests that came before land by the old ones.
//!
//! When the store does not answer, a batch is offered again until its outcome is known; meanwhile its requests
//! are answered 503 after a while, and new ones 429 when the queue is full. In a warehouse whose format a newer binary
//! has raised nothing lands any more: requests are answered 503 at once. Nothing is dropped silently: an answer
//! that is not 2xx means that the request may have landed or not, and is safe to repeat with the same ids.

mod commit;
mod form;
mod request;
mod signature;
mod strict;
#[cfg(test)]
mod tests;
mod unpack;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;
use starmere_lake::echo::cut;
use starmere_lake::format_number;
use starmere_lake::landing::Stream;
use starmere_lake::paths::TablePath;
use starmere_lake::store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::envelope::Mapping;
use crate::memory::Memory;
pub use crate::memory::Sender;
pub(crate) use commit::is_made_id;
use commit::{Answer, Committer};
pub use signature::{Scheme, Signatures};
pub use strict::{Found, Judge};

/// Where events are posted to.
pub const EVENTS_PATH: &str = "/v1/streams/{stream}/events";

/// A stream that may be posted to, and what its requests are asked for.
#[derive(Clone, Debug)]
pub struct Target {
    pub stream: Stream,
    pub mapping: Mapping,
    /// Requests that are not signed so are refused.
    pub signatures: Option<Signatures>,
    /// Of a strict stream: requests with an event that this one objects to are refused.
    pub judge: Option<Judge>,
}

/// The same, while it is.
#[derive(Debug)]
struct Endpoint {
    committer: Arc<Committer>,
    mapping: Mapping,
    signatures: Option<Signatures>,
    judge: Option<Judge>,
    table: TablePath,
    store: Store,
}

impl Endpoint {
    /// Refuses events that cannot land: a newer binary has raised the warehouse's format. Asks no store.
    fn may_land(&self) -> Result<(), Refusal> {
        format_number::as_noted(&self.store).map_err(|error| {
            let hint = error.hint().unwrap_or_default();
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, format!("{error}; nothing has landed"), hint)
        })
    }
}

/// The listener's streams, and what it allows.
#[derive(Clone, Debug)]
pub struct Listener {
    streams: Arc<RwLock<HashMap<String, Arc<Endpoint>>>>,
    /// Committers of streams that are gone or are read otherwise, and land what they had accepted.
    retired: Arc<Mutex<Vec<JoinHandle<()>>>>,
    limits: Limits,
    memory: Memory,
    unlanded: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// What a client may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body_bytes: usize,
    /// How long a request waits for its commit.
    pub wait: Duration,
    /// A body is refused where less than `span_bytes` of it come within such a span of time.
    pub span: Duration,
    /// The bytes of a body that have to come in each `span`.
    pub span_bytes: usize,
    /// How long a body may take to come.
    pub whole_body: Duration,
    /// How long requests are gathered into one commit, from the first of them on.
    pub gather: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            wait: Duration::from_secs(30),
            span: Duration::from_secs(10),
            span_bytes: 10 << 10,
            whole_body: Duration::from_secs(300),
            gather: Duration::from_millis(250),
        }
    }
}

impl Listener {
    /// A listener for these streams; its commits go on until `stop` and everything queued is landed. Requests take `memory`.
    pub fn new(targets: Vec<Target>, limits: Limits, memory: &Memory, stop: &CancellationToken) -> Self {
        let (memory, stop) = (memory.clone(), stop.clone());
        let (retired, unlanded) = (Arc::default(), Arc::default());
        let listener = Self { streams: Arc::default(), retired, limits, memory, unlanded, stop };
        listener.renew(targets);
        listener
    }

    /// Takes events for these streams from now on. A stream that is read otherwise than before begins a committer of its
    /// own; what the one before has accepted lands as it was read. Other streams are no longer there.
    pub fn renew(&self, targets: Vec<Target>) {
        let mut endpoints = self.streams.write().unwrap_or_else(PoisonError::into_inner);
        let mut before = std::mem::take(&mut *endpoints);
        for Target { stream, mapping, signatures, judge } in targets {
            let name = stream.name().to_owned();
            let (table, store) = (stream.table().path().clone(), stream.table().store().clone());
            let committer = match before.remove(&name) {
                Some(old) if old.mapping == mapping && old.table == table => old.committer.clone(),
                replaced => {
                    before.extend(replaced.map(|replaced| (name.clone(), replaced)));
                    let (gather, stop) = (self.limits.gather, self.stop.clone());
                    Arc::new(Committer::start(stream, mapping.clone(), gather, &self.unlanded, stop))
                }
            };
            endpoints.insert(name, Arc::new(Endpoint { committer, mapping, signatures, judge, table, store }));
        }
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|task| !task.is_finished());
        retired.extend(before.into_values().filter_map(|endpoint| endpoint.committer.retire()));
    }

    /// Events of requests that were taken whole and have not landed: none of these requests was answered with success.
    pub fn unlanded(&self) -> u64 {
        self.unlanded.load(Ordering::Relaxed)
    }

    /// Waits until everything queued has landed, however long the store takes; for an orderly end, after `stop`.
    /// Dropping this future leaves behind what [`Listener::unlanded`] counts.
    pub async fn finished(&self) {
        let endpoints: Vec<Arc<Endpoint>> =
            self.streams.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for endpoint in endpoints {
            endpoint.committer.finished().await;
        }
        let retired = std::mem::take(&mut *self.retired.lock().unwrap_or_else(PoisonError::into_inner));
        for task in retired {
            if let Err(error) = task.await {
                tracing::error!(%error, "the committer of a stream died");
            }
        }
    }

    fn endpoint(&self, name: &str) -> Result<Arc<Endpoint>, Refusal> {
        let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
        streams.get(name).cloned().ok_or_else(|| {
            let mut known: Vec<&str> = streams.keys().map(String::as_str).collect();
            known.sort_unstable();
            let hint = format!("streams of this project: {}", known.join(", "));
            Refusal::new(StatusCode::NOT_FOUND, format!("there is no stream `{}`", cut(name)), hint)
        })
    }

    /// The routes of the listener. Their requests have the extension [`Sender`]; those without it are of one sender.
    pub fn router(&self) -> axum::Router {
        axum::Router::new()
            .route(EVENTS_PATH, axum::routing::post(post))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(self.clone())
    }
}

/// An answer that is no success.
struct Refusal {
    status: StatusCode,
    message: String,
    hint: String,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, message: message.into(), hint: hint.into() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::UNAUTHORIZED => "unauthenticated",
            StatusCode::INTERNAL_SERVER_ERROR => "internal",
            _ => "invalid",
        };
        let body = Json(json!({ "error": { "kind": kind, "message": self.message, "hint": self.hint } }));
        let mut response = (self.status, body).into_response();
        if kind == "unavailable" {
            response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        response
    }
}

async fn post(
    State(listener): State<Listener>,
    Path(name): Path<String>,
    sender: Option<Extension<Sender>>,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<Response, Refusal> {
    let endpoint = listener.endpoint(&name)?;
    endpoint.may_land()?;
    let packing = unpack::packing(&headers)?;
    let Listener { limits, memory, .. } = &listener;
    let sender = sender.map(|sender| sender.0).unwrap_or_default();
    let (mut body, mut share) = request::whole(body, &headers, sender, limits, memory).await?;
    if let Some(signatures) = &endpoint.signatures {
        signatures.check(&headers, &body, chrono::Utc::now().timestamp())?;
    }
    if let Some(packing) = packing {
        body = unpack::unpacked(body, packing, limits, memory, &mut share).await?;
    }
    let events = request::events(body, &headers, &endpoint.mapping, memory, &mut share).await?;
    request::room(&events, &mut share, memory).await?;
    let events = match &endpoint.judge {
        Some(judge) => strict::judged(events, &endpoint.mapping, judge).await?,
        None => events,
    };
    let answer = endpoint.committer.submit(events, share, limits.wait).await?;
    Ok(respond(&name, &answer))
}

fn respond(stream: &str, answer: &Answer) -> Response {
    let delivery = if answer.exactly_once { "exactly once" } else { "at least once" };
    let mut body = json!({
        "stream": stream,
        "version": answer.version,
        "accepted": answer.events,
        "rejected": answer.rejects,
        "delivery": delivery,
    });
    if !answer.exactly_once {
        body["hint"] =
            "give every event an id, or the request an Idempotency-Key, so that sending it again counts once".into();
    }
    if let Some(reason) = &answer.first_reject {
        body["first_rejection"] = reason.as_str().into();
    }
    (StatusCode::OK, Json(body)).into_response()
}
