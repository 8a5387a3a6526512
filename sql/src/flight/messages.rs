//! Arrow messages as strangers send them.
//!
//! The library that reads them trusts the places and lengths that a message tells of itself: one that is damaged, or
//! made up, makes it panic or count to 2^60. So what a message says is compared with what came, before it is read.

use arrow::ipc;
use arrow_flight::FlightData;

use crate::error::QueryError;

/// An array has at most so many values, and one more for each byte of the message: what is done with parameters takes
/// memory for each value, and there are arrays whose values take no bytes at all.
const VALUES: i64 = 1 << 20;

/// That the places and lengths in a message lie within it.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(super) fn check(message: &FlightData) -> Result<(), QueryError> {
    if message.data_header.is_empty() {
        return Ok(());
    }
    let read = ipc::root_as_message(&message.data_header)
        .map_err(|error| damaged(&format!("a message cannot be read: {error}")))?;
    match read.header_type() {
        ipc::MessageHeader::RecordBatch => match read.header_as_record_batch() {
            Some(batch) => check_batch(&batch, message.data_body.len()),
            None => Err(damaged("a message has no header")),
        },
        ipc::MessageHeader::DictionaryBatch => match read.header_as_dictionary_batch().and_then(|batch| batch.data()) {
            Some(batch) => check_batch(&batch, message.data_body.len()),
            None => Err(damaged("a dictionary has no values")),
        },
        _ => Ok(()),
    }
}

fn check_batch(batch: &ipc::RecordBatch<'_>, body: usize) -> Result<(), QueryError> {
    let most = VALUES.saturating_add(i64::try_from(body).unwrap_or(i64::MAX));
    let is_length = |length: i64| (0..=most).contains(&length);
    if !is_length(batch.length()) {
        return Err(damaged("a batch has more rows than a message can hold"));
    }
    for node in batch.nodes().into_iter().flat_map(|nodes| nodes.iter()) {
        if !is_length(node.length()) || !(0..=node.length()).contains(&node.null_count()) {
            return Err(damaged("an array has more values than a message can hold"));
        }
    }
    for buffer in batch.buffers().into_iter().flat_map(|buffers| buffers.iter()) {
        let end = buffer.offset().checked_add(buffer.length());
        let is_within = end.and_then(|end| usize::try_from(end).ok()).is_some_and(|end| end <= body);
        if buffer.offset() < 0 || buffer.length() < 0 || !is_within {
            return Err(damaged("a buffer lies outside of its message"));
        }
    }
    Ok(())
}

/// What is said of parameters that cannot be read.
pub(super) fn damaged(what: &str) -> QueryError {
    QueryError::invalid(format!("could not read the parameters: {what}"))
        .with_hint("send them as an Arrow IPC stream, one column a parameter")
}
