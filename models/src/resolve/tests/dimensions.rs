//! Dimensions: keys, attributes, references, calendars.

use super::{DATE, PERSON, REGION, each_is_told};

#[test]
fn dimensions_have_a_key_and_events() {
    each_is_told(
        PERSON,
        &[
            (
                "key: person_id\n",
                "",
                "1:12: the dimension has no key (name the natural key (`key: customer_id`), or generate a `calendar`)",
            ),
            (
                "key: person_id",
                "key: []",
                "1:12: the dimension has no key (name the natural key (`key: customer_id`), or generate a `calendar`)",
            ),
            (
                "key: person_id",
                "key:",
                "1:12: the dimension has no key (name the natural key (`key: customer_id`), or generate a `calendar`)",
            ),
        ],
    );
    each_is_told(
        REGION,
        &[
            (
                "from:\n  - stream: people\n    event: region_named\n    as: state\n    set: { name: title }\n",
                "",
                "1:12: the dimension has no events (say under `from` what its members come from)",
            ),
            (
                "  - stream: people\n    event",
                "  - event",
                "4:5: the source does not say its stream (add `stream: name`)",
            ),
        ],
    );
}

#[test]
fn dimensions_read_streams_and_events_of_their_own_domain() {
    each_is_told(
        REGION,
        &[
            ("stream: people", "stream: peopel", "4:5: there is no stream `peopel` (did you mean `people`?)"),
            (
                "stream: people",
                "stream: orders",
                "4:5: the stream `orders` belongs to the domain `sales` (use a product of `sales`, or have it add `people` to `readers` in orders.yaml)",
            ),
            (
                "event: region_named",
                "event: region_namd",
                "4:5: the stream `people` has no event `region_namd` (did you mean `region_named`?)",
            ),
        ],
    );
}

#[test]
fn attributes_and_keys_come_from_fields() {
    each_is_told(
        REGION,
        &[
            ("set: { name", "set: { nmae", "4:5: `nmae` is not an attribute (did you mean `name`?)"),
            ("title }", "titel }", "4:5: `titel`: there is no column `titel`; did you mean `title`?"),
            (
                "    set:",
                "    key: { region: region_id }\n    set:",
                "4:5: `region` is not a part of the key (there are: `region_id`)",
            ),
            (
                "key: region_id",
                "key: region_no",
                "4:5: `region_no`: there is no column `region_no`; did you mean `region_id`?",
            ),
            (
                "title }\nattributes:\n  name: { type: string }",
                "title IS NULL }\nattributes:\n  name: { type: date }",
                "4:5: `title IS NULL` is bool, and `name` is date",
            ),
            (
                "    set:",
                "    key: { region_id: make_array(title) }\n    set:",
                "4:5: `make_array(title)` is List(string), which no key has",
            ),
        ],
    );
    each_is_told(
        PERSON,
        &[
            (
                "  city: {",
                "  cty: {",
                "8:8: no event has a field `cty`, and no `set` says what it is (did you mean `city`?)",
            ),
            (
                "  - { event: person_left, as: delete }",
                "  - { event: person_left, as: delete, key: { person_id: current_date } }",
                "5:5: `current_date`: `current_date` does not give the same answer every day",
            ),
        ],
    );
}

#[test]
fn references_fit_the_dimension_they_name() {
    each_is_told(
        PERSON,
        &[
            (
                "dimension: region",
                "dimension: regoin",
                "10:11: there is no dimension `people.regoin` (did you mean `region`?)",
            ),
            (
                "dimension: region",
                "dimension: sales.date",
                "10:11: `sales.date` names no dimension of this domain (another domain's dimension is named by its port: domain.product_vN.port)",
            ),
            (
                "dimension: region",
                "dimension: sales.orders_v1.date",
                "10:11: there is no port `sales.orders_v1.date` (there are: `people.people_v1.person`)",
            ),
            (
                "key: region_id",
                "key: regoin_id",
                "10:11: `regoin_id`: there is no column `regoin_id`; did you mean `region_id`?",
            ),
            ("key: region_id", "key: [region_id, city]", "10:11: the key of `people.region` has 1 column, not 2"),
            (
                "[sales.order_lines]",
                "[sales.order_lines, sales.ordr_lines]",
                "11:36: `sales.ordr_lines` does not mention `people.person` (did you mean `sales.order_lines`?)",
            ),
            (
                "[sales.order_lines]",
                "[sales.order_lines, people.region]",
                "11:36: `people.region` does not mention `people.person` (there are: `sales.order_lines`)",
            ),
        ],
    );
    each_is_told(
        REGION,
        &[
            (
                "inferred_from: [people.person]",
                "inferred_from: []",
                "people/person.yaml:10:11: `people.region` does not accept members that `people.person` mentions (add `people.person` to `inferred_from` of `people.region`)",
            ),
            ("[people.person]", "[people.person, person]", "10:32: `person` is not a model (write domain.fact)"),
            (
                "inferred_from: [people.person]",
                "references:\n  parent: { dimension: region, key: region_id }\ninferred_from: [people.person, people.region]",
                "11:11: references in a circle: people.region → people.region (a hierarchy within one dimension is a plain attribute)",
            ),
            (
                "inferred_from:",
                "references:\n  mayor: { dimension: person, key: title }\ninferred_from:",
                "11:10: `people.person` does not accept members that `people.region` mentions (add `people.region` to `inferred_from` of `people.person`)\n11:10: references in a circle: people.person → people.region → people.person (a hierarchy within one dimension is a plain attribute)",
            ),
        ],
    );
}

#[test]
fn calendars_are_days_and_nothing_else() {
    each_is_told(
        DATE,
        &[
            ("2020-01-01", "2020-13-01", "2:11: a calendar has `from` and `to`, days such as 2024-01-31"),
            ("2020-01-01", "20200101", "2:11: a calendar has `from` and `to`, days such as 2024-01-31"),
            ("2020-01-01", "\"-0004-01-01\"", "2:11: a calendar has `from` and `to`, days such as 2024-01-31"),
            ("2020-01-01", "2031-01-01", "2:11: `from` is a day before `to`, at most 500 years before"),
            ("2020-01-01", "1020-01-01", "2:11: `from` is a day before `to`, at most 500 years before"),
            (
                "calendar:",
                "key: day\ncalendar:",
                "3:11: a calendar has no key, sources, attributes, references or inferred members",
            ),
            (
                "calendar:",
                "inferred_from: [sales.order_lines]\ncalendar:",
                "3:11: a calendar has no key, sources, attributes, references or inferred members",
            ),
        ],
    );
}

#[test]
fn members_of_different_kinds_have_dimensions_of_their_own() {
    let two = |first: &str, second: &str| format!("  - {{ stream: people, {first} }}\n  - {{ {second} }}\n");
    let seen = "  - { stream: people, event: person_seen, as: state }\n  - { event: person_left, as: delete }\n";
    let apart = "4:5: `person_seen` and `region_named` tell of members of different kinds: they have no attribute in common \
                 (declare a dimension for each kind; facts then have a role for each)";
    let key = "key: { person_id: region_id }";
    // The word that says of which kind they are is not an attribute that they share.
    for (first, second, expected) in [
        (
            "event: person_seen, as: state, set: { name: \"'person'\" }".to_owned(),
            format!("event: region_named, as: state, {key}, set: {{ name: \"'region'\" }}"),
            apart,
        ),
        (
            "event: person_seen, as: patch, set: { name: \"'person'\" }".to_owned(),
            format!("event: region_named, as: patch, {key}, set: {{ name: \"'region'\" }}"),
            apart,
        ),
        (
            "event: person_seen, as: state, set: { name: \"CAST(NULL AS VARCHAR)\" }".to_owned(),
            format!("event: region_named, as: state, {key}"),
            apart,
        ),
        (
            "event: person_seen, as: patch".to_owned(),
            format!("event: region_named, as: patch, {key}, set: {{ name: title }}"),
            "",
        ),
        (
            "event: person_seen, as: state, set: { name: \"'person'\" }".to_owned(),
            format!("event: region_named, as: state, {key}, set: {{ name: \"'region'\", city: title }}"),
            "",
        ),
        // One member, of whom each event says what has become of it.
        (
            "event: person_seen, as: state, set: { name: \"'active'\" }".to_owned(),
            "event: person_left, as: patch, set: { name: \"'gone'\" }".to_owned(),
            "",
        ),
        (
            "event: person_seen, as: state, set: { name: \"'active'\" }".to_owned(),
            "event: person_left, as: state, set: { name: \"'gone'\" }".to_owned(),
            "",
        ),
    ] {
        let wrong = two(&first, &second);
        let region = "references:\n  region: { dimension: region, key: region_id }\n";
        let mut files = super::changed(PERSON, seen, &wrong);
        let text = files.get_mut(PERSON).expect("it is there");
        *text = text.replace(region, "");
        if wrong.contains("region_named") {
            *text = text.replace("attributes:\n", "attributes:\n  title: { type: string }\n");
        }
        let region = files.get_mut(REGION).expect("it is there");
        *region = region.replace("inferred_from: [people.person]\n", "");
        let problems = super::check(&files).err().unwrap_or_default();
        let told: Vec<String> = problems.iter().map(|problem| super::told(problem, PERSON)).collect();
        assert_eq!(
            told.join("\n"),
            if expected.is_empty() { String::new() } else { expected.replacen("4:5", "5:5", 1) },
            "{wrong}"
        );
    }
}

#[test]
fn sources_of_dimensions_choose_events() {
    let seen = "event: person_seen, as: state";
    let left = "event: person_left, as: delete";
    each_is_told(
        PERSON,
        &[
            (seen, "event: person_seen, as: state, where: city <> ''", ""),
            (left, "event: person_seen, as: delete, where: city IS NULL", ""),
            (left, "event: [person_left, person_seen], as: delete, where: person_id <> ''", ""),
            (seen, "event: person_seen, as: state, where: city", "4:5: `city` is string, not true or false"),
            (
                left,
                "event: [person_left, person_seen], as: delete, where: prson_id <> ''",
                "5:5: events `person_left`: `prson_id <> ''`: there is no column `prson_id`; did you mean `person_id`?\n\
                 5:5: events `person_seen`: `prson_id <> ''`: there is no column `prson_id`; did you mean `person_id`?",
            ),
            (
                seen,
                "event: [person_seen, person_lft], as: state",
                "4:5: the stream `people` has no event `person_lft` (did you mean `person_left`?)",
            ),
            (
                seen,
                "event: [], as: state",
                "4:5: the source names no event (write `event: name`, or a list of types that are read alike)",
            ),
            (
                seen,
                "event: [person_seen, person_seen], as: state",
                "4:5: the source names `person_seen` twice (leave out one of them)",
            ),
            // A mistake that has nothing to do with the events is told once.
            (
                left,
                "event: [person_left, person_seen], as: delete, set: { town: city }",
                "5:5: `town` is not an attribute (there are: `name`, `city`)",
            ),
        ],
    );
}

#[test]
fn sources_of_dimensions_have_rules() {
    each_is_told(
        PERSON,
        &[
            (
                "as: state }",
                "as: state, rules: { some: nme <> '' } }",
                "4:5: `nme <> ''`: there is no column `nme`; did you mean `name`?",
            ),
            ("as: delete }", "as: delete, rules: { some: person_id <> '' } }", ""),
        ],
    );
}
