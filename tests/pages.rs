//! The pages of `docs/models`, and those of `tests/pages` about odd values: each is a small project, its events, and what
//! its tables then hold.
//!
//! A page's fences say what they are: `yaml streams/a.yaml` and `yaml domains/d/models/m.yaml` are definitions,
//! `csv file` are holidays, `json stream` are events, which land together, `sql` is a query after a build, `sh` is a
//! command, `text` is the answer.
//! `STARMERE_BLESS=1` writes the answers into the pages; it is refused where `CI` is set, since nothing is compared then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider};
use datafusion::prelude::SessionContext;
use starmere_ingest::envelope::{Mapping, Reader};
use starmere_ingest::rows::Batch;
use starmere_lake::catalog::Pin;
use starmere_lake::delta::Warehouse;
use starmere_lake::formats::Incoming;
use starmere_lake::landing::{Outcome, SourcePartition, Stream};
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_lake::session::Engine;
use starmere_lake::store::Store;
use starmere_marts::define::ProductFile;
use starmere_models::build::Builder;
use starmere_models::define::{StreamFile, parse_model_text, parse_text};
use starmere_models::resolve::{Definitions, Models, resolve};

use crate::support::models::{Quiet, mapping};
use crate::support::process::Running;

/// A fence of a page: what it says it is, and its text.
struct Fence {
    info: String,
    text: String,
}

#[test]
fn pages_show_what_tables_hold() {
    let folders = ["docs/models", "tests/pages"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut pages: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() > 5, "the pages have gone");
    let is_set = |name| std::env::var_os(name).is_some();
    let bless = blesses(is_set("STARMERE_BLESS"), is_set("CI")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let wrong: Vec<String> = pages
        .iter()
        .filter_map(|page| {
            let shown = runtime.block_on(shows(page, bless)).with_context(|| page.display().to_string());
            shown.err().map(|error| format!("{error:#}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Whether answers are written into the pages instead of being compared with them.
fn blesses(asked: bool, in_ci: bool) -> Result<bool> {
    ensure!(
        !(asked && in_ci),
        "`STARMERE_BLESS` compares nothing, so it is refused where `CI` is set: unset one of them"
    );
    Ok(asked)
}

#[test]
fn pages_are_not_blessed_where_they_are_to_be_compared() {
    assert!(blesses(true, true).unwrap_err().to_string().contains("unset one of them"));
    for (asked, in_ci) in [(true, false), (false, true), (false, false)] {
        assert_eq!(blesses(asked, in_ci).unwrap(), asked);
    }
}

async fn shows(page: &Path, bless: bool) -> Result<()> {
    let text = std::fs::read_to_string(page)?;
    let mut blessed = text.clone();
    let fences = fences(&text)?;
    let (mut definitions, mut products) = (Definitions::default(), Vec::new());
    for fence in &fences {
        let Some(("yaml", path)) = fence.info.split_once(' ') else { continue };
        match path.split('/').collect::<Vec<_>>().as_slice() {
            ["streams", _] => definitions.streams.push(parsed(parse_text::<StreamFile>(&fence.text, path))?),
            ["domains", domain, "models", _] => definitions.add(domain, parsed(parse_model_text(&fence.text, path))?),
            ["domains", domain, "products", _] => {
                products.push(((*domain).to_owned(), parsed(parse_text::<ProductFile>(&fence.text, path))?));
            }
            _ => bail!("`{path}` is no file of a project"),
        }
    }
    definitions.ports = starmere_marts::define::ports(&products);
    for (_, dimension) in &mut definitions.dimensions {
        let Some(calendar) = &mut dimension.definition.calendar else { continue };
        let Some(file) = calendar.value.holidays.clone() else { continue };
        let holidays = fences.iter().find(|fence| fence.info == format!("csv {file}")).context("no holidays")?;
        calendar.value.holidays_text = Some(holidays.text.clone());
    }
    let models = resolve(&definitions).map_err(|problems| {
        anyhow::Error::msg(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    starmere_marts::resolve::resolve(&products, &models).map_err(|problems| {
        anyhow::Error::msg(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let world = World { warehouse: Warehouse::new(Store::memory()), models };
    let mut answer = None;
    let mut asked = 0;
    for fence in &fences {
        match fence.info.split_once(' ') {
            Some(("json", stream)) => world.land(stream, &fence.text).await?,
            None if fence.info == "sql" => {
                answer = Some(match world.ask(&fence.text).await {
                    Ok(answer) => answer,
                    // A page may show how a build fails.
                    Err(error) => match error.downcast_ref::<starmere_models::Error>() {
                        Some(failed) => format!("error: {failed}"),
                        None => return Err(error),
                    },
                });
            }
            None if fence.info == "sh" => answer = Some(command(&fences, &fence.text).await?),
            None if fence.info == "text" => {
                let Some(answer) = answer.take() else { continue };
                asked += 1;
                if bless {
                    blessed =
                        blessed.replacen(&format!("```text\n{}```", fence.text), &format!("```text\n{answer}\n```"), 1);
                } else {
                    ensure!(fence.text.trim_end() == answer, "it shows\n{}\nand there is\n{answer}", fence.text);
                }
            }
            _ => {}
        }
    }
    ensure!(asked > 0, "it shows no table");
    if blessed != text {
        std::fs::write(page, blessed)?;
    }
    Ok(())
}

fn parsed<T>(parsed: Result<T, starmere_models::define::Problem>) -> Result<T> {
    parsed.map_err(|problem| anyhow::Error::msg(problem.to_string()))
}

fn fences(text: &str) -> Result<Vec<Fence>> {
    let (mut fences, mut open): (Vec<Fence>, Option<Fence>) = (Vec::new(), None);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Fence { info: info.to_owned(), text: String::new() }),
            (Some(_), Some(_)) => fences.extend(open.take()),
            (None, Some(fence)) => fence.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    ensure!(open.is_none(), "a fence is not closed");
    Ok(fences)
}

/// What a command says in a project of the page's definitions.
async fn command(fences: &[Fence], text: &str) -> Result<String> {
    let arguments: Vec<&str> = text.split_whitespace().skip(1).collect();
    let project = tempfile::tempdir()?;
    std::fs::write(project.path().join("starmere.yaml"), "project: page\nwarehouse: ./warehouse\n")?;
    for fence in fences {
        let Some(("yaml" | "csv", path)) = fence.info.split_once(' ') else { continue };
        let path = project.path().join(path);
        std::fs::create_dir_all(path.parent().context("it is in a folder")?)?;
        std::fs::write(path, &fence.text)?;
    }
    Ok(Running::start(project.path(), &arguments).end().await.good().trim_end().to_owned())
}

struct World {
    warehouse: Warehouse,
    models: Models,
}

impl World {
    async fn land(&self, stream: &str, lines: &str) -> Result<()> {
        let domain = &self.models.streams.get(stream).with_context(|| format!("no stream `{stream}`"))?.domain;
        let stream = Stream::new(stream, self.warehouse.table(TablePath::stream(domain, stream)));
        let snapshot = stream.open().await?;
        let mapping = Mapping { version: Some("v".into()), ..mapping() };
        let mut reader = Reader::new(mapping, &Arc::default());
        let mut batch = Batch::landed_at(1_704_067_200_000_000);
        let partition =
            SourcePartition { source: "files".into(), topic: "events".into(), incarnation: 0, partition: 0 };
        let from = stream.position(&snapshot, &partition).unwrap_or_default();
        batch.begin(partition, from);
        for (position, line) in (from..).zip(lines.lines()) {
            batch.push(&mut reader, &Incoming::of(line.as_bytes()), position, position + 1, None)?;
        }
        match batch.finish()?.land(&stream).await? {
            Outcome::Landed(_) => Ok(()),
            Outcome::Behind(_) => bail!("a batch does not begin where the one before ended"),
        }
    }

    /// Builds, and answers.
    async fn ask(&self, query: &str) -> Result<String> {
        let pins = Builder::new(&self.warehouse, &self.models, false).await?.build(&self.models, &Quiet).await?;
        let rebuilt = Builder::new(&self.warehouse, &self.models, true).await?.build(&self.models, &Quiet).await?;
        let answer = self.answer(&pins, query).await?;
        ensure!(answer == self.answer(&rebuilt, query).await?, "a rebuild gives another answer");
        Ok(answer)
    }

    async fn answer(&self, pins: &BTreeMap<String, Pin>, query: &str) -> Result<String> {
        let session: SessionContext = Engine::new(self.warehouse.store(), 1 << 28)?.session();
        let catalog = Arc::new(MemoryCatalogProvider::new());
        for model in &self.models.models {
            let (name, pin) = (model.name(), &pins[&model.name().to_string()]);
            let snapshot = self.warehouse.table(pin.path.clone()).snapshot_at(pin.version).await?;
            let table = Arc::new(PinnedTable::new(self.warehouse.store(), snapshot));
            if catalog.schema(&name.domain).is_none() {
                catalog.register_schema(&name.domain, Arc::new(MemorySchemaProvider::new()))?;
            }
            let schema: Arc<dyn SchemaProvider> = catalog.schema(&name.domain).context("it was just made")?;
            schema.register_table(name.name.clone(), table)?;
        }
        session.register_catalog("datafusion", catalog);
        let batches = session.sql(query).await?.collect().await?;
        Ok(pretty_format_batches(&batches)?.to_string())
    }
}
