//! Log-ins that failed, and how long the next try has to wait.
//!
//! Failures are counted by who tries (a peer's address), by whose name is tried, and by both:
//!
//! | counted by | free | then each failure doubles the wait, from … | to … |
//! | --- | --- | --- | --- |
//! | peer and user | 5; 50 where the user has logged in from there | 1 s | 60 s |
//! | peer | 50 | 1 s | 10 s |
//! | user | 50 | 1 s | 10 s |
//!
//! A try that comes earlier is refused unread, so guessing has the speed of the table. Who was in is not locked out
//! easily:
//!
//! * A peer from which a user has logged in before is only held back by failures of its own for that user, and after
//!   more of them. It may be an address that others share.
//! * A wrong password that is tried again is no guess and counts once: a client with an old password, which never
//!   stops, holds nobody back. Of those tried last by a peer for a user, hashes are kept.
//! * Success clears no count, or each would give whoever guesses beside an active client free guesses again.
//! * Tokens are not guessed, so they are not held back at all.
//!
//! Counts are forgotten after a while without failures, and after a restart; the table is bounded, and the counts that
//! are oldest make room.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// So many counts are kept, and as many pairs of peers and users.
const COUNTS: usize = 10_000;

/// So many wrong passwords of a peer for a user are recognised when they are tried again.
const RECOGNISED: usize = 5;

/// A count without failures for this long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);

/// What failures are counted by. Users are hashed, since strangers choose the names that they try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By {
    Both(IpAddr, u64),
    Peer(IpAddr),
    User(u64),
}

#[derive(Clone, Debug)]
struct Count {
    failures: u32,
    last: Instant,
    /// Hashes of the passwords that were tried last; of a peer and a user alone.
    passwords: Vec<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Guesses {
    table: Mutex<Table>,
    /// Makes hashes that strangers cannot foresee.
    hasher: RandomState,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    counts: HashMap<By, Count>,
    /// Peers from which a user has logged in.
    known: HashSet<(IpAddr, u64)>,
}

impl By {
    /// How long the next try waits after so many failures; whether the user is known to have logged in from there.
    fn wait(self, failures: u32, is_known: bool) -> Duration {
        let (free, most) = match self {
            Self::Both(..) => (if is_known { 50 } else { 5 }, 60),
            Self::Peer(_) | Self::User(_) => (50, 10),
        };
        match failures.checked_sub(free) {
            None | Some(0) => Duration::ZERO,
            Some(over) => Duration::from_secs(1_u64.checked_shl(over - 1).unwrap_or(most).min(most)),
        }
    }
}

impl Guesses {
    /// How long this peer has to wait before it may try a password of this user; none: not at all.
    pub(super) fn wait(&self, peer: Option<IpAddr>, user: &str, now: Instant) -> Option<Duration> {
        let user = self.hasher.hash_one(user);
        let table = self.table();
        let is_known = peer.is_some_and(|peer| table.known.contains(&(peer, user)));
        let held = keys(peer, user).into_iter().flatten().filter(|by| !is_known || matches!(by, By::Both(..)));
        let waits = held.filter_map(|by| {
            let count = table.counts.get(&by).filter(|count| now.duration_since(count.last) < FORGOTTEN)?;
            (count.last + by.wait(count.failures, is_known)).checked_duration_since(now)
        });
        let longest = waits.max().filter(|wait| !wait.is_zero());
        if longest.is_some() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        longest
    }

    /// Counts a failure with this password.
    pub(super) fn failed(&self, peer: Option<IpAddr>, user: &str, password: &str, now: Instant) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let (user, password) = (self.hasher.hash_one(user), self.hasher.hash_one(password));
        let mut table = self.table();
        let both = peer.and_then(|peer| table.counts.get(&By::Both(peer, user)));
        if both.is_some_and(|count| count.passwords.contains(&password)) {
            return;
        }
        for by in keys(peer, user).into_iter().flatten() {
            table.make_room(by, now);
            let nothing = Count { failures: 0, last: now, passwords: Vec::new() };
            let count = table.counts.entry(by).or_insert(nothing);
            let failures = if now.duration_since(count.last) < FORGOTTEN { count.failures } else { 0 };
            (count.failures, count.last) = (failures.saturating_add(1), now);
            if matches!(by, By::Both(..)) {
                count.passwords.push(password);
                let over = count.passwords.len().saturating_sub(RECOGNISED);
                count.passwords.drain(..over);
            }
        }
    }

    /// Notes that this user has logged in from this peer.
    pub(super) fn succeeded(&self, peer: Option<IpAddr>, user: &str) {
        let Some(peer) = peer else { return };
        let user = self.hasher.hash_one(user);
        let mut table = self.table();
        if table.known.len() >= COUNTS {
            table.known.clear();
        }
        table.known.insert((peer, user));
    }

    /// How many log-ins have failed, those included that were refused unread.
    pub(super) fn count(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn make_room(&mut self, by: By, now: Instant) {
        if self.counts.len() < COUNTS || self.counts.contains_key(&by) {
            return;
        }
        self.counts.retain(|_, count| now.duration_since(count.last) < FORGOTTEN);
        if self.counts.len() >= COUNTS {
            let oldest = self.counts.iter().min_by_key(|(_, count)| count.last).map(|(by, _)| *by);
            if let Some(oldest) = oldest {
                self.counts.remove(&oldest);
            }
        }
    }
}

fn keys(peer: Option<IpAddr>, user: u64) -> [Option<By>; 3] {
    [peer.map(|peer| By::Both(peer, user)), peer.map(By::Peer), Some(By::User(user))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    /// How many of `tries` guesses, one every millisecond, are read.
    fn read(guesses: &Guesses, tries: u32, now: &mut Instant, who: impl Fn(u32) -> (Option<IpAddr>, String)) -> u32 {
        let mut read = 0;
        for number in 0..tries {
            let (peer, user) = who(number);
            if guesses.wait(peer, &user, *now).is_none() {
                guesses.failed(peer, &user, &number.to_string(), *now);
                read += 1;
            }
            *now += Duration::from_millis(1);
        }
        read
    }

    #[test]
    fn guesses_are_slowed_by_peer_and_by_user() {
        // A minute of 1,000 guesses a second.
        let mut now = Instant::now();
        let ana = |_: u32| (peer(1), "ana".to_owned());
        assert!(read(&Guesses::default(), 60_000, &mut now, ana) <= 12);
        let anybody = |number: u32| (peer(1), format!("user {number}"));
        assert!(read(&Guesses::default(), 60_000, &mut now, anybody) <= 62);
        let from_everywhere = |number: u32| (Some(IpAddr::from(number.to_be_bytes())), "ana".to_owned());
        let guesses = Guesses::default();
        assert!(read(&guesses, 60_000, &mut now, from_everywhere) <= 62);
        assert_eq!(guesses.count(), 60_000);
    }

    #[test]
    fn who_was_in_is_not_locked_out_by_guesses_of_others() {
        let guesses = Guesses::default();
        let mut now = Instant::now();
        guesses.succeeded(peer(9), "ana");
        read(&guesses, 100, &mut now, |number| (Some(IpAddr::from(number.to_be_bytes())), "ana".to_owned()));
        assert!(guesses.wait(peer(10), "ana", now).is_some());
        assert_eq!(guesses.wait(peer(9), "ana", now), None);
        read(&guesses, 100, &mut now, |_| (peer(9), "ana".to_owned()));
        assert!(guesses.wait(peer(9), "ana", now).is_some(), "its own failures count");
        assert_eq!(guesses.wait(peer(9), "ana", now + FORGOTTEN), None);
    }

    #[test]
    fn who_was_in_is_held_back_later() {
        let guesses = Guesses::default();
        let mut now = Instant::now();
        let from_there = |_: u32| (peer(1), "ana".to_owned());
        assert_eq!(read(&guesses, 100, &mut now, from_there), 6);
        assert!(guesses.wait(peer(1), "ana", now).is_some());
        guesses.succeeded(peer(1), "ana");
        assert_eq!(guesses.wait(peer(1), "ana", now), None);
        // Nor does a client that is active give somebody beside it free guesses.
        let mut beside = 0;
        for number in 0..10_000 {
            guesses.succeeded(peer(1), "ana");
            if guesses.wait(peer(1), "ana", now).is_none() {
                guesses.failed(peer(1), "ana", &format!("guess {number}"), now);
                beside += 1;
            }
            now += Duration::from_millis(1);
        }
        assert!(beside <= 60, "{beside}");
    }

    /// A client whose password is an old one tries it for ever, and beside it somebody knows the new one.
    #[test]
    fn a_wrong_password_that_is_tried_again_holds_nobody_back() {
        let guesses = Guesses::default();
        let mut now = Instant::now();
        for _ in 0..10_000 {
            assert_eq!(guesses.wait(peer(1), "ana", now), None);
            guesses.failed(peer(1), "ana", "old", now);
            guesses.failed(peer(1), "ana", "older", now);
            now += Duration::from_secs(1);
        }
        assert_eq!(guesses.wait(peer(2), "ana", now), None);
        assert_eq!(guesses.count(), 20_000);
        (0..100).for_each(|number| guesses.failed(peer(1), "ana", &number.to_string(), now));
        assert!(guesses.table().counts.values().all(|count| count.passwords.len() <= RECOGNISED));
    }

    #[test]
    fn counts_are_bounded() {
        let guesses = Guesses::default();
        let now = Instant::now();
        for number in 0..COUNTS as u32 {
            guesses.failed(Some(IpAddr::from(number.to_be_bytes())), &number.to_string(), "wrong", now);
        }
        assert_eq!(guesses.table().counts.len(), COUNTS);
    }
}
