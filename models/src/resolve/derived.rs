//! Resolving models that are made of other models: each becomes a SELECT.
//!
//! What they read, what their rows look like, in which order they are built.

mod accumulating;
mod allocation;
mod derived_fact;
mod hierarchy;
mod ledger;
mod periodic;
mod rollup;
mod shrunken;
mod star;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::TableReference;
use indexmap::IndexMap;

use super::{Model, Resolving, beginning, check_name};
use crate::define::{
    DerivedFile, FieldType, ModelName, Parsed, Place, Placed, Problem, SqlColumnFile, SqlFile, suggestion,
};
use crate::fact::Role;
use crate::sql_model::{LookUp, Query, Scanned, Shape, Source, SqlColumn, SqlModel, Strategy, Text, table_names};

/// A model and what it reads, while its turn has not come.
struct Waiting<'a> {
    name: ModelName,
    parsed: &'a Parsed<DerivedFile>,
    /// Of SQL: the tables that it names.
    tables: Vec<(TableReference, ModelName)>,
    reads: BTreeSet<ModelName>,
}

/// A SELECT that is a model.
struct Select {
    name: ModelName,
    /// What it is declared as.
    kind: &'static str,
    description: Option<String>,
    definition: serde_json::Value,
    text: Text,
    place: Place,
    sources: Vec<Source>,
    grain: Vec<String>,
    grain_place: Place,
    /// What columns mean, and where that is said.
    columns: IndexMap<String, (Option<String>, Place)>,
    shape: Option<Shape>,
    look_ups: Vec<LookUp>,
}

impl Resolving<'_> {
    /// Those first that read nothing else that waits.
    pub(super) fn derived(&mut self) {
        let definitions = self.definitions;
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        for (domain, parsed) in &definitions.derived {
            let name = ModelName::new(domain, parsed.definition.name());
            let tables = match &parsed.definition {
                DerivedFile::Sql(file) => match self.names_of(&name, file, &parsed.file) {
                    Some(tables) => tables,
                    None => continue,
                },
                _ => Vec::new(),
            };
            let mut reads: BTreeSet<ModelName> = tables.iter().map(|(_, model)| model.clone()).collect();
            reads.extend(parsed.definition.of().into_iter().map(|of| self.named(domain, of)));
            waiting.push(Waiting { name, parsed, tables, reads });
        }
        loop {
            let names: BTreeSet<ModelName> = waiting.iter().map(|waiting| waiting.name.clone()).collect();
            let (ready, rest): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|waiting| waiting.reads.is_disjoint(&names));
            waiting = rest;
            if ready.is_empty() {
                break;
            }
            for ready in ready {
                let before = self.problems.len();
                let model = self.select_of(&ready).filter(|_| self.problems.len() == before);
                let model = model.and_then(|select| self.select(select));
                if let (Some(model), true) = (model, self.problems.len() == before) {
                    self.models.models.push(Model::Sql(Arc::new(model)));
                }
            }
        }
        // What is left waits for itself, or for what does.
        let names: BTreeSet<ModelName> = waiting.iter().map(|waiting| waiting.name.clone()).collect();
        if let Some(first) = waiting.first() {
            let place = match &first.parsed.definition {
                DerivedFile::Sql(file) => file.select.place(&first.parsed.file),
                other => other.name().place(&first.parsed.file),
            };
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            self.problem(Problem::new(place, format!("models that read each other: {}", names.join(", "))));
        }
    }

    /// The SELECT that a model is.
    fn select_of(&mut self, waiting: &Waiting<'_>) -> Option<Select> {
        let (name, file_name) = (&waiting.name, waiting.parsed.file.as_str());
        match &waiting.parsed.definition {
            DerivedFile::Sql(file) => self.sql(name, file, &waiting.tables, file_name),
            DerivedFile::Rollup(file) => self.rollup(name, file, file_name),
            DerivedFile::DerivedFact(file) => self.derived_fact(name, file, file_name),
            DerivedFile::Periodic(file) => self.periodic(name, file, file_name),
            DerivedFile::Accumulating(file) => self.accumulating(name, file, file_name),
            DerivedFile::Ledger(file) => self.ledger(name, file, file_name),
            DerivedFile::Allocation(file) => self.allocation(name, file, file_name),
            DerivedFile::Bridge(file) => self.bridge(name, file, file_name),
            DerivedFile::Shrunken(file) => self.shrunken(name, file, file_name),
            DerivedFile::Hierarchy(file) => self.hierarchy(name, file, file_name),
        }
    }

    /// The model that `text` names in a definition of `domain`, if there is one; nothing is told.
    fn named(&self, domain: &str, text: &str) -> ModelName {
        if let Some(port) = self.definitions.ports.get(text) {
            return port.model.clone();
        }
        match text.split_once('.') {
            Some((of, name)) => ModelName::new(of, name),
            None => ModelName::new(domain, text),
        }
    }

    /// The models behind the tables that a SELECT names.
    fn names_of(
        &mut self,
        own: &ModelName,
        file: &SqlFile,
        file_name: &str,
    ) -> Option<Vec<(TableReference, ModelName)>> {
        let place = file.select.place(file_name);
        let references = match table_names(&file.select) {
            Ok(references) => references,
            Err(reason) => {
                self.problem(Problem::new(place, format!("`select`: {}", beginning(&reason, 500))));
                return None;
            }
        };
        if references.is_empty() {
            self.problem(Problem::new(place, "`select` reads no model").hint("name one after FROM"));
            return None;
        }
        let mut names = Vec::new();
        for reference in references {
            let name = self.table_name(&own.domain, &reference.to_string(), &place)?;
            if !self.is_defined(&name) {
                let all = self.names_in(&own.domain);
                let hint = suggestion(&name.name, all.iter().map(String::as_str));
                self.problem(Problem::new(place.clone(), format!("there is no model `{name}`")).hint(hint));
                return None;
            }
            names.push((reference, name));
        }
        Some(names)
    }

    /// The model that a table's name means, in a definition of `domain`: a model of the domain, or a port.
    fn table_name(&mut self, domain: &str, reference: &str, place: &Place) -> Option<ModelName> {
        let parts: Vec<&str> = reference.split('.').collect();
        match parts.as_slice() {
            [name] => Some(ModelName::new(domain, name)),
            [other, name] if *other == domain => Some(ModelName::new(domain, name)),
            ["lake", ..] => {
                let hint = "declare a fact or a dimension of its events";
                let message = format!("`{reference}` has raw events, which SQL models do not read");
                self.problem(Problem::new(place.clone(), message).hint(hint));
                None
            }
            ["work", ..] => {
                let hint =
                    "name a model of this domain alone, and another domain's by its port: domain.product_vN.port";
                let message = format!("`{reference}` is a name for queries, and not for definitions");
                self.problem(Problem::new(place.clone(), message).hint(hint));
                None
            }
            [_, _, _] => self.model_behind(reference, place),
            _ => {
                let hint = "another domain's models are named by their ports: domain.product_vN.port";
                let message = format!("`{reference}` names no model of this domain");
                self.problem(Problem::new(place.clone(), message).hint(hint));
                None
            }
        }
    }

    fn names_in(&self, domain: &str) -> Vec<String> {
        let definitions = self.definitions;
        let dimensions = definitions.dimensions.iter().map(|(of, file)| (of, file.definition.dimension.to_string()));
        let facts = definitions.facts.iter().map(|(of, file)| (of, file.definition.fact.to_string()));
        let derived = definitions.derived.iter().map(|(of, file)| (of, file.definition.name().to_string()));
        dimensions.chain(facts).chain(derived).filter(|(of, _)| *of == domain).map(|(_, name)| name).collect()
    }

    pub(super) fn is_defined(&self, name: &ModelName) -> bool {
        self.names_in(&name.domain).contains(&name.name)
    }

    fn sql(
        &mut self,
        name: &ModelName,
        file: &SqlFile,
        tables: &[(TableReference, ModelName)],
        file_name: &str,
    ) -> Option<Select> {
        let mut sources = Vec::new();
        for (reference, model) in tables {
            // One that is defined and is not there is wrong itself, and was told of.
            let schema = self.models.get(model)?.schema();
            let port = self.definitions.ports.get(&reference.to_string());
            let columns = port.map(|port| port.columns.clone());
            sources.push(Source { reference: reference.clone(), model: model.clone(), schema, columns });
        }
        let described = |(column, file): (&String, &Placed<SqlColumnFile>)| {
            (column.clone(), (file.description.clone(), file.place(file_name)))
        };
        Some(Select {
            name: name.clone(),
            kind: "sql",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: Text::Users(file.select.to_string()),
            place: file.select.place(file_name),
            sources,
            grain: file.grain.0.clone(),
            grain_place: file.grain.place(file_name),
            columns: file.columns.iter().map(described).collect(),
            shape: None,
            look_ups: Vec::new(),
        })
    }

    /// Whether a fact's column has keys of versions that the dimension had when it was keyed, in the dimension's column.
    fn is_keyed_by(&self, fact: &Scanned, dimension: &Scanned) -> bool {
        let (Some(Model::Fact(of)), Some(Model::Dimension(to))) =
            (self.models.get(&fact.model), self.models.get(&dimension.model))
        else {
            return false;
        };
        let is_role = |role: &Role| {
            role.key_column() == fact.column && role.target.is_looked_up() && *role.target.name() == to.name
        };
        dimension.column == format!("{}_key", to.name.name) && of.roles.iter().any(is_role)
    }

    /// The model that a SELECT is.
    fn select(&mut self, select: Select) -> Option<SqlModel> {
        let Select { name, place, grain, grain_place, .. } = select;
        let mut query = match Query::new(&select.text, &select.sources, &grain) {
            Ok(query) => query,
            Err(reason) => {
                let message = match (select.kind, twice(&reason)) {
                    ("sql", _) => format!("`select`: {}", beginning(&reason, 500)),
                    (_, Some(name)) => format!("two columns have the name `{name}`"),
                    (kind, None) => format!("{kind}: {}", beginning(&reason, 500)),
                };
                self.problem(Problem::new(place, message));
                return None;
            }
        };
        if let Strategy::ByKey(by_key) = &mut query.strategy {
            by_key.know_keys(|dimension, fact| self.is_keyed_by(fact, dimension));
        }
        let is_closure = select.kind == "hierarchy";
        if is_closure {
            query.strategy = Strategy::Whole("who is above a member is above all below it".to_owned());
        }
        let mut columns: Vec<SqlColumn> = Vec::new();
        for (column, data_type) in query.columns() {
            if let Some(problem) = check_name(&column, &place) {
                let hint = format!("write `… AS name` behind `{column}`");
                self.problem(if select.kind == "sql" { problem.hint(hint) } else { problem });
                continue;
            }
            if columns.iter().any(|other| other.name == column) {
                self.problem(Problem::new(place.clone(), format!("the model has two columns `{column}`")));
                continue;
            }
            let Some(field_type) = FieldType::of(&data_type) else {
                let own = FieldType::name_of(&data_type);
                let message = format!("the column `{column}` is {own}, which no table has");
                self.problem(Problem::new(place.clone(), message).hint("cast it to a type that tables have"));
                continue;
            };
            let description = select.columns.get(&column).and_then(|(description, _)| description.clone());
            columns.push(SqlColumn { name: column, field_type, description });
        }
        let known: Vec<String> = columns.iter().map(|column| column.name.clone()).collect();
        for (column, (_, place)) in &select.columns {
            self.known_names([column].into_iter(), &known, "a column of `select`", place);
        }
        if grain.is_empty() {
            let hint = "name the columns that tell its rows apart";
            self.problem(Problem::new(grain_place.clone(), "the model has no grain").hint(hint));
        }
        self.known_names(grain.iter(), &known, "a column of `select`", &grain_place);
        for (index, column) in grain.iter().enumerate() {
            if grain[..index].contains(column) {
                self.problem(Problem::new(grain_place.clone(), format!("the grain names `{column}` twice")));
            }
        }
        if let Strategy::Whole(why) = &query.strategy {
            let message = format!("all rows of `{name}` are computed again whenever its inputs change: {why}");
            self.notes.push(Problem::new(place, message));
        }
        let Select { kind, description, definition, sources, shape, look_ups, .. } = select;
        // What a port shows is part of what the query says.
        let shown: Vec<_> = sources.into_iter().map(|of| (of.reference.to_string(), of.model, of.columns)).collect();
        // What we write may follow from other definitions: keys of a shrunken dimension, from what it is known by.
        let written = match &select.text {
            Text::Users(_) => None,
            Text::Generated { select, watermark } => Some((select, watermark)),
        };
        let definition = serde_json::json!([definition, shown, written]);
        let fingerprint = String::new();
        Some(SqlModel {
            name,
            kind,
            description,
            definition,
            fingerprint,
            columns,
            grain,
            shape,
            look_ups,
            is_closure,
            query,
        })
    }
}

/// The name that two columns have, in the planner's words.
fn twice(reason: &str) -> Option<&str> {
    if let Some((_, rest)) = reason.split_once("unqualified field name ") {
        return rest.split_whitespace().next();
    }
    let (_, rest) = reason.split_once("require unique expression names")?;
    let name = rest.split(" AS ").nth(1).or_else(|| rest.split('"').nth(1))?;
    Some(name.split([' ', '"']).next().unwrap_or(name))
}
