//! Strict streams: a request lands nothing where one of its events is not what the stream's definition says.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use axum::http::StatusCode;
use starmere_lake::formats::{Header, Incoming};

use super::Refusal;
use super::request::Events;
use crate::envelope::{Mapping, Reader};
use crate::rows::rows_of;

/// Events that are judged together: so many are in memory as rows, beside the body.
const AT_ONCE: usize = 1000;

/// Knows the definition of a stream.
#[derive(Clone)]
pub struct Judge(Arc<dyn Fn(&RecordBatch) -> Found + Send + Sync>);

/// The first row that is not what the definition says, from 0, and why; or why that cannot be found out.
pub type Found = Result<Option<(u32, String)>, String>;

impl Judge {
    /// One that asks this of rows of the stream's table.
    pub fn new(judge: impl Fn(&RecordBatch) -> Found + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Judge")
    }
}

/// The events again, if all of them are what the definition says.
pub(super) async fn judged(events: Events, mapping: &Mapping, judge: &Judge) -> Result<Events, Refusal> {
    let (mapping, judge) = (mapping.clone(), judge.clone());
    let judging = tokio::task::spawn_blocking(move || {
        let found = misfit(&events, mapping, &judge);
        (events, found)
    });
    let failed = |reason: String| {
        let message = format!("the events could not be judged: {reason}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message, "nothing has landed; see the log of the server")
    };
    let (events, found) = judging.await.map_err(|error| failed(error.to_string()))?;
    let Some((place, reason)) = found.map_err(failed)? else { return Ok(events) };
    let hint = "nothing has landed, since the stream is `strict`; mend the event, or the definition of the stream";
    Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("event {}: {reason}", place + 1), hint))
}

/// An event that is not what the definition says, by its place from 0, and why.
fn misfit(events: &Events, mapping: Mapping, judge: &Judge) -> Result<Option<(usize, String)>, String> {
    let Events { body, ranges, headers, at, .. } = events;
    let headers: Vec<Header<'_>> =
        headers.iter().map(|(name, value)| (name.as_str(), Some(value.as_slice()))).collect();
    let headers = Some(headers.as_slice()).filter(|headers| !headers.is_empty());
    let mut reader = Reader::new(mapping, &Arc::default());
    for (number, ranges) in ranges.chunks(AT_ONCE).enumerate() {
        let events = ranges.iter();
        let events =
            events.map(|range| Incoming { headers, timestamp: Some(*at), ..Incoming::of(&body[range.clone()]) });
        let rows = match rows_of(&mut reader, events).map_err(|error| error.to_string())? {
            Ok(rows) => rows,
            Err((place, reason)) => return Ok(Some((number * AT_ONCE + place, reason))),
        };
        if let Some((row, reason)) = (judge.0)(&rows)? {
            return Ok(Some((number * AT_ONCE + row as usize, reason)));
        }
    }
    Ok(None)
}
