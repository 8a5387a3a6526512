//! Random histories: few members, few instants and few ids, so that everything that can collide does.
//!
//! A history is a list of events (with copies that differ, fields that do not fit and lines that are no events),
//! in any order, spread over source partitions, cut into batches with builds, deaths and restarts in between.

use std::collections::BTreeMap;
use std::fmt;

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// A line as it lands, and where.
#[derive(Clone, Debug)]
pub(crate) struct Landed {
    pub(crate) stream: &'static str,
    pub(crate) source: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) partition: i32,
    pub(crate) position: i64,
    pub(crate) payload: Vec<u8>,
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Land(Vec<Landed>),
    Build,
    /// A build that dies after so many pauses.
    Dying(u32),
    Restart,
}

/// What happens to a warehouse.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// How many buckets dimensions have, as a power of two.
    pub(crate) bucket_bits: u32,
    /// Files of buckets are small with fewer rows.
    pub(crate) small_file: u32,
    pub(crate) steps: Vec<Step>,
}

/// Some are equal (an offset), some are one microsecond or one millisecond apart, some lie outside the calendar; clocks that are
/// wrong say the first instant that there is, or a day that nobody has seen yet.
const INSTANTS: [&str; 12] = [
    "2024-01-02T12:00:00Z",
    "2023-12-31T23:59:59.999999Z",
    "2024-01-01T00:00:00Z",
    "2024-01-01T01:00:00+01:00",
    "2024-01-01T00:00:00.000001Z",
    "2024-01-02T12:00:00.000999Z",
    "2024-01-02T12:00:00.001Z",
    "2024-01-03T08:30:00Z",
    "2024-01-04T00:00:00Z",
    "2024-01-06T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "2187-05-04T03:02:01Z",
];

/// Source partitions: source, topic, partition.
const PARTITIONS: [(&str, &str, i32); 4] =
    [("kafka", "events", 0), ("kafka", "events", 1), ("files", "day.jsonl", 0), ("http", "run-1", 0)];

/// Lines that are no events.
const BROKEN: [&[u8]; 5] =
    [br#"{"id":"e1","type":"#, b"", b"17", b"\xff\xfe", br#"{"id":"e1","at":"2024-01-01T00:00:00Z"}"#];

/// Stream, event type, how often.
const KINDS: [(&str, &str, usize); 14] = [
    ("people", "person_seen", 5),
    ("people", "person_changed", 5),
    ("people", "person_left", 3),
    ("people", "noise", 1),
    ("orders", "buyer_moved", 2),
    ("orders", "order_placed", 9),
    ("places", "region_named", 2),
    ("places", "region_changed", 2),
    ("places", "region_gone", 1),
    ("places", "shop_opened", 1),
    ("places", "shop_renamed", 1),
    ("goods", "product_listed", 2),
    ("goods", "product_priced", 1),
    ("goods", "noise", 1),
];

/// Values of a field, as JSON arrays.
struct Pool {
    usual: &'static str,
    odd: &'static str,
    /// Of a hundred, how many leave the field out, say null, say something odd.
    absent: u32,
    null: u32,
    strange: u32,
}

const fn pool(usual: &'static str, odd: &'static str) -> Pool {
    Pool { usual, odd, absent: 25, null: 12, strange: 3 }
}

const fn key(usual: &'static str, odd: &'static str) -> Pool {
    Pool { usual, odd, absent: 3, null: 3, strange: 2 }
}

const CUSTOMER: Pool = key(r#"["c1","c1","c2","c3"]"#, r#"[{},4]"#);
const REGION_KEY: Pool = key(r#"["r1","r1","r2"]"#, r#"[[],5]"#);
const REGION: Pool = pool(r#"["r1","r2","r3"]"#, r#"[{}]"#);
/// Some are names of other regions.
const REGION_NAME: Pool = pool(r#"["r1","r2","r1","bob"]"#, r#"[12,true,{}]"#);
const SHOP_KEY: Pool = key(r#"["s1","s2"]"#, r#"[{}]"#);
const PRODUCT_KEY: Pool = key(r#"[1,1,2,"3"]"#, r#"["x",2.5]"#);
const ORDER: Pool = key(r#"["o1","o2",3]"#, r#"[{}]"#);
const NAME: Pool = pool(r#"["ann","bob"]"#, r#"[12,true,{}]"#);
const CITY: Pool = pool(r#"["rome","oslo","bern"]"#, r#"[{},["x"]]"#);
const TOWN: Pool = pool(r#"["rome/web","oslo","bern/ shop/2","/web"]"#, r#"[{},["x"]]"#);
const SCORE: Pool = pool(r#"[1,5,6,9,"7"]"#, r#"["x",3000000000,2.5,true,[]]"#);
const CHANNEL: Pool = pool(r#"["web","shop"]"#, r#"[{}]"#);
const TIER: Pool = pool(r#"["gold","plain"]"#, r#"[[]]"#);
const CLIMATE: Pool = pool(r#"["wet","dry"]"#, r#"[{}]"#);
const TITLE: Pool = pool(r#"["Pear","Fig"]"#, r#"[{}]"#);
const PRICE: Pool = pool(r#"["1.50",2,2.25,"-0.5"]"#, r#"["3.141","x",true]"#);
const VIA: Pool = pool(r#"["Web","SHOP"]"#, r#"[{}]"#);
const DUE: Pool = pool(r#"["2024-01-02","2024-01-05","2031-01-01"]"#, r#"["soon",20240102]"#);
const PRODUCT: Pool = Pool { usual: r#"["1","2","3",1,"9"]"#, odd: r#"["x",{}]"#, absent: 5, null: 5, strange: 3 };
const QUANTITY: Pool = Pool {
    usual: r#"[1,2,3,5,"4",0,-1,200]"#,
    odd: r#"[7,7,13,13,"x",5000000000,{}]"#,
    absent: 4,
    null: 4,
    strange: 7,
};

/// The fields of a version of an event: paths and values.
fn fields(kind: &str, version: i32) -> Vec<(&'static str, Pool)> {
    match (kind, version) {
        ("person_seen", 1) => vec![
            ("who.nr", CUSTOMER),
            ("name", NAME),
            ("town", TOWN),
            ("score", SCORE),
            ("region", REGION),
            ("channel", CHANNEL),
        ],
        ("person_seen", _) => vec![
            ("who.nr", CUSTOMER),
            ("name", NAME),
            ("city", CITY),
            ("score", SCORE),
            ("region", REGION),
            ("channel", CHANNEL),
            ("tier", TIER),
        ],
        ("person_changed", 1) => vec![("who.nr", CUSTOMER), ("name", NAME), ("city", CITY), ("points", SCORE)],
        ("person_changed", _) => vec![
            ("who.nr", CUSTOMER),
            ("full_name", NAME),
            ("city", CITY),
            ("score", SCORE),
            ("region", REGION),
            ("channel", CHANNEL),
        ],
        ("person_left", _) => vec![("who.nr", CUSTOMER)],
        ("buyer_moved", _) => vec![("order.buyer", CUSTOMER), ("city", CITY)],
        ("region_named" | "region_changed", _) => {
            vec![("region_id", REGION_KEY), ("name", REGION_NAME), ("climate", CLIMATE)]
        }
        ("region_gone", _) => vec![("region_id", REGION_KEY)],
        ("shop_opened" | "shop_renamed", _) => vec![("shop_id", SHOP_KEY), ("title", TITLE)],
        ("product_listed" | "product_priced", _) => {
            vec![("product_id", PRODUCT_KEY), ("title", TITLE), ("price", PRICE)]
        }
        ("order_placed", 1) => vec![
            ("order.no", ORDER),
            ("order.client", CUSTOMER),
            ("order.guarantor", pool(CUSTOMER.usual, CUSTOMER.odd)),
            ("via", VIA),
            ("ship_to", REGION),
            ("shop", SHOP_KEY),
        ],
        ("order_placed", _) => vec![
            ("order.no", ORDER),
            ("order.buyer", CUSTOMER),
            ("order.payer", CUSTOMER),
            ("due", DUE),
            ("channel", CHANNEL),
            ("ship_to", REGION),
            ("shop", SHOP_KEY),
        ],
        _ => vec![("who.nr", CUSTOMER)],
    }
}

/// Makes events.
struct Maker {
    random: Rng,
    instants: Vec<&'static str>,
    /// How many ids each stream has used.
    ids: BTreeMap<&'static str, u32>,
}

type Object = Map<String, Value>;

fn say(object: &mut Object, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            object.insert(path.to_owned(), value);
        }
        Some((outer, inner)) => {
            let inside = object.entry(outer).or_insert_with(|| json!({}));
            if let Some(inside) = inside.as_object_mut() {
                say(inside, inner, value);
            }
        }
    }
}

impl Maker {
    fn one_in(&mut self, count: u32) -> bool {
        self.random.u32(..count) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.random.usize(..from.len())]
    }

    fn value(&mut self, pool: &Pool) -> Option<Value> {
        let values = |text: &str| -> Vec<Value> { serde_json::from_str(text).expect("pools are JSON arrays") };
        let drawn = self.random.u32(..100);
        if drawn < pool.absent {
            return None;
        }
        if drawn < pool.absent + pool.null {
            return Some(Value::Null);
        }
        let strange = drawn < pool.absent + pool.null + pool.strange;
        let values = values(if strange { pool.odd } else { pool.usual });
        Some(self.pick(&values).clone())
    }

    fn fill(&mut self, object: &mut Object, fields: &[(&str, Pool)]) {
        for (path, pool) in fields {
            if let Some(value) = self.value(pool) {
                say(object, path, value);
            }
        }
    }

    fn lines(&mut self, object: &mut Object, version: i32) {
        let lines = match self.random.u32(..40) {
            0 => return,
            1 => Value::Null,
            2 => json!({}),
            3 => json!(["oops"]),
            _ => {
                let fields = match version {
                    1 => [("sku", PRODUCT), ("qty", QUANTITY), ("price", PRICE)],
                    _ => [("product", PRODUCT), ("quantity", QUANTITY), ("price", PRICE)],
                };
                let count = self.random.usize(..4);
                let line = |_| {
                    let mut line = Object::new();
                    self.fill(&mut line, &fields);
                    Value::Object(line)
                };
                (0..count).map(line).collect()
            }
        };
        say(object, "order.lines", lines);
    }

    fn event(&mut self, stream: Option<&'static str>) -> (&'static str, Object) {
        let kinds = KINDS.iter().filter(|(of, ..)| stream.is_none_or(|stream| stream == *of));
        let often: Vec<(&'static str, &'static str)> =
            kinds.flat_map(|&(stream, kind, count)| std::iter::repeat_n((stream, kind), count)).collect();
        let (stream, kind) = *self.pick(&often);
        let mut object = Object::new();
        let next = self.ids.entry(stream).or_default();
        *next += 1;
        let id = *next;
        match self.random.u32(..20) {
            0 => {}
            1 => say(&mut object, "id", json!(id)),
            _ => say(&mut object, "id", json!(format!("e{id}"))),
        }
        say(&mut object, "type", json!(kind));
        let instants = self.instants.clone();
        say(&mut object, "at", json!(*self.pick(&instants)));
        let two = matches!(kind, "person_seen" | "person_changed" | "order_placed");
        let version = match self.random.u32(..25) {
            0 if two => 3,
            0 => 2,
            1..=11 if two => 1,
            _ if two => 2,
            _ => 1,
        };
        match self.random.u32(..3) {
            0 => say(&mut object, "v", json!(version.to_string())),
            1 if version == 1 => {}
            _ => say(&mut object, "v", json!(version)),
        }
        self.fill(&mut object, &fields(kind, version));
        if kind == "order_placed" {
            self.lines(&mut object, version);
        }
        match self.random.u32(..100) {
            0 => say(&mut object, "at", json!("soon")),
            1 => say(&mut object, "type", Value::Null),
            2 => say(&mut object, "v", json!(0)),
            _ => {}
        }
        (stream, object)
    }

    /// A copy of `object`: the same, at another time, or saying something else altogether.
    fn copy(&mut self, stream: &'static str, object: &Object) -> Object {
        let mut copy = object.clone();
        match self.random.u32(..5) {
            0 | 1 => copy,
            2 => {
                let instants = self.instants.clone();
                say(&mut copy, "at", json!(*self.pick(&instants)));
                copy
            }
            _ => {
                let (_, mut other) = self.event(Some(stream));
                match object.get("id") {
                    Some(id) => say(&mut other, "id", id.clone()),
                    None => drop(other.remove("id")),
                }
                other
            }
        }
    }

    /// Lines in the order in which things were said.
    fn said(&mut self, events: usize) -> Vec<(&'static str, Vec<u8>)> {
        let mut said = Vec::new();
        for _ in 0..events {
            let (stream, object) = self.event(None);
            let copies = if self.one_in(3) { self.random.u32(1..3) } else { 0 };
            for _ in 0..copies {
                said.push((stream, Value::Object(self.copy(stream, &object)).to_string().into_bytes()));
            }
            said.push((stream, Value::Object(object).to_string().into_bytes()));
        }
        for broken in BROKEN {
            if self.one_in(3) {
                said.push((*self.pick(&["people", "orders", "places", "goods"]), broken.to_vec()));
            }
        }
        said
    }
}

impl History {
    /// The history with this number.
    pub(crate) fn random(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        // Long ones come in single events and are seldom built, so that logs get checkpoints.
        let long = seed % 16 == 7;
        let events = if long { 110 } else { random.usize(3..40) };
        let instants = (0..random.usize(2..8)).map(|_| INSTANTS[random.usize(..INSTANTS.len())]).collect();
        let largest = if long { 1 } else { [2, 4, 12, 40][random.usize(..4)] };
        let (build, die) = if long { (4, 2) } else { (50, 15) };
        let mut maker = Maker { random: random.fork(), instants, ids: BTreeMap::new() };
        let mut said = maker.said(events);
        random.shuffle(&mut said);
        let mut positions: BTreeMap<(&str, usize), i64> = BTreeMap::new();
        let landed = said.into_iter().map(|(stream, payload)| {
            let place = random.usize(..PARTITIONS.len());
            let (source, topic, partition) = PARTITIONS[place];
            let next = positions.entry((stream, place)).or_default();
            // Offsets have gaps.
            let position = *next + random.i64(0..3);
            *next = position + 1;
            Landed { stream, source, topic, partition, position, payload }
        });
        let mut landed: Vec<Landed> = landed.collect();
        let mut steps = Vec::new();
        while !landed.is_empty() {
            let size = random.usize(1..=largest).min(landed.len());
            steps.push(Step::Land(landed.drain(..size).collect()));
            if random.u32(..100) < die {
                steps.push(Step::Dying(random.u32(..150)));
            }
            if random.u32(..100) < build {
                steps.push(Step::Build);
            }
            if random.u32(..100) < 25 {
                steps.push(Step::Restart);
            }
        }
        Self { bucket_bits: random.u32(..3), small_file: random.u32(..8), steps }
    }

    /// The batches, in the order in which they land.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &Vec<Landed>> {
        self.steps.iter().filter_map(|step| match step {
            Step::Land(rows) => Some(rows),
            _ => None,
        })
    }

    /// How many lines land.
    pub(crate) fn size(&self) -> usize {
        self.batches().map(Vec::len).sum()
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            match step {
                Step::Land(rows) => {
                    writeln!(f, "land")?;
                    for row in rows {
                        let Landed { stream, source, topic, partition, position, payload } = row;
                        let text = String::from_utf8_lossy(payload);
                        writeln!(f, "  {stream} {source}/{topic}/{partition}@{position} {text}")?;
                    }
                }
                Step::Build => writeln!(f, "build")?,
                Step::Dying(pauses) => writeln!(f, "a build that dies after {pauses} pauses")?,
                Step::Restart => writeln!(f, "restart")?,
            }
        }
        write!(f, "(models have {} buckets, small files fewer than {} rows)", 1 << self.bucket_bits, self.small_file)
    }
}
