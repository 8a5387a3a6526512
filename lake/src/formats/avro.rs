//! Avro's binary encoding, written as JSON in one pass over the bytes.
//!
//! A schema is compiled into a flat list of nodes that name each other by number, so that schemas may be recursive.
//! Values are written as people would write them: a union as its value, a decimal with all its digits, dates and
//! times as ISO 8601, bytes in base64.
//!
//! # Limits
//!
//! Data may nest [`DEPTH`] deep. A few bytes can say "a thousand million nulls", so what is written may not be larger
//! than [`most`] allows for its input. Numbers that JSON does not have are written as text: `"NaN"`, `"Infinity"`.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{InnerDecimalSchema, Name, UuidSchema};

use super::json::{base64, name as json_name, number, string};

/// How deep values may nest.
const DEPTH: u32 = 100;

/// How many bytes may be written for so many bytes of input.
fn most(input: usize) -> usize {
    input.saturating_mul(256).saturating_add(1 << 16).min(input.saturating_mul(8).max(64 << 20))
}

type NodeId = usize;

#[derive(Debug)]
enum Node {
    /// A name that is not defined yet; none is left when a schema is compiled.
    Open,
    Null,
    Boolean,
    Integer,
    Float,
    Double,
    Bytes,
    String,
    Fixed(usize),
    /// A UUID of 16 bytes.
    Uuid,
    /// Symbols, as JSON.
    Enum(Vec<Vec<u8>>),
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    /// Names as JSON, with colons.
    Record(Vec<(Vec<u8>, NodeId)>),
    /// `size`: of a fixed one.
    Decimal {
        size: Option<usize>,
        scale: usize,
    },
    Date,
    /// Units in a second.
    Time(i64),
    /// Units in a second; whether it is an instant.
    Timestamp(i64, bool),
    /// Months, days and milliseconds.
    Duration,
}

/// A schema, ready to read data that was written with it.
#[derive(Debug)]
pub(super) struct Decoder {
    nodes: Vec<Node>,
    root: NodeId,
}

/// A schema that cannot be used, and why.
pub(super) fn parse(schema: &str, references: &[String]) -> Result<(Schema, Decoder), String> {
    let (main, others) =
        Schema::parse_str_with_list(schema, references).map_err(|error| format!("not a schema of Avro: {error}"))?;
    let mut compiling = Compiling { nodes: Vec::new(), names: HashMap::new() };
    for other in &others {
        compiling.add(other, 0)?;
    }
    let root = compiling.add(&main, 0)?;
    if let Some((name, _)) = compiling.names.iter().find(|&(_, &node)| matches!(compiling.nodes[node], Node::Open)) {
        return Err(format!("not a schema of Avro: `{name}` is not defined"));
    }
    Ok((main, Decoder { nodes: compiling.nodes, root }))
}

/// The fingerprint that single-object encoding names a schema by: CRC-64-AVRO of its canonical form.
pub(super) fn fingerprint(schema: &Schema) -> u64 {
    let rabin = schema.fingerprint::<apache_avro::rabin::Rabin>();
    u64::from_le_bytes(*rabin.bytes.first_chunk().expect("a fingerprint of Rabin's has eight bytes"))
}

struct Compiling {
    nodes: Vec<Node>,
    names: HashMap<String, NodeId>,
}

impl Compiling {
    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// The node of a name, whether it is defined already or later.
    fn named(&mut self, name: &Name) -> NodeId {
        let name = name.fullname(None);
        if let Some(&node) = self.names.get(&name) {
            return node;
        }
        let node = self.push(Node::Open);
        self.names.insert(name, node);
        node
    }

    fn define(&mut self, name: &Name, node: Node) -> NodeId {
        let place = self.named(name);
        self.nodes[place] = node;
        place
    }

    fn add(&mut self, schema: &Schema, depth: u32) -> Result<NodeId, String> {
        if depth > DEPTH {
            return Err(format!("not a schema of Avro: nested more than {DEPTH} deep"));
        }
        let node = match schema {
            Schema::Null => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int | Schema::Long => Node::Integer,
            Schema::Float => Node::Float,
            Schema::Double => Node::Double,
            Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Node::Bytes,
            Schema::String | Schema::Uuid(UuidSchema::String) => Node::String,
            Schema::Date => Node::Date,
            Schema::TimeMillis => Node::Time(1_000),
            Schema::TimeMicros => Node::Time(1_000_000),
            Schema::TimestampMillis => Node::Timestamp(1_000, true),
            Schema::TimestampMicros => Node::Timestamp(1_000_000, true),
            Schema::TimestampNanos => Node::Timestamp(1_000_000_000, true),
            Schema::LocalTimestampMillis => Node::Timestamp(1_000, false),
            Schema::LocalTimestampMicros => Node::Timestamp(1_000_000, false),
            Schema::LocalTimestampNanos => Node::Timestamp(1_000_000_000, false),
            Schema::Array(array) => Node::Array(self.add(&array.items, depth + 1)?),
            Schema::Map(map) => Node::Map(self.add(&map.types, depth + 1)?),
            Schema::Union(union) => {
                let variants = union.variants().iter().map(|variant| self.add(variant, depth + 1));
                Node::Union(variants.collect::<Result<_, _>>()?)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Node::Decimal { size: None, scale: decimal.scale },
                InnerDecimalSchema::Fixed(fixed) => {
                    let node = Node::Decimal { size: Some(fixed.size), scale: decimal.scale };
                    return Ok(self.define(&fixed.name, node));
                }
            },
            Schema::Uuid(UuidSchema::Fixed(fixed)) => return Ok(self.define(&fixed.name, Node::Uuid)),
            Schema::Duration(fixed) => return Ok(self.define(&fixed.name, Node::Duration)),
            Schema::Fixed(fixed) => return Ok(self.define(&fixed.name, Node::Fixed(fixed.size))),
            Schema::Enum(choice) => {
                let symbols = choice.symbols.iter().map(|symbol| {
                    let mut text = Vec::new();
                    string(&mut text, symbol);
                    text
                });
                return Ok(self.define(&choice.name, Node::Enum(symbols.collect())));
            }
            Schema::Record(record) => {
                let place = self.named(&record.name);
                let fields =
                    record.fields.iter().map(|field| Ok((json_name(&field.name), self.add(&field.schema, depth + 1)?)));
                let fields = fields.collect::<Result<_, String>>()?;
                self.nodes[place] = Node::Record(fields);
                return Ok(place);
            }
            Schema::Ref { name } => return Ok(self.named(name)),
        };
        Ok(self.push(node))
    }
}

/// Why data is not what its schema says.
type Wrong = &'static str;
const SHORT: Wrong = "it ends too early";

impl Decoder {
    /// Writes the datum at the beginning of `input` as JSON; what follows it.
    pub(super) fn write<'a>(&self, input: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], String> {
        let mut writing =
            Writing { nodes: &self.nodes, rest: input, most: out.len().saturating_add(most(input.len())) };
        match writing.value(self.root, out, 0) {
            Ok(()) => Ok(writing.rest),
            Err(wrong) => {
                Err(format!("not Avro of its schema: {wrong} (at byte {})", input.len() - writing.rest.len()))
            }
        }
    }

    /// How long the datum at the beginning of `input` is.
    pub(super) fn length(&self, input: &[u8], scratch: &mut Vec<u8>) -> Result<usize, String> {
        scratch.clear();
        Ok(input.len() - self.write(input, scratch)?.len())
    }
}

struct Writing<'s, 'a> {
    nodes: &'s [Node],
    rest: &'a [u8],
    /// `out` may not become longer.
    most: usize,
}

impl<'a> Writing<'_, 'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(SHORT)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(SHORT)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A zigzag variable-length number.
    fn long(&mut self) -> Result<i64, Wrong> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("a number has more than 64 bits")
    }

    fn bytes(&mut self) -> Result<&'a [u8], Wrong> {
        let length = usize::try_from(self.long()?).map_err(|_| "a length is negative")?;
        self.take(length)
    }

    fn text(&mut self) -> Result<&'a str, Wrong> {
        std::str::from_utf8(self.bytes()?).map_err(|_| "a string is not UTF-8")
    }

    /// Writes the items of an array or a map.
    fn blocks(
        &mut self,
        out: &mut Vec<u8>,
        mut item: impl FnMut(&mut Self, &mut Vec<u8>) -> Result<(), Wrong>,
    ) -> Result<(), Wrong> {
        let mut is_first = true;
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                count = count.checked_neg().ok_or("a block has too many items")?;
                self.long()?;
            }
            for _ in 0..count {
                if !std::mem::take(&mut is_first) {
                    out.push(b',');
                }
                item(self, out)?;
                if out.len() > self.most {
                    return Err("it says far more than it has bytes");
                }
            }
        }
    }

    fn value(&mut self, node: NodeId, out: &mut Vec<u8>, depth: u32) -> Result<(), Wrong> {
        if depth > DEPTH {
            return Err("it is nested too deep");
        }
        match &self.nodes[node] {
            Node::Open => unreachable!("all names of a compiled schema are defined"),
            Node::Null => out.extend_from_slice(b"null"),
            Node::Boolean => match self.array()? {
                [0] => out.extend_from_slice(b"false"),
                [1] => out.extend_from_slice(b"true"),
                _ => return Err("a boolean is neither 0 nor 1"),
            },
            Node::Integer => number(out, self.long()?),
            Node::Float => {
                float(out, f64::from(f32::from_le_bytes(self.array()?)), |out, value| number(out, value as f32))
            }
            Node::Double => float(out, f64::from_le_bytes(self.array()?), number),
            Node::Bytes => base64(out, self.bytes()?),
            Node::String => string(out, self.text()?),
            Node::Fixed(size) => base64(out, self.take(*size)?),
            Node::Uuid => string(out, &uuid::Uuid::from_bytes(self.array()?).to_string()),
            Node::Enum(symbols) => {
                let symbol = usize::try_from(self.long()?).ok().and_then(|index| symbols.get(index));
                out.extend_from_slice(symbol.ok_or("an enum has no such symbol")?);
            }
            Node::Union(variants) => {
                let variant = usize::try_from(self.long()?).ok().and_then(|index| variants.get(index));
                self.value(*variant.ok_or("a union has no such branch")?, out, depth + 1)?;
            }
            Node::Array(items) => {
                out.push(b'[');
                self.blocks(out, |this, out| this.value(*items, out, depth + 1))?;
                out.push(b']');
            }
            Node::Map(values) => {
                out.push(b'{');
                self.blocks(out, |this, out| {
                    string(out, this.text()?);
                    out.push(b':');
                    this.value(*values, out, depth + 1)
                })?;
                out.push(b'}');
            }
            Node::Record(fields) => {
                out.push(b'{');
                for (place, (name, field)) in fields.iter().enumerate() {
                    if place > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(name);
                    self.value(*field, out, depth + 1)?;
                }
                out.push(b'}');
                if out.len() > self.most {
                    return Err("it says far more than it has bytes");
                }
            }
            Node::Decimal { size, scale } => {
                let unscaled = match size {
                    Some(size) => self.take(*size)?,
                    None => self.bytes()?,
                };
                decimal(out, unscaled, *scale);
            }
            Node::Date => {
                let days = self.long()?;
                let date = chrono::Duration::try_days(days)
                    .and_then(|days| chrono::NaiveDate::default().checked_add_signed(days));
                match date.filter(|_| days.abs() < 4_000_000) {
                    Some(date) => string(out, &date.to_string()),
                    None => number(out, days),
                }
            }
            Node::Time(units) => {
                let value = self.long()?;
                let nanos = value.checked_mul(1_000_000_000 / units);
                let time = nanos.filter(|nanos| (0..86_400_000_000_000).contains(nanos)).and_then(|nanos| {
                    let seconds = (nanos / 1_000_000_000) as u32;
                    chrono::NaiveTime::from_num_seconds_from_midnight_opt(seconds, (nanos % 1_000_000_000) as u32)
                });
                match time {
                    Some(time) => string(out, &time.to_string()),
                    None => number(out, value),
                }
            }
            Node::Timestamp(units, is_instant) => {
                let value = self.long()?;
                let nanos = (value.rem_euclid(*units) * (1_000_000_000 / units)) as u32;
                match chrono::DateTime::from_timestamp(value.div_euclid(*units), nanos) {
                    Some(time) if *is_instant => {
                        string(out, &time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
                    }
                    Some(time) => string(out, &time.naive_utc().format("%Y-%m-%dT%H:%M:%S%.f").to_string()),
                    None => number(out, value),
                }
            }
            Node::Duration => {
                let mut part = || self.array().map(u32::from_le_bytes);
                let (months, days, millis) = (part()?, part()?, part()?);
                string(out, &format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000));
            }
        }
        Ok(())
    }
}

fn float(out: &mut Vec<u8>, value: f64, finite: impl Fn(&mut Vec<u8>, f64)) {
    match value {
        value if value.is_nan() => string(out, "NaN"),
        f64::INFINITY => string(out, "Infinity"),
        f64::NEG_INFINITY => string(out, "-Infinity"),
        value => finite(out, value),
    }
}

/// A decimal with all its digits; one of more than 128 bits as its bytes.
fn decimal(out: &mut Vec<u8>, unscaled: &[u8], scale: usize) {
    if unscaled.len() > 16 || scale > 100 {
        return base64(out, unscaled);
    }
    let is_negative = unscaled.first().is_some_and(|&first| first >= 0x80);
    let mut wide = [if is_negative { 0xff } else { 0 }; 16];
    wide[16 - unscaled.len()..].copy_from_slice(unscaled);
    let value = i128::from_be_bytes(wide);
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(whole.as_bytes());
    if scale > 0 {
        out.push(b'.');
        out.extend_from_slice(fraction.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(schema: &str, datum: &[u8]) -> Result<String, String> {
        let (_, decoder) = parse(schema, &[]).unwrap();
        let mut out = Vec::new();
        let rest = decoder.write(datum, &mut out)?;
        assert!(rest.is_empty());
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_are_written_as_people_write_them() {
        let schema = r#"{"type":"record","name":"r","fields":[
            {"name":"n","type":["null","long"]},{"name":"s","type":"string"},{"name":"b","type":"bytes"},
            {"name":"e","type":{"type":"enum","name":"e","symbols":["A","B"]}},
            {"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":10,"scale":2}},
            {"name":"day","type":{"type":"int","logicalType":"date"}},
            {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
            {"name":"t","type":{"type":"int","logicalType":"time-millis"}},
            {"name":"f","type":"double"},
            {"name":"a","type":{"type":"array","items":"boolean"}},
            {"name":"m","type":{"type":"map","values":"int"}}]}"#;
        let mut datum = vec![2, 5, 4, b'"', b'x', 2, 0xff, 2, 4, 0xff, 0x38, 2];
        datum.extend_from_slice(&[0xd0, 0x0f, 0x80, 0x7d]);
        datum.extend_from_slice(&f64::NAN.to_le_bytes());
        datum.extend_from_slice(&[3, 4, 0, 1, 0, 2, 2, b'k', 7, 0]);
        let expected = r#"{"n":-3,"s":"\"x","b":"/w==","e":"B","d":-2.00,"day":"1970-01-02","at":"1970-01-01T00:00:01Z","t":"00:00:08","f":"NaN","a":[false,true],"m":{"k":-4}}"#;
        assert_eq!(json(schema, &datum).unwrap(), expected);
    }

    #[test]
    fn a_schema_may_name_itself() {
        let schema =
            r#"{"type":"record","name":"n","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","n"]}]}"#;
        assert_eq!(json(schema, &[2, 2, 4, 0]).unwrap(), r#"{"v":1,"next":{"v":2,"next":null}}"#);
        let deep: Vec<u8> = std::iter::repeat_n([2, 2], 1000).flatten().collect();
        assert!(json(schema, &deep).unwrap_err().contains("nested too deep"));
        let itself = r#"{"type":"record","name":"n","fields":[{"name":"n","type":"n"}]}"#;
        assert!(json(itself, &[]).unwrap_err().contains("nested too deep"));
    }

    #[test]
    fn what_is_not_of_the_schema_is_told() {
        for (schema, datum, reason) in [
            (r#""long""#, &[0x80][..], "it ends too early (at byte 1)"),
            (r#""long""#, &[0xff; 11], "more than 64 bits"),
            (r#""string""#, &[1], "a length is negative"),
            (r#""string""#, &[2, 0xff], "not UTF-8"),
            (r#"["null","int"]"#, &[4], "no such branch"),
            (r#""boolean""#, &[2], "neither 0 nor 1"),
            (r#"{"type":"array","items":"null"}"#, &[0xfe, 0xff, 0xff, 0xff, 0x7f], "far more than it has bytes"),
        ] {
            let error = json(schema, datum).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn decimals_keep_their_digits() {
        for (unscaled, scale, expected) in
            [(&[][..], 0, "0"), (&[0x80], 0, "-128"), (&[5], 3, "0.005"), (&[0xff, 0x00], 1, "-25.6")]
        {
            let mut out = Vec::new();
            decimal(&mut out, unscaled, scale);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
