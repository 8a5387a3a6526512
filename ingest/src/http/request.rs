//! From a request's body to events.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use super::Refusal;

/// The events of one request.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) body: Bytes,
    /// Where in the body each event is.
    pub(super) ranges: Vec<std::ops::Range<usize>>,
    /// The request's `Idempotency-Key`.
    pub(super) key: Option<String>,
}

/// The whole body, or nothing: a body that is cut off or too large is refused.
pub(super) async fn whole(body: Body, headers: &HeaderMap, limit: usize) -> Result<Bytes, Refusal> {
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
    let mut stream = body.into_data_stream();
    let mut whole = BytesMut::with_capacity(length.unwrap_or(0));
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            let message = format!("the body was cut off: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, message, "nothing has landed; send the request again")
        })?;
        if whole.len() + chunk.len() > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&chunk);
    }
    if length.is_some_and(|length| length != whole.len()) {
        let message = "the body is shorter than its Content-Length";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message, "nothing has landed; send the request again"));
    }
    Ok(whole.freeze())
}

/// Finds the events in the body.
pub(super) fn events(body: Bytes, headers: &HeaderMap, max_event_bytes: usize) -> Result<Events, Refusal> {
    let invalid = |message: &str, hint: &str| Refusal::new(StatusCode::BAD_REQUEST, message, hint);
    let key = match headers.get("idempotency-key").map(|key| key.to_str()) {
        None => None,
        Some(Ok(key)) if !key.is_empty() && key.len() <= 255 => Some(key.to_owned()),
        Some(_) => return Err(invalid("the Idempotency-Key cannot be read", "use up to 255 visible ASCII characters")),
    };
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let single = match media.as_str() {
        "application/json" => true,
        ""
        | "application/x-ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/ndjson"
        | "text/plain"
        | "application/octet-stream"
        | "application/x-www-form-urlencoded" => false,
        other => {
            let message = format!("content type `{other}` is not read here");
            let hint = "send one event as application/json, or one a line as application/x-ndjson";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint));
        }
    };
    let ranges = if single { std::iter::once(0..body.len()).collect() } else { lines(&body) };
    if body.is_empty() || ranges.is_empty() {
        return Err(invalid("the body holds no event", "send one event, or one a line"));
    }
    if single && body.trim_ascii_start().first() == Some(&b'[') {
        return Err(invalid("an array is not an event", "send one event a line as application/x-ndjson"));
    }
    if let Some((number, range)) = ranges.iter().enumerate().find(|(_, range)| range.len() > max_event_bytes) {
        let message =
            format!("event {} has {} bytes, more than `max_event_bytes` ({max_event_bytes})", number + 1, range.len());
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            message,
            "nothing has landed; land it from a file instead",
        ));
    }
    Ok(Events { body, ranges, key })
}

/// Lines without their newlines; what follows the last newline is a line if there is anything.
fn lines(body: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut lines = Vec::new();
    let mut start = 0;
    for newline in memchr::memchr_iter(b'\n', body) {
        lines.push(start..newline);
        start = newline + 1;
    }
    if start < body.len() {
        lines.push(start..body.len());
    }
    lines
}
