//! Landing what topics have.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use starmere_ingest::files::Progress;
use starmere_ingest::kafka::{Report, Source, Stop, Until, go_on as accept, land, stops};
use starmere_lake::troubles::{self, About};
use tokio_util::sync::CancellationToken;

use super::{Feed, shown, undescribed};
use crate::command_line::Ingest;
use crate::failure::Mendable;
use crate::output::{Output, bytes, counted};
use crate::project::Opened;

/// A source that failed is begun again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Lands what is there.
pub(super) async fn once(
    opened: &Opened,
    feed: &Feed,
    source: &Source,
    output: &Output,
    stop: &CancellationToken,
) -> anyhow::Result<Report> {
    let progress = Arc::new(Progress::default());
    let step = output.step(format!("landing {}", source.name));
    let landing = land(&feed.stream, &feed.mapping, source, &progress, &opened.memory, Until::Drained(stop.clone()));
    let report = shown(landing, Some(&step), &progress).await;
    let report = report.with_context(|| format!("could not land `{}`", source.name))?;
    step.done(words(&report));
    if let Some(words) = undescribed(opened, feed.stream.name(), &report.counts.types) {
        output.say(words);
    }
    for stop in &report.stops {
        output.say(stopped(stop));
    }
    Ok(report)
}

/// Lands what comes until told to stop, and begins again where it failed.
pub(super) async fn follow(opened: &Opened, feed: &Feed, source: &Source, output: &Output, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let (until, progress) = (Until::Stopped(stop.clone()), Arc::default());
        let landing = land(&feed.stream, &feed.mapping, source, &progress, &opened.memory, until);
        match well_where_it_goes_on(&source.name, landing).await {
            Ok(report) => output.say(format!("landed {}: {}", source.name, words(&report))),
            Err(error) => {
                troubles::failed(About::Source, &source.name, &troubles::causes(&error));
                tokio::select! {
                    () = tokio::time::sleep(AGAIN_AFTER) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

/// Waits for a source to end; one that goes on for longer than a pause between two attempts is well.
async fn well_where_it_goes_on<T>(source: &str, landing: impl Future<Output = T>) -> T {
    let mut landing = std::pin::pin!(landing);
    tokio::select! {
        ended = &mut landing => return ended,
        () = tokio::time::sleep(2 * AGAIN_AFTER) => troubles::well(About::Source, source),
    }
    landing.await
}

fn words(report: &Report) -> String {
    let mut words = format!("{}, {}", counted(report.counts.events, "event", "events"), bytes(report.counts.bytes));
    if report.counts.rejects > 0 {
        words += &format!(", {}", counted(report.counts.rejects, "reject", "rejects"));
    }
    if report.counts.without_id > 0 {
        words += &format!(", {}", counted(report.counts.without_id, "without its id", "without their ids"));
    }
    if report.commits > 0 {
        words += &format!("; version {}", report.version);
    }
    words
}

/// What `--go-on` takes for a partition.
fn place(stop: &Stop) -> String {
    let of = &stop.partition;
    format!("{}/{}/{}", of.source, of.topic, of.partition)
}

/// What is said of a partition that is stopped.
pub(in crate::commands) fn stopped(stop: &Stop) -> String {
    format!("stopped: {stop}; `starmere ingest --go-on {}` accepts that", place(stop))
}

/// Reads partitions on that are stopped, by accepting what was lost.
pub(super) async fn go_on(opened: &Opened, arguments: &Ingest, output: &Output) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for parsed in &opened.project.streams {
        let (stream, _) = opened.stream(&parsed.definition.stream)?;
        found.extend(stops(&stream).await?.into_iter().map(|stop| (stream.clone(), stop)));
    }
    for wanted in &arguments.go_on {
        let Some((stream, stop)) = found.iter().find(|(_, stop)| place(stop) == *wanted) else {
            let there: Vec<String> = found.iter().map(|(_, stop)| format!("`{}`", place(stop))).collect();
            let hint = if there.is_empty() { "none is".to_owned() } else { format!("these are: {}", there.join(", ")) };
            return Err(Mendable::error(format!("no partition `{wanted}` is stopped"), hint));
        };
        if accept(stream, stop).await? {
            output.say(format!("accepted: {stop}"));
        } else {
            output.say(format!("`{wanted}` was read on in the meantime"));
        }
    }
    Ok(())
}
