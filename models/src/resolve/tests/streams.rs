//! Streams: envelopes, fields, versions, upcasters.

use super::{ORDERS, PEOPLE, each_is_told};

#[test]
fn streams_say_where_the_envelope_is_and_what_fields_are() {
    each_is_told(
        ORDERS,
        &[
            (
                "type: type",
                "type: type, constant_type: order_placed",
                "3:11: an envelope has `type` or `constant_type`, not both",
            ),
            (
                " type: type,",
                "",
                "3:11: the envelope does not say the type of an event (say where the type is (`type: path`), or which it always is (`constant_type: name`))",
            ),
            ("weight: { type: double }", "weight: {}", "23:19: the field `weight` needs either a `type` or `each`"),
            (
                "weight: { type: double }",
                "weight: { type: double, each: {} }",
                "23:19: the field `weight` needs either a `type` or `each`",
            ),
            (
                "quantity: { type: int }",
                "quantity: { each: { box: { type: int } } }",
                "28:25: `quantity`: elements have one level (read the inner list as `type: json`)\n\
                 33:13: `quantity` has elements; a step is about a value (elements carry over under one name: give the \
                 list that name in both versions, with a `path`)\n\
                 34:13: `quantity` has elements; a step is about a value (elements carry over under one name: give the \
                 list that name in both versions, with a `path`)",
            ),
        ],
    );
    each_is_told(
        PEOPLE,
        &[(
            "  person_left:\n    versions:\n      1:\n        fields:\n          person_id: { type: string }\n",
            "  person_left:\n    versions: {}\n",
            "14:5: the event `person_left` has no version (describe version 1 under `versions`)",
        )],
    );
}

#[test]
fn versions_follow_on_one_another() {
    each_is_told(
        ORDERS,
        &[
            (
                "      2:\n",
                "      3:\n",
                "18:9: `order_placed` goes from version 1 to 3 (describe version 2 too: its events would be rejected)",
            ),
            (
                "      2:\n",
                "      4294967295:\n",
                "18:9: `order_placed` has a version 4294967295; they go up to 2147483647",
            ),
        ],
    );
    each_is_told(
        PEOPLE,
        &[(
            "          region_id: { type: string }\n  person_left",
            "          region_id: { type: string }\n        from_previous:\n          - rename: { from: title, to: name }\n  person_left",
            "14:13: version 1 of `person_seen` is the first; there is none to come from",
        )],
    );
}

#[test]
fn upcasters_read_and_write_fields_that_there_are() {
    each_is_told(
        ORDERS,
        &[
            (
                "from: client",
                "from: clent",
                "31:13: `order_placed` version 2: there is no field `clent` at this step; did you mean `client`?",
            ),
            (
                "to: person_id",
                "to: persn_id",
                "31:13: version 2 of `order_placed` has no field `persn_id`, and no later step reads it (did you mean `person_id`?)",
            ),
            (
                "to: lines.quantity",
                "to: quantity",
                "33:13: version 2 of `order_placed` has no field `quantity`, and no later step reads it (there are: `order_id`, `person_id`, `currency`, `due_on`, `weight`, `paid`)",
            ),
            (
                "from: lines.qty",
                "from: client",
                "33:13: `order_placed` version 2: `client` and `lines.quantity` are not on one level",
            ),
            ("to: lines.quantity", "to: lins.quantity", "33:13: `lins` has no elements (did you mean `lines`?)"),
            (
                "rename: { from: client, to: person_id }",
                "rename: { from: items, to: lines }",
                "31:13: `lines` has elements; a step is about a value (elements carry over under one name: give the list that name in both versions, with a `path`)",
            ),
            (
                "field: currency, value",
                "field: curency, value",
                "32:13: version 2 of `order_placed` has no field `curency`, and no later step reads it (did you mean `currency`?)",
            ),
            (
                "cast: { field: lines.quantity",
                "cast: { field: lines.quantty",
                "34:13: version 2 of `order_placed` has no field `lines.quantty`, and no later step reads it (did you mean `quantity`?)",
            ),
            (
                "field: currency, expression",
                "field: curency, expression",
                "35:13: version 2 of `order_placed` has no field `curency`, and no later step reads it (did you mean `currency`?)",
            ),
        ],
    );
}

#[test]
fn upcasters_make_the_types_that_are_declared() {
    each_is_told(
        ORDERS,
        &[
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- default: { field: due_on, value: someday }",
                "35:13: `someday` is not of type date",
            ),
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- default: { field: weight, value: heavy }",
                "35:13: `heavy` is not of type double",
            ),
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- default: { field: due_on, value: true }",
                "35:13: `true` is not of type date",
            ),
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- default: { field: due_on, value: '2024-02-03T10:00:00Z' }",
                "35:13: `2024-02-03T10:00:00Z` is not of type date",
            ),
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- rename: { from: client, to: currency }",
                "35:13: `order_placed` version 2: there is no field `client` at this step; a step before took it away",
            ),
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- split: { field: person_id, on: '', into: [currency, person_id] }",
                "35:13: `person_id` is split on nothing (say what stands between its parts)",
            ),
            ("value: EUR", "value: [EUR]", "32:48: not a text"),
            (
                "value: EUR",
                "value: null",
                "32:13: `order_placed` version 2: a default is a text, a number, true or false",
            ),
            (
                "expression: 'upper(currency)'",
                "expression: 'CAST(now() AS VARCHAR)'",
                "35:13: `order_placed` version 2: `now` does not give the same answer every day",
            ),
            (
                "expression: 'upper(currency)'",
                "expression: 'max(currency)'",
                "35:13: `order_placed` version 2: `max` is over many rows; an expression here is over one",
            ),
        ],
    );
}

#[test]
fn types_of_upcasters_have_the_names_that_definitions_give_them() {
    each_is_told(
        ORDERS,
        &[
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- default: { field: lines.quantity, value: lots }",
                "35:13: `order_placed` version 2: `lots` is not of type int",
            ),
            (
                "- sql: { field: currency, expression: 'upper(currency)' }",
                "- cast: { field: paid, type: date }",
                "35:13: `order_placed` version 2: `paid` is bool, which cannot be made date",
            ),
            (
                "field: currency, expression: 'upper(currency)'",
                "field: due_on, expression: paid",
                "35:13: `order_placed` version 2: `due_on` is bool after these steps, and date in version 2; add a step that makes it date",
            ),
            (
                "'upper(currency)'",
                "'upper(curency)'",
                "35:13: `order_placed` version 2: there is no column `curency`; did you mean `currency`?",
            ),
        ],
    );
    each_is_told(
        PEOPLE,
        &[
            (
                "          person_id: { type: string }\n  region",
                "          person_id: { type: bool }\n      2:\n        fields:\n          person_id: { type: date }\n  region",
                "19:9: `person_left` version 2: `person_id` is bool after these steps, and date in version 2; add a step that makes it date",
            ),
            (
                "          person_id: { type: string }\n  region",
                "          person_id: { type: int }\n      2:\n        fields:\n          person_id: { type: date }\n  region",
                "19:9: `person_left` version 2: `person_id` is int after these steps, and date in version 2; add a step that makes it date",
            ),
            (
                "          person_id: { type: string }\n  region",
                "          person_id: { type: double }\n      2:\n        fields:\n          person_id: { type: int }\n  region",
                "19:9: `person_left` version 2: `person_id` is double after these steps, and int in version 2; add a step that makes it int",
            ),
        ],
    );
}

#[test]
fn samples_are_tried() {
    let before = "          region_id: { type: string }\n  person_left:";
    let with = |sample: &str| {
        format!("          region_id: {{ type: string }}\n        samples:\n          - {sample}\n  person_left:")
    };
    let right = with("{ payload: { person_id: p1, city: Ulm }, gives: { person_id: p1, city: Ulm, name: null } }");
    assert_eq!(super::problems(PEOPLE, before, &right), "");
    for (sample, words) in [
        (
            "{ payload: { person_id: p1 }, gives: { city: Ulm } }",
            "the sample of version 1 of `person_seen`: `city` is null, not Ulm",
        ),
        (
            "{ payload: { city: Ulm }, gives: { person_id: p1 } }",
            "the sample of version 1 of `person_seen`: it is rejected: `person_id` is required and has no value",
        ),
        (
            "{ payload: { person_id: { a: 1 } }, gives: { city: Ulm } }",
            "the sample of version 1 of `person_seen`: it is rejected: `person_id`: `{\"a\":1}` is not of type string",
        ),
        (
            "{ payload: '{', gives: { city: Ulm } }",
            "the sample of version 1 of `person_seen`: it is rejected: not JSON",
        ),
        (
            "{ payload: {}, gives: { town: Ulm } }",
            "the sample of version 1 of `person_seen`: the newest version has no field `town`",
        ),
        (
            "{ payload: { city: Ulm }, gives: { city: Ulm } }",
            "the sample of version 1 of `person_seen`: it is rejected: `person_id` is required and has no value",
        ),
    ] {
        let found = super::problems(PEOPLE, before, &with(sample));
        assert!(found.contains(words), "{sample}\n{words}\n{found}");
    }
    let list = "        from_previous:\n";
    let sample = "        samples:\n          - { payload: { order_id: o, lines: [{}] }, gives: { lines: [oops] } }\n";
    let found = super::problems(ORDERS, list, &format!("{sample}{list}"));
    assert!(found.contains("element 1 of `lines` is to be a map of its fields"), "{found}");
    // Only what is given is compared, but all of it must be what models accept.
    for (payload, gives, words) in [
        ("[{ sku: a, quantity: 1 }, { sku: b, quantity: 2 }]", "lines: [{ sku: a }, { quantity: 2 }]", ""),
        ("[{ quantity: 1 }]", "lines: [{ quantity: 2 }]", "`quantity` of element 1 is 1, not 2"),
        ("[{ quantity: two }]", "lines: [{ sku: null }]", "`two` is not of type int"),
        ("[{ quantity: two }]", "currency: EUR", "`two` is not of type int"),
        ("[], paid: perhaps", "currency: EUR", "`perhaps` is not of type bool"),
    ] {
        let payload = format!("{{ order_id: o, lines: {payload} }}");
        let sample = format!("        samples:\n          - {{ payload: {payload}, gives: {{ {gives} }} }}\n{list}");
        let found = super::problems(ORDERS, list, &sample);
        assert!(found.contains(words) && found.is_empty() == words.is_empty(), "{payload}\n{words}\n{found}");
    }
}

#[test]
fn steps_of_every_kind_are_checked() {
    for (wrong, words) in [
        ("split: { field: nothing, on: x, into: [person_id, currency] }", "there is no column `nothing`"),
        (
            "split: { field: client, on: x, into: [person_id, nobody] }",
            "has no field `nobody`, and no later step reads it",
        ),
        ("merge: { fields: [client, nothing], into: person_id }", "there is no column `nothing`"),
        ("merge: { fields: [client], into: nobody }", "has no field `nobody`, and no later step reads it"),
        ("map_values: { field: nothing, values: { a: b } }", "has no field `nothing`, and no later step reads it"),
        ("drop: { field: nothing }", "has no field `nothing`, and no later step reads it"),
    ] {
        let found = super::problems(ORDERS, "from_previous:\n", &format!("from_previous:\n          - {wrong}\n"));
        assert!(found.contains(words), "{wrong}\n{words}\n{found}");
    }
}

#[test]
fn a_stream_names_headers_in_its_envelope_its_fields_and_by_its_convention() {
    let headers = |text: &str| {
        let parsed = crate::define::parse_text::<crate::define::StreamFile>(text, "streams/s.yaml").unwrap();
        parsed.definition.headers()
    };
    let fields = "events: { e: { versions: { 1: { fields: { a: { path: $headers.X-Hook, type: string }, \
                  b: { path: x.$headers.y, type: string }, c: { path: $headers.trace.id, type: string } } }, \
                  2: { fields: { a: { path: $headers.X-Hook, type: string } } } } } }";
    let stream = |rest: &str| format!("stream: s\ndomain: d\n{rest}\n{fields}\n");
    let own = "envelope: { id: $headers.X-Delivery, type: $headers.X-Event, time: $timestamp, subject: $key }";
    assert_eq!(headers(&stream(own)), ["X-Delivery", "X-Event", "X-Hook", "trace"]);
    assert_eq!(headers(&stream("convention: outbox\nenvelope: {}")), ["X-Hook", "eventType", "id", "trace"]);
}
