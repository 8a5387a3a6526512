//! Resolving SQL models: what they read, what their rows look like, in which order they are built.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::common::TableReference;
use indexmap::IndexMap;

use super::{Model, Resolving, beginning, check_name};
use crate::define::{FieldType, ModelName, Parsed, Place, Placed, Problem, SqlColumnFile, SqlFile, suggestion};
use crate::sql_model::{Query, Source, SqlColumn, SqlModel, Strategy, table_names};

/// A model and what it names, while its turn has not come.
struct Waiting<'a> {
    name: ModelName,
    parsed: &'a Parsed<SqlFile>,
    names: Vec<(TableReference, ModelName)>,
}

/// A SELECT that is a model.
pub(super) struct Select {
    pub(super) name: ModelName,
    /// What it is declared as.
    pub(super) kind: &'static str,
    pub(super) description: Option<String>,
    pub(super) definition: serde_json::Value,
    pub(super) text: String,
    pub(super) place: Place,
    pub(super) sources: Vec<Source>,
    pub(super) grain: Vec<String>,
    pub(super) grain_place: Place,
    /// What columns mean, and where that is said.
    pub(super) columns: IndexMap<String, (Option<String>, Place)>,
}

impl Resolving<'_> {
    /// Those first that read nothing else that waits.
    pub(super) fn sql_models(&mut self) {
        let definitions = self.definitions;
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        for (domain, parsed) in &definitions.sql_models {
            let name = ModelName::new(domain, &parsed.definition.sql);
            if let Some(names) = self.names_of(&name, parsed) {
                waiting.push(Waiting { name, parsed, names });
            }
        }
        loop {
            let names: BTreeSet<ModelName> = waiting.iter().map(|waiting| waiting.name.clone()).collect();
            let is_ready = |waiting: &Waiting<'_>| waiting.names.iter().all(|(_, name)| !names.contains(name));
            let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_ready);
            waiting = rest;
            if ready.is_empty() {
                break;
            }
            for ready in ready {
                let before = self.problems.len();
                let model = self.sql_model(&ready);
                if let (Some(model), true) = (model, self.problems.len() == before) {
                    self.models.models.push(Model::Sql(Arc::new(model)));
                }
            }
        }
        // What is left waits for itself, or for what does.
        let names: BTreeSet<ModelName> = waiting.iter().map(|waiting| waiting.name.clone()).collect();
        if let Some(first) = waiting.first() {
            let place = first.parsed.definition.select.place(&first.parsed.file);
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            self.problem(Problem::new(place, format!("SQL models that read each other: {}", names.join(", "))));
        }
    }

    /// The models behind the tables that a SELECT names.
    fn names_of(&mut self, own: &ModelName, parsed: &Parsed<SqlFile>) -> Option<Vec<(TableReference, ModelName)>> {
        let place = parsed.definition.select.place(&parsed.file);
        let references = match table_names(&parsed.definition.select) {
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
        let rollups = definitions.rollups.iter().map(|(of, file)| (of, file.definition.rollup.to_string()));
        let sql = definitions.sql_models.iter().map(|(of, file)| (of, file.definition.sql.to_string()));
        dimensions
            .chain(facts)
            .chain(rollups)
            .chain(sql)
            .filter(|(of, _)| *of == domain)
            .map(|(_, name)| name)
            .collect()
    }

    fn is_defined(&self, name: &ModelName) -> bool {
        self.names_in(&name.domain).contains(&name.name)
    }

    fn sql_model(&mut self, waiting: &Waiting<'_>) -> Option<SqlModel> {
        let Waiting { name, parsed, names } = waiting;
        let (file, file_name) = (&parsed.definition, &parsed.file);
        let mut sources = Vec::new();
        for (reference, model) in names {
            // One that is defined and is not there is wrong itself, and was told of.
            let schema = self.models.get(model)?.schema();
            let port = self.definitions.ports.get(&reference.to_string());
            let columns = port.map(|port| port.columns.clone());
            sources.push(Source { reference: reference.clone(), model: model.clone(), schema, columns });
        }
        let described = |(column, file): (&String, &Placed<SqlColumnFile>)| {
            (column.clone(), (file.description.clone(), file.place(file_name)))
        };
        self.select(Select {
            name: name.clone(),
            kind: "sql",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text: file.select.to_string(),
            place: file.select.place(file_name),
            sources,
            grain: file.grain.0.clone(),
            grain_place: file.grain.place(file_name),
            columns: file.columns.iter().map(described).collect(),
        })
    }

    /// The model that a SELECT is.
    pub(super) fn select(&mut self, select: Select) -> Option<SqlModel> {
        let Select { name, place, grain, grain_place, .. } = select;
        let query = match Query::new(&select.text, &select.sources, &grain) {
            Ok(query) => query,
            Err(reason) => {
                self.problem(Problem::new(place, format!("`select`: {}", beginning(&reason, 500))));
                return None;
            }
        };
        let mut columns: Vec<SqlColumn> = Vec::new();
        for (column, data_type) in query.columns() {
            if let Some(problem) = check_name(&column, &place) {
                self.problem(problem.hint(format!("write `… AS name` behind `{column}`")));
                continue;
            }
            if columns.iter().any(|other| other.name == column) {
                self.problem(Problem::new(place.clone(), format!("`select` has two columns `{column}`")));
                continue;
            }
            let Some(field_type) = FieldType::of(&data_type) else {
                let message = format!("the column `{column}` is {data_type}, which no table has");
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
        let Select { kind, description, definition, sources, .. } = select;
        // What a port shows is part of what the query says.
        let shown: Vec<_> = sources.into_iter().map(|of| (of.reference.to_string(), of.model, of.columns)).collect();
        let definition = serde_json::json!([definition, shown]);
        Some(SqlModel { name, kind, description, definition, fingerprint: String::new(), columns, grain, query })
    }
}
