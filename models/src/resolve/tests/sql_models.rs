//! SQL models: what they may read, what they may hold, how they are kept.

use super::*;
use crate::sql_model::Strategy;

const REVENUE: &str = "sql: revenue
select: SELECT p.city, sum(l.amount) AS amount FROM order_lines l JOIN people.people_v1.person p ON p.key = l.buyer_key GROUP BY p.city
grain: city
";

/// What is said of the right project with `text` beside it.
fn said(text: &str) -> String {
    let mut files = changed(LINES, "fact", "fact");
    files.insert(SQL.to_owned(), text.to_owned());
    let problems = check(&files).err().unwrap_or_default();
    problems.iter().map(|problem| told(problem, SQL)).collect::<Vec<_>>().join("\n")
}

fn of(select: &str, grain: &str) -> String {
    said(&format!("sql: revenue\nselect: >\n  {select}\ngrain: {grain}\n"))
}

#[test]
fn a_select_over_models_and_ports_is_a_model() {
    let mut files = changed(LINES, "fact", "fact");
    files.insert(SQL.to_owned(), REVENUE.to_owned());
    let models = check(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
    let Some(Model::Sql(model)) = models.get(&ModelName::new("sales", "revenue")) else { panic!("{models:?}") };
    let columns: Vec<String> =
        model.columns.iter().map(|column| format!("{} {}", column.name, column.field_type)).collect();
    assert_eq!(columns, ["city string", "amount decimal(28,2)"]);
    assert_eq!(
        model.inputs().into_iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["people.person", "sales.order_lines"]
    );
    assert!(matches!(&model.query.strategy, Strategy::ByKey(by_key) if by_key.is_unique));
}

#[test]
fn what_is_wrong_with_a_select_is_told() {
    let cases = [
        ("SELECT FROM", "order_id", "3:3: `select`: Expected: identifier, found: EOF"),
        ("DELETE FROM order_lines", "order_id", "3:3: `select`: not a SELECT"),
        ("SELECT 1 AS one", "one", "3:3: `select` reads no model (name one after FROM)"),
        (
            "SELECT order_id, EXISTS (SELECT 1 FROM order_lines o WHERE o.order_id = l.order_id) AS e FROM order_lines l",
            "order_id",
            "3:3: `select`: EXISTS and `IN (SELECT …)` belong into WHERE; among columns, join (`LEFT JOIN (SELECT DISTINCT …) AS there ON …`) and ask whether `there.key IS NOT NULL`",
        ),
        (
            "SELECT order_id FROM order_line",
            "order_id",
            "3:3: there is no model `sales.order_line` (did you mean `order_lines`?)",
        ),
        ("SELECT order_id FROM revenue", "order_id", "3:3: models that read each other: sales.revenue"),
        (
            "SELECT name FROM people.person",
            "name",
            "3:3: `people.person` names no model of this domain (another domain's models are named by their ports: domain.product_vN.port)",
        ),
        (
            "SELECT name FROM people.people_v2.person",
            "name",
            "3:3: there is no port `people.people_v2.person` (did you mean `people.people_v1.person`?)",
        ),
        (
            "SELECT name FROM people.people_v1.person",
            "name",
            "3:3: `select`: there is no column `name`; there are: `key`, `city`",
        ),
        (
            "SELECT payload FROM lake.sales.orders",
            "payload",
            "3:3: `lake.sales.orders` has raw events, which SQL models do not read (declare a fact or a dimension of its events)",
        ),
        (
            "SELECT order_id, count(*) FROM order_lines GROUP BY order_id",
            "order_id",
            "3:3: `count(*)` is not a name (write `… AS name` behind `count(*)`)",
        ),
        (
            "SELECT order_id, order_id AS order_id FROM order_lines",
            "order_id",
            "3:3: `select`: Projections require unique expression names",
        ),
        (
            "SELECT order_id, g.value AS n FROM order_lines CROSS JOIN LATERAL generate_series(1, 2) AS g",
            "[order_id, n]",
            "3:3: `select`: a function that gives a table has no place here",
        ),
        (
            "SELECT order_id FROM order_lines LIMIT 5",
            "order_id",
            "3:3: `select`: LIMIT and OFFSET keep rows by their order",
        ),
        (
            "SELECT order_id, row_number() OVER (ORDER BY quantity) AS n FROM order_lines",
            "order_id",
            "3:3: `select`: `row_number` depends on the order of rows that may be equal",
        ),
        (
            "SELECT order_id, now() AS at FROM order_lines",
            "order_id",
            "3:3: `select`: `now` does not give the same answer every day",
        ),
        (
            "SELECT order_id, random() AS at FROM order_lines",
            "order_id",
            "3:3: `select`: `random` does not give the same answer every day",
        ),
        (
            "SELECT order_id, sum(CAST(amount AS double)) AS at FROM order_lines GROUP BY 1",
            "order_id",
            "3:3: `select`: `sum` of double depends on the order of rows; cast to a decimal",
        ),
        (
            "SELECT order_id, avg(quantity) AS at FROM order_lines GROUP BY 1",
            "order_id",
            "3:3: `select`: `avg` of int depends on the order of rows; cast to a decimal; divide sums as decimals",
        ),
        (
            "SELECT order_id, array_agg(quantity) AS at FROM order_lines GROUP BY 1",
            "order_id",
            "3:3: `select`: `array_agg` may depend on the order of rows",
        ),
        (
            "SELECT order_id FROM order_lines WHERE order_id IS DISTINCT FROM 'a' AND quantity > 1",
            "order_id",
            "3:3: `select`: `AND` after DISTINCT FROM could belong to its right side; write parentheses: \
             `(a IS NOT DISTINCT FROM b) AND …`",
        ),
        (
            "SELECT DISTINCT ON (order_id) order_id FROM order_lines",
            "order_id",
            "3:3: `select`: DISTINCT ON keeps one row of several by their order",
        ),
        (
            "SELECT order_id, [quantity] AS quantities FROM order_lines",
            "order_id",
            "3:3: the column `quantities` is List(int), which no table has (cast it to a type that tables have)",
        ),
        (
            "SELECT order_id FROM order_lines WHERE quantity = $1",
            "order_id",
            "3:3: `select`: a parameter has no value here",
        ),
        (
            "SELECT order_id FROM order_lines",
            "order",
            "4:8: `order` is not a column of `select` (there are: `order_id`)",
        ),
        (
            "SELECT order_id FROM order_lines",
            "[]",
            "4:8: the model has no grain (name the columns that tell its rows apart)",
        ),
        ("SELECT order_id FROM order_lines", "[order_id, order_id]", "4:8: the grain names `order_id` twice"),
    ];
    let missed: Vec<String> = cases
        .iter()
        .map(|(select, grain, expected)| (select, expected, of(select, grain)))
        .filter(|(_, expected, found)| !found.starts_with(**expected) || found.lines().count() > 1)
        .map(|(select, expected, found)| format!("{select}\n  expected: {expected}\n  found:    {found}"))
        .collect();
    assert!(missed.is_empty(), "{} of {} cases:\n{}", missed.len(), cases.len(), missed.join("\n"));
    let described = format!("{REVENUE}columns: {{ cty: {{ description: Town }} }}\n");
    assert_eq!(said(&described), "4:17: `cty` is not a column of `select` (did you mean `city`?)");
}

#[test]
fn why_all_rows_are_computed_again_is_known() {
    let why = |select: &str| {
        let mut files = changed(LINES, "fact", "fact");
        files.insert(SQL.to_owned(), format!("sql: revenue\nselect: >\n  {select}\ngrain: order_id\n"));
        let models = check(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
        let Some(Model::Sql(model)) = models.get(&ModelName::new("sales", "revenue")) else { panic!("{models:?}") };
        match &model.query.strategy {
            Strategy::Whole(why) => why.clone(),
            Strategy::ByKey(by_key) => {
                let places = 0..model.query.scans.len();
                places.filter_map(|place| by_key.why_whole(place)).collect::<Vec<_>>().join("; ")
            }
        }
    };
    const P: &str = "people.people_v1.person p";
    // A join like that of the outer one, over other scans of the same tables.
    let again = "order_lines o LEFT JOIN people.people_v1.person p ON p.key = o.buyer_key";
    assert_eq!(
        why(&format!(
            "SELECT o.order_id, count(*) AS n FROM {again} JOIN (SELECT p.city AS k FROM {again}) u ON u.k = o.order_id GROUP BY o.order_id"
        )),
        "its grain, or another join, looks at the side of an outer join that may be missing"
    );
    assert_eq!(why("SELECT order_id, quantity FROM order_lines WHERE quantity > 1"), "");
    assert_eq!(why(&format!("SELECT order_id, p.city FROM order_lines l LEFT JOIN {P} ON p.key = l.buyer_key")), "");
    assert_eq!(
        why("SELECT order_id, n FROM (SELECT order_id, count(*) AS n FROM order_lines GROUP BY 1) WHERE n > 1"),
        ""
    );
    assert_eq!(
        why("SELECT max(n) AS order_id FROM (SELECT order_id, count(*) AS n FROM order_lines GROUP BY 1)"),
        "its grain is computed by an aggregate"
    );
    assert_eq!(
        why(
            "SELECT order_id, max(n) AS n FROM (SELECT order_id, ordinal, count(*) AS n FROM order_lines GROUP BY 1, 2) GROUP BY 1"
        ),
        ""
    );
    assert_eq!(
        why("SELECT order_id, event_id, rank() OVER (PARTITION BY order_id ORDER BY quantity) AS n FROM order_lines"),
        ""
    );
    assert_eq!(
        why("SELECT order_id, rank() OVER (ORDER BY quantity) AS n FROM order_lines"),
        "its grain is not among what a window function is partitioned by"
    );
    assert_eq!(
        why(
            "SELECT a.order_id FROM order_lines a JOIN (SELECT DISTINCT order_id FROM order_lines) b ON a.order_id = b.order_id"
        ),
        "it aggregates below a join or a union"
    );
    assert_eq!(
        why(&format!("SELECT order_id FROM order_lines WHERE buyer_key IN (SELECT key FROM {P})")),
        "it has a query within its expressions"
    );
    assert_eq!(
        why(&format!("SELECT order_id FROM order_lines l FULL JOIN {P} ON p.key = l.buyer_key")),
        "it has a Full join"
    );
    assert_eq!(
        why(&format!("SELECT p.city AS order_id FROM order_lines l LEFT JOIN {P} ON p.key = l.buyer_key")),
        "its grain, or another join, looks at the side of an outer join that may be missing"
    );
}

#[test]
fn a_grain_that_is_made_of_a_group_may_recur() {
    let is_unique = |select: &str, grain: &str| {
        let mut files = changed(LINES, "fact", "fact");
        files.insert(SQL.to_owned(), format!("sql: revenue\nselect: >\n  {select}\ngrain: {grain}\n"));
        let models = check(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
        let Some(Model::Sql(model)) = models.get(&ModelName::new("sales", "revenue")) else { panic!("{models:?}") };
        matches!(&model.query.strategy, Strategy::ByKey(by_key) if by_key.is_unique)
    };
    assert!(is_unique("SELECT quantity, count(*) AS n FROM order_lines GROUP BY quantity", "quantity"));
    assert!(is_unique("SELECT quantity % 2 AS odd, count(*) AS n FROM order_lines GROUP BY quantity % 2", "odd"));
    assert!(is_unique("SELECT DISTINCT order_id, quantity FROM order_lines", "[order_id, quantity]"));
    assert!(!is_unique("SELECT quantity % 2 AS odd, count(*) AS n FROM order_lines GROUP BY quantity", "odd"));
    assert!(!is_unique("SELECT order_id, count(*) AS n FROM order_lines GROUP BY order_id, quantity", "order_id"));
    assert!(!is_unique("SELECT DISTINCT order_id, quantity FROM order_lines", "order_id"));
    assert!(!is_unique("SELECT order_id, quantity FROM order_lines", "[order_id, quantity]"));
}

#[test]
fn what_a_port_shows_is_part_of_what_reads_it() {
    let mut files = changed(LINES, "fact", "fact");
    files.insert(SQL.to_owned(), REVENUE.to_owned());
    let fingerprint = |city: &str| {
        let mut definitions = definitions(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
        let port = definitions.ports.get_mut("people.people_v1.person").expect("the port is there");
        port.columns[1].1 = city.to_owned();
        let models = resolve(&definitions).unwrap_or_else(|problems| panic!("{problems:?}"));
        models.get(&ModelName::new("sales", "revenue")).expect("the model is there").fingerprint().to_owned()
    };
    assert_eq!(fingerprint("city"), fingerprint("city"));
    assert_ne!(fingerprint("city"), fingerprint("name"));
}
