//! A project with its warehouse opened: its streams, and what takes events for them.

use std::sync::Arc;

use anyhow::Context;
use starmere_ingest::envelope::{Mapping, TimeUnit, TypeOf};
use starmere_ingest::http::{Judge, Target};
use starmere_ingest::memory::Memory;
use starmere_lake::catalog::Catalog;
use starmere_lake::delta::Warehouse;
use starmere_lake::landing::Stream;
use starmere_lake::paths::TablePath;
use starmere_lake::session::Engine;
use starmere_models::define::{StreamFile, TimeUnitFile, suggestion};
use starmere_models::events::Described;

use super::Project;
use crate::failure::Mendable;
use crate::health::Watched;

/// A project with its warehouse opened.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) project: Arc<Project>,
    pub(crate) warehouse: Warehouse,
    pub(crate) catalog: Catalog,
    pub(crate) engine: Engine,
    /// The memory that sources share.
    pub(crate) memory: Memory,
    pub(crate) watched: Arc<Watched>,
}

impl Opened {
    /// An engine for queries of builds, within half of their memory; the rest goes to the disk.
    pub(crate) fn build_engine(&self) -> anyhow::Result<Engine> {
        let memory = usize::try_from(self.project.file.build_memory() / 2).unwrap_or(usize::MAX);
        Engine::new(self.warehouse.store(), memory).context("could not set up the engine of builds")
    }

    /// The same warehouse by other definitions. What was opened with the old ones (listeners, memory, users) stays.
    pub(crate) fn by(&self, project: Project) -> Self {
        Self { project: Arc::new(project), ..self.clone() }
    }

    /// All streams, as they take events over HTTP; secrets are looked up.
    pub(crate) async fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let mut targets = Vec::new();
        for parsed in &self.project.streams {
            let name = parsed.definition.stream.as_str();
            let (stream, mapping) = self.stream(name)?;
            let webhook = self.project.file.webhooks.get(name);
            let signatures = webhook.map(|webhook| webhook.signatures(name, &self.project.root)).transpose()?;
            let judge = match self.project.models.streams.get(name).filter(|_| parsed.definition.strict) {
                Some(described) => {
                    let described = Described::of(described, stream.table()).await?;
                    Some(Judge::new(move |rows| described.misfit(rows).map_err(|error| format!("{error:#}"))))
                }
                None => None,
            };
            targets.push(Target { stream, mapping, signatures, judge });
        }
        Ok(targets)
    }

    /// A stream's table and envelope.
    pub(crate) fn stream(&self, name: &str) -> anyhow::Result<(Stream, Mapping)> {
        let parsed = self.project.streams.iter().find(|parsed| *parsed.definition.stream == name);
        let Some(parsed) = parsed else {
            let known = self.project.streams.iter().map(|parsed| parsed.definition.stream.as_str());
            return Err(Mendable::error(format!("there is no stream `{name}`"), suggestion(name, known)));
        };
        let file = &parsed.definition;
        let table = self.warehouse.table(TablePath::stream(&file.domain, &file.stream));
        Ok((Stream::new(&file.stream, table).published_in(&self.catalog), mapping(file)))
    }
}

pub(crate) fn mapping(file: &StreamFile) -> Mapping {
    let envelope = &file.envelope;
    let event_type = match (&envelope.event_type, &envelope.constant_type) {
        (_, Some(constant)) => TypeOf::Constant(constant.clone()),
        (Some(path), None) => TypeOf::Path(path.clone()),
        (None, None) => TypeOf::Convention,
    };
    let mapping = Mapping::new(event_type, envelope.time.clone());
    Mapping {
        format: file.format(),
        id: envelope.id.clone(),
        version: envelope.version.clone(),
        time_unit: match envelope.time_unit {
            TimeUnitFile::Text => TimeUnit::Text,
            TimeUnitFile::Seconds => TimeUnit::Seconds,
            TimeUnitFile::Milliseconds => TimeUnit::Milliseconds,
            TimeUnitFile::Microseconds => TimeUnit::Microseconds,
        },
        subject: envelope.subject.clone(),
        tombstone: envelope.tombstone.clone(),
        headers: file.headers(),
        max_event_bytes: file.max_event_bytes.as_ref().map_or(mapping.max_event_bytes, |bytes| bytes.value),
        ..mapping
    }
}
