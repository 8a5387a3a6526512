use arrow::array::{LargeListArray, NullArray};
use arrow::buffer::OffsetBuffer;
use arrow::util::display::array_value_to_string;
use datafusion::prelude::SessionContext;

use super::*;
use crate::literals::planning_session;
use crate::session::Engine;
use crate::store::Store;

/// The rows of an answer, or what went wrong.
async fn answer_of(session: &SessionContext, sql: &str) -> String {
    let batches = match session.sql(sql).await {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    };
    let batches = match batches {
        Ok(batches) => batches,
        Err(error) => return error.find_root().strip_backtrace(),
    };
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
            rows.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    rows.join(" ")
}

async fn answer(sql: &str) -> String {
    answer_of(&planning_session(), sql).await
}

#[tokio::test]
async fn large_values_are_refused_before_they_are_made() {
    for expression in [
        "array_length(array_repeat(1, 1000000000))",
        "array_length(list_repeat('x', 1000000000))",
        "array_length(array_repeat([1, 2], 1000000000))",
        "length(repeat('x', 2000000000))",
        "length(lpad('x', 1000000000, 'ab'))",
        "length(rpad('x', 1000000000))",
        "array_length(range(1000000000))",
        "array_length(range(0, 1000000000, 2))",
        "array_length(generate_series(9000000000, 1, -3))",
        "array_length(generate_series(DATE '2024-01-01', DATE '2000-01-01', INTERVAL '1 month -31 days'))",
        "array_length(generate_series(TIMESTAMP '2000-01-01', TIMESTAMP '2100-01-01', INTERVAL '1 second'))",
        "array_length(array_resize([1], 1000000000))",
        "array_length(array_resize([1], 1000000000, 7))",
        "length(replace(repeat('x', 1000000), 'x', repeat('y', 1000)))",
        "length(regexp_replace(repeat('x', 1000000), 'x', repeat('y', 1000), 'g'))",
        "length(regexp_replace(repeat('x', 1000000), '(x+)', repeat('\\1', 1000)))",
        "length(concat(repeat('x', 34000000), repeat('y', 34000000)))",
        "length(repeat('x', 34000000) || repeat('y', 34000000))",
        "length(concat_ws(repeat('x', 34000000), 'a', 'b', 'c'))",
        "length(array_to_string(array_repeat('x', 1000000), repeat(',', 1000)))",
        "array_length(array_concat(range(3000000), range(3000000)))",
        "array_length(range(3000000) || range(3000000))",
        "length(to_char(TIMESTAMP '2024-01-01', repeat('%c', 4000000)))",
    ] {
        let refused = answer(&format!("SELECT {expression}")).await;
        assert!(refused.contains("may make a value of"), "{expression}: {refused}");
        let of_rows = answer(&format!("SELECT {expression} FROM (VALUES (1), (2)) AS v(n) WHERE n > 0")).await;
        assert!(of_rows.contains("may make a value of"), "{expression}: {of_rows}");
    }
}

#[tokio::test]
async fn values_of_columns_are_bounded() {
    const ROWS: &str = "FROM generate_series(1, 8192) AS v(n)";
    for (query, refused) in [
        (format!("SELECT repeat('x', 40000 + n - n) {ROWS}"), "more than 256 MiB for 8192 rows"),
        (format!("SELECT repeat('x', n * 1000000) {ROWS}"), "may make a value of"),
        (format!("SELECT range(n * 100000) {ROWS}"), "may make a value of"),
    ] {
        let got = answer(&query).await;
        assert!(got.contains(refused), "{query}: {got}");
    }
    // What may be too large and is not is made in pieces, and is the same.
    for (query, expected) in [
        (format!("SELECT sum(length(lpad(CAST(n AS VARCHAR), 10000, '*'))) {ROWS}"), "81920000"),
        (format!("SELECT count(DISTINCT left(rpad(CAST(n AS VARCHAR), 10000), 4)) {ROWS}"), "8192"),
        ("SELECT length(array_to_string(range(1000000), ','))".to_owned(), "6888889"),
        (
            format!(
                "SELECT sum(length(regexp_replace(repeat('ab', 500 + n - n), 'z', 'a long replacement {}', 'g'))) {ROWS}",
                "x".repeat(50)
            ),
            "8192000",
        ),
    ] {
        assert_eq!(answer(&query).await, expected, "{query}");
    }
}

/// A constant takes no room until it is repeated for each row.
#[tokio::test]
async fn constants_are_not_repeated_without_bounds() {
    const ROWS: &str = "FROM generate_series(1, 8192) AS v(n)";
    let large = format!("'{}'", "x".repeat(1_000_000));
    for (query, refused) in [
        (format!("SELECT n, {large} {ROWS}"), "would be repeated for 8192 rows"),
        (format!("SELECT n, repeat('x', 1000000) AS x {ROWS}"), "would be repeated for 8192 rows"),
        (format!("SELECT CASE WHEN n > 5 THEN {large} END {ROWS}"), "would be repeated for"),
        (format!("SELECT string_agg(CAST(n AS VARCHAR), {large}) {ROWS}"), "repeated for each row"),
    ] {
        let got = answer(&query).await;
        assert!(got.contains(refused), "{}: {got}", &query[..40]);
    }
    for (query, expected) in [
        (format!("SELECT count(*) {ROWS} WHERE CAST(n AS VARCHAR) = {large}"), "0"),
        (format!("SELECT count(*) {ROWS} WHERE CAST(n AS VARCHAR) IN ('7', {large})"), "1"),
        (format!("SELECT length({large})"), "1000000"),
        (format!("SELECT length(x) FROM (SELECT {large} AS x) AS t"), "1000000"),
    ] {
        assert_eq!(answer(&query).await, expected, "{}", &query[..30]);
    }
}

#[tokio::test]
async fn what_aggregates_collect_is_bounded() {
    for query in [
        "SELECT length(string_agg(repeat('x', 1000 + n - n), '')) FROM generate_series(1, 200000) AS v(n)",
        "SELECT length(string_agg(repeat('x', 10000 + n - n), '')) FROM generate_series(1, 15000) AS v(n) GROUP BY n % 2",
        "SELECT length(string_agg(repeat('x', 10000 + n - n), '' ORDER BY n)) FROM generate_series(1, 8000) AS v(n)",
        "SELECT array_length(array_agg(n)) FROM generate_series(1, 10000000) AS v(n)",
        "SELECT array_length(array_agg(repeat('x', 10000 + n - n))) FROM generate_series(1, 15000) AS v(n) GROUP BY n % 2",
    ] {
        let refused = answer(query).await;
        assert!(
            refused.contains("may make a value of") && refused.contains("aggregate fewer rows"),
            "{query}: {refused}"
        );
    }
    for (query, expected) in [
        ("SELECT string_agg(n, ',' ORDER BY n DESC) FROM (VALUES ('a'), ('b'), (NULL)) AS v(n)", "b,a"),
        (
            "SELECT n % 2, array_agg(n ORDER BY n) FROM generate_series(1, 5) AS v(n) GROUP BY 1 ORDER BY 1",
            "0|[2, 4] 1|[1, 3, 5]",
        ),
        ("SELECT array_length(array_agg(DISTINCT n % 5)) FROM generate_series(1, 100000) AS v(n)", "5"),
        (
            "SELECT max(array_length(a)) FROM (SELECT array_agg(n) OVER (ORDER BY n ROWS 3 PRECEDING) AS a
             FROM generate_series(1, 20000) AS v(n)) AS w",
            "4",
        ),
        ("SELECT string_agg(n, ',') FROM (VALUES ('a')) AS v(n) WHERE n = 'b'", ""),
    ] {
        assert_eq!(answer(query).await, expected, "{query}");
    }
}

/// The engine counts the batch that a pair was read in for each pair.
#[tokio::test]
async fn different_pairs_are_counted_within_little_memory() {
    let session = Engine::new(&Store::memory(), 64 << 20).unwrap().session();
    for (query, expected) in [
        (
            "SELECT count(DISTINCT n % 300), count(DISTINCT struct(n % 300, n % 70)) FROM generate_series(1, 30000) AS v(n)",
            "300|2100",
        ),
        (
            "SELECT n % 2, count(DISTINCT struct(n % 300, n % 70)), count(DISTINCT n) FROM generate_series(1, 30000) AS v(n)
             GROUP BY 1 ORDER BY 1",
            "0|1050|15000 1|1050|15000",
        ),
        ("SELECT count(DISTINCT [n % 3, n % 2]), count(DISTINCT n) FROM generate_series(1, 100) AS v(n)", "6|100"),
        (
            "SELECT count(DISTINCT s), count(DISTINCT n) FROM (SELECT n, CASE WHEN n > 2 THEN struct(n % 2, CAST(NULL AS INT)) END AS s
             FROM generate_series(1, 10) AS v(n)) AS t",
            "2|10",
        ),
        ("SELECT count(DISTINCT (n, n)), count(DISTINCT n) FROM generate_series(1, 0) AS v(n)", "0|0"),
    ] {
        assert_eq!(answer_of(&session, query).await, expected, "{query}");
    }
}

/// Names, types and answers are those of the engine.
#[tokio::test]
async fn what_is_bounded_is_the_same() {
    let (ours, plain) = (planning_session(), SessionContext::new());
    for query in [
        "SELECT repeat(s, 2), lpad(s, 3, '*'), rpad(s, 3), replace(s, 'a', 'bb'), regexp_replace(s, '(.)', '<\\1>', 'g'),
         translate(s, 'a', 'z'), overlay(s placing 'x' from 1 for 1) FROM (VALUES ('a'), ('b'), (NULL)) AS v(s)",
        "SELECT s || 'b' || 'c', s || NULL, concat(s, 'x', n), concat_ws('-', s, 'x', NULL), n || s
         FROM (VALUES ('a', 1), (NULL, 2)) AS v(s, n)",
        "SELECT array_repeat(n, 2), list_repeat('x', n), range(n), generate_series(1, n), array_resize([n], 3, 0),
         [n] || [2], array_append([1], n), array_prepend(n, [1]), array_to_string([1, n], ','), string_to_array('a,b', ',')
         FROM (VALUES (1), (3)) AS v(n)",
        "SELECT generate_series(DATE '2024-01-01', DATE '2024-03-01', INTERVAL '1 month'), range(3, 0, -1), range(0),
         generate_series(DATE '2024-03-01', DATE '2024-01-01', INTERVAL '-1 month')",
        "SELECT to_char(TIMESTAMP '2024-01-05', '%Y-%m'), array_replace([1, 2, 1], 1, 3), array_replace_all([1, 2, 1], 1, 3)",
        "SELECT s, array_agg(n), string_agg(s, ','), count(DISTINCT n) FROM (VALUES ('a', 1), ('a', 2)) AS v(s, n) GROUP BY s",
        "SELECT concat('a', concat('b', s)) FROM (VALUES ('a')) AS v(s) WHERE concat(s, 'b') = 'ab' AND 'x' || s = 'xa'",
    ] {
        let of = async |session: &SessionContext| session.sql(query).await.unwrap().collect().await.unwrap();
        let (ours, plain) = (of(&ours).await, of(&plain).await);
        let shown = |batches: &[RecordBatch]| arrow::util::pretty::pretty_format_batches(batches).unwrap().to_string();
        assert_eq!(shown(&ours), shown(&plain), "{query}");
        let types = |batches: &[RecordBatch]| {
            let schema = batches[0].schema();
            schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>()
        };
        assert_eq!(types(&ours), types(&plain), "{query}");
    }
}

/// Elements that take no room are not counted one by one.
#[test]
fn lists_of_nulls_are_measured_at_once() {
    let (field, many) = (Arc::new(Field::new_list_field(DataType::Null, true)), 1 << 40);
    let nulls = LargeListArray::new(field, OffsetBuffer::from_lengths([many]), Arc::new(NullArray::new(many)), None);
    let nulls: ArrayRef = Arc::new(nulls);
    assert_eq!(sizes_of(&nulls), [5 << 40]);
}

/// A session of a query, in a process that may have so many bytes in use.
fn watched(most: Option<u64>) -> (Arc<Watch>, SessionContext) {
    let watch = Arc::new(Watch::within(most));
    let session = watch.over(&planning_session());
    (watch, session)
}

#[tokio::test]
async fn large_constants_are_left_to_when_the_query_runs() {
    // A watch is that of one query.
    let planned = async |sql: &str| {
        let (_, session) = watched(None);
        let plan = session.sql(sql).await.unwrap().into_optimized_plan().unwrap();
        plan.display_indent().to_string()
    };
    let small = planned("SELECT length(repeat('x', 1000))").await;
    assert!(small.contains("Int32(1000)"), "{small}");
    let large = planned("SELECT length(repeat('x', 2000000))").await;
    assert!(!large.contains("Int32(2000000)"), "{large}");
    // Each is small; all of them are not.
    let many: Vec<String> = (0..100).map(|n| format!("length(repeat('x', {}))", 900_000 + n)).collect();
    let many = planned(&format!("SELECT {}", many.join(", "))).await;
    assert!(many.contains("Int32(900000)") && !many.contains("Int32(900099)"), "{many}");
    let (_, session) = watched(None);
    assert_eq!(answer_of(&session, "SELECT length(repeat('x', 2000000)), length(repeat('x', 5))").await, "2000000|5");
}

#[tokio::test]
async fn values_are_not_made_where_there_is_no_room_for_them() {
    if crate::machine::resident().is_none() {
        return;
    }
    let (_, session) = watched(Some(1));
    let refused = answer_of(&session, "SELECT length(repeat('x', 40000000))").await;
    assert!(refused.contains("39 MiB are needed for values of functions"), "{refused}");
    // Small ones add up.
    let many: Vec<String> = (0..100).map(|n| format!("repeat('x', {})", 60_000 + n)).collect();
    let refused =
        answer_of(&session, &format!("SELECT make_array({}) FROM (VALUES (1), (2)) AS t(v)", many.join(", "))).await;
    assert!(refused.contains("are needed for values of functions"), "{refused}");
    assert_eq!(answer_of(&session, "SELECT length(repeat('x', 40))").await, "40");
}

#[tokio::test]
async fn a_query_that_was_told_to_stop_makes_no_values() {
    let (watch, session) = watched(None);
    let frame =
        session.sql("SELECT array_length(array_repeat(value, 1000000)) FROM generate_series(1, 3)").await.unwrap();
    let plan = frame.create_physical_plan().await.unwrap();
    watch.stop();
    let options = session.copied_config().options().clone();
    assert!(Watch::of(&options).unwrap().room_for(2 << 20).is_err());
    assert!(datafusion::physical_plan::collect(plan, session.task_ctx()).await.is_err());
}

/// Each took gigabytes, or panicked: what is left to when the query runs is repeated for each row, like any constant.
#[tokio::test]
async fn large_constants_are_not_repeated_for_each_row() {
    for query in [
        "SELECT repeat('x', 60000000) FROM generate_series(1, 8192)",
        "SELECT sum(x) FROM (SELECT unnest(range(1, 5000000)) AS x FROM generate_series(1, 1000))",
        "SELECT max(length(CASE WHEN value % 2 = 0 THEN repeat('x', 60000000) ELSE value::text END))
         FROM generate_series(1, 8192)",
        "SELECT max(length(greatest(value::text, repeat('x', 60000000)))) FROM generate_series(1, 8192)",
        "SELECT count(*) FROM (SELECT unnest(make_array(repeat('x', 60000000))) AS x FROM generate_series(1, 8192))",
    ] {
        let (_, session) = watched(None);
        let refused = answer_of(&session, query).await;
        assert!(refused.contains("which would be repeated for"), "{query}: {refused}");
    }
    let (_, session) = watched(None);
    let few = answer_of(&session, "SELECT length(repeat('x', 2000000)) FROM generate_series(1, 3)").await;
    assert_eq!(few, "2000000 2000000 2000000");
}

#[tokio::test]
async fn what_takes_too_long_for_one_value_is_refused() {
    const HUNDREDS: &str = "FROM (SELECT repeat('ab', 200 + value) AS t FROM generate_series(1, 100))";
    for (expression, refused) in [
        ("levenshtein(repeat('ab', 500000), repeat('ba', 500000))", "may take"),
        ("length(btrim(repeat('a', 30000000), repeat('b', 1000000) || 'a'))", "may take"),
        ("array_has_all(range(0, 2000000), range(1000000, 3000000))", "may take"),
    ] {
        for sql in
            [format!("SELECT {expression}"), format!("SELECT {expression} FROM (VALUES (1), (2)) WHERE column1 > 0")]
        {
            let got = answer(&sql).await;
            assert!(got.contains(refused), "{sql}: {got}");
        }
    }
    // What takes long for all rows is done for some after the other, and is the same.
    for (expression, expected) in [("max(levenshtein(t, reverse(t)))", "2"), ("sum(strpos(t, 'ba'))", "200")] {
        assert_eq!(answer(&format!("SELECT {expression} {HUNDREDS}")).await, expected, "{expression}");
    }
}

#[tokio::test]
async fn patterns_of_columns_are_like_constants() {
    const TEXTS: &str = "(VALUES ('a%c'), ('abc'), ('ABC'), (NULL), ('')) AS t(x)";
    for pattern in ["a%", "%b%", "a\\%c", "_b_", "%", "", "A%"] {
        for like in ["LIKE", "NOT LIKE", "ILIKE", "NOT ILIKE"] {
            let constant = answer(&format!("SELECT x {like} '{pattern}' FROM {TEXTS}")).await;
            let column = format!("SELECT x {like} p FROM {TEXTS} CROSS JOIN (VALUES ('{pattern}')) AS p(p)");
            assert_eq!(answer(&column).await, constant, "{like} {pattern}");
        }
    }
    assert_eq!(answer(&format!("SELECT x LIKE NULL FROM {TEXTS} LIMIT 1")).await, "");
    let rows = "SELECT value::text AS x, '%' || value || '_' AS p FROM generate_series(1, 3000)";
    assert_eq!(answer(&format!("SELECT count(*) FROM ({rows}) WHERE x || '0' LIKE p")).await, "3000");
}

#[tokio::test]
async fn functions_of_large_arguments_are_called_for_some_rows_after_the_other() {
    let of = |expression: &str| {
        format!(
            "SELECT {expression} FROM (SELECT value, range(value, value + 3000) AS l
        FROM generate_series(1, 3000))"
        )
    };
    for (expression, expected) in [
        ("sum(array_length(array_sort(l, 'DESC')))", "9000000"),
        ("sum(array_sort(l, 'DESC')[1])", "13498500"),
        ("count(DISTINCT array_sum) FILTER (WHERE array_sum > 0)", "3000"),
    ] {
        let expression = expression.replace("array_sum", "array_max(l)");
        assert_eq!(answer(&of(&expression)).await, expected, "{expression}");
    }
}
