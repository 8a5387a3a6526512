use datafusion::prelude::SessionContext;

use super::*;
use crate::error::ErrorKind;

fn parse_here(sql: &str) -> Result<Statement, QueryError> {
    parse(&SessionContext::new().state(), sql)
}

#[test]
fn reading_statements_pass() {
    for sql in [
        "SELECT 1",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "VALUES (1, 2)",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "SHOW TABLES",
        "SHOW COLUMNS FROM a.b.c",
        "SHOW ALL",
        "DESCRIBE a.b.c",
        "SELECT 1;",
    ] {
        assert!(parse_here(sql).is_ok(), "{sql}: {:?}", parse_here(sql).unwrap_err());
    }
}

#[test]
fn everything_that_writes_or_sets_is_refused_by_name() {
    for (sql, word) in [
        ("INSERT INTO t VALUES (1)", "`INSERT`"),
        ("UPDATE t SET a = 1", "`UPDATE`"),
        ("DELETE FROM t", "`DELETE`"),
        ("CREATE TABLE t (a INT)", "`CREATE`"),
        ("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'x'", "`CREATE`"),
        ("DROP TABLE t", "`DROP`"),
        ("COPY (SELECT 1) TO 'x.parquet'", "`COPY`"),
        ("SET datafusion.execution.batch_size = 1", "`SET`"),
        ("PREPARE p AS SELECT 1", "`PREPARE`"),
        ("EXPLAIN INSERT INTO t VALUES (1)", "`INSERT`"),
        ("BEGIN", "`BEGIN`"),
    ] {
        let error = parse_here(sql).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sql}");
        assert!(error.to_string().contains(word), "{sql}: {error}");
    }
}

#[test]
fn mistakes_have_a_place() {
    let error = parse_here("SELECT 1\nFROM t WHERE").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.line, Some(2), "{error}");
    assert!(error.column.is_some());
}

#[test]
fn one_statement_at_a_time() {
    assert!(parse_here("SELECT 1; SELECT 2").is_err());
    assert!(parse_here("").is_err());
    assert!(parse_here(&format!("SELECT '{}'", "x".repeat(MAX_SQL_BYTES))).is_err());
}

#[test]
fn question_marks_are_numbered_in_the_order_of_the_text() {
    let statement = parse_here("SELECT ? FROM t WHERE a = ? AND b IN (SELECT ? FROM u) LIMIT ?").unwrap();
    assert_eq!(statement.parameters, Parameters::Positional(4));
    assert_eq!(statement.tree.to_string(), "SELECT $1 FROM t WHERE a = $2 AND b IN (SELECT $3 FROM u) LIMIT $4");
}

#[test]
fn numbered_and_named_placeholders_are_kept() {
    assert_eq!(parse_here("SELECT $2, $1, $2").unwrap().parameters, Parameters::Positional(2));
    let named = parse_here("SELECT $b, $a, $b").unwrap().parameters;
    assert_eq!(named, Parameters::Named(vec!["$b".to_owned(), "$a".to_owned()]));
    assert_eq!(parse_here("EXPLAIN SELECT ?").unwrap().parameters, Parameters::Positional(1));
}

#[test]
fn kinds_of_placeholders_are_not_mixed() {
    for sql in ["SELECT ?, $1", "SELECT $1, $a", "SELECT $a, ?", "SELECT $0"] {
        let error = parse_here(sql).unwrap_err();
        assert_eq!(error.line, Some(1), "{sql}");
    }
}

#[test]
fn long_chains_are_refused_before_they_overflow_the_stack() {
    let links = [" + 1", " AND true", "::bigint", " IS NULL", " || 'a'", " IN (1)", " XOR 1", " AT TIME ZONE 'UTC'"];
    for link in links {
        let error = parse_here(&format!("SELECT 1{}", link.repeat(MOST_OPERATORS + 1))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("operators, more than"), "{link}: {error}");
    }
    parse_here(&format!("SELECT 1 IN (1{})", ", 2".repeat(50_000))).unwrap();
    for link in [" + 1", " OR true", " * a"] {
        assert!(parse_here(&format!("SELECT 1{} FROM t", link.repeat(1000))).is_ok(), "{link}");
        let error = parse_here(&format!("SELECT 1{} FROM t", link.repeat(1001))).unwrap_err();
        assert!(error.to_string().contains("a chain of operators is longer than 1000"), "{link}: {error}");
    }
    // Each chain counts for itself.
    assert!(parse_here(&format!("SELECT 1{chain}, 2{chain} FROM t", chain = " + 1".repeat(900))).is_ok());
}

/// The parser takes all of it for the right side.
#[test]
fn what_follows_distinct_from_is_not_misread() {
    for misread in ["a IS NOT DISTINCT FROM b AND c", "c OR a IS DISTINCT FROM b OR c"] {
        for sql in [format!("SELECT {misread}"), format!("EXPLAIN SELECT 1 FROM t WHERE {misread}")] {
            let error = parse_here(&sql).unwrap_err().to_string();
            assert!(error.contains("after DISTINCT FROM could belong to its right side"), "{sql}: {error}");
        }
    }
    for right in ["(a IS NOT DISTINCT FROM b) AND c", "a IS DISTINCT FROM (b AND c)", "c AND a IS DISTINCT FROM b"] {
        assert!(parse_here(&format!("SELECT {right}")).is_ok(), "{right}");
    }
}

/// The engine takes a row away as often as it is there.
#[test]
fn sets_that_are_not_counted_are_refused() {
    for wrong in [
        "SELECT 1 EXCEPT ALL SELECT 1",
        "SELECT * FROM (SELECT 1 UNION SELECT 2 INTERSECT ALL SELECT 1) AS t",
        "WITH t AS (SELECT 1 EXCEPT ALL SELECT 2) SELECT * FROM t",
        "SELECT 1 WHERE EXISTS ((SELECT 1 EXCEPT ALL SELECT 2) UNION ALL SELECT 1)",
    ] {
        let error = parse_here(wrong).unwrap_err().to_string();
        assert!(error.contains("ALL` does not count rows here"), "{wrong}: {error}");
    }
    assert!(parse_here("SELECT 1 EXCEPT SELECT 1 UNION ALL SELECT 2 INTERSECT SELECT 3").is_ok());
}

/// A name from WITH is planned wherever it is read.
#[test]
fn names_that_double_are_refused_before_they_are_planned() {
    let doubled = |times: usize| {
        let mut with = "WITH t0 AS (SELECT 1 AS n)".to_owned();
        for number in 1..=times {
            let before = number - 1;
            with.push_str(&format!(", t{number} AS (SELECT a.n FROM t{before} AS a CROSS JOIN T{before} AS b)"));
        }
        format!("{with} SELECT count(*) FROM t{times}")
    };
    assert!(parse_here(&doubled(8)).is_ok());
    for sql in [doubled(14), doubled(200), format!("EXPLAIN {}", doubled(14)), format!("SELECT ({})", doubled(14))] {
        let error = parse_here(&sql).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("more than 1000 tables and SELECTs"), "{error}");
    }
    let values = format!("WITH v AS (SELECT n FROM t WHERE n IN (1{})) SELECT * FROM v", ", 2".repeat(100_000));
    assert!(parse_here(&values).is_ok());
    let many = (0..9).map(|number| format!(", v AS v{number}")).collect::<String>();
    assert!(parse_here(&format!("{values}{many}")).unwrap_err().to_string().contains("expressions"));
}

/// An inner WITH hides the name of an outer one, and a table of another schema is not a name from WITH.
#[test]
fn names_are_those_of_their_scope() {
    let outer = "WITH t AS (SELECT 1 AS n UNION SELECT 2)";
    let inner = |name: &str| format!("SELECT * FROM (WITH t AS (SELECT 1 AS n) SELECT n FROM {name}) AS s");
    let many = |name: &str, times: usize| vec![inner(name); times].join(" UNION ALL ");
    // Three steps each; the outer one would make them four.
    assert!(parse_here(&format!("{outer} {}", many("t", 300))).is_ok());
    assert!(parse_here(&format!("{outer} {}", many("a.b.t", 300))).is_ok());
    assert!(parse_here(&format!("{outer} {}", many("t", 400))).is_err());
}

#[test]
fn patterns_are_the_same_for_all_rows() {
    for sql in [
        "SELECT regexp_like(a, '^x') AND a ~ ('y') AND a !~* $1 AND a ~ 'z'::text FROM t",
        "SELECT regexp_replace(a, '(b)', c) FROM t WHERE strpos(a, b) > 0",
    ] {
        parse_here(sql).unwrap();
    }
    for sql in [
        "SELECT regexp_like('a', '(x{1000}){' || (b % 900) || '}') FROM t",
        "SELECT a FROM t WHERE a ~ b",
        "SELECT a FROM t WHERE a !~* ('x' || b)",
        "SELECT Regexp_Replace(a, b, 'c') FROM t",
        "SELECT a FROM t WHERE a RLIKE b",
    ] {
        let error = parse_here(sql).unwrap_err();
        assert!(error.to_string().contains("could be another one for each row"), "{sql}: {error}");
    }
}

#[test]
fn columns_and_casts_have_limits() {
    let columns = |count: usize| format!("SELECT {}1", "1,".repeat(count - 1));
    assert!(parse_here(&columns(1664)).is_ok());
    assert!(parse_here(&columns(50_000)).unwrap_err().to_string().contains("more than 1664"));
    let grouped = |by: &str| parse_here(&format!("SELECT count(*) FROM t GROUP BY {by}"));
    let cube = |columns: usize| format!("CUBE({})", vec!["a"; columns].join(", "));
    grouped(&cube(10)).unwrap();
    for by in [cube(11), cube(64), format!("{}, ROLLUP(a, b)", cube(9))] {
        assert!(grouped(&by).unwrap_err().to_string().contains("more than 1024 sets of columns"), "{by}");
    }
    assert!(parse_here(&format!("SELECT 1{}", "::int::smallint".repeat(32))).is_ok());
    for deep in ["::int::smallint".repeat(33), "[1]".repeat(65), ".a".repeat(65)] {
        assert!(parse_here(&format!("SELECT x{deep}")).unwrap_err().to_string().contains("nested"), "{deep}");
    }
    let beside = vec!["x::int"; 500].join(", ");
    assert!(parse_here(&format!("SELECT {beside}")).is_ok());
}

/// A NULL of such a type takes as much memory as any value.
#[test]
fn types_of_a_large_fixed_size_are_refused() {
    for wide in [
        "CAST(NULL AS BIGINT[1000000000])",
        "NULL::REAL[100][100]",
        "TRY_CAST(x AS INT[2147483647])",
        "arrow_cast(NULL, 'FixedSizeList(1000000000, Int64)')",
        "arrow_cast(NULL, 'List(FixedSizeList(65536 x Int64))')",
        "ARROW_TRY_CAST(NULL, ('FixedSizeBinary(2000000000)'))",
        "array_length(arrow_cast(NULL, 'FixedSizeList(' || '1000000000, Int64)'))",
    ] {
        // Arguments of functions in FROM are computed while the statement is planned.
        for sql in [format!("SELECT {wide}"), format!("EXPLAIN SELECT * FROM generate_series(1, {wide})")] {
            let error = parse_here(&sql).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains("more than 4096 elements"), "{sql}: {error}");
        }
    }
    // Each level is read within the one around it: forty thousand took more than the stack.
    for levels in [65, 40_000] {
        for function in ["arrow_cast", "arrow_try_cast"] {
            let deep = format!("{function}(NULL, '{}Int8{}')", "List(".repeat(levels), ")".repeat(levels));
            let error = parse_here(&format!("SELECT {deep}")).unwrap_err();
            assert!(error.to_string().contains("nested more than 64 deep"), "{error}");
        }
    }
    let many: Vec<String> = (0..100).map(|n| format!("\"c{n}\": List(Int8)")).collect();
    assert!(parse_here(&format!("SELECT arrow_cast(x, 'Struct({})') FROM t", many.join(", "))).is_ok());
    for narrow in [
        "CAST(x AS REAL[1536])",
        "CAST(NULL AS BIGINT[])",
        "arrow_cast(x, 'FixedSizeList(1536, Float32)')",
        "arrow_cast(x, 'Timestamp(Microsecond, None)')",
        "arrow_cast(x, 'nonsense')",
    ] {
        assert!(parse_here(&format!("SELECT {narrow} FROM t")).is_ok(), "{narrow}");
    }
}

#[test]
fn numbers_with_underscores_are_refused() {
    let error = parse_here("SELECT n,\n 1_000 FROM t").unwrap_err();
    assert_eq!((error.line, error.column), (Some(2), Some(2)));
    assert!(error.hint().is_some_and(|hint| hint.contains("write `1000`")), "{error}");
    for sql in ["SELECT 1 _000", "SELECT a_1, _1 FROM t", "SELECT 1 AS _000", "SELECT '1_000'"] {
        assert!(parse_here(sql).is_ok(), "{sql}");
    }
}

#[test]
fn what_would_be_answered_otherwise_is_refused() {
    for (sql, instead) in [
        ("SELECT count(*) FROM t TABLESAMPLE BERNOULLI (10)", "random()"),
        ("EXPLAIN SELECT 'abc' SIMILAR TO 'b'", "LIKE"),
        ("FROM t LIMIT 1", "SELECT * FROM"),
        ("SELECT 2^3", "power(2, 3)"),
        ("SELECT to_char(now(), 'YYYY-MM')", "%Y-%m"),
    ] {
        let error = parse_here(sql).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(instead), "{sql}: {error}");
    }
}
