//! Memory that the threads of one query have taken.
//!
//! Operators reserve what they know of; what functions, plans and libraries take is in nobody's account. The allocator
//! counts what each thread took and gave back, over its whole life. Threads that belong to one query at a time note it
//! wherever they look whether the query goes on, so that the sum is what the query holds, to the last note of each
//! thread.
//!
//! Memory that others took and a thread of the query gives back has to be told ([`take_over`]), and so has what others
//! will give back ([`hand_over`]). Where the process has another allocator, nothing is counted.

use std::cell::RefCell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tikv_jemalloc_ctl::thread::{self, ThreadLocal};

use crate::watch::Watch;

/// What the threads that note it have taken and not given back.
#[derive(Debug, Default)]
pub struct Meter {
    held: AtomicI64,
    /// How often the threads were given to a query.
    turn: AtomicU64,
    /// That of the query which has the threads.
    watch: RwLock<Option<Arc<Watch>>>,
}

thread_local! {
    static OF_THREAD: RefCell<Option<Counted>> = const { RefCell::new(None) };
}

/// A thread whose memory is counted.
struct Counted {
    meter: Arc<Meter>,
    taken: ThreadLocal<u64>,
    given: ThreadLocal<u64>,
    /// What it had taken and not given back when it was last noted, in this turn.
    noted: i64,
    turn: u64,
}

impl Counted {
    fn of_this_thread(meter: Arc<Meter>) -> Option<Self> {
        let (taken, given) = (thread::allocatedp::read().ok()?, thread::deallocatedp::read().ok()?);
        let turn = meter.turn.load(Ordering::Relaxed);
        let mut counted = Self { meter, taken, given, noted: 0, turn };
        counted.noted = counted.now();
        Some(counted)
    }

    fn now(&self) -> i64 {
        self.taken.get().wrapping_sub(self.given.get()).cast_signed()
    }

    fn note(&mut self) {
        let (now, turn) = (self.now(), self.meter.turn.load(Ordering::Relaxed));
        if self.turn == turn {
            self.meter.held.fetch_add(now - self.noted, Ordering::Relaxed);
        }
        (self.noted, self.turn) = (now, turn);
    }
}

impl Meter {
    /// From now on the calling thread's memory is counted here.
    pub fn count_this_thread(self: &Arc<Self>) {
        let counted = Counted::of_this_thread(Arc::clone(self));
        OF_THREAD.with_borrow_mut(|of_thread| *of_thread = counted);
    }

    /// The threads work for another query, which holds nothing yet.
    pub fn begin(&self, watch: &Arc<Watch>) {
        *self.watch.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(watch));
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.held.store(0, Ordering::Relaxed);
    }

    /// Bytes that the threads have taken and not given back.
    pub fn held(&self) -> u64 {
        u64::try_from(self.held.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

/// The watch of the query that the calling thread works for, where threads belong to one query at a time.
pub(crate) fn watch_of_this_thread() -> Option<Arc<Watch>> {
    OF_THREAD.with_borrow(|of_thread| {
        let watch = of_thread.as_ref()?.meter.watch.read();
        watch.unwrap_or_else(PoisonError::into_inner).clone()
    })
}

/// Whether the allocator counts at all.
pub fn counts() -> bool {
    thread::allocatedp::read().is_ok_and(|taken| taken.get() > 0)
}

/// Notes what this thread has taken and given back since it was last noted.
pub fn note() {
    with_meter(|_| {});
}

/// Others will give back so many bytes that this thread took.
pub fn hand_over(bytes: u64) {
    with_meter(|meter| _ = meter.held.fetch_sub(bytes.cast_signed(), Ordering::Relaxed));
}

/// This thread will give back so many bytes that others took.
pub fn take_over(bytes: u64) {
    with_meter(|meter| _ = meter.held.fetch_add(bytes.cast_signed(), Ordering::Relaxed));
}

fn with_meter(change: impl Fn(&Meter)) {
    OF_THREAD.with_borrow_mut(|of_thread| {
        if let Some(counted) = of_thread {
            counted.note();
            change(&counted.meter);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    // What the allocator counts is tested where it is that of the process: `tests/memory.rs`.

    #[test]
    fn what_is_handed_over_is_no_longer_held() {
        let meter = Arc::new(Meter::default());
        let thread = std::thread::spawn({
            let meter = Arc::clone(&meter);
            move || {
                meter.count_this_thread();
                take_over(5 << 30);
                assert_eq!(meter.held() >> 30, 5);
                hand_over(2 << 30);
                assert_eq!(meter.held() >> 30, 3);
                meter.begin(&Arc::default());
                assert_eq!(meter.held(), 0);
                hand_over(1 << 30);
                assert_eq!(meter.held(), 0, "less than nothing is nothing");
            }
        });
        thread.join().unwrap();
        // Threads that work for no query are not counted.
        take_over(1 << 30);
        assert_eq!(meter.held(), 0);
    }
}
