//! A recursive parser that is as plain as possible, seeded dice, and random documents.

use super::super::{Kind, MAX_DEPTH};
use std::ops::Range;

/// A value of the tree.
pub(super) struct Node {
    pub(super) kind: Kind,
    /// As in `Span`: strings without their quotes.
    pub(super) place: Range<usize>,
    /// A string, unescaped.
    pub(super) characters: Vec<u8>,
    pub(super) elements: Vec<Node>,
    members: Vec<(Vec<u8>, Node)>,
}

impl Node {
    pub(super) fn at(&self, path: &str) -> Option<&Node> {
        if path.is_empty() {
            return Some(self);
        }
        path.split('.').try_fold(self, |node, step| {
            node.members.iter().rev().find(|(name, _)| name == step.as_bytes()).map(|(_, value)| value)
        })
    }
}

/// The document, or nothing if it is not JSON.
pub(super) fn parse(text: &[u8]) -> Option<Node> {
    let mut parser = Parser { text, at: 0 };
    let node = parser.value(0)?;
    parser.space();
    (parser.at == text.len()).then_some(node)
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn eat(&mut self, wanted: u8) -> bool {
        let eaten = self.peek() == Some(wanted);
        self.at += usize::from(eaten);
        eaten
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: u32) -> Option<Node> {
        self.space();
        let start = self.at;
        let mut node =
            Node { kind: Kind::Null, place: 0..0, characters: Vec::new(), elements: Vec::new(), members: Vec::new() };
        match self.peek()? {
            b'"' => {
                node.kind = Kind::String;
                node.characters = self.string()?;
                node.place = start + 1..self.at - 1;
                return Some(node);
            }
            b'{' => {
                node.kind = Kind::Object;
                self.members(depth, &mut node)?;
            }
            b'[' => {
                node.kind = Kind::Array;
                self.elements(depth, &mut node)?;
            }
            b't' => node.kind = self.literal("true", Kind::True)?,
            b'f' => node.kind = self.literal("false", Kind::False)?,
            b'n' => node.kind = self.literal("null", Kind::Null)?,
            _ => node.kind = self.number()?,
        }
        node.place = start..self.at;
        Some(node)
    }

    fn members(&mut self, depth: u32, node: &mut Node) -> Option<()> {
        self.at += 1;
        self.space();
        if depth >= MAX_DEPTH {
            return None;
        }
        if self.eat(b'}') {
            return Some(());
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.eat(b':').then_some(())?;
            node.members.push((name, self.value(depth + 1)?));
            self.space();
            match self.take()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    fn elements(&mut self, depth: u32, node: &mut Node) -> Option<()> {
        self.at += 1;
        self.space();
        if depth >= MAX_DEPTH {
            return None;
        }
        if self.eat(b']') {
            return Some(());
        }
        loop {
            node.elements.push(self.value(depth + 1)?);
            self.space();
            match self.take()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }

    fn literal(&mut self, wanted: &str, kind: Kind) -> Option<Kind> {
        wanted.bytes().all(|byte| self.eat(byte)).then_some(kind)
    }

    fn digits(&mut self) -> Option<usize> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(self.at - start)
    }

    fn number(&mut self) -> Option<Kind> {
        self.eat(b'-');
        let zero = self.peek() == Some(b'0');
        if self.digits()? > 1 && zero {
            return None;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _sign = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Some(Kind::Number)
    }

    fn string(&mut self) -> Option<Vec<u8>> {
        self.eat(b'"').then_some(())?;
        let mut characters = Vec::new();
        loop {
            match self.take()? {
                b'"' => return Some(characters),
                b'\\' => {
                    let character = self.escape()?;
                    characters.extend(character.to_string().bytes());
                }
                0..0x20 => return None,
                plain => characters.push(plain),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        Some(match self.take()? {
            plain @ (b'"' | b'\\' | b'/') => char::from(plain),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let mut units = vec![self.unit()?];
                if (0xD800..0xDC00).contains(&units[0]) {
                    (self.eat(b'\\') && self.eat(b'u')).then_some(())?;
                    units.push(self.unit()?);
                }
                char::decode_utf16(units).next()?.ok()?
            }
            _ => return None,
        })
    }

    fn unit(&mut self) -> Option<u16> {
        let mut unit = 0;
        for _ in 0..4 {
            unit = unit * 16 + char::from(self.take()?).to_digit(16)? as u16;
        }
        Some(unit)
    }
}

/// A seeded generator (SplitMix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number from 0 up to, not including, `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Cuts the text short, or changes, inserts or removes a byte, mostly one that means something in JSON.
    pub(super) fn damage(&mut self, text: &mut Vec<u8>) {
        const MEANINGFUL: &[u8] = b"\"\\{}[]:,0123456789eE+-.tfnu \n\0dD8aA";
        let byte = if self.below(4) == 0 { self.below(256) as u8 } else { self.pick(MEANINGFUL) };
        let place = self.below(text.len() + 1);
        match self.below(8) {
            0 => text.truncate(place),
            1..=3 => text.insert(place, byte),
            4 if place < text.len() => drop(text.remove(place)),
            _ if place < text.len() => text[place] = byte,
            _ => text.push(byte),
        }
    }
}

pub(super) fn random_document(dice: &mut Dice, names: &[&str]) -> Vec<u8> {
    let mut text = String::new();
    if dice.below(20) == 0 {
        let levels = 120 + dice.below(20);
        let (open, close) = dice.pick(&[("[", "]"), (r#"{"a":"#, "}")]);
        text = open.repeat(levels) + "1" + &close.repeat(levels);
        return text.into_bytes();
    }
    random_value(dice, names, 0, &mut text);
    text.into_bytes()
}

fn random_value(dice: &mut Dice, names: &[&str], depth: usize, text: &mut String) {
    random_space(dice, text);
    match dice.below(if depth == 0 { 6 } else { 14 }) {
        0..4 if depth < 5 => {
            text.push('{');
            for member in 0..dice.below(7) {
                text.push_str(if member > 0 { "," } else { "" });
                random_space(dice, text);
                let name = dice.pick(names);
                random_string(dice, name, text);
                random_space(dice, text);
                text.push(':');
                random_value(dice, names, depth + 1, text);
            }
            random_space(dice, text);
            text.push('}');
        }
        4 if depth < 5 => {
            text.push('[');
            for element in 0..dice.below(5) {
                text.push_str(if element > 0 { "," } else { "" });
                random_value(dice, names, depth + 1, text);
            }
            random_space(dice, text);
            text.push(']');
        }
        5..8 => {
            let content =
                dice.pick(&["", "x", "seven_7", "eight_88", "a longer text, with an é and 😀 in it", "\t\"\\\u{1f}"]);
            random_string(dice, content, text);
        }
        8 => text.push_str(dice.pick(&["true", "false", "null"])),
        _ => text.push_str(dice.pick(&["0", "-0", "7", "-12", "3.25", "1e9", "0.5E-7", "12345678", "123456789012.5"])),
    }
    random_space(dice, text);
}

fn random_space(dice: &mut Dice, text: &mut String) {
    text.push_str(dice.pick(&["", "", "", "", "", " ", "\n", "\r\n\t", "                 "]));
}

/// The content in quotes, some of its characters escaped in one of the ways there are.
fn random_string(dice: &mut Dice, content: &str, text: &mut String) {
    text.push('"');
    let eager = dice.below(3) == 0;
    for character in content.chars() {
        if (eager && dice.below(3) == 0) || character < ' ' {
            for unit in character.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else if matches!(character, '"' | '\\') {
            text.extend(['\\', character]);
        } else {
            text.push(character);
        }
    }
    text.push('"');
}

/// The dotted path of every member of the document.
pub(super) fn every_path(text: &str) -> Vec<String> {
    fn collect(node: &Node, prefix: &str, paths: &mut Vec<String>) {
        for (name, value) in &node.members {
            let path = format!("{prefix}{}", String::from_utf8_lossy(name));
            collect(value, &format!("{path}."), paths);
            paths.push(path);
        }
    }
    let mut paths = Vec::new();
    collect(&parse(text.as_bytes()).unwrap(), "", &mut paths);
    paths
}

/// An order of an online shop, about 1 KB, compact.
pub(super) fn sample_document() -> String {
    concat!(
        r#"{"id":"0197a3b2-6c1e-7c51-9d3a-1f0e8c2b7a44","type":"order.placed","time":"2026-03-14T09:26:53.589Z","#,
        r#""source":"webshop/eu-central","data":{"order_id":8812734,"status":"placed","currency":"EUR","#,
        r#""customer":{"id":55102,"name":"Ada Lovelace","email":"ada@example.org","segment":"business","#,
        r#""address":{"street":"12 St James's Square","city":"London","postcode":"SW1Y 4JH","country":"GB","#,
        r#""location":{"lat":51.50735,"lon":-0.13411}}},"lines":[{"sku":"TEA-001","title":"Assam, second flush","#,
        r#""quantity":2,"unit_price":12.90,"tax_rate":0.07,"gift":false},{"sku":"CUP-114","title":"Porcelain cup","#,
        r#""quantity":4,"unit_price":8.50,"tax_rate":0.19,"gift":true},{"sku":"BOOK-77","title":"The \"Notes\"","#,
        r#""quantity":1,"unit_price":31.00,"tax_rate":0.07,"gift":false}],"payment":{"method":"card","#,
        r#""brand":"visa","authorized":true,"amount":90.80,"captured_at":null},"shipping":{"method":"standard","#,
        r#""price":4.90,"estimated_days":3,"tracking":null},"coupon":null,"tags":["spring","newsletter"],"#,
        r#""device":{"os":"iOS 19.2","app_version":"7.4.1","locale":"en-GB"}}}"#
    )
    .to_owned()
}
