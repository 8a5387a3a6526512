//! What becomes of published ports when definitions change: pure.

use serde_json::Value;
use starmere_marts::meaning::{Meaning, Port};
use starmere_models::resolve::is_words;

/// What is said of a change that breaks nobody.
pub(crate) const COMPATIBLE: &str = "compatible";
/// What a change that breaks does.
pub(crate) const BREAKS: &str = "breaks whoever reads it; publish a new major version instead";

/// What becomes of a published port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortChange {
    pub(crate) port: String,
    pub(crate) action: &'static str,
    pub(crate) why: String,
    pub(crate) breaks: bool,
}

/// How the ports that are defined differ from those published. Pure.
pub(crate) fn changes(published: &Meaning, defined: &Meaning) -> Vec<PortChange> {
    let mut changes = Vec::new();
    let product = |port: &Port| format!("{}.{}", port.domain, port.schema());
    for old in &published.ports {
        let name = old.full_name();
        match defined.ports.iter().find(|port| port.full_name() == name) {
            Some(new) => changes.extend(differences(old, new)),
            None => {
                let stays = defined.ports.iter().any(|port| product(port) == product(old));
                let why = if stays { "port goes".to_owned() } else { format!("product {} goes", product(old)) };
                changes.push(PortChange { port: name, action: "unpublish", why, breaks: true });
            }
        }
    }
    for new in &defined.ports {
        let name = new.full_name();
        if !published.ports.iter().any(|port| port.full_name() == name) {
            changes.push(PortChange { port: name, action: "create", why: "port is new".to_owned(), breaks: false });
        }
    }
    changes
}

/// How a definition differs from another one, as lines: `+ path: value`, `- path: value`, `~ path: old → new`. Pure.
pub(crate) fn edits(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", old, new, &mut found);
    found
}

fn compare(path: &str, old: &Value, new: &Value, found: &mut Vec<String>) {
    let mut steps = path.rsplit('.');
    let (key, of) = (steps.next().unwrap_or_default(), steps.next().unwrap_or_default());
    // Words about a thing change none of its rows.
    if old == new || is_words(of, key, if new.is_null() { old } else { new }) {
        return;
    }
    let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                compare(&inner(name), a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (number, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&inner(&(number + 1).to_string()), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            let gone = a.iter().filter(|value| !b.contains(value)).map(|value| format!("- {path}: {}", shown(value)));
            let came = b.iter().filter(|value| !a.contains(value)).map(|value| format!("+ {path}: {}", shown(value)));
            found.extend(gone.chain(came));
        }
        (Value::Null, new) => found.push(format!("+ {path}: {}", shown(new))),
        (old, Value::Null) => found.push(format!("- {path}: {}", shown(old))),
        (old, new) => found.push(format!("~ {path}: {} → {}", shown(old), shown(new))),
    }
}

/// A value as definitions write it, without what is left out.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            // `[version, current]` has what is beside history in a list of its own.
            let flat = values
                .iter()
                .flat_map(|value| value.as_array().map_or_else(|| vec![value], |all| all.iter().collect()));
            format!("[{}]", flat.map(shown).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {}", shown(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        other => other.to_string(),
    }
}

fn differences(old: &Port, new: &Port) -> Vec<PortChange> {
    let mut found: Vec<(String, bool)> = Vec::new();
    for column in &old.columns {
        let name = &column.name;
        let Some(now) = new.columns.iter().find(|now| now.name == *name) else {
            found.push((format!("column {name} goes"), true));
            continue;
        };
        if now.data_type != column.data_type {
            found.push((format!("type of {name} changes from {} to {}", column.data_type, now.data_type), true));
        }
        match (column.nullable, now.nullable) {
            (false, true) => found.push((format!("{name} may be null from now on"), true)),
            (true, false) => found.push((format!("{name} is never null from now on"), false)),
            _ => {}
        }
        if now.from != column.from {
            found.push((format!("{name} shows {} instead of {}", now.from, column.from), false));
        } else if let (Some(means), Some(meant)) = (&now.means, &column.means)
            && means != meant
        {
            found.push((format!("{name} is {means} instead of {meant}"), false));
        }
    }
    for column in &new.columns {
        if !old.columns.iter().any(|before| before.name == column.name) {
            found.push((format!("column {} is new", column.name), false));
        }
    }
    if old.primary_key != new.primary_key {
        let key = |port: &Port| format!("({})", port.primary_key.join(", "));
        found.push((format!("primary key changes from {} to {}", key(old), key(new)), true));
    }
    if old.foreign_keys != new.foreign_keys {
        found.push(("foreign keys change".to_owned(), false));
    }
    if old.table != new.table {
        found.push((format!("shows {} instead of {}", new.table, old.table), false));
    }
    if found.is_empty() && old != new {
        found.push(("its descriptions, owner or order of columns change".to_owned(), false));
    }
    let change = |(why, breaks)| PortChange { port: new.full_name(), action: "change", why, breaks };
    found.into_iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use starmere_marts::meaning::Column;

    use super::*;

    fn column(name: &str, data_type: &str, nullable: bool) -> Column {
        Column {
            name: name.to_owned(),
            from: name.to_owned(),
            data_type: data_type.to_owned(),
            nullable,
            means: None,
            description: None,
        }
    }

    fn port(version: u32, name: &str, columns: &[Column]) -> Port {
        Port {
            domain: "sales".into(),
            product: "orders".into(),
            version,
            name: name.into(),
            table: "sales.orders".into(),
            kind: "fact".into(),
            description: None,
            owner: None,
            columns: columns.to_vec(),
            primary_key: Vec::new(),
            foreign_keys: Vec::new(),
        }
    }

    fn said(published: Vec<Port>, defined: Vec<Port>) -> Vec<(String, bool)> {
        let meaning = |ports| Meaning { ports, ..Meaning::default() };
        let changes = changes(&meaning(published), &meaning(defined));
        changes.into_iter().map(|change| (format!("{} {}", change.action, change.why), change.breaks)).collect()
    }

    #[test]
    fn a_plan_tells_what_becomes_of_columns() {
        let old = port(1, "lines", &[column("id", "int", false), column("revenue", "double", true)]);
        let mut new = port(1, "lines", &[column("id", "bigint", true), column("qty", "int", true)]);
        new.primary_key = vec!["id".into()];
        let told = |words: &str, breaks| (words.to_owned(), breaks);
        assert!(said(vec![old.clone()], vec![old.clone()]).is_empty());
        assert_eq!(
            said(vec![old], vec![new]),
            [
                told("change type of id changes from int to bigint", true),
                told("change id may be null from now on", true),
                told("change column revenue goes", true),
                told("change column qty is new", false),
                told("change primary key changes from () to (id)", true),
            ]
        );
    }

    #[test]
    fn a_plan_tells_what_columns_mean_from_now_on() {
        let meaning = |words: &str| {
            let mut port = port(1, "people", &[column("city", "string", true)]);
            port.columns[0].means = Some(words.to_owned());
            port
        };
        let words = "change city is attribute, latest value instead of attribute, with history".to_owned();
        let changed = said(vec![meaning("attribute, with history")], vec![meaning("attribute, latest value")]);
        assert_eq!(changed, [(words, false)]);
    }

    #[test]
    fn a_plan_tells_which_ports_come_and_go() {
        let [lines, heads, next] =
            [(1, "lines"), (1, "heads"), (2, "lines")].map(|(version, name)| port(version, name, &[]));
        assert_eq!(
            said(vec![lines.clone(), heads.clone()], vec![heads.clone()]),
            [("unpublish port goes".to_owned(), true)]
        );
        assert_eq!(
            said(vec![lines], vec![next]),
            [("unpublish product sales.orders_v1 goes".to_owned(), true), ("create port is new".to_owned(), false)]
        );
    }
}
