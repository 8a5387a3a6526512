//! The customer service's events.

use super::json::{Field, Object};
use super::lines::{Body, Event};
use super::random::Random;
use super::time::{self, CLOSES, DAY, Micros, OPENS, SECOND};

#[derive(Clone)]
pub(super) enum CustomerEvent {
    Registered(Record),
    Changed(Record),
    Deleted {
        customer: Option<u32>,
    },
    /// No model reads this one.
    LoggedIn {
        customer: u32,
    },
}

#[derive(Clone)]
pub(super) struct Record {
    pub(super) customer: Option<u32>,
    pub(super) name: Field<String>,
    pub(super) city: Field<&'static str>,
    pub(super) segment: Field<&'static str>,
    pub(super) channel: Field<&'static str>,
    /// Not always a day that exists.
    pub(super) signed_up_on: Field<String>,
}

pub(super) fn id(customer: u32) -> String {
    format!("C-{:06}", customer + 1)
}

impl Body for CustomerEvent {
    fn event_type(&self) -> &'static str {
        match self {
            CustomerEvent::Registered(_) => "customer_registered",
            CustomerEvent::Changed(_) => "customer_changed",
            CustomerEvent::Deleted { .. } => "customer_deleted",
            CustomerEvent::LoggedIn { .. } => "customer_logged_in",
        }
    }

    fn version(&self) -> u8 {
        1
    }

    fn write(&self, object: &mut Object, _: &mut Random) {
        let mut inner = object.inner();
        match self {
            CustomerEvent::Registered(record) | CustomerEvent::Changed(record) => {
                inner.text_field("id", Field::from(record.customer.map(id)));
                inner.text_field("full_name", record.name.as_ref());
                inner.text_field("city", record.city);
                inner.text_field("segment", record.segment);
                inner.text_field("channel", record.channel);
                inner.text_field("signed_up_on", record.signed_up_on.as_ref());
            }
            CustomerEvent::Deleted { customer } => inner.text_field("id", Field::from(customer.map(id))),
            CustomerEvent::LoggedIn { customer } => inner.text("id", &id(*customer)),
        }
        object.object("customer", inner);
    }
}

pub(super) struct Customers {
    pub(super) events: Vec<Event<CustomerEvent>>,
    /// When each announced customer registered.
    pub(super) registered: Vec<Micros>,
}

pub(super) fn draw(orders: usize, random: &mut Random) -> Customers {
    let count = (orders / 8).max(60);
    let mut customers = Customers { events: Vec::new(), registered: Vec::new() };
    for customer in 0..count as u32 {
        let since = OPENS - 180 * DAY;
        let until = if random.per_mille(600) { OPENS } else { CLOSES - 30 * DAY };
        let registered = time::moment(random, since, until);
        customers.registered.push(registered);
        live(customer, registered, &mut customers.events, random);
    }
    for (place, event) in customers.events.iter_mut().enumerate() {
        event.id = (!random.per_mille(3)).then_some(place as u32 + 1);
    }
    contradict(&mut customers.events, random);
    customers
}

/// One customer's life, from registration on.
fn live(customer: u32, registered: Micros, events: &mut Vec<Event<CustomerEvent>>, random: &mut Random) {
    let mut tell = |at, body| events.push(Event { id: None, at, body });
    if random.per_mille(4) {
        // Whoever left before the service began to tell is known by that alone.
        tell(registered | 1, CustomerEvent::Deleted { customer: Some(customer) });
        return;
    }
    tell(registered, CustomerEvent::Registered(record(customer, registered, random)));
    if random.per_mille(30) {
        tell(registered, CustomerEvent::Changed(patch(customer, random)));
    }
    let mut at = registered;
    while random.per_mille(620) {
        at = time::moment(random, at + 2 * SECOND, at + 300 * DAY);
        if at > CLOSES {
            return;
        }
        match random.below(100) {
            0..84 => tell(at, CustomerEvent::Changed(patch(customer, random))),
            84..88 => {
                tell(at, CustomerEvent::Changed(patch(customer, random)));
                tell(at, CustomerEvent::Changed(patch(customer, random)));
            }
            88..94 => tell(at, CustomerEvent::Registered(record(customer, at, random))),
            94..97 => tell(at, CustomerEvent::LoggedIn { customer }),
            97 => tell(at, CustomerEvent::Changed(Record { customer: None, ..patch(customer, random) })),
            _ => tell(at, CustomerEvent::Deleted { customer: None }),
        }
    }
    if random.per_mille(60) {
        at += random.between(DAY, 200 * DAY);
        tell(at | 1, CustomerEvent::Deleted { customer: Some(customer) });
        if random.per_mille(100) {
            at += DAY;
            tell(at | 1, CustomerEvent::Deleted { customer: Some(customer) });
        }
        if random.per_mille(500) {
            at = time::moment(random, at + DAY, at + 90 * DAY);
            let again = match random.below(2) {
                0 => CustomerEvent::Registered(record(customer, at, random)),
                _ => CustomerEvent::Changed(patch(customer, random)),
            };
            tell(at, again);
            let later = time::moment(random, at + DAY, at + 90 * DAY);
            tell(later, CustomerEvent::Changed(patch(customer, random)));
        }
    }
}

/// A whole record: what is left out is null.
fn record(customer: u32, at: Micros, random: &mut Random) -> Record {
    let day = time::date(at.div_euclid(DAY));
    Record {
        customer: Some(customer),
        name: now_and_then_not(name(random), 10, random),
        city: now_and_then_not(random.pick(&CITIES), 20, random),
        segment: now_and_then_not(segment(random), 20, random),
        channel: now_and_then_not(random.pick(&CHANNELS), 200, random),
        signed_up_on: if random.per_mille(4) { Field::Is("2024-02-30".to_owned()) } else { Field::Is(day) },
    }
}

/// Part of a record: what is left out stays. It speaks of the channel only by itself, so that of two patches
/// at one instant never both do: the first value is to stay, and which is first would be a matter of taste.
fn patch(customer: u32, random: &mut Random) -> Record {
    let nothing = Record {
        customer: Some(customer),
        name: Field::Absent,
        city: Field::Absent,
        segment: Field::Absent,
        channel: Field::Absent,
        signed_up_on: Field::Absent,
    };
    match random.below(100) {
        0..40 => Record { city: now_and_then_not(random.pick(&CITIES), 50, random), ..nothing },
        40..60 => Record { segment: now_and_then_not(segment(random), 50, random), ..nothing },
        60..75 => Record { name: now_and_then_not(name(random), 20, random), ..nothing },
        75..95 => Record { city: Field::Is(random.pick(&CITIES)), segment: Field::Is(segment(random)), ..nothing },
        95..98 => Record { signed_up_on: Field::Is("2022-12-24".to_owned()), ..nothing },
        _ => nothing,
    }
}

fn now_and_then_not<T>(value: T, per_mille: usize, random: &mut Random) -> Field<T> {
    match random.below(2000) {
        chance if chance < per_mille => Field::Null,
        chance if chance < 2 * per_mille => Field::Absent,
        _ => Field::Is(value),
    }
}

/// Adds copies that have an event's id but say something else, at the same instant or another.
fn contradict(events: &mut Vec<Event<CustomerEvent>>, random: &mut Random) {
    for _ in 0..(events.len() / 400).max(2) {
        let original = &events[random.below(events.len())];
        if let (Some(id), CustomerEvent::Changed(record)) = (original.id, &original.body) {
            let at = original.at + random.pick(&[0, 0, 2 * SECOND, -2 * SECOND]);
            let body = CustomerEvent::Changed(Record { city: Field::Is("Nowhere"), ..record.clone() });
            events.push(Event { id: Some(id), at, body });
        }
    }
}

fn segment(random: &mut Random) -> &'static str {
    match random.below(100) {
        0..70 => "consumer",
        70..92 => "business",
        _ => "public",
    }
}

fn name(random: &mut Random) -> String {
    format!("{} {}", random.pick(&GIVEN), random.pick(&FAMILY))
}

const CHANNELS: [&str; 5] = ["web", "store", "phone", "partner", "fair"];

const CITIES: [&str; 20] = [
    "Berlin",
    "München",
    "Köln",
    "Zürich",
    "Wien",
    "Łódź",
    "Kraków",
    "København",
    "Malmö",
    "Reykjavík",
    "Paris",
    "Nîmes",
    "A Coruña",
    "São Paulo",
    "İzmir",
    "Αθήνα",
    "Київ",
    "東京",
    "서울",
    "القاهرة",
];

const GIVEN: [&str; 20] = [
    "Anna",
    "Zoë",
    "Łukasz",
    "José",
    "Renée",
    "Søren",
    "Þóra",
    "Aylin",
    "Νίκος",
    "Олена",
    "美咲",
    "민준",
    "نور",
    "Mary-Jane",
    "D'Arcy",
    "Jean \"Jo\"",
    "Günter",
    "Åsa",
    "Ines",
    "🎈Bo",
];

const FAMILY: [&str; 16] = [
    "Müller",
    "O'Brien",
    "Nowak",
    "García, Jr.",
    "Sørensen",
    "Jónsdóttir",
    "Yılmaz",
    "Παπαδόπουλος",
    "Шевченко",
    "佐藤",
    "김",
    "حسن",
    "van der Berg",
    "Lindström",
    "Fernández\\Ruiz",
    "d’Angelo",
];
