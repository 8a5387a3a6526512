//! Keeps the process within its memory.
//!
//! Operators account for what they hold, but functions, plans and libraries do not. So a thread looks at what the
//! process has in use, and when that is too much, it stops the largest query: one query fails, in words, before the
//! kernel ends all of them and the ingestion beside them.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use starmere_lake::machine;

use super::{Inner, RunningQuery, registry::Registry};
use crate::error::QueryError;

/// How often it is looked at: two processors fill a hundred megabytes meanwhile.
const EVERY: Duration = Duration::from_millis(20);

/// How long a query that was stopped has to give its memory back, before another one is stopped …
const GRACE: Duration = Duration::from_secs(1);

/// … unless so much more is in use by then.
const GROWN: u64 = 64 << 20;

/// Looks after these queries for as long as they are there. Nothing, where the system does not say what is in use.
pub(super) fn keep_within(inner: &Arc<Inner>) {
    let Some(most) = inner.limits.resident else { return };
    if machine::resident().is_none() {
        return;
    }
    let inner = Arc::downgrade(inner);
    let looks = move || {
        let mut last: Option<(Instant, u64)> = None;
        loop {
            // Nobody unparks this thread.
            thread::park_timeout(EVERY);
            let Some(inner) = inner.upgrade() else { return };
            let Some(in_use) = machine::resident() else { continue };
            let gives_back = last.is_some_and(|(at, then)| at.elapsed() < GRACE && in_use < then + GROWN);
            if !gives_back && relieve(&inner.registry, in_use, most) {
                last = Some((Instant::now(), in_use));
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("memory".into()).spawn(looks) {
        tracing::warn!(%error, "nobody looks after the memory of queries: no thread could be started");
    }
}

/// Stops the largest query, if too much is in use. Whether one was stopped.
fn relieve(registry: &Registry, in_use: u64, most: u64) -> bool {
    if in_use <= most {
        return false;
    }
    let Some((query, stop)) = registry.largest(in_use) else { return false };
    let mib = |bytes: u64| bytes >> 20;
    let held = stop.holds();
    let message = format!(
        "query `{}` was stopped: it needs too much memory ({} MiB of {} MiB are in use)",
        query.id,
        mib(in_use),
        mib(most)
    );
    let RunningQuery { id, user, .. } = &query;
    tracing::warn!(query = %id, %user, in_use, most, held, "stopped a query that needs too much memory");
    let hint = "ask for less at once: fewer rows, or shorter values; or give the server more memory";
    stop.because(QueryError::unavailable(message).with_hint(hint));
    true
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::{
        ErrorKind,
        query::{
            Limits,
            admission::{Admission, Wants},
            lanes::Slot,
            registry::Registered,
            spool::{Budget, Spool},
        },
        testing::ana,
    };

    #[test]
    fn the_largest_query_that_computes_is_stopped_first() {
        let registry = Registry::default();
        let enter = |sql: &str| registry.enter(None, sql, &ana());
        let (first, second, waits) = (enter("first"), enter("second"), enter("waits"));
        let computes = |query: &Registered| {
            query.stop().computes(true);
            query.engage(Arc::default())
        };
        let (_first, of_second) = (computes(&first), computes(&second));
        assert!(!relieve(&registry, 100, 100));
        assert!(relieve(&registry, 101, 100));
        // None has reserved anything: the one that began last.
        let why = second.stop().reason().unwrap();
        assert_eq!(why.kind(), ErrorKind::Unavailable);
        assert!(why.to_string().contains("too much memory"), "{why}");
        assert!(!relieve(&registry, 101, 100), "the one that was stopped will give back most");
        drop(of_second);
        assert!(first.stop().reason().is_none());
        assert!(relieve(&registry, 101, 100));
        assert!(first.stop().reason().is_some());
        assert!(!relieve(&registry, 101, 100), "what waits has nothing to give");
        assert!(waits.stop().reason().is_none());
    }

    #[tokio::test]
    async fn rows_that_nobody_reads_can_be_given_back() {
        let (registry, limits) = (Registry::default(), Limits::default());
        let rows: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let rows = RecordBatch::try_from_iter([("n", rows)]).unwrap();
        let answer = Arc::new(Spool::new(&Arc::new(Budget::new(&limits))));
        let admission = Arc::new(Admission::new(&limits));
        let slot = Slot::with(admission.place("ana", Wants::General).await.unwrap());
        assert!(answer.push(rows, (&slot, &admission, "ana")).await.unwrap());
        let unread = registry.enter(None, "unread", &ana());
        unread.stop().answers(&answer);
        let runs = registry.enter(None, "runs", &ana());
        runs.stop().computes(true);
        let _engaged = runs.engage(Arc::default());
        assert!(relieve(&registry, 20_000, 10_000));
        assert!(unread.stop().reason().is_some() && runs.stop().reason().is_none());
        assert!(relieve(&registry, 20_000_000, 10_000_000));
        assert!(runs.stop().reason().is_some(), "of the others it is the one that computes");
    }
}
