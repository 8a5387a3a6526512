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

    /// Of which key a column is a part: `primary`, or the port that a foreign key refers to, which nobody checks.
    pub fn key_of(&self, column: &str) -> Option<String> {
        if self.primary_key.iter().any(|key| key == column) {
            return Some("primary".to_owned());
        }
        let key = self.foreign_keys.iter().find(|key| key.columns.iter().any(|own| own == column))?;
        Some(format!("{} (informational)", key.to.join(".")))
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;
    use starmere_lake::catalog::{Definitions, Pin};
    use starmere_lake::format_number::FORMAT;
    use starmere_lake::paths::TablePath;

    use super::*;

    /// A snapshot in which nothing is left out.
    fn full() -> CatalogSnapshot {
        let some = || Some("x".to_owned());
        let described = Described { name: "x".into(), kind: "x".into(), description: some() };
        let column = Column {
            name: "x".into(),
            from: "x".into(),
            data_type: "int".into(),
            nullable: true,
            means: some(),
            description: some(),
        };
        let to = ["x", "x", "x"].map(str::to_owned);
        let foreign_key = ForeignKey { columns: vec!["x".into()], to, to_columns: vec!["x".into()] };
        let port = Port {
            domain: "x".into(),
            product: "x".into(),
            version: 1,
            name: "x".into(),
            table: "x".into(),
            kind: "x".into(),
            description: some(),
            owner: some(),
            columns: vec![column],
            primary_key: vec!["x".into()],
            foreign_keys: vec![foreign_key],
        };
        let meaning = Meaning { ports: vec![port], models: vec![described.clone()], streams: vec![described] };
        let consumed = BTreeMap::from([("any".to_owned(), 1)]);
        let pin = Pin { path: TablePath::stream("d", "s"), version: 1, consumed };
        let definitions = Definitions { number: 1, fingerprint: "x".into() };
        CatalogSnapshot {
            tables: BTreeMap::from([("any".to_owned(), pin)]),
            meaning: serde_json::to_value(meaning).unwrap(),
            defined_at: Some(1),
            superseded: vec![definitions.clone()],
            definitions: Some(definitions),
            ..CatalogSnapshot::default()
        }
    }

    /// Adds the keys in `value`, by their paths from the top.
    fn add(keys: &mut BTreeSet<String>, path: &str, value: &Value) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let path = format!("{path}.{key}");
                    add(keys, &path, value);
                    keys.insert(path);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| add(keys, path, value)),
            _ => {}
        }
    }

    #[test]
    fn a_key_below_the_top_of_a_snapshot_raises_the_format() {
        let mut keys = BTreeSet::new();
        add(&mut keys, "", &serde_json::to_value(full()).unwrap());
        let top = "defined_at definitions meaning number publish_id published_at superseded tables";
        let below = [
            (".definitions", "fingerprint number"),
            (".meaning", "models ports streams"),
            (".meaning.models", "description kind name"),
            (
                ".meaning.ports",
                "columns description domain foreign_keys kind name owner primary_key product table version",
            ),
            (".meaning.ports.columns", "description from means name nullable type"),
            (".meaning.ports.foreign_keys", "columns to to_columns"),
            (".meaning.streams", "description kind name"),
            (".superseded", "fingerprint number"),
            (".tables", "any"),
            (".tables.any", "consumed path version"),
            (".tables.any.consumed", "any"),
        ];
        let expected = std::iter::once(("", top)).chain(below);
        let expected: BTreeSet<String> =
            expected.flat_map(|(path, keys)| keys.split(' ').map(move |key| format!("{path}.{key}"))).collect();
        assert_eq!(
            (FORMAT, keys),
            (1, expected),
            "binaries of this format drop keys below the top: raise `FORMAT` where one must not be lost"
        );
    }
}
