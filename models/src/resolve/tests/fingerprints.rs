//! Tables are made anew when what their rows follow from changes, and only then.

use super::*;

/// The fingerprints of all models of these files.
fn prints(files: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let models = check(files).unwrap_or_else(|problems| panic!("{problems:?}"));
    models.models.iter().map(|model| (model.name().to_string(), model.fingerprint().to_owned())).collect()
}

/// Which models are made anew when `right` becomes `wrong` in a file.
fn made_anew(base: &BTreeMap<String, String>, file: &str, right: &str, wrong: &str) -> Vec<String> {
    let mut files = base.clone();
    let text = files.get_mut(file).unwrap();
    assert!(text.contains(right), "{right}");
    *text = text.replacen(right, wrong, 1);
    let (before, after) = (prints(base), prints(&files));
    before.into_iter().filter(|(name, print)| after[name] != *print).map(|(name, _)| name).collect()
}

#[test]
fn what_rows_follow_from_makes_tables_anew() {
    let mut files = changed(LINES, "fact", "fact");
    let as_of = "region: { dimension: region, key: region_id, as_of: version }";
    let person = files.get_mut(PERSON).unwrap();
    *person = person.replace("region: { dimension: region, key: region_id }", as_of);
    let shrunken = "shrunken_dimension: town\nof: people.people_v1.person\nkey: city\nattributes: name\n";
    files.insert("sales/town.yaml".to_owned(), shrunken.to_owned());
    let rollup =
        "rollup: by_town\nof: order_lines\ndimensions: { town: { dimension: town, role: buyer } }\ncount: lines\n";
    files.insert(ROLLUP.to_owned(), rollup.to_owned());
    let cases: [(&str, &str, &str, &[&str]); 19] = [
        // Which days there are decides which keys there are.
        (DATE, "2030-12-31", "2031-12-31", &["sales.by_town", "sales.date", "sales.order_lines"]),
        // Keys of a shrunken dimension are made of what it is known by.
        ("sales/town.yaml", "key: city\nattributes: name", "key: [city, name]", &["sales.by_town", "sales.town"]),
        // What mentions members makes some, in the parents of the parents as well.
        (
            LINES,
            "'quantity > 0'",
            "'quantity > 1'",
            &["people.person", "sales.by_town", "sales.order_lines", "sales.town"],
        ),
        (
            REGION,
            "set: { name: title }",
            "set: { name: upper(title) }",
            &["people.person", "people.region", "sales.by_town", "sales.order_lines", "sales.town"],
        ),
        (
            PERSON,
            "as: state }",
            "as: state, where: city <> '' }",
            &["people.person", "people.region", "sales.by_town", "sales.order_lines", "sales.town"],
        ),
        // What a fact makes of its events beside, none of which is a reject for it, mentions nobody else.
        (LINES, "  quantity: { type: int }", "  quantity: { type: bigint }", &["sales.by_town", "sales.order_lines"]),
        (
            LINES,
            "measures:\n",
            "measures:\n  large: { expression: CASE WHEN quantity > 9 THEN 1 ELSE 0 END, type: bigint }\n",
            &["sales.by_town", "sales.order_lines"],
        ),
        (
            LINES,
            "grain: [order_id, line_number]",
            "grain: [line_number, order_id]",
            &["sales.by_town", "sales.order_lines"],
        ),
        // Where the amount is too long, the event is a reject.
        (
            LINES,
            "'decimal(18,2)'",
            "'decimal(12,2)'",
            &["people.person", "sales.by_town", "sales.order_lines", "sales.town"],
        ),
        // Whatever becomes of what is said of persons, the same regions are mentioned.
        (
            PERSON,
            "name: { type: string, history: overwrite }",
            "name: { type: string, history: keep }",
            &["people.person", "sales.by_town", "sales.order_lines", "sales.town"],
        ),
        // A list of one type of events is that type.
        (LINES, "event: order_placed", "event: [order_placed]", &[]),
        // Words change nothing, wherever they stand.
        (PERSON, "key: person_id", "key: person_id\ndescription: Who", &[]),
        (LINES, "quantity: { type: int }", "quantity: { type: int, description: Pieces }", &[]),
        (ROLLUP, "rollup: by_town", "rollup: by_town\ndescription: Towns", &[]),
        (
            LINES,
            "'quantity * price'",
            "'price * quantity'",
            &["people.person", "sales.by_town", "sales.order_lines", "sales.town"],
        ),
        // Fields and steps that no model reads.
        (ORDERS, "weight: { type: double }", "weight: { type: double }\n          note: { type: string }", &[]),
        (ORDERS, "paid: { type: bool }", "paid: { type: string }", &[]),
        (ORDERS, "value: EUR", "value: USD", &[]),
        // A field of an older version that leads to one that is read.
        (
            ORDERS,
            "qty: { type: string }",
            "qty: { path: pieces, type: string }",
            &["people.person", "sales.by_town", "sales.order_lines", "sales.town"],
        ),
    ];
    for (file, right, wrong, expected) in cases {
        assert_eq!(made_anew(&files, file, right, wrong), expected, "{wrong}");
    }
}

/// Rows that are staged for the mentions of a dimension are those of the fact's own table.
#[test]
fn what_mentions_members_has_its_fingerprint() {
    let models = check(&changed(LINES, "fact", "fact")).unwrap_or_else(|problems| panic!("{problems:?}"));
    let mut mentions = 0;
    for model in &models.models {
        let Model::Dimension(dimension) = model else { continue };
        for by in &dimension.mentions {
            let built = models.models.iter().find(|model| model.name() == by.name()).unwrap();
            assert_eq!(by.fingerprint(), built.fingerprint(), "{} in {}", by.name(), dimension.name);
            mentions += 1;
        }
    }
    assert_eq!(mentions, 2);
}

#[test]
fn a_column_called_description_is_no_words() {
    for (of, key, value, expected) in [
        ("", "description", serde_json::json!("Who"), true),
        ("quantity", "description", serde_json::json!("Pieces"), true),
        ("fields", "description", serde_json::Value::Null, true),
        ("attributes", "description", serde_json::json!({ "type": "string" }), false),
        ("set", "description", serde_json::json!("upper(title)"), false),
        ("by", "description", serde_json::json!("product.title"), false),
        ("rules", "description", serde_json::json!("quantity > 0"), false),
        ("attributes", "name", serde_json::json!("x"), false),
    ] {
        assert_eq!(is_words(of, key, &value), expected, "{of}.{key}: {value}");
    }
}

#[test]
fn keys_follow_from_the_types_of_those_they_point_to() {
    let mut files = changed(LINES, "fact", "fact");
    let flags = "dimension: flags\njunk: { sku: string, quantity: int }\ninferred_from: [sales.order_lines]\n";
    files.insert("sales/flags.yaml".to_owned(), flags.to_owned());
    let lines = files.get_mut(LINES).unwrap();
    *lines = lines.replace("dimensions:\n", "dimensions:\n  flags: { dimension: flags, key: [sku, quantity] }\n");
    let anew = made_anew(&files, "sales/flags.yaml", "quantity: int", "quantity: bigint");
    // No line is a reject for it, so the same persons are mentioned.
    assert_eq!(anew, ["sales.flags", "sales.order_lines"]);
    // Who mentions persons may be rejected by what its other keys are.
    let fails = "key: [sku, '10 / quantity']";
    let anew = made_anew(&files, LINES, "key: [sku, quantity]", fails);
    assert_eq!(anew, ["people.person", "sales.flags", "sales.order_lines"]);
    // Keys of combinations are made otherwise than those of members.
    let junk = "junk: { sku: string, quantity: int }\n";
    let seen = "key: [sku, quantity]\nfrom: [{ stream: orders, event: order_placed, as: patch, key: { sku: order_id, quantity: \"1\" }, set: { note: order_id } }]\n\
                attributes: { note: { type: string } }\n";
    let anew = made_anew(&files, "sales/flags.yaml", junk, seen);
    assert!(anew.contains(&"sales.order_lines".to_owned()), "{anew:?}");
    let people = files.get_mut(PEOPLE).unwrap();
    *people = people.replace("region_id: { type: string }", "region_id: { type: int }");
    let region = "region_id: { type: int }\n          title";
    let anew = made_anew(&files, PEOPLE, region, &region.replace("int", "bigint"));
    assert_eq!(anew, ["people.person", "people.region", "sales.order_lines"]);
    // What is beside payloads comes into them, for whoever has a path to all of one.
    let beside = "weight: { path: $key, type: double }";
    assert_eq!(
        made_anew(&files, ORDERS, "weight: { type: double }", beside),
        ["people.person", "sales.flags", "sales.order_lines"]
    );
}
