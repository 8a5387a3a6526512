//! Definitions of a process that runs: files that change are read again.
//!
//! ```text
//! files ── have they changed, and stayed so for a second? ──┐
//! SIGHUP, newer definitions are published ──────────────────┴─► read and check whole ─┬─ right ─► taken up by all
//!                                                                                     └─ wrong ─► the old go on, everywhere
//! ```
//!
//! Landing, serving and building each ask [`Current`] by what they go, and begin anew only what differs. Nothing is half
//! taken up: what is wrong anywhere is refused whole, and told once, until it is wrong in another way. Where to listen,
//! who may connect, and where the warehouse is, is settled when a process begins.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ingest;
use crate::acceptance;
use crate::failure::{Mendable, Problems};
use crate::output::Output;
use crate::project::{Opened, Project, ProjectFile};
use crate::stamps::{Look, Stamps, look};

/// Files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Definitions that were refused are read again after this, though no file that was read has changed: what they lack may
/// be there.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// What starmere.yaml says that is taken up while a process runs; the rest waits for its next start.
const TAKEN_UP: [&str; 6] =
    ["sources", "webhooks", "variables", "build_memory_mib", "snapshot_days", "publish_every_seconds"];

/// What a running process goes by.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    opened: watch::Receiver<Opened>,
    asked: Arc<Notify>,
}

impl Current {
    /// The definitions now.
    pub(crate) fn now(&self) -> Opened {
        self.opened.borrow().clone()
    }

    /// Waits until others are taken up.
    pub(crate) async fn changed(&mut self) {
        if self.opened.changed().await.is_err() {
            // Nobody watches the files any more: the process ends.
            std::future::pending().await
        }
    }

    /// Has the files read again at once.
    pub(crate) fn reread(&self) {
        self.asked.notify_one();
    }

    pub(crate) fn receiver(&self) -> watch::Receiver<Opened> {
        self.opened.clone()
    }
}

/// Looks at the files, and takes them up.
#[derive(Debug)]
pub(super) struct Watcher {
    opened: watch::Sender<Opened>,
    asked: Arc<Notify>,
    hangup: Option<Signal>,
    /// Streams that are landed; all where it is empty.
    only: Vec<String>,
    /// The process builds: what breaks readers is not taken up.
    builds: bool,
    output: Output,
    /// What starmere.yaml said when the process began: what is not taken up is so still.
    began: ProjectFile,
    /// Why the files were refused when they were read last.
    refused: Option<String>,
}

impl Watcher {
    /// From now on SIGHUP has the files read again, and ends the process no more.
    pub(super) fn new(opened: &Opened, only: &[String], builds: bool, output: &Output) -> (Self, Current) {
        let (sender, receiver) = watch::channel(opened.clone());
        let asked = Arc::new(Notify::new());
        let hangup = signal(SignalKind::hangup()).inspect_err(|error| {
            tracing::warn!(%error, "SIGHUP will end the process; files that change are read again all the same");
        });
        let mut watcher = Self {
            opened: sender,
            asked: asked.clone(),
            hangup: hangup.ok(),
            only: only.to_vec(),
            builds,
            output: output.clone(),
            began: opened.project.file.clone(),
            refused: None,
        };
        if let Some(problems) = &opened.project.unread {
            watcher.refuse(problems.to_string(), &only_landed(problems));
        }
        (watcher, Current { opened: receiver, asked })
    }

    /// Goes on until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut read = self.opened.borrow().project.stamps.clone();
        let mut seen: Option<Stamps> = None;
        let mut refused_at = Instant::now();
        loop {
            // Whoever sends a signal wants to hear what came of it.
            let (is_asked, is_hangup) = tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => (true, false),
                () = hung_up(&mut self.hangup) => (true, true),
                () = tokio::time::sleep(LOOK_EVERY) => (false, false),
            };
            let project = self.opened.borrow().project.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || project.stamps_now()).await else { continue };
            let is_again = self.refused.is_some() && refused_at.elapsed() >= AGAIN_AFTER;
            if !(is_asked || is_again || look(&read, seen.as_ref(), &found) == Look::Read) {
                seen = Some(found);
                continue;
            }
            (read, seen) = match self.read(is_hangup).await {
                Ok(taken_up) => (taken_up, None),
                Err(error) => {
                    let words = format!("{error:#}");
                    if is_hangup || self.refused.as_ref() != Some(&words) {
                        let hint = crate::failure::hint(&error).unwrap_or_default();
                        let message =
                            format!("the files are not taken up as they are now, and the old ones go on: {words}");
                        self.refuse(words, &Mendable::error(message, hint));
                    }
                    refused_at = Instant::now();
                    (found, None)
                }
            };
        }
    }

    fn refuse(&mut self, words: String, error: &anyhow::Error) {
        self.output.error(error);
        self.refused = Some(words);
        self.opened.borrow().watched.is_refused.store(true, Ordering::Relaxed);
    }

    /// Reads the files and takes them up, or tells why not. How they were when they were read.
    async fn read(&mut self, is_hangup: bool) -> anyhow::Result<Stamps> {
        let old = self.opened.borrow().clone();
        let (root, lands_only) = (old.project.root.clone(), old.project.unread.is_some());
        let reading = tokio::task::spawn_blocking(move || match lands_only {
            true => Project::load_to_land(&root),
            false => Project::load(&root),
        });
        let new = old.by(reading.await??);
        ingest::feeds(&new, &self.only, false)?;
        // What has been taken up already is not judged again: others may have published newer definitions since.
        if self.builds && new.project.unread.is_none() && new.project.fingerprint != old.project.fingerprint {
            acceptance::refuse_breaks(&new).await?;
        }
        // Of a project that was read in part, all files are looked at from now on.
        let stamps = match &new.project.unread {
            None => new.project.stamps.clone(),
            Some(_) => new.project.stamps_now(),
        };
        let unread = new.project.unread.as_ref().map(ToString::to_string);
        if is_hangup || unread.is_none() || unread != self.refused {
            let was = (old.project.as_ref(), self.refused.is_some());
            let words = told(&self.began, was, &new.project, is_hangup)?;
            words.into_iter().for_each(|words| self.output.say(words));
        }
        new.watched.is_refused.store(unread.is_some(), Ordering::Relaxed);
        self.refused = unread;
        self.opened.send_replace(new);
        Ok(stamps)
    }
}

/// What is said of files that were read again: `new` instead of `old`, which had been refused or not. Pure.
fn told(
    began: &ProjectFile,
    (old, was_refused): (&Project, bool),
    new: &Project,
    is_hangup: bool,
) -> anyhow::Result<Vec<String>> {
    let changed = differing(&old.file, &new.file)?;
    let waiting = differing(began, &new.file)?;
    let is_other = was_refused || !changed.is_empty() || old.fingerprint != new.fingerprint;
    let mut words = Vec::new();
    match &new.unread {
        Some(problems) if is_other => words.push(format!("streams and sources are read again; {problems}")),
        None if is_other => words.push("the files have changed, and are taken up".to_owned()),
        _ if is_hangup => words.push("the files are read again, and say the same".to_owned()),
        _ => {}
    }
    for key in changed.iter().filter(|key| !TAKEN_UP.contains(&key.as_str())) {
        words.push(match waiting.contains(key) {
            true => format!("starmere.yaml: `{key}` has changed, and takes effect at the next start"),
            false => format!("starmere.yaml: `{key}` is again what it was when this process began"),
        });
    }
    Ok(words)
}

/// What is said where models and products are wrong, and landing goes on without them.
pub(super) fn only_landed(problems: &Problems) -> anyhow::Error {
    let message = format!("models and products are wrong, so nothing is built; events are landed: {problems}");
    Mendable::error(message, "mend the files: a process that runs reads them again when they change")
}

/// The keys of starmere.yaml that differ.
fn differing(old: &ProjectFile, new: &ProjectFile) -> anyhow::Result<Vec<String>> {
    let (old, new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    let files = [&old, &new].into_iter().filter_map(|file| file.as_object());
    let keys: BTreeSet<&String> = files.flat_map(|file| file.keys()).collect();
    Ok(keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect())
}

async fn hung_up(hangup: &mut Option<Signal>) {
    let told = match hangup {
        Some(hangup) => hangup.recv().await,
        None => None,
    };
    if told.is_none() {
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(main: &str, stream: &str) -> Project {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("streams")).unwrap();
        let main = format!("project: p\nwarehouse: ./warehouse\n{main}");
        let events = "events: { sold: { versions: { 1: { fields: { code: { type: string } } } } } }";
        let stream = format!("stream: s\ndomain: d\nenvelope: {{ type: {stream}, time: at }}\n{events}\n");
        std::fs::write(folder.path().join("starmere.yaml"), main).unwrap();
        std::fs::write(folder.path().join("streams/s.yaml"), stream).unwrap();
        Project::load(folder.path()).unwrap()
    }

    #[test]
    fn what_is_said_of_files_is_so() {
        let began = project("", "kind");
        let said = |old: &Project, was_refused, new: &Project, is_hangup| {
            told(&began.file, (old, was_refused), new, is_hangup).unwrap().join("; ")
        };
        let taken_up = "the files have changed, and are taken up";
        let same = "the files are read again, and say the same";
        assert_eq!(said(&began, false, &project("", "kind"), false), "");
        assert_eq!(said(&began, false, &project("", "kind"), true), same);
        assert_eq!(said(&began, true, &project("", "kind"), false), taken_up);
        assert_eq!(said(&began, false, &project("", "type"), false), taken_up);
        assert_eq!(said(&began, false, &project("publish_every_seconds: 9\n", "kind"), false), taken_up);
        // A key that waits for the next start, again and again, and put back.
        let port = project("listeners: { http: '127.0.0.1:7171' }\n", "kind");
        let next_start = "starmere.yaml: `listeners` has changed, and takes effect at the next start";
        assert_eq!(said(&began, false, &port, false), format!("{taken_up}; {next_start}"));
        assert_eq!(said(&port, false, &port, true), same);
        let back = "starmere.yaml: `listeners` is again what it was when this process began";
        assert_eq!(said(&port, false, &began, false), format!("{taken_up}; {back}"));
    }
}
