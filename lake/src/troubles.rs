//! Trouble that lasts: logged at once with its cause, then ever less often, until it is over.
//!
//! ```text
//!             failed: logged            failed, once the pause is over: logged, with how many were held back
//!   well ────────────────► in trouble ──────────────────────────────────┐  pauses: 1, 2, 4 … 60 minutes
//!     ▲                     │    ▲                                      │
//!     └── well: logged once ┘    └──────────────────────────────────────┘
//! ```
//!
//! A trouble is known by what it is about and its object, not by its text: texts hold durations and numbers of attempts,
//! and would all be new. What lasts now is what `/metrics` counts and `status` lists. It lives in this process only.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::metrics;

/// A trouble that lasts is logged again after this, then after twice as long, and so on.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// ... up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// What a trouble is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// `up` cannot build. There is one object, `models`.
    Build,
    /// A port's rows are not as its contract says. The object is the port.
    Product,
    /// A source cannot be read. The object is the source.
    Source,
    /// Events that were read cannot be landed. The object is the stream and the source, `stream/source`.
    Landing,
    /// Brokers do not answer. The object is the source.
    Broker,
    /// A topic that a source names is not there, or nothing of it has landed since it was made. The object is
    /// `source/topic`.
    Topic,
    /// A partition has lag and nothing lands. The object is `source/topic/partition`.
    Stall,
    /// A partition is not read on. The object is `source/topic/partition`.
    Stopped,
    /// Compaction, retention or clean-up failed. The object is the stream, or `clean-up`.
    Upkeep,
    /// The warehouse, or a stream's table, cannot be read. The object is `warehouse`, or the stream.
    Warehouse,
    /// A newer binary has raised the warehouse's format number, and this one writes nothing. The object is `warehouse`.
    Format,
}

impl About {
    /// In one word, for labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Product => "product",
            Self::Source => "source",
            Self::Landing => "landing",
            Self::Broker => "broker",
            Self::Topic => "topic",
            Self::Stall => "stall",
            Self::Stopped => "stopped",
            Self::Upkeep => "upkeep",
            Self::Warehouse => "warehouse",
            Self::Format => "format",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Build => "could not build; trying again",
            Self::Product => "a product is held back",
            Self::Source => "a source could not be landed; trying again",
            Self::Landing => "events could not be landed; trying again",
            Self::Broker => "brokers do not answer; asking again",
            Self::Topic => "a topic is not read; waiting for it",
            Self::Stall => "a partition has lag, and nothing lands",
            Self::Stopped => "a partition is not read on",
            Self::Upkeep => "no upkeep; trying again later",
            Self::Warehouse => "the warehouse could not be read; trying again",
            Self::Format => "the warehouse's format is not known; looking again",
        }
    }
}

/// A trouble that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What it is about, in one word.
    pub about: String,
    /// What has it.
    pub object: String,
    /// Why it failed last.
    pub cause: String,
    /// When it began, in milliseconds since 1970.
    pub since: i64,
    /// When it failed last, in milliseconds since 1970.
    pub last: i64,
    /// How often it has failed.
    pub failures: u64,
}

struct Lasting {
    trouble: Trouble,
    say_again: Instant,
    pause: Duration,
    held_back: u64,
}

/// What is to be logged now.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    failures: u64,
    held_back: u64,
}

struct Troubles(Mutex<BTreeMap<(About, String), Lasting>>);

/// Those of this process.
static NOW: Troubles = Troubles(Mutex::new(BTreeMap::new()));

impl Troubles {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<(About, String), Lasting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a failure; says whether it is to be logged.
    fn failed(&self, about: About, object: &str, cause: &str, now: Instant, at: i64) -> Option<Said> {
        let mut all = self.locked();
        let Some(lasting) = all.get_mut(&(about, object.to_owned())) else {
            let (about_word, object, cause) = (about.word().to_owned(), object.to_owned(), cause.to_owned());
            let trouble =
                Trouble { about: about_word, object: object.clone(), cause, since: at, last: at, failures: 1 };
            let pause = FIRST_PAUSE;
            all.insert((about, object), Lasting { trouble, say_again: now + pause, pause, held_back: 0 });
            return Some(Said { failures: 1, held_back: 0 });
        };
        cause.clone_into(&mut lasting.trouble.cause);
        lasting.trouble.last = at;
        lasting.trouble.failures += 1;
        if now < lasting.say_again {
            lasting.held_back += 1;
            return None;
        }
        lasting.pause = (lasting.pause * 2).min(LONGEST_PAUSE);
        lasting.say_again = now + lasting.pause;
        let held_back = std::mem::take(&mut lasting.held_back);
        Some(Said { failures: lasting.trouble.failures, held_back })
    }

    /// Notes why it failed last, where that is known later than that it did.
    fn because(&self, about: About, object: &str, cause: &str, at: i64) {
        if let Some(lasting) = self.locked().get_mut(&(about, object.to_owned())) {
            cause.clone_into(&mut lasting.trouble.cause);
            lasting.trouble.last = at;
        }
    }

    /// Ends a trouble, where there is one.
    fn well(&self, about: About, object: &str) -> Option<Trouble> {
        let mut all = self.locked();
        if all.is_empty() {
            return None;
        }
        all.remove(&(about, object.to_owned())).map(|lasting| lasting.trouble)
    }
}

/// Something has failed, and will be tried again: counted, and logged unless it was a while ago.
pub fn failed(about: About, object: &str, cause: &str) {
    metrics::TROUBLES.add(&[about.word(), object], 1);
    let now = chrono::Utc::now().timestamp_millis();
    if let Some(Said { failures, held_back }) = NOW.failed(about, object, cause, Instant::now(), now) {
        tracing::error!(about = about.word(), object, cause, failures, held_back, "{}", about.words());
    }
}

/// Why something has failed that was told of before; it is neither counted nor logged again.
pub fn because(about: About, object: &str, cause: &str) {
    NOW.because(about, object, cause, chrono::Utc::now().timestamp_millis());
}

/// It has succeeded; where it was in trouble, that is logged.
pub fn well(about: About, object: &str) {
    if let Some(Trouble { failures, since, .. }) = NOW.well(about, object) {
        let seconds = (chrono::Utc::now().timestamp_millis() - since) / 1000;
        tracing::warn!(about = about.word(), object, failures, seconds, "is well again");
    }
}

/// All objects of a kind are well, but for these.
pub fn well_but_for(about: About, objects: &[&str]) {
    let over: Vec<String> = {
        let all = NOW.locked();
        let of_kind = all.keys().filter(|(kind, of)| *kind == about && !objects.contains(&of.as_str()));
        of_kind.map(|(_, of)| of.clone()).collect()
    };
    over.iter().for_each(|object| well(about, object));
}

/// The trouble of this object, where there is one.
pub fn of(about: About, object: &str) -> Option<Trouble> {
    NOW.locked().get(&(about, object.to_owned())).map(|lasting| lasting.trouble.clone())
}

/// All that last now.
pub fn all() -> Vec<Trouble> {
    NOW.locked().values().map(|lasting| lasting.trouble.clone()).collect()
}

/// An error and its causes, in one line; a cause that the words before it say already is left out.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_logged_at_once_and_then_ever_less_often() {
        let troubles = Troubles(Mutex::default());
        let begun = Instant::now();
        let mut logged = Vec::new();
        // It fails every ten seconds for a day, with another text each time.
        for second in (0..24 * 60 * 60).step_by(10) {
            let (now, cause) = (begun + Duration::from_secs(second), format!("no answer after {second} s"));
            if let Some(Said { held_back, .. }) = troubles.failed(About::Build, "models", &cause, now, 0) {
                logged.push((second / 60, held_back));
            }
        }
        assert_eq!(logged[..7], [(0, 0), (1, 5), (3, 11), (7, 23), (15, 47), (31, 95), (63, 191)]);
        assert_eq!(logged[7..9], [(123, 359), (183, 359)]);
        assert!(logged.len() < 32, "{}", logged.len());
    }

    #[test]
    fn objects_are_told_apart_and_the_end_is_told_once() {
        let troubles = Troubles(Mutex::default());
        let now = Instant::now();
        assert!(troubles.failed(About::Source, "a", "x", now, 1).is_some());
        assert!(troubles.failed(About::Source, "b", "x", now, 1).is_some());
        assert!(troubles.failed(About::Broker, "a", "x", now, 1).is_some());
        assert_eq!(troubles.failed(About::Source, "a", "y", now, 2), None);
        let over = troubles.well(About::Source, "a").unwrap();
        assert_eq!((over.cause.as_str(), over.since, over.last, over.failures), ("y", 1, 2, 2));
        assert_eq!(troubles.well(About::Source, "a"), None);
        assert!(troubles.failed(About::Source, "a", "z", now, 3).is_some());
        troubles.because(About::Source, "a", "the disk is full", 4);
        let known = troubles.well(About::Source, "a").unwrap();
        assert_eq!((known.cause.as_str(), known.last, known.failures), ("the disk is full", 4, 1));
    }

    #[test]
    fn causes_are_told_once_each() {
        let source = object_store::Error::Generic { store: "folder", source: "the disk is full".into() };
        let error = crate::Error::Store { action: "write", path: "a/b".into(), source };
        let words = causes(&error);
        assert!(words.starts_with("could not write `a/b`: ") && words.ends_with("the disk is full"), "{words}");
        assert_eq!(words.matches("the disk is full").count(), 1);
    }
}
