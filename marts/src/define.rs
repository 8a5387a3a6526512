//! `domains/<domain>/products/*.yaml`.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use starmere_models::define::{FieldType, ModelName, Names, Parsed, Placed};
use starmere_models::resolve::Port;

/// A data product in one version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProductFile {
    pub product: Placed<String>,
    pub version: Placed<u32>,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub owner: Option<String>,
    pub ports: IndexMap<String, Placed<PortFile>>,
}

/// A table of a product, and what it promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortFile {
    pub model: String,
    #[serde(default)]
    pub description: Option<String>,
    /// Columns that tell rows apart.
    #[serde(default)]
    pub primary_key: Option<Names>,
    /// Columns, and the port whose primary key they hold.
    #[serde(default)]
    pub foreign_keys: IndexMap<String, String>,
    /// The contract, in this order.
    pub columns: IndexMap<String, Placed<ColumnFile>>,
}

/// A column of a port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnFile {
    /// The model's column; the one of the same name where it is left out.
    #[serde(default)]
    pub from: Option<String>,
    /// The type promised; the model's where it is left out.
    #[serde(default, rename = "type")]
    pub field_type: Option<FieldType>,
    /// Whether rows may have no value.
    #[serde(default = "yes")]
    pub nullable: bool,
    #[serde(default)]
    pub description: Option<String>,
}

fn yes() -> bool {
    true
}

/// The ports of all products, by `domain.product_vN.port`, and the models behind them.
pub fn ports(products: &[(String, Parsed<ProductFile>)]) -> BTreeMap<String, Port> {
    let of = |(domain, parsed): &(String, Parsed<ProductFile>)| {
        let file = &parsed.definition;
        let (domain, schema) = (domain.clone(), format!("{}_v{}", *file.product, *file.version));
        let port = |(name, port): (&String, &Placed<PortFile>)| {
            let columns = port.columns.iter().map(|(column, file)| {
                let from = file.from.as_ref().unwrap_or(column);
                (column.clone(), from.clone())
            });
            let model = ModelName::new(&domain, &port.model);
            (format!("{domain}.{schema}.{name}"), Port { model, columns: columns.collect() })
        };
        file.ports.iter().map(port).collect::<Vec<_>>()
    };
    products.iter().flat_map(of).collect()
}
