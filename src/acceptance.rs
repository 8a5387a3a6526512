//! Changes that readers of published ports feel: refused, unless somebody accepts them.
//!
//! What is accepted is published, and then nothing differs any more; acceptance is stored nowhere else. A build of some
//! models publishes what hangs together with them, and accepts no other change. What is left out stays as it is
//! published, and is judged again by the next build.

use starmere_lake::catalog::CatalogSnapshot;
use starmere_marts::meaning::Meaning;
use starmere_models::define::{ModelName, suggestion};
use starmere_models::resolve::Model;

use crate::changes::PortChange;
use crate::failure::Mendable;
use crate::output::Output;
use crate::part::{Names, Part, groups};
use crate::project::Opened;
use crate::publish::How;
use crate::verdicts::verdicts;

/// What is left out of a build, since it changes published ports and is not accepted.
pub(crate) struct LeftOut {
    pub(crate) ports: usize,
    pub(crate) words: String,
    pub(crate) hint: String,
}

/// How published ports of `part` would change so that whoever reads them breaks, or gets answers that mean something
/// else.
async fn breaks(opened: &Opened, newest: &CatalogSnapshot, part: &Part) -> anyhow::Result<Vec<PortChange>> {
    if newest.number == 0 {
        return Ok(Vec::new());
    }
    let mut refused = verdicts(opened, newest, part).await?;
    refused.retain(|change| change.verdict.is_refused());
    Ok(refused)
}

/// Changes that are refused, in words, and what to do. `only`: the models that were to be built. Pure.
fn refusal(refused: &[PortChange], only: &[String]) -> (String, String) {
    let lines: Vec<String> = refused.iter().map(|change| format!("{}: {}", change.port, change.words())).collect();
    let words = format!("published products would change for whoever reads them:\n  {}", lines.join("\n  "));
    let command: Vec<&str> = std::iter::once("starmere build").chain(only.iter().map(String::as_str)).collect();
    let accept = format!("accept it with `{} --accept-breaking`", command.join(" "));
    let hint = match refused.iter().any(|change| change.is_avoidable) {
        true => format!("publish a new major version beside the published one, or {accept}"),
        false => accept,
    };
    (words, hint)
}

/// What of the definitions, which are published, is accepted, and what is left out.
pub(crate) async fn accepted(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<(Part, Option<LeftOut>)> {
    let refused = breaks(opened, newest, &Part::default()).await?;
    if refused.is_empty() {
        return Ok((Part::default(), None));
    }
    let tables: Names = refused.iter().map(|change| change.table.clone()).collect();
    let part = Part::without(&all_groups(opened, newest)?, &tables);
    let ports = opened.project.meaning.ports.iter().filter(|port| !part.has(&port.table)).count();
    let (words, hint) = refusal(&refused, &[]);
    Ok((part, Some(LeftOut { ports, words, hint })))
}

/// What hangs together in the project.
fn all_groups(opened: &Opened, newest: &CatalogSnapshot) -> anyhow::Result<Vec<Names>> {
    let project = &opened.project;
    Ok(groups((&newest.tables, &Meaning::of(newest)?), (&project.models, &project.meaning)))
}

/// What a build of these models takes; of none, all.
pub(crate) fn part(opened: &Opened, newest: &CatalogSnapshot, only: &[String]) -> anyhow::Result<Part> {
    if only.is_empty() {
        return Ok(Part::default());
    }
    let all: Vec<&ModelName> = opened.project.models.models.iter().map(Model::name).collect();
    let mut named = Names::new();
    for name in only {
        let found = all.iter().find(|model| model.to_string() == *name || model.name == *name);
        let found = found.ok_or_else(|| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            Mendable::error(format!("there is no model `{name}`"), suggestion(name, all.iter().map(String::as_str)))
        })?;
        named.insert(found.to_string());
    }
    Ok(Part::with(&all_groups(opened, newest)?, &named))
}

/// Asks once, where somebody can answer, whether ports may change so that whoever reads them breaks.
pub(crate) async fn asked(opened: &Opened, how: How, output: &Output) -> anyhow::Result<How> {
    if how.accepted_breaks {
        return Ok(how);
    }
    let newest = opened.catalog.newest().await?;
    let refused = breaks(opened, &newest, &part(opened, &newest, &how.models)?).await?;
    if refused.is_empty() {
        return Ok(how);
    }
    let (words, _) = refusal(&refused, &how.models);
    let accepted_breaks = output.ask(&format!("{words}\npublish nevertheless?"));
    Ok(How { accepted_breaks, ..how })
}

/// Refuses definitions that change what is published for whoever reads it. Those that somebody has published are not
/// refused: builds leave out what is not accepted of them.
pub(crate) async fn refuse_breaks(opened: &Opened) -> anyhow::Result<()> {
    let newest = opened.catalog.newest().await?;
    match &newest.definitions {
        Some(published) if published.fingerprint == opened.project.fingerprint => Ok(()),
        _ => keep_promises(opened, &newest, &How::default(), &Part::default()).await,
    }
}

/// Refuses changes that break whoever reads a port, or give them answers that mean something else, unless they are
/// accepted.
pub(crate) async fn keep_promises(
    opened: &Opened,
    newest: &CatalogSnapshot,
    how: &How,
    part: &Part,
) -> anyhow::Result<()> {
    if how.accepted_breaks {
        return Ok(());
    }
    let refused = breaks(opened, newest, part).await?;
    if refused.is_empty() {
        return Ok(());
    }
    let (words, hint) = refusal(&refused, &how.models);
    Err(Mendable::error(words, hint))
}
