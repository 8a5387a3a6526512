//! What a catalog snapshot says of its tables: enough to serve them without the project's definitions.

use serde::{Deserialize, Serialize};
use starmere_lake::catalog::CatalogSnapshot;
use starmere_lake::{Error, Result, paths};

/// The products and streams of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meaning {
    pub ports: Vec<Port>,
    pub models: Vec<Described>,
    pub streams: Vec<Described>,
}

impl Meaning {
    /// What `snapshot` says; nothing where nothing is published yet.
    pub fn of(snapshot: &CatalogSnapshot) -> Result<Self> {
        if snapshot.meaning.is_null() {
            return Ok(Self::default());
        }
        serde_json::from_value(snapshot.meaning.clone()).map_err(|error| Error::Corrupt {
            path: paths::catalog(None, snapshot.number).to_string(),
            reason: format!("its meaning cannot be read: {error}"),
        })
    }
}

/// A stream or a model: its name in the catalog, what it is, what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Described {
    pub name: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A port of a product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    pub domain: String,
    pub product: String,
    pub version: u32,
    pub name: String,
    /// The table behind it, by its name in the snapshot.
    pub table: String,
    /// What the model behind it is declared as: `dimension`, `fact`, `periodic_snapshot`, …
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub columns: Vec<Column>,
    pub primary_key: Vec<String>,
    pub foreign_keys: Vec<ForeignKey>,
}

impl Port {
    /// The schema of its version: `orders_v1`.
    pub fn schema(&self) -> String {
        format!("{}_v{}", self.product, self.version)
    }

    /// Its full name: `sales.orders_v1.order_lines`.
    pub fn full_name(&self) -> String {
        format!("{}.{}.{}", self.domain, self.schema(), self.name)
    }
}

/// A column of a port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    /// The table's column.
    pub from: String,
    #[serde(rename = "type")]
    pub data_type: String,
    pub nullable: bool,
    /// What it is for: `key of customers.customer`, `measure, additive`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub means: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// Columns that hold the primary key of another port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForeignKey {
    pub columns: Vec<String>,
    /// `[domain, schema, port]`.
    pub to: [String; 3],
    pub to_columns: Vec<String>,
}
