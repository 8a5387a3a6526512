//! `starmere check`, `plan`, `products`: what the definitions say.

use std::collections::BTreeMap;
use std::sync::Arc;

use starmere_lake::paths::TablePath;
use starmere_marts::meaning::Meaning;
use starmere_models::define::ModelName;
use starmere_models::resolve::{Model, Models};
use starmere_models::sql_model::Shape;

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
    let mut moved: BTreeMap<String, bool> = BTreeMap::new();
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
        let inputs: Vec<String> = model.inputs().into_iter().map(ToString::to_string).collect();
        let changing = inputs.iter().filter(|input| moved.get(*input) == Some(&true));
        waiting.extend(changing.map(|input| format!("changes of {input}")));
        let (action, why) = match (published, same, waiting.is_empty()) {
            (None, ..) => ("create", "it was never published".to_owned()),
            (Some(_), false, _) => ("rebuild", "its definition, or one it depends on, has changed".to_owned()),
            (Some(_), true, false) => ("update", waiting.join(", ")),
            (Some(_), true, true) => ("keep", "nothing is new".to_owned()),
        };
        moved.insert(name.clone(), action != "keep");
        let made_of: Vec<String> = model.streams().into_iter().map(str::to_owned).chain(inputs).collect();
        rows.push(row(model.kind(), name, action, to_read, why, made_of.join(", "), ports_of(opened, model)));
    }
    for (name, _) in newest.tables.iter().filter(|(name, _)| !name.starts_with("lake.") && !name.contains('/')) {
        if !opened.project.models.models.iter().any(|model| model.name().to_string() == *name) {
            let why = "it is no longer defined".to_owned();
            rows.push(row("model", name.clone(), "unpublish", 0, why, String::new(), String::new()));
        }
    }
    let published = Meaning::of(&newest)?;
    for change in changes(&published, &opened.project.meaning) {
        let why = if change.breaks { format!("{}: {BREAKS}", change.why) } else { change.why };
        rows.push(row("port", change.port, change.action, 0, why, String::new(), String::new()));
    }
    let columns = [
        ("kind", Holds::Text),
        ("model", Holds::Text),
        ("action", Holds::Text),
        ("events to read", Holds::Number),
        ("why", Holds::Text),
        ("made of", Holds::Text),
        ("ports", Holds::Text),
    ];
    listing(output, &columns, &rows)
}

fn row(kind: &str, name: String, action: &str, to_read: u64, why: String, made_of: String, ports: String) -> Vec<Cell> {
    let action = action.to_owned();
    vec![
        kind.to_owned().into(),
        name.into(),
        action.into(),
        Cell::Number(to_read),
        why.into(),
        made_of.into(),
        ports.into(),
    ]
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
    let facts = models.models.iter().filter_map(|model| Some((model.name(), model.shape()?)));
    let facts: Vec<(&ModelName, Shape)> = facts.filter(|(_, shape)| !shape.roles.is_empty()).collect();
    let is_dimension = |model: &&Model| match model {
        // Who has which combination is no dimension of a fact.
        Model::Dimension(dimension) => dimension.keys_of.is_none(),
        Model::Generated(_) => true,
        Model::Sql(model) => matches!(model.kind, "shrunken_dimension" | "mini_dimension"),
        Model::Fact(_) => false,
    };
    let has = |shape: &Shape, name: &ModelName| shape.roles.iter().any(|(_, dimension)| dimension == name);
    let counted = |model: &Model| {
        let count = facts.iter().filter(|(_, shape)| has(shape, model.name())).count();
        (model.name().clone(), count)
    };
    let mut dimensions: Vec<(ModelName, usize)> = models.models.iter().filter(is_dimension).map(counted).collect();
    dimensions.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
    let row = |(name, shape): &(&ModelName, Shape)| {
        let roles = dimensions.iter().map(|(dimension, _)| {
            let roles = shape.roles.iter().filter(|(_, of)| of == dimension);
            roles.map(|(role, _)| role.as_str()).collect::<Vec<_>>().join(", ")
        });
        std::iter::once(name.to_string()).chain(roles).collect()
    };
    (dimensions.iter().map(|(name, _)| name.to_string()).collect(), facts.iter().map(row).collect())
}
