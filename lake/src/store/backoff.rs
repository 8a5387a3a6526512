//! Pauses of writers that race for one object: commits of a table, numbers of a catalog.
//!
//! Who loses tries again at once, since one other writer is the rule. Who loses again waits for a random while, up to three
//! times as long as before, and never longer than a second: writers that met once should not meet again. It ends by
//! time, not by a number of attempts: how long an attempt takes depends on the store.

use std::time::{Duration, Instant};

use fastrand::Rng;

/// The shortest pause, other than none.
const SHORTEST: Duration = Duration::from_millis(1);
/// What the second pause is at most.
const SECOND: Duration = Duration::from_millis(4);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(1);
/// After this long, somebody who waits should hear of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pauses between the attempts of one writer.
#[derive(Debug)]
pub struct Backoff {
    random: Rng,
    last: Option<Duration>,
    began: Instant,
    patience: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::lasting(PATIENCE)
    }
}

impl Backoff {
    /// Attempts that begin within `patience` from now on.
    pub fn lasting(patience: Duration) -> Self {
        Self { random: Rng::new(), last: None, began: Instant::now(), patience }
    }

    /// Waits before the next attempt. `false`: it took too long already, and nobody waited.
    pub async fn pause(&mut self) -> bool {
        match self.next(self.began.elapsed()) {
            None => return false,
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(pause) => tokio::time::sleep(pause).await,
        }
        true
    }

    /// How long to wait before the next attempt, if there is one. Pure but for the generator.
    fn next(&mut self, elapsed: Duration) -> Option<Duration> {
        if elapsed >= self.patience {
            return None;
        }
        let pause = match self.last {
            None => Duration::ZERO,
            Some(last) => {
                let longest = last.saturating_mul(3).clamp(SECOND, LONGEST);
                Duration::from_micros(self.random.u64(SHORTEST.as_micros() as u64..=longest.as_micros() as u64))
            }
        };
        self.last = Some(pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(seed: u64) -> Vec<Duration> {
        let mut backoff = Backoff { random: Rng::with_seed(seed), ..Backoff::default() };
        (0..200).map(|_| backoff.next(Duration::ZERO).unwrap()).collect()
    }

    #[test]
    fn pauses_begin_with_none_and_grow_at_random() {
        for seed in 0..50 {
            let pauses = pauses(seed);
            assert_eq!(pauses[0], Duration::ZERO);
            for pair in pauses[1..].windows(2) {
                assert!(pair.iter().all(|pause| (SHORTEST..=LONGEST).contains(pause)), "seed {seed}: {pair:?}");
                assert!(pair[1] <= (pair[0] * 3).max(SECOND), "seed {seed}: {pair:?}");
            }
            assert!(pauses.iter().max() > Some(&(LONGEST / 4)), "seed {seed}: they do not grow");
        }
        assert_ne!(pauses(1), pauses(2), "two writers wait differently");
    }

    #[tokio::test]
    async fn it_ends_by_time() {
        let mut backoff = Backoff::default();
        assert!(backoff.next(PATIENCE - SHORTEST).is_some());
        assert_eq!(backoff.next(PATIENCE), None);
        assert!(!Backoff::lasting(Duration::ZERO).pause().await);
        assert!(Backoff::lasting(Duration::MAX).pause().await);
    }
}
