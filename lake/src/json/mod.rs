//! Finding many fields of a JSON text in one strict pass, without building a tree.
//!
//! # Representation
//!
//! The wanted dotted paths are compiled once into a trie ([`Paths`]); each step is a member name:
//!
//! ```text
//! paths  0 "id"   1 "user"   2 "user.name"   3 "user.age"
//!
//! trie   root ─┬─ id    slots [0]
//!              └─ user  slots [1] ─┬─ name  slots [2]
//!                                  └─ age   slots [3]
//! ```
//!
//! All edges of the trie live in one hash table keyed by `(parent, name)`. A name is known by its first
//! eight bytes, its last eight bytes and its length: up to sixteen bytes that is the whole of it, so a
//! lookup is two or three integer comparisons.
//!
//! The result is one [`Span`] for each path: what kind of value stands there, and from which byte to which.
//! Nothing is copied or parsed; a string is unescaped only when somebody asks for it ([`Span::str`]).
//!
//! # Algorithm
//!
//! [`scan`] descends through the text, one function for objects and one for arrays, and carries the trie
//! node that belongs to the object it is in.
//!
//! 1. A member name is skipped as a string, then looked up below the current node. No edge: the member is
//!    *skipped*, which means validated by a second instance of the same code without lookups.
//! 2. If the member's node has nodes below it, their slots are reset. A repeated name thereby leaves nothing
//!    of its earlier value behind: the last one wins, as in JavaScript.
//! 3. The value is scanned; its span goes into the slots of the node.
//!
//! String bodies, the bulk of most texts, are skipped in words of eight bytes (`strings`). The text is read
//! as if zeros followed it, and a zero is legal nowhere, so the end of the text needs no test of its own
//! outside the error path.
//!
//! # Limits
//!
//! - A text holds at most `u32::MAX` bytes and nests at most [`MAX_DEPTH`] deep, which bounds recursion.
//! - Names that hold a dot cannot be reached by a path, and steps do not go through arrays: see [`elements`].
//! - The text must be UTF-8. The caller has checked that (it does so once for a whole batch); other bytes
//!   inside strings pass unnoticed here, but never cause a panic.
//! - Numbers are checked by grammar, not by range.
//!
//! The module is pure: it holds no state between calls, so a crash leaves nothing behind.

mod error;
mod paths;
mod scanner;
mod strings;
#[cfg(test)]
mod tests;

pub use error::{JsonError, Reason};
pub use paths::Paths;
pub use scanner::{elements, scan};

use std::borrow::Cow;

/// How deep arrays and objects may nest; the outermost one is level 1.
pub const MAX_DEPTH: u32 = 128;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a step is absent, or leads through something that is not an object.
    Missing,
    Null,
    True,
    False,
    Number,
    String,
    Array,
    Object,
}

/// Where a value stands in the text: the bytes `start..end`.
///
/// For strings these are the bytes between the quotes, for all other kinds the whole value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub kind: Kind,
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
    /// The value is a string that holds backslashes, so its raw bytes are not its value.
    pub escaped: bool,
}

impl Span {
    /// No value.
    pub const MISSING: Span = Span { kind: Kind::Missing, start: 0, end: 0, escaped: false };

    /// The raw bytes of the value; `text` is the one that was scanned. Empty when missing.
    pub fn raw<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// The characters of a string, unescaped; borrowed from `text` unless the string holds escapes.
    ///
    /// For other kinds, the raw text: numbers come as they were written. Bytes that are not UTF-8 are
    /// replaced by U+FFFD.
    pub fn str<'a>(&self, text: &'a [u8]) -> Cow<'a, str> {
        let raw = self.raw(text);
        if self.escaped {
            return Cow::Owned(strings::unescape(raw));
        }
        match std::str::from_utf8(raw) {
            Ok(plain) => Cow::Borrowed(plain),
            Err(_) => String::from_utf8_lossy(raw),
        }
    }
}
