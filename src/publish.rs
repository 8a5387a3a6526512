//! Building and publishing: everything derived, checked against its contracts, swapped in by one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use starmere_lake::catalog::{Catalog, CatalogSnapshot, Definitions, Next, Pin};
use starmere_lake::store::Backoff;
use starmere_lake::{Error as LakeError, Kind, Result as LakeResult, format_number, paths};
use starmere_marts::contract::Breach;
use starmere_marts::meaning::Meaning;
use starmere_models::build::{Builder, Built, Progress, Watch};
use starmere_models::resolve::{KINDS, Model, Models};

use crate::acceptance::{LeftOut, accepted, keep_promises, part};
use crate::commands::trace;
use crate::contracts::Checks;
use crate::definitions::{Act, Claim, Standing, again};
use crate::failure::Mendable;
use crate::held::{Held, HeldBack, product_of};
use crate::output::{Output, Step, count, counted};
use crate::part::Part;
use crate::project::Opened;

/// How often a build is begun anew because another one was ahead.
const ATTEMPTS: u32 = 20;

/// How to build.
#[derive(Clone, Debug, Default)]
pub(crate) struct How {
    /// Only these models, and what hangs together with them; all where it is empty.
    pub(crate) models: Vec<String>,
    /// From the lake, aside.
    pub(crate) full: bool,
    /// Streams that may be read from their beginning although they have forgotten some of it.
    pub(crate) accepted_losses: Vec<String>,
    /// Ports may change so that whoever reads them breaks, or gets answers that mean something else.
    pub(crate) accepted_breaks: bool,
}

/// What came of a build by somebody who publishes again and again.
#[derive(Debug)]
pub(crate) enum Kept {
    /// The snapshot of this number was published.
    Published(u64),
    /// The newest snapshot has all of it.
    HoldsAll,
    /// Somebody else has published other definitions since: nothing was built.
    Superseded(Superseded),
}

/// Definitions that others have replaced.
#[derive(Clone, Debug)]
pub(crate) struct Superseded {
    /// Those that are published.
    pub(crate) by: Definitions,
    /// Since when, in milliseconds since 1970.
    pub(crate) since: Option<i64>,
    /// The number that ours had, where they were published.
    pub(crate) own: Option<u64>,
}

impl Superseded {
    fn of(fingerprint: &str, newest: &CatalogSnapshot, by: Definitions) -> Self {
        Self { by, since: newest.defined_at, own: newest.superseded_as(fingerprint) }
    }

    /// Which definitions are published, and which ones the files are.
    pub(crate) fn words(&self) -> String {
        let since = self.since.and_then(chrono::DateTime::from_timestamp_millis);
        let since = since.map_or_else(String::new, |at| format!(" (since {})", at.format("%Y-%m-%d %H:%M:%S UTC")));
        let own = self.own.map_or_else(|| "others".to_owned(), |own| format!("those of number {own}"));
        format!("definitions number {} are published{since}, and the files here are {own}", self.by.number)
    }
}

/// Builds and publishes: a deliberate act, which replaces whatever definitions are published. The snapshot that it
/// returns holds all that it has built.
pub(crate) async fn build_and_publish(opened: &Opened, how: &How, output: &Output) -> anyhow::Result<CatalogSnapshot> {
    for stream in &how.accepted_losses {
        opened.stream(stream)?;
    }
    let mut aside = None;
    // How long a build takes says nothing of how often others were first.
    let (mut attempt, mut backoff) = (1, Backoff::lasting(Duration::MAX));
    loop {
        let newest = opened.catalog.newest().await?;
        // Where others are published while it runs, it is the same act still, on top of theirs.
        let claim = Claim::over(&opened.project.fingerprint, newest.definitions.as_ref());
        if let Some(words) = goes_back(opened, &newest).filter(|_| attempt == 1) {
            output.say(words);
        }
        let part = part(opened, &newest, &how.models)?;
        match once(opened, &part, how, (&newest, &claim), &mut aside, output).await {
            Err(error) if is_conflict(&error) && attempt < ATTEMPTS => {
                tracing::info!(attempt, "another build was first; beginning anew");
                attempt += 1;
                backoff.pause().await;
            }
            Err(error) if is_conflict(&error) => return Err(overtaken(&error)),
            Err(error) => return Err(error),
            Ok(Outcome { snapshot, held_back: None, .. }) => return Ok(snapshot),
            Ok(Outcome { pins, held_back: Some(mut held_back), .. }) => {
                for breach in &mut held_back.breaches {
                    find_events(opened, &pins, breach).await;
                }
                return Err(held_back.into());
            }
        }
    }
}

/// What is said where a build publishes definitions again that others have replaced: files were rolled back.
pub(crate) fn goes_back(opened: &Opened, newest: &CatalogSnapshot) -> Option<String> {
    let fingerprint = &opened.project.fingerprint;
    newest.superseded_as(fingerprint)?;
    let by = newest.definitions.clone()?;
    let next = by.number + 1;
    let words = Superseded::of(fingerprint, newest, by).words();
    Some(format!("{words}: a build goes back to them, and they become number {next}"))
}

/// Finds events that rows of a SQL model are made of. The breach is told, whether or not they are found.
async fn find_events(opened: &Opened, pins: &BTreeMap<String, Pin>, breach: &mut Breach) {
    let port = opened.project.meaning.ports.iter().find(|port| port.full_name() == breach.port);
    let mut models = opened.project.models.models.iter();
    let model = port.and_then(|port| models.find(|model| model.name().to_string() == port.table));
    if let (Some(Model::Sql(model)), true) = (model, breach.events.is_empty())
        && let Ok(events) = trace::events_of(opened, pins, model, &breach.rows).await
    {
        breach.events = events;
    }
}

/// What readers keep as they had it, since it breaks a contract, or changes and is not accepted.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) ports: usize,
    pub(crate) why: anyhow::Error,
}

impl Behind {
    fn of(held_back: Option<HeldBack>, left_out: Option<LeftOut>) -> Option<Self> {
        match (held_back, left_out) {
            (None, None) => None,
            (Some(held_back), None) => Some(Self { ports: held_back.ports, why: held_back.into() }),
            (None, Some(LeftOut { ports, words, hint })) => Some(Self { ports, why: Mendable::error(words, hint) }),
            (Some(held_back), Some(LeftOut { ports, words, hint })) => {
                let ports = ports + held_back.ports;
                Some(Self { ports, why: anyhow::Error::from(held_back).context(format!("{words}\n{hint}; beside it")) })
            }
        }
    }
}

/// Builds and publishes everything, by the claim that was made when these definitions were taken up; makes the claim
/// where there is none yet, by `act`. Where they are published already, what they change for readers and is not accepted
/// is left out. Beside what came of it, what readers keep as they had it.
pub(crate) async fn keep_built(
    opened: &Opened,
    claim: &mut Option<Claim>,
    act: Act,
    output: &Output,
) -> anyhow::Result<(Kept, Option<Behind>)> {
    let fingerprint = &opened.project.fingerprint;
    let mut attempt = 1;
    loop {
        let newest = opened.catalog.newest().await?;
        let published = newest.definitions.as_ref();
        let ours = &*claim.get_or_insert_with(|| Claim::by(act, fingerprint, &newest));
        let (part, left_out, accepted_breaks) = match ours.standing(published) {
            Standing::Superseded(by) => {
                return Ok((Kept::Superseded(Superseded::of(fingerprint, &newest, by)), None));
            }
            Standing::Succeeds(_) => (Part::default(), None, false),
            Standing::Ours(_) => {
                let (part, left_out) = accepted(opened, &newest).await?;
                (part, left_out, true)
            }
        };
        if let (true, Some(LeftOut { words, hint, .. })) = (part.is_empty(), &left_out) {
            return Err(Mendable::error(words, hint));
        }
        let how = How { accepted_breaks, ..How::default() };
        match once(opened, &part, &how, (&newest, ours), &mut None, output).await {
            Err(error) if is_conflict(&error) && attempt < ATTEMPTS => {
                tracing::info!(attempt, "another build was first; beginning anew");
                attempt += 1;
            }
            Err(error) if is_conflict(&error) => return Err(overtaken(&error)),
            Ok(Outcome { snapshot, publishes, held_back, .. }) => {
                let kept = if publishes { Kept::Published(snapshot.number) } else { Kept::HoldsAll };
                return Ok((kept, Behind::of(held_back, left_out)));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Others were first each time.
fn overtaken(error: &anyhow::Error) -> anyhow::Error {
    let message = format!("others were first {ATTEMPTS} times, so nothing of this build is published: {error:#}");
    let hint = "run it again, which goes on from what is built; or end the other builds and `up` until it is done";
    Mendable::error(message, hint)
}

/// What is said of tables of models where nothing is published: the catalog may have been lost.
pub(crate) async fn lost_catalog(opened: &Opened) -> anyhow::Result<Option<String>> {
    let newest = opened.catalog.newest().await?;
    if newest.number > 0 || !newest.tables.is_empty() {
        return Ok(None);
    }
    let models = opened.warehouse.store().list(&paths::models(), None).await?;
    let words = "nothing is published, and there are tables of models: a build failed before, or the catalog is lost. \
                 If there was one, restore the objects below `catalog/` from a copy first; else `starmere build` begins \
                 a new one, from the tables that are there (`--full`: from the events)";
    Ok((!models.is_empty()).then(|| words.to_owned()))
}

/// Publishes what an earlier snapshot held again, as the newest one; of number 0, nothing. The newest may be damaged.
pub(crate) async fn back_to(catalog: &Catalog, number: u64) -> anyhow::Result<CatalogSnapshot> {
    let earlier = match catalog.at(number).await {
        Ok(earlier) => earlier,
        Err(LakeError::Missing { .. }) if number == 0 => CatalogSnapshot::default(),
        Err(LakeError::Missing { .. }) => {
            let there = instead_of(number, &catalog.numbers().await?);
            return Err(Mendable::error(format!("there is no catalog snapshot {number}"), there));
        }
        Err(error) => return Err(error.into()),
    };
    let published = catalog.publish_over_damage(&earlier, |newest| {
        let is_lost = newest.publish_id.is_empty() && newest.number > 0;
        let same = newest.tables == earlier.tables && newest.meaning == earlier.meaning;
        Ok((!same || is_lost).then(|| Next {
            tables: earlier.tables.clone(),
            meaning: earlier.meaning.clone(),
            definitions: again(newest.definitions.as_ref(), earlier.definitions.as_ref(), is_lost),
        }))
    });
    Ok(published.await?)
}

/// Which catalog snapshots are there instead of one that is not: a hint. Clean-up leaves gaps.
pub(crate) fn instead_of(number: u64, numbers: &[u64]) -> String {
    let (oldest, newest) = match numbers {
        [] => return "nothing was published yet".to_owned(),
        [only] => return format!("the only snapshot is {only}"),
        [oldest, .., newest] => (oldest, newest),
    };
    let before = numbers.iter().rev().find(|&&there| there < number);
    let after = numbers.iter().find(|&&there| there > number);
    let nearest = before.zip(after).map(|(before, after)| format!("; those nearest to it are {before} and {after}"));
    format!("the oldest snapshot is {oldest}, the newest {newest}{}", nearest.unwrap_or_default())
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<LakeError>().is_some_and(|error| error.kind() == Kind::Conflict)
            || cause.downcast_ref::<starmere_models::Error>().is_some_and(|error| error.kind() == Kind::Conflict)
    })
}

/// What came of building once.
struct Outcome {
    /// Holds all of it that is not held back.
    snapshot: CatalogSnapshot,
    /// This build has published the snapshot.
    publishes: bool,
    /// What was built.
    pins: BTreeMap<String, Pin>,
    held_back: Option<HeldBack>,
}

/// Builds a part once.
async fn once(
    opened: &Opened,
    part: &Part,
    how: &How,
    (newest, claim): (&CatalogSnapshot, &Claim),
    aside: &mut Option<String>,
    output: &Output,
) -> anyhow::Result<Outcome> {
    format_number::may_write(opened.warehouse.store()).await?;
    keep_what_is_newer(opened, newest)?;
    keep_promises(opened, newest, how, part).await?;
    let models = part.models(&opened.project.models);
    let models: &Models = &models;
    let memory = opened.project.file.build_memory();
    let builder = Builder::new(&opened.warehouse, models, how.full).await?.within(memory);
    let builder = builder.going_on_from(newest, models).accepting_losses(&how.accepted_losses);
    // What an attempt has filled aside is filled on by the next one: from the lake again, it would never catch up.
    let builder = match aside.as_deref() {
        Some(aside) => builder.going_on_aside(aside),
        None => builder,
    };
    *aside = builder.aside().map(str::to_owned);
    let lost = accepted_losses(opened, how, newest, &builder.stream_pins());
    let checks = Checks::new(opened, newest)?;
    let pins = builder.build(models, &Bars::new(output, &checks)).await?;
    let breaches = checks.finish(&pins).await?;
    let breached: BTreeSet<String> = breaches.iter().map(|breach| product_of(breach).to_owned()).collect();
    let meaning = &opened.project.meaning;
    let facts = Facts {
        before: &newest.tables,
        pins: &pins,
        breached: &breached,
        part,
        meaning,
        known: &names(&opened.project.models),
        claim,
        lost: &lost,
    };
    let (mut publishes, mut held) = (false, Held::default());
    let publish = opened.catalog.publish_next(|newest| {
        let (decision, stays) = decide(newest, &facts)?;
        held = stays;
        publishes = matches!(decision, Decision::Publish(_));
        match decision {
            Decision::Publish(next) => Ok(Some(next)),
            Decision::HoldsAll => Ok(None),
            Decision::BeginAnew => Err(LakeError::Conflict { table: "catalog".into(), version: newest.number }),
        }
    });
    let snapshot = publish.await?;
    let held_back = (!breaches.is_empty()).then(|| HeldBack::of(breaches, &held, meaning, (&snapshot, publishes)));
    Ok(Outcome { snapshot, publishes, pins, held_back })
}

/// The streams, by their names in the catalog, that have lost versions which were published, where that is accepted.
fn accepted_losses(
    opened: &Opened,
    how: &How,
    newest: &CatalogSnapshot,
    pins: &BTreeMap<String, Pin>,
) -> BTreeSet<String> {
    let accepted = how.accepted_losses.iter().filter(|_| how.full).filter_map(|name| {
        let stream = opened.project.models.streams.get(name)?;
        Some(format!("lake.{}.{}", stream.domain, stream.name))
    });
    let is_lost = |name: &String| match (pins.get(name), newest.tables.get(name)) {
        (Some(pin), Some(published)) => pin.version < published.version,
        _ => false,
    };
    accepted.filter(is_lost).collect()
}

/// Refuses to publish over models of kinds that only a newer binary knows: they would be dropped.
fn keep_what_is_newer(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<()> {
    let own = |kind: &str| opened.project.models.models.iter().any(|model| model.kind() == kind);
    let published = Meaning::of(newest)?;
    let unknown = published.models.iter().find(|model| !KINDS.contains(&model.kind.as_str()) && !own(&model.kind));
    let Some(model) = unknown else { return Ok(()) };
    let message = format!(
        "catalog snapshot {} has `{}`, whose kind `{}` this binary does not know: it would be dropped",
        newest.number, model.name, model.kind
    );
    Err(Mendable::error(message, "build with the version of Starmere that has published it, or with a newer one"))
}

/// What a build knows when it is about to publish.
struct Facts<'a> {
    /// The tables that were published when it began.
    before: &'a BTreeMap<String, Pin>,
    /// What it has built.
    pins: &'a BTreeMap<String, Pin>,
    /// Products whose contracts it would break.
    breached: &'a BTreeSet<String>,
    /// What was to be built. The rest stays as it is published.
    part: &'a Part,
    meaning: &'a Meaning,
    /// All names that the project's tables have in the catalog.
    known: &'a BTreeSet<String>,
    claim: &'a Claim,
    /// Streams that are published at versions which they have lost.
    lost: &'a BTreeSet<String>,
}

/// What to do with what was built.
#[derive(Debug, PartialEq)]
enum Decision {
    Publish(Next),
    /// The newest snapshot follows the same definitions and holds all of it that is not held back.
    HoldsAll,
    /// Somebody else has published something that it does not hold: it would be reverted.
    BeginAnew,
}

/// What becomes of a build, given the newest snapshot, and what of it is held back. Pure.
fn decide(newest: &CatalogSnapshot, facts: &Facts<'_>) -> LakeResult<(Decision, Held)> {
    let definitions = match facts.claim.standing(newest.definitions.as_ref()) {
        Standing::Ours(definitions) | Standing::Succeeds(definitions) => definitions,
        Standing::Superseded(_) => return Ok((Decision::BeginAnew, Held::default())),
    };
    let is_whole = facts.breached.is_empty() && facts.part.is_all();
    let (held, meaning) = match is_whole {
        true => (Held::default(), None),
        false => {
            let published = Meaning::of(newest)?;
            let now = facts.part.meaning(&published, facts.meaning);
            let held = Held::by(facts.breached, (&newest.tables, &published), (facts.pins, &now));
            let meaning = held.meaning(&published, &now);
            (held, Some(meaning))
        }
    };
    let is_ours = newest.definitions.as_ref() == Some(&definitions);
    let path = |tables: &BTreeMap<String, Pin>, name: &String| tables.get(name).map(|pin| pin.path.clone());
    let is_held = |(name, pin): (&String, &Pin)| {
        let published = newest.tables.get(name);
        published.is_some_and(|published| published.path == pin.path && published.version >= pin.version)
    };
    let is_ahead = |(name, pin): (&String, &Pin)| {
        let published = newest.tables.get(name).filter(|published| published.path == pin.path);
        !facts.lost.contains(name) && published.is_some_and(|published| published.version > pin.version)
    };
    // A full build, or other definitions, put another table in its place after this build has begun.
    let is_swapped = |(name, pin): (&String, &Pin)| {
        let now = path(&newest.tables, name);
        now != path(facts.before, name) && now.as_ref() != Some(&pin.path)
    };
    if facts.pins.iter().any(is_ahead) || facts.pins.iter().any(is_swapped) {
        let holds_all = is_ours && facts.pins.iter().filter(|(name, _)| !held.has(name)).all(is_held);
        return Ok((if holds_all { Decision::HoldsAll } else { Decision::BeginAnew }, held));
    }
    let left_out = newest.tables.keys().filter(|name| !facts.part.has(name));
    let known = facts.known.iter().chain(left_out).cloned().collect();
    let tables = held.tables(&newest.tables, facts.pins, &known);
    let meaning = with_unknown_keys(meaning.as_ref().unwrap_or(facts.meaning), &newest.meaning)?;
    // Definitions of which nothing is published are not those of the snapshot.
    let is_new = !is_ours && is_whole;
    // What an environment has not published is the warehouse's: it begins with a snapshot of its own.
    let begins = newest.number == 0 && !newest.tables.is_empty();
    if !is_new && !begins && tables == newest.tables && meaning == newest.meaning {
        return Ok((Decision::HoldsAll, held));
    }
    Ok((Decision::Publish(Next { tables, meaning, definitions: Some(definitions) }), held))
}

/// A meaning, and the keys of the published one that a newer binary has put beside.
fn with_unknown_keys(meaning: &Meaning, published: &serde_json::Value) -> LakeResult<serde_json::Value> {
    let mut all = serde_json::to_value(meaning).map_err(|error| LakeError::Invalid {
        what: "what a catalog snapshot says of its tables".into(),
        reason: error.to_string(),
    })?;
    if let (Some(all), Some(published)) = (all.as_object_mut(), published.as_object()) {
        for (key, value) in published {
            all.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    Ok(all)
}

/// The names that tables of the project have in the catalog.
fn names(models: &Models) -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        models.streams.values().map(|stream| format!("lake.{}.{}", stream.domain, stream.name)).collect();
    for model in &models.models {
        let name = model.name();
        names.extend([name.to_string(), format!("{name}/rejects"), format!("{name}/changes")]);
    }
    names
}

/// One bar a model; where one is done, its contracts are checked.
struct Bars<'a> {
    output: &'a Output,
    checks: &'a Checks<'a>,
    running: Mutex<BTreeMap<String, Step>>,
}

impl<'a> Bars<'a> {
    fn new(output: &'a Output, checks: &'a Checks<'a>) -> Self {
        Self { output, checks, running: Mutex::default() }
    }
}

impl Watch for Bars<'_> {
    fn begun(&self, model: &Model, progress: &Arc<Progress>) {
        let progress = progress.clone();
        let step = self.output.bar(format!("{} {}", model.kind(), model.name()), move || progress.now());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(model.name().to_string(), step);
    }

    fn done(&self, model: &Model, built: &Built) {
        self.checks.begin(&built.pins);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let step = running.remove(&model.name().to_string());
        drop(running);
        let mut words = counted(built.rows, "row", "rows");
        if built.rows_written > 0 {
            words += &format!(
                ", {} written from {}",
                count(built.rows_written),
                match model {
                    Model::Sql(_) => counted(built.rows_read, "row", "rows"),
                    _ => counted(built.rows_read, "event", "events"),
                }
            );
        }
        for (why, rows) in &built.mended {
            words += &format!(", {} {why}", count(*rows));
        }
        if built.rejects > 0 {
            words += &format!(", {}", counted(built.rejects, "reject", "rejects"));
        }
        if let Some(step) = step {
            step.done(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use starmere_lake::paths::TablePath;
    use starmere_marts::meaning::Described;

    use super::*;
    use crate::part::Names;

    /// A table of a model: which definition made it, and its version.
    fn model(name: &str, fingerprint: &str, version: u64) -> (String, Pin) {
        let path = TablePath::model("d", name, fingerprint, "rows");
        (format!("d.{name}"), Pin { path, version, consumed: BTreeMap::new() })
    }

    fn stream(version: u64) -> (String, Pin) {
        let path = TablePath::stream("d", "s");
        ("lake.d.s".to_owned(), Pin { path, version, consumed: BTreeMap::new() })
    }

    /// What definitions of this fingerprint say of their tables.
    fn meaning(by: &str) -> Meaning {
        let streams = vec![Described { name: "lake.d.s".into(), kind: "stream".into(), description: Some(by.into()) }];
        Meaning { streams, ..Meaning::default() }
    }

    /// A snapshot by definitions of this fingerprint and number.
    fn snapshot<const N: usize>(definitions: Option<(&str, u64)>, tables: [(String, Pin); N]) -> CatalogSnapshot {
        let of = |(fingerprint, number): (&str, u64)| Definitions { number, fingerprint: fingerprint.to_owned() };
        CatalogSnapshot {
            number: 12,
            tables: tables.into(),
            meaning: serde_json::to_value(meaning(definitions.map_or("", |(fingerprint, _)| fingerprint))).unwrap(),
            definitions: definitions.map(of),
            ..CatalogSnapshot::default()
        }
    }

    /// A build of definitions `new` that began at a snapshot, and what it has built.
    struct Build {
        before: CatalogSnapshot,
        pins: BTreeMap<String, Pin>,
        known: BTreeSet<String>,
        lost: BTreeSet<String>,
        breached: BTreeSet<String>,
        part: Part,
        meaning: Meaning,
    }

    impl Build {
        fn of<const N: usize>(before: CatalogSnapshot, pins: [(String, Pin); N]) -> Self {
            let pins = BTreeMap::from(pins);
            let known = pins.keys().cloned().collect();
            let (lost, breached, part) = (BTreeSet::new(), BTreeSet::new(), Part::default());
            Self { before, pins, known, lost, breached, part, meaning: meaning("new") }
        }

        fn finds(&self, newest: &CatalogSnapshot) -> Decision {
            let claim = Claim::over("new", self.before.definitions.as_ref());
            let (before, pins, meaning, known) = (&self.before.tables, &self.pins, &self.meaning, &self.known);
            let (breached, part, lost) = (&self.breached, &self.part, &self.lost);
            decide(newest, &Facts { before, pins, breached, part, meaning, known, claim: &claim, lost }).unwrap().0
        }
    }

    /// What is published, checked for holding all that was built.
    fn published(build: &Build, newest: &CatalogSnapshot) -> Next {
        let Decision::Publish(next) = build.finds(newest) else { panic!("{:?}", build.finds(newest)) };
        assert!(build.pins.iter().all(|(name, pin)| next.tables.get(name) == Some(pin)), "{next:?}");
        assert_eq!(next.definitions.as_ref().unwrap().fingerprint, "new");
        next
    }

    #[test]
    fn what_was_built_is_published_under_the_next_number() {
        let nothing = CatalogSnapshot::default();
        let first = Build::of(nothing.clone(), [stream(1), model("a", "new", 1)]);
        assert_eq!(published(&first, &nothing).definitions.unwrap().number, 1);
        let old = snapshot(Some(("old", 4)), [stream(1), model("a", "old", 7)]);
        let build = Build::of(old.clone(), [stream(2), model("a", "new", 1)]);
        assert_eq!(published(&build, &old).definitions.unwrap().number, 5);
        // Definitions alone may differ, too: the wording of a product.
        let words = Build::of(old.clone(), [stream(1), model("a", "old", 7)]);
        assert_eq!(published(&words, &old).definitions.unwrap().number, 5);
    }

    #[test]
    fn snapshots_that_are_named_are_there() {
        let gap = "the oldest snapshot is 1, the newest 9; those nearest to it are 5 and 9";
        assert_eq!(instead_of(6, &[1, 5, 9]), gap);
        assert_eq!(instead_of(99, &[1, 5, 9]), "the oldest snapshot is 1, the newest 9");
        assert_eq!(instead_of(1, &[5, 9]), "the oldest snapshot is 5, the newest 9");
        assert_eq!(instead_of(1, &[5]), "the only snapshot is 5");
        assert_eq!(instead_of(1, &[]), "nothing was published yet");
    }

    #[test]
    fn files_that_others_have_replaced_are_told_by_their_numbers() {
        let by = Definitions { number: 4, fingerprint: "new".to_owned() };
        let mut newest = CatalogSnapshot { definitions: Some(by.clone()), ..CatalogSnapshot::default() };
        let words = |newest: &CatalogSnapshot| Superseded::of("old", newest, by.clone()).words();
        assert_eq!(words(&newest), "definitions number 4 are published, and the files here are others");
        newest.superseded = vec![Definitions { number: 2, fingerprint: "old".to_owned() }];
        newest.defined_at = Some(1_800_000_000_000);
        let expected = "definitions number 4 are published (since 2027-01-15 08:00:00 UTC), and the files here are \
                        those of number 2";
        assert_eq!(words(&newest), expected);
    }

    #[test]
    fn nothing_is_published_where_nothing_is_new() {
        let same = snapshot(Some(("new", 4)), [stream(1), model("a", "new", 7)]);
        let build = Build::of(same.clone(), [stream(1), model("a", "new", 7)]);
        assert_eq!(build.finds(&same), Decision::HoldsAll);
        // An environment that has published nothing begins as a copy.
        let copied = CatalogSnapshot { number: 0, ..same };
        assert_eq!(published(&build, &copied).tables, copied.tables);
    }

    #[test]
    fn a_snapshot_that_is_ahead_holds_a_build_only_by_the_same_definitions() {
        let before = snapshot(Some(("old", 4)), [stream(1), model("a", "old", 7)]);
        let build = Build::of(before, [stream(2), model("a", "new", 1)]);
        // An `up` with older definitions has published newer events: no snapshot holds the new table.
        let older = snapshot(Some(("old", 4)), [stream(3), model("a", "old", 9)]);
        assert_eq!(build.finds(&older), Decision::BeginAnew);
        let unmarked = snapshot(None, [stream(3), model("a", "old", 9)]);
        assert_eq!(build.finds(&unmarked), Decision::BeginAnew);
        // One with the same definitions has: then all of it is there.
        let same = snapshot(Some(("new", 5)), [stream(3), model("a", "new", 2)]);
        assert_eq!(build.finds(&same), Decision::HoldsAll);
        // The same definitions, and a part of the models: what it lacks is not claimed to be there.
        let both = Build::of(build.before.clone(), [stream(2), model("a", "new", 1), model("b", "new", 1)]);
        assert_eq!(both.finds(&same), Decision::BeginAnew);
    }

    #[test]
    fn definitions_published_in_between_are_not_reverted_unseen() {
        let before = snapshot(Some(("old", 4)), [stream(1), model("a", "old", 7)]);
        let build = Build::of(before, [stream(1), model("a", "new", 1)]);
        let others = snapshot(Some(("others", 5)), [stream(1), model("a", "others", 1)]);
        assert_eq!(build.finds(&others), Decision::BeginAnew);
        // On top of them, it is a deliberate act again.
        let again = Build::of(others.clone(), [stream(1), model("a", "new", 1)]);
        assert_eq!(published(&again, &others).definitions.unwrap().number, 6);
    }

    #[test]
    fn a_full_build_in_between_is_not_reverted() {
        let before = snapshot(Some(("new", 4)), [stream(1), model("a", "new", 7)]);
        let build = Build::of(before.clone(), [stream(1), model("a", "new", 8)]);
        let full = snapshot(Some(("new", 4)), [stream(1), model("a", "new-17", 1)]);
        assert_eq!(build.finds(&full), Decision::BeginAnew);
        // And the full build itself is published over what it began at.
        let itself = Build::of(before.clone(), [stream(1), model("a", "new-17", 1)]);
        published(&itself, &before);
        // Under load, others have published newer events: it is not in their snapshot.
        let newer = snapshot(Some(("new", 4)), [stream(2), model("a", "new", 8)]);
        assert_eq!(itself.finds(&newer), Decision::BeginAnew);
    }

    #[test]
    fn a_loss_that_is_accepted_goes_back_to_what_is_left() {
        let before = snapshot(Some(("new", 4)), [stream(9), model("a", "new", 7)]);
        let mut build = Build::of(before.clone(), [stream(6), model("a", "new-17", 1)]);
        assert_eq!(build.finds(&before), Decision::BeginAnew);
        build.lost = BTreeSet::from(["lake.d.s".to_owned()]);
        assert_eq!(published(&build, &before).tables["lake.d.s"].version, 6);
    }

    #[test]
    fn what_was_not_named_stays_as_it_is_published() {
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect::<Names>();
        let before = snapshot(Some(("old", 4)), [stream(1), model("a", "old", 7), model("b", "old", 3)]);
        let mut build = Build::of(before.clone(), [model("a", "new", 1)]);
        build.part = Part::with(&[names(&["d.a"]), names(&["d.b", "lake.d.s"])], &names(&["d.a"]));
        // Neither a model that is no longer defined, nor what is said of what was not named, changes.
        let next = published(&build, &before);
        assert_eq!(next.tables.keys().collect::<Vec<_>>(), ["d.a", "d.b", "lake.d.s"]);
        assert_eq!(next.meaning, serde_json::to_value(meaning("old")).unwrap());
        // Where nothing of it differs, its definitions are not those of the snapshot.
        let mut same = Build::of(before.clone(), [model("a", "old", 7)]);
        same.part = build.part.clone();
        assert_eq!(same.finds(&before), Decision::HoldsAll);
    }

    #[test]
    fn other_tables_stay_as_long_as_they_are_defined() {
        let tables = [stream(1), model("a", "new", 7), model("b", "new", 3), model("c", "new", 1)];
        let before = snapshot(Some(("new", 4)), tables);
        let mut build = Build::of(before.clone(), [stream(1), model("a", "new", 8)]);
        build.known.insert("d.b".to_owned());
        let next = published(&build, &before);
        assert_eq!(next.tables.keys().collect::<Vec<_>>(), ["d.a", "d.b", "lake.d.s"]);
        // What a newer binary says of the tables stays.
        let mut newer = before;
        newer.meaning["tags"] = json!(["x"]);
        let mut expected = serde_json::to_value(meaning("new")).unwrap();
        expected["tags"] = json!(["x"]);
        assert_eq!(published(&build, &newer).meaning, expected);
    }
}
