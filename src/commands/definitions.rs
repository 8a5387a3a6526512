//! `starmere check`, `products`: what the definitions say.

use std::sync::Arc;

use starmere_models::define::ModelName;
use starmere_models::resolve::{Model, Models};
use starmere_models::sql_model::Shape;

use super::inspect::{Cell, Holds, listing};
use crate::failure::Problems;
use crate::output::{Output, counted};
use crate::project::Project;
use crate::project_tests;

pub(super) async fn check(project: &Arc<Project>, output: &Output) -> anyhow::Result<()> {
    for note in &project.models.notes {
        output.say(format!("note: {note}"));
    }
    output.say(format!(
        "{}: {}, {}, {}",
        // Those of tests are right once these hold.
        counted((project.files - project.tests.len()) as u64, "file is right", "files are right"),
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
    let names = dimensions.iter().map(|name| (name.as_str(), Holds::Texts));
    let columns: Vec<(&str, Holds)> = std::iter::once(("fact", Holds::Text)).chain(names).collect();
    listing(output, &columns, &facts)
}

/// The dimensions, those first that most facts have; and for each fact its name, and its roles of each dimension.
fn bus(models: &Models) -> (Vec<String>, Vec<Vec<Cell>>) {
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
            Cell::Texts(roles.map(|(role, _)| role.clone()).collect())
        });
        std::iter::once(Cell::Text(name.to_string())).chain(roles).collect()
    };
    (dimensions.iter().map(|(name, _)| name.to_string()).collect(), facts.iter().map(row).collect())
}
