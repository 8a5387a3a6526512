//! A map of which there is a copy for every version of a table, at the cost of what has changed lately.
//!
//! ```text
//! base: all that was there once, shared by the copies      over: what came or went since then, copied
//! ```
//!
//! When `over` has about as many entries as the square root of `base`, it becomes part of a new base. So of `n` entries
//! each change costs about `√n` steps, and not `n`.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::sync::Arc;

/// So many changes are copied without a thought.
const FEW: usize = 64;

/// A map by text, in order.
#[derive(Clone, Debug)]
pub(super) struct Layered<V> {
    base: Arc<BTreeMap<String, V>>,
    /// None: it has gone.
    over: BTreeMap<String, Option<V>>,
    len: usize,
}

impl<V> Default for Layered<V> {
    fn default() -> Self {
        Self { base: Arc::default(), over: BTreeMap::new(), len: 0 }
    }
}

impl<V: Clone> Layered<V> {
    pub(super) fn get(&self, key: &str) -> Option<&V> {
        match self.over.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.base.get(key),
        }
    }

    pub(super) fn insert(&mut self, key: String, value: V) {
        self.len += usize::from(self.get(&key).is_none());
        self.over.insert(key, Some(value));
        self.settle();
    }

    pub(super) fn remove(&mut self, key: &str) {
        if self.get(key).is_none() {
            return;
        }
        self.len -= 1;
        match self.base.contains_key(key) {
            true => _ = self.over.insert(key.to_owned(), None),
            false => _ = self.over.remove(key),
        }
        self.settle();
    }

    fn settle(&mut self) {
        let changes = self.over.len();
        if changes <= FEW || changes * changes <= self.base.len() {
            return;
        }
        let base = Arc::make_mut(&mut self.base);
        for (key, changed) in std::mem::take(&mut self.over) {
            match changed {
                Some(value) => _ = base.insert(key, value),
                None => _ = base.remove(&key),
            }
        }
    }

    /// All entries, in the order of their keys.
    pub(super) fn iter(&self) -> Iter<'_, V> {
        Iter { base: self.base.iter().peekable(), over: self.over.iter().peekable(), left: self.len }
    }
}

/// The entries of a [`Layered`], in order.
pub(super) struct Iter<'a, V> {
    base: Peekable<btree_map::Iter<'a, String, V>>,
    over: Peekable<btree_map::Iter<'a, String, Option<V>>>,
    left: usize,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a String, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let base = self.base.peek().map(|(key, _)| *key);
            let over = self.over.peek().map(|(key, _)| *key);
            let is_changed = match (base, over) {
                (None, None) => return None,
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some(base), Some(over)) => {
                    if base == over {
                        self.base.next();
                    }
                    over <= base
                }
            };
            let entry = match is_changed {
                false => self.base.next(),
                true => self.over.next().and_then(|(key, changed)| Some((key, changed.as_ref()?))),
            };
            if entry.is_some() {
                self.left = self.left.saturating_sub(1);
                return entry;
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<V> ExactSizeIterator for Iter<'_, V> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_a_map_holds_and_its_copies_stay_as_they_were() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut layered, mut plain) = (Layered::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in 0..3_000 {
                let most = random.u32(1..900);
                let key = random.u32(0..most).to_string();
                if random.u32(0..3) == 0 {
                    layered.remove(&key);
                    plain.remove(&key);
                } else {
                    layered.insert(key.clone(), step);
                    plain.insert(key.clone(), step);
                }
                assert_eq!(layered.get(&key), plain.get(&key), "seed {seed}, step {step}");
                if step % 500 == 0 {
                    copies.push((layered.clone(), plain.clone()));
                }
            }
            copies.push((layered, plain));
            for (layered, plain) in copies {
                assert_eq!(layered.iter().len(), plain.len(), "seed {seed}");
                assert!(layered.iter().eq(plain.iter()), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_change_does_not_copy_the_whole() {
        let mut layered = Layered::default();
        let mut bases = 0;
        for number in 0..10_000 {
            let before = layered.clone();
            layered.insert(format!("{number:05}"), ());
            bases += usize::from(!Arc::ptr_eq(&before.base, &layered.base));
        }
        assert!(bases < 300, "{bases} of 10,000 changes copied all that was there");
    }
}
