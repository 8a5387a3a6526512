//! `starmere check`, `plan`, `products`: what the definitions say.

use starmere_lake::paths::TablePath;
use starmere_models::resolve::Model;

use crate::output::{Output, count};
use crate::project::{Opened, Project};

pub(super) fn check(project: &Project, output: &Output) -> anyhow::Result<()> {
    for note in &project.models.notes {
        output.say(format!("note: {note}"));
    }
    output.say(format!(
        "{} files are right: {} streams, {} models, {} ports",
        project.files,
        project.models.streams.len(),
        project.models.models.len(),
        project.meaning.ports.len()
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
            waiting.push(format!("{} events of {}", count(new), stream.name));
        }
        let (action, why) = match (published, same, waiting.is_empty()) {
            (None, ..) => ("create", "it was never published".to_owned()),
            (Some(_), false, _) => ("rebuild", "its definition, or one it depends on, has changed".to_owned()),
            (Some(_), true, false) => ("update", waiting.join(", ")),
            (Some(_), true, true) => ("keep", "nothing is new".to_owned()),
        };
        rows.push(vec![model.kind().to_owned(), name, action.to_owned(), count(to_read), why, ports_of(opened, model)]);
    }
    for (name, _) in newest.tables.iter().filter(|(name, _)| !name.starts_with("lake.") && !name.contains('/')) {
        if !opened.project.models.models.iter().any(|model| model.name().to_string() == *name) {
            let why = "it is no longer defined".to_owned();
            rows.push(vec!["model".into(), name.clone(), "unpublish".into(), "0".into(), why, String::new()]);
        }
    }
    output.rows(&["kind", "model", "action", "events to read", "why", "ports"], rows)
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
                port.full_name(),
                column.name.clone(),
                column.data_type.clone(),
                if column.nullable { "yes" } else { "no" }.to_owned(),
                key,
                column.description.clone().unwrap_or_default(),
            ]
        })
    });
    output.rows(&["port", "column", "type", "nullable", "key", "description"], rows.collect())
}
