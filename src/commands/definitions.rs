//! `starmere check`, `plan`, `products`: what the definitions say.

use std::collections::BTreeMap;
use std::sync::Arc;

use starmere_lake::paths::TablePath;
use starmere_marts::meaning::{Meaning, Port};
use starmere_models::define::ModelName;
use starmere_models::fact::Fact;
use starmere_models::resolve::{Model, Models};

use super::inspect::{Cell, Holds, listing};
use crate::output::{Output, counted};
use crate::project::{Opened, Project};

pub(super) fn check(project: &Project, output: &Output) -> anyhow::Result<()> {
    for note in &project.models.notes {
        output.say(format!("note: {note}"));
    }
    output.say(format!(
        "{}: {}, {}, {}",
        counted(project.files as u64, "file is right", "files are right"),
        counted(project.models.streams.len() as u64, "stream", "streams"),
        counted(project.models.models.len() as u64, "model", "models"),
        counted(project.meaning.ports.len() as u64, "port", "ports"),
    ));
    Ok(())
}

pub(super) async fn plan(opened: &Opened, output: &Output) -> anyhow::Result<()> {
    let newest = opened.catalog.newest().await?;
    let mut rows = Vec::new();
    for model in &opened.project.models.models {
        let name = model.name().to_string();
        let published = newest.tables.get(&name);
        let same = published
            .and_then(|pin| pin.path.fingerprint())
            .is_some_and(|print| print.starts_with(model.fingerprint()));
        let mut waiting = Vec::new();
        let mut to_read = 0;
        for stream in model.streams() {
            let Some(stream) = opened.project.models.streams.get(stream) else { continue };
            let table = opened.warehouse.table(TablePath::stream(&stream.domain, &stream.name));
            let Some(snapshot) = table.snapshot().await? else { continue };
            let input = format!("lake.{}.{}", stream.domain, stream.name);
            let consumed = same.then(|| newest.tables.get(&input)).flatten().map(|pin| pin.version);
            let all = snapshot.rows().unwrap_or_default();
            let new = match consumed {
                Some(version) if version == snapshot.version() => continue,
                Some(version) => all - table.snapshot_at(version).await?.rows().unwrap_or_default().min(all),
                None => all,
            };
            to_read += new;
            waiting.push(format!("{} of {}", counted(new, "event", "events"), stream.name));
        }
        let (action, why) = match (published, same, waiting.is_empty()) {
            (None, ..) => ("create", "it was never published".to_owned()),
            (Some(_), false, _) => ("rebuild", "its definition, or one it depends on, has changed".to_owned()),
            (Some(_), true, false) => ("update", waiting.join(", ")),
            (Some(_), true, true) => ("keep", "nothing is new".to_owned()),
        };
        rows.push(row(model.kind(), name, action, to_read, why, ports_of(opened, model)));
    }
    for (name, _) in newest.tables.iter().filter(|(name, _)| !name.starts_with("lake.") && !name.contains('/')) {
        if !opened.project.models.models.iter().any(|model| model.name().to_string() == *name) {
            let why = "it is no longer defined".to_owned();
            rows.push(row("model", name.clone(), "unpublish", 0, why, String::new()));
        }
    }
    let published = Meaning::of(&newest)?;
    for change in changes(&published, &opened.project.meaning) {
        let why = if change.breaks { format!("{}: {BREAKS}", change.why) } else { change.why };
        rows.push(row("port", change.port, change.action, 0, why, String::new()));
    }
    let columns = [
        ("kind", Holds::Text),
        ("model", Holds::Text),
        ("action", Holds::Text),
        ("events to read", Holds::Number),
        ("why", Holds::Text),
        ("ports", Holds::Text),
    ];
    listing(output, &columns, &rows)
}

fn row(kind: &str, name: String, action: &str, to_read: u64, why: String, ports: String) -> Vec<Cell> {
    vec![kind.to_owned().into(), name.into(), action.to_owned().into(), Cell::Number(to_read), why.into(), ports.into()]
}

const BREAKS: &str = "breaks whoever reads it; publish a new major version instead";

/// What becomes of a published port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortChange {
    port: String,
    action: &'static str,
    why: String,
    breaks: bool,
}

/// How the ports that are defined differ from those published. Pure.
fn changes(published: &Meaning, defined: &Meaning) -> Vec<PortChange> {
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

fn ports_of(opened: &Opened, model: &Model) -> String {
    let name = model.name().to_string();
    let ports = opened.project.meaning.ports.iter().filter(|port| port.table == name);
    ports.map(|port| port.full_name()).collect::<Vec<_>>().join(", ")
}

pub(super) fn products(project: &Project, output: &Output) -> anyhow::Result<()> {
    let rows = project.meaning.ports.iter().flat_map(|port| {
        port.columns.iter().map(move |column| {
            let key = if port.primary_key.contains(&column.name) {
                "primary".to_owned()
            } else {
                let to = port.foreign_keys.iter().find(|key| key.columns.contains(&column.name));
                to.map(|key| key.to.join(".")).unwrap_or_default()
            };
            vec![
                Cell::Text(port.full_name()),
                Cell::Text(column.name.clone()),
                Cell::Text(column.data_type.clone()),
                Cell::Flag(column.nullable),
                Cell::Text(key),
                Cell::Text(column.description.clone().unwrap_or_default()),
            ]
        })
    });
    let columns = [
        ("port", Holds::Text),
        ("column", Holds::Text),
        ("type", Holds::Text),
        ("nullable", Holds::Flag),
        ("key", Holds::Text),
        ("description", Holds::Text),
    ];
    listing(output, &columns, &rows.collect::<Vec<_>>())
}

/// The bus matrix: facts by dimensions, and the roles in which they meet.
pub(super) fn matrix(project: &Project, output: &Output) -> anyhow::Result<()> {
    let (dimensions, facts) = bus(&project.models);
    let columns: Vec<&str> = std::iter::once("fact").chain(dimensions.iter().map(String::as_str)).collect();
    output.rows(&columns, facts)
}

/// The dimensions, those first that most facts have; and for each fact its name, and its roles of each dimension.
fn bus(models: &Models) -> (Vec<String>, Vec<Vec<String>>) {
    let facts = models.models.iter().filter_map(|model| match model {
        Model::Fact(fact) => Some(fact),
        _ => None,
    });
    let facts: Vec<&Arc<Fact>> = facts.collect();
    let mut shared: BTreeMap<&ModelName, usize> = BTreeMap::new();
    for model in &models.models {
        if matches!(model, Model::Dimension(_) | Model::Calendar(_)) {
            let has = |fact: &&&Arc<Fact>| fact.roles.iter().any(|role| role.target.name() == model.name());
            shared.insert(model.name(), facts.iter().filter(has).count());
        }
    }
    let mut dimensions: Vec<(&ModelName, usize)> = shared.into_iter().collect();
    dimensions.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    let row = |fact: &&Arc<Fact>| {
        let roles = dimensions.iter().map(|(dimension, _)| {
            let roles = fact.roles.iter().filter(|role| role.target.name() == *dimension);
            roles.map(|role| role.name.as_str()).collect::<Vec<_>>().join(", ")
        });
        std::iter::once(fact.name.to_string()).chain(roles).collect()
    };
    (dimensions.iter().map(|(name, _)| name.to_string()).collect(), facts.iter().map(row).collect())
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
