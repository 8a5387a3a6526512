//! Keys, choices and kinds of values: what the parser refuses.

use super::{DATE, LINES, ORDERS, PEOPLE, PERSON, REGION, each_is_told};

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    each_is_told(
        ORDERS,
        &[
            (
                "stream: orders\n",
                "stream: orders\nmax_event_byte: 5\n",
                "2:1: unknown key `max_event_byte` (did you mean `max_event_bytes`?)",
            ),
            (
                "id: id",
                "ident: id",
                "3:13: unknown key `ident` (there are: `id`, `type`, `constant_type`, `version`, `time`, `time_unit`, `subject`, `tombstone`)",
            ),
            ("    versions:", "    version:", "6:5: unknown key `version` (did you mean `versions`?)"),
            ("from_previous:", "from_previos:", "30:9: unknown key `from_previos` (did you mean `from_previous`?)"),
            ("required: true", "require: true", "9:37: unknown key `require` (did you mean `required`?)"),
            ("from: client", "form: client", "31:23: unknown key `form` (did you mean `from`?)"),
        ],
    );
    each_is_told(
        PERSON,
        &[
            ("attributes:", "atributes:", "6:1: unknown key `atributes` (did you mean `attributes`?)"),
            ("city: { type", "city: { kind", "8:11: unknown key `kind` (there are: `type`, `history`, `description`)"),
            (
                "{ dimension: region",
                "{ dimensions: region",
                "10:13: unknown key `dimensions` (did you mean `dimension`?)",
            ),
        ],
    );
    each_is_told(
        REGION,
        &[("event: region_named", "evnt: region_named", "5:5: unknown key `evnt` (did you mean `event`?)")],
    );
    each_is_told(
        DATE,
        &[(
            "to: 2030",
            "until: 2030",
            "2:31: unknown key `until` (there are: `from`, `to`, `fiscal_year_begins`, `holidays`, `locales`)",
        )],
    );
    each_is_told(
        LINES,
        &[
            ("where:", "wher:", "3:1: unknown key `wher` (did you mean `where`?)"),
            ("each: lines", "echa: lines", "2:46: unknown key `echa` (did you mean `each`?)"),
            ("{ dimension: date", "{ dimensoin: date", "7:10: unknown key `dimensoin` (did you mean `dimension`?)"),
            (
                "{ expression: ordinal",
                "{ expresion: ordinal",
                "10:18: unknown key `expresion` (did you mean `expression`?)",
            ),
        ],
    );
}

#[test]
fn unknown_choices_are_refused_with_the_nearest() {
    each_is_told(
        ORDERS,
        &[
            ("- rename:", "- renam:", "31:13: unknown choice `renam` (did you mean `rename`?)"),
            (
                "time: at",
                "time: at, time_unit: min",
                "3:72: unknown choice `min` (there are: `rfc3339`, `s`, `ms`, `us`)",
            ),
        ],
    );
    each_is_told(REGION, &[("as: state", "as: stat", "6:9: unknown choice `stat` (did you mean `state`?)")]);
    each_is_told(
        PERSON,
        &[
            ("as: delete", "as: deleted", "5:31: unknown choice `deleted` (did you mean `delete`?)"),
            ("history: version", "history: versions", "8:25: unknown choice `versions` (did you mean `version`?)"),
            ("history: version", "history: 2", "8:25: invalid type: integer `2`, expected a text or a list of texts"),
        ],
    );
    each_is_told(
        LINES,
        &[
            (
                "quantity: { type: int }",
                "quantity: { type: int, additive: fully }",
                "12:36: unknown choice `fully` (did you mean `full`?)",
            ),
            (
                "quantity: { type: int }",
                "quantity: { type: integer }",
                "12:21: `integer` is not a type: did you mean `int`?",
            ),
            (
                "quantity: { type: int }",
                "quantity: { type: text }",
                "12:21: `text` is not a type: there are: `string`, `bool`, `int`, `bigint`, `double`, `date`, `timestamp`, `json`, `decimal(p,s)`",
            ),
            (
                "decimal(18,2)",
                "decimal(39,2)",
                "13:51: `decimal(39,2)` is not a decimal: write decimal(p,s) with s ≤ p ≤ 38",
            ),
            (
                "decimal(18,2)",
                "decimal(2,18)",
                "13:51: `decimal(2,18)` is not a decimal: write decimal(p,s) with s ≤ p ≤ 38",
            ),
            (
                "decimal(18,2)",
                "decimal(18",
                "13:51: `decimal(18` is not a type: there are: `string`, `bool`, `int`, `bigint`, `double`, `date`, `timestamp`, `json`, `decimal(p,s)`",
            ),
        ],
    );
}

#[test]
fn keys_that_are_missing_or_there_twice_are_told() {
    each_is_told(
        LINES,
        &[
            ("grain: [order_id, line_number]\n", "", "10:1: the key `grain` is missing"),
            ("grain:", "where: paid\ngrain:", "4:1: the key `where` is there twice"),
        ],
    );
    each_is_told(
        PERSON,
        &[
            (", as: delete", "", "5:7: the key `as` is missing"),
            ("  city:", "  name:", "8:3: the key `name` is there twice"),
        ],
    );
    each_is_told(DATE, &[(", to: 2030-12-31", "", "2:13: the key `to` is missing")]);
    each_is_told(PEOPLE, &[("  person_left:", "  person_seen:", "13:3: the key `person_seen` is there twice")]);
    each_is_told(
        ORDERS,
        &[
            ("          due_on:", "          currency:", "22:11: the key `currency` is there twice"),
            ("      2:\n", "      1:\n", "17:7: the key `1` is there twice"),
        ],
    );
}

#[test]
fn values_of_the_wrong_kind_are_told() {
    each_is_told(
        PERSON,
        &[
            ("key: person_id", "key: { a: b }", "2:6: invalid type: map, expected a text or a list of texts"),
            ("key: person_id", "key: [[person_id]]", "2:7: not a text"),
        ],
    );
    each_is_told(
        ORDERS,
        &[
            ("required: true", "required: maybe", "9:47: neither `true` nor `false`"),
            ("      2:\n", "      two:\n", "17:7: not a whole number, or out of range"),
            ("      2:\n", "      4294967296:\n", "17:7: not a whole number, or out of range"),
            ("stream: orders\n", "stream: orders\nmax_event_bytes: -1\n", "2:18: not a whole number, or out of range"),
            (
                "stream: orders\n",
                "stream: orders\nmax_event_bytes: 1e400\n",
                "2:18: not a whole number, or out of range",
            ),
            (
                "stream: orders\n",
                "stream: orders\nmax_event_bytes: 99999999999999999999999999\n",
                "2:18: not a whole number, or out of range",
            ),
            (
                "- rename: { from: client, to: person_id }\n",
                "- rename: { from: client, to: person_id }\n            cast: { field: paid, type: bool }\n",
                "32:13: a second key where one belongs",
            ),
        ],
    );
    each_is_told(
        REGION,
        &[
            ("event: region_named", "event: [[region_named]]", "5:13: not a text"),
            (
                "  - stream: people\n    event: region_named\n    as: state\n    set: { name: title }",
                "  region_named",
                "4:3: not a list",
            ),
        ],
    );
}
