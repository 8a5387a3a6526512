//! What tests across rooms share: a small project, the binary as a process, events and what a naive reader makes
//! of them, stores that misbehave.

pub(crate) mod damage;
pub(crate) mod events;
pub(crate) mod http;
pub(crate) mod models;
pub(crate) mod process;
pub(crate) mod producer;
pub(crate) mod project;
pub(crate) mod stores;
pub(crate) mod tables;
pub(crate) mod upkeep;

use std::ops::Range;

/// The seeds of a test. `STARMERE_SEEDS=1000` runs so many, `STARMERE_SEEDS=17..18` the one that failed.
pub(crate) fn seeds(usual: u64) -> Range<u64> {
    let Ok(text) = std::env::var("STARMERE_SEEDS") else { return 0..usual };
    let number = |text: &str| text.trim().parse().expect("STARMERE_SEEDS is a number or a range such as 17..18");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 0..number(&text),
    }
}
