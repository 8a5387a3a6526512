//! The contracts of what is being built: which ports are checked, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_lake::damage::among;
use starmere_lake::delta::Table;
use starmere_lake::session::Engine;
use starmere_marts::contract::{self, Breach};
use starmere_marts::meaning::{Meaning, Port};
use starmere_models::resolve::Model;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::project::Opened;

/// Contracts that are checked side by side.
const CHECKS_SIDE_BY_SIDE: usize = 4;
/// So many rows are looked at while models are built.
const CHECKED_BESIDE: u64 = 1 << 19;

/// Contracts that are being checked: of a table in which little is new while others are still built, of the rest after that,
/// since a check of many rows takes as much memory as a model.
pub(crate) struct Checks<'a> {
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
    pub(crate) fn new(opened: &'a Opened, newest: &'a CatalogSnapshot) -> anyhow::Result<Self> {
        let turns = Turns { at_once: Semaphore::new(CHECKS_SIDE_BY_SIDE), while_built: Semaphore::new(0) };
        let engine = opened.build_engine()?;
        let (published, turns) = (Meaning::of(newest)?, Arc::new(turns));
        Ok(Self { opened, engine, newest, published, turns, begun: Mutex::default() })
    }

    /// Begins to check the ports of these tables, as far as that was not begun yet.
    pub(crate) fn begin(&self, pins: &BTreeMap<String, Pin>) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, port) in self.opened.project.meaning.ports.iter().enumerate() {
            let Some(pin) = pins.get(&port.table) else { continue };
            let old = self.newest.tables.get(&port.table);
            let kept = old.filter(|old| old.path == pin.path && self.published.ports.contains(port));
            let kept = kept.map(|old| old.version);
            if kept != Some(pin.version) && begun.ports.insert(place) {
                let table = self.opened.warehouse.table(pin.path.clone());
                let (engine, port, turns) = (self.engine.clone(), port.clone(), self.turns.clone());
                let versions = (pin.version, kept);
                let mut models = self.opened.project.models.models.iter();
                let model = models.find(|model| model.name().to_string() == port.table);
                let told_apart = model.map(Model::told_apart_by).unwrap_or_default();
                begun
                    .checks
                    .spawn(async move { (place, check(&engine, &table, versions, &port, &told_apart, &turns).await) });
            }
        }
    }

    /// Checks what is left, and tells the breaches that there are, in the order of definitions.
    pub(crate) async fn finish(self, pins: &BTreeMap<String, Pin>) -> anyhow::Result<Vec<Breach>> {
        self.begin(pins);
        self.turns.while_built.close();
        let mut begun = self.begun.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut checked = Vec::new();
        while let Some(done) = begun.checks.join_next().await {
            checked.push(done?);
        }
        checked.sort_by_key(|(place, _)| *place);
        let mut breaches = Vec::new();
        for (_, checked) in checked {
            breaches.extend(checked?);
        }
        Ok(breaches)
    }
}

/// Checks a version of a port's table, of which an earlier one may have kept the same contract. These columns tell its
/// rows apart.
async fn check(
    engine: &Engine,
    table: &Table,
    (version, kept): (u64, Option<u64>),
    port: &Port,
    told_apart: &[String],
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
    contract::check(engine, table, &snapshot, kept, port, told_apart).await.map_err(|error| match among(&error) {
        Some(damage) => damage.into(),
        None => anyhow::Error::msg(error.to_string()),
    })
}
