//! Names: their form, and what has one already.

use super::{LINES, ORDERS, PERSON, each_is_told};

#[test]
fn names_are_lower_case_and_of_one_thing() {
    each_is_told(
        "shipments.yaml",
        &[
            (
                "",
                "stream: Shipments\ndomain: sales\nenvelope: { constant_type: sent, time: at }\n",
                "1:9: `Shipments` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
            (
                "",
                "stream: shipments\ndomain: ../sales\nenvelope: { constant_type: sent, time: at }\n",
                "2:9: `../sales` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
            (
                "",
                "stream: shipments\ndomain: system\nenvelope: { constant_type: sent, time: at }\n",
                "2:9: `system` cannot be the name of a domain (queries find raw events in `lake`, models in `work`, and what Starmere knows of itself in `system`)",
            ),
            (
                "",
                "stream: shipments\ndomain: work\nenvelope: { constant_type: sent, time: at }\n",
                "2:9: `work` cannot be the name of a domain (queries find raw events in `lake`, models in `work`, and what Starmere knows of itself in `system`)",
            ),
            (
                "",
                "stream: orders\ndomain: sales\nenvelope: { constant_type: sent, time: at }\n",
                "1:9: stream `orders` is defined twice (it is also at orders.yaml:1:9)",
            ),
        ],
    );
    each_is_told(
        "sales/zero.yaml",
        &[
            (
                "",
                "dimension: 0\ncalendar: { from: 2020-01-01, to: 2020-12-31 }\n",
                "1:12: `0` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
            (
                "",
                "dimension: date\ncalendar: { from: 2020-01-01, to: 2020-12-31 }\n",
                "1:12: model `sales.date` is defined twice (it is also at sales/date.yaml:1:12)",
            ),
            (
                "",
                "dimension: order_lines\ncalendar: { from: 2020-01-01, to: 2020-12-31 }\n",
                "sales/order_lines.yaml:1:7: model `sales.order_lines` is defined twice (it is also at sales/zero.yaml:1:12)",
            ),
        ],
    );
    each_is_told(
        ORDERS,
        &[(
            "          due_on:",
            "          due-on:",
            "22:19: `due-on` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
        )],
    );
    each_is_told(
        PERSON,
        &[(
            "  city: {",
            "  City: {",
            "8:9: `City` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
        )],
    );
    each_is_told(
        LINES,
        &[
            (
                "  buyer: {",
                "  Buyer: {",
                "6:10: `Buyer` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
            (
                "  quantity: {",
                "  größe: { expression: quantity }\n  quantity: {",
                "12:10: `größe` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
            (
                "  quantity: {",
                "  qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq: { expression: quantity }\n  quantity: {",
                "12:69: `qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq` is not a name (write lower-case letters, digits and `_`, beginning with a letter, up to 63)",
            ),
        ],
    );
}

#[test]
fn names_that_every_table_has_are_reserved() {
    each_is_told(
        ORDERS,
        &[
            (
                "          weight:",
                "          ordinal:",
                "23:20: `ordinal` cannot be the name of a field (every event has a column of this name; give the field another name and a `path`)",
            ),
            (
                "              sku:",
                "              event_id:",
                "14:25: `event_id` cannot be the name of a field (every event has a column of this name; give the field another name and a `path`)",
            ),
        ],
    );
    each_is_told(
        PERSON,
        &[
            ("  city: {", "  valid_from: {", "8:15: the dimension has two columns `valid_from` (rename one of them)"),
            ("  city: {", "  person_key: {", "8:15: the dimension has two columns `person_key` (rename one of them)"),
            ("  city: {", "  person_id: {", "8:14: the dimension has two columns `person_id` (rename one of them)"),
            (
                "  region: {",
                "  person: {",
                "10:11: the dimension has two columns `person_durable_key` (rename one of them)",
            ),
        ],
    );
    each_is_told(
        LINES,
        &[
            (
                "  quantity: {",
                "  event_id: { additive: none }\n  quantity: {",
                "12:13: the fact has two columns `event_id` (rename one of them)",
            ),
            (
                "  quantity: {",
                "  order_id: { additive: none }\n  quantity: {",
                "9:13: the fact has two columns `order_id` (rename one of them)",
            ),
            (
                "  quantity: {",
                "  buyer_key: { expression: '1' }\n  quantity: {",
                "12:14: the fact has two columns `buyer_key` (rename one of them)",
            ),
        ],
    );
}
