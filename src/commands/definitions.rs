//! `starmere check`, `models show`, `products`: what the definitions say.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use starmere_models::define::{FieldType, ModelName, Problem, suggestion};
use starmere_models::resolve::{Model, Models};
use starmere_models::sql_model::Shape;

use super::inspect::{Cell, Holds, listing};
use crate::command_line::Format;
use crate::failure::{Mendable, Problems};
use crate::output::{Output, counted};
use crate::project::Project;
use crate::project_tests;

pub(super) async fn check(root: &Path, output: &Output) -> anyhow::Result<()> {
    let loaded = Project::load(root).map(Arc::new);
    let notes = loaded.as_ref().map(|project| project.models.notes.clone()).unwrap_or_default();
    let checked = match loaded {
        Ok(project) => hold(&project, output).await,
        Err(error) => Err(error),
    };
    let none: &[Problem] = &[];
    let problems = match &checked {
        Ok(()) => Some(none),
        Err(error) => error.downcast_ref::<Problems>().map(|problems| problems.0.as_slice()),
    };
    // An empty list says that all is right, so there is none where nobody knows.
    if let (Some(problems), true) = (problems, output.format() != Format::Table) {
        list(&notes, problems, output)?;
    }
    checked
}

/// What `check` has found, for programs: people read it on standard error.
fn list(notes: &[Problem], problems: &[Problem], output: &Output) -> anyhow::Result<()> {
    let row = |severity: &str, problem: &Problem| {
        vec![
            Cell::Text(severity.to_owned()),
            Cell::Text(problem.place.file.clone()),
            Cell::Number(problem.place.line),
            Cell::Number(problem.place.column),
            Cell::Text(problem.message.clone()),
            problem.hint.clone().map_or(Cell::Nothing, Cell::Text),
        ]
    };
    let notes = notes.iter().map(|note| row("note", note));
    let rows: Vec<Vec<Cell>> = notes.chain(problems.iter().map(|problem| row("error", problem))).collect();
    let columns = [
        ("severity", Holds::Text),
        ("file", Holds::Text),
        ("line", Holds::Number),
        ("column", Holds::Number),
        ("message", Holds::Text),
        ("hint", Holds::Text),
    ];
    listing(output, &columns, &rows)
}

/// Says what a project has, and runs its tests.
async fn hold(project: &Arc<Project>, output: &Output) -> anyhow::Result<()> {
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

/// The columns of models, as they are made, or would be: nothing need be built.
pub(super) fn models(project: &Project, name: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let columns = [
        ("model", Holds::Text),
        ("column", Holds::Text),
        ("type", Holds::Text),
        ("nullable", Holds::Flag),
        ("key", Holds::Flag),
        ("means", Holds::Text),
        ("from", Holds::Texts),
        ("description", Holds::Text),
    ];
    let rows: Vec<Vec<Cell>> = meant(&project.models, name)?.into_iter().flat_map(shown).collect();
    listing(output, &columns, &rows)
}

/// The models of this name, which may be one of several domains; all of them where none is named.
fn meant<'a>(models: &'a Models, name: Option<&str>) -> anyhow::Result<Vec<&'a Model>> {
    let models = &models.models;
    let Some(name) = name else { return Ok(models.iter().collect()) };
    let called = |model: &Model| match name.contains('.') {
        true => model.name().to_string(),
        false => model.name().name.clone(),
    };
    let meant: Vec<&Model> = models.iter().filter(|model| called(model) == name).collect();
    if meant.is_empty() {
        let all: Vec<String> = models.iter().map(called).collect();
        let hint = suggestion(name, all.iter().map(String::as_str));
        return Err(Mendable::error(format!("there is no model `{name}`"), hint));
    }
    Ok(meant)
}

/// A row for each column of a model.
fn shown(model: &Model) -> Vec<Vec<Cell>> {
    let keys = model.told_apart_by();
    let row = |field: &FieldRef| {
        let (means, description) = model.column(field.name());
        vec![
            Cell::Text(model.name().to_string()),
            Cell::Text(field.name().clone()),
            Cell::Text(FieldType::name_of(field.data_type())),
            Cell::Flag(field.is_nullable()),
            Cell::Flag(keys.contains(field.name())),
            Cell::Text(means.unwrap_or_default()),
            Cell::Texts(model.origin(field.name())),
            Cell::Text(description.unwrap_or_default()),
        ]
    };
    model.schema().fields().iter().map(row).collect()
}

pub(super) fn products(project: &Project, output: &Output) -> anyhow::Result<()> {
    let rows = project.meaning.ports.iter().flat_map(|port| {
        port.columns.iter().map(move |column| {
            vec![
                Cell::Text(port.full_name()),
                Cell::Text(column.name.clone()),
                Cell::Text(column.data_type.clone()),
                Cell::Flag(column.nullable),
                Cell::Text(port.key_of(&column.name).unwrap_or_default()),
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

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "stream: s\ndomain: a\nreaders: [b]\nenvelope: { type: type, time: at }\nevents:\n  \
        sold: { versions: { 1: { fields: { pieces: { type: int }, code: { type: string } } } } }\n";
    const FACT: &str = "fact: sales\nfrom: { stream: s, event: sold }\ngrain: [code]\n\
        degenerate: { code: { description: What } }\nmeasures: { twice: { expression: 2 * pieces, type: bigint } }\n";

    #[test]
    fn columns_are_shown_before_anything_is_built() {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("starmere.yaml", "project: p\nwarehouse: ./warehouse\n"),
            ("streams/s.yaml", STREAM),
            ("domains/a/models/f.yaml", FACT),
            ("domains/b/models/f.yaml", FACT),
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let project = Project::load(folder.path()).unwrap();
        let names = |name| -> Vec<String> {
            let meant = meant(&project.models, name).unwrap();
            meant.iter().map(|model| model.name().to_string()).collect()
        };
        assert_eq!(names(None), ["a.sales", "b.sales"]);
        assert_eq!(names(Some("sales")), ["a.sales", "b.sales"]);
        assert_eq!(names(Some("b.sales")), ["b.sales"]);
        for (wrong, hint) in [("sale", "did you mean `sales`?"), ("b.sale", "did you mean `b.sales`?")] {
            let error = meant(&project.models, Some(wrong)).unwrap_err();
            assert_eq!(error.to_string(), format!("there is no model `{wrong}`"));
            assert_eq!(crate::failure::hint(&error).as_deref(), Some(hint));
        }
        let shown = shown(meant(&project.models, Some("a.sales")).unwrap()[0]);
        let columns: Vec<&Cell> = shown.iter().map(|row| &row[1]).collect();
        let expected = ["code", "twice", "occurred_at", "event_id", "ordinal"].map(|name| Cell::Text(name.to_owned()));
        assert_eq!(columns, expected.iter().collect::<Vec<_>>());
        let text = |text: &str| Cell::Text(text.to_owned());
        let code = [
            text("a.sales"),
            text("code"),
            text("string"),
            Cell::Flag(true),
            Cell::Flag(true),
            text("degenerate dimension"),
            Cell::Texts(vec!["s.sold.code".to_owned()]),
            text("What"),
        ];
        assert_eq!(shown[0], code);
        assert_eq!(shown[1][2..5], [text("bigint"), Cell::Flag(true), Cell::Flag(false)]);
        assert_eq!(shown[1][6], Cell::Texts(vec!["s.sold: 2 * pieces".to_owned()]));
        assert!(!folder.path().join("warehouse").exists());
    }
}
