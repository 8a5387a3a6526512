//! Where the columns of a model come from.

use super::Model;
use crate::dimension::Dimension;
use crate::events::{Event, Field, Need};
use crate::expression::Expression;
use crate::fact::Fact;

impl Model {
    /// What a column of its rows is made of: `stream.event.field`, `stream.event: SQL`, or the models that are read.
    /// Nothing where it is made by the build, as surrogate keys are.
    pub fn origin(&self, column: &str) -> Vec<String> {
        match self {
            Self::Generated(_) => Vec::new(),
            Self::Dimension(dimension) => of_dimension(dimension, column),
            Self::Fact(fact) => of_fact(fact, column),
            Self::Sql(model) => model.inputs().into_iter().map(ToString::to_string).collect(),
        }
    }
}

fn of_dimension(dimension: &Dimension, column: &str) -> Vec<String> {
    let part = dimension.key.iter().position(|(name, _)| name == column);
    let attribute = dimension.attributes.iter().position(|attribute| {
        attribute.name == column || attribute.beside.iter().any(|beside| beside.column(&attribute.name) == column)
    });
    let reference = dimension
        .references
        .iter()
        .position(|of| of.durable_column() == column || (of.as_of_version && of.key_column() == column));
    let said = dimension.sources.iter().flat_map(|source| {
        let key = part.and_then(|part| source.key.get(part));
        let value = source.set.iter().filter(move |(of, _)| Some(*of) == attribute).map(|(_, value)| value);
        let referred = source.references.iter().filter(move |(of, _)| Some(*of) == reference);
        let all = key.into_iter().chain(value).chain(referred.flat_map(|(_, key)| key));
        all.map(move |value| written(&source.stream, &source.definition, &source.need, value))
    });
    distinct(said)
}

fn of_fact(fact: &Fact, column: &str) -> Vec<String> {
    let own = fact.columns.iter().position(|of| of.name == column);
    let is_key = |of: &str, durable: Option<String>| of == column || durable.as_deref() == Some(column);
    let role = fact.roles.iter().position(|role| is_key(&role.key_column(), role.durable_column()));
    let is_built_in = ["occurred_at", "event_id"].contains(&column);
    let said = fact.sources.iter().flat_map(|source| {
        let value = own.and_then(|index| source.columns.get(index));
        let key = role.and_then(|index| source.keys.get(index)).into_iter().flat_map(|role| &role.key);
        let of_event = is_built_in.then(|| format!("{}.{}.{column}", source.stream, source.event));
        let all = value.into_iter().chain(key);
        all.map(move |value| written(&source.stream, &source.definition, &source.need, value)).chain(of_event)
    });
    distinct(said)
}

fn written(stream: &str, event: &Event, need: &Need, value: &Expression) -> String {
    let (newest, text) = (event.newest(), value.text());
    let has = |each: &&str| {
        let elements = newest.field(each).and_then(Field::elements);
        elements.is_some_and(|fields| fields.iter().any(|field| field.name == text))
    };
    let each = need.each.as_ref().map(|(each, _)| each.as_str()).filter(has);
    let event = &event.name;
    if newest.field(text).is_some() || super::stream::BUILT_IN.contains(&text) {
        return format!("{stream}.{event}.{text}");
    }
    match each {
        Some(each) => format!("{stream}.{event}.{each}.{text}"),
        None => format!("{stream}.{event}: {text}"),
    }
}

/// Each once, in their order.
fn distinct(all: impl Iterator<Item = String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}
