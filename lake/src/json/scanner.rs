//! The pass over a text.

use super::error::{JsonError, Reason, fault};
use super::paths::{NOTHING, NOWHERE, Name, NodeId, Paths, ROOT};
use super::strings::{byte, leading_digits, skip_string, skip_string_from, unescape, word};
use super::{Kind, MAX_DEPTH, Span};

/// Validates the whole of `text` as one JSON value (RFC 8259) and fills `found`, a slot for each path.
///
/// White space may surround the value. Where a member name is repeated, the last one counts. The caller has
/// checked that `text` is UTF-8.
///
/// # Errors
///
/// The first fault of the text. All slots are then [`Span::MISSING`].
///
/// # Panics
///
/// If `found` does not have [`Paths::len`] slots.
pub fn scan(paths: &Paths, text: &[u8], found: &mut [Span]) -> Result<(), JsonError> {
    assert_eq!(found.len(), paths.len(), "a slot for each path");
    found.fill(Span::MISSING);
    let scanned = check_length(text.len()).and_then(|()| document(paths, text, found));
    if scanned.is_err() {
        found.fill(Span::MISSING);
    }
    scanned
}

/// The elements of an array, whose raw text, with its brackets, is `text`. Spans count from the start of it.
///
/// The array was validated before. On any other text, the iterator ends where an element is not JSON.
pub fn elements(text: &[u8]) -> impl Iterator<Item = Span> {
    let mut next = match byte(text, 0) {
        b'[' if check_length(text.len()).is_ok() => Some(skip_space(text, 1)),
        _ => None,
    };
    std::iter::from_fn(move || {
        let mut scanner = Scanner { text, paths: &NOTHING, found: &mut [] };
        let (span, end) = scanner.value::<false>(next.take()?, NOWHERE, 1).ok()?;
        let end = skip_space(text, end);
        if byte(text, end) == b',' {
            next = Some(skip_space(text, end + 1));
        }
        Some(span)
    })
}

/// Offsets are kept in 32 bits.
pub(super) fn check_length(length: usize) -> Result<(), JsonError> {
    if u32::try_from(length).is_err() {
        return fault(u32::MAX as usize, Reason::TooLong);
    }
    Ok(())
}

fn document(paths: &Paths, text: &[u8], found: &mut [Span]) -> Result<(), JsonError> {
    let mut scanner = Scanner { text, paths, found };
    let start = skip_space(text, 0);
    let (span, end) = scanner.value::<true>(start, ROOT, 0)?;
    paths.record(ROOT, span, scanner.found);
    let end = skip_space(text, end);
    if end < text.len() {
        return fault(end, Reason::TrailingText);
    }
    Ok(())
}

/// The text and where the findings go.
///
/// The methods take the place where something starts and return the place after it. `FOLLOW` says whether
/// `node` is a node to look below; without it, the code holds no lookups at all.
struct Scanner<'a> {
    text: &'a [u8],
    paths: &'a Paths,
    found: &'a mut [Span],
}

impl Scanner<'_> {
    #[inline(always)]
    fn value<const FOLLOW: bool>(&mut self, at: usize, node: NodeId, depth: u32) -> Result<(Span, usize), JsonError> {
        let (kind, end) = match byte(self.text, at) {
            b'"' => {
                let (end, escaped) = skip_string(self.text, at + 1)?;
                let span = Span { kind: Kind::String, start: at as u32 + 1, end: end as u32, escaped };
                return Ok((span, end + 1));
            }
            b'-' | b'0'..=b'9' => (Kind::Number, skip_number(self.text, at)?),
            b'{' if FOLLOW && self.paths.is_inner(node) => (Kind::Object, self.object::<true>(at, node, depth)?),
            b'{' => (Kind::Object, self.object::<false>(at, NOWHERE, depth)?),
            b'[' => (Kind::Array, self.array(at, depth)?),
            b't' => (Kind::True, skip_literal(self.text, at, b"true")?),
            b'f' => (Kind::False, skip_literal(self.text, at, b"false")?),
            b'n' => (Kind::Null, skip_literal(self.text, at, b"null")?),
            _ => return fault(at, Reason::ExpectedValue),
        };
        Ok((Span { kind, start: at as u32, end: end as u32, escaped: false }, end))
    }

    fn object<const FOLLOW: bool>(&mut self, open: usize, node: NodeId, depth: u32) -> Result<usize, JsonError> {
        let text = self.text;
        if depth == MAX_DEPTH {
            return fault(open, Reason::TooDeep);
        }
        let mut at = skip_space(text, open + 1);
        if byte(text, at) != b'"' {
            return if byte(text, at) == b'}' { Ok(at + 1) } else { fault(at, Reason::ExpectedNameOrClose) };
        }
        loop {
            let start = at + 1;
            let first = word(text, start);
            let (end, escaped) = skip_string_from(text, start, first)?;
            let child = if FOLLOW { self.child(node, start..end, first, escaped) } else { NOWHERE };
            at = skip_space(text, end + 1);
            if byte(text, at) != b':' {
                return fault(at, Reason::ExpectedColon);
            }
            at = skip_space(text, at + 1);
            if FOLLOW && child != NOWHERE {
                self.paths.reset_below(child, self.found);
                let (span, end) = self.value::<true>(at, child, depth + 1)?;
                self.paths.record(child, span, self.found);
                at = end;
            } else {
                (_, at) = self.value::<false>(at, NOWHERE, depth + 1)?;
            }
            at = skip_space(text, at);
            match byte(text, at) {
                b',' => at = skip_space(text, at + 1),
                b'}' => return Ok(at + 1),
                _ => return fault(at, Reason::ExpectedCommaOrBrace),
            }
            if byte(text, at) != b'"' {
                return fault(at, Reason::ExpectedName);
            }
        }
    }

    fn array(&mut self, open: usize, depth: u32) -> Result<usize, JsonError> {
        let text = self.text;
        if depth == MAX_DEPTH {
            return fault(open, Reason::TooDeep);
        }
        let mut at = skip_space(text, open + 1);
        if byte(text, at) == b']' {
            return Ok(at + 1);
        }
        loop {
            (_, at) = self.value::<false>(at, NOWHERE, depth + 1)?;
            at = skip_space(text, at);
            match byte(text, at) {
                b',' => at = skip_space(text, at + 1),
                b']' => return Ok(at + 1),
                _ => return fault(at, Reason::ExpectedCommaOrBracket),
            }
        }
    }

    /// The node of the member whose name stands at `name`; `first` holds the eight bytes from there on.
    #[inline(always)]
    fn child(&self, node: NodeId, name: std::ops::Range<usize>, first: u64, escaped: bool) -> NodeId {
        let bytes = self.text.get(name).unwrap_or_default();
        if escaped {
            return self.child_by_escaped_name(node, bytes);
        }
        self.paths.step(node, Name::with_head(first, bytes), bytes)
    }

    #[cold]
    fn child_by_escaped_name(&self, node: NodeId, raw: &[u8]) -> NodeId {
        let name = unescape(raw);
        self.paths.step(node, Name::of(name.as_bytes()), name.as_bytes())
    }
}

/// The first place from `at` on that holds no white space.
#[inline(always)]
fn skip_space(text: &[u8], at: usize) -> usize {
    if byte(text, at) > b' ' { at } else { skip_some_space(text, at) }
}

/// [`skip_space`] where there is some; indentation goes by eight.
#[inline(never)]
fn skip_some_space(text: &[u8], mut at: usize) -> usize {
    loop {
        match byte(text, at) {
            b' ' if word(text, at) == u64::from_le_bytes([b' '; 8]) => at += 8,
            b' ' | b'\n' | b'\r' | b'\t' => at += 1,
            _ => return at,
        }
    }
}

#[inline(always)]
fn skip_literal(text: &[u8], at: usize, literal: &[u8]) -> Result<usize, JsonError> {
    if text.get(at..at + literal.len()) != Some(literal) {
        return fault(at, Reason::ExpectedValue);
    }
    Ok(at + literal.len())
}

#[inline(always)]
fn skip_number(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let integer = start + usize::from(byte(text, start) == b'-');
    let mut at = skip_digits(text, integer)?;
    if byte(text, integer) == b'0' && at > integer + 1 {
        return fault(integer, Reason::LeadingZero);
    }
    if byte(text, at) == b'.' {
        at = skip_digits(text, at + 1)?;
    }
    if byte(text, at) | 0x20 == b'e' {
        let sign = matches!(byte(text, at + 1), b'+' | b'-');
        at = skip_digits(text, at + 1 + usize::from(sign))?;
    }
    Ok(at)
}

/// The place after the digits at `start`, of which there is at least one.
#[inline(always)]
fn skip_digits(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let mut at = start;
    loop {
        let digits = leading_digits(word(text, at));
        at += digits;
        if digits < 8 {
            break;
        }
    }
    if at == start { fault(start, Reason::ExpectedDigit) } else { Ok(at) }
}
