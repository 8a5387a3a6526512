//! Trouble that other processes have: each that goes on tells its own beside the catalog, for `starmere status`.
//!
//! There is one object for each command, `operations/<command>.json`, written when trouble begins or ends and every ten
//! seconds while it lasts. A process that dies leaves its last report, which says when it was written. What the store refuses to
//! take cannot be told this way: `status` tries to write, and `/metrics`, `/readyz` and the log of the process say it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use starmere_lake::delta::Warehouse;
use starmere_lake::paths;
use starmere_lake::troubles::{self, About, Trouble};
use tokio_util::sync::CancellationToken;

/// Troubles are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A report is written anew after this while trouble lasts, so that it tells how often something has failed by now.
const RENEW_AFTER: Duration = Duration::from_secs(10);
/// A report that is older was written by a process that is gone, or that cannot write.
const STALE_AFTER: i64 = 3 * 60 * 1000;

/// The troubles of a process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// When it was written, in milliseconds since 1970.
    at: i64,
    troubles: Vec<Trouble>,
}

/// Whether a report is to be written. Pure.
fn is_due(told: Option<&BTreeSet<(String, String)>>, now: &BTreeSet<(String, String)>, since: Duration) -> bool {
    match told {
        // Where no report is there, none is needed to say that all is well.
        None => !now.is_empty(),
        Some(told) => told != now || (!now.is_empty() && since >= RENEW_AFTER),
    }
}

/// Tells the troubles of this process, which runs `command`, until told to stop.
pub(crate) async fn keep_telling(warehouse: &Warehouse, command: &str, stop: &CancellationToken) {
    tokio::select! {
        () = keep_writing(warehouse, command) => {}
        () = stop.cancelled() => {}
    }
}

async fn keep_writing(warehouse: &Warehouse, command: &str) {
    let path = paths::report(command);
    // The last report of an earlier process is over.
    let mut told = None;
    if let Ok(Some(_)) = warehouse.store().read(&path).await {
        told = Some(BTreeSet::from([(String::new(), String::new())]));
    }
    let mut written = Instant::now();
    loop {
        let troubles = troubles::all();
        let now: BTreeSet<_> = troubles.iter().map(|trouble| (trouble.about.clone(), trouble.object.clone())).collect();
        if is_due(told.as_ref(), &now, written.elapsed()) {
            let report = Report { at: chrono::Utc::now().timestamp_millis(), troubles };
            let bytes = serde_json::to_vec_pretty(&report).unwrap_or_default();
            match warehouse.store().write(&path, bytes.into()).await {
                Ok(()) => (told, written) = (Some(now), Instant::now()),
                // It is tried again soon; what the store refuses is a trouble of its own.
                Err(error) => tracing::debug!(%error, "troubles could not be told"),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the processes of a warehouse say, a line for each trouble. A report that cannot be read says nothing.
pub(crate) async fn lines(warehouse: &Warehouse) -> anyhow::Result<Vec<String>> {
    let now = chrono::Utc::now().timestamp_millis();
    let mut lines = Vec::new();
    for object in warehouse.store().list(&paths::reports_folder(), None).await? {
        let Some(command) = paths::report_command(&object.location) else { continue };
        let Some(bytes) = warehouse.store().read(&object.location).await? else { continue };
        let Ok(report) = serde_json::from_slice::<Report>(&bytes) else { continue };
        lines.extend(report.troubles.iter().map(|trouble| line(command, report.at, trouble, now)));
    }
    Ok(lines)
}

fn line(command: &str, at: i64, trouble: &Trouble, now: i64) -> String {
    let Trouble { about, object, cause, since, last, failures } = trouble;
    // The others are states: how often they were looked at says nothing.
    let attempts = [About::Build, About::Source, About::Landing, About::Upkeep];
    let (since, last) = (moment(*since), moment(*last));
    let times = match failures {
        _ if !attempts.iter().any(|kind| kind.word() == about) => format!("since {since} UTC"),
        1 => format!("has failed once, at {since} UTC"),
        failures => format!("has failed {failures} times, first at {since} UTC, last at {last} UTC"),
    };
    let stale = match now - at > STALE_AFTER {
        true => format!("; `{command}` said so last at {} UTC", moment(at)),
        false => String::new(),
    };
    format!("trouble of `{command}`: {about} {object} {times}{stale}: {cause}")
}

/// A moment in words.
fn moment(millis: i64) -> String {
    let at = chrono::DateTime::from_timestamp_millis(millis).unwrap_or_default();
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use starmere_lake::store::Store;

    use super::*;

    fn set(objects: &[&str]) -> BTreeSet<(String, String)> {
        objects.iter().map(|object| ("build".to_owned(), (*object).to_owned())).collect()
    }

    #[test]
    fn a_report_is_written_when_trouble_changes_and_renewed_while_it_lasts() {
        let (soon, late) = (Duration::ZERO, RENEW_AFTER);
        assert!(!is_due(None, &set(&[]), late));
        assert!(is_due(None, &set(&["a"]), soon));
        assert!(!is_due(Some(&set(&["a"])), &set(&["a"]), soon));
        assert!(is_due(Some(&set(&["a"])), &set(&["a"]), late));
        assert!(is_due(Some(&set(&["a"])), &set(&["a", "b"]), soon));
        assert!(is_due(Some(&set(&["a"])), &set(&[]), soon));
        assert!(!is_due(Some(&set(&[])), &set(&[]), late));
    }

    #[tokio::test]
    async fn another_process_reads_what_was_told() {
        let warehouse = Warehouse::new(Store::memory());
        assert_eq!(lines(&warehouse).await.unwrap(), Vec::<String>::new());
        let trouble = Trouble {
            about: "build".into(),
            object: "models".into(),
            cause: "the disk is full".into(),
            since: 0,
            last: 61_000,
            failures: 2,
        };
        let now = chrono::Utc::now().timestamp_millis();
        let report = Report { at: now, troubles: vec![trouble.clone()] };
        let write = |bytes: Vec<u8>| {
            let warehouse = warehouse.clone();
            async move { warehouse.store().write(&paths::report("up"), bytes.into()).await }
        };
        write(serde_json::to_vec(&report).unwrap()).await.unwrap();
        let told = "trouble of `up`: build models has failed 2 times, first at 1970-01-01 00:00:00 UTC, last at \
                    1970-01-01 00:01:01 UTC: the disk is full";
        assert_eq!(lines(&warehouse).await.unwrap(), [told]);
        let state = Trouble { about: "stall".into(), object: "s/t/0".into(), ..trouble.clone() };
        let told = "trouble of `up`: stall s/t/0 since 1970-01-01 00:00:00 UTC: the disk is full";
        assert_eq!(line("up", now, &state, now), told, "a state is no number of failures");
        assert!(line("up", 0, &trouble, now).contains("said so last at 1970-01-01 00:00:00 UTC"));
        write(b"nonsense".to_vec()).await.unwrap();
        assert_eq!(lines(&warehouse).await.unwrap(), Vec::<String>::new());
    }
}
