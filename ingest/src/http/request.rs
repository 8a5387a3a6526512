//! From a request's body to events.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use starmere_lake::echo::cut;
use starmere_lake::formats::{Convention, Encoding, csv};
use starmere_lake::json::{self, Kind, Paths, Span};
use tokio::time::Instant;

use super::{Limits, Refusal, form};
use crate::envelope::{Mapping, Reader};
use crate::lines::Ends;
use crate::memory::{Memory, Sender, Share};
use crate::rows;

/// The events of one request.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) body: Bytes,
    /// Where in the body each event is.
    pub(super) ranges: Vec<Range<usize>>,
    /// What comes with each of them: headers that the stream names, the attributes of a CloudEvent, the header of CSV.
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
const SECOND: Duration = Duration::from_secs(1);

/// There is no memory for a request.
pub(super) fn busy() -> Refusal {
    let message = "too many events wait for their commit; nothing has landed";
    let hint = "send the request again, with the same ids or the same Idempotency-Key";
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, message, hint)
}

/// A body has more bytes than the listener takes, as it came or unpacked.
pub(super) fn too_large(limit: usize) -> Refusal {
    let message = format!("the body is larger than {limit} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, "send fewer events in a request")
}

/// There will never be memory for a request as large as this.
fn never(bytes: usize) -> Refusal {
    let message = format!("a request of {bytes} bytes or more takes more memory than there is");
    let hint = "send fewer events in a request, or give them more memory (`ingest_memory_mib`)";
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, hint)
}

/// Other requests found no memory, and this one held much and came slowly.
fn given_up(body: usize) -> Refusal {
    let message = format!("the body came too slowly while other requests found no memory: {body} bytes of it had come");
    let hint = "nothing has landed; send the request again, in smaller ones where the connection is slow";
    Refusal::new(StatusCode::REQUEST_TIMEOUT, message, hint)
}

/// How quickly a body has to come: so many bytes in each span of time, and all of it by a moment. What comes within
/// each second decides whether it gives its memory up when others find none.
struct Pace<'a> {
    limits: &'a Limits,
    second_ends: Instant,
    in_second: usize,
    span_ends: Instant,
    in_span: usize,
    all_ends: Instant,
}

impl<'a> Pace<'a> {
    fn begin(limits: &'a Limits) -> Self {
        let now = Instant::now();
        Self {
            limits,
            second_ends: now + SECOND,
            in_second: 0,
            span_ends: now + limits.span,
            in_span: 0,
            all_ends: now + limits.whole_body,
        }
    }

    fn came(&mut self, bytes: usize) {
        self.in_second += bytes;
        self.in_span += bytes;
    }

    /// When to look next.
    fn ends(&self) -> Instant {
        self.second_ends.min(self.span_ends)
    }

    /// Begins what is over anew: offers the memory of a body that takes seconds, and refuses one that comes too slowly.
    fn look(&mut self, share: &Share) -> Result<(), Refusal> {
        let now = Instant::now();
        if now >= self.second_ends {
            share.offer(self.in_second);
            self.begin_second(now);
        }
        if now >= self.span_ends { self.next_span(now) } else { Ok(()) }
    }

    fn begin_second(&mut self, now: Instant) {
        (self.second_ends, self.in_second) = (now + SECOND, 0);
    }

    /// Begins the next span; refuses a body of which too little has come in the one that is over.
    fn next_span(&mut self, now: Instant) -> Result<(), Refusal> {
        let Limits { span, span_bytes, whole_body, .. } = self.limits;
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
    sender: Sender,
    limits: &Limits,
    memory: &Memory,
) -> Result<(Bytes, Share), Refusal> {
    let limit = limits.body_bytes;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    if let Some(length) = length.filter(|&length| memory.at_most(length) < length) {
        return Err(never(length));
    }
    let mut share = memory.share_of_request(sender);
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::with_capacity(length.unwrap_or(0).min(BEGINNING));
    let mut pace = Pace::begin(limits);
    loop {
        if Instant::now() >= pace.ends() {
            pace.look(&share)?;
        }
        let chunk = tokio::select! {
            biased;
            () = share.taken_up() => return Err(given_up(whole.len())),
            chunk = stream.next() => chunk,
            () = tokio::time::sleep_until(pace.ends()) => continue,
        };
        let Some(chunk) = chunk else { break };
        let chunk = chunk.map_err(|error| {
            let message = format!("the body was cut off: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, message, "nothing has landed; send the request again")
        })?;
        let bytes = whole.len() + chunk.len();
        if bytes > limit {
            return Err(too_large(limit));
        }
        if !share.cover(bytes) {
            if !share.keep() {
                return Err(given_up(whole.len()));
            }
            grow(&mut share, bytes, bytes, memory).await?;
            // While it waited for room, its client waited for it.
            pace.begin_second(Instant::now());
        }
        pace.came(chunk.len());
        whole.extend_from_slice(&chunk);
    }
    if !share.keep() {
        return Err(given_up(whole.len()));
    }
    if length.is_some_and(|length| length != whole.len()) {
        let message = "the body is shorter than its Content-Length";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, "nothing has landed; send the request again"));
    }
    Ok((whole.freeze(), share))
}

/// Grows a request's share to so many bytes, of which `body` have come.
pub(super) async fn grow(share: &mut Share, bytes: usize, body: usize, memory: &Memory) -> Result<(), Refusal> {
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
    /// One event, or an array of them.
    One,
    Lines,
    /// JSON of which the client does not say how it is written.
    Unsaid,
    /// One event, as a form.
    Form,
    /// An array of CloudEvents.
    Batch,
    Csv(u8),
}

fn invalid(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message, hint)
}

/// Finds the events in the body. Where that makes another body of it, `share` covers both.
pub(super) async fn events(
    mut body: Bytes,
    headers: &HeaderMap,
    mapping: &Mapping,
    memory: &Memory,
    share: &mut Share,
) -> Result<Events, Refusal> {
    let key = match headers.get("idempotency-key").map(|key| key.to_str()) {
        None => None,
        Some(Ok(key)) if !key.is_empty() && key.len() <= 255 => Some(key.to_owned()),
        Some(_) => return Err(invalid("the Idempotency-Key cannot be read", "use up to 255 visible ASCII characters")),
    };
    let at = chrono::Utc::now().timestamp_millis();
    let mut common = named(headers, mapping);
    let is_cloud_events = mapping.format.convention == Some(Convention::CloudEvents);
    if is_cloud_events && headers.contains_key("ce-specversion") {
        common.extend(attributes(headers));
        let ranges = std::iter::once(0..body.len()).collect();
        return within_limits(Events { ranges, body, headers: common, key, at }, mapping);
    }
    let holds = holds(headers, &body, mapping)?;
    if holds == Holds::Form {
        grow(share, body.len() + form::memory(&body), body.len(), memory).await?;
        body = Bytes::from(form::event(&body)?);
        share.shrink(body.len());
    }
    // More events take more memory than there is.
    let most = memory.at_most(usize::MAX) / rows::memory(1, 0);
    let ranges: Vec<Range<usize>> = match holds {
        Holds::One | Holds::Form => document(&body, most)?,
        Holds::Unsaid if is_document(&body) => document(&body, most)?,
        Holds::Lines | Holds::Unsaid => lines(&body, Ends::Newline).take(most + 1).collect(),
        Holds::Csv(delimiter) => {
            let mut records = lines(&body, Ends::csv(delimiter));
            if let Some(header) = records.next() {
                let reader = Reader::new(mapping.clone(), &Arc::default());
                if let Some(wrong) = reader.wrong_header(delimiter, &body[header.clone()]) {
                    return Err(invalid(wrong, "begin the body with a header"));
                }
                common.push((csv::HEADER.to_owned(), csv::header(&body[header]).to_vec()));
            }
            records.filter(|record| !body[record.clone()].trim_ascii().is_empty()).take(most + 1).collect()
        }
        Holds::Batch => {
            let ranges = elements(&body, most)?;
            if ranges.iter().any(|range| body.get(range.start) != Some(&b'{')) {
                return Err(invalid("an element of the batch is not an object", "send a JSON array of CloudEvents"));
            }
            ranges
        }
    };
    if ranges.len() > most {
        return Err(never(body.len()));
    }
    if ranges.is_empty() {
        let hint = match mapping.format.encoding {
            Encoding::Csv { .. } => "send records behind the header",
            _ => "send one event, one a line, or an array of them",
        };
        return Err(invalid("the body holds no event", hint));
    }
    within_limits(Events { body, ranges, headers: common, key, at }, mapping)
}

/// Takes the memory of the batch that the events will be in, beside that of the body.
pub(super) async fn room(events: &Events, share: &mut Share, memory: &Memory) -> Result<(), Refusal> {
    let (body, count) = (events.body.len(), events.ranges.len());
    // Each of them has all headers.
    let headers: usize = events.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    grow(share, body + rows::memory(count, body + count * headers), body, memory).await
}

/// Refuses events that are too long, and such as would be copies of one another.
fn within_limits(events: Events, mapping: &Mapping) -> Result<Events, Refusal> {
    let id = mapping.header_of_id().filter(|name| events.headers.iter().any(|(known, _)| known == name));
    if let Some(name) = id
        && events.ranges.len() > 1
    {
        let count = events.ranges.len();
        let message = format!("the id of an event is the header `{name}`, and the request has {count} events");
        let hint = "nothing has landed, since they would count as one; send one event a request, or let `id` in the \
                    stream's envelope name a path into the payload";
        return Err(invalid(message, hint));
    }
    let limit = mapping.max_event_bytes;
    if let Some((number, range)) = events.ranges.iter().enumerate().find(|(_, range)| range.len() > limit) {
        let message = format!("event {} has {} bytes, more than `max_event_bytes` ({limit})", number + 1, range.len());
        let hint = "nothing has landed; land it from a file instead";
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, hint));
    }
    Ok(events)
}

fn holds(headers: &HeaderMap, body: &[u8], mapping: &Mapping) -> Result<Holds, Refusal> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let unsupported =
        |message: String, hint: &str| Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint));
    const FORM: &str = "application/x-www-form-urlencoded";
    // What clients say that say nothing; `curl --data-binary` says that it sends a form. Pages of others, which may send
    // a form or plain text without asking first, are refused for where they come from, before this.
    let unsaid = matches!(media.as_str(), "" | "application/octet-stream" | FORM);
    match (&mapping.format.encoding, media.as_str()) {
        (Encoding::Avro { .. } | Encoding::Confluent, _) => {
            unsupported("the stream's payloads do not come over HTTP".to_owned(), "send them by Kafka or as files")
        }
        (Encoding::Csv { delimiter }, "text/csv") => Ok(Holds::Csv(*delimiter)),
        (Encoding::Csv { delimiter }, _) if unsaid => Ok(Holds::Csv(*delimiter)),
        (Encoding::Csv { .. }, other) => {
            unsupported(format!("content type `{}` is not read here", cut(other)), "send text/csv, with a header")
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
        (Encoding::Json, FORM) if form::is_one(body) => Ok(Holds::Form),
        (Encoding::Json, _) if unsaid => Ok(Holds::Unsaid),
        (Encoding::Json, other) => {
            let hint = "send one event, or an array, as application/json, or one event a line as application/x-ndjson";
            unsupported(format!("content type `{}` is not read here", cut(other)), hint)
        }
    }
}

/// The headers that belong to a CloudEvent in binary mode.
fn attributes(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let belongs = |name: &str| name.starts_with("ce-") || name == "content-type";
    let headers = headers.iter().filter(|(name, _)| belongs(name.as_str()));
    headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// Headers by which a client says who it is: never kept.
const CREDENTIALS: [&str; 3] = ["authorization", "proxy-authorization", "cookie"];

/// The headers that the stream names, called as it calls them: names over HTTP have no case.
fn named(headers: &HeaderMap, mapping: &Mapping) -> Vec<(String, Vec<u8>)> {
    let is_credential = |name: &String| CREDENTIALS.iter().any(|known| name.eq_ignore_ascii_case(known));
    let values = |name: &String| {
        let name = name.clone();
        headers.get_all(name.as_str()).iter().map(move |value| (name.clone(), value.as_bytes().to_vec()))
    };
    mapping.headers.iter().filter(|name| !is_credential(name)).flat_map(values).collect()
}

/// What is not said to be lines is one document of JSON: an array, or an event that is written over several lines.
fn is_document(body: &[u8]) -> bool {
    let is_json = |text: &[u8]| {
        simdutf8::basic::from_utf8(text).is_ok() && json::scan(&Paths::new::<&str>(&[]), text, &mut []).is_ok()
    };
    let body = body.trim_ascii();
    let first_line = body.split(|&byte| byte == b'\n').next().unwrap_or_default();
    (body.first() == Some(&b'[') || !is_json(first_line)) && is_json(body)
}

/// One event, or the elements of an array.
fn document(body: &[u8], most: usize) -> Result<Vec<Range<usize>>, Refusal> {
    match body.trim_ascii_start().first() {
        Some(b'[') => elements(body, most),
        _ if body.is_empty() => Ok(Vec::new()),
        _ => Ok(std::iter::once(0..body.len()).collect()),
    }
}

/// The elements of an array of JSON, and one more than `most` of them at most.
fn elements(body: &[u8], most: usize) -> Result<Vec<Range<usize>>, Refusal> {
    let hint = "send a JSON array of events";
    let mut whole = [Span::MISSING];
    json::scan(&Paths::new(&[""]), body, &mut whole).map_err(|error| invalid(format!("not JSON: {error}"), hint))?;
    if whole[0].kind != Kind::Array {
        return Err(invalid("a batch is an array", hint));
    }
    let start = whole[0].start as usize;
    let place = |element: Span| {
        // The span of a text is without its quotes.
        let quote = usize::from(element.kind == Kind::String);
        start + element.start as usize - quote..start + element.end as usize + quote
    };
    Ok(json::elements(whole[0].raw(body)).take(most + 1).map(place).collect())
}

/// Lines without their newlines; what follows the last newline is a line if there is anything.
fn lines(body: &[u8], mut ends: Ends) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let line = match ends.find(&body[start..]) {
            Some(length) => start..start + length,
            None if start < body.len() => start..body.len(),
            None => return None,
        };
        start = (line.end + 1).min(body.len());
        Some(line)
    })
}
