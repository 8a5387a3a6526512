//! What mentions of members follow from: which events a model reads without a reject, and whom these name. What else it
//! makes of them is none of the dimension's that is inferred from it: a measure under another name, a grain, a history.
//!
//! An event with a row that does not fit is a reject, whole, and mentions nobody. So expressions that may fail belong
//! here, whatever they are for, and those that never do only where they name a member.

use serde_json::{Value, json};

use crate::define::{FieldType, ModelName};
use crate::dimension::{Dimension, Target};
use crate::events::{Event, Need};
use crate::expression::{Expression, Rule};
use crate::fact::Fact;

/// What of a stream's event a model reads.
pub(super) type EventOf<'a> = &'a dyn Fn(&str, &Event, &Need) -> Value;

/// What a fact's mentions of members of `dimension` follow from.
pub(super) fn of_fact(fact: &Fact, dimension: &ModelName, event_of: EventOf<'_>) -> Value {
    let types: Vec<FieldType> = fact.columns.iter().map(|column| column.field_type).collect();
    let sources = fact.sources.iter().map(|source| {
        let keys = fact.roles.iter().zip(&source.keys).map(|(role, of)| {
            let special = [&of.not_applicable, &of.error];
            match &role.target {
                Target::Dimension { name, key_types, junk, .. } if name == dimension => {
                    json!([texts(&of.key), key_types, junk, special.map(|of| of.as_ref().map(Expression::text))])
                }
                target => {
                    let types = match target {
                        Target::Generated { generated, .. } => &[generated.key_type()][..],
                        Target::Dimension { key_types, .. } => key_types,
                    };
                    let special = special.into_iter().flatten().map(|of| (of, FieldType::Bool));
                    may_fail(of.key.iter().zip(types.iter().copied()).chain(special))
                }
            }
        });
        json!({
            "event": [source.stream, event_of(&source.stream, &source.definition, &source.need)],
            "where": source.filter.as_ref().map(Expression::text),
            "rules": rules(&source.rules),
            "keys": keys.collect::<Vec<_>>(),
            "columns": may_fail(source.columns.iter().zip(types.iter().copied())),
        })
    });
    sources.collect()
}

/// What the mentions by a child of members of `dimension`, which it refers to, follow from.
pub(super) fn of_child(child: &Dimension, dimension: &ModelName, event_of: EventOf<'_>) -> Value {
    let key_types: Vec<FieldType> = child.key.iter().map(|(_, field_type)| *field_type).collect();
    let sources = child.sources.iter().map(|source| {
        let set = source.set.iter().map(|(index, value)| (value, child.attributes[*index].field_type));
        // A patch that says who it is only in part is a reject.
        let references = source.references.iter().map(|(index, key)| {
            let reference = &child.references[*index];
            json!([texts(key), reference.key_types, reference.target == *dimension])
        });
        json!({
            "event": [source.stream, event_of(&source.stream, &source.definition, &source.need)],
            "as": source.meaning,
            "where": source.filter.as_ref().map(Expression::text),
            "rules": rules(&source.rules),
            "key": [texts(&source.key), key_types],
            "references": references.collect::<Vec<_>>(),
            "set": may_fail(set),
        })
    });
    sources.collect()
}

fn texts(expressions: &[Expression]) -> Vec<&str> {
    expressions.iter().map(Expression::text).collect()
}

fn rules(rules: &[Rule]) -> Vec<&str> {
    rules.iter().map(|rule| rule.holds.text()).collect()
}

/// Those expressions that may fail for an event, as values of these types.
fn may_fail<'a>(expressions: impl Iterator<Item = (&'a Expression, FieldType)>) -> Value {
    let failing = expressions.filter(|(expression, field_type)| expression.may_fail_as(&field_type.arrow()));
    failing.map(|(expression, field_type)| json!([expression.text(), field_type])).collect()
}
