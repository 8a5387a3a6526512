//! Events of a small shop, and what a naive reader makes of them.

use fastrand::Rng;

/// The streams of the project.
pub(crate) const STREAMS: [&str; 2] = ["customers", "orders"];

const CUSTOMERS: u32 = 12;

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Tells events apart.
    pub(crate) number: u64,
    /// When, in minutes. No two events happen at once.
    pub(crate) minute: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    Moved { customer: u32, city: u32 },
    Placed { customer: u32, quantities: Vec<i32> },
}

/// A row of the fact, and the city of the customer at that time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrderLine {
    pub(crate) order: String,
    pub(crate) number: i32,
    pub(crate) quantity: i32,
    pub(crate) city: Option<String>,
}

/// So many events; the order in which they are told is not the order in which they happened.
pub(crate) fn events(random: &mut Rng, count: u64) -> Vec<Event> {
    let mut minutes: Vec<u64> = (0..count).collect();
    random.shuffle(&mut minutes);
    let event = |(number, minute)| {
        let customer = random.u32(0..CUSTOMERS);
        let what = match random.u32(0..4) {
            0 => What::Moved { customer, city: random.u32(0..5) },
            _ => What::Placed { customer, quantities: (0..random.u32(1..4)).map(|_| random.i32(1..100)).collect() },
        };
        Event { number, minute, what }
    };
    (0..count).zip(minutes).map(event).collect()
}

impl Event {
    /// The stream that tells of it.
    pub(crate) fn stream(&self) -> &'static str {
        match self.what {
            What::Moved { .. } => STREAMS[0],
            What::Placed { .. } => STREAMS[1],
        }
    }

    /// The event as a line of JSON, without newline. `sent` tells copies apart.
    pub(crate) fn line(&self, sent: usize) -> String {
        let Self { number, minute, what } = self;
        let (day, hour, minute) = (1 + minute / 1440, minute / 60 % 24, minute % 60);
        let at = format!("2024-01-{day:02}T{hour:02}:{minute:02}:00Z");
        let body = match what {
            What::Moved { customer, city } => {
                format!(r#""type":"customer_moved","customer":"c{customer}","city":"city {city}""#)
            }
            What::Placed { customer, quantities } => {
                let lines: Vec<String> =
                    quantities.iter().map(|quantity| format!(r#"{{"quantity":{quantity}}}"#)).collect();
                let lines = lines.join(",");
                format!(r#""type":"order_placed","order":"o{number}","customer":"c{customer}","lines":[{lines}]"#)
            }
        };
        format!(r#"{{"sent":{sent},"id":"e{number}","at":"{at}",{body}}}"#)
    }
}

/// The rows of the fact, in order: each event once, each customer where it lived when it ordered.
pub(crate) fn expected(events: &[Event]) -> Vec<OrderLine> {
    let mut lines = Vec::new();
    for event in events {
        let What::Placed { customer, quantities } = &event.what else { continue };
        let city = city(events, *customer, event.minute);
        let numbered = (1..).zip(quantities);
        lines.extend(numbered.map(|(number, &quantity)| OrderLine {
            order: format!("o{}", event.number),
            number,
            quantity,
            city: city.clone(),
        }));
    }
    lines.sort();
    lines
}

/// Where a customer lived; the first move tells of the time before, too.
fn city(events: &[Event], of: u32, at: u64) -> Option<String> {
    let mut moves: Vec<(u64, u32)> = events
        .iter()
        .filter_map(|event| match event.what {
            What::Moved { customer, city } if customer == of => Some((event.minute, city)),
            _ => None,
        })
        .collect();
    moves.sort_unstable();
    let last = moves.iter().rev().find(|(minute, _)| *minute <= at).or(moves.first());
    last.map(|(_, city)| format!("city {city}"))
}
