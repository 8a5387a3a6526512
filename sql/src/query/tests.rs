use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use arrow::{array::AsArray, datatypes::Int64Type, util::display::array_value_to_string};
use async_trait::async_trait;
use datafusion::{
    catalog::{SchemaProvider, TableProvider},
    common::DataFusionError,
    scalar::ScalarValue,
};
use futures::TryStreamExt;

use super::*;
use crate::{
    access::{Right, Rights},
    testing::{self, ana, memory, queries},
};

const ENDLESS: &str = "SELECT n FROM lake.test.endless";

fn quick() -> Limits {
    let minute = Duration::from_secs(60);
    Limits { time: minute, running: 1, small: 0, per_user: 1, waiting: 0, patience: minute, ..Limits::default() }
}

async fn rows(queries: &Queries, query: Query) -> Result<Vec<RecordBatch>, QueryError> {
    let answer = queries.start(query).await?;
    let schema = Arc::clone(&answer.schema);
    let batches: Vec<RecordBatch> = answer.batches.try_collect().await?;
    assert!(batches.iter().all(|batch| batch.schema() == schema), "the promise is kept");
    Ok(batches)
}

#[tokio::test]
async fn answer_keeps_the_promise_of_its_description() {
    let queries = queries(Limits::default());
    for sql in [
        "SELECT * FROM sales.orders_v1.order_lines",
        "SELECT currency, count(*), sum(amount) FROM sales.orders_v1.order_lines GROUP BY currency",
        "SELECT name, arrow_typeof(name) FROM sales.customers_v1.customer ORDER BY 1",
        "SELECT o.order_id, c.name FROM sales.orders_v1.order_lines o
         LEFT JOIN sales.customers_v1.customer c ON o.customer_key = c.customer_key",
        "EXPLAIN SELECT 1",
        "SHOW TABLES",
        "DESCRIBE sales.customers_v1.customer",
        "SELECT NULL, make_array('a', NULL), count(*) OVER () FROM sales.customers_v1.customer",
    ] {
        let described = queries.describe(sql, Arc::default(), &ana()).await.unwrap();
        let answer = queries.start(Query::new(sql, ana())).await.unwrap();
        assert_eq!(answer.schema, described.schema, "{sql}");
        assert_eq!((answer.snapshot, described.snapshot), (7, 7));
        let batches: Vec<RecordBatch> = answer.batches.try_collect().await.unwrap();
        assert!(batches.iter().all(|batch| batch.schema() == described.schema), "{sql}");
        assert!(batches.iter().any(|batch| batch.num_rows() > 0), "{sql}");
    }
    assert!(queries.running().is_empty());
}

/// The engine takes the first branch's types, until it makes them fit.
#[tokio::test]
async fn answers_have_the_types_of_all_branches() {
    let queries = queries(Limits::default());
    for (sql, expected) in [
        ("SELECT 1 AS v UNION ALL SELECT 2.5 ORDER BY v", "1.0 2.5"),
        ("SELECT NULL AS v UNION ALL SELECT 2.5 ORDER BY v", "2.5 "),
        ("SELECT CASE WHEN v = 1 THEN 0 ELSE v / 2.0 END AS v FROM (VALUES (1), (3)) AS t(v) ORDER BY v", "0.0 1.5"),
        ("SELECT sum(CASE WHEN v = 1 THEN 0 ELSE v + 0.25 END) FROM (VALUES (1), (3)) AS t(v)", "3.25"),
        (
            "SELECT DATE '2024-01-02' AS v UNION SELECT TIMESTAMP '2024-01-01T10:00:00' ORDER BY v",
            "2024-01-01T10:00:00 2024-01-02T00:00:00",
        ),
        (
            "SELECT v FROM (VALUES (CAST(1.5 AS DECIMAL(9,1)))) AS t(v) UNION ALL SELECT CAST(1.25 AS DECIMAL(9,2)) ORDER BY v",
            "1.25 1.50",
        ),
        ("SELECT TIMESTAMP '9999-12-31T00:00:00' AS v", "9999-12-31T00:00:00"),
    ] {
        let described = queries.describe(sql, Arc::default(), &ana()).await.unwrap();
        let batches = rows(&queries, Query::new(sql, ana())).await.unwrap();
        assert!(batches.iter().all(|batch| batch.schema() == described.schema), "{sql}");
        let shown: Vec<String> = batches
            .iter()
            .flat_map(|batch| (0..batch.num_rows()).map(|row| array_value_to_string(batch.column(0), row).unwrap()))
            .collect();
        assert_eq!(shown.join(" "), expected, "{sql}");
    }
}

/// What the engine would answer otherwise than SQL has it, or not at all.
#[tokio::test]
async fn what_is_not_answered_as_it_is_written_is_refused() {
    let queries = queries(Limits::default());
    let with = "WITH l(k, x) AS (VALUES (1, 'a'), (3, NULL)), r(k, y) AS (VALUES (1, 'p'), (2, NULL)) ";
    for (sql, word) in [
        ("SELECT k FROM l RIGHT JOIN r USING (k)", "coalesce"),
        ("SELECT k FROM l NATURAL FULL JOIN r", "coalesce"),
        ("SELECT 1 FROM (SELECT k FROM l FULL JOIN r USING (k)) AS t", "coalesce"),
        ("SELECT x FROM l WHERE x NOT IN (SELECT y FROM r) OR k = 7", "takes null for false"),
        ("SELECT x FROM l WHERE (x IN (SELECT y FROM r)) IS NULL", "takes null for false"),
        ("SELECT x FROM l WHERE NOT (x IN (SELECT y FROM r) AND k = 1)", "takes null for false"),
        ("SELECT EXISTS (SELECT 1 FROM r WHERE r.k = l.k) FROM l", "LEFT JOIN"),
        ("SELECT CASE WHEN k IN (SELECT k FROM r) THEN 1 END FROM l", "LEFT JOIN"),
    ] {
        let error = queries.start(Query::new(format!("{with}{sql}"), ana())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}: {error}");
        assert!(error.to_string().contains(word), "{sql}: {error}");
    }
    for (sql, expected) in [
        ("SELECT l.k FROM l LEFT JOIN r USING (k)", 2),
        ("SELECT k FROM l JOIN r USING (k)", 1),
        ("SELECT k FROM l WHERE k NOT IN (SELECT k FROM r)", 1),
        ("SELECT k FROM l WHERE x IN (SELECT y FROM r) OR k = 3", 1),
        ("SELECT k FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.k = l.k) OR k = 1", 2),
        ("SELECT k FROM l WHERE k NOT IN (SELECT k FROM r) AND (k IN (SELECT k FROM l) OR x = 'b')", 1),
    ] {
        let batches = rows(&queries, Query::new(format!("{with}{sql}"), ana())).await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), expected, "{sql}");
    }
}

#[tokio::test]
async fn mistakes_have_kind_and_place() {
    let queries = queries(Limits::default());
    let start = async |sql: &str| queries.start(Query::new(sql, ana())).await.unwrap_err();
    let missing = start("SELECT *\nFROM sales.orders_v1.nothing").await;
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    assert_eq!(missing.line, Some(2), "{missing}");
    let column = start("SELECT curency FROM sales.orders_v1.order_lines").await;
    assert_eq!((column.kind(), column.line, column.column), (ErrorKind::Invalid, Some(1), Some(8)));
    assert_eq!(start("SELECT 1 FROM WHERE").await.line, Some(1));
    assert_eq!(start("DROP TABLE sales.orders_v1.order_lines").await.kind(), ErrorKind::Invalid);
    assert_eq!(start("SELECT 1 INTO x").await.kind(), ErrorKind::Invalid);
    assert!(queries.running().is_empty());
}

#[tokio::test]
async fn error_while_running_reaches_the_reader() {
    let queries = queries(Limits::default());
    let sql = "SELECT 1 / (line_number - 1) FROM sales.orders_v1.order_lines";
    let error = rows(&queries, Query::new(sql, ana())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(queries.running().is_empty());
}

#[tokio::test]
async fn parameters_are_bound_row_by_row() {
    let queries = queries(Limits::default());
    let sql = "SELECT line_number FROM sales.orders_v1.order_lines WHERE order_id = ? AND line_number < ?";
    let described = queries.describe(sql, Arc::default(), &ana()).await.unwrap();
    assert_eq!(described.parameters.len(), 2);
    assert_eq!(described.parameters[1].data_type(), &arrow::datatypes::DataType::Int64);
    let row = |id: &str, below: i64| Params::Positional(vec![ScalarValue::from(id), ScalarValue::from(below)]);
    let query = Query::new(sql, ana()).bind_rows(vec![row("b", 9), row("a", 9), row("a", 1)]);
    let batches = rows(&queries, query).await.unwrap();
    let numbers: Vec<i64> =
        batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
    assert_eq!(numbers, [1, 1, 2]);
    let unbound = queries.start(Query::new(sql, ana())).await.unwrap_err();
    assert_eq!(unbound.kind(), ErrorKind::Invalid);
    // Further rows are looked at when it is their turn.
    let query = Query::new("SELECT $1 AS v", ana());
    let differing = [ScalarValue::from("a"), ScalarValue::from(1_i64)].map(|value| Params::Positional(vec![value]));
    let mut answer = queries.start(query.bind_rows(differing.to_vec())).await.unwrap();
    assert!(answer.batches.next().await.unwrap().is_ok());
    let error = answer.batches.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("different types"), "{error}");
}

/// A query that was stopped is listed until its threads are free.
async fn until_ended(queries: &Queries) {
    while !queries.running().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn cancelled_query_tells_its_reader() {
    let queries = queries(quick());
    let mut answer = queries.start(Query::new(ENDLESS, ana())).await.unwrap();
    let running = queries.running();
    assert_eq!(running.len(), 1);
    assert_eq!((running[0].id, &*running[0].sql, running[0].user.as_str()), (answer.id, ENDLESS, "ana"));
    assert!(answer.batches.next().await.unwrap().is_ok());
    assert!(queries.cancel(answer.id));
    let error = answer.batches.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(answer.batches.next().await.is_none());
    until_ended(&queries).await;
    assert!(!queries.cancel(answer.id));
}

#[tokio::test]
async fn dropping_the_answer_frees_its_slot() {
    let queries = queries(Limits { waiting: 1, ..quick() });
    let answer = queries.start(Query::new(ENDLESS, ana())).await.unwrap();
    drop(answer);
    assert!(queries.running().iter().all(|query| query.is_stopping));
    until_ended(&queries).await;
    assert_eq!(rows(&queries, Query::new("SELECT 1", ana())).await.unwrap().len(), 1);
}

#[tokio::test]
async fn more_queries_than_run_and_wait_are_refused() {
    let queries = queries(quick());
    let first = queries.start(Query::new(ENDLESS, ana())).await.unwrap();
    let error = queries.start(Query::new("SELECT 1", ana())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let error = queries.describe("SELECT 1", Arc::default(), &ana()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "planning needs a slot too");
    assert_eq!(queries.running().len(), 1);
    drop(first);
}

#[tokio::test]
async fn waiting_query_can_be_cancelled() {
    let queries = queries(Limits { waiting: 1, ..quick() });
    let _first = queries.start(Query::new(ENDLESS, ana())).await.unwrap();
    let id = Uuid::new_v4();
    let waiting = queries.start(Query::new("SELECT 1", ana()).with_id(id));
    let stopping = async {
        while !queries.cancel(id) {
            tokio::task::yield_now().await;
        }
    };
    let (waited, ()) = tokio::join!(waiting, stopping);
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test]
async fn query_over_its_time_is_stopped() {
    let queries = queries(Limits { time: Duration::from_millis(200), ..quick() });
    let outcome = rows(&queries, Query::new(ENDLESS, ana())).await;
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.hint().is_some_and(|hint| !hint.contains("raise")), "there is no such setting");
    until_ended(&queries).await;
}

#[tokio::test]
async fn promise_is_broken_only_by_another_type_of_result() {
    let views = Arc::new(memory());
    let queries = Queries::new(Arc::clone(&views) as Arc<dyn Views>, Limits::default());
    let sql = "SELECT name FROM sales.customers_v1.customer";
    let described = queries.describe(sql, Arc::default(), &ana()).await.unwrap();
    let snapshot: &AtomicU64 = &views.snapshot;
    snapshot.store(8, Ordering::SeqCst);
    let kept = Promise { snapshot: 7, schema: schema_digest(&described.schema) };
    let answer = queries.start(Query::new(sql, ana()).with_promise(kept)).await.unwrap();
    assert_eq!(answer.snapshot, 8);
    let broken = Promise { snapshot: 7, schema: "else".to_owned() };
    let error = queries.start(Query::new(sql, ana()).with_promise(broken)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn taken_id_is_not_given_twice() {
    let queries = queries(Limits { running: 2, per_user: 2, ..quick() });
    let id = Uuid::new_v4();
    let first = queries.start(Query::new(ENDLESS, ana()).with_id(id)).await.unwrap();
    let second = queries.start(Query::new(ENDLESS, ana()).with_id(id)).await.unwrap();
    assert_eq!(first.id, id);
    assert_ne!(second.id, id);
    queries.cancel_all();
    for mut batches in [first.batches, second.batches] {
        let last = loop {
            match batches.next().await {
                Some(Ok(_)) => {}
                other => break other,
            }
        };
        assert_eq!(last.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    }
}

/// A join that yields no row for hours, and never waits for anything.
const FRUITLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b
                         WHERE a.value + b.value < 0";

/// Waits until so many queries hold a slot.
async fn until_busy(queries: &Queries, slots: usize) {
    while queries.inner.admission.taken().0 != slots {
        tokio::task::yield_now().await;
    }
}

/// Only when a query's threads are free is its slot, too. The runtime of this test has one thread.
#[tokio::test]
async fn what_yields_nothing_stops_and_its_threads_are_free() {
    let queries = queries(quick());
    for told in ["cancelled", "dropped"] {
        let answer = queries.start(Query::new(FRUITLESS, ana())).await.unwrap();
        until_busy(&queries, 1).await;
        if told == "cancelled" {
            assert!(queries.cancel(answer.id));
            let mut batches = answer.batches;
            assert_eq!(batches.next().await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        } else {
            drop(answer);
        }
        until_busy(&queries, 0).await;
    }
    let limited = testing::queries(Limits { time: Duration::from_millis(50), ..quick() });
    let error = rows(&limited, Query::new(FRUITLESS, ana())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    until_busy(&limited, 0).await;
}

#[tokio::test]
async fn small_queries_are_answered_beside_many_that_yield_nothing() {
    let queries = queries(Limits { running: 8, small: 1, per_user: 8, waiting: 10, ..quick() });
    let mut fruitless = Vec::new();
    for _ in 0..8 {
        fruitless.push(queries.start(Query::new(FRUITLESS, ana())).await.unwrap());
    }
    until_busy(&queries, 8).await;
    for user in ["ana", "ben"] {
        assert_eq!(rows(&queries, Query::new("SELECT 1", Caller::named(user))).await.unwrap().len(), 1);
    }
    // A large one waits for a slot, and leaves the room for small ones meanwhile.
    let large = queries.start(Query::new(ENDLESS, ana()));
    let small = async {
        while queries.inner.admission.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rows(&queries, Query::new("SELECT 2", ana())).await.unwrap().len(), 1);
        fruitless.pop();
    };
    let (large, ()) = tokio::join!(large, small);
    assert!(large.is_ok());
}

/// A hundred times what two batches are.
const MANY_ROWS: &str = "SELECT value FROM generate_series(1, 2000000)";

#[tokio::test]
async fn an_answer_that_nobody_reads_holds_no_slot() {
    // All of it fits on the disk, or none of it.
    for result_disk in [1 << 30, 0] {
        let queries = queries(Limits { waiting: 10, result_memory: 0, result_disk, ..quick() });
        let mut unread = Vec::new();
        for _ in 0..4 {
            unread.push(queries.start(Query::new(MANY_ROWS, ana())).await.unwrap());
            until_busy(&queries, 0).await;
        }
        assert_eq!(rows(&queries, Query::new("SELECT 1", ana())).await.unwrap().len(), 1);
        assert_eq!(queries.running().len(), 4);
        for answer in unread {
            let batches: Vec<RecordBatch> = answer.batches.try_collect().await.unwrap();
            assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 2_000_000);
        }
        while queries.inner.budget.used() != (0, 0) {
            tokio::task::yield_now().await;
        }
    }
}

/// Each has some memory, whatever the budget says.
#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_in_number() {
    let queries = queries(quick());
    let mut unread = Vec::new();
    let refused = loop {
        until_busy(&queries, 0).await;
        match queries.start(Query::new("SELECT 1", ana())).await {
            Ok(answer) => unread.push(answer),
            Err(error) => break error,
        }
        assert!(unread.len() < 200);
    };
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.hint().is_some_and(|hint| hint.contains("to their end")), "{refused}");
    assert_eq!(rows(&queries, Query::new("SELECT 1", Caller::named("ben"))).await.unwrap().len(), 1);
    drop(unread.pop());
    until_busy(&queries, 0).await;
    assert!(queries.start(Query::new("SELECT 1", ana())).await.is_ok());
}

#[tokio::test]
async fn an_answer_that_is_never_read_is_dropped() {
    let time = Duration::from_millis(1500);
    let queries = queries(Limits { time, waiting: 10, ..quick() });
    let mut answer = queries.start(Query::new("SELECT 1", ana())).await.unwrap();
    while queries.inner.budget.used() != (0, 0) || queries.inner.admission.taken() != (0, 0) {
        tokio::task::yield_now().await;
    }
    let error = answer.batches.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[tokio::test]
async fn a_query_over_the_memory_of_the_process_is_stopped_in_words() {
    // Less than any process has in use.
    let queries = queries(Limits { resident: Some(1), ..quick() });
    if starmere_lake::machine::resident().is_none() {
        return;
    }
    let error = match queries.start(Query::new(ENDLESS, ana())).await {
        Ok(answer) => answer.batches.try_collect::<Vec<_>>().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("too much memory"), "{error}");
}

/// With two slots and room for one small query beside them, `SELECT 1` is answered while others make large constants, and
/// while long texts are planned.
#[tokio::test]
async fn what_takes_long_leaves_the_room_for_small_queries() {
    let queries = queries(Limits { running: 2, small: 1, per_user: 2, waiting: 100, ..Limits::default() });
    let constants: Vec<String> =
        (0..20).map(|n| format!("array_length(array_sort(array_repeat({n}, 2000000)))")).collect();
    let long = format!("SELECT {} FROM sales.orders_v1.order_lines", vec!["line_number"; 500].join(" + "));
    for sql in [format!("SELECT {}", constants.join(", ")), long] {
        let busy: Vec<_> = (0..4)
            .map(|_| {
                let (queries, sql) = (queries.clone(), sql.clone());
                tokio::spawn(async move { rows(&queries, Query::new(sql, ana())).await })
            })
            .collect();
        while queries.inner.admission.taken().0 < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(rows(&queries, Query::new("SELECT 1", Caller::named("ben"))).await.unwrap().len(), 1);
        assert!(busy.iter().any(|query| !query.is_finished()), "{sql}");
        for query in busy {
            query.await.unwrap().unwrap();
        }
    }
}

/// A table that counts how often it is looked up.
#[derive(Debug)]
struct Counted {
    table: Arc<dyn TableProvider>,
    lookups: AtomicU64,
}

#[async_trait]
impl SchemaProvider for Counted {
    fn table_names(&self) -> Vec<String> {
        vec!["customer".to_owned()]
    }

    async fn table(&self, _name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Arc::clone(&self.table)))
    }

    fn table_exist(&self, _name: &str) -> bool {
        true
    }
}

/// A client that prepares a statement asks what it gives, again, and then for its rows.
#[tokio::test]
async fn a_statement_is_planned_once_and_raw_events_are_looked_up_by_each_query() {
    let views = memory();
    let catalog = |name: &str| views.context().catalog(name).unwrap();
    let table = catalog("sales").schema("customers_v1").unwrap().table("customer").await.unwrap().unwrap();
    let counted = Arc::new(Counted { table, lookups: AtomicU64::new(0) });
    for name in ["sales", "lake"] {
        catalog(name).register_schema("counted", counted.clone()).unwrap();
    }
    let queries = Queries::new(Arc::new(views), Limits::default());
    for (from, expected) in [("sales", 1), ("lake", 4)] {
        let sql = format!("SELECT name, now() FROM {from}.counted.customer");
        counted.lookups.store(0, Ordering::SeqCst);
        let described = queries.describe(&sql, Arc::default(), &ana()).await.unwrap();
        assert_eq!(queries.describe(&sql, Arc::default(), &ana()).await.unwrap().schema, described.schema);
        let mut times = Vec::new();
        for _ in 0..2 {
            let batches = rows(&queries, Query::new(sql.as_str(), ana())).await.unwrap();
            assert_eq!(batches[0].schema(), described.schema);
            times.push(array_value_to_string(batches[0].column(1), 0).unwrap());
        }
        assert_eq!(counted.lookups.load(Ordering::SeqCst), expected, "{sql}");
        assert_ne!(times[0], times[1], "each run has its own time");
    }
}

#[tokio::test]
async fn a_plan_is_for_those_who_may_ask_it() {
    let queries = queries(Limits::default());
    let caller = |rights: &[Right]| Caller { user: "ben".to_owned(), rights: Rights::of(rights) };
    let (all, ports, raw) = (ana(), caller(&[Right::Query]), caller(&[Right::Raw]));
    let sql = "SELECT name FROM sales.customers_v1.customer";
    for _ in 0..2 {
        for (caller, may) in [(&all, true), (&raw, false), (&ports, true)] {
            let described = queries.describe(sql, Arc::default(), caller).await;
            let answer = rows(&queries, Query::new(sql, caller.clone())).await;
            assert_eq!((described.is_ok(), answer.is_ok()), (may, may), "{caller:?}");
            for error in described.err().into_iter().chain(answer.err()) {
                assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            }
        }
    }
    let sql = "SELECT count(*) FROM information_schema.tables WHERE table_schema <> 'information_schema'";
    for (caller, tables) in [(&all, "3"), (&ports, "2"), (&raw, "1"), (&all, "3")] {
        let batches = rows(&queries, Query::new(sql, caller.clone())).await.unwrap();
        assert_eq!(array_value_to_string(batches[0].column(0), 0).unwrap(), tables, "{caller:?}");
    }
}

/// Parameters are told to a plan that was made before them, and types are those of the values.
#[tokio::test]
async fn a_kept_plan_takes_other_parameters() {
    let queries = queries(Limits::default());
    let sql = "SELECT $1 AS v, n FROM (SELECT count(*) AS n FROM sales.orders_v1.order_lines WHERE line_number < $2) t";
    for (value, below, expected) in [
        (ScalarValue::from("a"), 9_i64, "a 3"),
        (ScalarValue::from(7_i64), 2, "7 2"),
        (ScalarValue::from("b"), 0, "b 0"),
    ] {
        let row: Arc<[Params]> = Arc::new([Params::Positional(vec![value, ScalarValue::from(below)])]);
        let described = queries.describe(sql, Arc::clone(&row), &ana()).await.unwrap();
        let batches = rows(&queries, Query::new(sql, ana()).bind_rows(row)).await.unwrap();
        assert_eq!(batches[0].schema(), described.schema);
        let shown = [0, 1].map(|column| array_value_to_string(batches[0].column(column), 0).unwrap());
        assert_eq!(shown.join(" "), expected);
    }
    let few: Arc<[Params]> = Arc::new([Params::Positional(vec![ScalarValue::from(1_i64)])]);
    assert_eq!(queries.describe(sql, few, &ana()).await.unwrap_err().kind(), ErrorKind::Invalid);
}

/// A plan that is kept is of no query: each run has a watch of its own.
#[tokio::test]
async fn a_run_of_a_kept_plan_stops_when_it_is_told_to() {
    let queries = queries(quick());
    let sql = "SELECT count(*) FROM (SELECT unnest(range(0, 200000)) AS v) a
               CROSS JOIN (SELECT unnest(range(0, 200000)) AS v) b WHERE a.v + b.v < 0";
    for _ in 0..3 {
        let answer = queries.start(Query::new(sql, ana())).await.unwrap();
        until_busy(&queries, 1).await;
        assert!(queries.cancel(answer.id));
        let mut batches = answer.batches;
        assert_eq!(batches.next().await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        until_busy(&queries, 0).await;
    }
}

/// Rows that an operator repeats may be wide: batches have fewer of them then.
#[tokio::test]
async fn wide_rows_are_answered_in_smaller_batches() {
    let queries = queries(Limits { resident: None, ..Limits::default() });
    for (sql, expected) in [
        // Half a gigabyte for each batch of 8,192 rows, and more.
        (
            "SELECT count(l[7]), sum(value) FROM (SELECT range(0, 100000) AS l) CROSS JOIN generate_series(1, 1000) \
             WHERE l[1] < value",
            "1000 500500",
        ),
        (
            "SELECT count(l[7]), sum(b.n) FROM (SELECT range(0, 100000) AS l, 1 AS k) a
             JOIN (SELECT value AS n, value % 2 AS k FROM generate_series(1, 1000)) b USING (k)",
            "500 250000",
        ),
        ("SELECT count(l[7]), sum(u) FROM (SELECT unnest(range(0, 150)) AS u, range(0, 100000) AS l)", "150 11175"),
        (
            "SELECT count(x[7]), sum(u) FROM (SELECT u, lag(l) OVER (ORDER BY u) AS x FROM
             (SELECT value AS u, range(0, 100000 + value * 0) AS l FROM generate_series(1, 200)))",
            "199 20100",
        ),
        (
            "SELECT count(l[7]), sum(value) FROM
             (SELECT (SELECT range(0, 100000)) AS l, value FROM generate_series(1, 1000)) WHERE l[1] < value",
            "1000 500500",
        ),
        (
            "SELECT count(upper(t)), max(length(t || value)) FROM (SELECT repeat('x', 1000000) AS t)
             CROSS JOIN generate_series(1, 3000)",
            "3000 1000004",
        ),
    ] {
        let batches = rows(&queries, Query::new(sql, ana())).await.unwrap();
        let shown = |column| array_value_to_string(batches[0].column(column), 0).unwrap();
        assert_eq!(format!("{} {}", shown(0), shown(1)), expected, "{sql}");
    }
    // All elements of a list are made rows in one step.
    let sql = "SELECT count(l[7]), sum(u) FROM (SELECT unnest(range(0, 1000)) AS u, range(0, 800000) AS l)";
    let error = rows(&queries, Query::new(sql, ana())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("join it afterwards"), "{error}");
    // What was given out cannot be taken back.
    let sql = "SELECT l[1], n FROM (SELECT value AS n, CASE WHEN value > 100000 THEN range(0, 100000) END AS l
               FROM generate_series(1, 100001)) CROSS JOIN (VALUES (1), (2))";
    match rows(&queries, Query::new(sql, ana())).await {
        Ok(batches) => assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 200_002),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("make their values shorter"), "{error}");
        }
    }
}
