//! The checkouts' events, in two generations of their schema.

use std::ops::Range;

use super::amount::{Amount, Quantity};
use super::catalog::{self, Catalog};
use super::customers::{self, Customers};
use super::json::{Field, Object};
use super::lines::{Body, Event};
use super::random::Random;
use super::time::{self, CLOSES, DAY, Micros, OPENS, SECOND};

#[derive(Clone)]
pub(super) enum OrderEvent {
    Placed(Order),
    /// No model reads this one.
    Abandoned,
}

#[derive(Clone)]
pub(super) struct Order {
    pub(super) number: Option<u32>,
    pub(super) version: u8,
    pub(super) customer: Field<u32>,
    pub(super) promised: Promised,
    /// Version 1 knows none.
    pub(super) shipping: Field<Amount>,
    pub(super) currency: u8,
    pub(super) lines: Field<Vec<Line>>,
}

#[derive(Clone, Copy)]
pub(super) enum Promised {
    Never,
    On {
        days: i32,
    },
    /// On the thirty-first of February.
    Unfit,
}

#[derive(Clone)]
pub(super) struct Line {
    pub(super) product: Field<u32>,
    pub(super) quantity: Quantity,
    pub(super) price: Amount,
    /// Version 1 knows none.
    pub(super) discount: Field<Amount>,
}

pub(super) fn id(number: u32) -> String {
    format!("O-{number:07}")
}

const CURRENCIES: [&str; 3] = ["EUR", "eur", "Eur"];

impl Body for OrderEvent {
    fn event_type(&self) -> &'static str {
        match self {
            OrderEvent::Placed(_) => "order_placed",
            OrderEvent::Abandoned => "basket_abandoned",
        }
    }

    fn version(&self) -> u8 {
        match self {
            OrderEvent::Placed(order) => order.version,
            OrderEvent::Abandoned => 2,
        }
    }

    fn write(&self, object: &mut Object, random: &mut Random) {
        let OrderEvent::Placed(order) = self else {
            return object.json("basket", "{\"value\":\"much\"}");
        };
        let mut inner = object.inner();
        inner.text_field("id", Field::from(order.number.map(id)));
        let customer = if order.version == 1 { "client" } else { "customer_id" };
        inner.text_field(customer, order.customer.map(customers::id));
        order.write_promised(&mut inner);
        if order.version == 2 {
            inner.text("currency", CURRENCIES[order.currency as usize]);
            write_amount("shipping_fee", order.shipping, &mut inner, random);
        }
        match &order.lines {
            Field::Absent => {}
            Field::Null => inner.json("lines", "null"),
            Field::Is(lines) => {
                let lines = lines.iter().map(|line| line.write(order.version, inner.inner(), random)).collect();
                inner.array("lines", lines);
            }
        }
        object.object("order", inner);
    }
}

impl Order {
    fn write_promised(&self, inner: &mut Object) {
        let key = if self.version == 1 { "promised" } else { "promised_on" };
        match (self.promised, self.version) {
            (Promised::Never, 1) => {}
            (Promised::Never, _) => inner.json(key, "null"),
            (Promised::On { days }, 1) => {
                let (year, month, day) = time::civil(days.into());
                inner.text(key, &format!("{day:02}.{month:02}.{year:04}"));
            }
            (Promised::On { days }, _) => inner.text(key, &time::date(days.into())),
            (Promised::Unfit, 1) => inner.text(key, "31.02.2024"),
            (Promised::Unfit, _) => inner.text(key, "2024-02-31"),
        }
    }
}

impl Line {
    fn write(&self, version: u8, mut inner: Object, random: &mut Random) -> Object {
        if version == 1 {
            inner.text_field("sku", self.product.map(catalog::product_id));
            inner.text("qty", &self.quantity.text());
            self.price.write("price", &mut inner, random);
            return inner;
        }
        inner.text_field("product_id", self.product.map(catalog::product_id));
        if self.quantity == Quantity::Words || random.per_mille(150) {
            inner.text("quantity", &self.quantity.text());
        } else {
            inner.json("quantity", self.quantity.text());
        }
        self.price.write("unit_price", &mut inner, random);
        write_amount("discount", self.discount, &mut inner, random);
        inner
    }
}

fn write_amount(key: &'static str, amount: Field<Amount>, inner: &mut Object, random: &mut Random) {
    match amount {
        Field::Absent => {}
        Field::Null => inner.json(key, "null"),
        Field::Is(amount) => amount.write(key, inner, random),
    }
}

/// Orders of whom and of what there is, and of some more.
pub(super) struct Checkout<'a> {
    pub(super) customers: &'a Customers,
    pub(super) catalog: &'a Catalog,
    /// Customers who order without having been announced.
    pub(super) strangers: Range<usize>,
}

impl Checkout<'_> {
    /// So many orders; the first has the number and the event id `first`.
    pub(super) fn draw(&self, count: usize, first: u32, random: &mut Random) -> Vec<Event<OrderEvent>> {
        let mut events = Vec::with_capacity(count + count / 50);
        for number in (first..).take(count) {
            let at = time::moment(random, OPENS, CLOSES);
            let id = (!random.per_mille(3)).then_some(number);
            events.push(Event { id, at, body: OrderEvent::Placed(self.order(number, at, random)) });
        }
        events
    }

    fn order(&self, number: u32, at: Micros, random: &mut Random) -> Order {
        // The new checkout came in autumn 2024; until then it was tried on a few.
        let new = if at < time::days(2024, 10, 1) * DAY { 150 } else { 970 };
        let version = if random.per_mille(new) { 2 } else { 1 };
        let lines = match random.below(1000) {
            0..4 => Field::Is(Vec::new()),
            4 => Field::Absent,
            5 => Field::Null,
            _ => Field::Is((0..1 + random.below(5)).map(|_| self.line(version, at, random)).collect()),
        };
        let day = at.div_euclid(DAY) as i32;
        let promised = if random.per_mille(50) {
            Promised::Never
        } else {
            Promised::On { days: day + 1 + random.below(14) as i32 }
        };
        let mut order = Order {
            number: Some(number),
            version,
            customer: self.customer(at, random),
            promised,
            shipping: if version == 2 { random.pick(&SHIPPING) } else { Field::Absent },
            currency: if random.per_mille(850) { 0 } else { 1 + random.below(2) as u8 },
            lines,
        };
        if random.per_mille(5) {
            order.spoil(random);
        }
        order
    }

    fn line(&self, version: u8, at: Micros, random: &mut Random) -> Line {
        let (product, cents) = self.product(at, random);
        let quantity = match random.below(1000) {
            0..3 => 0,
            3..12 => -1,
            _ => 1 + (random.below(5) * random.below(5) / 3) as i32,
        };
        let discount = match random.below(10) {
            _ if version == 1 => Field::Absent,
            0..2 => Field::Is(Amount::Cents(random.between(1, i64::from(cents)) as i32)),
            2 => Field::Null,
            _ => Field::Absent,
        };
        Line { product, quantity: Quantity::Is(quantity), price: Amount::Cents(cents), discount }
    }

    fn customer(&self, at: Micros, random: &mut Random) -> Field<u32> {
        let announced = self.customers.registered.len();
        match random.below(1000) {
            0..4 => Field::Absent,
            4..6 => Field::Null,
            6..20 => Field::Is(random.between(self.strangers.start as i64, self.strangers.end as i64) as u32),
            // Whoever is not registered yet will be, weeks later.
            20..40 => Field::Is(random.below(announced) as u32),
            _ => Field::Is(before(at, announced, random, |customer| self.customers.registered[customer])),
        }
    }

    fn product(&self, at: Micros, random: &mut Random) -> (Field<u32>, i32) {
        let announced = self.catalog.listed.len();
        let product = match random.below(1000) {
            0 => return (Field::Null, 500),
            1..15 => {
                let product = announced + random.below(self.catalog.unannounced as usize);
                return (Field::Is(product as u32), 999);
            }
            15..35 => random.below(announced) as u32,
            _ => before(at, announced, random, |product| self.catalog.listed[product].0),
        };
        (Field::Is(product), self.catalog.listed[product as usize].1)
    }
}

const SHIPPING: [Field<Amount>; 5] = [
    Field::Absent,
    Field::Null,
    Field::Is(Amount::Cents(0)),
    Field::Is(Amount::Cents(490)),
    Field::Is(Amount::Cents(1290)),
];

/// One that was there by then, if luck has it.
fn before(at: Micros, count: usize, random: &mut Random, since: impl Fn(usize) -> Micros) -> u32 {
    let mut chosen = random.below(count);
    for _ in 0..30 {
        if since(chosen) <= at {
            break;
        }
        chosen = random.below(count);
    }
    chosen as u32
}

impl Order {
    /// Makes one field unfit for its type. An order without lines stays as it is.
    fn spoil(&mut self, random: &mut Random) {
        let Field::Is(lines) = &mut self.lines else { return };
        if lines.is_empty() {
            return;
        }
        let place = random.below(lines.len());
        let line = &mut lines[place];
        match random.below(if self.version == 1 { 5 } else { 9 }) {
            0 => line.quantity = Quantity::Words,
            1 => line.quantity = Quantity::TooLarge,
            2 => line.price = random.pick(&[Amount::TooPrecise, Amount::Words]),
            3 => self.promised = Promised::Unfit,
            4 => self.number = None,
            5 => line.quantity = Quantity::Fraction,
            6 => line.discount = Field::Is(random.pick(&[Amount::TooPrecise, Amount::Words])),
            _ => self.shipping = Field::Is(Amount::Words),
        }
    }
}

/// Adds copies that have an event's id but say something else, at the same instant or another, and events that
/// no model reads.
pub(super) fn contradict(events: &mut Vec<Event<OrderEvent>>, random: &mut Random) {
    let (count, mut id) = (events.len(), events.len() as u32);
    for _ in 0..(count / 500).max(2) {
        let original = &events[random.below(count)];
        if let (Some(id), OrderEvent::Placed(order)) = (original.id, &original.body) {
            let mut order = order.clone();
            if let Field::Is(lines) = &mut order.lines {
                lines.truncate(1);
                lines.iter_mut().for_each(|line| line.quantity = Quantity::Is(40));
            }
            let at = original.at + random.pick(&[0, 0, 2 * SECOND, -2 * SECOND]);
            events.push(Event { id: Some(id), at, body: OrderEvent::Placed(order) });
        }
        id += 1;
        events.push(Event { id: Some(id), at: time::moment(random, OPENS, CLOSES), body: OrderEvent::Abandoned });
    }
}
