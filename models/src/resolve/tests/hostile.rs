//! Files that nobody writes in good faith, or that an editor has spoilt: a problem, never a panic.

use super::{LINES, ORDERS, REGION, each_is_told, problems};

#[test]
fn odd_files_are_problems() {
    each_is_told(
        REGION,
        &[
            ("", "", "1:1: the file ends where a definition belongs"),
            ("", "# nothing\n", "2:1: the file ends where a definition belongs"),
            ("", "~\n", "1:1: the key `dimension` is missing"),
            ("", "region\n", "1:1: not a map: keys and values, as in `key: value`"),
            ("", "- dimension: region\n", "1:1: not a map: keys and values, as in `key: value`"),
            ("key:", "\tkey:", "1:12: while scanning a plain scalar, found a tab"),
            ("from:\n  - ", "from:\n\t- ", "4:2: tabs disallowed within this context (block indentation)"),
            ("inferred_from:", "---\ninferred_from:", "11:1: a second definition: a file holds one"),
            (
                "key:",
                "1: 2\nkey:",
                "2:1: unknown key `1` (there are: `dimension`, `description`, `key`, `from`, `attributes`, `references`, `inferred_from`, `calendar`, `time_of_day`, `bands`, `junk`, `mini`, `members`)",
            ),
            ("key:", "~: 2\nkey:", "2:1: nothing where a text belongs"),
            ("key:", "? [a, b]\n: 2\nkey:", "2:3: not a text"),
            ("  name: {", "  ~: {", "9:3: nothing where a text belongs"),
            ("  name: {", "  ? { a: b }\n  : {", "9:5: not a text"),
            ("key: region_id", "key: *nowhere", "2:6: there is no such anchor"),
            ("key: region_id", "key: &key [*key]", "2:12: an anchor that contains itself"),
            ("dimension: region", "dimension: reg\0ion", "1:15: unexpected character: `\\u{0}'"),
        ],
    );
}

/// What is said where a default, which may be any YAML, is `value`.
fn with_default(value: &str) -> String {
    problems(ORDERS, "value: EUR", &format!("value: {value}"))
}

#[test]
fn nests_without_end_are_problems() {
    for depth in [100, 1000, 10_000, 100_000] {
        let list = "[".repeat(depth) + &"]".repeat(depth);
        let map = "{a: ".repeat(depth) + "1" + &"}".repeat(depth);
        let fields = "{ each: { a: ".repeat(depth) + "{}" + &" } }".repeat(depth);
        for told in [
            with_default(&list),
            with_default(&map),
            with_default(&"[".repeat(depth)),
            problems(ORDERS, "weight: { type: double }", &format!("weight: {fields}")),
            problems(REGION, "key: region_id", &format!("key: {list}")),
            problems(REGION, "key: region_id", &format!("key: {map}")),
            problems(REGION, "dimension: region", &format!("? {list}\n: region")),
        ] {
            assert!(!told.is_empty() && told.lines().count() == 1 && told.len() < 300, "{depth}: {told:?}");
        }
    }
}

#[test]
fn anchors_that_multiply_are_a_problem() {
    let lists = (1..12).map(|level| format!("&a{level} [{}]", vec![format!("*a{}", level - 1); 10].join(", ")));
    let value = format!("[&a0 [x, x], {}]", lists.collect::<Vec<_>>().join(", "));
    let sample = format!("samples: [{{ payload: {value}, gives: {{}} }}]\n        from_previous:");
    let told = problems(ORDERS, "from_previous:", &sample);
    assert!(told.ends_with("nested too deeply, or too long with its anchors written out"), "{told}");
}

#[test]
fn pages_of_sql_are_told_by_their_beginning() {
    for text in [
        "(".repeat(50_000) + "quantity > 0" + &")".repeat(50_000),
        "(".repeat(100_000),
        "quantity = ".to_owned() + &"- ".repeat(50_000) + "1",
        "upper(".repeat(20_000) + "sku" + &")".repeat(20_000) + " = 'X'",
        "CASE WHEN paid THEN ".repeat(5_000) + "true" + &" END".repeat(5_000),
        "[".repeat(100_000),
        "sku = '".to_owned() + &"x".repeat(100_000),
        "quantity > ".to_owned() + &"é".repeat(100_000),
    ] {
        let told = problems(LINES, "'quantity > 0'", &format!("\"{text}\""));
        assert!(told.starts_with("3:8: `") && told.lines().count() == 1 && told.chars().count() < 700, "{told:.900}");
    }
}
