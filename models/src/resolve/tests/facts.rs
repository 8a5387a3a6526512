//! Facts: grain, roles, columns, conditions.

use super::{LINES, ORDERS, each_is_told};

#[test]
fn facts_read_streams_events_and_elements_of_their_own_domain() {
    each_is_told(
        LINES,
        &[
            ("stream: orders", "stream: ordrs", "2:7: there is no stream `ordrs` (did you mean `orders`?)"),
            (
                "stream: orders",
                "stream: people",
                "2:7: the stream `people` belongs to the domain `people` (use a product of `people`, or have it add `sales` to `readers` in people.yaml)",
            ),
            (
                "event: order_placed",
                "event: order_place",
                "2:7: the stream `orders` has no event `order_place` (did you mean `order_placed`?)",
            ),
            (
                "event: order_placed",
                "event: [order_placed, order_place]",
                "2:7: the stream `orders` has no event `order_place` (did you mean `order_placed`?)",
            ),
            (
                "event: order_placed",
                "event: []",
                "2:7: the source names no event (write `event: name`, or a list of types that are read alike)",
            ),
            (
                "event: order_placed",
                "event: [order_placed, order_placed]",
                "2:7: the source names `order_placed` twice (leave out one of them)",
            ),
            ("event: order_placed", "event: [order_placed]", ""),
            ("each: lines", "each: line", "2:7: `order_placed` has no elements `line` (did you mean `lines`?)"),
            ("each: lines", "each: order_id", "2:7: `order_placed` has no elements `order_id` (there are: `lines`)"),
        ],
    );
    each_is_told(
        ORDERS,
        &[(
            "          weight:",
            "          price:",
            "sales/order_lines.yaml:2:7: `price` is a field of the event and of its elements `lines` (give one of them another name and a `path`)",
        )],
    );
}

#[test]
fn facts_have_a_grain_of_columns() {
    each_is_told(
        LINES,
        &[
            (
                "[order_id, line_number]",
                "[order_id, line_no]",
                "4:8: the fact has no column `line_no` (there are: `amount`, `buyer_durable_key`, `buyer_key`, `due_key`, `event_id`, `line_number`, `occurred_at`, `order_id`, `ordinal`, `quantity`)",
            ),
            ("[order_id, line_number]", "[]", "4:8: the fact has no grain (name the columns that tell its rows apart)"),
            ("[order_id, line_number]", "[order_id, order_id]", "4:8: the grain names `order_id` twice"),
            (
                "[order_id, line_number]",
                "[order_id, due_durable_key]",
                "4:8: the fact has no column `due_durable_key` (did you mean `buyer_durable_key`?)",
            ),
        ],
    );
}

#[test]
fn roles_name_a_dimension_and_its_key() {
    each_is_told(
        LINES,
        &[
            ("dimension: date", "dimension: dat", "7:8: there is no dimension `sales.dat` (did you mean `date`?)"),
            (
                "dimension: date",
                "dimension: order_lines",
                "7:8: there is no dimension `sales.order_lines` (there are: `date`)",
            ),
            (
                "people.people_v1.person",
                "people.people_v1.persn",
                "6:10: there is no port `people.people_v1.persn` (did you mean `people.people_v1.person`?)",
            ),
            (
                "people.people_v1.person",
                "people.person",
                "6:10: `people.person` names no dimension of this domain (another domain's dimension is named by its port: domain.product_vN.port)",
            ),
            (
                "key: person_id",
                "key: persn_id",
                "6:10: `persn_id`: there is no column `persn_id`; did you mean `person_id`?",
            ),
            (
                "key: person_id",
                "key: [person_id, order_id]",
                "6:10: the key of `people.people_v1.person` has 1 column, not 2",
            ),
            (
                "key: due_on",
                "key: paid",
                "7:8: `paid` is bool, and the key of `date` is date (write a key of that type; CAST(… AS …) where it is another on purpose)",
            ),
            (
                "key: due_on",
                "key: order_id",
                "7:8: `order_id` is string, and the key of `date` is date (write a key of that type; CAST(… AS …) where it is another on purpose)",
            ),
            ("key: due_on", "key: [due_on, due_on]", "7:8: the key of `date` has 1 column, not 2"),
        ],
    );
}

#[test]
fn columns_of_facts_are_of_types_that_fit() {
    each_is_told(
        LINES,
        &[
            (
                "  order_id: {}",
                "  order_id: {}\n  order_no: {}",
                "10:13: `order_no`: there is no column `order_no`; did you mean `order_id`?",
            ),
            (
                "{ expression: ordinal, type: int }",
                "{ expression: paid, type: date }",
                "10:16: `paid` is bool, and `line_number` is date",
            ),
            (
                "'quantity * price', type: 'decimal(18,2)'",
                "due_on, type: bool",
                "13:11: `due_on` is date, and `amount` is bool",
            ),
            (
                "'quantity * price', type: 'decimal(18,2)'",
                "make_array(1)",
                "13:11: `make_array(1)` is List(bigint), which no column has (declare its `type`)",
            ),
            (
                "'quantity * price', type: 'decimal(18,2)'",
                "'quantity * weight'",
                "13:11: sums of `amount` (double) would depend on their order (declare a decimal or an integer `type`, or `additive: none`)",
            ),
            (
                "  quantity: {",
                "  weight: { additive: semi }\n  quantity: {",
                "12:11: sums of `weight` (double) would depend on their order (declare a decimal or an integer `type`, or `additive: none`)",
            ),
            (
                "'quantity * price', type: 'decimal(18,2)'",
                "sku",
                "13:11: `amount` is string, which has no sum (declare it `additive: none`, or under `degenerate`)",
            ),
        ],
    );
}

#[test]
fn conditions_are_true_or_false_for_a_row_on_any_day() {
    each_is_told(
        LINES,
        &[
            (
                "'quantity > 0'",
                "'qantity > 0'",
                "3:8: `qantity > 0`: there is no column `qantity`; did you mean `quantity`?",
            ),
            ("'quantity > 0'", "'quantity + 1'", "3:8: `quantity + 1` is bigint, not true or false"),
            ("'quantity > 0'", "quantity", "3:8: `quantity` is int, not true or false"),
            (
                "'quantity > 0'",
                "'occurred_at > now()'",
                "3:8: `occurred_at > now()`: `now` does not give the same answer every day",
            ),
            (
                "'quantity > 0'",
                "'random() > 0.5'",
                "3:8: `random() > 0.5`: `random` does not give the same answer every day",
            ),
            (
                "'quantity > 0'",
                "'due_on > current_date'",
                "3:8: `due_on > current_date`: `current_date` does not give the same answer every day",
            ),
            (
                "'quantity > 0'",
                "'quantity > avg(quantity)'",
                "3:8: `quantity > avg(quantity)`: `avg` is over many rows; an expression here is over one",
            ),
            (
                "'quantity > 0'",
                "'row_number() OVER () > 1'",
                "3:8: `row_number() OVER () > 1`: a window function is over many rows; an expression here is over one",
            ),
            (
                "'quantity > 0'",
                "'quantity > (SELECT 1)'",
                "3:8: `quantity > (SELECT 1)`: a subquery has no place in an expression over one row",
            ),
            (
                "'quantity > 0'",
                "'quantity IN (SELECT 1)'",
                "3:8: `quantity IN (SELECT 1)`: a subquery has no place in an expression over one row",
            ),
            (
                "'quantity > 0'",
                "'EXISTS (SELECT 1)'",
                "3:8: `EXISTS (SELECT 1)`: a subquery has no place in an expression over one row",
            ),
            ("'quantity > 0'", "'quantity > $1'", "3:8: `quantity > $1`: a parameter has no value here"),
        ],
    );
}

#[test]
fn mistakes_in_sql_are_told_without_the_engine_s_own_words() {
    each_is_told(
        LINES,
        &[
            ("'quantity > 0'", "'quantity >'", "3:8: `quantity >`: Expected: an expression, found: EOF"),
            ("'quantity > 0'", "''", "3:8: ``: Expected: an expression, found: EOF"),
            ("'quantity > 0'", "'(quantity > 0'", "3:8: `(quantity > 0`: Expected: ), found: EOF"),
            (
                "'quantity > 0'",
                "'quantity > 0; DROP TABLE x'",
                "3:8: `quantity > 0; DROP TABLE x`: Expected: end of expression, found: ; at Line: 1, Column: 13",
            ),
            ("'quantity > 0'", "\"sku = 'x\"", "3:8: `sku = 'x`: Unterminated string literal at Line: 1, Column: 7"),
            (
                "'quantity > 0'",
                "'uper(sku) = sku'",
                "3:8: `uper(sku) = sku`: Invalid function 'uper'. Did you mean 'upper'?",
            ),
            (
                "'quantity > 0'",
                "'quantity > paid'",
                "3:8: `quantity > paid`: Cannot infer common argument type for comparison operation int > bool",
            ),
            (
                "'quantity > 0'",
                "'lines.quantity > 0'",
                "3:8: `lines.quantity > 0`: there is no column `lines.quantity`; did you mean `quantity`?",
            ),
        ],
    );
}

#[test]
fn rules_are_conditions_with_names() {
    let rule = |rule: &str| format!("each: lines, rules: {rule} }}");
    let cases = [
        ("{ some: quantty > 0 }", "2:7: `quantty > 0`: there is no column `quantty`; did you mean `quantity`?"),
        ("{ some: quantity + 1 }", "2:7: `quantity + 1` is bigint, not true or false"),
        (
            "{ Some: quantity > 0 }",
            "2:7: `Some` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
        ),
        ("{ some: quantity > 0 AND price IS NOT NULL }", ""),
    ];
    let cases: Vec<(String, &str)> = cases.iter().map(|(text, expected)| (rule(text), *expected)).collect();
    let cases: Vec<(&str, &str, &str)> =
        cases.iter().map(|(text, expected)| ("each: lines }", text.as_str(), *expected)).collect();
    each_is_told(LINES, &cases);
}
