//! Prepared statements: text and bound parameters, by handle.
//!
//! A handle is known to its user only, forgotten after [`IDLE`] without use, and the one unused for longest
//! makes room when there are [`STATEMENTS`]. After a restart all are unknown, and clients are told to prepare
//! again. Nothing planned is kept: each run plans against its own view.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use uuid::Uuid;

use crate::{access::Caller, error::QueryError, params::Params};

/// A statement that is not used for this long is forgotten.
pub(super) const IDLE: Duration = Duration::from_secs(60 * 60);

/// So many statements are remembered.
const STATEMENTS: usize = 10_000;

/// What is remembered of a statement.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) sql: String,
    /// Identifiers of its parameters, in order.
    pub(super) parameters: Vec<String>,
    /// One entry per row that was bound.
    pub(super) rows: Vec<Params>,
    /// The query that ran it last.
    pub(super) query: Option<Uuid>,
}

#[derive(Debug, Default)]
pub(super) struct PreparedStatements(Mutex<HashMap<Bytes, Entry>>);

#[derive(Debug)]
struct Entry {
    user: String,
    used: Instant,
    prepared: Prepared,
}

impl PreparedStatements {
    /// Remembers a statement and gives its handle.
    pub(super) fn create(&self, caller: &Caller, sql: String, parameters: Vec<String>) -> Bytes {
        let handle = Bytes::from(Uuid::new_v4().to_string());
        let prepared = Prepared { sql, parameters, rows: Vec::new(), query: None };
        self.insert(handle.clone(), caller, prepared, Instant::now());
        handle
    }

    /// The statement behind a handle.
    ///
    /// # Errors
    /// `NotFound` when it is unknown, another user's, or forgotten.
    pub(super) fn get(&self, handle: &Bytes, caller: &Caller) -> Result<Prepared, QueryError> {
        self.with(handle, caller, Instant::now(), |prepared| prepared.clone())
    }

    /// Binds rows of parameters for the runs that follow.
    pub(super) fn bind(&self, handle: &Bytes, caller: &Caller, rows: Vec<Params>) -> Result<(), QueryError> {
        self.with(handle, caller, Instant::now(), |prepared| prepared.rows = rows)
    }

    /// Notes which query runs it.
    pub(super) fn running(&self, handle: &Bytes, caller: &Caller, query: Uuid) -> Result<(), QueryError> {
        self.with(handle, caller, Instant::now(), |prepared| prepared.query = Some(query))
    }

    /// Forgets a statement; one that is unknown is forgotten already.
    pub(super) fn close(&self, handle: &Bytes, caller: &Caller) {
        let mut entries = self.entries();
        if entries.get(handle).is_some_and(|entry| entry.user == caller.user) {
            entries.remove(handle);
        }
    }

    fn insert(&self, handle: Bytes, caller: &Caller, prepared: Prepared, now: Instant) {
        let mut entries = self.entries();
        if entries.len() >= STATEMENTS {
            entries.retain(|_, entry| now.duration_since(entry.used) < IDLE);
        }
        if entries.len() >= STATEMENTS {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(oldest) = oldest.map(|(handle, _)| handle.clone()) {
                entries.remove(&oldest);
            }
        }
        entries.insert(handle, Entry { user: caller.user.clone(), used: now, prepared });
    }

    fn with<T>(
        &self,
        handle: &Bytes,
        caller: &Caller,
        now: Instant,
        act: impl FnOnce(&mut Prepared) -> T,
    ) -> Result<T, QueryError> {
        let mut entries = self.entries();
        let entry =
            entries.get_mut(handle).filter(|entry| entry.user == caller.user && now.duration_since(entry.used) < IDLE);
        let entry = entry.ok_or_else(|| {
            QueryError::not_found("the prepared statement is unknown or has expired").with_hint("prepare it again")
        })?;
        entry.used = now;
        Ok(act(&mut entry.prepared))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Bytes, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: &str) -> Caller {
        Caller::named(user)
    }

    #[test]
    fn handle_is_known_to_its_user_until_closed() {
        let statements = PreparedStatements::default();
        let (ana, ben) = (caller("ana"), caller("ben"));
        let handle = statements.create(&ana, "SELECT 1".to_owned(), vec![]);
        assert_eq!(statements.get(&handle, &ana).unwrap().sql, "SELECT 1");
        assert!(statements.get(&handle, &ben).is_err());
        statements.close(&handle, &ben);
        assert!(statements.get(&handle, &ana).is_ok());
        statements.close(&handle, &ana);
        assert!(statements.get(&handle, &ana).is_err());
    }

    #[test]
    fn unused_handle_expires_and_the_oldest_makes_room() {
        let statements = PreparedStatements::default();
        let ana = caller("ana");
        let start = Instant::now();
        let prepared = Prepared { sql: String::new(), parameters: vec![], rows: vec![], query: None };
        for number in 0..=STATEMENTS {
            let handle = Bytes::from(number.to_string());
            let used = start + Duration::from_millis(number as u64);
            statements.insert(handle, &ana, prepared.clone(), used);
        }
        assert_eq!(statements.entries().len(), STATEMENTS);
        let known = |handle: &'static str, now| statements.with(&Bytes::from(handle), &ana, now, |_| ()).is_ok();
        assert!(!known("0", start));
        assert!(known("1", start + Duration::from_secs(60)));
        assert!(!known("1", start + Duration::from_secs(60) + IDLE));
    }
}
