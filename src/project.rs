//! A user's project: its files, read and resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_ingest::envelope::{Mapping, TimeUnit, TypeOf};
use starmere_lake::catalog::Catalog;
use starmere_lake::delta::Warehouse;
use starmere_lake::landing::Stream;
use starmere_lake::paths::TablePath;
use starmere_lake::session::Engine;
use starmere_lake::store::Store;
use starmere_marts::define::ProductFile;
use starmere_marts::meaning::Meaning;
use starmere_models::define::{
    DimensionFile, FactFile, Parsed, Place, Placed, Problem, StreamFile, TimeUnitFile, parse, suggestion,
};
use starmere_models::resolve::{Definitions, Models, check_domain, resolve};

use crate::failure::{Mendable, Problems};

/// Events may be as long as this unless the stream says otherwise.
const MAX_EVENT_BYTES: usize = 16 << 20;
/// Memory that queries may use before they spill.
const QUERY_MEMORY: usize = 8 << 30;

/// `starmere.yaml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectFile {
    pub(crate) project: String,
    /// A folder, `s3://bucket/prefix` or `memory://`.
    pub(crate) warehouse: Placed<String>,
    #[serde(default)]
    pub(crate) sources: BTreeMap<String, Placed<SourceFile>>,
    #[serde(default)]
    pub(crate) listeners: Listeners,
    /// Without users, only loopback addresses may be listened on.
    #[serde(default)]
    pub(crate) users: BTreeMap<String, Placed<User>>,
}

/// Where events come from.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceFile {
    pub(crate) stream: String,
    /// A file, a folder or a glob.
    pub(crate) files: String,
}

/// Where to listen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listeners {
    #[serde(default = "http_default")]
    pub(crate) http: String,
    #[serde(default = "flight_default")]
    pub(crate) flight: String,
}

fn http_default() -> String {
    "127.0.0.1:7070".into()
}

fn flight_default() -> String {
    "127.0.0.1:7071".into()
}

impl Default for Listeners {
    fn default() -> Self {
        Self { http: http_default(), flight: flight_default() }
    }
}

/// Who may connect.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    /// A reference: `${env:NAME}` or `${file:PATH}`.
    pub(crate) password: String,
}

/// A project whose definitions are right.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) root: PathBuf,
    pub(crate) file: ProjectFile,
    pub(crate) streams: Vec<Parsed<StreamFile>>,
    pub(crate) models: Models,
    pub(crate) meaning: Meaning,
    pub(crate) files: usize,
}

/// A project with its warehouse opened.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) project: Arc<Project>,
    pub(crate) warehouse: Warehouse,
    pub(crate) catalog: Catalog,
    pub(crate) engine: Engine,
}

impl Project {
    /// Reads and resolves everything, or tells every mistake.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Self> {
        let main = root.join("starmere.yaml");
        if !main.is_file() {
            let hint = "go to a project's folder, name one with --project, or write one with `starmere init`";
            return Err(Mendable::error(format!("there is no project in `{}`", root.display()), hint));
        }
        let mut reading = Reading { root: root.to_path_buf(), problems: Vec::new(), files: 0 };
        let file: Option<Parsed<ProjectFile>> = reading.one(&main);
        let streams: Vec<Parsed<StreamFile>> = reading.all(&root.join("streams"));
        let mut definitions = Definitions { streams: streams.clone(), ..Definitions::default() };
        let mut products = Vec::new();
        for domain in folders(&root.join("domains")) {
            let name = domain.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let place = Place { file: reading.name(&domain), line: 1, column: 1 };
            reading.problems.extend(check_domain(&name, &place));
            for path in yaml_files(&domain.join("models")) {
                // The first key says what it is.
                let begins = |line: &str| line.trim_start_matches('\u{feff}').starts_with("fact:");
                let is_fact = std::fs::read_to_string(&path).is_ok_and(|text| text.lines().any(begins));
                if is_fact {
                    definitions.facts.extend(reading.one::<FactFile>(&path).map(|parsed| (name.clone(), parsed)));
                } else {
                    definitions
                        .dimensions
                        .extend(reading.one::<DimensionFile>(&path).map(|parsed| (name.clone(), parsed)));
                }
            }
            let of_domain: Vec<Parsed<ProductFile>> = reading.all(&domain.join("products"));
            products.extend(of_domain.into_iter().map(|parsed| (name.clone(), parsed)));
        }
        definitions.ports = starmere_marts::define::ports(&products);
        let Reading { mut problems, files, .. } = reading;
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
        let Some(Parsed { definition: file, file: name }) = file else { return Err(Problems(problems).into()) };
        for (source, definition) in &file.sources {
            let known: BTreeSet<&str> = streams.iter().map(|parsed| parsed.definition.stream.as_str()).collect();
            let place = definition.place(&name);
            if !known.contains(definition.stream.as_str()) && !broken {
                let hint = suggestion(&definition.stream, known.iter().copied());
                let message = format!("the source `{source}` feeds `{}`, which is no stream", definition.stream);
                problems.push(Problem::new(place, message).hint(hint));
            } else if source == "http" {
                problems.push(
                    Problem::new(place, "`http` is the name of the listener").hint("give the source another name"),
                );
            }
        }
        for (user, definition) in &file.users {
            if !definition.password.starts_with("${") {
                let message = format!("the password of `{user}` stands in the file");
                let hint = "write a reference: ${env:NAME} or ${file:PATH}";
                problems.push(Problem::new(definition.place(&name), message).hint(hint));
            }
        }
        if !problems.is_empty() {
            return Err(Problems(problems).into());
        }
        Ok(Self { root: root.to_path_buf(), file, streams, models, meaning, files })
    }

    /// Opens the warehouse.
    pub(crate) fn open(self) -> anyhow::Result<Opened> {
        let store = Store::open(&self.file.warehouse, &self.root)?;
        let warehouse = Warehouse::new(store);
        let catalog = Catalog::new(&warehouse);
        let engine = Engine::new(warehouse.store(), QUERY_MEMORY).context("could not set up the query engine")?;
        Ok(Opened { project: Arc::new(self), warehouse, catalog, engine })
    }

    /// Users and their passwords, looked up.
    pub(crate) fn users(&self) -> anyhow::Result<Vec<(String, String)>> {
        let of = |(name, user): (&String, &Placed<User>)| Ok((name.clone(), secret(&self.root, &user.password)?));
        self.file.users.iter().map(of).collect()
    }
}

impl Opened {
    /// A stream's table and envelope.
    pub(crate) fn stream(&self, name: &str) -> anyhow::Result<(Stream, Mapping)> {
        let parsed = self.project.streams.iter().find(|parsed| *parsed.definition.stream == name);
        let Some(parsed) = parsed else {
            let known = self.project.streams.iter().map(|parsed| parsed.definition.stream.as_str());
            return Err(Mendable::error(format!("there is no stream `{name}`"), suggestion(name, known)));
        };
        let file = &parsed.definition;
        let table = self.warehouse.table(TablePath::stream(&file.domain, &file.stream));
        Ok((Stream::new(&file.stream, table), mapping(file)))
    }
}

fn mapping(file: &StreamFile) -> Mapping {
    let envelope = &file.envelope;
    let event_type = match (&envelope.event_type, &envelope.constant_type) {
        (_, Some(constant)) => TypeOf::Constant(constant.clone()),
        (path, None) => TypeOf::Path(path.clone().unwrap_or_default()),
    };
    Mapping {
        id: envelope.id.clone(),
        event_type,
        version: envelope.version.clone(),
        time: envelope.time.to_string(),
        time_unit: match envelope.time_unit {
            TimeUnitFile::Text => TimeUnit::Text,
            TimeUnitFile::Seconds => TimeUnit::Seconds,
            TimeUnitFile::Milliseconds => TimeUnit::Milliseconds,
            TimeUnitFile::Microseconds => TimeUnit::Microseconds,
        },
        subject: envelope.subject.clone(),
        max_event_bytes: file.max_event_bytes.unwrap_or(MAX_EVENT_BYTES),
    }
}

struct Reading {
    root: PathBuf,
    problems: Vec<Problem>,
    files: usize,
}

impl Reading {
    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    fn one<T: serde::de::DeserializeOwned>(&mut self, path: &Path) -> Option<Parsed<T>> {
        self.files += 1;
        let name = self.name(path);
        match parse(path, &name) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn all<T: serde::de::DeserializeOwned>(&mut self, folder: &Path) -> Vec<Parsed<T>> {
        yaml_files(folder).iter().filter_map(|path| self.one(path)).collect()
    }
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    entries(folder).into_iter().filter(|path| path.is_file()).filter(is_yaml).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The value behind `${env:NAME}` or `${file:PATH}`.
fn secret(root: &Path, reference: &str) -> anyhow::Result<String> {
    let inner = reference.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    match inner.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|_| {
            Mendable::error(format!("the variable `{name}` is not set"), "set it, or change the reference")
        }),
        Some(("file", path)) => {
            let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("could not read `{path}`"))?;
            Ok(text.trim_end().to_owned())
        }
        _ => Err(Mendable::error(format!("`{reference}` is not a reference"), "write ${env:NAME} or ${file:PATH}")),
    }
}
