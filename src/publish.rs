//! Building and publishing: everything derived, checked against its contracts, swapped in by one snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use starmere_lake::catalog::{Catalog, CatalogSnapshot, Pin};
use starmere_lake::damage::among;
use starmere_lake::delta::Table;
use starmere_lake::session::Engine;
use starmere_lake::store::Backoff;
use starmere_lake::{Error as LakeError, Kind};
use starmere_marts::contract::{self, Breach};
use starmere_marts::meaning::{Meaning, Port};
use starmere_models::build::{Builder, Built, Progress, Watch};
use starmere_models::define::{ModelName, suggestion};
use starmere_models::resolve::{Model, Models};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::changes::{BREAKS, changes};
use crate::failure::Mendable;
use crate::output::{Output, Step, count, counted};
use crate::project::Opened;

/// Contracts that are checked side by side.
const CHECKS_SIDE_BY_SIDE: usize = 4;
/// So many rows are looked at while models are built.
const CHECKED_BESIDE: u64 = 1 << 19;

/// How often a build is begun anew because another one was ahead.
const ATTEMPTS: u32 = 20;

/// How to build.
#[derive(Clone, Debug, Default)]
pub(crate) struct How {
    /// From the lake, aside.
    pub(crate) full: bool,
    /// Streams that may be read from their beginning although they have forgotten some of it.
    pub(crate) accepted_losses: Vec<String>,
    /// Ports may change so that whoever reads them breaks.
    pub(crate) accepted_breaks: bool,
}

/// Builds `only` (everything where it is empty) and what hangs on the same streams, and publishes it.
pub(crate) async fn build_and_publish(
    opened: &Opened,
    only: &[String],
    how: &How,
    output: &Output,
) -> anyhow::Result<CatalogSnapshot> {
    let models = selected(&opened.project.models, only)?;
    for stream in &how.accepted_losses {
        opened.stream(stream)?;
    }
    // How long a build takes says nothing of how often others were first.
    let (mut attempt, mut backoff) = (1, Backoff::lasting(Duration::MAX));
    loop {
        match once(opened, &models, how, output).await {
            Err(error) if attempt < ATTEMPTS && is_conflict(&error) => {
                tracing::info!(attempt, "another build was first; beginning anew");
                attempt += 1;
                backoff.pause().await;
            }
            other => return other,
        }
    }
}

/// How published ports would change so that whoever reads them breaks, in words.
fn breaks(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<Option<String>> {
    if newest.number == 0 {
        return Ok(None);
    }
    let published = Meaning::of(newest)?;
    let breaking = changes(&published, &opened.project.meaning).into_iter().filter(|change| change.breaks);
    let breaking: Vec<String> = breaking.map(|change| format!("{}: {}", change.port, change.why)).collect();
    let words = || format!("published products would change, which {BREAKS}:\n  {}", breaking.join("\n  "));
    Ok((!breaking.is_empty()).then(words))
}

/// Asks once, where somebody can answer, whether ports may change so that whoever reads them breaks.
pub(crate) async fn asked(opened: &Opened, how: How, output: &Output) -> anyhow::Result<How> {
    if how.accepted_breaks {
        return Ok(how);
    }
    let Some(words) = breaks(opened, &opened.catalog.newest().await?)? else { return Ok(how) };
    let accepted_breaks = output.ask(&format!("{words}\npublish nevertheless?"));
    Ok(How { accepted_breaks, ..how })
}

/// Refuses changes that break whoever reads a port, unless they are accepted.
fn keep_promises(opened: &Opened, newest: &CatalogSnapshot, how: &How) -> anyhow::Result<()> {
    if how.accepted_breaks {
        return Ok(());
    }
    match breaks(opened, newest)? {
        None => Ok(()),
        Some(words) => Err(Mendable::error(words, "accept it with `starmere build --accept-breaking`")),
    }
}

/// Publishes what an earlier snapshot held again, as the newest one.
pub(crate) async fn back_to(catalog: &Catalog, number: u64) -> anyhow::Result<CatalogSnapshot> {
    let earlier = match catalog.at(number).await {
        Ok(earlier) => earlier,
        Err(LakeError::Missing { .. }) => {
            let numbers = catalog.numbers().await?;
            let known = match (numbers.first(), numbers.last()) {
                (Some(first), Some(last)) => format!("there are {first} to {last}"),
                _ => "nothing was published yet".to_owned(),
            };
            return Err(Mendable::error(format!("there is no catalog snapshot {number}"), known));
        }
        Err(error) => return Err(error.into()),
    };
    let again = catalog.publish(|newest| {
        let same = newest.tables == earlier.tables && newest.meaning == earlier.meaning;
        Ok((!same).then(|| (earlier.tables.clone(), earlier.meaning.clone())))
    });
    Ok(again.await?)
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<LakeError>().is_some_and(|error| error.kind() == Kind::Conflict)
            || cause.downcast_ref::<starmere_models::Error>().is_some_and(|error| error.kind() == Kind::Conflict)
    })
}

async fn once(opened: &Opened, models: &Models, how: &How, output: &Output) -> anyhow::Result<CatalogSnapshot> {
    let newest = opened.catalog.newest().await?;
    keep_promises(opened, &newest, how)?;
    let memory = opened.project.file.build_memory();
    let builder = Builder::new(&opened.warehouse, models, how.full).await?.within(memory);
    let builder = builder.going_on_from(&newest, models).accepting_losses(&how.accepted_losses);
    let checks = Checks::new(opened, &newest)?;
    let pins = builder.build(models, &Bars::new(output, &checks)).await?;
    checks.finish(&pins).await?;
    let meaning = serde_json::to_value(&opened.project.meaning)?;
    let known: BTreeSet<String> = names(&opened.project.models);
    let snapshot = opened.catalog.publish(|newest| Ok(decide(newest, &pins, &meaning, &known))).await?;
    Ok(snapshot)
}

/// What the next snapshot holds; none where nothing changes. Pure.
fn decide(
    newest: &CatalogSnapshot,
    pins: &BTreeMap<String, Pin>,
    meaning: &serde_json::Value,
    known: &BTreeSet<String>,
) -> Option<(BTreeMap<String, Pin>, serde_json::Value)> {
    let is_ahead = |(name, pin): (&String, &Pin)| {
        newest.tables.get(name).is_some_and(|published| published.path == pin.path && published.version > pin.version)
    };
    if pins.iter().any(is_ahead) {
        // A build that began later has published already; it holds all that ours does.
        return None;
    }
    let mut tables: BTreeMap<String, Pin> = newest
        .tables
        .iter()
        .filter(|(name, _)| known.contains(*name))
        .map(|(name, pin)| (name.clone(), pin.clone()))
        .collect();
    tables.extend(pins.iter().map(|(name, pin)| (name.clone(), pin.clone())));
    (tables != newest.tables || *meaning != newest.meaning).then(|| (tables, meaning.clone()))
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

/// Contracts that are being checked: of a table in which little is new while others are still built, of the rest after that,
/// since a check of many rows takes as much memory as a model.
struct Checks<'a> {
    opened: &'a Opened,
    /// With the memory of builds: that of users' queries is not theirs.
    engine: Engine,
    newest: &'a CatalogSnapshot,
    published: Meaning,
    turns: Arc<Turns>,
    begun: Mutex<Begun>,
}

/// When checks may go on.
struct Turns {
    at_once: Semaphore,
    /// Closed when all models are built.
    while_built: Semaphore,
}

/// Ports by their places, and what becomes of them.
#[derive(Default)]
struct Begun {
    ports: BTreeSet<usize>,
    checks: JoinSet<(usize, anyhow::Result<Option<Breach>>)>,
}

impl<'a> Checks<'a> {
    fn new(opened: &'a Opened, newest: &'a CatalogSnapshot) -> anyhow::Result<Self> {
        let turns = Turns { at_once: Semaphore::new(CHECKS_SIDE_BY_SIDE), while_built: Semaphore::new(0) };
        let engine = opened.build_engine()?;
        let (published, turns) = (Meaning::of(newest)?, Arc::new(turns));
        Ok(Self { opened, engine, newest, published, turns, begun: Mutex::default() })
    }

    /// Begins to check the ports of these tables, as far as that was not begun yet.
    fn begin(&self, pins: &BTreeMap<String, Pin>) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, port) in self.opened.project.meaning.ports.iter().enumerate() {
            let Some(pin) = pins.get(&port.table) else { continue };
            let old = self.newest.tables.get(&port.table);
            let kept = old.filter(|old| old.path == pin.path && self.published.ports.contains(port));
            let kept = kept.map(|old| old.version);
            if kept != Some(pin.version) && begun.ports.insert(place) {
                let table = self.opened.warehouse.table(pin.path.clone());
                let (engine, port, version) = (self.engine.clone(), port.clone(), pin.version);
                let turns = self.turns.clone();
                begun.checks.spawn(async move { (place, check(&engine, &table, version, kept, &port, &turns).await) });
            }
        }
    }

    /// Checks what is left, and tells the first breach there is in the order of definitions.
    async fn finish(self, pins: &BTreeMap<String, Pin>) -> anyhow::Result<()> {
        self.begin(pins);
        self.turns.while_built.close();
        let mut begun = self.begun.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut checked = Vec::new();
        while let Some(done) = begun.checks.join_next().await {
            checked.push(done?);
        }
        checked.sort_by_key(|(place, _)| *place);
        for (_, checked) in checked {
            if let Some(breach) = checked? {
                return Err(breach.into());
            }
        }
        Ok(())
    }
}

/// Checks a version of a port's table, of which an earlier one may have kept the same contract.
async fn check(
    engine: &Engine,
    table: &Table,
    version: u64,
    kept: Option<u64>,
    port: &Port,
    turns: &Turns,
) -> anyhow::Result<Option<Breach>> {
    let snapshot = table.snapshot_at(version).await?;
    let kept = match kept {
        Some(kept) => Some(table.snapshot_at(kept).await?),
        None => None,
    };
    let kept = kept.as_deref();
    if contract::rows_to_count(&snapshot, kept, port) > CHECKED_BESIDE {
        // There is no permit: it fails when all is built.
        _ = turns.while_built.acquire().await;
    }
    let _turn = turns.at_once.acquire().await?;
    contract::check(engine, table, &snapshot, kept, port).await.map_err(|error| match among(&error) {
        Some(damage) => damage.into(),
        None => anyhow::Error::msg(error.to_string()),
    })
}

/// The models named, and all that share streams or tables with them: a snapshot must fit together.
fn selected(models: &Models, only: &[String]) -> anyhow::Result<Models> {
    if only.is_empty() {
        return Ok(models.clone());
    }
    let all: Vec<String> = models.models.iter().map(|model| model.name().to_string()).collect();
    let mut wanted: BTreeSet<&ModelName> = BTreeSet::new();
    for name in only {
        let found =
            models.models.iter().map(Model::name).find(|model| model.to_string() == *name || model.name == *name);
        let found = found.ok_or_else(|| {
            Mendable::error(format!("there is no model `{name}`"), suggestion(name, all.iter().map(String::as_str)))
        })?;
        wanted.insert(found);
    }
    loop {
        let streams: BTreeSet<&str> =
            models.models.iter().filter(|model| wanted.contains(model.name())).flat_map(Model::streams).collect();
        let hangs_on = |model: &&Model| {
            !model.streams().is_disjoint(&streams)
                || model.inputs().iter().any(|input| wanted.contains(input))
                || models
                    .models
                    .iter()
                    .any(|other| wanted.contains(other.name()) && other.inputs().contains(model.name()))
        };
        let more: BTreeSet<&ModelName> = models.models.iter().filter(hangs_on).map(Model::name).collect();
        if more.is_subset(&wanted) {
            break;
        }
        wanted.extend(more);
    }
    let mut selected = models.clone();
    selected.models.retain(|model| wanted.contains(model.name()));
    let streams: BTreeSet<String> = selected.models.iter().flat_map(Model::streams).map(str::to_owned).collect();
    selected.streams.retain(|name, _| streams.contains(name));
    Ok(selected)
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
