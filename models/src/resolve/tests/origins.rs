//! Where columns come from.

use super::*;

#[test]
fn columns_say_where_they_come_from() {
    let mut files = changed(PERSON, "{ event: person_left, as: delete }", "{ event: [person_left], as: delete }");
    files.insert(
        SQL.to_owned(),
        "sql: few\nselect: SELECT order_id FROM order_lines GROUP BY order_id\ngrain: order_id\n".to_owned(),
    );
    let models = check(&files).unwrap_or_else(|problems| panic!("{problems:?}"));
    let cases: [(&str, &str, &[&str]); 13] = [
        ("sales.order_lines", "buyer_key", &["orders.order_placed.person_id"]),
        ("sales.order_lines", "buyer_durable_key", &["orders.order_placed.person_id"]),
        ("sales.order_lines", "due_key", &["orders.order_placed.due_on"]),
        ("sales.order_lines", "line_number", &["orders.order_placed.ordinal"]),
        ("sales.order_lines", "quantity", &["orders.order_placed.lines.quantity"]),
        ("sales.order_lines", "amount", &["orders.order_placed: quantity * price"]),
        ("sales.order_lines", "occurred_at", &["orders.order_placed.occurred_at"]),
        ("people.person", "person_id", &["people.person_seen.person_id", "people.person_left.person_id"]),
        ("people.person", "city", &["people.person_seen.city"]),
        ("people.person", "region_durable_key", &["people.person_seen.region_id"]),
        ("people.person", "valid_from", &[]),
        ("people.region", "name", &["people.region_named.title"]),
        ("sales.few", "order_id", &["sales.order_lines"]),
    ];
    for (name, column, expected) in cases {
        let model = models.models.iter().find(|model| model.name().to_string() == name).expect("it is defined");
        assert!(model.schema().field_with_name(column).is_ok(), "{name} has no {column}");
        assert_eq!(model.origin(column), expected, "{name}.{column}");
    }
}
