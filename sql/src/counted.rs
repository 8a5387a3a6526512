//! Counts queries, from their arrival to their last batch, for both protocols.
//!
//! ```text
//!   arrived ──► waiting ──► running ──► done                    the reader has all that it wants
//!                  │           ├──────► an error's kind         invalid, timed_out, internal …
//!                  └───────────┴──────► cancelled               told to stop, or nobody reads any more
//! ```

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use arrow::array::RecordBatch;
use futures::Stream;
use starmere_lake::metrics;

use crate::{
    error::{ErrorKind, QueryError},
    query::{Answer, Batches, Queries, Query},
};

/// Starts a query and counts it.
///
/// # Errors
/// Those of [`Queries::start`].
pub(crate) async fn start(queries: &Queries, query: Query) -> Result<(Answer, Asked), QueryError> {
    let mut asked = Asked::now();
    match queries.start(query).await {
        Ok(answer) => {
            asked.run();
            Ok((answer, asked))
        }
        Err(error) => {
            asked.end(error.kind().word());
            Err(error)
        }
    }
}

/// A query that was asked. Where it is dropped before it has ended, it was cancelled.
#[derive(Debug)]
pub(crate) struct Asked {
    since: Instant,
    runs: bool,
    ended: bool,
}

impl Asked {
    fn now() -> Self {
        metrics::QUERIES_WAITING.add(1);
        Self { since: Instant::now(), runs: false, ended: false }
    }

    fn run(&mut self) {
        metrics::QUERIES_WAITING.add(-1);
        metrics::QUERIES_RUNNING.add(1);
        self.runs = true;
    }

    fn end(&mut self, outcome: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let gauge = if self.runs { &metrics::QUERIES_RUNNING } else { &metrics::QUERIES_WAITING };
        gauge.add(-1);
        metrics::QUERIES.add(&[outcome], 1);
        metrics::QUERY_SECONDS.observe(self.since.elapsed());
    }

    /// Its batches, counted to their end.
    pub(crate) fn count(self, batches: Batches) -> Counted {
        Counted { batches, asked: self }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.end(ErrorKind::Cancelled.word());
    }
}

/// The rows of a query that is counted.
#[derive(Debug)]
pub(crate) struct Counted {
    batches: Batches,
    asked: Asked,
}

impl Counted {
    /// Whoever asked has all that they want; the rest is not read.
    pub(crate) fn enough(&mut self) {
        self.asked.end("done");
    }
}

impl Stream for Counted {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.batches).poll_next(context));
        match &next {
            None => self.asked.end("done"),
            Some(Err(error)) => self.asked.end(error.kind().word()),
            Some(Ok(_)) => {}
        }
        Poll::Ready(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other tests of this process count as well, so that numbers may only be compared from below.
    #[test]
    fn a_query_that_nobody_reads_any_more_was_cancelled() {
        let counted = || ["done", "cancelled"].map(|outcome| metrics::QUERIES.value(&[outcome]));
        let [done, cancelled] = counted();
        let mut asked = Asked::now();
        asked.run();
        asked.end("done");
        drop(asked);
        drop(Asked::now());
        let [done_after, cancelled_after] = counted();
        assert!(done_after > done && cancelled_after > cancelled);
    }

    #[test]
    fn an_end_is_counted_once() {
        // No other query ends so.
        let counted = || metrics::QUERIES.value(&["a test's"]);
        let mut asked = Asked::now();
        asked.end("a test's");
        asked.end("a test's");
        drop(asked);
        assert_eq!(counted(), 1);
    }
}
