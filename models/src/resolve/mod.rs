//! From definitions to models that can be built: names, types, SQL, order, fingerprints.
//!
//! Pure: all files are read before. Every mistake is collected, so that a user sees them at once; what depends on
//! something wrong is left out quietly, so that one mistake is told once.

mod derived;
mod dimension;
mod fact;
mod generated;
mod mentions;
mod origins;
mod stream;

pub(crate) use stream::{BUILT_IN, is_name};
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::define::{
    Additivity, DerivedFile, DimensionFile, FactFile, History, ModelFile, ModelName, Parsed, Place, Problem,
    SpecialMembers, StreamFile, suggestion,
};
use crate::dimension::{Dimension, Target};
use crate::events::{Event, Need, Stream};
use crate::fact::{AUDIT, ColumnKind, EVENT_STREAM, Fact};
use crate::generated::Generated;
use crate::sql_model::{PERIODIC, Shape, SqlModel};

/// A number that changes when our own code changes the meaning of a fold: then everything is built anew.
const FOLD: u32 = 11;
/// What a model's rows follow from has that number under this name.
pub const RULES: &str = "rules";

/// What a project's files say, of this room.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    pub streams: Vec<Parsed<StreamFile>>,
    /// With their domains.
    pub dimensions: Vec<(String, Parsed<DimensionFile>)>,
    pub facts: Vec<(String, Parsed<FactFile>)>,
    pub derived: Vec<(String, Parsed<DerivedFile>)>,
    /// Ports of products, by `domain.product_vN.port`.
    pub ports: BTreeMap<String, Port>,
}

/// What [`Model::kind`] may be: a snapshot with another one was published by a newer binary.
pub const KINDS: [&str; 16] = [
    "accumulating_snapshot",
    "allocation",
    "bands",
    "bridge",
    "calendar",
    "derived_fact",
    "dimension",
    "fact",
    "hierarchy",
    "ledger",
    "mini_dimension",
    PERIODIC,
    "rollup",
    "shrunken_dimension",
    "sql",
    "time_of_day",
];

/// What other domains see of a model.
#[derive(Clone, Debug)]
pub struct Port {
    pub model: ModelName,
    /// Its columns, and those of the model that they show.
    pub columns: Vec<(String, String)>,
}

/// Models that can be built.
#[derive(Clone, Debug, Default)]
pub struct Models {
    pub streams: BTreeMap<String, Arc<Stream>>,
    /// Dimensions before the facts that refer to them.
    pub models: Vec<Model>,
    /// What is not wrong, but should be known.
    pub notes: Vec<Problem>,
}

impl Definitions {
    /// Adds a model of `domain`.
    pub fn add(&mut self, domain: &str, model: ModelFile) {
        match model {
            ModelFile::Dimension(file) => self.dimensions.push((domain.to_owned(), *file)),
            ModelFile::Fact(file) => self.facts.push((domain.to_owned(), file)),
            ModelFile::Derived(file) => self.derived.push((domain.to_owned(), file)),
        }
    }
}

impl Models {
    /// The model `name`.
    pub fn get(&self, name: &ModelName) -> Option<&Model> {
        self.models.iter().find(|model| model.name() == name)
    }
}

/// A model.
#[derive(Clone, Debug)]
pub enum Model {
    Generated(GeneratedModel),
    Dimension(Arc<Dimension>),
    Fact(Arc<Fact>),
    Sql(Arc<SqlModel>),
}

/// A dimension that needs no events.
#[derive(Clone, Debug)]
pub struct GeneratedModel {
    pub name: ModelName,
    pub description: Option<String>,
    pub generated: Arc<Generated>,
    pub members: SpecialMembers,
    pub fingerprint: String,
}

impl Model {
    /// Its name.
    pub fn name(&self) -> &ModelName {
        match self {
            Self::Generated(model) => &model.name,
            Self::Dimension(dimension) => &dimension.name,
            Self::Fact(fact) => &fact.name,
            Self::Sql(model) => &model.name,
        }
    }

    /// What it is, in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Generated(model) => model.generated.kind(),
            Self::Dimension(_) => "dimension",
            Self::Fact(_) => "fact",
            Self::Sql(model) => model.kind,
        }
    }

    /// What it means, in its definition's words.
    pub fn description(&self) -> Option<&str> {
        match self {
            Self::Generated(model) => model.description.as_deref(),
            Self::Dimension(dimension) => dimension.description.as_deref(),
            Self::Fact(fact) => fact.description.as_deref(),
            Self::Sql(model) => model.description.as_deref(),
        }
    }

    /// What the rows depend on, as a digest.
    pub fn fingerprint(&self) -> &str {
        match self {
            Self::Generated(model) => &model.fingerprint,
            Self::Dimension(dimension) => &dimension.fingerprint,
            Self::Fact(fact) => &fact.fingerprint,
            Self::Sql(model) => &model.fingerprint,
        }
    }

    /// The columns of its rows.
    pub fn schema(&self) -> arrow::datatypes::SchemaRef {
        match self {
            Self::Generated(model) => model.generated.schema(&model.name.name),
            Self::Dimension(dimension) => dimension.schema(),
            Self::Fact(fact) => fact.schema(),
            Self::Sql(model) => model.schema(),
        }
    }

    /// What makes it a fact, where it is one.
    pub fn shape(&self) -> Option<Shape> {
        match self {
            Self::Generated(_) | Self::Dimension(_) => None,
            Self::Sql(model) => model.shape.clone(),
            Self::Fact(fact) => Some(Shape {
                roles: fact.roles.iter().map(|role| (role.name.clone(), role.target.shown().clone())).collect(),
                measures: fact
                    .columns
                    .iter()
                    .filter_map(|column| match column.kind {
                        ColumnKind::Measure(additive) => Some((column.name.clone(), additive)),
                        ColumnKind::Degenerate => None,
                    })
                    .collect(),
            }),
        }
    }

    /// Columns that tell its rows apart, where it is a fact or a SQL model.
    pub fn grain(&self) -> &[String] {
        match self {
            Self::Generated(_) | Self::Dimension(_) => &[],
            Self::Fact(fact) => &fact.grain,
            Self::Sql(model) => &model.grain,
        }
    }

    /// What a column of its rows is for, and what its definition says of it. Catalogs keep what it is for: in other words, it
    /// would be told as a change of what published ports mean.
    pub fn column(&self, name: &str) -> (Option<String>, Option<String>) {
        let measure = |additive: Additivity| match additive {
            Additivity::Full => "measure, additive",
            Additivity::Semi => "measure, semi-additive",
            Additivity::None => "measure, not additive",
        };
        let of_shape = |shape: &Shape| {
            let role = shape.roles.iter().find_map(|(role, dimension)| match name.strip_prefix(role.as_str())? {
                "_key" => Some(format!("key of {dimension}")),
                "_durable_key" => Some(format!("durable key of {dimension}")),
                _ => None,
            });
            let own = shape.measures.iter().find(|(own, _)| own == name);
            role.or_else(|| own.map(|(_, additive)| measure(*additive).to_owned()))
        };
        let own = &self.name().name;
        let key = || match name.strip_prefix(own.as_str()) {
            Some("_key") => Some("key".to_owned()),
            Some("_durable_key") => Some("durable key".to_owned()),
            _ => None,
        };
        match self {
            Self::Generated(_) => (key().or_else(|| Some("attribute".to_owned())), None),
            Self::Dimension(dimension) => {
                let attribute = dimension.attributes.iter().find(|attribute| {
                    attribute.name == name
                        || attribute.beside.iter().any(|beside| beside.column(&attribute.name) == name)
                });
                let is_natural = dimension.key.iter().any(|(key, _)| key == name);
                let reference = dimension.references.iter().find(|of| of.durable_column() == name);
                let version = dimension.references.iter().find(|of| of.as_of_version && of.key_column() == name);
                let mini = dimension.minis.iter().find(|mini| mini.column() == name);
                let means = match (
                    attribute,
                    reference.map(|of| ("durable key", of)).or(version.map(|of| ("key", of))),
                    mini,
                ) {
                    (Some(attribute), ..) => Some(match attribute.history {
                        History::Keep => "attribute, first value".to_owned(),
                        History::Overwrite => "attribute, latest value".to_owned(),
                        History::Version if attribute.name == name => "attribute, with history".to_owned(),
                        History::Version => "attribute, beside its history".to_owned(),
                    }),
                    (_, Some((key, of)), _) => Some(format!("{key} of {}", of.target)),
                    (.., Some(mini)) => Some(format!("key of {}", mini.name)),
                    _ if is_natural => Some("natural key".to_owned()),
                    _ => key().or_else(|| Some("validity".to_owned())),
                };
                (means, attribute.and_then(|attribute| attribute.description.clone()))
            }
            Self::Fact(fact) => {
                let column = fact.columns.iter().find(|column| column.name == name);
                let role = fact.roles.iter().find(|role| role.key_column() == name);
                let means = self.shape().as_ref().and_then(of_shape).or_else(|| match column {
                    Some(_) => Some("degenerate dimension".to_owned()),
                    None => Some("event".to_owned()),
                });
                let description = column.and_then(|column| column.description.clone());
                (means, description.or_else(|| role.and_then(|role| role.description.clone())))
            }
            Self::Sql(model) => {
                let column = model.columns.iter().find(|column| column.name == name);
                let means = key().or_else(|| model.shape.as_ref().and_then(of_shape));
                let own = || {
                    let of_event = ["occurred_at", "event_id", "ordinal", EVENT_STREAM].contains(&name);
                    let is_audit = AUDIT.iter().any(|(audit, _)| *audit == name);
                    let words = match model.kind {
                        PERIODIC if ["period_from", "period_to"].contains(&name) => "period",
                        "accumulating_snapshot" if !model.grain.iter().any(|grain| grain == name) => "milestone",
                        "shrunken_dimension" | "mini_dimension" => "attribute",
                        "hierarchy" if name.ends_with("_durable_key") => {
                            return model.inputs().first().map(|of| format!("durable key of {of}"));
                        }
                        "hierarchy" => "hierarchy",
                        _ if model.grain.iter().any(|grain| grain == name) => "grain",
                        _ if model.shape.is_some() && (of_event || is_audit) => "event",
                        "derived_fact" | "ledger" | "allocation" => "degenerate dimension",
                        _ => return None,
                    };
                    Some(words.to_owned())
                };
                (means.or_else(own), column.and_then(|column| column.description.clone()))
            }
        }
    }

    /// What its rows follow from: its definition, the events that it reads, and the names of its inputs.
    pub fn made_by(&self) -> serde_json::Value {
        let (mut made_by, events) = match self {
            Self::Generated(model) => {
                (serde_json::json!({ "generated": model.generated.as_ref(), "members": model.members }), Vec::new())
            }
            Self::Dimension(dimension) => {
                let sources = dimension.sources.iter();
                let events = sources.map(|source| (&source.stream, &source.definition, &source.need));
                (dimension.definition.clone(), events.collect())
            }
            Self::Fact(fact) => {
                let sources = fact.sources.iter();
                let events = sources.map(|source| (&source.stream, &source.definition, &source.need));
                (fact.definition.clone(), events.collect())
            }
            Self::Sql(model) => (model.definition.clone(), Vec::new()),
        };
        // Of an event that says several things, all that is read.
        let mut needs: BTreeMap<String, (&Event, Need)> = BTreeMap::new();
        for (stream, event, need) in events {
            let (_, all) = needs.entry(format!("{stream}.{}", event.name)).or_insert((event, Need::default()));
            all.fields.extend(need.fields.iter().cloned());
            all.each = all.each.take().or_else(|| need.each.clone());
        }
        let events = needs.into_iter().map(|(name, (event, need))| (name, need.of(event).as_written()));
        // Of a query, what the ports that it reads show stands beside it.
        if let Some([query, shown, _]) = made_by.as_array().map(Vec::as_slice) {
            made_by = serde_json::json!({ "query": query, "tables": shown });
        }
        if let Some(made_by) = made_by.as_object_mut() {
            made_by.insert("events".to_owned(), events.collect::<serde_json::Map<_, _>>().into());
            made_by.insert("inputs".to_owned(), self.inputs().into_iter().map(ToString::to_string).collect());
            made_by.insert(RULES.to_owned(), FOLD.into());
        }
        made_by
    }

    /// The events that it reads, as they are written now, with the fields that `made_by` says were read of them.
    pub fn events_within(&self, made_by: &serde_json::Value) -> serde_json::Value {
        let events: Vec<(&String, &Event)> = match self {
            Self::Dimension(dimension) => {
                dimension.sources.iter().map(|source| (&source.stream, &source.definition)).collect()
            }
            Self::Fact(fact) => fact.sources.iter().map(|source| (&source.stream, &source.definition)).collect(),
            Self::Generated(_) | Self::Sql(_) => Vec::new(),
        };
        let written = events.into_iter().filter_map(|(stream, event)| {
            let name = format!("{stream}.{}", event.name);
            let read = made_by["events"].get(&name)?;
            Some((name, Need::written(read).of(event).as_written()))
        });
        written.collect::<serde_json::Map<_, _>>().into()
    }

    /// The columns that tell its rows apart, a dimension's members: those that people know them by.
    pub fn told_apart_by(&self) -> Vec<String> {
        match self {
            Self::Dimension(dimension) => dimension.key.iter().map(|(name, _)| name.clone()).collect(),
            Self::Generated(generated) => vec![format!("{}_key", generated.name.name)],
            Self::Fact(_) | Self::Sql(_) => self.grain().to_vec(),
        }
    }

    /// The streams that it reads, by name.
    pub fn streams(&self) -> BTreeSet<&str> {
        match self {
            Self::Generated(_) | Self::Sql(_) => BTreeSet::new(),
            Self::Dimension(dimension) => dimension.streams(),
            Self::Fact(fact) => fact.streams(),
        }
    }

    /// The models whose tables it reads.
    pub fn inputs(&self) -> BTreeSet<&ModelName> {
        match self {
            Self::Generated(_) => BTreeSet::new(),
            Self::Dimension(dimension) => dimension.inputs(),
            Self::Fact(fact) => fact.inputs(),
            Self::Sql(model) => model.inputs(),
        }
    }
}

/// Resolves all definitions, or tells everything that is wrong.
pub fn resolve(definitions: &Definitions) -> Result<Models, Vec<Problem>> {
    let mut resolving = Resolving {
        definitions,
        problems: Vec::new(),
        notes: Vec::new(),
        models: Models::default(),
        minis: BTreeMap::new(),
    };
    resolving.names();
    resolving.streams();
    resolving.generated();
    resolving.dimensions();
    resolving.facts();
    resolving.inferences();
    resolving.cycles();
    resolving.mini_dimensions();
    resolving.derived();
    resolving.fingerprints();
    resolving.mentions();
    resolving.unread();
    let Resolving { mut problems, notes, mut models, .. } = resolving;
    if problems.is_empty() {
        models.notes = notes;
        return Ok(models);
    }
    problems.sort();
    problems.dedup();
    Err(problems)
}

struct Resolving<'a> {
    definitions: &'a Definitions,
    problems: Vec<Problem>,
    notes: Vec<Problem>,
    models: Models,
    /// Mini-dimensions: the dimension with their history, and the one that they are of.
    minis: BTreeMap<ModelName, (ModelName, ModelName)>,
}

impl Resolving<'_> {
    fn problem(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Names are of the right form, and nothing is named twice.
    fn names(&mut self) {
        let mut seen: BTreeMap<String, Place> = BTreeMap::new();
        let mut all = Vec::new();
        for parsed in &self.definitions.streams {
            let domain = &parsed.definition.domain;
            self.problems.extend(check_domain(domain, &domain.place(&parsed.file)));
            for reader in &parsed.definition.readers {
                self.problems.extend(check_domain(reader, &reader.place(&parsed.file)));
            }
            all.push((
                format!("stream `{}`", *parsed.definition.stream),
                parsed.definition.stream.clone(),
                parsed.file.clone(),
            ));
        }
        for (domain, parsed) in &self.definitions.dimensions {
            let name = &parsed.definition.dimension;
            all.push((format!("model `{domain}.{}`", **name), name.clone(), parsed.file.clone()));
        }
        for (domain, parsed) in &self.definitions.facts {
            let name = &parsed.definition.fact;
            all.push((format!("model `{domain}.{}`", **name), name.clone(), parsed.file.clone()));
        }
        for (domain, parsed) in &self.definitions.derived {
            let name = parsed.definition.name();
            all.push((format!("model `{domain}.{}`", **name), name.clone(), parsed.file.clone()));
        }
        for (what, name, file) in all {
            let place = name.place(&file);
            if let Some(problem) = check_name(&name, &place) {
                self.problem(problem);
            }
            if let Some(first) = seen.insert(what.clone(), place.clone()) {
                self.problem(
                    Problem::new(place, format!("{what} is defined twice")).hint(format!("it is also at {first}")),
                );
            }
        }
    }

    /// The dimension that `reference` means, in a definition of `domain`: a model of the domain, or a port.
    fn dimension_name(&mut self, domain: &str, reference: &str, place: &Place) -> Option<ModelName> {
        let parts: Vec<&str> = reference.split('.').collect();
        match parts.as_slice() {
            [name] => Some(ModelName::new(domain, name)),
            [_, _, _] => self.model_behind(reference, place),
            [other, name] if *other == domain => Some(ModelName::new(domain, name)),
            _ => {
                let hint = "another domain's dimension is named by its port: domain.product_vN.port";
                self.problem(
                    Problem::new(place.clone(), format!("`{reference}` names no dimension of this domain")).hint(hint),
                );
                None
            }
        }
    }

    /// The model behind the port `reference`.
    fn model_behind(&mut self, reference: &str, place: &Place) -> Option<ModelName> {
        let model = self.definitions.ports.get(reference).map(|port| port.model.clone());
        if model.is_none() {
            let hint = suggestion(reference, self.definitions.ports.keys().map(String::as_str));
            self.problem(Problem::new(place.clone(), format!("there is no port `{reference}`")).hint(hint));
        }
        model
    }

    /// Tells that there is no dimension `name`; quiet where it is defined but wrong.
    fn no_dimension(&mut self, name: &ModelName, place: Place) {
        let defined =
            |(domain, parsed): &(String, Parsed<DimensionFile>)| ModelName::new(domain, &parsed.definition.dimension);
        if self.definitions.dimensions.iter().any(|dimension| defined(dimension) == *name) {
            return;
        }
        let of_domain = self.definitions.dimensions.iter().filter(|(domain, _)| *domain == name.domain);
        let names: Vec<String> = of_domain.map(|(_, parsed)| parsed.definition.dimension.to_string()).collect();
        let hint = suggestion(&name.name, names.iter().map(String::as_str));
        self.problem(Problem::new(place, format!("there is no dimension `{name}`")).hint(hint));
    }

    fn fingerprints(&mut self) {
        let streams = self.models.streams.clone();
        let event_of = |stream: &str, event: &Event, need: &Need| {
            let stream = streams.get(stream);
            // Paths beside the payload change what a path to all of it leads to, whoever has them.
            let is_beside = stream.is_some_and(|stream| stream.paths().any(|path| path.starts_with('$')));
            let format = stream.map(|stream| &stream.format);
            serde_json::to_value((format, is_beside, need.of(event))).unwrap_or_default()
        };
        let facts: BTreeMap<ModelName, Arc<Fact>> = self
            .models
            .models
            .iter()
            .filter_map(|model| match model {
                Model::Fact(fact) => Some((fact.name.clone(), fact.clone())),
                _ => None,
            })
            .collect();
        let dimensions: BTreeMap<ModelName, Arc<Dimension>> = self
            .models
            .models
            .iter()
            .filter_map(|model| match model {
                Model::Dimension(dimension) => Some((dimension.name.clone(), dimension.clone())),
                _ => None,
            })
            .collect();
        let own_fact = |fact: &Fact| {
            let sources = fact.sources.iter();
            let events = sources.map(|source| event_of(&source.stream, &source.definition, &source.need));
            // Keys are made of whom they are of, and of values of the types of these.
            let roles = fact.roles.iter().map(|role| match &role.target {
                Target::Generated { name, generated } => serde_json::json!([name.to_string(), generated.key_type()]),
                target @ Target::Dimension { name, key_types, shown, junk, .. } => {
                    let shown = shown.as_ref().map(ToString::to_string);
                    serde_json::json!([name.to_string(), key_types, shown, junk, target.is_looked_up()])
                }
            });
            std::iter::once(fact.definition.clone()).chain(events).chain(roles).collect::<Vec<_>>()
        };
        let own_dimension = |dimension: &Dimension| {
            let mut parts = vec![dimension.definition.clone()];
            let references = dimension.references.iter();
            parts.extend(references.map(|of| serde_json::json!([of.target.to_string(), of.key_types])));
            let sources = dimension.sources.iter();
            parts.extend(sources.map(|source| event_of(&source.stream, &source.definition, &source.need)));
            parts
        };
        // What its table follows from, parents aside.
        let with_mentions = |dimension: &Dimension| {
            let mut parts = own_dimension(dimension);
            for inference in &dimension.inferred_from {
                parts.extend(facts.get(inference).map(|fact| mentions::of_fact(fact, &dimension.name, &event_of)));
                let child = dimensions.get(inference);
                parts.extend(child.map(|child| mentions::of_child(child, &dimension.name, &event_of)));
            }
            parts
        };
        let mut known: BTreeMap<ModelName, String> = BTreeMap::new();
        for model in &mut self.models.models {
            let name = model.name().clone();
            let mut parts = vec![serde_json::json!([FOLD, name.to_string(), model.kind()])];
            match model {
                Model::Generated(model) => {
                    parts.push(serde_json::to_value((model.generated.as_ref(), &model.members)).unwrap_or_default());
                }
                Model::Dimension(dimension) => {
                    parts.extend(with_mentions(dimension));
                    // Circles are told of already.
                    let mut above: Vec<&ModelName> = dimension.inputs().into_iter().collect();
                    let mut seen = BTreeSet::new();
                    while let Some(parent) = above.pop() {
                        if let Some(parent) = dimensions.get(parent).filter(|parent| seen.insert(parent.name.clone())) {
                            parts.extend(with_mentions(parent));
                            above.extend(parent.inputs());
                        }
                    }
                }
                Model::Fact(fact) => {
                    parts.extend(own_fact(fact));
                    // Which days and bands there are decides which keys there are.
                    parts.extend(fact.roles.iter().filter_map(|role| match &role.target {
                        Target::Generated { generated, .. } => serde_json::to_value(generated.as_ref()).ok(),
                        Target::Dimension { .. } => None,
                    }));
                    parts.extend(
                        fact.inputs().iter().filter_map(|input| known.get(*input)).map(|print| print.as_str().into()),
                    );
                }
                Model::Sql(model) => {
                    parts.push(model.definition.clone());
                    parts.extend(
                        model.inputs().iter().filter_map(|input| known.get(*input)).map(|print| print.as_str().into()),
                    );
                }
            }
            let fingerprint = digest(&parts);
            known.insert(name, fingerprint.clone());
            match model {
                Model::Generated(model) => model.fingerprint = fingerprint,
                Model::Dimension(dimension) => Arc::make_mut(dimension).fingerprint = fingerprint,
                Model::Fact(fact) => Arc::make_mut(fact).fingerprint = fingerprint,
                Model::Sql(model) => Arc::make_mut(model).fingerprint = fingerprint,
            }
        }
    }

    /// Hands each dimension the models that may make its members, with the fingerprints that their tables have.
    fn mentions(&mut self) {
        let all = self.models.models.clone();
        for model in &mut self.models.models {
            let Model::Dimension(dimension) = model else { continue };
            let dimension = Arc::make_mut(dimension);
            let named = |model: &&Model| dimension.inferred_from.contains(model.name());
            dimension.mentions = all.iter().filter(named).cloned().collect();
        }
    }

    /// Streams that nothing reads, and readers that do not read, are allowed, and told.
    fn unread(&mut self) {
        let domains: BTreeSet<&str> = self.models.models.iter().map(|model| model.name().domain.as_str()).collect();
        for parsed in &self.definitions.streams {
            let stream = &parsed.definition.stream;
            for reader in &parsed.definition.readers {
                let mut own = self.models.models.iter().filter(|model| model.name().domain == reader.value);
                if own.any(|model| model.streams().contains(stream.as_str())) {
                    continue;
                }
                let message = format!(
                    "the domain `{}` may read the stream `{}`, and no model of it does",
                    reader.value, stream.value
                );
                let near = match domains.contains(reader.as_str()) {
                    true => String::new(),
                    false => suggestion(reader, domains.iter().copied()),
                };
                self.notes.push(Problem::new(reader.place(&parsed.file), message).hint(near));
            }
        }
        let read: BTreeSet<&str> = self.models.models.iter().flat_map(Model::streams).collect();
        for parsed in &self.definitions.streams {
            if !read.contains(parsed.definition.stream.as_str()) {
                let place = parsed.definition.stream.place(&parsed.file);
                self.notes
                    .push(Problem::new(place, format!("no model reads the stream `{}`", *parsed.definition.stream)));
            }
        }
    }
}

/// A domain is a catalog in SQL, beside our own.
pub fn check_domain(name: &str, place: &Place) -> Option<Problem> {
    if ["lake", "work", "system"].contains(&name) {
        let hint = "queries find raw events in `lake`, models in `work`, and what Starmere knows of itself in `system`";
        return Some(Problem::new(place.clone(), format!("`{name}` cannot be the name of a domain")).hint(hint));
    }
    check_name(name, place)
}

/// Names are lower-case, so that nobody has to quote them.
pub fn check_name(name: &str, place: &Place) -> Option<Problem> {
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.len() <= 63
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    (!good).then(|| {
        let hint = "write lower-case letters, digits and `_`, beginning with a letter, up to 63";
        Problem::new(place.clone(), format!("`{name}` is not a name")).hint(hint)
    })
}

/// What goes on for pages, by its beginning.
pub(crate) fn beginning(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// So many columns, in words.
fn columns(count: usize) -> String {
    match count {
        1 => "1 column".to_owned(),
        count => format!("{count} columns"),
    }
}

/// Keys of definitions below which names are the user's.
const NAMED_BY_USERS: [&str; 9] = ["set", "rules", "by", "values", "key", "junk", "mini", "dimensions", "references"];

/// Whether the value of a definition's `key`, below the key `of`, is words for people, on which no row depends: a description,
/// unless somebody has named a column so.
pub fn is_words(of: &str, key: &str, value: &serde_json::Value) -> bool {
    key == "description" && !NAMED_BY_USERS.contains(&of) && (value.is_string() || value.is_null())
}

/// A digest of definitions; what only people read is left out.
fn digest(parts: &[serde_json::Value]) -> String {
    fn without_words(of: &str, value: &serde_json::Value) -> serde_json::Value {
        match value {
            serde_json::Value::Object(map) => map
                .iter()
                .filter(|(key, value)| !is_words(of, key, value))
                .map(|(key, value)| (key.clone(), without_words(key, value)))
                .collect(),
            serde_json::Value::Array(values) => values.iter().map(|value| without_words(of, value)).collect(),
            other => other.clone(),
        }
    }
    let mut hash = Sha256::new();
    for part in parts {
        let text = without_words("", part).to_string();
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex::encode(&hash.finalize()[..8])
}
