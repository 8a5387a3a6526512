//! Promise 1 and 2 under races: whoever works at the same time, every event lands once and counts once.
//!
//! [`processes`] races processes as users would; [`interleaved`] lets one writer work to its end before every single
//! operation of another, so that no moment is left out; [`rewriting`] replaces files of a stream under everybody.

mod interleaved;
mod processes;
mod rewriting;
