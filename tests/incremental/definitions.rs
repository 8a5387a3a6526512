//! What the histories are about: four streams, and dimensions and facts of them that use every way of defining them.
//!
//! ```text
//! people  person_seen (state, 2 versions), person_changed (patch, 2), person_left (delete) ─► customer ─► region ─► area
//! orders  buyer_moved (patch) ─────────────────────────────────────────────────────────────────┘
//!         order_placed (2 versions) ─► order_lines: buyer, payer → customer (makes members), product, two dates
//!                                   └► orders:      customer (makes none), region and shop (makes members)
//! places  region_… (state, patch, delete), shop_… (state, patch) ─► region, shop, area
//! goods   product_… (state, patch) ─► product, which accepts no references
//! ```

use std::collections::BTreeSet;
use std::sync::LazyLock;

use starmere_models::define::{ModelName, Parsed, Problem, StreamFile, parse_model_text, parse_text};
use starmere_models::resolve::{Definitions, Model, Models, resolve};

use super::derived::DERIVED_FILES;
use super::queries::SQL_FILES;

/// The domain that owns everything.
pub(crate) const DOMAIN: &str = "sales";

/// Dimensions: table, column of the surrogate key, column of the natural key.
pub(crate) const DIMENSIONS: [(&str, &str, &str); 9] = [
    ("sales.tier", "tier_key", "tier"),
    ("sales.weather", "weather_key", "climate+first"),
    ("sales.flags", "flags_key", "channel+is_first"),
    ("sales.month", "month_key", "year_month"),
    ("sales.customer", "customer_key", "customer_id"),
    ("sales.region", "region_key", "region_id"),
    ("sales.area", "area_key", "area"),
    ("sales.shop", "shop_key", "shop_id"),
    ("sales.product", "product_key", "product_id"),
];

/// Columns that hold surrogate keys: table, column, dimension.
pub(crate) const KEYS: [(&str, &str, &str); 71] = [
    ("sales.customer", "customer_key", "sales.customer"),
    ("sales.customer", "customer_durable_key", "sales.customer"),
    ("sales.customer", "region_key", "sales.region"),
    ("sales.customer", "region_durable_key", "sales.region"),
    ("sales.region", "region_key", "sales.region"),
    ("sales.region", "region_durable_key", "sales.region"),
    ("sales.region", "area_key", "sales.area"),
    ("sales.region", "area_durable_key", "sales.area"),
    ("sales.area", "area_key", "sales.area"),
    ("sales.area", "area_durable_key", "sales.area"),
    ("sales.shop", "shop_key", "sales.shop"),
    ("sales.shop", "shop_durable_key", "sales.shop"),
    ("sales.product", "product_key", "sales.product"),
    ("sales.product", "product_durable_key", "sales.product"),
    ("sales.order_lines", "buyer_key", "sales.customer"),
    ("sales.order_lines", "buyer_durable_key", "sales.customer"),
    ("sales.order_lines", "payer_key", "sales.customer"),
    ("sales.order_lines", "payer_durable_key", "sales.customer"),
    ("sales.order_lines", "product_key", "sales.product"),
    ("sales.order_lines", "product_durable_key", "sales.product"),
    ("sales.orders", "customer_key", "sales.customer"),
    ("sales.orders", "customer_durable_key", "sales.customer"),
    ("sales.orders", "region_key", "sales.region"),
    ("sales.orders", "region_durable_key", "sales.region"),
    ("sales.orders", "shop_key", "sales.shop"),
    ("sales.movements", "product_key", "sales.product"),
    ("sales.movements", "product_durable_key", "sales.product"),
    ("sales.movement_ledger", "product_key", "sales.product"),
    ("sales.movement_ledger", "product_durable_key", "sales.product"),
    ("sales.weather", "weather_key", "sales.weather"),
    ("sales.zone_weather", "zone_weather_key", "sales.weather"),
    ("sales.zone", "current_weather_key", "sales.weather"),
    ("sales.flags", "flags_key", "sales.flags"),
    ("sales.flags", "flags_durable_key", "sales.flags"),
    ("sales.storms", "weather_key", "sales.weather"),
    ("sales.storms", "flags_key", "sales.flags"),
    ("sales.ranks", "shop_key", "sales.shop"),
    ("sales.daily", "buyer_key", "sales.customer"),
    ("sales.by_watch", "buyer_durable_key", "sales.customer"),
    ("sales.by_watch", "buyer_key", "sales.customer"),
    ("sales.daily", "buyer_durable_key", "sales.customer"),
    ("sales.priced_lines", "buyer_key", "sales.customer"),
    ("sales.progress", "customer_key", "sales.customer"),
    ("sales.progress", "customer_durable_key", "sales.customer"),
    ("sales.progress", "buyer_key", "sales.customer"),
    ("sales.progress", "buyer_durable_key", "sales.customer"),
    ("sales.progress", "payer_key", "sales.customer"),
    ("sales.progress", "payer_durable_key", "sales.customer"),
    ("sales.order_ledger", "customer_key", "sales.customer"),
    ("sales.order_ledger", "customer_durable_key", "sales.customer"),
    ("sales.order_ledger", "region_key", "sales.region"),
    ("sales.order_ledger", "region_durable_key", "sales.region"),
    ("sales.order_ledger", "shop_key", "sales.shop"),
    ("sales.order_buyers", "buyer_key", "sales.customer"),
    ("sales.order_buyers", "buyer_durable_key", "sales.customer"),
    ("sales.tier", "tier_key", "sales.tier"),
    ("sales.month", "month_key", "sales.month"),
    ("sales.tiers_by_day", "tier_key", "sales.tier"),
    ("sales.tiers_by_day", "month_key", "sales.month"),
    ("sales.line_shares", "buyer_key", "sales.customer"),
    ("sales.line_shares", "buyer_durable_key", "sales.customer"),
    ("sales.line_shares", "payer_key", "sales.customer"),
    ("sales.line_shares", "payer_durable_key", "sales.customer"),
    ("sales.line_shares", "product_key", "sales.product"),
    ("sales.line_shares", "product_durable_key", "sales.product"),
    ("sales.priced_orders", "buyer_key", "sales.customer"),
    ("sales.priced_orders", "buyer_durable_key", "sales.customer"),
    ("sales.priced_orders", "payer_key", "sales.customer"),
    ("sales.priced_orders", "payer_durable_key", "sales.customer"),
    ("sales.priced_orders", "product_key", "sales.product"),
    ("sales.priced_orders", "product_durable_key", "sales.product"),
];

const STREAMS: [&str; 4] = [
    r#"
stream: people
domain: sales
envelope: { id: id, type: type, version: v, time: at }
events:
  person_seen:
    versions:
      1:
        fields:
          nr:      { path: who.nr, type: string }
          name:    { type: string }
          town:    { type: string }
          score:   { type: string }
          region:  { type: string }
          channel: { type: string }
      2:
        fields:
          customer_id: { path: who.nr, type: string }
          name:        { type: string }
          city:        { type: string }
          score:       { type: bigint }
          region_id:   { path: region, type: string }
          channel:     { type: string }
          tier:        { type: string }
        from_previous:
          - merge: { fields: [name, score], into: name, with: "-" }
          - split: { field: town, on: "/", into: [city, channel] }
          - rename: { from: nr, to: customer_id }
          - default: { field: city, value: Nowhere }
          - rename: { from: region, to: region_id }
          - cast: { field: score, type: bigint }
          - sql: { field: tier, expression: "CASE WHEN score > 5 THEN 'gold' WHEN score <= 5 THEN 'plain' END" }
  person_changed:
    versions:
      1:
        fields:
          customer_id: { path: who.nr, type: string }
          name:        { type: string }
          city:        { type: string }
          points:      { type: string }
      2:
        fields:
          customer_id: { path: who.nr, type: string }
          full_name:   { type: string }
          city:        { type: string }
          score:       { type: int }
          region_id:   { path: region, type: string }
          channel:     { type: string }
        from_previous:
          - rename: { from: name, to: full_name }
          - rename: { from: points, to: score }
          - cast: { field: score, type: int }
          - default: { field: channel, value: web }
  person_left:
    versions:
      1:
        fields:
          who: { path: who.nr, type: string }
"#,
    r#"
stream: orders
domain: sales
envelope: { id: id, type: type, version: v, time: at }
events:
  buyer_moved:
    versions:
      1:
        fields:
          buyer: { path: order.buyer, type: string }
          city:  { type: string }
  order_placed:
    versions:
      1:
        fields:
          order_no:  { path: order.no, type: string, required: true }
          client:    { path: order.client, type: string }
          guarantor: { path: order.guarantor, type: string }
          via:       { type: string }
          ship_to:   { type: string }
          shop_id:   { path: shop, type: string }
          lines:
            path: order.lines
            each:
              sku:   { type: string }
              qty:   { type: string }
              price: { type: "decimal(9,2)" }
      2:
        fields:
          order_no: { path: order.no, type: string, required: true }
          buyer:    { path: order.buyer, type: string }
          payer:    { path: order.payer, type: string }
          due_on:   { path: due, type: date }
          channel:  { type: string }
          ship_to:  { type: string }
          shop_id:  { path: shop, type: string }
          lines:
            path: order.lines
            each:
              product_id: { path: product, type: string }
              quantity:   { type: int }
              price:      { type: "decimal(9,2)" }
        from_previous:
          - rename: { from: client, to: buyer }
          - sql: { field: payer, expression: "coalesce(guarantor, buyer)" }
          - default: { field: due_on, value: "2024-01-03" }
          - map_values: { field: via, values: { Web: web, SHOP: shop } }
          - rename: { from: via, to: channel }
          - drop: { field: ship_to }
          - default: { field: ship_to, value: r3 }
          - rename: { from: lines.sku, to: lines.product_id }
          - rename: { from: lines.qty, to: lines.quantity }
          - cast: { field: lines.quantity, type: int }
          - default: { field: lines.price, value: "1.50" }
"#,
    r#"
stream: places
domain: sales
envelope: { id: id, type: type, version: v, time: at }
events:
  region_named:
    versions:
      1:
        fields:
          region_id: { type: string, required: true }
          name:      { type: string }
          climate:   { type: string }
  region_changed:
    versions:
      1:
        fields:
          region_id: { type: string }
          name:      { type: string }
          climate:   { type: string }
  region_gone:
    versions:
      1:
        fields:
          region_id: { type: string }
  shop_opened:
    versions:
      1:
        fields:
          shop_id: { type: string }
          title:   { type: string }
  shop_renamed:
    versions:
      1:
        fields:
          shop_id: { type: string }
          title:   { type: string }
"#,
    r#"
stream: goods
domain: sales
envelope: { id: id, type: type, version: v, time: at }
events:
  product_listed:
    versions:
      1:
        fields:
          product_id: { type: bigint }
          title:      { type: string }
          price:      { type: "decimal(9,2)" }
  product_priced:
    versions:
      1:
        fields:
          product_id: { type: bigint }
          title:      { type: string }
          price:      { type: "decimal(9,2)" }
"#,
];

const DIMENSION_FILES: [&str; 10] = [
    r#"
dimension: customer
key: customer_id
from:
  - { stream: people, event: person_seen, as: state, set: { full_name: "upper(name)" } }
  # Each event is of one of the two.
  - { event: person_changed, as: patch, where: score > 4, rules: { score_is_low: score < 9 } }
  - { event: person_changed, as: patch, where: "coalesce(score, 0) <= 4" }
  - { event: person_left, as: delete, key: { customer_id: who } }
  - { stream: orders, event: buyer_moved, as: patch, key: { customer_id: buyer } }
attributes:
  full_name: { type: string, history: overwrite }
  city:      { type: string, history: [version, current, previous, original] }
  score:     { type: int, history: version }
  channel:   { type: string, history: keep }
  tier:      { type: string, history: version }
references:
  region: { dimension: region, key: region_id, as_of: version }
inferred_from: [sales.order_lines]
members: { unknown: plain }
"#,
    r#"
dimension: region
key: region_id
from:
  - { stream: places, event: region_named, as: state, set: { first_name: name } }
  - { event: region_changed, as: patch, set: { first_name: name } }
  - { event: region_gone, as: delete }
attributes:
  name:       { type: string, history: [overwrite, previous] }
  first_name: { type: string, history: keep }
  climate:    { type: string, history: version }
references:
  area: { dimension: area, key: name, as_of: version }
inferred_from: [sales.customer, sales.orders]
"#,
    // Above regions, of which it has the names.
    r#"
dimension: area
key: area
from:
  - { stream: places, event: region_changed, as: patch, key: { area: region_id } }
  - { event: region_gone, as: delete, key: { area: region_id } }
attributes:
  climate: { type: string, history: version }
inferred_from: [sales.region]
"#,
    r#"
dimension: shop
key: shop_id
from:
  - { stream: places, event: shop_opened, as: state, set: { opened_as: title } }
  - { event: shop_renamed, as: patch, set: { opened_as: title } }
attributes:
  title:     { type: string, history: previous }
  opened_as: { type: string, history: keep }
inferred_from: [sales.orders]
"#,
    r#"
dimension: product
key: product_id
from:
  - { stream: goods, event: product_listed, as: state, where: product_id > 2 }
  - { event: [product_listed], as: state, where: "NOT coalesce(product_id > 2, false)" }
  - { event: product_priced, as: patch }
attributes:
  title: { type: string }
  price: { type: "decimal(9,2)" }
members: { unknown: Somebody, not_applicable: Nothing, error: Wrong }
"#,
    r#"
dimension: zone
key: region_id
from:
  - { stream: places, event: region_named, as: state, set: { first: name } }
  - { event: region_changed, as: patch, set: { first: name } }
  - { event: region_gone, as: delete }
attributes:
  name:    { type: string }
  climate: { type: string }
  first:   { type: string }
mini: { weather: [climate, first] }
"#,
    r#"
dimension: flags
junk: { channel: string, is_first: bool }
inferred_from: [sales.storms]
"#,
    r#"
dimension: hour
time_of_day: { every: hour }
"#,
    r#"
dimension: size
bands: { of: int, names: { small: 4, medium: 12, large: } }
"#,
    r#"
dimension: date
calendar: { from: "2024-01-01", to: "2024-01-05" }
"#,
];

const FACT_FILES: [&str; 4] = [
    r#"
fact: order_lines
from: { stream: orders, event: order_placed, each: lines }
where: "100 / (quantity - 7) <> 0 AND quantity > 0"
grain: [event_id, line]
dimensions:
  buyer:      { dimension: customer, key: buyer }
  payer:      { dimension: customer, key: payer }
  product:    { dimension: product, key: "CAST(product_id AS BIGINT)" }
  order_date: { dimension: date, key: "CAST(occurred_at AS DATE)" }
  due_date:   { dimension: date, key: due_on }
degenerate:
  order_no: { description: The order's number }
  line:     { expression: ordinal, type: int }
measures:
  quantity: { type: int }
  amount:   { expression: "quantity * price", type: "decimal(18,2)" }
  share:    { expression: "100 / (quantity - 13)", type: int, additive: none }
"#,
    r#"
fact: orders
from: { stream: orders, event: order_placed }
grain: event_id
dimensions:
  customer: { dimension: customer, key: buyer }
  region:   { dimension: region, key: ship_to }
  shop:     { dimension: shop, key: shop_id }
  placed:   { dimension: date, key: "CAST(occurred_at AS DATE)" }
degenerate:
  order_no: { description: The order's number }
  channel:  { description: Where it was placed }
measures:
  orders: { expression: "1", type: int }
  fee: { expression: "CASE WHEN channel = 'web' THEN 1.01 ELSE -0.05 END", type: "decimal(9,2)" }
"#,
    // Of two streams.
    r#"
fact: movements
from:
  - stream: orders
    event: order_placed
    each: lines
    where: quantity > 2
    rules: { not_too_many: quantity < 200 }
  - stream: goods
    event: product_priced
    set: { order_no: "NULL", what: "'priced'", quantity: "NULL", size: "NULL", product: product_id }
    rules: { costs_something: price > 0 }
where: ordinal < 5
grain: [event_stream, event_id, line]
dimensions:
  product:
    dimension: product
    key: CAST(product_id AS BIGINT)
    not_applicable: product_id IS NULL
    error: ordinal = 3
  size: { dimension: size, key: quantity }
degenerate:
  order_no: {}
  line: { expression: ordinal, type: int }
  what: { expression: "'ordered'" }
measures:
  quantity: { type: int }
  price: { additive: none }
audit: true
"#,
    // No measures; dimensions of every other kind.
    r#"
fact: storms
from: { stream: orders, event: order_placed }
grain: event_id
dimensions:
  weather: { dimension: weather, key: ship_to }
  flags: { dimension: flags, key: [channel, order_no = 'o1'] }
  hour: { dimension: hour, key: occurred_at }
"#,
];

/// The models, resolved once.
pub(crate) fn models() -> &'static Models {
    static MODELS: LazyLock<Models> = LazyLock::new(|| match resolve(&definitions()) {
        Ok(models) => models,
        Err(problems) => panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
    });
    &MODELS
}

/// All facts and dimensions, and a part of what is made of them: the parts together are all.
pub(crate) fn part(number: u64) -> &'static Models {
    const PARTS: usize = 8;
    static MODELS: LazyLock<Vec<Models>> = LazyLock::new(|| {
        let all = models();
        let part = |part: usize| {
            let is_made = |model: &Model| matches!(model, Model::Sql(_));
            let of_part =
                all.models.iter().enumerate().filter(|(place, model)| !is_made(model) || place % PARTS == part);
            let mut wanted: BTreeSet<&ModelName> = of_part.map(|(_, model)| model.name()).collect();
            // What they are made of, and what their keys point to.
            loop {
                let points_to = |model: &Model| -> Vec<&str> {
                    let table = model.name().to_string();
                    KEYS.iter().filter(|(of, ..)| *of == table).map(|(_, _, dimension)| *dimension).collect()
                };
                let mut more = wanted.clone();
                for model in all.models.iter().filter(|model| wanted.contains(model.name())) {
                    more.extend(model.inputs());
                    let dimensions = points_to(model);
                    let is_one = |other: &&Model| dimensions.contains(&other.name().to_string().as_str());
                    more.extend(all.models.iter().filter(is_one).map(Model::name));
                }
                if more.len() == wanted.len() {
                    break;
                }
                wanted = more;
            }
            let models = all.models.iter().filter(|model| wanted.contains(model.name())).cloned().collect();
            Models { streams: all.streams.clone(), models, notes: Vec::new() }
        };
        (0..PARTS).map(part).collect()
    });
    &MODELS[number as usize % PARTS]
}

fn definitions() -> Definitions {
    fn parsed<T>(parsed: Result<Parsed<T>, Problem>) -> Parsed<T> {
        parsed.unwrap_or_else(|problem| panic!("{problem}"))
    }
    let mut definitions = Definitions {
        streams: STREAMS.iter().map(|text| parsed(parse_text::<StreamFile>(text, "streams.yaml"))).collect(),
        ..Definitions::default()
    };
    for text in DIMENSION_FILES.iter().chain(&FACT_FILES).chain(&SQL_FILES).chain(&DERIVED_FILES) {
        let model = parse_model_text(text, "model.yaml").unwrap_or_else(|problem| panic!("{problem}\n{text}"));
        definitions.add(DOMAIN, model);
    }
    definitions
}
