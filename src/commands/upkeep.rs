//! `starmere upkeep`: compaction, retention and clean-up; `up` and `ingest` do the same from time to time.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use starmere_lake::catalog::Catalog;
use starmere_lake::events::{file_options, file_schema};
use starmere_lake::format_number;
use starmere_lake::troubles::{self, About};
use starmere_lake::upkeep::{Compacted, Keep, Sizes, clean_up, compact, due, forget_environment, retain};
use starmere_models::define::suggestion;
use tokio_util::sync::CancellationToken;

use super::reload::Current;
use crate::command_line::Upkeep;
use crate::failure::Mendable;
use crate::output::{Output, bytes, counted};
use crate::project::Opened;

/// Streams are compacted this often while events come.
const COMPACT_EVERY: Duration = Duration::from_secs(20);
/// Retention, catalog snapshots and logs are looked after this often ...
const CLEAN_EVERY: Duration = Duration::from_secs(60 * 60);
/// ... and so long after the start: a process that is restarted every hour cleans up as well.
const FIRST_CLEAN: Duration = Duration::from_secs(5 * 60);
/// Data files are looked after the first time, and then every so many times: that reads all that was retained.
const FILES_EVERY: u64 = 24;
const MILLIS_A_DAY: i64 = 24 * 60 * 60 * 1000;
/// The object of troubles about clean-up.
const CLEAN_UP: &str = "clean-up";

pub(super) async fn run(opened: &Opened, arguments: &Upkeep, output: &Output) -> anyhow::Result<()> {
    if let Some(name) = &arguments.forget_env {
        let count = forget_environment(&opened.warehouse, name).await?;
        if count == 0 {
            let known = Catalog::environments(&opened.warehouse).await?;
            let hint = match known.is_empty() {
                true => "no environment has published anything; `starmere build --env NAME` begins one".to_owned(),
                false => suggestion(name, known.iter().map(String::as_str)),
            };
            return Err(Mendable::error(format!("there is no environment `{name}`"), hint));
        }
        output.say(format!(
            "environment {name}: forgotten, {}",
            counted(count as u64, "catalog snapshot", "catalog snapshots")
        ));
    }
    for parsed in &opened.project.streams {
        let name = parsed.definition.stream.as_str();
        let step = output.step(format!("stream {name}"));
        if arguments.dry_run {
            let due = match cut(opened, name, Utc::now()) {
                Some(day) => due(opened.stream(name)?.0.table(), day).await?,
                None => 0,
            };
            step.done(format!("would forget {}", counted(due, "event", "events")));
        } else {
            let forgotten = forget(opened, name).await?;
            let compacted = compacted(opened, name).await?;
            step.done(words(forgotten, &compacted));
        }
    }
    let step = output.step("clean-up");
    let days = opened.project.file.snapshot_days();
    // To ask the store for the time takes a write, and a dry run writes nothing.
    let now = match arguments.dry_run {
        true => Utc::now().timestamp_millis(),
        false => opened.warehouse.store().time().await?,
    };
    let later = i64::from(arguments.days_later) * MILLIS_A_DAY;
    let keep = Keep::at(now.saturating_add(later), days);
    let cleaned = clean_up(&opened.warehouse, &keep, arguments.dry_run).await?;
    let what = format!(
        "{} of {} and {}",
        counted(cleaned.files as u64, "object", "objects"),
        bytes(cleaned.bytes),
        counted(cleaned.snapshots as u64, "catalog snapshot", "catalog snapshots"),
    );
    let packed = match cleaned.packed as u64 {
        0 => String::new(),
        packed => format!(", of which {} packed", counted(packed, "commit is", "commits are")),
    };
    step.done(if arguments.dry_run {
        format!("would delete {what}{packed}")
    } else {
        format!("deleted {what}{packed}")
    });
    for table in cleaned.tables {
        output.say(format!("{table}: no snapshot pins it any more"));
    }
    Ok(())
}

fn words(forgotten: u64, compacted: &Compacted) -> String {
    let mut words = Vec::new();
    if forgotten > 0 {
        words.push(format!("{} forgotten", counted(forgotten, "event", "events")));
    }
    if compacted.files > 0 {
        let (files, into) = (compacted.files as u64, compacted.into as u64);
        words.push(format!("{} put together into {into}", counted(files, "file", "files")));
    }
    if words.is_empty() { "nothing to do".to_owned() } else { words.join(", ") }
}

/// The day before which everything of a stream is to be forgotten.
fn cut(opened: &Opened, stream: &str, now: DateTime<Utc>) -> Option<NaiveDate> {
    let parsed = opened.project.streams.iter().find(|parsed| *parsed.definition.stream == stream)?;
    let days = parsed.definition.retention_days.as_ref()?;
    now.date_naive().checked_sub_days(Days::new(u64::from(days.value)))
}

async fn forget(opened: &Opened, stream: &str) -> anyhow::Result<u64> {
    if cut(opened, stream, Utc::now()).is_none() {
        return Ok(0);
    }
    // What is forgotten is gone for good, so our clock alone does not say what is old.
    let now = DateTime::from_timestamp_millis(opened.warehouse.store().time().await?).unwrap_or_default();
    let Some(day) = cut(opened, stream, now) else { return Ok(0) };
    let (stream, _) = opened.stream(stream)?;
    Ok(retain(stream.table(), day).await?)
}

async fn compacted(opened: &Opened, stream: &str) -> anyhow::Result<Compacted> {
    let (stream, _) = opened.stream(stream)?;
    Ok(compact(stream.table(), file_schema(), &file_options(), &Sizes::default()).await?)
}

/// Keeps the lake healthy until told to stop. Trouble is told, and tried again the next time.
pub(super) async fn continuously(current: &Current, stop: &CancellationToken) {
    let work = async {
        let mut clean_at = tokio::time::Instant::now() + FIRST_CLEAN;
        let mut times = 0_u64;
        loop {
            tokio::time::sleep(COMPACT_EVERY).await;
            let opened = &current.now();
            // Clean-up by older rules may delete what a newer format needs. The trouble is told by who looks.
            if format_number::as_noted(opened.warehouse.store()).is_err() {
                continue;
            }
            let cleans = tokio::time::Instant::now() >= clean_at;
            for parsed in &opened.project.streams {
                let name = parsed.definition.stream.as_str();
                let done = async {
                    if cleans {
                        forget(opened, name).await?;
                    }
                    compacted(opened, name).await
                };
                match done.await {
                    Ok(compacted) => {
                        troubles::well(About::Upkeep, name);
                        if compacted.files > 0 {
                            tracing::info!(stream = name, compacted.files, compacted.into, "compacted");
                        }
                    }
                    Err(error) => troubles::failed(About::Upkeep, name, &troubles::causes(&*error)),
                }
            }
            if cleans {
                clean_at = tokio::time::Instant::now() + CLEAN_EVERY;
                let with_files = times.is_multiple_of(FILES_EVERY);
                times += 1;
                let cleaned = async {
                    let keep = Keep::now(opened.warehouse.store(), opened.project.file.snapshot_days()).await?;
                    let keep = if with_files { keep } else { keep.with_all_files() };
                    clean_up(&opened.warehouse, &keep, false).await
                };
                match cleaned.await {
                    Ok(_) => troubles::well(About::Upkeep, CLEAN_UP),
                    Err(error) => troubles::failed(About::Upkeep, CLEAN_UP, &troubles::causes(&error)),
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = stop.cancelled() => {}
    }
}
