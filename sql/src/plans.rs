//! Plans that are kept, for those who ask the same again.
//!
//! A client that prepares a statement has it planned three times: when it prepares it, when it asks what it gives, and
//! when it runs it. What these have in common is kept: the statement parsed, planned and analyzed, by its text and the
//! rights of the caller, beside the tables that it was planned over. So a plan goes with the snapshot that it is of.
//!
//! What is kept has no session, no watch and no parameters: each run optimizes it anew, with its own watch, clock and
//! values, so that it can be told to stop. It is bounded in number, in memory (an estimate) and in time.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{access::Rights, plan::Understood};

/// So many plans are kept over the tables of a snapshot.
const MOST: usize = 256;

/// They may have so many bytes together, and each of them so many.
const MOST_BYTES: usize = 32 << 20;
const MOST_BYTES_OF_ONE: usize = 4 << 20;

/// A plan that is not used for this long is forgotten.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// The plans over the tables of one snapshot. All views of these tables have the same one.
#[derive(Debug, Default)]
pub struct Plans {
    /// The one that was used last is the last.
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    sql: String,
    rights: Rights,
    used: Instant,
    bytes: usize,
    statement: Arc<Understood>,
}

impl Plans {
    /// The plan of a text, if one is kept for somebody with the same rights.
    pub(crate) fn find(&self, sql: &str, rights: Rights, now: Instant) -> Option<Arc<Understood>> {
        let mut kept = self.kept();
        let place = kept.iter().position(|kept| kept.rights == rights && kept.sql == sql)?;
        let found = kept.remove(place);
        if now.duration_since(found.used) >= IDLE {
            return None;
        }
        let statement = Arc::clone(&found.statement);
        kept.push(Kept { used: now, ..found });
        Some(statement)
    }

    /// Keeps a plan, in the place of those that have not been used for longest where there are too many.
    pub(crate) fn keep(&self, sql: &str, rights: Rights, statement: &Arc<Understood>, now: Instant) {
        let bytes = statement.size(sql);
        if bytes > MOST_BYTES_OF_ONE {
            return;
        }
        let mut kept = self.kept();
        // Others may have planned the same meanwhile.
        kept.retain(|kept| now.duration_since(kept.used) < IDLE && (kept.rights != rights || kept.sql != sql));
        let mut all: usize = kept.iter().map(|kept| kept.bytes).sum();
        while kept.len() >= MOST || all + bytes > MOST_BYTES {
            all -= kept.remove(0).bytes;
        }
        kept.push(Kept { sql: sql.to_owned(), rights, used: now, bytes, statement: Arc::clone(statement) });
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use starmere_lake::watch::Watch;

    use super::*;
    use crate::{
        plan,
        testing::{ana, memory},
        view::Views,
    };

    /// The plan of a text as it is kept after it was planned.
    async fn kept_after(sql: &str) -> Option<Arc<Understood>> {
        let view = memory().newest().await.unwrap();
        plan::plan(&view, sql, &ana(), &Arc::new(Watch::default())).await.unwrap();
        view.plans.find(sql, ana().rights, Instant::now())
    }

    #[tokio::test]
    async fn what_is_the_same_for_all_queries_of_a_snapshot_is_kept() {
        for sql in [
            "SELECT 1",
            "SELECT name FROM sales.customers_v1.customer WHERE name = $1",
            "WITH c AS (SELECT * FROM sales.customers_v1.customer) SELECT now(), count(*) FROM c JOIN c d USING (name)",
        ] {
            assert!(kept_after(sql).await.is_some(), "{sql}");
        }
        let deep = format!("SELECT {}", vec!["1"; MORE_THAN_SHALLOW].join(" + "));
        // A short text may stand for a large plan.
        let (text, ctes) = ("x".repeat(100_000), vec!["c"; 60].join(" UNION ALL SELECT t FROM "));
        let large = format!("WITH c AS (SELECT '{text}' AS t) SELECT t FROM {ctes}");
        for sql in [
            "SELECT n FROM lake.test.endless",
            "SELECT n FROM \"lake\".TEST.endless",
            "SELECT name FROM sales.customers_v1.customer WHERE 1 IN (SELECT n FROM lake.test.endless)",
            "WITH sales AS (SELECT n FROM lake.test.endless) SELECT * FROM sales",
            "SELECT table_name FROM information_schema.tables",
            "SELECT table_name FROM sales.information_schema.tables",
            "SELECT value FROM generate_series(1, 3)",
            "SHOW TABLES",
            "DESCRIBE sales.customers_v1.customer",
            "EXPLAIN SELECT name FROM sales.customers_v1.customer",
            &deep,
            &large,
        ] {
            assert!(kept_after(sql).await.is_none(), "{}", &sql[..sql.len().min(200)]);
        }
    }

    const MORE_THAN_SHALLOW: usize = 300;

    #[tokio::test]
    async fn plans_are_bounded_in_number_memory_and_time() {
        let (statement, rights, now) = (kept_after("SELECT 1").await.unwrap(), ana().rights, Instant::now());
        let plans = Plans::default();
        for number in 0..MOST {
            plans.keep(&number.to_string(), rights, &statement, now);
        }
        assert!(plans.find("0", rights, now).is_some());
        plans.keep("one more", rights, &statement, now);
        assert_eq!(plans.kept().len(), MOST);
        assert!(plans.find("0", rights, now).is_some(), "it was used lately");
        assert!(plans.find("1", rights, now).is_none(), "it was not used for longest");
        assert!(plans.find("0", Rights::of(&[]), now).is_none());
        plans.keep("0", rights, &statement, now);
        assert_eq!(plans.kept().iter().filter(|kept| kept.sql == "0").count(), 1);

        let long = |number: usize| format!("{number}{}", " ".repeat(3 << 20));
        for number in 0..20 {
            plans.keep(&long(number), rights, &statement, now);
            assert!(plans.kept().iter().map(|kept| kept.bytes).sum::<usize>() <= MOST_BYTES);
        }
        assert!(plans.find(&long(19), rights, now).is_some());
        assert!(plans.find(&long(0), rights, now).is_none());
        let too_long = " ".repeat(MOST_BYTES_OF_ONE);
        plans.keep(&too_long, rights, &statement, now);
        assert!(plans.find(&too_long, rights, now).is_none());

        assert!(plans.find(&long(19), rights, now + IDLE).is_none());
        plans.keep("SELECT 1", rights, &statement, now + IDLE);
        assert_eq!(plans.kept().len(), 1);
    }
}
