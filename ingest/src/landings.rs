//! Whether the store takes what this process lands, over all of its streams.
//!
//! ```text
//!           the store refuses a landing, or does not answer it
//!   taken ────────────────────────────────────────────────────► refused
//!     ▲                                                            │
//!     └──── a landing of any source succeeds after that began ─────┘
//! ```
//!
//! A stream whose own table is damaged says nothing of the others, so only refusals of the store count; and where others
//! land while one source does not, the trouble is that source's. It lives in this process only.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The refusals of one source of a stream, one after the other.
#[derive(Debug)]
struct Refusals {
    first: Instant,
    last: Instant,
}

#[derive(Debug)]
struct Landings {
    /// When something landed last.
    landed: Option<Instant>,
    /// By stream and source, as far as none has landed since.
    refused: BTreeMap<String, Refusals>,
}

impl Landings {
    const fn new() -> Self {
        Self { landed: None, refused: BTreeMap::new() }
    }

    fn refuse(&mut self, object: &str, now: Instant) {
        self.refused.entry(object.to_owned()).or_insert(Refusals { first: now, last: now }).last = now;
    }

    fn land(&mut self, object: &str, now: Instant) {
        self.landed = Some(now);
        self.refused.remove(object);
    }

    /// When the store refused last, where nothing has landed since it began to.
    fn last_refusal(&self) -> Option<Instant> {
        let holds = |refusals: &&Refusals| self.landed.is_none_or(|landed| landed < refusals.first);
        self.refused.values().filter(holds).map(|refusals| refusals.last).max()
    }
}

/// Those of this process.
static NOW: Mutex<Landings> = Mutex::new(Landings::new());

fn locked() -> MutexGuard<'static, Landings> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The store has refused to take, or does not answer, what `object`, a stream and its source, was to land.
pub(crate) fn refuse(object: &str) {
    locked().refuse(object, Instant::now());
}

/// Something has landed.
pub(crate) fn land(object: &str) {
    locked().land(object, Instant::now());
}

/// How long ago the store refused a landing last, where nothing has landed since it began to refuse.
pub fn refused_ago() -> Option<Duration> {
    locked().last_refusal().map(|last| last.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_takes_events_again_once_something_has_landed() {
        let mut landings = Landings::new();
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        assert_eq!(landings.last_refusal(), None);
        landings.land("a/http", at(0));
        landings.refuse("a/http", at(1));
        landings.refuse("b/kafka", at(2));
        landings.refuse("a/http", at(3));
        assert_eq!(landings.last_refusal(), Some(at(3)));
        // Another source lands: what still fails is a trouble of its own.
        landings.land("b/kafka", at(4));
        landings.refuse("a/http", at(5));
        assert_eq!(landings.last_refusal(), None);
        landings.refuse("b/kafka", at(6));
        assert_eq!(landings.last_refusal(), Some(at(6)));
        landings.land("a/http", at(7));
        landings.refuse("a/http", at(8));
        assert_eq!(landings.last_refusal(), Some(at(8)));
    }
}
