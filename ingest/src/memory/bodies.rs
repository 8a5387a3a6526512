//! Bodies of requests that hold memory, and which of them gives it up when another request finds none.
//!
//! A body that comes at its client's pace *offers* its memory each second, and says how much has come within it. A
//! request that has waited for room takes up an offer:
//!
//! ```text
//! body comes ──► a second is over: offered ──► another request waits: taken up ──► dropped, answered 408
//!                   │ the body is whole, or waits for room: kept
//! ```
//!
//! The sender that holds most gives first: of its bodies, the one of which least came in its last second. So a sender
//! cannot keep others waiting with bodies that drip, however many connections and addresses they have:
//!
//! * A small body is never taken. All connections together may hold one each.
//! * A body that comes at [`LEAST_PER_SECOND`] or more is only taken for a sender that holds less than this one, or for
//!   the same sender.
//! * One body is taken at a time: the next one only after the memory of the one before has been given back.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// A body of which fewer bytes came within its last second is given up for anybody.
const LEAST_PER_SECOND: usize = 256 << 10;

/// Who sends a request: a user, or an address where there are no users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sender(Arc<str>);

impl Sender {
    /// The sender of this name; an address is a name, too.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

/// The bodies of all requests. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Bodies(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    next: u64,
    bodies: HashMap<u64, Body>,
}

#[derive(Debug)]
struct Body {
    sender: Sender,
    /// What it holds.
    bytes: usize,
    /// What came of it within the last second, where its memory is offered.
    offered: Option<usize>,
    taken_up: CancellationToken,
}

impl Bodies {
    /// A body that holds nothing yet, until the place is dropped.
    pub(super) fn begin(&self, sender: Sender) -> Place {
        let taken_up = CancellationToken::new();
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        let body = Body { sender: sender.clone(), bytes: 0, offered: None, taken_up: taken_up.clone() };
        table.bodies.insert(number, body);
        Place { bodies: self.clone(), number, sender, taken_up }
    }

    /// Takes up an offer for this sender, if there is one for it. `small` is what a body holds without being asked.
    pub(super) fn take_up(&self, wanted_by: &Sender, small: usize) {
        let mut table = self.table();
        let Table { bodies, .. } = &mut *table;
        if bodies.values().any(|body| body.taken_up.is_cancelled()) {
            return;
        }
        let mut held: HashMap<Sender, usize> = HashMap::new();
        for body in bodies.values() {
            *held.entry(body.sender.clone()).or_default() += body.bytes;
        }
        let held_by = |sender: &Sender| held.get(sender).copied().unwrap_or_default();
        let own = held_by(wanted_by);
        let offers = bodies.values_mut().filter_map(|body| {
            let (came, held) = (body.offered?, held_by(&body.sender));
            let gives = came < LEAST_PER_SECOND || held > own || body.sender == *wanted_by;
            (gives && body.bytes > small).then_some((held, Reverse(came), body))
        });
        if let Some((_, _, body)) = offers.max_by_key(|(held, came, _)| (*held, *came)) {
            body.offered = None;
            body.taken_up.cancel();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One body among all.
#[derive(Debug)]
pub(super) struct Place {
    bodies: Bodies,
    number: u64,
    pub(super) sender: Sender,
    /// Cancelled when the body has to give its memory up.
    pub(super) taken_up: CancellationToken,
}

impl Place {
    /// Notes what the body holds now.
    pub(super) fn note(&self, bytes: usize) {
        self.change(|body| body.bytes = bytes);
    }

    /// Offers what the body holds, of which so many bytes came within the last second; or takes the offer back.
    pub(super) fn offer(&self, came: Option<usize>) {
        self.change(|body| body.offered = came.filter(|_| !body.taken_up.is_cancelled()));
    }

    fn change(&self, change: impl FnOnce(&mut Body)) {
        if let Some(body) = self.bodies.table().bodies.get_mut(&self.number) {
            change(body);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bodies.table().bodies.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies of senders, what they hold and what came of them.
    fn bodies<const N: usize>(all: [(&str, usize, Option<usize>); N]) -> (Bodies, [Place; N]) {
        let bodies = Bodies::default();
        let places = all.map(|(sender, bytes, came)| {
            let place = bodies.begin(Sender::new(sender));
            place.note(bytes);
            place.offer(came);
            place
        });
        (bodies, places)
    }

    fn taken(places: &[Place]) -> Vec<usize> {
        (0..places.len()).filter(|&place| places[place].taken_up.is_cancelled()).collect()
    }

    #[test]
    fn the_slowest_body_of_the_sender_that_holds_most_gives_its_memory_up() {
        let (bodies, places) =
            bodies([("a", 90, Some(5)), ("a", 80, Some(1)), ("a", 500, None), ("b", 100, Some(0)), ("a", 10, Some(0))]);
        bodies.take_up(&Sender::new("c"), 10);
        assert_eq!(taken(&places), [1]);
        bodies.take_up(&Sender::new("c"), 10);
        assert_eq!(taken(&places), [1], "its memory has not been given back yet");
        drop(places);
        assert!(bodies.table().bodies.is_empty());
    }

    #[test]
    fn bodies_that_come_well_are_taken_for_senders_that_hold_less_alone() {
        let fast = Some(LEAST_PER_SECOND);
        for (wanted_by, expected) in [("more", vec![]), ("less", vec![0]), ("same", vec![0])] {
            let (bodies, places) = bodies([("same", 50, fast), ("more", 60, None), ("less", 40, None)]);
            bodies.take_up(&Sender::new(wanted_by), 10);
            assert_eq!(taken(&places), expected, "{wanted_by}");
        }
        let (bodies, places) = bodies([("slow", 50, Some(LEAST_PER_SECOND - 1)), ("more", 60, None)]);
        bodies.take_up(&Sender::new("more"), 10);
        assert_eq!(taken(&places), [0]);
    }

    #[test]
    fn what_is_kept_is_not_taken() {
        let (bodies, places) = bodies([("a", 50, Some(0))]);
        places[0].offer(None);
        bodies.take_up(&Sender::new("b"), 10);
        assert!(taken(&places).is_empty());
        places[0].offer(Some(0));
        bodies.take_up(&Sender::new("b"), 50);
        assert!(taken(&places).is_empty(), "it is small");
    }
}
