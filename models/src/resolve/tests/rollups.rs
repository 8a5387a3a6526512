//! Roll-ups: which fact, by what, which measures.

use super::*;
use crate::sql_model::Strategy;

const ROLLUP_TEXT: &str =
    "rollup: by_city\nof: order_lines\nby:\n  city: buyer.city\n  order: order_id\nmeasures: [amount]\ncount: lines\n";

/// What is said of the right project with a roll-up beside it, in which `right` is replaced.
fn said(right: &str, wrong: &str) -> String {
    assert!(ROLLUP_TEXT.contains(right), "{right}");
    let mut files = changed(LINES, "fact", "fact");
    files.insert(ROLLUP.to_owned(), ROLLUP_TEXT.replacen(right, wrong, 1));
    let problems = check(&files).err().unwrap_or_default();
    problems.iter().map(|problem| told(problem, ROLLUP)).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_roll_up_is_a_fact_at_a_coarser_grain() {
    let mut files = changed(LINES, "fact", "fact");
    files.insert(ROLLUP.to_owned(), ROLLUP_TEXT.to_owned());
    let models = check(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
    let Some(Model::Sql(model)) = models.get(&ModelName::new("sales", "by_city")) else { panic!("{models:?}") };
    let columns: Vec<String> =
        model.columns.iter().map(|column| format!("{} {}", column.name, column.field_type)).collect();
    assert_eq!(columns, ["city string", "order string", "amount decimal(28,2)", "lines bigint"]);
    assert_eq!((model.kind, model.grain.clone()), ("rollup", vec!["city".to_owned(), "order".to_owned()]));
    let inputs: Vec<String> = model.inputs().into_iter().map(ToString::to_string).collect();
    assert_eq!(inputs, ["people.person", "sales.order_lines"]);
    // It is a sum, to which new orders add; and no order that was there has a version of a person that comes.
    let Strategy::ByKey(by_key) = &model.query.strategy else { panic!("{:?}", model.query.strategy) };
    let place = |name: &str| model.query.scans.iter().position(|scan| scan.to_string() == name).unwrap();
    assert!(by_key.is_sum && by_key.is_fresh(place("people.person")) && !by_key.is_fresh(place("sales.order_lines")));
}

#[test]
fn what_is_no_sum_is_not_added_to() {
    let told = |select: &str| {
        let mut files = changed(LINES, "fact", "fact");
        let text = format!("sql: by_city\ngrain: [order_id]\nselect: {select}\n");
        files.insert(ROLLUP.to_owned(), text);
        let models = check(&files).unwrap_or_else(|problems| panic!("{select}: {problems:?}"));
        let Some(Model::Sql(model)) = models.get(&ModelName::new("sales", "by_city")) else { panic!("{models:?}") };
        matches!(&model.query.strategy, Strategy::ByKey(by_key) if by_key.is_sum)
    };
    for sum in [
        "SELECT order_id, sum(amount) AS a, count(*) AS n FROM order_lines GROUP BY order_id",
        "SELECT order_id, CAST(sum(quantity) AS BIGINT) AS a FROM order_lines WHERE quantity > 1 GROUP BY order_id",
        "SELECT n AS lines, order_id FROM (SELECT order_id, count(line_number) AS n FROM order_lines GROUP BY order_id) AS q",
    ] {
        assert!(told(sum), "{sum}");
    }
    for other in [
        "SELECT order_id, max(amount) AS a FROM order_lines GROUP BY order_id",
        "SELECT order_id, sum(amount) + 1 AS a FROM order_lines GROUP BY order_id",
        "SELECT order_id, count(DISTINCT line_number) AS n FROM order_lines GROUP BY order_id",
        "SELECT order_id, sum(amount) AS a FROM order_lines GROUP BY order_id HAVING count(*) > 1",
        "SELECT order_id, CAST(sum(amount) AS DECIMAL(20,0)) AS a FROM order_lines GROUP BY order_id",
        "SELECT order_id, CAST(sum(quantity) AS VARCHAR) AS a FROM order_lines GROUP BY order_id",
        "SELECT order_id, 1 AS one FROM order_lines GROUP BY order_id",
        "SELECT order_id, count(*) AS n FROM (SELECT DISTINCT order_id, quantity FROM order_lines) AS q GROUP BY order_id",
        "SELECT order_id, sum(m) AS s FROM (SELECT order_id, quantity, max(amount) AS m FROM order_lines GROUP BY order_id, quantity) AS q GROUP BY order_id",
        "SELECT order_id, sum(r) AS s FROM (SELECT order_id, rank() OVER (PARTITION BY order_id ORDER BY amount) AS r FROM order_lines) AS q GROUP BY order_id",
        "SELECT order_id, sum(a) AS s FROM (SELECT order_id, amount AS a FROM order_lines UNION ALL SELECT order_id, -amount AS a FROM order_lines) AS q GROUP BY order_id",
        "SELECT order_id FROM order_lines GROUP BY order_id HAVING count(*) > 1",
        "SELECT DISTINCT order_id FROM (SELECT order_id, rank() OVER (PARTITION BY order_id ORDER BY amount) AS r FROM order_lines) AS q WHERE r = 1",
    ] {
        assert!(!told(other), "{other}");
    }
}

#[test]
fn what_is_wrong_with_a_roll_up_is_told() {
    let cases = [
        ("of: order_lines", "of: order_line", "2:5: there is no fact `sales.order_line` (did you mean `order_lines`?)"),
        ("of: order_lines", "of: date", "2:5: `sales.date` is a calendar, where a fact belongs"),
        ("buyer.city", "byer.city", "4:9: `sales.order_lines` has no dimension `byer` (did you mean `buyer`?)"),
        (
            "buyer.city",
            "buyer.town",
            "4:9: `buyer` has no column `town` (there are: `person_key`, `person_durable_key`, `person_id`, `name`, `city`, `region_durable_key`, `valid_from`, `valid_to`, `is_current`, `is_deleted`, `is_inferred`)",
        ),
        (
            "order: order_id",
            "order: order",
            "5:10: `sales.order_lines` has no column `order` (there are: `buyer_key`, ",
        ),
        ("[amount]", "[price]", "6:11: `sales.order_lines` has no measure `price` (there are: `quantity`, `amount`)"),
        (
            "by:\n  city: buyer.city\n  order: order_id\n",
            "by: {}\n",
            "1:9: the roll-up is `by` nothing (name columns of the fact, or attributes of its dimensions: `month: order_date.year_month`)",
        ),
        ("count: lines", "count: city", "1:9: two columns have the name `city`"),
        (
            "count: lines",
            "where: quantty > 1",
            "7:8: `quantty > 1`: there is no column `quantty`; did you mean `quantity`?",
        ),
        ("count: lines", "count: Lines", "1:9: `Lines` is not a name"),
    ];
    let missed: Vec<String> = cases
        .iter()
        .map(|(right, wrong, expected)| (wrong, expected, said(right, wrong)))
        .filter(|(_, expected, found)| !found.starts_with(**expected) || found.lines().count() > 1)
        .map(|(wrong, expected, found)| format!("{wrong}\n  expected: {expected}\n  found:    {found}"))
        .collect();
    assert!(missed.is_empty(), "{} of {} cases:\n{}", missed.len(), cases.len(), missed.join("\n"));
}
