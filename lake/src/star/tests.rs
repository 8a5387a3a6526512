use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;
use datafusion::physical_plan::common::collect;
use datafusion::physical_plan::{ExecutionPlanProperties, displayable};
use datafusion::prelude::SessionContext;

use crate::delta::{Commit, EncodedFile, FileOptions, Warehouse};
use crate::paths::TablePath;
use crate::provider::PinnedTable;
use crate::session::Engine;
use crate::store::Store;

type Columns = Vec<(&'static str, ArrayRef)>;

fn longs(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from_iter(values))
}

fn texts(values: impl IntoIterator<Item = String>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

/// Keys as ours are: all over the place.
fn key(member: i64) -> i64 {
    (member.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 1).abs()
}

async fn register(
    contexts: &[&SessionContext],
    store: &Store,
    name: &str,
    unique: Option<&str>,
    columns: Columns,
    files: usize,
) {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
            .unwrap();
    let table = Warehouse::new(store.clone()).table(TablePath::stream("test", name));
    let mut snapshot = table.open_or_create(&batch.schema(), &[]).await.unwrap();
    let step = batch.num_rows().div_ceil(files).max(1);
    for first in (0..batch.num_rows()).step_by(step) {
        let part = batch.slice(first, step.min(batch.num_rows() - first));
        let options = FileOptions { row_group: 100, ..FileOptions::default() };
        let add = table.upload(EncodedFile::of(&batch.schema(), &[part], &options).unwrap()).await.unwrap();
        snapshot =
            table.commit(&snapshot, Commit { adds: vec![add], operation: "WRITE", ..Commit::default() }).await.unwrap();
    }
    for context in contexts {
        let pinned = PinnedTable::new(store, snapshot.clone());
        let pinned = unique.into_iter().fold(pinned, PinnedTable::with_unique);
        context.register_table(name, Arc::new(pinned)).unwrap();
    }
}

/// A session that finds stars, and one of DataFusion's own.
async fn sessions(sales: i64) -> (SessionContext, SessionContext) {
    let store = Store::memory();
    let ours = Engine::new(&store, 1 << 30).unwrap().session();
    let plain = SessionContext::new();
    plain.register_object_store(store.url(), store.objects().clone());
    let both = [&ours, &plain];
    let numbers = 0..sales;
    let some = |member: i64, one_in: i64, of: i64| (member % one_in != 0).then(|| key(member % of));
    register(
        &both,
        &store,
        "sale",
        None,
        vec![
            ("id", longs(numbers.clone().map(Some))),
            ("customer_key", longs(numbers.clone().map(|n| some(n, 17, 50)))),
            ("product_key", longs(numbers.clone().map(|n| some(n * 7, 1000, 300)))),
            ("day", Arc::new(Date32Array::from_iter_values(numbers.clone().map(|n| 9000 + (n / 10) as i32)))),
            ("shop_number", Arc::new(Int32Array::from_iter_values(numbers.clone().map(|n| (n % 9) as i32)))),
            ("quantity", longs(numbers.clone().map(|n| Some(n % 11)))),
            ("note", texts(numbers.map(|n| format!("a note that is longer than a view holds {}", n % 5)))),
        ],
        3,
    )
    .await;
    let customers = 0..60_i64;
    register(
        &both,
        &store,
        "customer",
        Some("customer_key"),
        vec![
            ("customer_key", longs(customers.clone().map(|n| Some(key(n))))),
            ("region_key", longs(customers.clone().map(|n| (n % 7 != 3).then_some(n % 4)))),
            ("city", texts(customers.map(|n| format!("city {}", n % 10)))),
        ],
        2,
    )
    .await;
    register(
        &both,
        &store,
        "region",
        Some("region_key"),
        vec![("region_key", longs((0..4).map(Some))), ("region", texts((0..4).map(|n| format!("region {n}"))))],
        1,
    )
    .await;
    register(
        &both,
        &store,
        "product",
        Some("product_key"),
        vec![
            ("product_key", longs((0..280).map(|n| Some(key(n))))),
            ("kind", texts((0..280).map(|n| format!("kind {}", n % 20)))),
        ],
        1,
    )
    .await;
    let days = 0..365_i32;
    register(
        &both,
        &store,
        "date",
        Some("day"),
        vec![
            ("day", Arc::new(Date32Array::from_iter_values(days.clone().map(|n| 8990 + n)))),
            ("month", longs(days.map(|n| Some(i64::from(n / 30))))),
        ],
        1,
    )
    .await;
    // Not declared: two rows a shop.
    register(
        &both,
        &store,
        "shop",
        None,
        vec![
            ("shop_number", Arc::new(Int32Array::from_iter_values((0..16).map(|n| n / 2)))),
            ("manager", texts((0..16).map(|n| format!("manager {n}")))),
        ],
        1,
    )
    .await;
    (ours, plain)
}

async fn rows(context: &SessionContext, sql: &str) -> Vec<String> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows.sort();
    rows
}

async fn plan(context: &SessionContext, sql: &str) -> String {
    let batches = context.sql(&format!("EXPLAIN FORMAT INDENT {sql}")).await.unwrap().collect().await.unwrap();
    let last = batches.last().unwrap();
    array_value_to_string(last.column(1), last.num_rows() - 1).unwrap()
}

const JOINS: [(&str, usize); 5] = [
    ("JOIN customer c ON s.customer_key = c.customer_key", 1),
    ("JOIN customer c ON s.customer_key = c.customer_key JOIN region r ON c.region_key = r.region_key", 1),
    ("JOIN product p ON p.product_key = s.product_key", 1),
    ("JOIN date d ON s.day = d.day", 1),
    ("JOIN shop h ON s.shop_number = h.shop_number", 0),
];

#[tokio::test]
async fn stars_answer_as_binary_joins_do() {
    let (ours, plain) = sessions(2000).await;
    let filters = ["true", "s.quantity > 7", "s.note LIKE '%4'", "s.id % 100 < 3", "s.id < 0"];
    let of = [
        ("c.city", "c.city < 'city 4'"),
        ("r.region", "r.region = 'region 2'"),
        ("p.kind", "p.kind = 'kind 7'"),
        ("d.month", "d.month BETWEEN 3 AND 4"),
        ("h.manager", "h.manager > 'manager 3'"),
    ];
    for chosen in 1_u32..32 {
        let chosen: Vec<usize> =
            (0..5).filter(|place| chosen >> place & 1 == 1 && !(*place == 0 && chosen >> 1 & 1 == 1)).collect();
        let joins: Vec<&str> = chosen.iter().map(|&place| JOINS[place].0).collect();
        let stars = chosen.iter().any(|&place| JOINS[place].1 == 1);
        for (number, filter) in filters.into_iter().enumerate() {
            let filtered = |place: usize| (place + number).is_multiple_of(2);
            let wanted: Vec<&str> = std::iter::once(filter)
                .chain(chosen.iter().filter(|place| filtered(**place)).map(|&place| of[place].1))
                .collect();
            let shown: Vec<&str> =
                chosen.iter().filter(|place| !filtered(**place) || *place % 2 == 0).map(|&place| of[place].0).collect();
            let shown = shown.iter().map(|column| format!(", {column}")).collect::<String>();
            let rest = format!("FROM sale s {} WHERE {}", joins.join(" "), wanted.join(" AND "));
            for select in [
                format!("SELECT s.note, s.id{shown}"),
                "SELECT count(*)".to_owned(),
                "SELECT sum(s.quantity), min(s.note)".to_owned(),
            ] {
                let sql = format!("{select} {rest}");
                assert_eq!(rows(&ours, &sql).await, rows(&plain, &sql).await, "{sql}\n{}", plan(&ours, &sql).await);
                if filter != "s.id < 0" {
                    assert_eq!(
                        plan(&ours, &sql).await.contains("StarJoinExec"),
                        stars,
                        "{sql}\n{}",
                        plan(&ours, &sql).await
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn the_fact_is_read_once_and_never_repartitioned() {
    let (ours, _) = sessions(2000).await;
    let sql = "SELECT c.city, d.month, sum(s.quantity) FROM customer c, date d, product p, sale s
        WHERE s.customer_key = c.customer_key AND s.day = d.day AND p.product_key = s.product_key AND d.month = 5 GROUP BY 1, 2";
    let plan = plan(&ours, sql).await;
    let star = &plan[plan.find("StarJoinExec").unwrap()..];
    let fact = star.lines().nth(1).unwrap();
    assert!(fact.contains("DataSourceExec") && fact.contains("lake/test/sale"), "{plan}");
    assert!(fact.contains("DynamicFilter"), "the scan is told which keys are wanted\n{plan}");
    assert!(!plan.contains("HashJoinExec"), "{plan}");
}

#[tokio::test]
async fn other_joins_stay_what_they_are() {
    let (ours, plain) = sessions(500).await;
    for sql in [
        "SELECT s.id, c.city FROM sale s LEFT JOIN customer c ON s.customer_key = c.customer_key",
        "SELECT s.id FROM sale s WHERE s.customer_key IN (SELECT customer_key FROM customer WHERE city = 'city 1')",
        "SELECT s.id FROM sale s JOIN customer c ON s.customer_key = c.customer_key AND s.quantity > c.region_key",
        "SELECT a.id, b.id FROM sale a JOIN sale b ON a.id = b.quantity",
        "SELECT s.id, o.id FROM sale s JOIN customer c ON s.customer_key = c.customer_key JOIN sale o ON o.customer_key = c.customer_key AND o.id = s.id",
        "SELECT c.city, r.region FROM customer c JOIN region r ON c.region_key = r.region_key",
        "SELECT s.id, a.city, b.city FROM sale s JOIN customer a ON s.customer_key = a.customer_key JOIN customer b ON s.customer_key = b.customer_key",
        "SELECT s.id, c.city FROM sale s JOIN customer c ON s.customer_key = c.customer_key ORDER BY s.quantity, s.id DESC LIMIT 7",
        "WITH t AS (SELECT customer_key k, sum(quantity) q FROM sale GROUP BY 1) SELECT c.city, t.q FROM t JOIN customer c ON t.k = c.customer_key",
        "SELECT s.id FROM sale s JOIN customer c ON s.customer_key = c.customer_key JOIN product p ON s.product_key = p.product_key AND c.city = p.kind",
    ] {
        assert_eq!(rows(&ours, sql).await, rows(&plain, sql).await, "{sql}\n{}", plan(&ours, sql).await);
    }
}

#[tokio::test]
async fn a_key_that_is_not_unique_is_an_error_and_no_answer() {
    let (ours, _) = sessions(100).await;
    let store = Store::memory();
    ours.register_object_store(store.url(), store.objects().clone());
    let columns: Columns =
        vec![("key", longs([Some(1), Some(2), Some(1)])), ("value", longs([Some(1), Some(2), Some(3)]))];
    register(&[&ours], &store, "double", Some("key"), columns, 1).await;
    let wide: Columns = vec![("key", longs((0..100).map(|n| Some(n % 3))))];
    register(&[&ours], &store, "wide", None, wide, 1).await;
    let sql = "SELECT sum(value) FROM wide JOIN double ON wide.key = double.key";
    let error = ours.sql(sql).await.unwrap().collect().await.unwrap_err().to_string();
    assert!(error.contains("`key` is declared to tell rows apart, and two rows have 1"), "{error}");
}

/// Each partition of the fact asks for the members; they are read once, even if that fails.
#[tokio::test]
async fn an_error_of_a_dimension_is_the_error_of_every_partition() {
    let store = Store::memory();
    let ours = Engine::new(&store, 1 << 30).unwrap().session();
    let members: Columns =
        vec![("key", longs((0..20_000).map(Some))), ("number", longs((0..20_000).map(|n| Some(n % 10))))];
    register(&[&ours], &store, "member", Some("key"), members, 1).await;
    register(&[&ours], &store, "fact", None, vec![("key", longs((0..30_000).map(|n| Some(n % 20_000))))], 4).await;
    let sql = "SELECT fact.key FROM fact JOIN member ON fact.key = member.key WHERE 100 / (member.number - 3) > 1";
    let plan = ours.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    assert!(displayable(plan.as_ref()).indent(false).to_string().contains("StarJoinExec"));
    let partitions = plan.output_partitioning().partition_count();
    assert!(partitions > 1);
    for partition in (0..partitions).chain(0..partitions) {
        let stream = plan.execute(partition, ours.task_ctx()).unwrap();
        let error = collect(stream).await.unwrap_err().to_string();
        assert!(error.contains("Divide by zero"), "partition {partition}: {error}");
    }
}
