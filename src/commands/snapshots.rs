//! Catalog snapshots, for whoever wants to go back to one.

use std::collections::BTreeSet;
use std::ops::Range;

use starmere_lake::Error as LakeError;
use starmere_lake::catalog::{Catalog, CatalogSnapshot};
use starmere_marts::meaning::Meaning;

use super::inspect::{Cell, Holds, listing};
use crate::output::{Output, counted};

/// So many snapshots are listed.
const LISTED: usize = 20;
/// So many tables that a snapshot has changed are named.
const NAMED: usize = 4;

/// Lists the newest snapshots with time and content, or those about a number.
pub(super) async fn list(catalog: &Catalog, about: Option<u64>, output: &Output) -> anyhow::Result<()> {
    let numbers = catalog.numbers().await?;
    let window = window(&numbers, about);
    let mut before = match window.start.checked_sub(1) {
        Some(place) => read(catalog, numbers[place]).await?.ok(),
        None => Some(CatalogSnapshot::default()),
    };
    let mut rows = Vec::new();
    for &number in &numbers[window.clone()] {
        let snapshot = read(catalog, number).await?;
        rows.push(match &snapshot {
            Ok(snapshot) => row(snapshot, before.as_ref())?,
            Err(damage) => {
                vec![Cell::Number(number), Cell::Nothing, Cell::Nothing, Cell::Nothing, Cell::Text(damage.clone())]
            }
        });
        before = snapshot.ok();
    }
    let left_out = numbers.len() - rows.len();
    if left_out > 0 {
        output.say(format!("{} are not listed", counted(left_out as u64, "other snapshot", "other snapshots")));
    }
    let columns = [
        ("snapshot", Holds::Number),
        ("published (UTC)", Holds::Text),
        ("definitions", Holds::Number),
        ("products", Holds::Texts),
        ("changed", Holds::Text),
    ];
    listing(output, &columns, &rows)
}

/// The places of the numbers that are listed: the newest, or as many on both sides of one. Pure.
fn window(numbers: &[u64], about: Option<u64>) -> Range<usize> {
    let place = about.map_or(numbers.len(), |about| numbers.partition_point(|&number| number < about));
    let start = place.saturating_sub(LISTED / 2).min(numbers.len().saturating_sub(LISTED));
    start..numbers.len().min(start + LISTED)
}

/// A snapshot, or why it cannot be read: clean-up may have deleted it just now.
async fn read(catalog: &Catalog, number: u64) -> anyhow::Result<Result<CatalogSnapshot, String>> {
    match catalog.at(number).await {
        Ok(snapshot) => Ok(Ok(snapshot)),
        Err(LakeError::DamagedSnapshot { reason, .. }) => Ok(Err(format!("damaged: {reason}"))),
        Err(LakeError::Missing { .. }) => Ok(Err("deleted".to_owned())),
        Err(error) => Err(error.into()),
    }
}

fn row(snapshot: &CatalogSnapshot, before: Option<&CatalogSnapshot>) -> anyhow::Result<Vec<Cell>> {
    let published = chrono::DateTime::from_timestamp_millis(snapshot.published_at);
    let published = published.map_or(Cell::Nothing, |at| Cell::Text(at.format("%Y-%m-%d %H:%M:%S").to_string()));
    let definitions = snapshot.definitions.as_ref().map_or(Cell::Nothing, |of| Cell::Number(of.number));
    let meaning = Meaning::of(snapshot)?;
    let products: BTreeSet<String> =
        meaning.ports.iter().map(|port| format!("{}.{}", port.domain, port.schema())).collect();
    let changed = before.map_or(Cell::Nothing, |before| Cell::Text(changed(before, snapshot)));
    Ok(vec![
        Cell::Number(snapshot.number),
        published,
        definitions,
        Cell::Texts(products.into_iter().collect()),
        changed,
    ])
}

/// The models and streams of which a snapshot has other rows than the one before it. Pure.
fn changed(before: &CatalogSnapshot, snapshot: &CatalogSnapshot) -> String {
    let differs = |name: &&String| {
        let at = |of: &CatalogSnapshot| of.tables.get(*name).map(|pin| (pin.path.clone(), pin.version));
        !name.contains('/') && at(before) != at(snapshot)
    };
    let names: BTreeSet<&String> = before.tables.keys().chain(snapshot.tables.keys()).filter(differs).collect();
    let mut words: Vec<String> = names.iter().take(NAMED).map(|name| (*name).clone()).collect();
    if names.len() > NAMED {
        words.push(format!("{} more", names.len() - NAMED));
    }
    match words.is_empty() {
        true => "nothing but what is said of tables".to_owned(),
        false => words.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use starmere_lake::catalog::Pin;
    use starmere_lake::paths::TablePath;

    use super::*;

    #[test]
    fn the_newest_are_listed_or_those_about_a_number() {
        let numbers: Vec<u64> = (1..=50).map(|number| number * 2).collect();
        assert_eq!(window(&numbers, None), 30..50);
        assert_eq!(window(&numbers, Some(99)), 30..50);
        assert_eq!(window(&numbers, Some(41)), 10..30);
        assert_eq!(window(&numbers, Some(1)), 0..20);
        assert_eq!(window(&numbers[..3], Some(9)), 0..3);
        assert_eq!(window(&[], None), 0..0);
    }

    #[test]
    fn what_has_changed_is_named_as_far_as_it_is_little() {
        let snapshot = |versions: &[(&str, u64)]| {
            let pin = |name: &str, version| {
                let path = TablePath::model("d", name, "f", "rows");
                (name.to_owned(), Pin { path, version, consumed: Default::default() })
            };
            let tables = versions.iter().map(|(name, version)| pin(name, *version)).collect();
            CatalogSnapshot { tables, ..CatalogSnapshot::default() }
        };
        let first = snapshot(&[("d.a", 1), ("d.a/rejects", 1), ("d.b", 1)]);
        assert_eq!(changed(&first, &first), "nothing but what is said of tables");
        assert_eq!(changed(&first, &snapshot(&[("d.a", 2), ("d.a/rejects", 2), ("d.b", 1)])), "d.a");
        let many: Vec<(&str, u64)> = ["a", "b", "c", "d", "e", "f"].map(|name| (name, 1)).to_vec();
        assert_eq!(changed(&snapshot(&[]), &snapshot(&many)), "a, b, c, d, 2 more");
    }
}
