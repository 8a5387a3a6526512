//! What a query sees: one catalog snapshot, as a DataFusion session with the tables it serves.
//!
//! This is the boundary between serving and the rest. The binary implements [`Views`] over the catalog;
//! this crate opens one [`View`] per query and lets it go when the query ends, so facts and dimensions of
//! a query always come from one snapshot, however long it runs. A view that cannot be opened fails that
//! query only.

use std::{fmt, sync::Arc};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, CatalogProviderList, MemoryCatalogProviderList, SchemaProvider, TableProvider},
    common::{DataFusionError, TableReference},
    prelude::SessionContext,
};

use crate::{
    access::{Caller, Right},
    error::QueryError,
    plans::Plans,
};

/// Opens views. Called once per query and once per question about metadata, so it should be quick: hand
/// out a cached session while the newest snapshot has not changed.
#[async_trait]
pub trait Views: Send + Sync + 'static {
    /// The newest snapshot.
    async fn newest(&self) -> Result<View, QueryError>;

    /// A given snapshot, for a client that was told of it a moment ago (a Flight ticket).
    ///
    /// An implementation that cannot go back may open the newest one, as this default does: the query
    /// still sees one moment, and is refused if its result type has changed in between.
    async fn at(&self, snapshot: u64) -> Result<View, QueryError> {
        let _wanted = snapshot;
        self.newest().await
    }
}

/// One catalog snapshot, ready to be queried.
#[derive(Clone)]
pub struct View {
    /// Has every catalog of the snapshot registered: a domain is a catalog, `product_vN` a schema, a port a
    /// table; `lake`, `system` and perhaps `work` (models that need be no ports) beside them. Its configuration (memory, partitions, dialect) is kept.
    pub context: SessionContext,
    /// The snapshot's number in the catalog.
    pub snapshot: u64,
    /// What clients are told there is; each of them can be queried through `context`.
    pub tables: Arc<[TableInfo]>,
    /// Plans over the tables. Views share them while all tables but those of `lake` are the same ones.
    pub plans: Arc<Plans>,
}

/// Whether a table, by its name in a statement, is the same for all queries that share the plans of a view.
/// Raw events are read as they are when a query begins, and `information_schema` tells of the session.
pub(crate) fn is_pinned(table: &TableReference) -> bool {
    let (Some(catalog), Some(schema)) = (table.catalog(), table.schema()) else { return false };
    catalog != "lake" && schema != "information_schema"
}

impl View {
    /// What a caller sees of the view: tables that it may not query are not listed, and naming one is refused.
    #[must_use]
    pub(crate) fn seen_by(self, caller: &Caller) -> Self {
        if caller.rights.has(Right::Query) && caller.rights.has(Right::Raw) {
            return self;
        }
        let lacks = |catalog: &str| caller.may(needed(catalog)).err();
        let mut state = self.context.state();
        let known = Arc::clone(state.catalog_list());
        let list = MemoryCatalogProviderList::new();
        for name in known.catalog_names() {
            let catalog = match lacks(&name) {
                Some(refusal) => Some(Arc::new(Withheld(refusal)) as Arc<dyn CatalogProvider>),
                None => known.catalog(&name),
            };
            if let Some(catalog) = catalog {
                list.register_catalog(name, catalog);
            }
        }
        state.register_catalog_list(Arc::new(list));
        let tables: Vec<TableInfo> =
            self.tables.iter().filter(|table| lacks(&table.catalog).is_none()).cloned().collect();
        Self { context: SessionContext::new_with_state(state), tables: tables.into(), ..self }
    }
}

/// What a caller must be allowed to query the tables of a catalog; what Starmere knows of itself is for everybody.
fn needed(catalog: &str) -> &'static [Right] {
    match catalog {
        "lake" | "work" => &[Right::Raw],
        "system" => &[],
        _ => &[Right::Query],
    }
}

/// A catalog, and each schema of it, that the caller may not query.
#[derive(Clone, Debug)]
struct Withheld(QueryError);

impl CatalogProvider for Withheld {
    fn schema_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn schema(&self, _name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl SchemaProvider for Withheld {
    fn table_names(&self) -> Vec<String> {
        Vec::new()
    }

    async fn table(&self, _name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        Err(DataFusionError::External(Box::new(self.0.clone())))
    }

    fn table_exist(&self, _name: &str) -> bool {
        false
    }
}

impl fmt::Debug for View {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("View")
            .field("snapshot", &self.snapshot)
            .field("tables", &self.tables.len())
            .finish_non_exhaustive()
    }
}

/// One table as BI tools are told of it.
#[derive(Clone, Debug)]
pub struct TableInfo {
    /// The domain, `lake`, `work` or `system`.
    pub catalog: String,
    /// The product version, the domain in `lake` or `work`, or a part of `system`.
    pub schema: String,
    /// The port, the stream or the model.
    pub name: String,
    /// How clients should list it.
    pub kind: TableKind,
    /// As declared; what clients get has passed through [`crate::wire::wire_schema`]. A field's metadata
    /// under `description` is shown as the column's remark.
    pub arrow_schema: SchemaRef,
    /// In the words of its owner.
    pub description: Option<String>,
    /// Columns that together tell rows apart; empty where none are declared.
    pub primary_key: Vec<String>,
    /// References to other tables' primary keys.
    pub foreign_keys: Vec<ForeignKey>,
}

impl TableInfo {
    /// The name a query uses: `catalog.schema.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}.{}", self.catalog, self.schema, self.name)
    }
}

/// How clients list a table; Flight SQL's table types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// Stored: a port, a stream, a model.
    Table,
    /// Derived when read: the newest version of a product under its plain name.
    View,
    /// What Starmere knows about itself.
    System,
}

impl TableKind {
    /// Every kind, in no particular order.
    pub const ALL: [Self; 3] = [Self::Table, Self::View, Self::System];

    /// Flight SQL's and JDBC's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Table => "TABLE",
            Self::View => "VIEW",
            Self::System => "SYSTEM TABLE",
        }
    }
}

/// One reference of a table to another's primary key. Column `columns[i]` points at `to_columns[i]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The columns that refer.
    pub columns: Vec<String>,
    /// Catalog, schema and name of the table referred to.
    pub to: [String; 3],
    /// The columns referred to, as many as `columns`.
    pub to_columns: Vec<String>,
}

#[cfg(test)]
mod tests {
    use datafusion::catalog::MemoryCatalogProvider;

    use super::*;
    use crate::{Limits, Rights, testing};

    #[tokio::test]
    async fn models_that_are_no_ports_need_the_right_that_raw_events_need() {
        let view = testing::queries(Limits::default()).view().await.unwrap();
        view.context.register_catalog("work", Arc::new(MemoryCatalogProvider::new()));
        let model = TableInfo { catalog: "work".to_owned(), ..view.tables[0].clone() };
        let tables = view.tables.iter().cloned().chain([model]).collect();
        let view = View { tables, ..view };
        let seen_with = |rights: &[Right]| {
            let caller = Caller { user: "ana".to_owned(), rights: Rights::of(rights) };
            view.clone().seen_by(&caller)
        };
        let lists = |view: &View| view.tables.iter().any(|table| table.catalog == "work");
        assert!(lists(&seen_with(&[Right::Query, Right::Raw])));
        assert!(lists(&seen_with(&[Right::Raw])));
        let without = seen_with(&[Right::Query]);
        assert!(!lists(&without));
        let refused = without.context.sql("SELECT * FROM work.sales.order_lines").await.unwrap_err().to_string();
        assert!(refused.contains("may not query raw events"), "{refused}");
    }
}
