//! Projects that `starmere init --example NAME` writes: definitions, events and the right answers.

pub(crate) mod shop;
