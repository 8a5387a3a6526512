//! What becomes of published ports: of their definitions, and of what their tables were made by.

use serde_json::Value;
use starmere_lake::Kind;
use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_marts::meaning::Meaning;
use starmere_models::build::DEFINITION;
use starmere_models::resolve::{Model, RULES};

use crate::changes::{PortChange, changes};
use crate::made::{Made, Read};
use crate::part::Part;
use crate::project::Opened;

/// What becomes of the ports of `part` that `newest` has.
pub(crate) async fn verdicts(
    opened: &Opened,
    newest: &CatalogSnapshot,
    part: &Part,
) -> anyhow::Result<Vec<PortChange>> {
    let all = Meaning::of(newest)?;
    let (published, defined) = (part.ports(&all), part.ports(&opened.project.meaning));
    let models = part.models(&opened.project.models);
    let is_made = |model: &Model| {
        newest.tables.get(&model.name().to_string()).is_some_and(|published| is_made_by(published, model))
    };
    // Builds of `up` ask every few seconds, and have nothing to read then.
    let made = match published.ports == defined.ports && models.models.iter().all(is_made) {
        true => Made::default(),
        false => made(opened, newest, part, &models.models).await?,
    };
    Ok(changes(&published, &defined, &made))
}

/// Whether a published table is one that `model` makes.
pub(crate) fn is_made_by(published: &Pin, model: &Model) -> bool {
    published.path.fingerprint().is_some_and(|print| print.starts_with(model.fingerprint()))
}

/// By what the tables of `part` were made, and by what its models make them.
async fn made(opened: &Opened, newest: &CatalogSnapshot, part: &Part, models: &[Model]) -> anyhow::Result<Made> {
    let mut made = Made::default();
    let is_rows = |name: &str| !name.starts_with("lake.") && !name.contains('/') && part.has(name);
    for (name, published) in newest.tables.iter().filter(|(name, _)| is_rows(name)) {
        let model = models.iter().find(|model| model.name().to_string() == *name);
        if model.is_some_and(|model| is_made_by(published, model)) {
            continue;
        }
        // Another version of Starmere may write the same definition in another way.
        let is_comparable = |before: &Value| model.is_none_or(|model| before[RULES] == model.made_by()[RULES]);
        let before = made_by(opened, published).await?.filter(is_comparable);
        if let (Some(model), Some(before)) = (model, &before) {
            made.events.insert(name.clone(), model.events_within(before));
        }
        made.before.insert(name.clone(), before);
    }
    for model in models {
        let name = model.name().to_string();
        if let Model::Sql(sql) = model {
            let mut reads: Vec<Read> = match sql.reads() {
                Some(reads) => reads.into_iter().map(|(input, columns)| (input.to_string(), Some(columns))).collect(),
                None => sql.inputs().into_iter().map(|input| (input.to_string(), None)).collect(),
            };
            reads.sort();
            made.reads.insert(name.clone(), reads);
        }
        made.now.insert(name, model.made_by());
    }
    Ok(made)
}

/// By what a published table was made; none where it does not say so, or is damaged: then it is made anew.
async fn made_by(opened: &Opened, published: &Pin) -> anyhow::Result<Option<Value>> {
    match opened.warehouse.table(published.path.clone()).snapshot_at(published.version).await {
        Ok(snapshot) => Ok(snapshot.setting(DEFINITION).and_then(|text| serde_json::from_str(text).ok())),
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
