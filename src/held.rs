//! What a breach holds back, and what is published all the same. Pure.
//!
//! ```text
//! a product breaks its contract ─► its tables stay as they are published, and so does
//!    what was built from a table that stays           (it was made of rows that are not published)
//!    what a table that stays was made of, if it moved (the table has the keys and the events of then)
//!    every table of a product of which one moved and stays: a product is published whole
//! ```
//!
//! So no table of the next snapshot was made of another version of an input than the one beside it: old ones stand with
//! old ones, and new ones with new ones. A table that was never published stays unpublished.

use std::collections::{BTreeMap, BTreeSet};

use starmere_lake::catalog::{CatalogSnapshot, Pin};
use starmere_marts::contract::Breach;
use starmere_marts::meaning::{Described, Meaning, Port};

/// Tables by their names in a catalog snapshot.
type Tables = BTreeMap<String, Pin>;

/// The model or the stream that a table is of: a model has several.
pub(crate) fn owner(table: &str) -> &str {
    table.split_once('/').map_or(table, |(model, _)| model)
}

/// The product of a port: `sales.orders_v1`.
fn product(port: &Port) -> String {
    format!("{}.{}", port.domain, port.schema())
}

/// The product of a breach.
pub(crate) fn product_of(breach: &Breach) -> &str {
    breach.port.rsplit_once('.').map_or(breach.port.as_str(), |(product, _)| product)
}

/// What a build does not publish.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Held {
    /// Models and streams whose tables stay as they are published.
    owners: BTreeSet<String>,
    products: BTreeSet<String>,
}

impl Held {
    /// What stays of what is published, where these products of what was built break their contracts.
    pub(crate) fn by(
        breached: &BTreeSet<String>,
        (published, before): (&Tables, &Meaning),
        (built, now): (&Tables, &Meaning),
    ) -> Self {
        let products = tables_of_products(before, now);
        let moved = |table: &str| {
            let at = |tables: &Tables| tables.get(table).map(|pin| (pin.path.clone(), pin.version));
            at(published) != at(built)
        };
        let mut held = Self { owners: BTreeSet::new(), products: breached.clone() };
        loop {
            let mut more: BTreeSet<&str> = BTreeSet::new();
            let stays = |table: &str| held.has(table) && moved(table);
            let is_whole = |(product, tables): &(&String, &BTreeSet<&str>)| {
                !held.products.contains(*product) && tables.iter().any(|table| stays(table))
            };
            let others: Vec<String> = products.iter().filter(is_whole).map(|(product, _)| product.clone()).collect();
            for tables in held.products.iter().filter_map(|product| products.get(product)) {
                more.extend(tables.iter().map(|table| owner(table)));
            }
            for (table, pin) in built {
                if pin.consumed.keys().any(|input| stays(input)) {
                    more.insert(owner(table));
                }
            }
            for (table, pin) in published {
                if held.has(table) {
                    let inputs = pin.consumed.keys().filter(|input| moved(input));
                    more.extend(inputs.map(|input| owner(input)));
                }
            }
            more.retain(|owner| !held.owners.contains(*owner));
            if more.is_empty() && others.is_empty() {
                return held;
            }
            held.owners.extend(more.into_iter().map(str::to_owned));
            held.products.extend(others);
        }
    }

    /// Whether a table stays as it is published.
    pub(crate) fn has(&self, table: &str) -> bool {
        self.owners.contains(owner(table))
    }

    /// The tables of the next snapshot: what stays, what was built, and of all else what is still known.
    pub(crate) fn tables(&self, published: &Tables, built: &Tables, known: &BTreeSet<String>) -> Tables {
        let stays = published.iter().filter(|(name, _)| known.contains(*name) || self.has(name));
        let built = built.iter().filter(|(name, _)| !self.has(name));
        stays.chain(built).map(|(name, pin)| (name.clone(), pin.clone())).collect()
    }

    /// What the next snapshot says of its tables: of what stays, what the published one says.
    pub(crate) fn meaning(&self, before: &Meaning, now: &Meaning) -> Meaning {
        let is_held = |port: &&Port| self.products.contains(&product(port));
        let goes_on = now.ports.iter().filter(|port| !is_held(port));
        let mut ports: Vec<Port> = goes_on.chain(before.ports.iter().filter(is_held)).cloned().collect();
        ports.sort_by_cached_key(Port::full_name);
        // A key of a port that is not there yet is none that somebody could join by.
        let there: BTreeSet<String> = ports.iter().map(Port::full_name).collect();
        for port in &mut ports {
            port.foreign_keys.retain(|key| there.contains(&key.to.join(".")));
        }
        let described = |before: &[Described], now: &[Described]| {
            let goes_on = now.iter().filter(|described| !self.has(&described.name));
            goes_on.chain(before.iter().filter(|described| self.has(&described.name))).cloned().collect()
        };
        Meaning {
            ports,
            models: described(&before.models, &now.models),
            streams: described(&before.streams, &now.streams),
        }
    }
}

/// The tables of each product that is defined: those that it shows now, and those that it shows as it is published.
fn tables_of_products<'a>(before: &'a Meaning, now: &'a Meaning) -> BTreeMap<String, BTreeSet<&'a str>> {
    let mut products: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for port in &now.ports {
        products.entry(product(port)).or_default().insert(&port.table);
    }
    for port in &before.ports {
        if let Some(tables) = products.get_mut(&product(port)) {
            tables.insert(&port.table);
        }
    }
    products
}

/// A build that has published less than it has built, since rows break contracts.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.words())]
pub(crate) struct HeldBack {
    pub(crate) breaches: Vec<Breach>,
    /// What the models behind the breaches are declared as.
    kinds: BTreeSet<String>,
    products: BTreeSet<String>,
    /// Ports of these products.
    pub(crate) ports: usize,
    /// The newest snapshot.
    snapshot: u64,
    /// This build has published it.
    published: bool,
}

impl HeldBack {
    /// What is said of these breaches, where `held` stays, and the newest snapshot was published by this build or not.
    pub(crate) fn of(
        breaches: Vec<Breach>,
        held: &Held,
        now: &Meaning,
        (newest, published): (&CatalogSnapshot, bool),
    ) -> Self {
        let breached = now.ports.iter().filter(|port| breaches.iter().any(|breach| breach.port == port.full_name()));
        let kinds = breached.map(|port| port.kind.clone()).collect();
        let is_held = |port: &&Port| held.products.contains(&product(port));
        let ports = now.ports.iter().filter(is_held).count();
        Self { breaches, kinds, products: held.products.clone(), ports, snapshot: newest.number, published }
    }

    fn words(&self) -> String {
        let breaches: Vec<String> = self.breaches.iter().map(ToString::to_string).collect();
        let products: Vec<String> = self.products.iter().map(|product| format!("`{product}`")).collect();
        let rest = match self.published {
            true => format!("all else is published: catalog snapshot {}", self.snapshot),
            false => format!("nothing else is new: catalog snapshot {} stays", self.snapshot),
        };
        format!("{}; held back: {}; {rest}", breaches.join("; "), products.join(", "))
    }

    /// What to do about rows that are not as promised.
    pub(crate) fn hint(&self) -> String {
        let events = match self.breaches.iter().any(|breach| !breach.events.is_empty()) {
            true => "see the events with `starmere trace --event ID`",
            false => "find the events with `starmere sql` in `lake.<domain>.<stream>`",
        };
        let mends: BTreeSet<&str> = self
            .kinds
            .iter()
            .map(|kind| match kind.as_str() {
                "fact" => "leave such rows out with `where:` in the model",
                "sql" => "leave such rows out in the model's SELECT",
                _ => "mend the model",
            })
            .collect();
        format!(
            "readers of what is held back keep what they had, and nothing is lost; {events}; then {}, or loosen the \
             contract, and run `starmere build`",
            mends.into_iter().collect::<Vec<_>>().join(", ")
        )
    }
}

#[cfg(test)]
mod tests;
