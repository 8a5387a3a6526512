//! What the right answer is, worked out over the very events that were written and by none of the product's
//! code: everything in memory, every rule applied in the plainest way, however slow.
//!
//! The rules, as docs/definitions.md has them and where it leaves room as decided here:
//!
//! - Of the copies of an event (same stream, same id) the least by (occurred at, source, file, position) counts.
//! - An event is refused as a whole by a model that reads a field of it which does not fit its type.
//! - A member with events of its own takes nothing from having been mentioned; its first version begins at the
//!   beginning of time, so facts older than its first event find it.
//! - What an event mentions counts as mentioned, even when another event of the same instant takes it back.

mod csv;
mod dimensions;
mod facts;
mod history;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use self::dimensions::{CATEGORY_ID, CUSTOMER, CUSTOMER_ID, PRODUCT, PRODUCT_ID};
use self::facts::Total;
use super::catalog::CatalogEvent;
use super::customers::CustomerEvent;
use super::lines::{Event, Landed, Written};
use super::orders::OrderEvent;

/// A stream's events, and the lines that hold them.
pub(super) struct Stream<'a, B> {
    pub(super) events: &'a [Event<B>],
    /// Files first, then what was posted.
    pub(super) written: Vec<&'a Written>,
}

impl<B> Stream<'_, B> {
    /// Each event once, in the order of events.
    fn counted(&self) -> Vec<&Event<B>> {
        let mut landed: Vec<&Landed> = self.written.iter().flat_map(|written| &written.landed).collect();
        landed.sort();
        let mut seen = HashSet::new();
        let events = landed.into_iter().map(|landed| &self.events[landed.event as usize]);
        events.filter(|event| event.id.is_none_or(|id| seen.insert(id))).collect()
    }

    fn lines(&self) -> u64 {
        self.written.iter().map(|written| written.lines).sum()
    }

    fn broken(&self) -> u64 {
        self.written.iter().map(|written| written.broken).sum()
    }
}

/// Days from 2020 to 2030, and the unknown day.
const DATE_ROWS: usize = 11 * 365 + 3 + 1;

/// Writes the answers into the folder.
pub(super) fn write(
    into: &Path,
    customers: &Stream<'_, CustomerEvent>,
    catalog: &Stream<'_, CatalogEvent>,
    orders: &Stream<'_, OrderEvent>,
) -> io::Result<()> {
    fs::create_dir_all(into)?;
    let placed = orders.counted();
    let snowflake = dimensions::snowflake(&catalog.counted());
    let customer = dimensions::customer(&customers.counted(), facts::mentioned_customers(&placed));
    let facts = facts::fold(&placed, &customer, &snowflake);

    let total = |(keys, total): (Vec<String>, &Total)| [keys, total.columns().to_vec()].concat();
    csv::write(
        &into.join("revenue_by_segment_month.csv"),
        &["segment", "year_month", "lines", "quantity", "revenue"],
        facts
            .by_segment_month
            .iter()
            .map(|((segment, month), sums)| total((vec![segment.clone(), month.clone()], sums))),
    )?;
    csv::write(
        &into.join("revenue_by_department.csv"),
        &["department", "lines", "quantity", "revenue"],
        facts.by_department.iter().map(|(department, sums)| total((vec![department.clone()], sums))),
    )?;
    let period = ["valid_from", "valid_to", "is_deleted", "is_inferred"];
    let header = |key: &'static str, attributes: &[&'static str]| [&[key], attributes, &period].concat();
    csv::write(&into.join("customer_versions.csv"), &header("customer_id", &CUSTOMER), customer.listed(CUSTOMER_ID))?;
    csv::write(
        &into.join("product_versions.csv"),
        &header("product_id", &PRODUCT),
        snowflake.product.listed(PRODUCT_ID),
    )?;
    csv::write(
        &into.join("category_versions.csv"),
        &header("category_id", &["name", "department_id"]),
        snowflake.category.listed(CATEGORY_ID),
    )?;
    let counts = [
        ("landed", "customers", customers.lines()),
        ("landed", "orders", orders.lines()),
        ("landed", "products", catalog.lines()),
        ("landing_rejects", "customers", customers.broken()),
        ("landing_rejects", "orders", orders.broken()),
        ("landing_rejects", "products", catalog.broken()),
        ("model_rejects", "catalog.product", snowflake.product.rejects),
        ("model_rejects", "customers.customer", customer.rejects),
        ("model_rejects", "sales.order_lines", facts.order_lines.rejects),
        ("model_rejects", "sales.orders", facts.orders.rejects),
        ("model_rejects", "sales.priced_lines", facts.priced_lines.rejects),
        ("rows", "catalog.category", snowflake.category.rows() as u64),
        ("rows", "catalog.department", snowflake.department.rows() as u64),
        ("rows", "catalog.product", snowflake.product.rows() as u64),
        ("rows", "customers.customer", customer.rows() as u64),
        ("rows", "sales.date", DATE_ROWS as u64),
        ("rows", "sales.order_lines", facts.order_lines.rows),
        ("rows", "sales.orders", facts.orders.rows),
        ("rows", "sales.priced_lines", facts.priced_lines.rows),
    ];
    csv::write(
        &into.join("counts.csv"),
        &["kind", "name", "count"],
        counts.map(|(kind, name, count)| vec![kind.to_owned(), name.to_owned(), count.to_string()]),
    )
}
