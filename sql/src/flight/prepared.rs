//! Prepared statements: text and bound parameters, by handle.
//!
//! A handle is known to its user only, and forgotten after [`IDLE`] without use. All statements together have a limit
//! of memory, and each user a share of it and of their number: who needs more loses the statements that he has not used
//! for longest, and never somebody else's. After a restart all are unknown, and clients are told to prepare again.
//! No plan is kept with them: each run is of its own view, which may have one ([`crate::Plans`]).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use uuid::Uuid;

use crate::{access::Caller, error::QueryError, params::Params};

/// A statement that is not used for this long is forgotten.
pub(super) const IDLE: Duration = Duration::from_secs(60 * 60);

/// So many statements are remembered of a user.
const STATEMENTS: usize = 2_000;

/// A user may have this part of the memory for statements.
pub(super) const SHARE: usize = 2;

/// What is remembered of a statement. Cloned, it shares what is large.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) sql: Arc<str>,
    /// Identifiers of its parameters, in order.
    pub(super) parameters: Arc<[String]>,
    /// One entry per row that was bound.
    pub(super) rows: Arc<[Params]>,
    /// The query that ran it last.
    pub(super) query: Option<Uuid>,
}

impl Prepared {
    /// Bytes in use, about.
    fn size(&self) -> usize {
        let names: usize = self.parameters.iter().map(|name| size_of::<String>() + name.len()).sum();
        let rows: usize = self.rows.iter().map(size_of_row).sum();
        size_of::<Entry>() + self.sql.len() + names + rows
    }
}

pub(super) fn size_of_row(row: &Params) -> usize {
    let values = match row {
        Params::Positional(values) => values.iter().map(ScalarValue::size).sum::<usize>(),
        Params::Named(values) => {
            values.iter().map(|(name, value)| size_of::<String>() + name.len() + value.size()).sum()
        }
    };
    size_of::<Params>() + values
}

#[derive(Debug)]
pub(super) struct PreparedStatements {
    memory: usize,
    entries: Mutex<HashMap<Bytes, Entry>>,
}

#[derive(Debug)]
struct Entry {
    user: String,
    used: Instant,
    bytes: usize,
    prepared: Prepared,
}

impl PreparedStatements {
    /// All statements together take at most `memory` bytes.
    pub(super) fn new(memory: usize) -> Self {
        Self { memory, entries: Mutex::default() }
    }

    /// Remembers a statement and gives its handle.
    ///
    /// # Errors
    /// `Busy` when statements of others take the memory.
    pub(super) fn create(&self, caller: &Caller, sql: String, parameters: Vec<String>) -> Result<Bytes, QueryError> {
        let handle = Bytes::from(Uuid::new_v4().to_string());
        let prepared = Prepared { sql: sql.into(), parameters: parameters.into(), rows: Arc::default(), query: None };
        self.insert(handle.clone(), caller, prepared, Instant::now())?;
        Ok(handle)
    }

    /// The statement behind a handle.
    ///
    /// # Errors
    /// `NotFound` when it is unknown, another user's, or forgotten.
    pub(super) fn get(&self, handle: &Bytes, caller: &Caller) -> Result<Prepared, QueryError> {
        self.with(handle, caller, Instant::now(), |prepared| prepared.clone())
    }

    /// Binds rows of parameters for the runs that follow.
    ///
    /// # Errors
    /// `Busy` when statements of others take the memory, `Invalid` when it is more than a user may have, `NotFound`.
    pub(super) fn bind(&self, handle: &Bytes, caller: &Caller, rows: Vec<Params>) -> Result<(), QueryError> {
        let prepared = Prepared { rows: rows.into(), ..self.get(handle, caller)? };
        self.insert(handle.clone(), caller, prepared, Instant::now())
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

    /// Puts a statement in, or in its place. Where it does not fit, what was there stays.
    fn insert(&self, handle: Bytes, caller: &Caller, prepared: Prepared, now: Instant) -> Result<(), QueryError> {
        let bytes = prepared.size();
        let share = self.memory / SHARE;
        if bytes > share {
            let message = format!("the statement and its parameters take {bytes} bytes, more than {share}");
            return Err(QueryError::invalid(message).with_hint("bind fewer rows at a time, or shorter values"));
        }
        let mut entries = self.entries();
        entries.retain(|_, entry| now.duration_since(entry.used) < IDLE);
        let mut own: Vec<(Instant, Bytes, usize)> = entries
            .iter()
            .filter(|(other, entry)| entry.user == caller.user && **other != handle)
            .map(|(other, entry)| (entry.used, other.clone(), entry.bytes))
            .collect();
        own.sort_unstable_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let of_own: usize = own.iter().map(|(_, _, bytes)| bytes).sum();
        let replaced = entries.get(&handle).map_or(0, |entry| entry.bytes);
        let of_all: usize = entries.values().map(|entry| entry.bytes).sum();
        let of_others = of_all - of_own - replaced;
        if of_others + bytes > self.memory {
            return Err(QueryError::busy("prepared statements of other users take all the memory for such"));
        }
        let room = share.min(self.memory - of_others) - bytes;
        let (mut left, mut number) = (of_own, own.len());
        // From the one that has not been used for longest.
        while left > room || number >= STATEMENTS {
            let Some((_, oldest, bytes)) = own.pop() else { break };
            entries.remove(&oldest);
            left -= bytes;
            number -= 1;
        }
        entries.insert(handle, Entry { user: caller.user.clone(), used: now, bytes, prepared });
        Ok(())
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
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(user: &str) -> Caller {
        Caller::named(user)
    }

    fn row(bytes: usize) -> Params {
        Params::Positional(vec![ScalarValue::from("x".repeat(bytes))])
    }

    #[test]
    fn handle_is_known_to_its_user_until_closed() {
        let statements = PreparedStatements::new(1 << 20);
        let (ana, ben) = (caller("ana"), caller("ben"));
        let handle = statements.create(&ana, "SELECT 1".to_owned(), vec![]).unwrap();
        assert_eq!(&*statements.get(&handle, &ana).unwrap().sql, "SELECT 1");
        assert!(statements.get(&handle, &ben).is_err());
        statements.close(&handle, &ben);
        assert!(statements.get(&handle, &ana).is_ok());
        statements.close(&handle, &ana);
        assert!(statements.get(&handle, &ana).is_err());
    }

    #[test]
    fn unused_handle_expires_and_the_oldest_makes_room() {
        let statements = PreparedStatements::new(1 << 30);
        let ana = caller("ana");
        let start = Instant::now();
        let prepared = Prepared { sql: "".into(), parameters: Arc::default(), rows: Arc::default(), query: None };
        for number in 0..=STATEMENTS {
            let handle = Bytes::from(number.to_string());
            let used = start + Duration::from_millis(number as u64);
            statements.insert(handle, &ana, prepared.clone(), used).unwrap();
        }
        assert_eq!(statements.entries().len(), STATEMENTS);
        let known = |handle: &'static str, now| statements.with(&Bytes::from(handle), &ana, now, |_| ()).is_ok();
        assert!(!known("0", start));
        assert!(known("1", start + Duration::from_secs(60)));
        assert!(!known("1", start + Duration::from_secs(60) + IDLE));
    }

    #[test]
    fn parameters_of_all_statements_have_a_limit_and_nobody_pushes_out_another() {
        let statements = PreparedStatements::new(100_000);
        let (ana, ben, cy) = (caller("ana"), caller("ben"), caller("cy"));
        let sql = || "SELECT ?".to_owned();
        let bens = statements.create(&ben, sql(), vec!["$1".to_owned()]).unwrap();
        statements.bind(&bens, &ben, vec![row(40_000)]).unwrap();
        let anas: Vec<Bytes> = (0..400)
            .map(|_| {
                let handle = statements.create(&ana, sql(), vec!["$1".to_owned()]).unwrap();
                statements.bind(&handle, &ana, vec![row(20_000)]).unwrap();
                handle
            })
            .collect();
        let used: usize = statements.entries().values().map(|entry| entry.bytes).sum();
        assert!(used <= 100_000, "{used}");
        assert_eq!(statements.get(&bens, &ben).unwrap().rows.len(), 1);
        assert!(statements.get(&anas[399], &ana).is_ok());
        assert!(statements.get(&anas[0], &ana).is_err(), "the oldest of one's own make room");
        // More than a share is refused, and what was bound stays.
        let error = statements.bind(&bens, &ben, vec![row(60_000)]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert_eq!(statements.get(&bens, &ben).unwrap().rows.len(), 1);
        let cys = statements.create(&cy, sql(), vec!["$1".to_owned()]).unwrap();
        let error = statements.bind(&cys, &cy, vec![row(40_000)]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Busy);
    }
}
