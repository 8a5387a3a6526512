//! Tests that cross rooms, in one binary: each links a whole query engine.
#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod backup;
mod breach;
mod changing;
mod crash;
mod definitions;
mod faults;
mod growth;
mod incremental;
mod infer;
mod listing;
mod memory;
mod moments;
mod operations;
mod pages;
mod project_tests;
mod races;
mod recovery;
mod refused;
mod repair;
mod reread;
mod retention;
mod rooms;
mod schedule;
mod support;
mod verify;
mod webhooks;

// What is shipped allocates so (`src/main.rs`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
