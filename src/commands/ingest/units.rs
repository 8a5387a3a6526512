//! Landing by definitions that change: what differs ends in good order and begins anew, what does not goes on.

use std::collections::BTreeMap;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Feed, From, continuously, feeds};
use crate::commands::TO_STOP;
use crate::commands::reload::Current;
use crate::output::Output;
use crate::project::Opened;

/// Sources that begin and end together: all that are files and are followed, or one other.
#[derive(Default)]
struct Unit {
    /// What landing goes by, as text: the same text, the same landing.
    says: String,
    feeds: Vec<Feed>,
}

/// A unit that runs.
struct Running {
    says: String,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Lands what is new in the sources of these streams (of all where there are none), by the definitions as they are,
/// until told to stop.
pub(in crate::commands) async fn follow(
    current: &Current,
    only: &[String],
    end_of_input: bool,
    output: &Output,
    stop: &CancellationToken,
) {
    let mut current = current.clone();
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        let opened = current.now();
        match feeds(&opened, only, end_of_input) {
            Ok(feeds) => renew(&mut running, units(&opened, feeds), &opened, output, stop).await,
            Err(error) => output.error(&error),
        }
        tokio::select! {
            () = current.changed() => {}
            () = stop.cancelled() => break,
        }
    }
    futures::future::join_all(running.into_values().map(end)).await;
}

/// Ends what is no longer wanted, or not so, and begins what does not run.
async fn renew(
    running: &mut BTreeMap<String, Running>,
    wanted: BTreeMap<String, Unit>,
    opened: &Opened,
    output: &Output,
    stop: &CancellationToken,
) {
    let gone: Vec<String> = running
        .iter()
        .filter(|(name, unit)| wanted.get(*name).is_none_or(|wanted| wanted.says != unit.says))
        .map(|(name, _)| name.clone())
        .collect();
    for unit in gone.iter().filter_map(|name| running.remove(name)).collect::<Vec<_>>() {
        unit.stop.cancel();
        end(unit).await;
    }
    for (name, Unit { says, feeds }) in wanted {
        if running.contains_key(&name) {
            continue;
        }
        let stop = stop.child_token();
        let (opened, output, stopped) = (opened.clone(), output.clone(), stop.clone());
        let task = tokio::spawn(async move { continuously(&opened, &feeds, &output, &stopped).await });
        running.insert(name, Running { says, stop, task });
    }
}

/// Waits until a unit that was told to stop has landed what it had read. What it has not is read again by the next one.
async fn end(mut unit: Running) {
    match tokio::time::timeout(TO_STOP, &mut unit.task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "landing died"),
        Err(_) => {
            tracing::warn!(
                seconds = TO_STOP.as_secs(),
                "a source does not end; what it has read and not landed is read again by the next process"
            );
            unit.task.abort();
        }
    }
}

fn units(opened: &Opened, feeds: Vec<Feed>) -> BTreeMap<String, Unit> {
    let mut units: BTreeMap<String, Unit> = BTreeMap::new();
    for feed in feeds {
        let name = match (&feed.from, &feed.schedule) {
            (From::Files(_), None) => "files".to_owned(),
            _ => format!("source {}", feed.from.source()),
        };
        let unit = units.entry(name).or_default();
        unit.says += &says(opened, &feed);
        unit.feeds.push(feed);
    }
    units
}

/// What the landing of a source goes by: where events come from, where they go, and how they are read.
fn says(opened: &Opened, feed: &Feed) -> String {
    let source = feed.from.source();
    let written = opened.project.file.sources.get(source).map(|source| serde_json::to_string(&**source));
    let stream = opened.project.streams.iter().find(|parsed| *parsed.definition.stream == feed.stream.name());
    let described: Vec<&String> = stream.iter().flat_map(|parsed| parsed.definition.events.keys()).collect();
    let (table, mapping) = (feed.stream.table().path(), &feed.mapping);
    format!("{source} {written:?} {table} {mapping:?} {described:?}\n")
}
