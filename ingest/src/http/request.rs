//! From a request's body to events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use starmere_lake::formats::{Convention, Encoding, csv};
use starmere_lake::json::{self, Kind, Paths, Span};
use tokio::time::Instant;

use super::{Limits, Refusal};
use crate::envelope::{Mapping, Reader};
use crate::lines::Ends;
use crate::memory::{Memory, Share};
use crate::rows;

/// The events of one request.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) body: Bytes,
    /// Where in the body each event is.
    pub(super) ranges: Vec<std::ops::Range<usize>>,
    /// What comes with each of them: the attributes of a CloudEvent, the header of CSV.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// The request's `Idempotency-Key`.
    pub(super) key: Option<String>,
    /// When the request came, in milliseconds since 1970.
    pub(super) at: i64,
}

/// How long a request waits for memory before it is told to come again.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(2);
/// How long the first of those waits that hold some already.
const FIRST_WAITS_FOR_ROOM: Duration = Duration::from_secs(10);
/// So much of a body is made room for before any of it has come, whatever its length is said to be.
const BEGINNING: usize = 64 << 10;

/// There is no memory for a request.
pub(super) fn busy() -> Refusal {
    let message = "too many events wait for their commit; nothing has landed";
    let hint = "send the request again, with the same ids or the same Idempotency-Key";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, message, hint)
}

/// There will never be memory for a request as large as this.
fn never(bytes: usize) -> Refusal {
    let message = format!("a request of {bytes} bytes or more takes more memory than there is");
    let hint = "send fewer events in a request, or give them more memory (`ingest_memory_mib`)";
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, hint)
}

/// How quickly a body has to come: so many bytes in each span of time, and all of it by a moment.
struct Pace<'a> {
    limits: &'a Limits,
    span_ends: Instant,
    all_ends: Instant,
    in_span: usize,
}

impl<'a> Pace<'a> {
    fn begin(limits: &'a Limits) -> Self {
        let now = Instant::now();
        Self { limits, span_ends: now + limits.span, all_ends: now + limits.whole_body, in_span: 0 }
    }

    /// Begins the next span; refuses a body of which too little has come in the one that is over.
    fn next_span(&mut self) -> Result<(), Refusal> {
        let Limits { span, span_bytes, whole_body, .. } = self.limits;
        let now = Instant::now();
        if self.in_span >= *span_bytes && now < self.all_ends {
            (self.span_ends, self.in_span) = (now + *span, 0);
            return Ok(());
        }
        let message = format!("the body comes too slowly: {} bytes in {} s", self.in_span, span.as_secs_f64());
        let hint = format!(
            "nothing has landed; send {span_bytes} bytes or more every {} s, and all of it within {} s",
            span.as_secs_f64(),
            whole_body.as_secs_f64()
        );
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, message, hint))
    }
}

/// The whole body, or nothing: a body that is cut off, too slow or too large is refused. Comes with the memory that it
/// takes, which grows as bytes come: who only announces them takes none.
pub(super) async fn whole(
    body: Body,
    headers: &HeaderMap,
    limits: &Limits,
    memory: &Memory,
) -> Result<(Bytes, Share), Refusal> {
    let limit = limits.body_bytes;
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, "send fewer events in a request")
    };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|&encoding| encoding != "identity") {
        let message = format!("content encoding {encoding:?} is not read here");
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, "send the body as it is"));
    }
    if let Some(length) = length.filter(|&length| memory.at_most(length) < length) {
        return Err(never(length));
    }
    let mut share = memory.share_of_request();
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::with_capacity(length.unwrap_or(0).min(BEGINNING));
    let mut pace = Pace::begin(limits);
    loop {
        let Ok(chunk) = tokio::time::timeout_at(pace.span_ends, stream.next()).await else {
            pace.next_span()?;
            continue;
        };
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|error| {
            let message = format!("the body was cut off: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, message, "nothing has landed; send the request again")
        })?;
        let bytes = whole.len() + chunk.len();
        if bytes > limit {
            return Err(too_large());
        }
        grow(&mut share, bytes, bytes, memory).await?;
        pace.in_span += chunk.len();
        whole.extend_from_slice(&chunk);
    }
    if length.is_some_and(|length| length != whole.len()) {
        let message = "the body is shorter than its Content-Length";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, "nothing has landed; send the request again"));
    }
    Ok((whole.freeze(), share))
}

/// Grows a request's share to so many bytes, of which `body` have come.
async fn grow(share: &mut Share, bytes: usize, body: usize, memory: &Memory) -> Result<(), Refusal> {
    if memory.at_most(bytes) < bytes {
        return Err(never(body));
    }
    if share.cover(bytes) {
        return Ok(());
    }
    // One that holds nothing keeps nobody from going on, and need not be the first.
    let first = if share.bytes() > 0 { memory.first_in_line() } else { None };
    let patience = if first.is_some() { FIRST_WAITS_FOR_ROOM } else { WAIT_FOR_ROOM };
    match tokio::time::timeout(patience, share.grow(bytes)).await {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(busy()),
    }
}

/// What a body holds, by its content type and its stream.
#[derive(Debug, PartialEq, Eq)]
enum Holds {
    One,
    Lines,
    /// An array of CloudEvents.
    Batch,
    Csv(u8),
}

fn invalid(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message, hint)
}

/// Finds the events in the body.
pub(super) fn events(body: Bytes, headers: &HeaderMap, mapping: &Mapping) -> Result<Events, Refusal> {
    let key = match headers.get("idempotency-key").map(|key| key.to_str()) {
        None => None,
        Some(Ok(key)) if !key.is_empty() && key.len() <= 255 => Some(key.to_owned()),
        Some(_) => return Err(invalid("the Idempotency-Key cannot be read", "use up to 255 visible ASCII characters")),
    };
    let at = chrono::Utc::now().timestamp_millis();
    let is_cloud_events = mapping.format.convention == Some(Convention::CloudEvents);
    if is_cloud_events && headers.contains_key("ce-specversion") {
        let headers = attributes(headers);
        return within_limit(
            Events { ranges: std::iter::once(0..body.len()).collect(), body, headers, key, at },
            mapping,
        );
    }
    let mut common = Vec::new();
    let ranges = match holds(headers, mapping)? {
        Holds::One => {
            if body.trim_ascii_start().first() == Some(&b'[') {
                return Err(invalid("an array is not an event", "send one event a line as application/x-ndjson"));
            }
            if body.is_empty() { Vec::new() } else { std::iter::once(0..body.len()).collect() }
        }
        Holds::Lines => lines(&body, Ends::Newline),
        Holds::Csv(delimiter) => {
            let mut records = lines(&body, Ends::csv(delimiter)).into_iter();
            if let Some(header) = records.next() {
                let reader = Reader::new(mapping.clone(), &Arc::default());
                if let Some(wrong) = reader.wrong_header(delimiter, &body[header.clone()]) {
                    return Err(invalid(wrong, "begin the body with a header"));
                }
                common.push((csv::HEADER.to_owned(), csv::header(&body[header]).to_vec()));
            }
            records.filter(|record| !body[record.clone()].trim_ascii().is_empty()).collect()
        }
        Holds::Batch => elements(&body)?,
    };
    if ranges.is_empty() {
        let hint = match mapping.format.encoding {
            Encoding::Csv { .. } => "send records behind the header",
            _ => "send one event, or one a line",
        };
        return Err(invalid("the body holds no event", hint));
    }
    within_limit(Events { body, ranges, headers: common, key, at }, mapping)
}

/// Takes the memory of the batch that the events will be in, beside that of the body.
pub(super) async fn room(events: &Events, share: &mut Share, memory: &Memory) -> Result<(), Refusal> {
    let body = events.body.len();
    grow(share, body + rows::memory(events.ranges.len(), body), body, memory).await
}

fn within_limit(events: Events, mapping: &Mapping) -> Result<Events, Refusal> {
    let limit = mapping.max_event_bytes;
    if let Some((number, range)) = events.ranges.iter().enumerate().find(|(_, range)| range.len() > limit) {
        let message = format!("event {} has {} bytes, more than `max_event_bytes` ({limit})", number + 1, range.len());
        let hint = "nothing has landed; land it from a file instead";
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, hint));
    }
    Ok(events)
}

fn holds(headers: &HeaderMap, mapping: &Mapping) -> Result<Holds, Refusal> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let unsupported =
        |message: String, hint: &str| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint));
    // What clients say that say nothing; `curl --data-binary` says that it sends a form. Pages of others, which may send
    // a form or plain text without asking first, are refused for where they come from, before this.
    let unsaid = matches!(media.as_str(), "" | "application/octet-stream" | "application/x-www-form-urlencoded");
    match (&mapping.format.encoding, media.as_str()) {
        (Encoding::Avro { .. } | Encoding::Confluent, _) => {
            unsupported("the stream's payloads do not come over HTTP".to_owned(), "send them by Kafka or as files")
        }
        (Encoding::Csv { delimiter }, "text/csv") => Ok(Holds::Csv(*delimiter)),
        (Encoding::Csv { delimiter }, _) if unsaid => Ok(Holds::Csv(*delimiter)),
        (Encoding::Csv { .. }, other) => {
            unsupported(format!("content type `{other}` is not read here"), "send text/csv, with a header")
        }
        (Encoding::Json, "application/json") => Ok(Holds::One),
        (Encoding::Json, "application/cloudevents+json" | "application/cloudevents-batch+json")
            if mapping.format.convention != Some(Convention::CloudEvents) =>
        {
            unsupported(
                "the stream has no CloudEvents".to_owned(),
                "write `convention: cloudevents` into its definition",
            )
        }
        (Encoding::Json, "application/cloudevents+json") => Ok(Holds::One),
        (Encoding::Json, "application/cloudevents-batch+json") => Ok(Holds::Batch),
        (
            Encoding::Json,
            "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" | "application/ndjson",
        ) => Ok(Holds::Lines),
        (Encoding::Json, _) if unsaid => Ok(Holds::Lines),
        (Encoding::Json, other) => {
            let hint = "send one event as application/json, or one a line as application/x-ndjson";
            unsupported(format!("content type `{other}` is not read here"), hint)
        }
    }
}

/// The headers that belong to a CloudEvent in binary mode.
fn attributes(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let belongs = |name: &str| name.starts_with("ce-") || name == "content-type";
    let headers = headers.iter().filter(|(name, _)| belongs(name.as_str()));
    headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// The elements of an array of JSON.
fn elements(body: &[u8]) -> Result<Vec<std::ops::Range<usize>>, Refusal> {
    let hint = "send a JSON array of CloudEvents";
    let mut whole = [Span::MISSING];
    json::scan(&Paths::new(&[""]), body, &mut whole).map_err(|error| invalid(format!("not JSON: {error}"), hint))?;
    if whole[0].kind != Kind::Array {
        return Err(invalid("a batch is an array", hint));
    }
    let start = whole[0].start as usize;
    let found = json::elements(whole[0].raw(body)).map(|element| (element, start));
    found
        .map(|(element, start)| match element.kind {
            Kind::Object => Ok(start + element.start as usize..start + element.end as usize),
            _ => Err(invalid("an element of the batch is not an object", hint)),
        })
        .collect()
}

/// Lines without their newlines; what follows the last newline is a line if there is anything.
fn lines(body: &[u8], mut ends: Ends) -> Vec<std::ops::Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    while let Some(length) = ends.find(&body[start..]) {
        lines.push(start..start + length);
        start += length + 1;
    }
    if start < body.len() {
        lines.push(start..body.len());
    }
    lines
}
