//! A user's project: its files, read and resolved.

mod mistakes;
mod opened;
mod reading;
mod secrets;
mod starmere_yaml;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use starmere_lake::catalog::Catalog;
use starmere_lake::delta::Warehouse;
use starmere_lake::machine::Machine;
use starmere_lake::session::Engine;
use starmere_lake::store::Store;
use starmere_marts::define::ProductFile;
use starmere_marts::meaning::Meaning;
use starmere_models::define::{Parsed, Place, Placed, StreamFile, parse_model_text};
use starmere_models::resolve::{Definitions, Models, check_domain, resolve};
use starmere_sql::Rights;

pub(crate) use self::opened::{Opened, mapping};
pub(crate) use self::secrets::{is_reference, is_whole, resolved};
pub(crate) use self::starmere_yaml::ProjectFile;

use self::mistakes::{of_sources_and_users, of_streams, of_the_outside};
use self::reading::{DEPTH, Reading, folders, main_file, project_file, yaml_below, yaml_files};
use self::secrets::secret;
use self::starmere_yaml::User;
use crate::definitions::fingerprint;
use crate::failure::Problems;
use crate::project_tests::{Test, TestFile};
use crate::stamps::{Stamps, stamp};

/// A project whose definitions are right.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) root: PathBuf,
    pub(crate) file: ProjectFile,
    pub(crate) streams: Vec<Parsed<StreamFile>>,
    pub(crate) models: Models,
    pub(crate) meaning: Meaning,
    pub(crate) tests: Vec<Test>,
    pub(crate) files: usize,
    /// What the definitions mean, as a digest.
    pub(crate) fingerprint: String,
    /// How the files were when they were read.
    pub(crate) stamps: Stamps,
    /// Why models and products could not be read: then there are none of them, and nothing is built.
    pub(crate) unread: Option<Arc<Problems>>,
}

/// How much of a project is read.
#[derive(Clone, Copy, Debug)]
enum Extent {
    All,
    /// starmere.yaml and the streams.
    Landing,
}

/// The project's warehouse. Of all files only starmere.yaml is read, so others may be wrong.
pub(crate) fn warehouse_of(root: &Path) -> anyhow::Result<Warehouse> {
    let file = project_file(root, &main_file(root)?, "starmere.yaml").map_err(Problems)?;
    Ok(Warehouse::new(Store::open(&resolved(root, &file.definition.warehouse)?, root)?))
}

impl Project {
    /// Reads and resolves everything, or tells every mistake.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Self> {
        Self::read(root, Extent::All)
    }

    /// The same where models and products may be wrong, which landing does not need: they are left out, and `unread` says
    /// why.
    pub(crate) fn load_to_land(root: &Path) -> anyhow::Result<Self> {
        let problems = match Self::load(root).map_err(anyhow::Error::downcast::<Problems>) {
            Ok(project) => return Ok(project),
            Err(Ok(problems)) => problems,
            Err(Err(error)) => return Err(error),
        };
        match Self::read(root, Extent::Landing) {
            Ok(project) => Ok(Self { unread: Some(Arc::new(problems)), ..project }),
            Err(_) => Err(problems.into()),
        }
    }

    fn read(root: &Path, extent: Extent) -> anyhow::Result<Self> {
        let main = main_file(root)?;
        let (problems, read, stamps) = (Vec::new(), BTreeSet::new(), Stamps::new());
        let mut reading = Reading { root: root.to_path_buf(), problems, read, stamps, variables: None };
        let file = reading.project(&main);
        let mut streams: Vec<Parsed<StreamFile>> = reading.all(&root.join("streams"));
        reading.schemas(&mut streams);
        let mut definitions = Definitions { streams: streams.clone(), ..Definitions::default() };
        let (mut products, mut tests) = (Vec::new(), Vec::new());
        let domains = match extent {
            Extent::All => folders(&root.join("domains")),
            Extent::Landing => Vec::new(),
        };
        for domain in domains {
            let name = domain.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let place = Place { file: reading.name(&domain), line: 1, column: 1 };
            reading.problems.extend(check_domain(&name, &place));
            for path in yaml_files(&domain.join("models")) {
                if let Some(model) = reading.one_by(&path, parse_model_text) {
                    definitions.add(&name, model);
                }
            }
            let of_domain: Vec<Parsed<ProductFile>> = reading.all(&domain.join("products"));
            products.extend(of_domain.into_iter().map(|parsed| (name.clone(), parsed)));
            let of_domain: Vec<Parsed<TestFile>> = reading.all(&domain.join("tests"));
            tests.extend(of_domain.into_iter().map(|parsed| (name.clone(), parsed)));
        }
        reading.holidays(&mut definitions);
        definitions.ports = starmere_marts::define::ports(&products);
        if matches!(extent, Extent::All) {
            reading.never_read();
        }
        let Reading { mut problems, read, stamps, .. } = reading;
        // Names that are missing because a file could not be read would only be told twice.
        let broken = !problems.is_empty();
        let models = resolve(&definitions).unwrap_or_else(|found| {
            if !broken {
                problems.extend(found);
            }
            Models::default()
        });
        let meaning = match problems.is_empty() {
            true => starmere_marts::resolve::resolve(&products, &models).unwrap_or_else(|found| {
                problems.extend(found);
                Meaning::default()
            }),
            false => Meaning::default(),
        };
        let most_event_bytes = file.as_ref().map(|file| file.definition.ingest_memory().most_event_bytes());
        problems.extend(of_streams(&streams, most_event_bytes));
        let Some(Parsed { definition: file, file: name }) = file else { return Err(Problems(problems).into()) };
        problems.extend(of_sources_and_users(&file, &name, &streams, broken));
        problems.extend(of_the_outside(root, &file, &name));
        if !problems.is_empty() {
            return Err(Problems(problems).into());
        }
        let fingerprint = fingerprint(&streams, &models, &meaning)?;
        let (root, files) = (root.to_path_buf(), read.len());
        Ok(Self { root, file, streams, models, meaning, tests, files, fingerprint, stamps, unread: None })
    }

    /// How the files are now that this project was read from, and those that would be read with them.
    pub(crate) fn stamps_now(&self) -> Stamps {
        let below = ["streams", "domains"].map(|folder| yaml_below(&self.root.join(folder), DEPTH));
        let found = below.into_iter().flatten().chain(self.stamps.keys().cloned());
        found.map(|path| (path.clone(), stamp(&path))).collect()
    }

    /// Opens the warehouse, for an environment or for none.
    pub(crate) fn open(self, environment: Option<&str>) -> anyhow::Result<Opened> {
        let location = resolved(&self.root, &self.file.warehouse)?;
        let store = Store::open(&location, &self.root)?;
        let warehouse = Warehouse::new(store);
        let catalog = Catalog::of(&warehouse, environment);
        let queries = &self.file.queries;
        let engine = Engine::with_spill(warehouse.store(), queries.memory(Machine::here()), queries.spill())
            .context("could not set up the query engine")?;
        let memory = self.file.ingest_memory();
        Ok(Opened { project: Arc::new(self), warehouse, catalog, engine, memory, watched: Arc::default() })
    }

    /// Users, their passwords, looked up, and what they may do.
    pub(crate) fn users(&self) -> anyhow::Result<Vec<(String, String, Rights)>> {
        let of = |(name, user): (&String, &Placed<User>)| {
            Ok((name.clone(), secret(&self.root, &user.password)?, user.rights()))
        };
        self.file.users.iter().map(of).collect()
    }
}
