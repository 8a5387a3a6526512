//! The memory that all sources of a process share.
//!
//! Whoever gathers events asks for room first, in [`Share`]s of one [`Memory`]:
//!
//! ```text
//!            begins: waits for room            grows: never waits          encoded: gives most of it back
//! source ───────────────────────────► batch ──────────────────────► rows ───────────────────────────────► file ─► landed
//!    ▲   nothing is held meanwhile      │ no room: it is full now                                            │
//!    └───────────────────────────────────────────────── room again ◄────────────────────────────────────────┘
//! ```
//!
//! So memory that is short makes batches smaller, and then pauses the sources that want most: room goes to who has
//! waited longest. Nobody waits while holding a batch that is not on its way to the table, so there is always something
//! that will give room back, once the store answers. Small files are what it costs; compaction mends them.
//!
//! Requests over HTTP are the exception: they grow while their bodies come, and wait for room for seconds at most. All
//! of them together have half of the room, so that clients cannot stop files and Kafka. While one waits, bodies that
//! drip give up what they hold (`bodies`), so that clients cannot stop each other.
//!
//! What is asked for is an estimate: payloads count [`PER_BYTE`] times, for the columns and for encoding them.
//!
//! A part of all is for what clients of brokers read ahead, for as long as they live: it is set aside, since they would
//! otherwise take the room of the batches that they wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub use self::bodies::Sender;
use self::bodies::{Bodies, Place};

mod bodies;

/// Unless the project says otherwise.
pub const DEFAULT_BYTES: usize = 512 << 20;
/// Memory for a byte that is gathered: columns grow by doubling, and pages of Parquet are made beside them.
pub const PER_BYTE: usize = 2;

/// Room is counted in units of so many bytes.
const UNIT: usize = 1 << 10;
/// Room is asked for in pieces of at least so many bytes.
const PIECE: usize = 1 << 20;
/// This part of all is for what clients read ahead.
const AHEAD_PART: usize = 4;
/// One share takes at most this part of the rest.
const LARGEST_SHARE: usize = 2;
/// All requests over HTTP take at most this part of the rest.
const REQUESTS_PART: usize = 2;
/// Requests ask for room in pieces that begin with so many bytes: there are many, and most are small.
const REQUEST_PIECE: usize = 16 << 10;
/// A request that holds no more than this part of what all may have gives nothing up: as many connections are held.
const SMALL_PART: usize = 512;
/// A request that has waited for room so long takes what bodies offer that drip, and again after as long.
const TAKE_UP_AFTER: Duration = Duration::from_millis(250);

/// The budget of a process. Clones share it.
#[derive(Clone, Debug)]
pub struct Memory {
    bytes: usize,
    room: Arc<Semaphore>,
    /// What of the room requests over HTTP may still take.
    requests: Arc<Semaphore>,
    /// What requests hold, and which of them would give it up.
    bodies: Bodies,
    /// Who of the requests waits longest.
    first: Arc<Semaphore>,
    ahead: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(DEFAULT_BYTES)
    }
}

/// Memory that is in use; given back when dropped.
#[derive(Debug)]
pub struct Share {
    memory: Memory,
    permit: OwnedSemaphorePermit,
    /// Where a request has it.
    request: Option<OfRequest>,
}

#[derive(Debug)]
struct OfRequest {
    /// As much again, of what requests may take.
    permit: OwnedSemaphorePermit,
    place: Place,
}

/// Counts one who waits, for as long as it lives.
#[derive(Debug)]
pub struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nobody closes a semaphore of ours.
const NEVER_CLOSED: &str = "the semaphore is never closed";

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

async fn acquire(pool: &Arc<Semaphore>, units: u32) -> OwnedSemaphorePermit {
    pool.clone().acquire_many_owned(units).await.expect(NEVER_CLOSED)
}

impl Memory {
    /// A budget of so many bytes, of at least a few pieces.
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.max(PIECE * AHEAD_PART * LARGEST_SHARE);
        let pool = |bytes: usize| Arc::new(Semaphore::new(units(bytes) as usize));
        let ahead = bytes / AHEAD_PART;
        let rest = bytes - ahead;
        Self {
            bytes,
            room: pool(rest),
            requests: pool(rest / REQUESTS_PART),
            bodies: Bodies::default(),
            first: Arc::new(Semaphore::new(1)),
            ahead: pool(ahead),
            waiting: Arc::default(),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is in use.
    pub fn used(&self) -> usize {
        let free = self.room.available_permits() + self.ahead.available_permits();
        self.bytes - (free * UNIT).min(self.bytes)
    }

    /// How many wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Somebody waits for room, and asks for it again and again.
    pub fn wait(&self) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(self.waiting.clone())
    }

    /// A share to begin with, as soon as there is room.
    pub async fn share(&self) -> Share {
        self.share_of(PIECE).await
    }

    /// A share of so many bytes, or of the largest that there is, as soon as there is room.
    pub async fn share_of(&self, bytes: usize) -> Share {
        let _waiting = self.wait();
        let permit = acquire(&self.room, units(self.at_most(bytes))).await;
        Share { memory: self.clone(), permit, request: None }
    }

    /// A share of nothing, for a request over HTTP to grow.
    pub fn share_of_request(&self, sender: Sender) -> Share {
        let nothing = |of: &Arc<Semaphore>| of.clone().try_acquire_many_owned(0).expect(NEVER_CLOSED);
        let request = OfRequest { permit: nothing(&self.requests), place: self.bodies.begin(sender) };
        Share { memory: self.clone(), permit: nothing(&self.room), request: Some(request) }
    }

    /// What a request may hold without giving it up for others.
    fn small(&self) -> usize {
        (self.bytes - self.bytes / AHEAD_PART) / REQUESTS_PART / SMALL_PART
    }

    /// The one place at the head of the requests that wait, if it is free. Many large requests at once may each hold a
    /// part of what they need; the first one waits longer than the others, so one of them always comes through.
    pub fn first_in_line(&self) -> Option<OwnedSemaphorePermit> {
        self.first.clone().try_acquire_owned().ok()
    }

    /// The same, if there is room now.
    pub fn try_share_of(&self, bytes: usize) -> Option<Share> {
        let permit = self.room.clone().try_acquire_many_owned(units(self.at_most(bytes))).ok()?;
        Some(Share { memory: self.clone(), permit, request: None })
    }

    /// A share to begin with, if there is room now.
    pub fn try_share(&self) -> Option<Share> {
        self.try_share_of(PIECE)
    }

    /// A share for what a client reads ahead: of so many bytes, or of half of what there still is for that.
    pub fn share_ahead(&self, bytes: usize) -> Option<Share> {
        let wanted = units(bytes).min(u32::try_from(self.ahead.available_permits() / 2).unwrap_or(u32::MAX));
        let permit = self.ahead.clone().try_acquire_many_owned(wanted).ok()?;
        Some(Share { memory: self.clone(), permit, request: None })
    }

    /// The most bytes that an event may have, so that the largest share has room for it.
    pub fn most_event_bytes(&self) -> usize {
        self.at_most(usize::MAX) / PER_BYTE
    }

    /// So much of `bytes` as one share may have.
    pub fn at_most(&self, bytes: usize) -> usize {
        bytes.min((self.bytes - self.bytes / AHEAD_PART) / LARGEST_SHARE)
    }
}

impl Share {
    /// What it covers.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * UNIT
    }

    /// Grows to cover so many bytes; false where there is no room for them, or where it is the largest already.
    pub fn cover(&mut self, bytes: usize) -> bool {
        let Some(lacking) = self.lacking(bytes) else { return false };
        let more = |of: &Arc<Semaphore>| of.clone().try_acquire_many_owned(lacking).ok();
        let request = match &self.request {
            Some(_) => match more(&self.memory.requests) {
                None => return false,
                request => request,
            },
            None => None,
        };
        match more(&self.memory.room) {
            Some(room) => {
                self.take(room, request);
                true
            }
            None => false,
        }
    }

    /// The same as soon as there is room; false where it is the largest already. While a request waits, bodies of
    /// others that drip give their memory up.
    pub async fn grow(&mut self, bytes: usize) -> bool {
        let Some(lacking) = self.lacking(bytes) else { return false };
        let _waiting = self.memory.wait();
        let (room, request) = {
            let acquiring = async {
                let request = match &self.request {
                    Some(_) => Some(acquire(&self.memory.requests, lacking).await),
                    None => None,
                };
                (acquire(&self.memory.room, lacking).await, request)
            };
            tokio::pin!(acquiring);
            loop {
                match (timeout(TAKE_UP_AFTER, acquiring.as_mut()).await, &self.request) {
                    (Ok(acquired), _) => break acquired,
                    (Err(_), Some(request)) => {
                        self.memory.bodies.take_up(&request.place.sender, self.memory.small());
                    }
                    (Err(_), None) => {}
                }
            }
        };
        self.take(room, request);
        true
    }

    /// Lets other requests have what this one holds: so many bytes of its body came within the last second.
    pub fn offer(&self, came: usize) {
        if let Some(request) = &self.request {
            request.place.offer(Some(came));
        }
    }

    /// Takes the offer back; false where it was taken up.
    pub fn keep(&self) -> bool {
        self.request.as_ref().is_none_or(|request| {
            request.place.offer(None);
            !request.place.taken_up.is_cancelled()
        })
    }

    /// Waits until another request takes up what this one has offered.
    pub async fn taken_up(&self) {
        match &self.request {
            Some(request) => request.place.taken_up.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// The units that are lacking to cover so many bytes; none where one share may not have as many.
    fn lacking(&self, bytes: usize) -> Option<u32> {
        let held = self.bytes();
        if bytes <= held {
            return Some(0);
        }
        let piece = if self.request.is_some() { held.clamp(REQUEST_PIECE, PIECE) } else { PIECE };
        let wanted = self.memory.at_most(bytes.max(held + piece));
        (wanted >= bytes).then(|| units(wanted - held))
    }

    fn take(&mut self, room: OwnedSemaphorePermit, request: Option<OwnedSemaphorePermit>) {
        self.permit.merge(room);
        if let (Some(held), Some(more)) = (&mut self.request, request) {
            held.permit.merge(more);
        }
        self.note();
    }

    /// Notes what a request holds, for others.
    fn note(&self) {
        if let Some(request) = &self.request {
            request.place.note(self.bytes());
        }
    }

    /// Gives back what is above so many bytes.
    pub fn shrink(&mut self, bytes: usize) {
        let over = self.permit.num_permits().saturating_sub(units(bytes) as usize);
        drop(self.permit.split(over));
        if let Some(request) = &mut self.request {
            drop(request.permit.split(over));
        }
        self.note();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn room_is_given_back() {
        let memory = Memory::new(16 << 20);
        let mut share = memory.share().await;
        assert_eq!((memory.used(), share.bytes()), (PIECE, PIECE));
        assert!(share.cover(PIECE + 1));
        assert_eq!(memory.used(), 2 * PIECE);
        assert!(!share.cover(7 << 20), "no share has more than half");
        share.shrink(10);
        assert_eq!(memory.used(), UNIT);
        drop(share);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn who_waits_longest_comes_first() {
        let memory = Memory::new(8 << 20);
        let mut shares: Vec<Share> = (0..6).map(|_| memory.try_share().unwrap()).collect();
        assert!(memory.try_share().is_none());
        let waits = tokio::spawn({
            let memory = memory.clone();
            async move { memory.share().await }
        });
        while memory.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        shares.pop();
        assert!(memory.try_share().is_none(), "it is the waiting one's");
        let share = waits.await.unwrap();
        assert_eq!((share.bytes(), memory.waiting()), (PIECE, 0));
    }

    #[tokio::test]
    async fn what_is_larger_than_all_gets_the_largest_share() {
        let memory = Memory::new(16 << 20);
        assert_eq!(memory.share_of(1 << 40).await.bytes(), 6 << 20);
    }

    #[test]
    fn what_is_read_ahead_leaves_room_for_batches() {
        let memory = Memory::new(16 << 20);
        let ahead: Vec<Option<Share>> = (0..100).map(|_| memory.share_ahead(64 << 20)).collect();
        assert_eq!(ahead[0].as_ref().map(Share::bytes), Some(2 << 20));
        assert!(memory.used() <= 4 << 20);
        assert!(memory.try_share_of(6 << 20).is_some() && memory.try_share().is_some());
    }

    /// Tries to keep a request waiting by others that hold all of the memory and send next to nothing.
    #[tokio::test]
    async fn a_request_that_waits_gets_what_others_offer() {
        let memory = Memory::new(16 << 20);
        let begin = |sender: &str| memory.share_of_request(Sender::new(sender));
        let mut slow: Vec<Share> = (0..6).map(|_| begin("slow")).collect();
        assert!(slow.iter_mut().all(|share| share.cover(1 << 20)));
        let mut other = begin("other");
        assert!(!other.cover(1));
        slow.iter().enumerate().for_each(|(place, share)| share.offer(6 - place));
        let gives = slow.pop().unwrap();
        let giving = async move {
            gives.taken_up().await;
            assert!(!gives.keep());
        };
        let (grown, ()) = tokio::join!(other.grow(1 << 20), giving);
        assert!(grown && slow.iter().all(Share::keep));
        assert_eq!((memory.used(), memory.waiting()), (6 << 20, 0));
    }

    #[tokio::test]
    async fn requests_leave_half_of_the_room_to_other_sources() {
        let memory = Memory::new(16 << 20);
        let mut requests: Vec<Share> = (0..100).map(|_| memory.share_of_request(Sender::default())).collect();
        assert_eq!(memory.used(), 0, "a request that has sent nothing takes nothing");
        let grown = requests.iter_mut().map(|request| request.cover(1 << 20)).filter(|grown| *grown).count();
        assert_eq!((grown, memory.used()), (6, 6 << 20));
        let files = memory.try_share_of(6 << 20);
        assert!(files.is_some(), "files have the other half");
        requests[0].shrink(0);
        drop(files);
        assert!(requests[99].grow(1 << 20).await);
        drop(requests);
        assert_eq!(memory.used(), 0);
    }
}
