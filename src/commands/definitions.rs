//! `starmere check`, `plan`, `products`: what the definitions say.

use std::collections::BTreeMap;
use std::sync::Arc;

use starmere_lake::paths::TablePath;
use starmere_marts::meaning::Meaning;
use starmere_models::define::ModelName;
use starmere_models::fact::Fact;
use starmere_models::resolve::{Model, Models};

use super::inspect::{Cell, Holds, listing};
use crate::changes::{BREAKS, changes};
use crate::failure::Problems;
use crate::output::{Output, counted};
use crate::project::{Opened, Project};
use crate::project_tests;

pub(super) async fn check(project: &Arc<Project>, output: &Output) -> anyhow::Result<()> {
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
    if project.tests.is_empty() {
        return Ok(());
    }
    let step = output.step("tests");
    let at_once = std::thread::available_parallelism().map_or(2, usize::from);
    let problems = project_tests::run(project, at_once).await?;
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    step.done(counted(project.tests.len() as u64, "test holds", "tests hold"));
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
        if matches!(model, Model::Dimension(_) | Model::Generated(_)) {
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
