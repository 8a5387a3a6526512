//! JSON as text, written in the ways in which producers differ.

use std::fmt::Write as _;

use super::random::Random;

/// A field that may be left out, which is not the same as being null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<T> {
    Absent,
    Null,
    Is(T),
}

impl<T> Field<T> {
    pub(super) fn map<U>(self, with: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Field::Absent => Field::Absent,
            Field::Null => Field::Null,
            Field::Is(value) => Field::Is(with(value)),
        }
    }

    pub(super) fn as_ref(&self) -> Field<&T> {
        match self {
            Field::Absent => Field::Absent,
            Field::Null => Field::Null,
            Field::Is(value) => Field::Is(value),
        }
    }

    pub(super) fn or_null(self) -> Option<T> {
        match self {
            Field::Is(value) => Some(value),
            Field::Absent | Field::Null => None,
        }
    }
}

impl<T> From<Option<T>> for Field<T> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Field::Absent, Field::Is)
    }
}

/// How one producer writes.
#[derive(Clone, Copy)]
pub(super) struct Style {
    spaced: bool,
    ascii: bool,
    reversed: bool,
}

impl Style {
    pub(super) fn draw(random: &mut Random) -> Self {
        Self { spaced: random.per_mille(150), ascii: random.per_mille(200), reversed: random.per_mille(50) }
    }
}

/// An object's members in order; the values are JSON already.
pub(super) struct Object {
    style: Style,
    members: Vec<(&'static str, String)>,
}

impl Object {
    pub(super) fn new(style: Style) -> Self {
        Self { style, members: Vec::new() }
    }

    pub(super) fn inner(&self) -> Self {
        Self::new(self.style)
    }

    pub(super) fn json(&mut self, key: &'static str, json: impl Into<String>) {
        self.members.push((key, json.into()));
    }

    pub(super) fn text(&mut self, key: &'static str, text: &str) {
        let json = quoted(text, self.style.ascii);
        self.members.push((key, json));
    }

    pub(super) fn object(&mut self, key: &'static str, object: Object) {
        self.members.push((key, object.write()));
    }

    pub(super) fn array(&mut self, key: &'static str, elements: Vec<Object>) {
        let comma = if self.style.spaced { ", " } else { "," };
        let elements: Vec<String> = elements.into_iter().map(Object::write).collect();
        self.members.push((key, format!("[{}]", elements.join(comma))));
    }

    /// Nothing where the field is absent, else `null` or the text.
    pub(super) fn text_field(&mut self, key: &'static str, field: Field<impl AsRef<str>>) {
        match field {
            Field::Absent => {}
            Field::Null => self.json(key, "null"),
            Field::Is(text) => self.text(key, text.as_ref()),
        }
    }

    pub(super) fn write(mut self) -> String {
        if self.style.reversed {
            self.members.reverse();
        }
        let (comma, colon) = if self.style.spaced { (", ", ": ") } else { (",", ":") };
        let mut out = String::from("{");
        for (place, (key, value)) in self.members.iter().enumerate() {
            if place > 0 {
                out.push_str(comma);
            }
            out.push('"');
            out.push_str(key);
            out.push('"');
            out.push_str(colon);
            out.push_str(value);
        }
        out.push('}');
        out
    }
}

fn quoted(text: &str, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            control if control < ' ' => write_utf16(&mut out, control),
            other if ascii && !other.is_ascii() => write_utf16(&mut out, other),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn write_utf16(out: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        write!(out, "\\u{unit:04x}").expect("a string takes any text");
    }
}
