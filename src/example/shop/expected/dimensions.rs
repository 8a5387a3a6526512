//! What each dimension should hold: every member's versions, and who is only spoken of.

use std::collections::{BTreeMap, BTreeSet};

use super::super::amount::{Amount, decimal};
use super::super::catalog::{self, CatalogEvent};
use super::super::customers::{self, CustomerEvent};
use super::super::json::Field;
use super::super::lines::Event;
use super::super::time::{self, Micros};
use super::history::{Change, History, Version, versions};

/// Members by their number, each with its versions in the order of time.
#[derive(Default)]
pub(super) struct Dimension {
    pub(super) members: BTreeMap<u32, Vec<Version>>,
    /// Members without events of their own.
    pub(super) inferred: BTreeSet<u32>,
    /// Events that do not fit.
    pub(super) rejects: u64,
    attributes: usize,
}

impl Dimension {
    /// The values of the member at an instant: `None` where it isn't known.
    pub(super) fn as_of(&self, member: u32, at: Micros) -> Option<&Version> {
        self.members.get(&member)?.iter().find(|version| version.from <= at && at < version.to)
    }

    pub(super) fn latest(&self, member: u32) -> Option<&Version> {
        self.members.get(&member)?.last()
    }

    /// Versions, members that are only spoken of, and the unknown member.
    pub(super) fn rows(&self) -> usize {
        self.members.values().map(Vec::len).sum::<usize>() + self.inferred.len() + 1
    }

    /// All rows but the unknown member's: natural key, values, from, to, deleted, inferred.
    pub(super) fn listed(&self, id: fn(u32) -> String) -> Vec<Vec<String>> {
        let row = |member: u32, version: &Version, inferred: bool| {
            let mut row = vec![id(member)];
            row.extend(version.values.iter().map(|value| value.clone().unwrap_or_default()));
            row.extend([time::instant(version.from), time::instant(version.to)]);
            row.extend([version.deleted.to_string(), inferred.to_string()]);
            row
        };
        let nothing =
            Version { from: time::BEGINNING, to: time::END, deleted: false, values: vec![None; self.attributes] };
        let mut rows: Vec<Vec<String>> = Vec::new();
        for (member, versions) in &self.members {
            rows.extend(versions.iter().map(|version| row(*member, version, false)));
        }
        rows.extend(self.inferred.iter().map(|member| row(*member, &nothing, true)));
        rows.sort();
        rows
    }

    fn infer(&mut self, mentioned: BTreeSet<u32>) {
        self.inferred = mentioned.into_iter().filter(|member| !self.members.contains_key(member)).collect();
    }
}

/// An event as one dimension sees it.
enum Seen {
    Change(u32, Change),
    Reject,
    NotMine,
}

fn fold<B>(events: &[&Event<B>], histories: &[History], see: impl Fn(&B) -> Seen) -> Dimension {
    let mut changes: BTreeMap<u32, Vec<(Micros, Change)>> = BTreeMap::new();
    let mut dimension = Dimension { attributes: histories.len(), ..Dimension::default() };
    for event in events {
        match see(&event.body) {
            Seen::Change(member, change) => changes.entry(member).or_default().push((event.at, change)),
            Seen::Reject => dimension.rejects += 1,
            Seen::NotMine => {}
        }
    }
    for (member, changes) in changes {
        dimension.members.insert(member, versions(&changes, histories));
    }
    dimension
}

pub(super) const CUSTOMER: [&str; 5] = ["name", "city", "segment", "first_channel", "signed_up_on"];
pub(super) const SEGMENT: usize = 2;

pub(super) fn customer(events: &[&Event<CustomerEvent>], mentioned: BTreeSet<u32>) -> Dimension {
    use History::{Keep, Overwrite, Version};
    let mut dimension = fold(events, &[Overwrite, Version, Version, Keep, Overwrite], |event| {
        let (record, whole) = match event {
            CustomerEvent::Registered(record) => (record, true),
            CustomerEvent::Changed(record) => (record, false),
            CustomerEvent::Deleted { customer: Some(customer) } => return Seen::Change(*customer, Change::Delete),
            CustomerEvent::Deleted { customer: None } => return Seen::Reject,
            CustomerEvent::LoggedIn { .. } => return Seen::NotMine,
        };
        let unfit = matches!(&record.signed_up_on, Field::Is(text) if !time::is_date(text));
        let Some(customer) = record.customer.filter(|_| !unfit) else {
            return Seen::Reject;
        };
        let values = vec![
            record.name.clone(),
            record.city.map(str::to_owned),
            record.segment.map(str::to_owned),
            record.channel.map(str::to_owned),
            record.signed_up_on.clone(),
        ];
        Seen::Change(customer, if whole { Change::State(values) } else { Change::Patch(values) })
    });
    dimension.infer(mentioned);
    dimension
}

pub(super) const PRODUCT: [&str; 3] = ["name", "price", "category_id"];
pub(super) const PRODUCT_CATEGORY: usize = 2;
pub(super) const CATEGORY_DEPARTMENT: usize = 1;
pub(super) const DEPARTMENT_NAME: usize = 0;

/// The three levels of the snowflake. References are held by the parent's natural key.
pub(super) struct Snowflake {
    pub(super) product: Dimension,
    pub(super) category: Dimension,
    pub(super) department: Dimension,
}

pub(super) fn snowflake(events: &[&Event<CatalogEvent>]) -> Snowflake {
    use History::{Overwrite, Version};
    let product = fold(events, &[Overwrite, Version, Version], |event| {
        let (record, whole) = match event {
            CatalogEvent::Listed(record) => (record, true),
            CatalogEvent::Changed(record) => (record, false),
            CatalogEvent::Delisted { product: Some(product), .. } => return Seen::Change(*product, Change::Delete),
            CatalogEvent::Delisted { product: None, .. } => return Seen::Reject,
            _ => return Seen::NotMine,
        };
        let unfit = matches!(record.price, Field::Is(price) if !price.fits());
        let Some(product) = record.product.filter(|_| !unfit) else {
            return Seen::Reject;
        };
        let price = record.price.map(|price| price.cents().map(decimal).unwrap_or_default());
        let values = vec![record.name.clone(), price, record.category.map(catalog::category_id)];
        Seen::Change(product, if whole { Change::State(values) } else { Change::Patch(values) })
    });
    let mut category = fold(events, &[Overwrite, Version], |event| match event {
        CatalogEvent::Category { category, name, department } => {
            let values = vec![Field::Is(name.clone()), department.map(catalog::department_id)];
            Seen::Change(*category, Change::State(values))
        }
        _ => Seen::NotMine,
    });
    let mut department = fold(events, &[Overwrite], |event| match event {
        CatalogEvent::Department { department, name } => {
            Seen::Change(*department, Change::State(vec![Field::Is(name.clone())]))
        }
        _ => Seen::NotMine,
    });
    category.infer(events.iter().filter_map(|event| category_of(&event.body)).collect());
    department.infer(events.iter().filter_map(|event| department_of(&event.body)).collect());
    Snowflake { product, category, department }
}

/// The category that an event which the product dimension takes speaks of.
fn category_of(event: &CatalogEvent) -> Option<u32> {
    match event {
        CatalogEvent::Listed(record) | CatalogEvent::Changed(record) => {
            let fits =
                record.product.is_some() && !matches!(record.price, Field::Is(Amount::Words | Amount::TooPrecise));
            record.category.or_null().filter(|_| fits)
        }
        _ => None,
    }
}

fn department_of(event: &CatalogEvent) -> Option<u32> {
    match event {
        CatalogEvent::Category { department, .. } => department.or_null(),
        _ => None,
    }
}

/// The number in a natural key such as `K-07`, which counts from one.
pub(super) fn number(natural_key: &str) -> Option<u32> {
    natural_key.split_once('-')?.1.parse::<u32>().ok()?.checked_sub(1)
}

pub(super) const CUSTOMER_ID: fn(u32) -> String = customers::id;
pub(super) const PRODUCT_ID: fn(u32) -> String = catalog::product_id;
pub(super) const CATEGORY_ID: fn(u32) -> String = catalog::category_id;
