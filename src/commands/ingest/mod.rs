//! `starmere ingest`.

mod files;
mod kafka;
mod units;

pub(super) use kafka::stopped;
pub(super) use units::follow;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::Utc;
use croner::Cron;
use starmere_ingest::envelope::Mapping;
use starmere_ingest::files::Progress;
use starmere_ingest::rows::Types;
use starmere_lake::landing::Stream;
use starmere_lake::troubles::{self, About};
use tokio_util::sync::CancellationToken;

use super::reload::{Watcher, only_landed};
use super::{TO_STOP, serve, told_to_stop, upkeep};
use crate::command_line::Ingest;
use crate::failure::{self, Mendable};
use crate::output::{Output, Step, bytes, count, counted};
use crate::project::Opened;

/// A source, and the stream it feeds.
pub(super) struct Feed {
    stream: Stream,
    mapping: Mapping,
    from: From,
    /// When it is drained, where it is not followed.
    schedule: Option<Cron>,
}

enum From {
    Files(starmere_ingest::files::Source),
    Kafka(starmere_ingest::kafka::Source),
}

impl From {
    /// The source's name.
    fn source(&self) -> &str {
        match self {
            Self::Files(source) => &source.name,
            Self::Kafka(source) => &source.name,
        }
    }
}

pub(super) async fn run(opened: &Opened, arguments: &Ingest, output: &Output) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    if let Some(problems) = opened.project.unread.as_deref().filter(|_| arguments.once || arguments.file.is_some()) {
        output.error(&only_landed(problems));
    }
    if let Some(file) = &arguments.file {
        return until_told(&stop, files::one_file(opened, arguments, file, output, &stop)).await;
    }
    if !arguments.go_on.is_empty() {
        kafka::go_on(opened, arguments, output).await?;
        if !arguments.once {
            return Ok(());
        }
    }
    let feeds = feeds(opened, &arguments.streams, arguments.end_of_input)?;
    if feeds.is_empty() {
        let hint = "declare one under `sources` in starmere.yaml, or land a file with --file";
        return Err(Mendable::error("the project has no such source", hint));
    }
    if arguments.once {
        return until_told(&stop, all_once(opened, &feeds, output, &stop)).await;
    }
    let told = told_to_stop();
    let (watcher, current) = Watcher::new(opened, &arguments.streams, false, output);
    if let Some(address) = &arguments.metrics {
        serve::metrics_alone(&current, address, output, &stop).await?;
    }
    let (streams, end_of_input) = (&arguments.streams, arguments.end_of_input);
    tokio::spawn(serve::observe(current.clone(), "ingest", stop.clone()));
    let landing = async {
        tokio::join!(
            follow(&current, streams, end_of_input, output, &stop),
            upkeep::continuously(&current, &stop),
            watcher.run(stop.clone()),
        );
    };
    tokio::pin!(landing);
    tokio::select! {
        () = &mut landing => {}
        () = told => {
            stop.cancel();
            // What is not landed then is read again by the next run.
            let _ = tokio::time::timeout(TO_STOP, landing).await;
        }
    }
    Ok(())
}

/// Does `work` to its end; told to stop, it is to end early, with what it has.
async fn until_told(stop: &CancellationToken, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::pin!(work);
    let ended = tokio::select! {
        ended = &mut work => return ended,
        () = told_to_stop() => {
            stop.cancel();
            tokio::time::timeout(TO_STOP, work).await
        }
    };
    ended.unwrap_or(Ok(()))?;
    Err(Mendable::error("told to stop before all had landed", "what was read has landed; run it again for the rest"))
}

/// The project's sources, of these streams or all.
pub(super) fn feeds(opened: &Opened, only: &[String], end_of_input: bool) -> anyhow::Result<Vec<Feed>> {
    for stream in only {
        opened.stream(stream)?;
    }
    let wanted = |stream: &String| only.is_empty() || only.contains(stream);
    let project = &opened.project;
    let mut feeds = Vec::new();
    for (name, source) in project.file.sources.iter().filter(|(_, source)| wanted(&source.stream)) {
        let (stream, mapping) = opened.stream(&source.stream)?;
        let schedule = source.schedule().map_err(|(message, hint)| Mendable::error(message, hint))?;
        if let Some(pattern) = &source.files {
            let pattern = project.root.join(pattern);
            let source = starmere_ingest::files::Source { name: name.clone(), pattern, topic: None, end_of_input };
            let schedule = schedule.clone();
            feeds.push(Feed { stream: stream.clone(), mapping: mapping.clone(), from: From::Files(source), schedule });
        }
        if let Some(topics) = &source.kafka {
            let source = topics.source(&project.file.project, name, &project.root)?;
            feeds.push(Feed { stream, mapping, from: From::Kafka(source), schedule });
        }
    }
    Ok(feeds)
}

/// Lands what is new in each source, whatever becomes of the others.
async fn all_once(opened: &Opened, feeds: &[Feed], output: &Output, stop: &CancellationToken) -> anyhow::Result<()> {
    let (mut refused, mut stopped, mut troubles) = (0, 0, Vec::new());
    for feed in feeds.iter().take_while(|_| !stop.is_cancelled()) {
        let landed = match &feed.from {
            From::Files(source) => files::drain(opened, feed, source, output, true, stop)
                .await
                .map(|report| refused += report.refused.len()),
            From::Kafka(source) => {
                kafka::once(opened, feed, source, output, stop).await.map(|report| stopped += report.stops.len())
            }
        };
        troubles.extend(landed.err());
    }
    let rest = if troubles.is_empty() { "see above; everything else has landed" } else { "see above" };
    if refused > 0 {
        let message = format!("{} refused", counted(refused as u64, "file was", "files were"));
        troubles.push(Mendable::error(message, rest));
    }
    if stopped > 0 {
        let message = format!("{} stopped", counted(stopped as u64, "partition is", "partitions are"));
        troubles.push(Mendable::error(message, rest));
    }
    // The worst comes last: it is told, and makes the status, where the program ends.
    troubles.sort_by_key(failure::status);
    let worst = troubles.pop();
    troubles.iter().for_each(|error| output.error(error));
    worst.map_or(Ok(()), Err)
}

/// Lands what is new until told to stop, and then what was read.
async fn continuously(opened: &Opened, feeds: &[Feed], output: &Output, stop: &CancellationToken) {
    let (scheduled, followed): (Vec<&Feed>, Vec<&Feed>) = feeds.iter().partition(|feed| feed.schedule.is_some());
    let of_files = files::follow_all(opened, &followed, output, stop);
    let of_topics = followed.iter().filter_map(|feed| match &feed.from {
        From::Kafka(source) => Some(kafka::follow(opened, feed, source, output, stop)),
        From::Files(_) => None,
    });
    let of_schedules = scheduled.into_iter().map(|feed| by_schedule(opened, feed, output, stop));
    let of_schedules = futures::future::join_all(of_schedules);
    tokio::join!(of_files, futures::future::join_all(of_topics), of_schedules);
}

/// Drains a source at its times, until told to stop.
async fn by_schedule(opened: &Opened, feed: &Feed, output: &Output, stop: &CancellationToken) {
    let Some(schedule) = &feed.schedule else { return };
    let draining = async {
        loop {
            let now = Utc::now();
            // A schedule may be over: the 30th of February never comes.
            let Ok(next) = schedule.find_next_occurrence(&now, false) else { return std::future::pending().await };
            tokio::time::sleep((next - now).to_std().unwrap_or_default()).await;
            let drained = match &feed.from {
                From::Files(source) => files::drain(opened, feed, source, output, false, stop).await.map(drop),
                From::Kafka(source) => kafka::once(opened, feed, source, output, stop).await.map(drop),
            };
            let name = feed.from.source();
            match drained {
                Ok(()) => troubles::well(About::Source, name),
                Err(error) => troubles::failed(About::Source, name, &troubles::causes(&*error)),
            }
        }
    };
    tokio::select! {
        () = draining => {}
        () = stop.cancelled() => {}
    }
}

/// Events that no model can see, since the stream does not describe their types.
pub(super) fn undescribed(opened: &Opened, stream: &str, types: &Types) -> Option<String> {
    /// So many types are named.
    const MOST: usize = 5;
    let parsed = opened.project.streams.iter().find(|parsed| *parsed.definition.stream == stream)?;
    let described = &parsed.definition.events;
    let (mut events, mut names) = (0, Vec::new());
    for (name, count) in types.iter().filter(|(name, _)| !described.contains_key(*name)) {
        events += count;
        names.push(name);
    }
    let more = names.len().saturating_sub(MOST);
    let more = if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
    names.truncate(MOST);
    (events > 0).then(|| {
        let (events, names) = (counted(events, "event", "events"), names.join(", "));
        format!("{events} of types that the stream does not describe: {names}{more}")
    })
}

/// Waits for `landing`, and shows how far it is.
async fn shown<T>(landing: impl Future<Output = T>, step: Option<&Step>, progress: &Progress) -> T {
    let begun = Instant::now();
    tokio::pin!(landing);
    loop {
        tokio::select! {
            outcome = &mut landing => return outcome,
            () = tokio::time::sleep(Duration::from_millis(200)) => {
                let Some(step) = step else { continue };
                let (events, read) = (progress.events.load(Ordering::Relaxed), progress.bytes.load(Ordering::Relaxed));
                let rate = read as f64 / begun.elapsed().as_secs_f64().max(0.001);
                step.now(format!("{}, {}, {}/s", counted(events, "event", "events"), bytes(read), bytes(rate as u64)));
            }
        }
    }
}
