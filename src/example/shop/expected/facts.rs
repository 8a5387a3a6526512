//! What each fact should hold, and what the star queries should say.

use std::collections::{BTreeMap, BTreeSet};

use super::super::amount::{Amount, decimal};
use super::super::json::Field;
use super::super::lines::Event;
use super::super::orders::{Line, Order, OrderEvent, Promised};
use super::super::time::{self, Micros};
use super::dimensions::{
    CATEGORY_DEPARTMENT, DEPARTMENT_NAME, Dimension, PRODUCT_CATEGORY, SEGMENT, Snowflake, number,
};

#[derive(Default)]
pub(super) struct Fact {
    pub(super) rows: u64,
    /// Events that do not fit.
    pub(super) rejects: u64,
}

impl Fact {
    fn take(&mut self, fits: bool, rows: usize) {
        if fits {
            self.rows += rows as u64;
        } else {
            self.rejects += 1;
        }
    }
}

#[derive(Default)]
pub(super) struct Total {
    lines: u64,
    quantity: i64,
    cents: i64,
}

impl Total {
    pub(super) fn columns(&self) -> [String; 3] {
        [self.lines.to_string(), self.quantity.to_string(), decimal(self.cents)]
    }

    fn add(&mut self, line: &Sold) {
        self.lines += 1;
        self.quantity += line.quantity;
        self.cents += line.cents;
    }
}

#[derive(Default)]
pub(super) struct Facts {
    pub(super) order_lines: Fact,
    pub(super) priced_lines: Fact,
    pub(super) orders: Fact,
    /// By segment as at the time of the order (empty: null) and month.
    pub(super) by_segment_month: BTreeMap<(String, String), Total>,
    /// By the latest department of the latest category of the product as at the time of the order.
    pub(super) by_department: BTreeMap<String, Total>,
}

/// A row of `order_lines`.
struct Sold {
    product: Option<u32>,
    quantity: i64,
    cents: i64,
}

/// The customers that `orders` and `order_lines` speak of.
pub(super) fn mentioned_customers(placed: &[&Event<OrderEvent>]) -> BTreeSet<u32> {
    let mut mentioned = BTreeSet::new();
    for order in placed.iter().filter_map(|event| order_of(event)) {
        let has_lines = lines_fit(order) && !sold(order).is_empty();
        if header_fits(order) && (fits(order.shipping) || has_lines) {
            mentioned.extend(order.customer.or_null());
        }
    }
    mentioned
}

pub(super) fn fold(placed: &[&Event<OrderEvent>], customer: &Dimension, snowflake: &Snowflake) -> Facts {
    let mut facts = Facts::default();
    for event in placed {
        let Some(order) = order_of(event) else { continue };
        let (header, lines) = (header_fits(order), lines_fit(order));
        let sold = if header && lines { sold(order) } else { Vec::new() };
        let discounts = lines_of(order).iter().all(|line| fits(line.discount));
        facts.orders.take(header && fits(order.shipping), 1);
        facts.order_lines.take(header && lines, sold.len());
        facts.priced_lines.take(header && lines && discounts, lines_of(order).len());
        for line in &sold {
            let segment = segment(order, event.at, customer);
            facts.by_segment_month.entry((segment, time::year_month(event.at))).or_default().add(line);
            facts.by_department.entry(department(line, event.at, snowflake)).or_default().add(line);
        }
    }
    facts
}

fn order_of(event: &Event<OrderEvent>) -> Option<&Order> {
    match &event.body {
        OrderEvent::Placed(order) => Some(order),
        OrderEvent::Abandoned => None,
    }
}

fn lines_of(order: &Order) -> &[Line] {
    match &order.lines {
        Field::Is(lines) => lines,
        Field::Absent | Field::Null => &[],
    }
}

/// What all three facts read: the number, which is required, the customer and the promised day.
fn header_fits(order: &Order) -> bool {
    order.number.is_some() && !matches!(order.promised, Promised::Unfit)
}

/// What both facts of lines read.
fn lines_fit(order: &Order) -> bool {
    lines_of(order).iter().all(|line| line.quantity.value().is_some() && line.price.fits())
}

fn fits(amount: Field<Amount>) -> bool {
    amount.or_null().is_none_or(Amount::fits)
}

/// The lines above zero, of an order that fits.
fn sold(order: &Order) -> Vec<Sold> {
    let mut rows = Vec::new();
    for line in lines_of(order) {
        if let (Some(quantity @ 1..), Some(price)) = (line.quantity.value(), line.price.cents()) {
            let quantity = i64::from(quantity);
            rows.push(Sold { product: line.product.or_null(), quantity, cents: quantity * price });
        }
    }
    rows
}

fn segment(order: &Order, at: Micros, customer: &Dimension) -> String {
    let version = order.customer.or_null().and_then(|member| customer.as_of(member, at));
    version.and_then(|version| version.values[SEGMENT].clone()).unwrap_or_default()
}

fn department(line: &Sold, at: Micros, snowflake: &Snowflake) -> String {
    let name = || {
        let product = snowflake.product.as_of(line.product?, at)?;
        let category = snowflake.category.latest(number(product.values[PRODUCT_CATEGORY].as_ref()?)?)?;
        let department = snowflake.department.latest(number(category.values[CATEGORY_DEPARTMENT].as_ref()?)?)?;
        department.values[DEPARTMENT_NAME].clone()
    };
    name().unwrap_or_default()
}
