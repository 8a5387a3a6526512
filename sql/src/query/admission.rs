//! Who runs now, and who waits.
//!
//! There are slots for all queries, and room beside them for what is small:
//!
//! ```text
//!   asks ──► slot free? ──────────────────────────► planned ──► runs
//!              │ no: room for small ones free? ───► planned ──► small: runs
//!              │ no                                    └── large ─┐
//!              ▼                                                 ▼
//!            waits for either                              waits for a slot
//! ```
//!
//! * What becomes free goes to the user who has the fewest slots; among those, to who has waited for longest. One user
//!   has at most a share of the slots, so another one finds some soon.
//! * A bounded number waits. When there are as many, one who asks takes the place of the latest query of the user who
//!   has the most waiting, if that user has more than the one who asks would have; else the one who asks is refused.
//! * A query that has left its slot while it waited for its reader comes before all who wait.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::limits::Limits;
use crate::error::QueryError;

/// What a place is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// The slots for all queries.
    General,
    /// The room for small ones, and for planning.
    Small,
}

/// Where a query may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wants {
    /// It is to be planned: anywhere.
    Either,
    /// It is known to be large.
    General,
    /// It was running already, and left its slot while it waited for its reader.
    Again,
}

/// The slots and who waits for them.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    general: usize,
    small: usize,
    /// Slots for all queries that each user has.
    users: HashMap<String, usize>,
    waiting: Vec<Waiting>,
    asked: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    user: String,
    wants: Wants,
    grant: oneshot::Sender<Place>,
}

/// A place among those that run; dropped, it goes to the next one.
#[derive(Debug)]
pub(super) struct Place {
    user: String,
    room: Room,
    of: Arc<Admission>,
}

impl Place {
    pub(super) fn room(&self) -> Room {
        self.room
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.left(&self.user, self.room);
    }
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), state: Mutex::default() }
    }

    /// A place, when there is one.
    ///
    /// # Errors
    /// `Busy` when too many wait, when somebody who has less takes this one's place, or when no place becomes free in
    /// time.
    pub(super) async fn place(self: &Arc<Self>, user: &str, wants: Wants) -> Result<Place, QueryError> {
        let waits = match self.ask(user, wants)? {
            Asked::Granted(place) => return Ok(place),
            Asked::Waits(waits) => waits,
        };
        let refused = |_| self.refusal();
        if wants == Wants::Again {
            return waits.await.map_err(refused);
        }
        let patience = self.limits.patience;
        match tokio::time::timeout(patience, waits).await {
            Ok(place) => place.map_err(refused),
            Err(_) => Err(QueryError::busy(format!("no query ended within {} s", patience.as_secs_f64()))),
        }
    }

    /// A slot for all queries, if one is free now.
    pub(super) fn general_now(self: &Arc<Self>, user: &str) -> Option<Place> {
        let room = self.state().take(&self.limits, user, Wants::General)?;
        Some(Place { user: user.to_owned(), room, of: Arc::clone(self) })
    }

    /// How many wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// How many run: in slots, and in the room for small ones.
    #[cfg(test)]
    pub(super) fn taken(&self) -> (usize, usize) {
        let state = self.state();
        (state.general, state.small)
    }

    fn ask(self: &Arc<Self>, user: &str, wants: Wants) -> Result<Asked, QueryError> {
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.grant.is_closed());
        if let Some(room) = state.take(&self.limits, user, wants) {
            return Ok(Asked::Granted(Place { user: user.to_owned(), room, of: Arc::clone(self) }));
        }
        if wants != Wants::Again && state.waiting.len() >= self.limits.waiting && !state.make_room_for(user) {
            return Err(self.refusal());
        }
        let (grant, waits) = oneshot::channel();
        state.asked += 1;
        let number = state.asked;
        state.waiting.push(Waiting { number, user: user.to_owned(), wants, grant });
        Ok(Asked::Waits(waits))
    }

    fn refusal(&self) -> QueryError {
        QueryError::busy(format!("{} queries run and {} wait already", self.limits.running, self.limits.waiting))
    }

    fn left(self: &Arc<Self>, user: &str, room: Room) {
        let mut state = self.state();
        state.leave(user, room);
        let mut granted = Vec::new();
        while let Some((waiting, room)) = state.next(&self.limits) {
            let place = Place { user: waiting.user, room, of: Arc::clone(self) };
            granted.push((waiting.grant, place));
        }
        drop(state);
        // Who has gone meanwhile leaves the place to the next one, which needs the lock.
        for (grant, place) in granted {
            drop(grant.send(place));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Asked {
    Granted(Place),
    Waits(oneshot::Receiver<Place>),
}

impl State {
    /// Takes a place, if there is one.
    fn take(&mut self, limits: &Limits, user: &str, wants: Wants) -> Option<Room> {
        let room = self.free(limits, user, wants)?;
        match room {
            Room::General => {
                self.general += 1;
                *self.users.entry(user.to_owned()).or_default() += 1;
            }
            Room::Small => self.small += 1,
        }
        Some(room)
    }

    fn free(&self, limits: &Limits, user: &str, wants: Wants) -> Option<Room> {
        let is_free = self.general < limits.running.max(1) && self.slots_of(user) < limits.per_user.max(1);
        match wants {
            _ if is_free => Some(Room::General),
            Wants::Either if self.small < limits.small => Some(Room::Small),
            _ => None,
        }
    }

    fn slots_of(&self, user: &str) -> usize {
        self.users.get(user).copied().unwrap_or_default()
    }

    fn leave(&mut self, user: &str, room: Room) {
        match room {
            Room::Small => self.small -= 1,
            Room::General => {
                self.general -= 1;
                if let Some(slots) = self.users.get_mut(user) {
                    *slots -= 1;
                    if *slots == 0 {
                        self.users.remove(user);
                    }
                }
            }
        }
    }

    /// Who comes next, with the place that was taken for them.
    fn next(&mut self, limits: &Limits) -> Option<(Waiting, Room)> {
        let can = |waiting: &Waiting| self.free(limits, &waiting.user, waiting.wants).is_some();
        let order = |waiting: &Waiting| (waiting.wants != Wants::Again, self.slots_of(&waiting.user), waiting.number);
        let of = |(place, waiting): (usize, &Waiting)| can(waiting).then(|| (order(waiting), place));
        let (_, place) = self.waiting.iter().enumerate().filter_map(of).min()?;
        let waiting = self.waiting.remove(place);
        let room = self.take(limits, &waiting.user, waiting.wants)?;
        Some((waiting, room))
    }

    /// Sends away the latest one of the user who has most waiting, if that is fair.
    fn make_room_for(&mut self, user: &str) -> bool {
        let mut waiting: HashMap<&str, usize> = HashMap::new();
        for one in self.waiting.iter().filter(|one| one.wants != Wants::Again) {
            *waiting.entry(&one.user).or_default() += 1;
        }
        let mine = waiting.get(user).copied().unwrap_or_default();
        let Some((most, count)) = waiting.into_iter().max_by_key(|(user, count)| (*count, *user)) else { return false };
        if count <= mine + 1 {
            return false;
        }
        let latest = self.waiting.iter().rposition(|one| one.user == most && one.wants != Wants::Again);
        // Its sender is dropped, which tells it.
        latest.map(|latest| self.waiting.remove(latest)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;

    fn admission(running: usize, small: usize, per_user: usize, waiting: usize) -> Arc<Admission> {
        let patience = Duration::from_secs(600);
        let limits = Limits { running, small, per_user, waiting, patience, ..Limits::default() };
        Arc::new(Admission::new(&limits))
    }

    /// A place that is to be had at once.
    fn now(admission: &Arc<Admission>, user: &str, wants: Wants) -> Option<Place> {
        match admission.ask(user, wants) {
            Ok(Asked::Granted(place)) => Some(place),
            _ => None,
        }
    }

    fn waits(admission: &Arc<Admission>, user: &str, wants: Wants) -> oneshot::Receiver<Place> {
        match admission.ask(user, wants) {
            Ok(Asked::Waits(waits)) => waits,
            _ => panic!("does not wait"),
        }
    }

    #[test]
    fn small_ones_have_room_that_large_ones_do_not_take() {
        let admission = admission(2, 1, 2, 10);
        let large: Vec<_> = (0..2).map(|_| now(&admission, "ana", Wants::General).unwrap()).collect();
        assert!(admission.general_now("ben").is_none());
        let small = now(&admission, "ana", Wants::Either).unwrap();
        assert_eq!(small.room(), Room::Small);
        let mut waiting = waits(&admission, "ben", Wants::General);
        drop(small);
        assert!(waiting.try_recv().is_err(), "the room for small ones is not given to a large one");
        drop(large);
        assert_eq!(waiting.try_recv().unwrap().room(), Room::General);
    }

    #[test]
    fn what_becomes_free_goes_to_who_has_least() {
        let admission = admission(3, 0, 2, 10);
        let mut of_ana: Vec<_> = (0..2).map(|_| now(&admission, "ana", Wants::General).unwrap()).collect();
        let of_ben = now(&admission, "ben", Wants::General).unwrap();
        let mut ana = waits(&admission, "ana", Wants::General);
        let mut ben = waits(&admission, "ben", Wants::General);
        let mut cy = waits(&admission, "cy", Wants::General);
        drop(of_ana.pop());
        let cys = cy.try_recv().unwrap();
        assert!(ana.try_recv().is_err() && ben.try_recv().is_err());
        drop(cys);
        // Now each has one, and ana has waited for longest.
        let anas = ana.try_recv().unwrap();
        drop((anas, of_ben));
        assert!(ben.try_recv().is_ok());
    }

    #[test]
    fn one_user_does_not_have_all_slots() {
        let admission = admission(4, 0, 3, 10);
        let _held: Vec<_> = (0..3).map(|_| now(&admission, "ana", Wants::General).unwrap()).collect();
        assert!(now(&admission, "ana", Wants::General).is_none());
        assert!(now(&admission, "ben", Wants::General).is_some());
    }

    #[test]
    fn who_has_most_waiting_makes_room() {
        let admission = admission(1, 0, 1, 3);
        let _held = now(&admission, "ana", Wants::General).unwrap();
        let mut of_ana: Vec<_> = (0..3).map(|_| waits(&admission, "ana", Wants::Either)).collect();
        assert!(admission.ask("ana", Wants::Either).is_err());
        let _ben = waits(&admission, "ben", Wants::Either);
        assert!(matches!(of_ana[2].try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(of_ana[1].try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert!(admission.ask("ben", Wants::Either).is_err(), "ben has as many as ana would keep");
    }

    #[test]
    fn who_has_gone_is_passed_over() {
        let admission = admission(1, 0, 1, 3);
        let held = now(&admission, "ana", Wants::General).unwrap();
        let gone = waits(&admission, "ben", Wants::General);
        let mut stays = waits(&admission, "cy", Wants::General);
        drop(gone);
        drop(held);
        assert!(stays.try_recv().is_ok());
        drop(stays);
        assert_eq!((admission.taken(), admission.waiting()), ((0, 0), 0));
    }

    #[test]
    fn who_ran_before_comes_first_and_is_not_counted() {
        let admission = admission(1, 0, 1, 1);
        let held = now(&admission, "ana", Wants::General).unwrap();
        let mut first = waits(&admission, "ben", Wants::General);
        let mut again = waits(&admission, "cy", Wants::Again);
        drop(held);
        let again = again.try_recv().unwrap();
        assert!(first.try_recv().is_err());
        drop(again);
        assert!(first.try_recv().is_ok());
    }

    #[tokio::test]
    async fn a_refusal_is_busy() {
        let admission = admission(1, 0, 1, 0);
        let held = admission.place("ana", Wants::Either).await.unwrap();
        let error = admission.place("ben", Wants::Either).await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Busy);
        drop(held);
        assert!(admission.place("ben", Wants::Either).now_or_never().is_some());
    }
}
