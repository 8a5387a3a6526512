//! SQL models over the dimensions and facts, and their answers by plain loops over rows.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{NULL, Row, Tables};

pub(crate) const SQL_FILES: [&str; 13] = [
    r#"
rollup: monthly
of: order_lines
by: { city: buyer.city, payer_tier: payer.tier, month: order_date.year_month, line: line }
where: fact.quantity < 30
count: lines
"#,
    // Windows, of which each sees the orders of one shop.
    r#"
sql: ranks
select: >
  SELECT shop_key, order_no, event_id, rank() OVER (PARTITION BY shop_key ORDER BY order_no) AS place,
    count(*) OVER (PARTITION BY shop_key) AS n
  FROM orders
grain: [shop_key, event_id]
"#,
    // An aggregate over a join.
    r#"
sql: sales_by_tier
select: >
  SELECT c.tier, l.order_date_key AS day, count(*) AS lines, sum(l.quantity) AS quantity, sum(l.amount) AS amount,
    max(l.share) AS share, sum(CASE WHEN l.line = 1 THEN 0 ELSE l.amount END) AS rest
  FROM order_lines l JOIN customer c ON c.customer_key = l.buyer_key
  GROUP BY c.tier, l.order_date_key
grain: [tier, day]
"#,
    // Row by row, with a side that may be missing.
    r#"
sql: line_regions
select: >
  SELECT l.event_id, l.line, c.customer_id, r.name AS region, r.climate
  FROM order_lines l
  JOIN customer c ON c.customer_key = l.payer_key
  LEFT JOIN region r ON r.region_durable_key = c.region_durable_key AND r.is_current AND NOT r.is_deleted
  WHERE l.quantity < 20
grain: [event_id, line]
"#,
    // It aggregates twice, and keeps channels apart.
    r#"
sql: busiest
select: >
  SELECT channel, max(n) AS orders
  FROM (SELECT channel, order_no, count(*) AS n FROM sales.orders GROUP BY channel, order_no)
  GROUP BY channel
grain: channel
"#,
    // Over another SQL model.
    r#"
sql: tiers
select: SELECT tier, sum(quantity) AS quantity, count(*) AS days FROM sales_by_tier WHERE lines > 1 GROUP BY tier
grain: tier
"#,
    // A table with itself.
    r#"
sql: pairs
select: >
  SELECT a.order_no, b.order_no AS other, count(*) AS n, min(a.channel) AS channel
  FROM orders a JOIN orders b ON a.region_durable_key = b.region_durable_key AND a.order_no < b.order_no
  GROUP BY a.order_no, b.order_no
grain: [order_no, other]
"#,
    r#"
sql: places
select: SELECT DISTINCT city, tier FROM customer WHERE NOT is_deleted ORDER BY city
grain: [city, tier]
"#,
    // The other side may be missing, and groups may go.
    r#"
sql: product_sales
select: >
  SELECT p.product_id, count(l.line) AS lines, sum(l.quantity) AS quantity
  FROM order_lines l RIGHT JOIN product p ON p.product_key = l.product_key
  GROUP BY p.product_id
  HAVING count(l.line) <> 3
grain: product_id
"#,
    // Unions within each other, which have their columns by other names, beside a table.
    r#"
sql: doings
select: >
  SELECT c.customer_id, max(c.city) AS city, count(*) AS n, sum(u.m) AS quantity
  FROM (SELECT buyer_key AS done_by, quantity AS m FROM order_lines UNION ALL
    (SELECT customer_key, orders FROM orders UNION ALL
     SELECT payer_key AS payer, quantity AS q FROM order_lines WHERE quantity < 20)) u
  JOIN customer c ON c.customer_key = u.done_by
  GROUP BY c.customer_id
grain: customer_id
"#,
    // Of several values one.
    r#"
sql: wholes
select: >
  SELECT CAST(l.amount AS INT) AS whole, count(*) AS n, max(p.score) AS score
  FROM order_lines l JOIN customer p ON p.customer_key = l.payer_key
  WHERE CAST(l.amount AS INT) <> 3
  GROUP BY CAST(l.amount AS INT)
grain: whole
"#,
    // No sum of parts: each would be cut off.
    r#"
sql: rests
select: >
  SELECT order_no, CAST(sum(CASE WHEN line = 1 THEN 0 ELSE amount END) AS BIGINT) AS rest
  FROM order_lines GROUP BY order_no
grain: order_no
"#,
    // An outer join twice, of which the second one meets what the first one does not.
    r#"
sql: third
select: >
  SELECT o.order_no, count(*) AS n
  FROM orders o LEFT JOIN order_lines l ON l.order_no = o.order_no
  JOIN (SELECT CAST(l.line AS VARCHAR) AS k FROM orders o LEFT JOIN order_lines l ON l.order_no = o.order_no) u
    ON u.k = o.order_no
  GROUP BY o.order_no
grain: order_no
"#,
];

/// Adds the answers to `tables`, which have everything else.
pub(crate) fn answer(tables: &mut Tables) {
    let of = |name: &str| tables[&format!("sales.{name}")].clone();
    let (lines, orders, customers, regions) = (of("order_lines"), of("orders"), of("customer"), of("region"));
    let products = of("product");
    let mut answers: Vec<(&str, Vec<Row>)> = Vec::new();

    let mut tiers: BTreeMap<(String, String), Vec<&Row>> = BTreeMap::new();
    for line in &lines {
        for customer in customers.iter().filter(|customer| customer["customer_key"] == line["buyer_key"]) {
            tiers.entry((customer["tier"].clone(), line["order_date_key"].clone())).or_default().push(line);
        }
    }
    let sales = tiers.into_iter().map(|((tier, day), lines)| {
        let share = lines.iter().filter_map(|line| number(line, "share")).max();
        let rest = lines.iter().filter_map(|line| if line["line"] == "1" { Some(0) } else { number(line, "amount") });
        let rest = rest.reduce(|a, b| a + b);
        row([
            ("tier", tier),
            ("day", day),
            ("lines", lines.len().to_string()),
            ("quantity", shown(summed(&lines, "quantity"))),
            ("amount", summed(&lines, "amount").map_or(NULL.to_owned(), hundredths)),
            ("share", shown(share)),
            ("rest", rest.map_or(NULL.to_owned(), hundredths)),
        ])
    });
    let sales: Vec<Row> = sales.collect();

    let mut by_tier: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in sales.iter().filter(|row| number(row, "lines") > Some(1)) {
        by_tier.entry(row["tier"].clone()).or_default().push(row);
    }
    let tiers = by_tier.into_iter().map(|(tier, rows)| {
        row([("tier", tier), ("quantity", shown(summed(&rows, "quantity"))), ("days", rows.len().to_string())])
    });
    answers.push(("tiers", tiers.collect()));
    answers.push(("sales_by_tier", sales));

    let mut months: BTreeMap<[String; 4], Vec<&Row>> = BTreeMap::new();
    for line in lines.iter().filter(|line| number(line, "quantity").is_some_and(|quantity| quantity < 30)) {
        let of = |role: &str, attribute: &str| {
            let customer = customers.iter().find(|customer| customer["customer_key"] == line[&format!("{role}_key")]);
            customer.expect("a line has its customers")[attribute].clone()
        };
        let month = match line["order_date_key"].as_str() {
            "0" => NULL.to_owned(),
            day => format!("{}-{}", &day[..4], &day[4..6]),
        };
        let group = [of("buyer", "city"), of("payer", "tier"), month, line["line"].clone()];
        months.entry(group).or_default().push(line);
    }
    let months = months.into_iter().map(|([city, tier, month, line], lines)| {
        row([
            ("city", city),
            ("payer_tier", tier),
            ("month", month),
            ("line", line),
            ("lines", lines.len().to_string()),
            ("quantity", shown(summed(&lines, "quantity"))),
            ("amount", summed(&lines, "amount").map_or(NULL.to_owned(), hundredths)),
        ])
    });
    answers.push(("monthly", months.collect()));

    let mut line_regions = Vec::new();
    for line in lines.iter().filter(|line| number(line, "quantity").is_some_and(|quantity| quantity < 20)) {
        for customer in customers.iter().filter(|customer| customer["customer_key"] == line["payer_key"]) {
            let is = |region: &&Row, column: &str| region[column] == "true";
            let mut found: Vec<Option<&Row>> = regions
                .iter()
                .filter(|region| region["region_durable_key"] == customer["region_durable_key"])
                .filter(|region| is(region, "is_current") && !is(region, "is_deleted"))
                .map(Some)
                .collect();
            if found.is_empty() {
                found.push(None);
            }
            for region in found {
                let said = |column: &str| region.map_or(NULL.to_owned(), |region| region[column].clone());
                line_regions.push(row([
                    ("event_id", line["event_id"].clone()),
                    ("line", line["line"].clone()),
                    ("customer_id", customer["customer_id"].clone()),
                    ("region", said("name")),
                    ("climate", said("climate")),
                ]));
            }
        }
    }
    answers.push(("line_regions", line_regions));

    let mut counts: BTreeMap<(&String, &String), usize> = BTreeMap::new();
    orders.iter().for_each(|order| *counts.entry((&order["channel"], &order["order_no"])).or_default() += 1);
    let mut busiest: BTreeMap<&String, usize> = BTreeMap::new();
    for ((channel, _), count) in counts {
        let most = busiest.entry(channel).or_default();
        *most = count.max(*most);
    }
    let busiest =
        busiest.into_iter().map(|(channel, n)| row([("channel", channel.clone()), ("orders", n.to_string())]));
    answers.push(("busiest", busiest.collect()));

    let mut pairs: BTreeMap<(&String, &String), Vec<&Row>> = BTreeMap::new();
    for a in &orders {
        for b in &orders {
            if a["region_durable_key"] == b["region_durable_key"] && a["order_no"] < b["order_no"] {
                pairs.entry((&a["order_no"], &b["order_no"])).or_default().push(a);
            }
        }
    }
    let pairs = pairs.into_iter().map(|((a, b), rows)| {
        let channel = rows.iter().map(|row| &row["channel"]).filter(|channel| *channel != NULL).min();
        row([
            ("order_no", a.clone()),
            ("other", b.clone()),
            ("n", rows.len().to_string()),
            ("channel", channel.map_or(NULL.to_owned(), Clone::clone)),
        ])
    });
    answers.push(("pairs", pairs.collect()));

    let mut ranks = Vec::new();
    for order in &orders {
        let of_shop = || orders.iter().filter(|other| other["shop_key"] == order["shop_key"]);
        let before = of_shop().filter(|other| comes_before(&other["order_no"], &order["order_no"])).count();
        ranks.push(row([
            ("shop_key", order["shop_key"].clone()),
            ("order_no", order["order_no"].clone()),
            ("event_id", order["event_id"].clone()),
            ("place", (before + 1).to_string()),
            ("n", of_shop().count().to_string()),
        ]));
    }
    answers.push(("ranks", ranks));

    let living = customers.iter().filter(|customer| customer["is_deleted"] == "false");
    let places: BTreeSet<_> = living.map(|customer| (customer["city"].clone(), customer["tier"].clone())).collect();
    answers.push(("places", places.into_iter().map(|(city, tier)| row([("city", city), ("tier", tier)])).collect()));

    let mut sold: BTreeMap<&String, Vec<&Row>> = BTreeMap::new();
    for product in &products {
        let lines = lines.iter().filter(|line| line["product_key"] == product["product_key"]);
        sold.entry(&product["product_id"]).or_default().extend(lines);
    }
    let sold = sold.into_iter().filter(|(_, lines)| lines.len() != 3).map(|(product, lines)| {
        row([
            ("product_id", product.clone()),
            ("lines", lines.len().to_string()),
            ("quantity", shown(summed(&lines, "quantity"))),
        ])
    });
    answers.push(("product_sales", sold.collect()));

    let lines_of = |order: &Row| lines.iter().filter(|line| line["order_no"] == order["order_no"]).collect::<Vec<_>>();
    let mut third: BTreeMap<&String, usize> = BTreeMap::new();
    for order in &orders {
        let met = orders.iter().flat_map(lines_of).filter(|line| line["line"] == order["order_no"]).count();
        *third.entry(&order["order_no"]).or_default() += lines_of(order).len().max(1) * met;
    }
    let third = third.into_iter().filter(|(_, n)| *n > 0);
    let third = third.map(|(order, n)| row([("order_no", order.clone()), ("n", n.to_string())]));
    answers.push(("third", third.collect()));

    let mut wholes: BTreeMap<i64, (usize, Option<i64>)> = BTreeMap::new();
    for line in &lines {
        let Some(whole) = number(line, "amount").map(|amount| amount / 100).filter(|whole| *whole != 3) else {
            continue;
        };
        for payer in customers.iter().filter(|customer| customer["customer_key"] == line["payer_key"]) {
            let (n, score) = wholes.entry(whole).or_default();
            (*n, *score) = (*n + 1, number(payer, "score").max(*score));
        }
    }
    let wholes = wholes
        .into_iter()
        .map(|(whole, (n, score))| row([("whole", whole.to_string()), ("n", n.to_string()), ("score", shown(score))]));
    answers.push(("wholes", wholes.collect()));

    let mut rests: BTreeMap<&String, Vec<i64>> = BTreeMap::new();
    for line in &lines {
        let own = if line["line"] == "1" { Some(0) } else { number(line, "amount") };
        rests.entry(&line["order_no"]).or_default().extend(own);
    }
    let rests = rests.into_iter().map(|(order, own)| {
        let rest = own.into_iter().reduce(|a, b| a + b).map(|rest| rest / 100);
        row([("order_no", order.clone()), ("rest", shown(rest))])
    });
    answers.push(("rests", rests.collect()));

    let mut doings: BTreeMap<&String, (Option<&String>, Vec<Option<i64>>)> = BTreeMap::new();
    for customer in &customers {
        let key = &customer["customer_key"];
        let bought = lines.iter().filter(|line| line["buyer_key"] == *key);
        let ordered = orders.iter().filter(|order| order["customer_key"] == *key).map(|_| Some(1));
        let paid = lines.iter().filter(|line| line["payer_key"] == *key).map(|line| number(line, "quantity"));
        let done = bought.map(|line| number(line, "quantity")).chain(ordered);
        let done: Vec<Option<i64>> = done.chain(paid.filter(|of| of.is_some_and(|of| of < 20))).collect();
        if !done.is_empty() {
            let (city, all) = doings.entry(&customer["customer_id"]).or_default();
            *city = (*city).max(Some(&customer["city"]).filter(|city| *city != NULL));
            all.extend(done);
        }
    }
    let doings = doings.into_iter().map(|(customer, (city, done))| {
        row([
            ("customer_id", customer.clone()),
            ("city", city.map_or(NULL.to_owned(), String::clone)),
            ("n", done.len().to_string()),
            ("quantity", shown(done.into_iter().flatten().reduce(|a, b| a + b))),
        ])
    });
    answers.push(("doings", doings.collect()));

    tables.extend(answers.into_iter().map(|(name, rows)| (format!("sales.{name}"), rows)));
}

/// Nothing comes last.
fn comes_before(a: &str, b: &str) -> bool {
    a != NULL && (b == NULL || a < b)
}

pub(super) fn row<const N: usize>(cells: [(&str, String); N]) -> Row {
    cells.into_iter().map(|(column, value)| (column.to_owned(), value)).collect()
}

/// A number, of decimals in hundredths.
pub(super) fn number(row: &Row, column: &str) -> Option<i64> {
    row[column].replace('.', "").parse().ok()
}

/// The sum of those that are there; none where none is.
pub(super) fn summed(rows: &[&Row], column: &str) -> Option<i64> {
    rows.iter().filter_map(|row| number(row, column)).reduce(|a, b| a + b)
}

pub(super) fn shown(number: Option<i64>) -> String {
    number.map_or(NULL.to_owned(), |number| number.to_string())
}

pub(super) fn hundredths(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", number.abs() / 100, number.abs() % 100)
}
