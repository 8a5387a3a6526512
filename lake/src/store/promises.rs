//! Finds out, by trying, whether a store keeps the promises that the protocols need.
//!
//! A store that speaks like S3 may accept the condition of a conditional write and ignore it, or look first and write
//! then; a mounted folder may have no hard links. Nothing fails there: two writers are both told that a commit is theirs,
//! and events are lost. So before a process writes for the first time, objects with names of their own are written, read,
//! listed and created, below `_starmere/probe/`:
//!
//! | tried | what a store that fails would lose |
//! | --- | --- |
//! | an object is read and listed once it is written, and written again | commits that a reader passes over |
//! | an object that is there is not created again | commits that a later one replaces |
//! | of writers that create one object at once, one is told that it did | commits that two writers believe to be theirs |
//!
//! What cannot be tried: that an object survives a power cut once its writing returned. A store that kept its promises is
//! remembered in an object, so later processes do not try again. A store that does not answer is no verdict: whoever
//! writes next meets the trouble and tells of it.

use bytes::Bytes;
use futures::future::join_all;
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};

use super::Store;
use crate::paths::Probe;
use crate::{Error, Result};

/// Writers that create one object at once, and how often they do.
const RACERS: usize = 8;
const ROUNDS: usize = 3;
/// Raised when more is tried.
const TRIED: u32 = 1;

/// A verdict that is kept for later processes: this store kept its promises.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// As the project names it: a copy of the warehouse in another store is tried again.
    location: String,
    tried: u32,
}

/// Fails where the store does not keep a promise.
pub(super) async fn check(store: &Store) -> Result<()> {
    let kept = Kept { location: store.location().to_owned(), tried: TRIED };
    let verdict = Probe::verdict();
    if let Ok(Some(bytes)) = store.read(&verdict).await
        && serde_json::from_slice::<Kept>(&bytes).is_ok_and(|found| found == kept)
    {
        return Ok(());
    }
    let probe = Probe::new();
    let found = attempt(store, &probe).await;
    clean(store, &probe).await;
    match found {
        Ok(Some(broken)) => Err(Error::Promise { location: kept.location, broken }),
        Ok(None) => {
            if let Ok(bytes) = serde_json::to_vec(&kept) {
                // Without it, the next process tries again.
                _ = store.write(&verdict, bytes.into()).await;
            }
            Ok(())
        }
        Err(error) => {
            let location = store.location();
            tracing::warn!(location, %error, "whether the store keeps its promises could not be tried");
            Ok(())
        }
    }
}

/// The first promise that is broken, in words.
async fn attempt(store: &Store, probe: &Probe) -> Result<Option<String>> {
    let written = probe.object("written");
    for text in ["first", "second"] {
        store.write(&written, text.into()).await?;
        if store.read(&written).await?.as_deref() != Some(text.as_bytes()) {
            let broken = "an object was written, and something else was read then; readers would miss commits";
            return Ok(Some(broken.into()));
        }
    }
    if !store.list(&probe.folder(), None).await?.iter().any(|object| object.location == written) {
        return Ok(Some("an object was written, and is not listed; readers would miss commits".into()));
    }
    let created = probe.object("created");
    if let Err(error) = store.create(&created, "first".into()).await
        && let Err(again) = store.create(&probe.object("again"), "first".into()).await
    {
        // Unless it does not answer at all.
        store.write(&written, "third".into()).await?;
        tracing::debug!(%error, "an object could not be created");
        let cause = std::error::Error::source(&again).map(|cause| cause.to_string()).unwrap_or_default();
        let broken = "an object can be written, and not created on the condition that it is missing";
        return Ok(Some(format!("{broken} ({cause}); writers would overwrite each other's commits")));
    }
    // If an answer was lost, this makes it.
    store.create(&created, "first".into()).await?;
    let is_created_again = store.create(&created, "second".into()).await?;
    if is_created_again || store.read(&created).await?.as_deref() != Some(b"first".as_slice()) {
        let broken = "an object that was there was created again; writers would overwrite each other's commits";
        return Ok(Some(broken.into()));
    }
    for round in 0..ROUNDS {
        if let Some(broken) = race(store, probe, round).await? {
            return Ok(Some(broken));
        }
    }
    Ok(None)
}

/// Creates one object by several writers at once.
async fn race(store: &Store, probe: &Probe, round: usize) -> Result<Option<String>> {
    let place = probe.object(&format!("raced-{round}"));
    let text = |racer: usize| Bytes::from(racer.to_string());
    let outcomes = join_all((0..RACERS).map(|racer| store.create(&place, text(racer)))).await;
    let winners: Vec<usize> = (0..RACERS).filter(|&racer| matches!(outcomes[racer], Ok(true))).collect();
    let stored = store.read(&place).await?;
    Ok(match winners.as_slice() {
        // Contended: nobody, or somebody who was not told.
        [] => None,
        [winner] if stored == Some(text(*winner)) => None,
        [_] => {
            Some("a writer was told that it created an object, and another's is there; commits would be lost".into())
        }
        more => Some(format!(
            "of {RACERS} writers that created one object at once, {} were told that they did; two writers would believe \
             that one commit is theirs, and events would be lost",
            more.len()
        )),
    })
}

async fn clean(store: &Store, probe: &Probe) {
    // What is left is small, and nobody reads it.
    for object in store.list(&probe.folder(), None).await.unwrap_or_default() {
        _ = store.objects().delete(&object.location).await;
    }
}
