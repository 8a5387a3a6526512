//! Streams whose rows were read anew after they had landed, and the tables that are made of them.
//!
//! A build adds to a table what is new in a stream. After a reread, that would leave rows of before in it. So a model whose
//! events come from such a stream, by way of other models too, gets tables of another name, which are filled from the lake,
//! as those of a definition that has changed. The name follows from the versions of the rereads, so all builds fill the same
//! tables, and one that died is gone on with.

use std::collections::{BTreeMap, BTreeSet};

use starmere_lake::catalog::CatalogSnapshot;
use starmere_lake::delta::Warehouse;
use starmere_lake::paths::TablePath;
use starmere_lake::reread::reread_at;

use crate::Result;
use crate::resolve::{Model, Models};

/// Streams that were reread, and the last version by which each was.
#[derive(Clone, Debug, Default)]
pub struct Rereads(BTreeMap<String, u64>);

impl FromIterator<(String, u64)> for Rereads {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(rereads: I) -> Self {
        Self(rereads.into_iter().collect())
    }
}

impl Rereads {
    /// Those of the streams of `models`, up to their newest versions.
    pub async fn of(warehouse: &Warehouse, models: &Models) -> Result<Self> {
        let mut rereads = BTreeMap::new();
        for stream in models.streams.values() {
            let newest = warehouse.table(TablePath::stream(&stream.domain, &stream.name)).snapshot().await?;
            rereads.extend(newest.and_then(|newest| Some((stream.name.clone(), reread_at(&newest)?))));
        }
        Ok(Self(rereads))
    }

    /// The streams that were reread after `published` and that a model's events come from: its published tables have rows of
    /// before.
    pub fn since(&self, published: &CatalogSnapshot, models: &Models, model: &Model) -> Vec<&str> {
        let is_new = |stream: &&str| {
            let of = models.streams.get(*stream).map(|of| format!("lake.{}.{}", of.domain, of.name));
            let pin = of.and_then(|name| published.tables.get(&name));
            pin.is_none_or(|pin| self.0.get(*stream).is_some_and(|&at| pin.version < at))
        };
        self.reaching(models, model).into_iter().filter(is_new).collect()
    }

    /// The fingerprint in the paths of a model's tables that have no rows of before.
    pub fn fingerprint(&self, models: &Models, model: &Model) -> String {
        format!("{}{}", model.fingerprint(), self.generation(models, model))
    }

    /// What follows the fingerprint of a model there; nothing where no stream of its was reread.
    pub(crate) fn generation(&self, models: &Models, model: &Model) -> String {
        let reaching = self.reaching(models, model);
        if reaching.is_empty() {
            return String::new();
        }
        let of = |stream: &str| format!("{stream}\n{}\n", self.0.get(stream).copied().unwrap_or_default());
        let all: String = reaching.into_iter().map(of).collect();
        format!("-r{:016x}", xxhash_rust::xxh3::xxh3_64(all.as_bytes()))
    }

    /// Of the streams that a model's events come from, by way of other models too, those that were reread.
    fn reaching(&self, models: &Models, model: &Model) -> BTreeSet<&str> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut next = vec![model];
        while let Some(model) = next.pop() {
            if self.0.is_empty() || !seen.insert(model.name()) {
                continue;
            }
            let streams = model.streams();
            found.extend(self.0.keys().map(String::as_str).filter(|stream| streams.contains(stream)));
            next.extend(model.inputs().into_iter().filter_map(|input| models.get(input)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use starmere_lake::catalog::Pin;

    use super::*;
    use crate::define::{ModelName, parse_text};
    use crate::resolve::{Definitions, resolve};

    const CUSTOMERS: &str = "
stream: customers
domain: sales
envelope: { id: id, type: type, time: at }
events: { moved: { versions: { 1: { fields: { customer_id: { type: string, required: true }, city: { type: string } } } } } }
";
    const ORDERS: &str = "
stream: orders
domain: sales
envelope: { id: id, type: type, time: at }
events: { placed: { versions: { 1: { fields: { customer_id: { type: string }, quantity: { type: int } } } } } }
";
    const CUSTOMER: &str = "
dimension: customer
key: customer_id
from:
  - { stream: customers, event: moved, as: state }
attributes:
  city: { type: string, history: version }
";
    const PLACED: &str = "
fact: placed
from: { stream: orders, event: placed }
grain: [event_id]
dimensions:
  customer: { dimension: customer, key: customer_id }
measures:
  quantity: { type: int }
";

    fn models() -> Models {
        let domain = || "sales".to_owned();
        let definitions = Definitions {
            streams: vec![parse_text(CUSTOMERS, "customers").unwrap(), parse_text(ORDERS, "orders").unwrap()],
            dimensions: vec![(domain(), parse_text(CUSTOMER, "customer").unwrap())],
            facts: vec![(domain(), parse_text(PLACED, "placed").unwrap())],
            ..Definitions::default()
        };
        resolve(&definitions).unwrap()
    }

    fn rereads<const N: usize>(of: [(&str, u64); N]) -> Rereads {
        of.into_iter().map(|(stream, at)| (stream.to_owned(), at)).collect()
    }

    #[test]
    fn what_is_made_of_a_reread_stream_gets_other_tables() {
        let models = models();
        let model = |name: &str| models.get(&ModelName::new("sales", name)).unwrap();
        let generations =
            |rereads: &Rereads| ["customer", "placed"].map(|name| rereads.generation(&models, model(name)));
        assert_eq!(generations(&Rereads::default()), ["", ""]);
        let [customer, placed] = generations(&rereads([("orders", 3)]));
        assert!(customer.is_empty() && placed.starts_with("-r"), "{placed}");
        let [customer, later] = generations(&rereads([("orders", 7)]));
        assert!(customer.is_empty() && later != placed, "{later}");
        // A fact is keyed by its dimensions.
        let of_customers = generations(&rereads([("customers", 3)]));
        assert!(of_customers.iter().all(|generation| generation.starts_with("-r")), "{of_customers:?}");
    }

    #[test]
    fn published_tables_have_rows_of_before_until_their_streams_are_published_later() {
        let models = models();
        let placed = models.get(&ModelName::new("sales", "placed")).unwrap();
        let published = |orders: u64| {
            let pin = |stream: &str, version| Pin {
                path: TablePath::stream("sales", stream),
                version,
                consumed: BTreeMap::new(),
            };
            let tables = [("customers", 1), ("orders", orders)];
            let tables = tables.map(|(stream, version)| (format!("lake.sales.{stream}"), pin(stream, version)));
            CatalogSnapshot { tables: tables.into(), ..CatalogSnapshot::default() }
        };
        let rereads = rereads([("orders", 3)]);
        let since = |orders| rereads.since(&published(orders), &models, placed).len();
        assert_eq!([2, 3, 4].map(since), [1, 0, 0]);
        assert_eq!(rereads.since(&CatalogSnapshot::default(), &models, placed), ["orders"]);
    }
}
