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
use crate::failure::{Mendable, Problems};
use crate::output::Output;
use crate::project::{Opened, Project, ProjectFile};
use crate::publish;
use crate::stamps::{Look, Stamps, look};

/// Files are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Definitions that were refused are read again after this, though no file that was read has changed: what they lack may
/// be there.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// What starmere.yaml says that is taken up while a process runs; the rest waits for its next start.
const TAKEN_UP: [&str; 3] = ["sources", "build_memory_mib", "snapshot_days"];

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
            let is_asked = tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => true,
                () = hung_up(&mut self.hangup) => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let project = self.opened.borrow().project.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || project.stamps_now()).await else { continue };
            let is_again = self.refused.is_some() && refused_at.elapsed() >= AGAIN_AFTER;
            if !(is_asked || is_again || look(&read, seen.as_ref(), &found) == Look::Read) {
                seen = Some(found);
                continue;
            }
            (read, seen) = match self.read().await {
                Ok(taken_up) => (taken_up, None),
                Err(error) => {
                    let words = format!("{error:#}");
                    if self.refused.as_ref() != Some(&words) {
                        let hint = crate::failure::hint(&error).unwrap_or_default();
                        let message =
                            format!("the files that have changed are not taken up, the old ones go on: {words}");
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
    async fn read(&mut self) -> anyhow::Result<Stamps> {
        let old = self.opened.borrow().clone();
        let (root, lands_only) = (old.project.root.clone(), old.project.unread.is_some());
        let reading = tokio::task::spawn_blocking(move || match lands_only {
            true => Project::load_to_land(&root),
            false => Project::load(&root),
        });
        let new = old.by(reading.await??);
        ingest::feeds(&new, &self.only, false)?;
        if self.builds && new.project.unread.is_none() {
            publish::refuse_breaks(&new).await?;
        }
        // Of a project that was read in part, all files are looked at from now on.
        let stamps = match &new.project.unread {
            None => new.project.stamps.clone(),
            Some(_) => new.project.stamps_now(),
        };
        let unread = new.project.unread.as_ref().map(ToString::to_string);
        if unread.is_none() || unread != self.refused {
            self.tell(&old, &new)?;
        }
        new.watched.is_refused.store(unread.is_some(), Ordering::Relaxed);
        self.refused = unread;
        self.opened.send_replace(new);
        Ok(stamps)
    }

    fn tell(&self, old: &Opened, new: &Opened) -> anyhow::Result<()> {
        let differing = differing(&old.project.file, &new.project.file)?;
        let is_other = !differing.is_empty() || old.project.fingerprint != new.project.fingerprint;
        if is_other || self.refused.is_some() {
            match &new.project.unread {
                Some(problems) => self.output.say(format!("streams and sources are read again; {problems}")),
                None => self.output.say("the files have changed, and are taken up"),
            }
        }
        for key in differing.iter().filter(|key| !TAKEN_UP.contains(&key.as_str())) {
            self.output.say(format!("starmere.yaml: `{key}` has changed, and takes effect at the next start"));
        }
        Ok(())
    }
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
