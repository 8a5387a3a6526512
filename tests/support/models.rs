//! Landing, building and publishing in this process, over any store, by the definitions of the small project.

use std::path::Path;
use std::sync::Arc;

use starmere_ingest::envelope::{Mapping, TypeOf};
use starmere_ingest::files::{Progress, Source, land};
use starmere_ingest::memory::Memory;
use starmere_lake::Kind;
use starmere_lake::catalog::{Catalog, CatalogSnapshot};
use starmere_lake::delta::Warehouse;
use starmere_lake::landing::Stream;
use starmere_models::build::{Builder, Built, Progress as Building, Watch};
use starmere_models::define::parse_text;
use starmere_models::resolve::{Definitions, Model, Models, resolve};

use super::events::STREAMS;
use super::project::{CUSTOMER, CUSTOMERS, ORDER_LINES, ORDERS};
use super::tables;
use tokio_util::sync::CancellationToken;

/// Nobody watches.
pub(crate) struct Quiet;

impl Watch for Quiet {
    fn begun(&self, _: &Model, _: &Arc<Building>) {}
    fn done(&self, _: &Model, _: &Built) {}
}

/// The models of the small project.
pub(crate) fn models() -> Models {
    let domain = || "sales".to_owned();
    let definitions = Definitions {
        streams: vec![parse_text(CUSTOMERS, "customers").unwrap(), parse_text(ORDERS, "orders").unwrap()],
        dimensions: vec![(domain(), parse_text(CUSTOMER, "customer").unwrap())],
        facts: vec![(domain(), parse_text(ORDER_LINES, "order_lines").unwrap())],
        ..Definitions::default()
    };
    resolve(&definitions).expect("the small project is right")
}

/// The envelope of its streams.
pub(crate) fn mapping() -> Mapping {
    Mapping {
        id: Some("id".into()),
        max_event_bytes: 1000,
        ..Mapping::new(TypeOf::Path("type".into()), Some("at".into()))
    }
}

/// Lands what is new in an inbox, a folder a stream, once.
pub(crate) async fn land_inbox(warehouse: &Warehouse, source: &str, inbox: &Path) -> starmere_ingest::Result<()> {
    for name in STREAMS {
        land_folder(&Stream::new(name, tables::stream(warehouse, name)), source, &inbox.join(name)).await?;
    }
    Ok(())
}

/// Lands what is new in a folder, once. Two folders are two sources: in one, files of one name are one file.
pub(crate) async fn land_folder(stream: &Stream, source: &str, folder: &Path) -> starmere_ingest::Result<()> {
    let source = Source { name: source.into(), pattern: folder.to_path_buf(), topic: None, end_of_input: false };
    let report = land(
        stream,
        &mapping(),
        &source,
        &Arc::new(Progress::default()),
        &Memory::default(),
        &CancellationToken::new(),
    )
    .await?;
    assert!(report.refused.is_empty(), "{report:?}");
    Ok(())
}

/// Builds and publishes once, as `starmere build` does, but for contracts. What tables mean stays as it was.
pub(crate) async fn build_once(warehouse: &Warehouse, models: &Models) -> starmere_models::Result<CatalogSnapshot> {
    let catalog = Catalog::new(warehouse);
    let newest = catalog.newest().await?;
    let builder = Builder::new(warehouse, models, false).await?.going_on_from(&newest, models);
    let pins = builder.build(models, &Quiet).await?;
    let published = catalog.publish(|newest| {
        let is_ahead = pins.iter().any(|(name, pin)| {
            newest
                .tables
                .get(name)
                .is_some_and(|published| published.path == pin.path && published.version > pin.version)
        });
        let changed = !is_ahead && pins != newest.tables;
        Ok(changed.then(|| (pins.clone(), newest.meaning.clone())))
    });
    Ok(published.await?)
}

/// Builds and publishes; begins anew, as `starmere build` does, while others are first or the store fails.
pub(crate) async fn build(warehouse: &Warehouse, models: &Models) -> CatalogSnapshot {
    let mut attempts = 0;
    loop {
        match build_once(warehouse, models).await {
            Ok(snapshot) => return snapshot,
            Err(error) if attempts < 1000 && matches!(error.kind(), Kind::Conflict | Kind::Unavailable) => {
                attempts += 1
            }
            Err(error) => panic!("a build failed: {error:?}"),
        }
    }
}
