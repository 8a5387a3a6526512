//! Which queries run or wait now, and how to stop them. In memory only: a restart ends them all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::access::Caller;

/// A query that runs or waits for its slot.
#[derive(Clone, Debug)]
pub struct RunningQuery {
    /// To cancel it by.
    pub id: Uuid,
    /// The text as it was sent.
    pub sql: Arc<str>,
    /// Who asked.
    pub user: String,
    /// When it was asked.
    pub started_at: DateTime<Utc>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Registry(Arc<Mutex<HashMap<Uuid, Entry>>>);

#[derive(Debug)]
struct Entry {
    query: RunningQuery,
    stop: CancellationToken,
}

impl Registry {
    /// Enters a query under the wanted id, or a new one where that is taken. It leaves when the guard drops.
    pub(super) fn enter(&self, wanted: Option<Uuid>, sql: &str, caller: &Caller) -> Registered {
        let mut entries = self.entries();
        let id = wanted.filter(|id| !entries.contains_key(id)).unwrap_or_else(Uuid::new_v4);
        let stop = CancellationToken::new();
        let query = RunningQuery { id, sql: sql.into(), user: caller.user.clone(), started_at: Utc::now() };
        entries.insert(id, Entry { query, stop: stop.clone() });
        Registered { id, stop, registry: self.clone() }
    }

    pub(super) fn list(&self) -> Vec<RunningQuery> {
        let mut queries: Vec<_> = self.entries().values().map(|entry| entry.query.clone()).collect();
        queries.sort_by_key(|query| (query.started_at, query.id));
        queries
    }

    pub(super) fn cancel(&self, id: Uuid) -> bool {
        let entries = self.entries();
        let entry = entries.get(&id);
        if let Some(entry) = entry {
            entry.stop.cancel();
        }
        entry.is_some()
    }

    pub(super) fn cancel_all(&self) {
        for entry in self.entries().values() {
            entry.stop.cancel();
        }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uuid, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A query's place in the registry; dropping it stops the query and takes it off the list.
#[derive(Debug)]
pub(super) struct Registered {
    id: Uuid,
    stop: CancellationToken,
    registry: Registry,
}

impl Registered {
    pub(super) fn id(&self) -> Uuid {
        self.id
    }

    /// Cancelled when the query is to stop.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.stop.cancel();
        self.registry.entries().remove(&self.id);
    }
}
