//! Resolving roll-ups: a fact at a coarser grain, as a SQL model.

use std::sync::Arc;

use datafusion::common::TableReference;
use indexmap::IndexMap;

use super::sql_model::Select;
use super::{Model, Resolving};
use crate::define::{Additivity, ModelName, Names, Parsed, Place, Placed, Problem, RollupFile, suggestion};
use crate::fact::{ColumnKind, Fact};
use crate::sql_model::Source;

impl Resolving<'_> {
    pub(super) fn rollups(&mut self) {
        let definitions = self.definitions;
        for (domain, parsed) in &definitions.rollups {
            let before = self.problems.len();
            let select = self.rollup(domain, parsed);
            let model = select.filter(|_| self.problems.len() == before).and_then(|select| self.select(select));
            if let (Some(model), true) = (model, self.problems.len() == before) {
                self.models.models.push(Model::Sql(Arc::new(model)));
            }
        }
    }

    /// The SELECT that the roll-up is.
    fn rollup(&mut self, domain: &str, parsed: &Parsed<RollupFile>) -> Option<Select> {
        let (file, file_name) = (&parsed.definition, &parsed.file);
        let fact = self.fact_of(domain, &file.of, &file.of.place(file_name))?;
        let place = file.rollup.place(file_name);
        if file.by.is_empty() {
            let hint = "name columns of the fact, or attributes of its dimensions: `month: order_date.year_month`";
            self.problem(Problem::new(place, "the roll-up is `by` nothing").hint(hint));
            return None;
        }
        let mut joined: IndexMap<&str, Source> = IndexMap::new();
        let mut columns = Vec::new();
        for (name, from) in &file.by {
            let column = self.rollup_column(&fact, from, &from.place(file_name), &mut joined)?;
            columns.push(format!("{column} AS {}", quoted(name)));
        }
        let grouped: Vec<String> = (1..=columns.len()).map(|number| number.to_string()).collect();
        for name in self.summed(&fact, file.measures.as_ref(), file_name)? {
            columns.push(format!("sum(fact.{}) AS {}", quoted(&name), quoted(&name)));
        }
        if let Some(name) = &file.count {
            columns.push(format!("count(*) AS {}", quoted(name)));
        }
        let reference = TableReference::partial(fact.name.domain.clone(), fact.name.name.clone());
        let mut text = format!("SELECT {} FROM {} AS fact", columns.join(", "), table(&fact.name));
        let own = Source { reference, model: fact.name.clone(), schema: fact.schema(), columns: None };
        for (role, source) in &joined {
            let (alias, key) = (alias(role), quoted(&format!("{}_key", source.model.name)));
            let own = quoted(&format!("{role}_key"));
            text += &format!(" JOIN {} AS {alias} ON {alias}.{key} = fact.{own}", table(&source.model));
        }
        if let Some(filter) = &file.filter {
            text += &format!(" WHERE ({})", filter.value);
        }
        text += &format!(" GROUP BY {}", grouped.join(", "));
        let mut sources = vec![own];
        for source in joined.into_values() {
            if !sources.iter().any(|other| other.model == source.model) {
                sources.push(source);
            }
        }
        Some(Select {
            name: ModelName::new(domain, &file.rollup),
            kind: "rollup",
            description: file.description.clone(),
            definition: serde_json::to_value(file).unwrap_or_default(),
            text,
            place,
            sources,
            grain: file.by.keys().cloned().collect(),
            grain_place: file.rollup.place(file_name),
            columns: IndexMap::new(),
        })
    }

    fn fact_of(&mut self, domain: &str, name: &str, place: &Place) -> Option<Arc<Fact>> {
        let full = ModelName::new(domain, name);
        match self.models.get(&full) {
            Some(Model::Fact(fact)) => Some(fact.clone()),
            Some(model) => {
                let message = format!("`{full}` is a {}, and a fact is rolled up", model.kind());
                self.problem(Problem::new(place.clone(), message));
                None
            }
            None => {
                let facts = self.definitions.facts.iter().filter(|(of, _)| of == domain);
                let names: Vec<String> = facts.map(|(_, parsed)| parsed.definition.fact.to_string()).collect();
                // One that is defined and is not there is wrong itself, and was told of.
                if !names.iter().any(|known| known == name) {
                    let hint = suggestion(name, names.iter().map(String::as_str));
                    self.problem(Problem::new(place.clone(), format!("there is no fact `{full}`")).hint(hint));
                }
                None
            }
        }
    }

    /// A column of the fact, or an attribute of the dimension in a role.
    fn rollup_column<'a>(
        &mut self,
        fact: &Fact,
        from: &'a str,
        place: &Place,
        joined: &mut IndexMap<&'a str, Source>,
    ) -> Option<String> {
        let (schema, name) = match from.split_once('.') {
            None => (fact.schema(), from),
            Some((role, attribute)) => {
                let Some(of) = fact.roles.iter().find(|of| of.name == role) else {
                    let hint = suggestion(role, fact.roles.iter().map(|role| role.name.as_str()));
                    let message = format!("`{}` has no dimension `{role}`", fact.name);
                    self.problem(Problem::new(place.clone(), message).hint(hint));
                    return None;
                };
                let model = of.target.name().clone();
                let schema = self.models.get(&model)?.schema();
                let reference = TableReference::partial(model.domain.clone(), model.name.clone());
                joined.entry(role).or_insert(Source { reference, model, schema: schema.clone(), columns: None });
                (schema, attribute)
            }
        };
        if schema.field_with_name(name).is_err() {
            let hint = suggestion(name, schema.fields().iter().map(|field| field.name().as_str()));
            let of = from.split_once('.').map_or(fact.name.to_string(), |(role, _)| role.to_owned());
            self.problem(Problem::new(place.clone(), format!("`{of}` has no column `{name}`")).hint(hint));
            return None;
        }
        let of = from.split_once('.').map_or("fact".to_owned(), |(role, _)| alias(role));
        Some(format!("{of}.{}", quoted(name)))
    }

    /// The measures that are summed: those named, or all that may be.
    fn summed(&mut self, fact: &Fact, named: Option<&Placed<Names>>, file_name: &str) -> Option<Vec<String>> {
        let measures = fact.columns.iter().filter_map(|column| match column.kind {
            ColumnKind::Measure(additive) => Some((column.name.as_str(), additive)),
            ColumnKind::Degenerate => None,
        });
        let measures: Vec<(&str, Additivity)> = measures.collect();
        let Some(named) = named else {
            let additive = measures.iter().filter(|(_, additive)| *additive == Additivity::Full);
            return Some(additive.map(|(name, _)| (*name).to_owned()).collect());
        };
        for name in &named.0 {
            let place = named.place(file_name);
            match measures.iter().find(|(measure, _)| measure == name) {
                Some((_, Additivity::Full)) => {}
                Some((_, additive)) => {
                    let why = if *additive == Additivity::Semi { "semi" } else { "none" };
                    let message = format!("`{name}` is `additive: {why}`, so sums of it mean nothing");
                    self.problem(Problem::new(place, message).hint("leave it out, or write a SQL model"));
                    return None;
                }
                None => {
                    let hint = suggestion(name, measures.iter().map(|(measure, _)| *measure));
                    self.problem(Problem::new(place, format!("`{}` has no measure `{name}`", fact.name)).hint(hint));
                    return None;
                }
            }
        }
        Some(named.0.clone())
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn alias(role: &str) -> String {
    quoted(&format!("of {role}"))
}

fn table(name: &ModelName) -> String {
    format!("{}.{}", quoted(&name.domain), quoted(&name.name))
}
