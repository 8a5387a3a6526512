//! Which definitions are published, and who may publish others. Pure.
//!
//! A catalog snapshot carries the fingerprint of the definitions that it follows, and a number that grows whenever
//! others are published. To publish others is a deliberate act: `build`, the start of `up`, and a change of the files
//! of an `up` that runs. Each act is a [`Claim`] to replace what was published when it was made, and nothing that was
//! published later by somebody else:
//!
//! ```text
//! what is published            a claim says
//! ours                         Ours         go on, under the same number
//! others, known when claimed   Succeeds     publish ours, under the next number
//! others, published since      Superseded   `build` claims again, on top; `up` rereads its files, or stops building
//! ```
//!
//! So two processes with different files do not revert each other: the later act stands.
//!
//! One start is no such act. A snapshot remembers the definitions that others have replaced. An `up` that begins with
//! those was started again with old files, by a supervisor after a crash perhaps: it is superseded from its start on.
//! To go back on purpose takes a `build`, which says so, or a change of the files while `up` runs.

use std::collections::BTreeMap;

use serde_json::json;
use sha2::{Digest, Sha256};
use starmere_lake::catalog::{CatalogSnapshot, Definitions};
use starmere_marts::meaning::Meaning;
use starmere_models::define::{Parsed, StreamFile};
use starmere_models::resolve::Models;

/// A digest of what definitions of streams, models and products mean: their order and their comments do not count. What
/// starmere.yaml says of the machine (where things are, who may connect) does not count either. A binary that builds
/// models by other rules makes another digest.
pub(crate) fn fingerprint(
    streams: &[Parsed<StreamFile>],
    models: &Models,
    meaning: &Meaning,
) -> serde_json::Result<String> {
    let streams: BTreeMap<&str, serde_json::Value> = streams
        .iter()
        .map(|parsed| &parsed.definition)
        .map(|file| (file.stream.as_str(), json!({ "file": file, "schema": file.schema_text })))
        .collect();
    let models: BTreeMap<String, (&str, &str)> =
        models.models.iter().map(|model| (model.name().to_string(), (model.kind(), model.fingerprint()))).collect();
    let ports: BTreeMap<String, _> = meaning.ports.iter().map(|port| (port.full_name(), port)).collect();
    let described = meaning.models.iter().chain(&meaning.streams);
    let described: BTreeMap<&str, _> = described.map(|described| (described.name.as_str(), described)).collect();
    // Keys of an object are sorted.
    let all = json!({ "streams": streams, "models": models, "ports": ports, "described": described });
    Ok(hex::encode(&Sha256::digest(serde_json::to_vec(&all)?)[..16]))
}

/// What somebody may do who wants to publish definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// They are published.
    Ours(Definitions),
    /// They may be published, as these.
    Succeeds(Definitions),
    /// Somebody else has published these since.
    Superseded(Definitions),
}

/// By what `up` takes up definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// It begins. Who started it may not have meant these files.
    Start,
    /// Its files have changed.
    Change,
}

/// A deliberate act: definitions, and up to which number they may replace others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    fingerprint: String,
    over: u64,
}

impl Claim {
    /// The claim of `fingerprint` over what is published now.
    pub(crate) fn over(fingerprint: &str, newest: Option<&Definitions>) -> Self {
        let over = match newest {
            Some(newest) if newest.fingerprint == fingerprint => newest.number.saturating_sub(1),
            Some(newest) => newest.number,
            None => 0,
        };
        Self { fingerprint: fingerprint.to_owned(), over }
    }

    /// The claim that `up` makes by an act. A start with definitions that others have replaced claims no more than what
    /// they had replaced themselves.
    pub(crate) fn by(act: Act, fingerprint: &str, newest: &CatalogSnapshot) -> Self {
        let claim = Self::over(fingerprint, newest.definitions.as_ref());
        match newest.superseded_as(fingerprint) {
            Some(own) if act == Act::Start => Self { over: own.min(claim.over.saturating_sub(1)), ..claim },
            _ => claim,
        }
    }

    /// What may be done where these are published.
    pub(crate) fn standing(&self, newest: Option<&Definitions>) -> Standing {
        match newest {
            Some(newest) if newest.fingerprint == self.fingerprint => Standing::Ours(newest.clone()),
            Some(newest) if newest.number > self.over => Standing::Superseded(newest.clone()),
            newest => {
                let number = newest.map_or(0, |newest| newest.number).max(self.over) + 1;
                Standing::Succeeds(Definitions { number, fingerprint: self.fingerprint.clone() })
            }
        }
    }
}

/// The definitions of a snapshot that is published again: those of then, as the newest. `is_lost`: the newest snapshot
/// cannot be read, so that its number is not known.
pub(crate) fn again(newest: Option<&Definitions>, earlier: Option<&Definitions>, is_lost: bool) -> Option<Definitions> {
    if newest == earlier && !is_lost {
        return newest.cloned();
    }
    let fingerprint = earlier.map(|earlier| earlier.fingerprint.clone()).unwrap_or_default();
    match newest.filter(|newest| newest.fingerprint == fingerprint) {
        Some(newest) => Some(newest.clone()),
        None => {
            let known = newest.into_iter().chain(earlier).map(|definitions| definitions.number).max();
            let number = known.unwrap_or_default() + if is_lost { 2 } else { 1 };
            Some(Definitions { number, fingerprint })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Project;

    const PROJECT: &str = "project: p\nwarehouse: ./warehouse\n";
    const STREAM: &str = "stream: s\ndomain: d\nenvelope: { type: type, time: at }\nevents:\n  \
        sold: { versions: { 1: { fields: { pieces: { type: int }, code: { type: string } } } } }\n";
    const FACT: &str = "fact: sales\nfrom: { stream: s, event: sold }\ngrain: [code]\n\
        degenerate: { code: {} }\nmeasures: { pieces: {} }\n";

    fn project(main: &str, stream: &str, fact: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [("starmere.yaml", main), ("streams/s.yaml", stream), ("domains/d/models/f.yaml", fact)] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_fingerprint_is_of_what_definitions_mean() {
        let of = |main: &str, stream: &str, fact: &str| {
            let folder = project(&format!("{PROJECT}{main}"), stream, fact);
            Project::load(folder.path()).unwrap().fingerprint
        };
        let first = of("", STREAM, FACT);
        let comment = format!("# why\n{FACT}");
        let moved = "measures: { pieces: {} }\ngrain: [code]\ndegenerate: { code: {} }\n\
                     from: { stream: s, event: sold }\nfact: sales\n";
        for same in [of("", STREAM, &comment), of("", STREAM, moved), of("snapshot_days: 3\n", STREAM, FACT)] {
            assert_eq!(same, first);
        }
        let described = format!("{FACT}description: other words\n");
        let retained = format!("{STREAM}retention_days: 9\n");
        let wider = STREAM.replace("int", "bigint");
        for other in [of("", STREAM, &described), of("", &retained, FACT), of("", &wider, FACT)] {
            assert_ne!(other, first);
        }
    }

    #[test]
    fn landing_needs_no_models() {
        let folder = project(PROJECT, STREAM, "fact: [\n");
        assert!(Project::load(folder.path()).is_err());
        let landing = Project::load_to_land(folder.path()).unwrap();
        assert!(landing.unread.unwrap().to_string().contains("domains/d/models/f.yaml"));
        assert_eq!((landing.streams.len(), landing.models.models.len()), (1, 0));
        // What landing needs must be right.
        std::fs::write(folder.path().join("streams/s.yaml"), "stream: s\n").unwrap();
        assert!(Project::load_to_land(folder.path()).unwrap_err().to_string().contains("domains/d/models/f.yaml"));
    }

    fn published(number: u64, fingerprint: &str) -> Option<Definitions> {
        Some(Definitions { number, fingerprint: fingerprint.to_owned() })
    }

    fn standing(claimed_over: Option<Definitions>, now: Option<Definitions>) -> Standing {
        Claim::over("ours", claimed_over.as_ref()).standing(now.as_ref())
    }

    #[test]
    fn a_claim_replaces_what_was_published_when_it_was_made_and_nothing_later() {
        let ours = |number| published(number, "ours").unwrap();
        let theirs = |number| published(number, "theirs").unwrap();
        for (claimed_over, now, expected) in [
            (None, None, Standing::Succeeds(ours(1))),
            (published(4, "theirs"), published(4, "theirs"), Standing::Succeeds(ours(5))),
            (published(4, "theirs"), published(5, "ours"), Standing::Ours(ours(5))),
            (published(4, "ours"), published(4, "ours"), Standing::Ours(ours(4))),
            // The start of an `up`, or its reload, was before somebody else's build.
            (published(4, "theirs"), published(5, "others"), Standing::Superseded(published(5, "others").unwrap())),
            (published(4, "ours"), published(5, "theirs"), Standing::Superseded(theirs(5))),
            // Nobody else may publish under our number; if somebody does, we do not fight.
            (published(4, "ours"), published(4, "theirs"), Standing::Superseded(theirs(4))),
            (None, published(1, "theirs"), Standing::Superseded(theirs(1))),
            // An older binary drops what it does not know.
            (published(4, "theirs"), None, Standing::Succeeds(ours(5))),
        ] {
            assert_eq!(standing(claimed_over.clone(), now.clone()), expected, "{claimed_over:?} {now:?}");
        }
    }

    #[test]
    fn two_that_differ_do_not_revert_each_other() {
        // `up` began with its files; a build with newer ones follows.
        let up = Claim::over("old", None);
        let Standing::Succeeds(first) = up.standing(None) else { panic!("nothing was published") };
        let build = Claim::over("new", Some(&first));
        let Standing::Succeeds(second) = build.standing(Some(&first)) else { panic!("a build is deliberate") };
        assert_eq!((first.number, second.number), (1, 2));
        assert_eq!(up.standing(Some(&second)), Standing::Superseded(second.clone()));
        // Its files become the same: it goes on.
        assert_eq!(Claim::over("new", Some(&second)).standing(Some(&second)), Standing::Ours(second));
    }

    #[test]
    fn a_start_with_definitions_that_others_have_replaced_replaces_nothing() {
        let of = |number, fingerprint: &str| Definitions { number, fingerprint: fingerprint.to_owned() };
        let newest = CatalogSnapshot {
            definitions: Some(of(3, "new")),
            superseded: vec![of(1, "old"), of(2, "between")],
            ..CatalogSnapshot::default()
        };
        let standing =
            |act, fingerprint: &str, now: Definitions| Claim::by(act, fingerprint, &newest).standing(Some(&now));
        for old in ["old", "between"] {
            assert_eq!(standing(Act::Start, old, of(3, "new")), Standing::Superseded(of(3, "new")));
            assert_eq!(standing(Act::Change, old, of(3, "new")), Standing::Succeeds(of(4, old)));
            // Somebody has published them again, on purpose.
            assert_eq!(standing(Act::Start, old, of(4, old)), Standing::Ours(of(4, old)));
        }
        assert_eq!(standing(Act::Start, "newer", of(3, "new")), Standing::Succeeds(of(4, "newer")));
        assert_eq!(standing(Act::Start, "new", of(3, "new")), Standing::Ours(of(3, "new")));
    }

    #[test]
    fn an_earlier_snapshot_that_is_published_again_is_a_new_act() {
        let again = |newest: Option<Definitions>, earlier: Option<Definitions>, is_lost| {
            super::again(newest.as_ref(), earlier.as_ref(), is_lost)
        };
        assert_eq!(again(None, None, false), None);
        assert_eq!(again(published(3, "b"), published(2, "a"), false), published(4, "a"));
        assert_eq!(again(published(3, "a"), published(1, "a"), false), published(3, "a"));
        assert_eq!(again(published(3, "b"), None, false), published(4, ""));
        // What the lost snapshot held may have had the next number.
        assert_eq!(again(None, published(2, "a"), true), published(4, "a"));
        assert_eq!(again(None, None, true), published(2, ""));
    }
}
