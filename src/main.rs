//! `starmere`: one binary that turns streams of events into star schemas people can query.
//!
//! The command line is a thin layer: each command loads the project, calls the rooms, and prints. Data goes to
//! standard output, everything else to standard error. Exit status 0: done; 1: the user can mend it; 2: otherwise.

mod acceptance;
mod builds;
mod changes;
mod command_line;
mod commands;
mod contracts;
mod definitions;
mod example;
mod failure;
mod health;
mod held;
mod limits;
mod made;
mod output;
mod part;
mod process;
mod project;
mod project_tests;
mod publish;
mod references;
mod reports;
mod sources;
mod stamps;
mod variables;
mod verdicts;
mod views;
mod webhooks;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::command_line::{Global, LogFormat};

/// The system's allocator gives memory back and asks for it again with every batch: that took half of a scan. This one
/// gives back after a tenth of a second what nobody asks for (`.cargo/config.toml`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Statements are trees that the engine walks by recursion; what is too deep for this is refused before.
const STACK_BYTES: usize = 64 << 20;

/// How long threads may take to end once the command has.
const TO_END: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    std::sync::LazyLock::force(&process::STARTED);
    let line = match command_line::CommandLine::try_parse() {
        Ok(line) => line,
        Err(shown) => {
            let is_mistake = shown.use_stderr();
            // Nobody reads it: then nobody misses it.
            let _ = shown.print();
            return ExitCode::from(u8::from(is_mistake));
        }
    };
    // The first thread's stack is what the system gives.
    let run = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| run(line));
    run.ok().and_then(|run| run.join().ok()).unwrap_or(ExitCode::from(2))
}

/// Logs go to standard error, each line with its time and level.
fn begin_logs(global: &Global) {
    let filter = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (false, false) => "warn",
        (false, true) => "info",
    };
    let mut filter = EnvFilter::try_from_env("STARMERE_LOG").unwrap_or_else(|_| filter.into());
    if global.log_format.is_some() {
        // What is said otherwise is a log line as well, and a panic is one.
        let said = format!("{}={}", output::SAID, if global.quiet { "error" } else { "info" });
        if let Ok(said) = said.parse::<tracing_subscriber::filter::Directive>() {
            filter = filter.add_directive(said);
        }
        std::panic::set_hook(Box::new(|panic| tracing::error!(target: output::SAID, "{panic}")));
    }
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        Some(LogFormat::Json) => logs.json().flatten_event(true).init(),
        Some(LogFormat::Text) => logs.with_ansi(false).init(),
        None => logs.with_ansi(std::io::stderr().is_terminal()).init(),
    }
}

fn run(line: command_line::CommandLine) -> ExitCode {
    let output = output::Output::new(&line.global);
    begin_logs(&line.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output.error(&anyhow::Error::new(error).context("could not start"));
            return ExitCode::from(2);
        }
    };
    let outcome = runtime.block_on(commands::run(line, &output));
    // A thread that waits for a disk or a store which never answers would keep the process for ever.
    runtime.shutdown_timeout(TO_END);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output.error(&error);
            ExitCode::from(failure::status(&error))
        }
    }
}
