//! A user's project: its files, read and resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_ingest::envelope::{Mapping, TimeUnit, TypeOf};
use starmere_ingest::http::{Judge, Target};
use starmere_ingest::memory::Memory;
use starmere_lake::catalog::Catalog;
use starmere_lake::delta::Warehouse;
use starmere_lake::landing::Stream;
use starmere_lake::machine::Machine;
use starmere_lake::paths::TablePath;
use starmere_lake::session::Engine;
use starmere_lake::store::Store;
use starmere_marts::define::ProductFile;
use starmere_marts::meaning::Meaning;
use starmere_models::define::{
    Parsed, Place, Placed, Problem, Scalar, StreamFile, TimeUnitFile, parse, parse_model_text, parse_text, read_text,
    suggestion,
};
use starmere_models::events::Described;
use starmere_models::resolve::{Definitions, Models, check_domain, resolve};
use starmere_sql::{Right, Rights, check_listener};

use crate::definitions::fingerprint;
use crate::failure::{Mendable, Problems};
use crate::health::Watched;
use crate::limits::QueryLimits;
use crate::output::bytes as size;
use crate::project_tests::{Test, TestFile};
use crate::references::looked_up;
use crate::sources::{SourceFile, sharing};
use crate::stamps::{Stamps, stamp};
use crate::variables::{Variables, advised};
use crate::webhooks::WebhookFile;

/// Catalog snapshots are retained so many days unless the project says otherwise.
const SNAPSHOT_DAYS: u32 = 30;
/// The least memory of ingestion, in MiB.
const LEAST_INGEST_MEMORY_MIB: usize = 32;
/// Memory of builds, unless the project says otherwise: a quarter of what the process may use, at most this; and the least.
/// In MiB.
const BUILD_MEMORY_MIB: u64 = 2048;
const LEAST_BUILD_MEMORY_MIB: u64 = 176;
/// What is resident of the program itself, and what every process takes.
const PROGRAM_MIB: u64 = 112;
/// Events over HTTP are gathered so long unless the project says otherwise, and at most; in milliseconds.
const GATHER_MS: u32 = 250;
const MOST_GATHER_MS: u32 = 10_000;
/// `up` publishes at most this often unless the project says otherwise, in seconds.
const PUBLISH_SECONDS: u32 = 2;

/// `starmere.yaml`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProjectFile {
    pub(crate) project: String,
    /// A folder, `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `memory://`; may hold references.
    pub(crate) warehouse: Placed<String>,
    #[serde(default)]
    pub(crate) sources: BTreeMap<String, Placed<SourceFile>>,
    /// What `${NAME}` stands for in definitions.
    #[serde(default)]
    pub(crate) variables: BTreeMap<String, Placed<Scalar>>,
    #[serde(default)]
    pub(crate) listeners: Listeners,
    /// By stream: how requests to it are signed.
    #[serde(default)]
    pub(crate) webhooks: BTreeMap<String, Placed<WebhookFile>>,
    /// How long an earlier catalog snapshot may be asked for, in days; 30 where it is left out.
    #[serde(default)]
    pub(crate) snapshot_days: Option<u32>,
    /// How long `up` waits between two builds, and so between two catalog snapshots, in seconds; 2 where it is left out.
    #[serde(default)]
    pub(crate) publish_every_seconds: Option<Placed<u32>>,
    /// Memory that events may take on their way into the lake, over all sources; 512 where it is left out.
    #[serde(default)]
    pub(crate) ingest_memory_mib: Option<Placed<usize>>,
    /// Memory of builds; where it is left out, a quarter of the machine's or of the cgroup's limit, 2048 at most.
    #[serde(default)]
    pub(crate) build_memory_mib: Option<Placed<u64>>,
    /// How much queries may take; follows the machine where it is left out.
    #[serde(default)]
    pub(crate) queries: QueryLimits,
    /// Without users, only loopback addresses may be listened on.
    #[serde(default)]
    pub(crate) users: BTreeMap<String, Placed<User>>,
}

impl ProjectFile {
    /// How long catalog snapshots are retained.
    pub(crate) fn snapshot_days(&self) -> u32 {
        self.snapshot_days.unwrap_or(SNAPSHOT_DAYS)
    }

    /// How long `up` waits between two builds.
    pub(crate) fn publish_every(&self) -> Duration {
        let seconds = self.publish_every_seconds.as_ref().map_or(PUBLISH_SECONDS, |seconds| seconds.value);
        Duration::from_secs(u64::from(seconds))
    }

    /// The memory that a build works with, in bytes: what is declared, without what the program itself takes.
    pub(crate) fn build_memory(&self) -> u64 {
        let mib =
            self.build_memory_mib.as_ref().map_or_else(|| build_memory_of(Machine::here().memory), |mib| mib.value);
        mib.saturating_sub(PROGRAM_MIB).saturating_mul(1 << 20)
    }

    fn ingest_memory(&self) -> Memory {
        self.ingest_memory_mib
            .as_ref()
            .map_or_else(Memory::default, |mib| Memory::new(mib.value.saturating_mul(1 << 20)))
    }
}

/// Memory of builds in MiB, where the process may use so many bytes.
fn build_memory_of(limit: u64) -> u64 {
    ((limit >> 20) / 4).clamp(LEAST_BUILD_MEMORY_MIB, BUILD_MEMORY_MIB)
}

/// Where to listen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listeners {
    #[serde(default = "http_default")]
    pub(crate) http: Placed<String>,
    #[serde(default = "flight_default")]
    pub(crate) flight: Placed<String>,
    /// Names by which clients call the HTTP listener, beside its addresses and `localhost`; without port.
    #[serde(default)]
    pub(crate) hosts: Vec<Placed<String>>,
    /// How long events over HTTP are gathered into one commit, in milliseconds; 250 where it is left out.
    #[serde(default)]
    pub(crate) gather_ms: Option<Placed<u32>>,
}

impl Listeners {
    /// How long events over HTTP are gathered into one commit.
    pub(crate) fn gather(&self) -> Duration {
        Duration::from_millis(u64::from(self.gather_ms.as_ref().map_or(GATHER_MS, |ms| ms.value)))
    }
}

fn http_default() -> Placed<String> {
    Placed::from("127.0.0.1:7070".to_owned())
}

fn flight_default() -> Placed<String> {
    Placed::from("127.0.0.1:7071".to_owned())
}

impl Default for Listeners {
    fn default() -> Self {
        Self { http: http_default(), flight: flight_default(), hosts: Vec::new(), gather_ms: None }
    }
}

/// Who may connect.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct User {
    /// A reference: `${env:NAME}` or `${file:PATH}`.
    pub(crate) password: String,
    /// What the user may do; everything but `operate` where it is left out.
    #[serde(default)]
    pub(crate) can: Option<Vec<Can>>,
}

/// One thing that a user may do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Can {
    /// Query ports.
    Query,
    /// Query raw events: the tables of `lake`.
    Raw,
    /// Post events.
    Post,
    /// See and stop queries of others, read metrics.
    Operate,
}

impl User {
    fn rights(&self) -> Rights {
        let right = |can: &Can| match can {
            Can::Query => Right::Query,
            Can::Raw => Right::Raw,
            Can::Post => Right::Post,
            Can::Operate => Right::Operate,
        };
        self.can.as_ref().map_or_else(Rights::default, |can| Rights::of(&can.iter().map(right).collect::<Vec<_>>()))
    }
}

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

/// The file that says where all else is.
fn main_file(root: &Path) -> anyhow::Result<PathBuf> {
    let main = root.join("starmere.yaml");
    if main.is_file() {
        return Ok(main);
    }
    let hint = "go to a project's folder, name one with --project, or write one with `starmere init`";
    Err(Mendable::error(format!("there is no project in `{}`", root.display()), hint))
}

/// Reads `starmere.yaml`, which problems call `name`, with its references looked up.
fn project_file(root: &Path, main: &Path, name: &str) -> Result<Parsed<ProjectFile>, Vec<Problem>> {
    let text = match std::fs::read_to_string(main) {
        Ok(text) => looked_up(root, &text, name)?,
        // This says why.
        Err(_) => return parse(main, name).map_err(|problem| vec![problem]),
    };
    parse_text(&text, name).map_err(|problem| vec![problem])
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
        for (parsed, bytes) in
            streams.iter().filter_map(|parsed| Some((parsed, parsed.definition.max_event_bytes.as_ref()?)))
        {
            let place = bytes.place(&parsed.file);
            if bytes.value == 0 {
                let hint = "write how long an event may be, or leave it out";
                problems.push(Problem::new(place, "no event has 0 bytes").hint(hint));
            } else if let Some(most) = most_event_bytes.filter(|&most| most < bytes.value) {
                let message = format!(
                    "an event of {} does not fit into the memory for events on their way",
                    size(bytes.value as u64)
                );
                let hint = format!("write at most {most}, or more `ingest_memory_mib` into starmere.yaml");
                problems.push(Problem::new(place, message).hint(hint));
            }
        }
        for (parsed, days) in
            streams.iter().filter_map(|parsed| Some((parsed, parsed.definition.retention_days.as_ref()?)))
        {
            if days.value == 0 {
                let hint = "write for how many days events are kept, or leave it out: then all are";
                problems.push(Problem::new(days.place(&parsed.file), "events are kept for a day at least").hint(hint));
            }
        }
        let Some(Parsed { definition: file, file: name }) = file else { return Err(Problems(problems).into()) };
        for (source, definition) in &file.sources {
            let known: BTreeSet<&str> = streams.iter().map(|parsed| parsed.definition.stream.as_str()).collect();
            let place = definition.place(&name);
            if !known.contains(definition.stream.as_str()) && !broken {
                let hint = suggestion(&definition.stream, known.iter().copied());
                let message = format!("the source `{source}` feeds `{}`, which is no stream", definition.stream);
                problems.push(Problem::new(place, message).hint(hint));
            } else if let Some((message, hint)) = streams
                .iter()
                .find(|parsed| *parsed.definition.stream == definition.stream)
                .and_then(|parsed| definition.misfit(&parsed.definition))
            {
                problems.push(Problem::new(place, format!("the source `{source}` {message}")).hint(hint));
            } else if source == "http" {
                problems.push(
                    Problem::new(place, "`http` is the name of the listener").hint("give the source another name"),
                );
            }
        }
        let known: BTreeSet<&str> = streams.iter().map(|parsed| parsed.definition.stream.as_str()).collect();
        for (stream, webhook) in file.webhooks.iter().filter(|_| !broken) {
            let mistakes = webhook.mistakes(stream, &known).into_iter();
            problems.extend(mistakes.map(|(message, hint)| Problem::new(webhook.place(&name), message).hint(hint)));
        }
        for (user, definition) in &file.users {
            let message = match reference(&definition.password) {
                Some(_) => continue,
                None if definition.password.starts_with("${") => {
                    format!("the password of `{user}` is not a whole reference")
                }
                None => format!("the password of `{user}` stands in the file"),
            };
            let hint = "write a reference: ${env:NAME} or ${file:PATH}";
            problems.push(Problem::new(definition.place(&name), message).hint(hint));
        }
        problems.extend(mistakes(root, &file, &name));
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

struct Reading {
    root: PathBuf,
    problems: Vec<Problem>,
    read: BTreeSet<PathBuf>,
    stamps: Stamps,
    /// None where they could not be read.
    variables: Option<Variables>,
}

impl Reading {
    fn name(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    fn project(&mut self, main: &Path) -> Option<Parsed<ProjectFile>> {
        self.read.insert(main.to_path_buf());
        self.stamps.insert(main.to_path_buf(), stamp(main));
        let name = self.name(main);
        let read = project_file(&self.root, main, &name);
        let file = read.map_err(|problems| self.problems.extend(problems)).ok()?;
        match Variables::of(&file.definition.variables, &name) {
            Ok(variables) => self.variables = Some(variables),
            Err(problems) => self.problems.extend(problems),
        }
        Some(file)
    }

    fn one<T: serde::de::DeserializeOwned>(&mut self, path: &Path) -> Option<Parsed<T>> {
        self.one_by(path, parse_text)
    }

    fn one_by<T>(&mut self, path: &Path, parse: fn(&str, &str) -> Result<T, Problem>) -> Option<T> {
        self.read.insert(path.to_path_buf());
        self.stamps.insert(path.to_path_buf(), stamp(path));
        let name = self.name(path);
        let filled_in =
            read_text(path, &name).map_err(|problem| vec![problem]).and_then(|text| match &self.variables {
                Some(variables) => variables.filled_in(&text, &name),
                // What it would say follows from what starmere.yaml does not say rightly.
                None if text.contains("${") => Err(Vec::new()),
                None => Ok(text),
            });
        let parsed = filled_in.and_then(|text| parse(&text, &name).map_err(|problem| vec![advised(problem, &text)]));
        parsed.map_err(|problems| self.problems.extend(problems)).ok()
    }

    fn all<T: serde::de::DeserializeOwned>(&mut self, folder: &Path) -> Vec<Parsed<T>> {
        yaml_files(folder).iter().filter_map(|path| self.one(path)).collect()
    }

    /// Reads the holidays that calendars declare.
    fn holidays(&mut self, definitions: &mut Definitions) {
        for (_, parsed) in &mut definitions.dimensions {
            let Some(calendar) = &mut parsed.definition.calendar else { continue };
            let Some(file) = calendar.value.holidays.clone() else { continue };
            let path = self.root.join(&file);
            self.stamps.insert(path.clone(), stamp(&path));
            match std::fs::read_to_string(path) {
                Ok(text) => calendar.value.holidays_text = Some(text),
                Err(error) => {
                    let place = calendar.place(&parsed.file);
                    let problem = Problem::new(place, format!("`{file}` could not be read: {error}"));
                    self.problems.push(problem.hint("name a file of the project"));
                }
            }
        }
    }

    /// Reads the schemas that streams declare.
    fn schemas(&mut self, streams: &mut [Parsed<StreamFile>]) {
        for stream in streams {
            let Some(schema) = &stream.definition.schema else { continue };
            let path = self.root.join(schema.as_str());
            self.stamps.insert(path.clone(), stamp(&path));
            match std::fs::read_to_string(path) {
                Ok(text) => stream.definition.schema_text = Some(text),
                Err(error) => {
                    let problem =
                        Problem::new(schema.place(&stream.file), format!("`{}` could not be read: {error}", &**schema));
                    self.problems.push(problem.hint("name a file of the project"));
                }
            }
        }
    }

    /// Tells of files that look like definitions and stand where nobody looks.
    fn never_read(&mut self) {
        let all = ["streams", "domains"].iter().chain(&BESIDE);
        let all = all.flat_map(|folder| yaml_below(&self.root.join(folder), DEPTH));
        // Other programs have tests of theirs.
        let tests = yaml_below(&self.root.join("tests"), DEPTH).into_iter().filter(|path| is_test(path));
        let unread: Vec<PathBuf> = all.chain(tests).filter(|path| !self.read.contains(path)).collect();
        for path in unread {
            let file = self.name(&path);
            // Below a domain, its folder says what the file is.
            let folder = match file.split('/').collect::<Vec<_>>().as_slice() {
                ["domain" | "domains", _, folder, _, ..] | [folder, ..] => *folder,
                [] => "",
            };
            let belongs = BELONGS.iter().find(|(word, _)| folder.starts_with(word)).map_or(MODELS, |(_, words)| *words);
            let message = format!("is never read; {belongs}");
            let place = Place { file, line: 1, column: 1 };
            self.problems.push(Problem::new(place, message));
        }
    }
}

/// So deep are files looked for that stand in the wrong place.
const DEPTH: usize = 5;
/// Folders of a project in which definitions are looked for that nobody reads there.
const BESIDE: [&str; 8] = ["dimensions", "domain", "facts", "model", "models", "product", "products", "stream"];
/// Where definitions belong, by how a folder is called.
const BELONGS: [(&str, &str); 3] = [
    ("stream", "streams are in streams/*.yaml"),
    ("product", "products are in domains/<domain>/products/*.yaml"),
    ("test", "tests are in domains/<domain>/tests/*.yaml"),
];
const MODELS: &str = "models are in domains/<domain>/models/*.yaml";

/// Whether a file looks like a test of a domain.
fn is_test(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.lines().any(|line| line.starts_with("test:")))
}

fn yaml_below(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    let mut found = yaml_files(folder);
    if depth > 0 {
        let folders = folders(folder).into_iter().filter(|folder| !hidden(folder));
        found.extend(folders.flat_map(|folder| yaml_below(&folder, depth - 1)));
    }
    found.retain(|path| !hidden(path));
    found
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

/// What `starmere.yaml` says of the outside that cannot be right.
fn mistakes(root: &Path, file: &ProjectFile, name: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in file.sources.values() {
        for (message, hint) in source.mistakes(root) {
            problems.push(Problem::new(source.place(name), message).hint(hint));
        }
    }
    let topics = file.sources.iter().filter_map(|(source, file)| Some((source.as_str(), file.kafka.as_ref()?)));
    for (source, (message, hint)) in sharing(&file.project, topics) {
        problems.push(Problem::new(file.sources[source].place(name), message).hint(hint));
    }
    let mut tell = |place: Place, wrong: Option<(String, String)>| {
        problems.extend(wrong.map(|(message, hint)| Problem::new(place, message).hint(hint)));
    };
    tell(
        file.warehouse.place(name),
        wrong_warehouse(&file.warehouse).map(|(message, hint)| (message, hint.to_owned())),
    );
    for listener in [&file.listeners.http, &file.listeners.flight] {
        tell(listener.place(name), wrong_listener(listener, !file.users.is_empty()));
    }
    for host in &file.listeners.hosts {
        tell(host.place(name), wrong_host(host));
    }
    if let Some(ms) = file.listeners.gather_ms.as_ref().filter(|ms| ms.value > MOST_GATHER_MS) {
        let message = format!("{} ms are too long to wait for an answer", ms.value);
        let hint = format!("write at most {MOST_GATHER_MS}, or leave it out: then it is {GATHER_MS}");
        problems.push(Problem::new(ms.place(name), message).hint(hint));
    }
    if let Some(seconds) = file.publish_every_seconds.as_ref().filter(|seconds| seconds.value == 0) {
        let hint = format!("write 1 or more, or leave it out: then it is {PUBLISH_SECONDS}");
        problems.push(Problem::new(seconds.place(name), "builds are a second apart at least").hint(hint));
    }
    if let Some(mib) = file.ingest_memory_mib.as_ref().filter(|mib| mib.value < LEAST_INGEST_MEMORY_MIB) {
        let message = format!("{} MiB are too little memory for events on their way", mib.value);
        let hint = format!("write {LEAST_INGEST_MEMORY_MIB} or more, or leave it out: then it is 512");
        problems.push(Problem::new(mib.place(name), message).hint(hint));
    }
    if let Some(mib) = file.build_memory_mib.as_ref().filter(|mib| mib.value < LEAST_BUILD_MEMORY_MIB) {
        let message = format!("{} MiB are too little memory for builds", mib.value);
        let hint = format!(
            "write {LEAST_BUILD_MEMORY_MIB} or more, or leave it out: then it is a quarter of what the process may use, \
             {BUILD_MEMORY_MIB} at most"
        );
        problems.push(Problem::new(mib.place(name), message).hint(hint));
    }
    problems.extend(file.queries.mistakes(name));
    problems
}

fn wrong_warehouse(location: &str) -> Option<(String, &'static str)> {
    const KINDS: &str = "write a folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or memory://";
    if location.contains("${") {
        return (!is_whole(location))
            .then(|| (format!("`{location}` has a reference that is not whole"), "write ${env:NAME} or ${file:PATH}"));
    }
    if location.trim().is_empty() {
        return Some(("nothing where a warehouse belongs".to_owned(), KINDS));
    }
    match location.split_once("://") {
        Some(("s3" | "gs" | "az", rest)) if rest.starts_with('/') || rest.is_empty() => {
            Some((format!("`{location}` names no bucket"), KINDS))
        }
        None | Some(("file" | "memory" | "s3" | "gs" | "az", _)) => None,
        Some((scheme, _)) => Some((format!("`{scheme}` is not a kind of warehouse"), KINDS)),
    }
}

fn wrong_listener(address: &str, has_users: bool) -> Option<(String, String)> {
    let number = address.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    match number.as_deref().unwrap_or(address).parse::<SocketAddr>() {
        Err(_) => Some((
            format!("`{address}` is not an address to listen on"),
            "write `IP:port`, such as 127.0.0.1:7070; port 0: the system chooses".to_owned(),
        )),
        Ok(number) => {
            let error = check_listener(&number, has_users).err()?;
            Some((error.to_string(), error.hint().unwrap_or_default().to_owned()))
        }
    }
}

fn wrong_host(host: &str) -> Option<(String, String)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let is_wrong = host.is_empty() || !host.chars().all(is_name);
    is_wrong.then(|| {
        (format!("`{host}` is not the name of a host"), "write a name without port, such as dwh.example.com".to_owned())
    })
}

/// Where a value is to be had.
enum Reference<'a> {
    Variable(&'a str),
    File(&'a str),
}

fn reference(text: &str) -> Option<Reference<'_>> {
    match text.strip_prefix("${")?.strip_suffix('}')?.split_once(':')? {
        (_, "") => None,
        ("env", name) => Some(Reference::Variable(name)),
        ("file", path) => Some(Reference::File(path)),
        _ => None,
    }
}

/// The text, each of its references replaced by its value.
fn with_references(text: &str, value: impl Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<String> {
    let (mut result, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("${") {
        // One that does not end is told by `value`.
        let end = rest[start..].find('}').map_or(rest.len(), |end| start + end + 1);
        result += &rest[..start];
        result += &value(&rest[start..end])?;
        rest = &rest[end..];
    }
    Ok(result + rest)
}

/// Whether the text is a reference, and nothing else.
pub(crate) fn is_reference(text: &str) -> bool {
    reference(text).is_some()
}

/// Whether all references in the text are whole.
pub(crate) fn is_whole(text: &str) -> bool {
    let whole = |text: &str| reference(text).map(|_| String::new()).context("not a reference");
    with_references(text, whole).is_ok()
}

/// The text, each of its references looked up; `root` is the project's folder.
pub(crate) fn resolved(root: &Path, text: &str) -> anyhow::Result<String> {
    with_references(text, |reference| secret(root, reference))
}

/// The value behind `${env:NAME}` or `${file:PATH}`.
fn secret(root: &Path, text: &str) -> anyhow::Result<String> {
    match reference(text) {
        Some(Reference::Variable(name)) => std::env::var(name).map_err(|_| {
            Mendable::error(format!("the variable `{name}` is not set"), "set it, or change the reference")
        }),
        Some(Reference::File(path)) => {
            let text = std::fs::read_to_string(root.join(path)).with_context(|| format!("could not read `{path}`"))?;
            Ok(text.trim_end().to_owned())
        }
        None => Err(Mendable::error(format!("`{text}` is not a reference"), "write ${env:NAME} or ${file:PATH}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECT: &str = "project: p\nwarehouse: ./warehouse\n";

    fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn said(files: &[(&str, &str)]) -> String {
        Project::load(project(files).path()).unwrap_err().to_string()
    }

    #[test]
    fn builds_take_a_quarter_of_what_there_is() {
        for (limit, mib) in [(1 << 30, 256), (64 << 30, 2048), (100 << 20, 176)] {
            assert_eq!(build_memory_of(limit), mib, "{limit}");
        }
    }

    #[test]
    fn what_would_fail_later_is_told_with_its_place() {
        let stream = "stream: s\ndomain: d\nmax_event_bytes: 0\nenvelope: { type: type, time: at }\n";
        for (line, words) in [
            ("listeners: { http: nowhere }\n", "starmere.yaml:3:20: `nowhere` is not an address to listen on"),
            ("listeners: { flight: '0.0.0.0:1' }\n", "starmere.yaml:3:22: `0.0.0.0:1` can be reached from other"),
            (
                "sources: { a: { stream: s, files: 'x/[a' } }\n",
                "`x/[a` is not a pattern of files: unclosed character class",
            ),
            (
                "sources: { a: { stream: s, files: '${env:STARMERE_NOBODY}/a' } }\n",
                "starmere.yaml:3:35: the variable `STARMERE_NOBODY` is not set",
            ),
            ("listeners: { http: '${file:streams/s.yaml}' }\n", "is not an address to listen on"),
            ("listeners: { hosts: ['http://a'] }\n", "starmere.yaml:3:22: `http://a` is not the name of a host"),
            ("ingest_memory_mib: 8\n", "starmere.yaml:3:20: 8 MiB are too little memory"),
            ("build_memory_mib: 1\n", "starmere.yaml:3:19: 1 MiB are too little memory for builds"),
            ("queries: { slots: 0 }\n", "starmere.yaml:3:19: no query runs with 0 `slots`"),
            ("listeners: { gather_ms: 20000 }\n", "starmere.yaml:3:25: 20000 ms are too long to wait for an answer"),
            ("publish_every_seconds: 0\n", "starmere.yaml:3:24: builds are a second apart at least"),
            ("", "streams/s.yaml:3:18: no event has 0 bytes"),
        ] {
            let text = said(&[("starmere.yaml", &format!("{PROJECT}{line}")), ("streams/s.yaml", stream)]);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn users_may_do_what_is_declared() {
        let users = "users:\n  a: { password: '${env:PATH}' }\n  b: { password: '${env:PATH}', can: [post] }\n";
        let project = project(&[("starmere.yaml", &format!("{PROJECT}{users}"))]);
        let users = Project::load(project.path()).unwrap().users().unwrap();
        let rights: Vec<Rights> = users.iter().map(|(_, _, rights)| *rights).collect();
        assert_eq!(rights, [Rights::default(), Rights::of(&[Right::Post])]);
        let wrong = "users: { a: { password: '${env:PATH}', can: [everything] } }\n";
        let text = said(&[("starmere.yaml", &format!("{PROJECT}{wrong}"))]);
        assert!(text.contains("everything") && text.contains("operate"), "{text}");
    }

    #[test]
    fn a_source_must_fit_its_stream() {
        let kafka = "kafka: { brokers: 'b:1', topics: [t] }";
        for (stream, source, words) in [
            (
                "format: confluent\nenvelope: { type: type, time: at }",
                kafka,
                "the source `a` feeds `s`, whose payloads name their schemas, and names no `registry`",
            ),
            (
                "format: confluent\nenvelope: { type: type, time: at }",
                "files: in",
                "the source `a` feeds `s`, whose payloads come by Kafka only",
            ),
            ("envelope: { type: type, time: $timestamp }", "files: in", "files do not say that"),
            ("convention: outbox\nenvelope: {}", "files: in", "files do not say that"),
            (
                "format: csv\nconvention: cloudevents\nenvelope: {}",
                "files: in",
                "records of `csv` follow no `convention`",
            ),
            (
                "envelope: { type: type, time: at, tombstone: lost }\nevents: { left: { versions: { 1: { fields: {} } } } }",
                kafka,
                "`tombstone` names the event `lost`, which the stream does not describe",
            ),
        ] {
            let text = said(&[
                ("starmere.yaml", &format!("{PROJECT}sources: {{ a: {{ stream: s, {source} }} }}\n")),
                ("streams/s.yaml", &format!("stream: s\ndomain: d\n{stream}\n")),
            ]);
            assert!(text.contains(words), "{words}\n{text}");
        }
    }

    #[test]
    fn files_that_nobody_reads_are_told() {
        let text = said(&[
            ("starmere.yaml", PROJECT),
            ("domains/d/model/a.yaml", ""),
            ("domains/d/models/sub/b.yaml", ""),
            ("domains/d/product/c.yml", ""),
            ("streams/sub/e.yaml", ""),
            ("domains/d/.hidden.yaml", ""),
            ("models/f.yaml", ""),
            ("products/d/g.yaml", ""),
            ("domain/d/products/h.yaml", ""),
            ("stream/i.yaml", ""),
            ("tests/j.yaml", "test: of a domain\ngiven: []\n"),
            // What other programs have.
            ("tests/compose.yaml", "services: {}\n"),
            ("deploy/models/k.yaml", ""),
            ("compose.yaml", ""),
        ]);
        let of = |file: &str, what: &str| format!("{file}:1:1: is never read; {what}");
        for words in [
            "9 problems".to_owned(),
            of("models/f.yaml", "models are in domains/<domain>/models/*.yaml"),
            of("products/d/g.yaml", "products are in domains/<domain>/products/*.yaml"),
            of("domain/d/products/h.yaml", "products are in domains/<domain>/products/*.yaml"),
            of("stream/i.yaml", "streams are in streams/*.yaml"),
            of("tests/j.yaml", "tests are in domains/<domain>/tests/*.yaml"),
            of("domains/d/model/a.yaml", "models are in domains/<domain>/models/*.yaml"),
            of("domains/d/models/sub/b.yaml", "models are in domains/<domain>/models/*.yaml"),
            of("domains/d/product/c.yml", "products are in domains/<domain>/products/*.yaml"),
            of("streams/sub/e.yaml", "streams are in streams/*.yaml"),
        ] {
            assert!(text.contains(&words), "{words}\n{text}");
        }
    }

    #[tokio::test]
    async fn a_warehouse_may_be_a_reference() {
        let files = [("starmere.yaml", "project: p\nwarehouse: './${file:name}/a'\n"), ("name", "where\n")];
        let folder = project(&files);
        Project::load(folder.path()).unwrap().open(None).unwrap();
        assert!(folder.path().join("where/a").is_dir());
        assert!(!folder.path().join("${file:name}").exists());
    }

    #[test]
    fn numbers_addresses_and_paths_may_be_references() {
        let text = "project: ${file:name}\nwarehouse: ./warehouse\nsnapshot_days: ${file:days}\n\
                    ingest_memory_mib: \"${file:days}0\"\nlisteners: { http: '127.0.0.1:${file:days}' }\n\
                    sources: { a: { stream: s, files: '${file:name}/*.jsonl' } }\n\
                    users: { ana: { password: '${env:STARMERE_NOBODY}' } }\n";
        let stream = "stream: s\ndomain: d\nenvelope: { type: type, time: at }\n";
        let files = [("starmere.yaml", text), ("name", "7a\n"), ("days", "33"), ("streams/s.yaml", stream)];
        let folder = project(&files);
        let file = Project::load(folder.path()).unwrap().file;
        assert_eq!((file.project.as_str(), file.snapshot_days()), ("7a", 33));
        assert_eq!(file.ingest_memory_mib.map(|mib| mib.value), Some(330));
        assert_eq!(file.listeners.http.as_str(), "127.0.0.1:33");
        assert_eq!(file.sources["a"].files.as_deref(), Some("7a/*.jsonl"));
    }

    const STREAM: &str = "stream: s\ndomain: d\nenvelope: { type: type, time: at }\nevents:\n  \
        sold: { versions: { 1: { fields: { pieces: { type: int }, code: { type: string } } } } }\n";
    const FACT: &str = "fact: f\nfrom: { stream: s, event: sold }\ngrain: [code]\ndegenerate: { code: {} }\n";

    /// A project with two facts, one of which names variables.
    fn with_variables(variables: &str) -> tempfile::TempDir {
        let named = "fact: named\nfrom: { stream: s, event: sold }\nwhere: >\n  pieces > ${most}\n  OR code = '${code}'\n\
                     grain: [code]\ndegenerate: { code: {} }\nmeasures: { pieces: { type: '${kind}' } }\n";
        project(&[
            ("starmere.yaml", &format!("{PROJECT}{variables}")),
            ("streams/s.yaml", &format!("{STREAM}retention_days: ${{days}}\n")),
            ("domains/d/models/f.yaml", FACT),
            ("domains/d/models/named.yaml", named),
            ("most", "7\n"),
        ])
    }

    #[test]
    fn variables_are_part_of_what_names_them() {
        let read = |most: &str, days: u32| {
            let variables =
                format!("variables: {{ most: {most}, code: \"x: #1\", kind: int, days: {days}, other: {most} }}\n");
            Project::load(with_variables(&variables).path()).unwrap()
        };
        let prints = |project: &Project| {
            let models = project.models.models.iter().map(|model| model.fingerprint().to_owned());
            models.collect::<Vec<String>>()
        };
        let (first, other, longer) = (read("7", 400), read("8", 400), read("7", 401));
        assert_eq!(first.streams[0].definition.retention_days.as_ref().map(|days| days.value), Some(400));
        // Those of the fact that names it, and no other.
        let differ: Vec<bool> = prints(&first).iter().zip(prints(&other)).map(|(a, b)| *a != b).collect();
        let names: Vec<&str> = first.models.models.iter().map(|model| model.name().name.as_str()).collect();
        assert_eq!(names.into_iter().zip(differ).collect::<Vec<_>>(), [("f", false), ("named", true)]);
        assert_ne!(first.fingerprint, other.fingerprint);
        assert_eq!(prints(&first), prints(&longer));
        assert_ne!(first.fingerprint, longer.fingerprint);
        // How a variable comes by its value is no part of anything.
        assert_eq!(read("'${file:most}'", 400).fingerprint, first.fingerprint);
    }

    #[test]
    fn variables_that_are_wrong_are_told_once() {
        let said = |variables: &str| Project::load(with_variables(variables).path()).unwrap_err().to_string();
        let text = said("variables: { most: 7, code: x, kind: int }\n");
        let hint = "\n  hint: there are: `code`, `kind`, `most`";
        assert!(text.ends_with(&format!("streams/s.yaml:6:17: there is no variable `days`{hint}")), "{text}");
        assert!(text.starts_with("1 problem"), "{text}");
        // What cannot be filled in is not judged.
        let text = said("variables: { most: '', code: x, kind: int, days: 400 }\n");
        assert!(text.starts_with("1 problem") && text.contains("starmere.yaml:3:20: the variable `most`"), "{text}");
        let text = said("variables: { most: 7, code: x, kind: intt, days: 400 }\n");
        assert!(text.contains("domains/d/models/named.yaml:8:29: `intt` is not a type: did you mean `int`?"), "{text}");
    }

    #[test]
    fn variables_between_braces_are_in_quotes() {
        let fact = FACT.replace("code: {}", "code: { type: ${kind} }");
        let variables = format!("{PROJECT}variables: {{ kind: string }}\n");
        let files = [
            ("starmere.yaml", variables.as_str()),
            ("streams/s.yaml", STREAM),
            ("domains/d/models/f.yaml", fact.as_str()),
        ];
        let text = said(&files);
        assert!(text.contains("hint: between braces and brackets, write a text with ${ in quotes"), "{text}");
    }

    #[test]
    fn warehouses_of_unknown_kinds_and_broken_references_are_refused() {
        for right in [
            "warehouse",
            "/a/b",
            "file:///a",
            "memory://",
            "s3://bucket",
            "gs://bucket/x",
            "az://container",
            "${env:WH}",
            "s3://${env:B}/x",
        ] {
            assert_eq!(wrong_warehouse(right), None);
        }
        for wrong in [
            "",
            "ftp://bucket/x",
            "s3://",
            "gs://",
            "az:///x",
            "s3:///x",
            "${env:WH",
            "${WH}",
            "${env:}",
            "a/${vault:x}",
        ] {
            assert!(wrong_warehouse(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn only_loopback_is_listened_on_without_users() {
        for address in ["127.0.0.1:0", "[::1]:7070", "localhost:80"] {
            assert_eq!(wrong_listener(address, false), None);
        }
        assert!(wrong_listener("0.0.0.0:1", false).is_some());
        assert_eq!(wrong_listener("0.0.0.0:1", true), None);
        for address in ["", "7070", "127.0.0.1", "host:1", "127.0.0.1:99999"] {
            assert!(wrong_listener(address, true).is_some(), "{address}");
        }
    }

    #[test]
    fn webhooks_and_strict_streams_say_what_they_take() {
        let stream = "stream: s\ndomain: d\nenvelope: { type: type, time: at }\nstrict: true\n";
        let told = |main: &str, stream: &str| {
            let main = format!("{PROJECT}{main}");
            let project = project(&[("starmere.yaml", &main), ("streams/s.yaml", stream)]);
            Project::load(project.path()).err().map_or_else(String::new, |error| error.to_string())
        };
        assert!(
            told("", stream).contains("streams/s.yaml:1:9: a strict stream describes no event"),
            "{}",
            told("", stream)
        );
        let described = format!("{stream}events: {{ e: {{ versions: {{ 1: {{ fields: {{}} }} }} }} }}\n");
        assert_eq!(told("", &described), "");
        let webhook =
            |stream: &str| format!("webhooks: {{ {stream}: {{ verify: github, secrets: ['${{env:NOBODY}}'] }} }}\n");
        assert_eq!(told(&webhook("s"), &described), "", "secrets are looked up by whoever listens");
        assert!(told(&webhook("t"), &described).contains("there is no stream `t` for the webhook"));
    }
}
