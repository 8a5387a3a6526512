//! Damage of stored files: counted, and told as an error that names the file.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::Error;

static FOUND: AtomicU64 = AtomicU64::new(0);

/// The places of catalog snapshots whose damage has been counted: a handful at most.
static SNAPSHOTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// How often this process has read a stored file and found it damaged; a catalog snapshot counts once.
pub fn found() -> u64 {
    FOUND.load(Ordering::Relaxed)
}

/// Counts the damage of the object at `path`, and words it.
pub(crate) fn damaged(path: &impl ToString, reason: impl Into<String>) -> Error {
    FOUND.fetch_add(1, Ordering::Relaxed);
    Error::Corrupt { path: path.to_string(), reason: reason.into() }
}

/// Counts the damage of the catalog snapshot at this place, the first time that it is found: probes and queries read
/// the newest one again and again.
pub(crate) fn count_snapshot(place: String) {
    if SNAPSHOTS.lock().unwrap_or_else(PoisonError::into_inner).insert(place) {
        FOUND.fetch_add(1, Ordering::Relaxed);
    }
}

/// The damage among the causes of an error. Parquet and DataFusion wrap what a reader of ours says in errors of their own.
pub fn among(error: &(dyn StdError + 'static)) -> Option<Error> {
    match lake_error(error)? {
        Error::Corrupt { path, reason } => Some(Error::Corrupt { path: path.clone(), reason: reason.clone() }),
        _ => None,
    }
}

/// The first error of the lake among the causes of an error.
pub fn lake_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return Some(ours);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use datafusion::error::DataFusionError;
    use parquet::errors::ParquetError;

    use super::*;

    #[test]
    fn damage_is_found_behind_the_errors_of_others() {
        let before = found();
        let ours = damaged(&"models/a/b", "it is cut");
        assert!(found() > before);
        let wrapped = DataFusionError::from(ParquetError::External(Box::new(ours))).context("while scanning");
        let damage = among(&wrapped).unwrap();
        assert_eq!(damage.to_string(), "`models/a/b` is damaged: it is cut");
        assert!(damage.hint().unwrap().contains("build --full`"));
        let of_model = damaged(&"models/d/m/f00/rows/a.parquet", "it is gone");
        assert!(of_model.hint().unwrap().contains("`starmere build --full d.m`"), "{of_model:?}");
        let version = Error::Missing { object: "version 3 of models/d/m/f00/rows".into() };
        assert!(version.hint().unwrap().contains("`starmere build --full d.m`"), "{version:?}");
        assert!(among(&DataFusionError::Plan("no".to_owned())).is_none());
    }
}
