//! The merchandise system's events: departments, categories, and products in two generations of its schema.

use super::amount::Amount;
use super::json::{Field, Object};
use super::lines::{Body, Event};
use super::random::Random;
use super::time::{self, CLOSES, DAY, Micros, OPENS, SECOND};

#[derive(Clone)]
pub(super) enum CatalogEvent {
    Department {
        department: u32,
        name: String,
    },
    Category {
        category: u32,
        name: String,
        department: Field<u32>,
    },
    Listed(Record),
    Changed(Record),
    Delisted {
        version: u8,
        product: Option<u32>,
    },
    /// No model reads this one.
    Viewed {
        product: u32,
    },
}

/// A product's; version 1 of a change says nothing about prices.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) version: u8,
    pub(super) product: Option<u32>,
    pub(super) name: Field<String>,
    pub(super) price: Field<Amount>,
    pub(super) category: Field<u32>,
}

pub(super) fn product_id(product: u32) -> String {
    format!("P-{:05}", product + 1)
}

pub(super) fn category_id(category: u32) -> String {
    format!("K-{:02}", category + 1)
}

pub(super) fn department_id(department: u32) -> String {
    format!("D-{}", department + 1)
}

impl Body for CatalogEvent {
    fn event_type(&self) -> &'static str {
        match self {
            CatalogEvent::Department { .. } => "department_changed",
            CatalogEvent::Category { .. } => "category_changed",
            CatalogEvent::Listed(_) => "product_listed",
            CatalogEvent::Changed(_) => "product_changed",
            CatalogEvent::Delisted { .. } => "product_delisted",
            CatalogEvent::Viewed { .. } => "product_viewed",
        }
    }

    fn version(&self) -> u8 {
        match self {
            CatalogEvent::Listed(record) | CatalogEvent::Changed(record) => record.version,
            CatalogEvent::Delisted { version, .. } => *version,
            CatalogEvent::Department { .. } | CatalogEvent::Category { .. } | CatalogEvent::Viewed { .. } => 1,
        }
    }

    fn write(&self, object: &mut Object, random: &mut Random) {
        let mut inner = object.inner();
        let around = match self {
            CatalogEvent::Department { department, name } => {
                inner.text("id", &department_id(*department));
                inner.text("name", name);
                "department"
            }
            CatalogEvent::Category { category, name, department } => {
                inner.text("id", &category_id(*category));
                inner.text("name", name);
                inner.text_field("department_id", department.map(department_id));
                "category"
            }
            CatalogEvent::Listed(record) | CatalogEvent::Changed(record) => record.write(&mut inner, random),
            CatalogEvent::Delisted { version, product } => {
                let (around, key, _, _) = words(*version);
                inner.text_field(key, Field::from(product.map(product_id)));
                around
            }
            CatalogEvent::Viewed { product } => {
                inner.text("id", &product_id(*product));
                "product"
            }
        };
        object.object(around, inner);
    }
}

/// What a version calls a product, its id, its name and its category.
fn words(version: u8) -> (&'static str, &'static str, &'static str, &'static str) {
    match version {
        1 => ("item", "sku", "title", "category"),
        _ => ("product", "id", "name", "category_id"),
    }
}

impl Record {
    fn write(&self, inner: &mut Object, random: &mut Random) -> &'static str {
        let (around, key, name, category) = words(self.version);
        inner.text_field(key, Field::from(self.product.map(product_id)));
        inner.text_field(name, self.name.as_ref());
        match self.price {
            Field::Absent => {}
            Field::Null => inner.json("price", "null"),
            Field::Is(price) if self.version == 1 => price.write_with_comma("price", inner),
            Field::Is(price) => price.write("price", inner, random),
        }
        inner.text_field(category, self.category.map(category_id));
        around
    }
}

pub(super) struct Catalog {
    pub(super) events: Vec<Event<CatalogEvent>>,
    /// When each product of the catalog was listed, and for how many cents.
    pub(super) listed: Vec<(Micros, i32)>,
    /// How many more there are, known to nobody but who sells them.
    pub(super) unannounced: u32,
}

const DEPARTMENTS: [&str; 6] = ["Küche", "Bücher", "Garten", "Spielzeug", "Sport", "Büro"];
const KINDS: [&str; 4] = ["neu", "gebraucht", "für Kinder", "Zubehör"];
const CATEGORIES: u32 = (DEPARTMENTS.len() * KINDS.len()) as u32;

/// Mentioned by products, and by categories, but never announced.
const UNANNOUNCED_CATEGORIES: u32 = 3;
const UNANNOUNCED_DEPARTMENTS: u32 = 1;

pub(super) fn draw(orders: usize, random: &mut Random) -> Catalog {
    let count = (orders / 50).clamp(60, 20_000);
    let mut catalog = Catalog { events: Vec::new(), listed: Vec::new(), unannounced: (count / 50).max(3) as u32 };
    classify(&mut catalog.events, random);
    for product in 0..count as u32 {
        let until = if random.per_mille(750) { OPENS } else { CLOSES - 60 * DAY };
        let listed = time::moment(random, OPENS - 120 * DAY, until);
        let cents = random.between(199, 20_000) as i32;
        catalog.listed.push((listed, cents));
        live(product, listed, cents, &mut catalog.events, random);
    }
    for (place, event) in catalog.events.iter_mut().enumerate() {
        event.id = (!random.per_mille(3)).then_some(place as u32 + 1);
    }
    contradict(&mut catalog.events, random);
    catalog
}

/// Departments and categories, announced before the shop opens, sometimes later, and now and then changed.
fn classify(events: &mut Vec<Event<CatalogEvent>>, random: &mut Random) {
    let mut tell = |at, body| events.push(Event { id: None, at, body });
    for (department, name) in (0..).zip(DEPARTMENTS) {
        let at = time::moment(random, OPENS - 200 * DAY, OPENS);
        tell(at, CatalogEvent::Department { department, name: name.to_owned() });
        if random.per_mille(300) {
            let at = time::moment(random, OPENS, CLOSES);
            tell(at, CatalogEvent::Department { department, name: format!("{name} & mehr") });
        }
    }
    for category in 0..CATEGORIES {
        let place = category as usize;
        let name = format!("{}, {}", DEPARTMENTS[place / KINDS.len()], KINDS[place % KINDS.len()]);
        let home = (place / KINDS.len()) as u32;
        let at = time::moment(random, OPENS - 200 * DAY, OPENS);
        let department = if category == 7 { Field::Is(DEPARTMENTS.len() as u32) } else { Field::Is(home) };
        tell(at, CatalogEvent::Category { category, name: name.clone(), department });
        while random.per_mille(400) {
            let at = time::moment(random, OPENS, CLOSES);
            let other = random.below(DEPARTMENTS.len() + UNANNOUNCED_DEPARTMENTS as usize) as u32;
            let department =
                random.pick(&[Field::Is(home), Field::Is(other), Field::Is(other), Field::Null, Field::Absent]);
            tell(at, CatalogEvent::Category { category, name: name.clone(), department });
        }
    }
}

/// One product's life, from its first listing on.
fn live(product: u32, listed: Micros, cents: i32, events: &mut Vec<Event<CatalogEvent>>, random: &mut Random) {
    let mut tell = |at, body| events.push(Event { id: None, at, body });
    tell(listed, CatalogEvent::Listed(record(product, cents, version(listed, random), random)));
    let mut at = listed;
    while random.per_mille(700) {
        at = time::moment(random, at + 2 * SECOND, at + 250 * DAY);
        if at > CLOSES {
            return;
        }
        let version = version(at, random);
        match random.below(100) {
            0..80 => tell(at, CatalogEvent::Changed(patch(product, cents, version, random))),
            80..86 => {
                tell(at, CatalogEvent::Changed(patch(product, cents, version, random)));
                tell(at, CatalogEvent::Changed(patch(product, cents, 2, random)));
            }
            86..94 => tell(at, CatalogEvent::Listed(record(product, cents, version, random))),
            94..98 => tell(at, CatalogEvent::Viewed { product }),
            98 => tell(at, CatalogEvent::Delisted { version, product: None }),
            _ => tell(at, CatalogEvent::Listed(Record { product: None, ..record(product, cents, version, random) })),
        }
    }
    if random.per_mille(80) {
        at += random.between(DAY, 300 * DAY);
        tell(at | 1, CatalogEvent::Delisted { version: version(at, random), product: Some(product) });
        if random.per_mille(400) {
            at = time::moment(random, at + DAY, at + 60 * DAY);
            let version = version(at, random);
            let again = match random.below(2) {
                0 => CatalogEvent::Listed(record(product, cents, version, random)),
                _ => CatalogEvent::Changed(patch(product, cents, version, random)),
            };
            tell(at, again);
        }
    }
}

/// The second generation took over in 2024, not everywhere at once.
fn version(at: Micros, random: &mut Random) -> u8 {
    let new = if at < time::days(2024, 1, 1) * DAY { 100 } else { 900 };
    if random.per_mille(new) { 2 } else { 1 }
}

fn record(product: u32, cents: i32, version: u8, random: &mut Random) -> Record {
    let price = match random.below(1000) {
        0..4 => Field::Is(Amount::Words),
        4..8 if version == 2 => Field::Is(Amount::TooPrecise),
        8..18 => Field::Null,
        18..24 => Field::Absent,
        _ => Field::Is(Amount::Cents(cents)),
    };
    Record {
        version,
        product: Some(product),
        name: Field::Is(name(product, random)),
        price,
        category: category(random),
    }
}

fn patch(product: u32, cents: i32, version: u8, random: &mut Random) -> Record {
    let nothing =
        Record { version, product: Some(product), name: Field::Absent, price: Field::Absent, category: Field::Absent };
    match random.below(100) {
        0..60 if version == 2 => {
            let cents = cents * random.between(80, 121) as i32 / 100;
            let price = if random.per_mille(30) { Field::Null } else { Field::Is(Amount::Cents(cents)) };
            Record { price, ..nothing }
        }
        0..85 => Record { category: category(random), ..nothing },
        _ => Record { name: Field::Is(name(product, random)), ..nothing },
    }
}

fn category(random: &mut Random) -> Field<u32> {
    match random.below(1000) {
        0..20 => Field::Null,
        20..40 => Field::Absent,
        40..60 => Field::Is(CATEGORIES + random.below(UNANNOUNCED_CATEGORIES as usize) as u32),
        _ => Field::Is(random.below(CATEGORIES as usize) as u32),
    }
}

fn name(product: u32, random: &mut Random) -> String {
    let what = random.pick(&[
        "Krug",
        "Bücherstütze",
        "Gießkanne",
        "Brettspiel",
        "Fußball",
        "Füller",
        "Crème-Löffel",
        "お茶碗",
    ]);
    format!("{what} {}", product % 97)
}

/// Adds copies that have an event's id but say something else, at the same instant or another.
fn contradict(events: &mut Vec<Event<CatalogEvent>>, random: &mut Random) {
    for _ in 0..(events.len() / 200).max(2) {
        let original = &events[random.below(events.len())];
        if let (Some(id), CatalogEvent::Changed(record)) = (original.id, &original.body)
            && record.version == 2
        {
            let at = original.at + random.pick(&[0, 0, 2 * SECOND, -2 * SECOND]);
            let body = CatalogEvent::Changed(Record { price: Field::Is(Amount::Cents(1)), ..record.clone() });
            events.push(Event { id: Some(id), at, body });
        }
    }
}
