//! String bodies: skipping them eight bytes at a time, checking their escapes, resolving them.

use super::error::{JsonError, Reason, fault};
use super::paths::padded;

/// One bit at the bottom of each byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// One bit at the top of each byte.
const TOPS: u64 = 0x8080_8080_8080_8080;

/// The byte at `at`, or 0, which is legal nowhere in JSON, behind the end.
#[inline(always)]
pub(super) fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// The eight bytes from `at` on, the first one lowest, as if zeros followed the text.
#[inline(always)]
pub(super) fn word(text: &[u8], at: usize) -> u64 {
    match text.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => last_word(text, at),
    }
}

#[cold]
fn last_word(text: &[u8], at: usize) -> u64 {
    padded(text.get(at..).unwrap_or_default())
}

/// The top bit of every byte that is a quote, a backslash or below 0x20.
///
/// The subtractions borrow from the byte above, so only the lowest set bit can be trusted: that is the one
/// needed. See "Bit Twiddling Hacks", "Determine if a word has a byte less than n".
#[inline(always)]
fn specials(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (below | quote | backslash) & TOPS
}

/// How many of the word's bytes, from the lowest on, are digits.
#[inline(always)]
pub(super) fn leading_digits(word: u64) -> usize {
    // A digit without 0x30 is at most 9: adding 0x76 to anything larger reaches the top bit.
    let value = word ^ (ONES * b'0' as u64);
    let others = (((value & !TOPS) + ONES * 0x76) | value) & TOPS;
    others.trailing_zeros() as usize / 8
}

/// The place of the closing quote of the string whose body starts at `at`, and whether it holds escapes.
#[inline(always)]
pub(super) fn skip_string(text: &[u8], at: usize) -> Result<(usize, bool), JsonError> {
    skip_string_from(text, at, word(text, at))
}

/// [`skip_string`], when the eight bytes at `at` are already at hand as `first`.
#[inline(always)]
pub(super) fn skip_string_from(text: &[u8], mut at: usize, first: u64) -> Result<(usize, bool), JsonError> {
    let mut found = specials(first);
    while found == 0 {
        at += 8;
        found = specials(word(text, at));
    }
    at += found.trailing_zeros() as usize / 8;
    if byte(text, at) == b'"' {
        return Ok((at, false));
    }
    skip_escaped(text, at).map(|end| (end, true))
}

/// Goes on at the first byte of a string that is not plain: a backslash, or a fault.
#[inline(never)]
fn skip_escaped(text: &[u8], mut at: usize) -> Result<usize, JsonError> {
    loop {
        match byte(text, at) {
            b'"' => return Ok(at),
            b'\\' => at = skip_escape(text, at)?,
            _ if at >= text.len() => return fault(text.len(), Reason::UnterminatedString),
            _ => return fault(at, Reason::ControlCharacter),
        }
        loop {
            let found = specials(word(text, at));
            if found != 0 {
                at += found.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
    }
}

/// The place after the escape whose backslash is at `at`.
fn skip_escape(text: &[u8], at: usize) -> Result<usize, JsonError> {
    match byte(text, at + 1) {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
        b'u' => match hex(text, at + 2) {
            Some(0xD800..=0xDBFF) => match low_surrogate(text, at + 6) {
                Some(_) => Ok(at + 12),
                None => fault(at, Reason::LoneSurrogate),
            },
            Some(0xDC00..=0xDFFF) => fault(at, Reason::LoneSurrogate),
            Some(_) => Ok(at + 6),
            None => fault(at, Reason::ExpectedHex),
        },
        _ if at + 1 >= text.len() => fault(text.len(), Reason::UnterminatedString),
        _ => fault(at, Reason::UnknownEscape),
    }
}

/// The four hexadecimal digits at `at`.
fn hex(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 4)?;
    digits.iter().try_fold(0, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

/// The second half of a surrogate pair, if its escape stands at `at`.
fn low_surrogate(text: &[u8], at: usize) -> Option<u32> {
    if text.get(at..at + 2) != Some(b"\\u") {
        return None;
    }
    hex(text, at + 2).filter(|unit| (0xDC00..=0xDFFF).contains(unit))
}

/// Resolves the escapes of a string body that was validated. In others, what is no escape becomes U+FFFD.
pub(super) fn unescape(raw: &[u8]) -> String {
    let mut plain = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(run) = rest.iter().position(|&byte| byte == b'\\') {
        plain.extend_from_slice(&rest[..run]);
        let (character, length) = resolve(&rest[run..]);
        plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = rest.get(run + length..).unwrap_or_default();
    }
    plain.extend_from_slice(rest);
    String::from_utf8(plain).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// The character of the escape at the start of `text`, and how many bytes it takes.
fn resolve(text: &[u8]) -> (char, usize) {
    match byte(text, 1) {
        b'b' => ('\u{8}', 2),
        b'f' => ('\u{c}', 2),
        b'n' => ('\n', 2),
        b'r' => ('\r', 2),
        b't' => ('\t', 2),
        b'u' => match (hex(text, 2), low_surrogate(text, 6)) {
            (Some(high @ 0xD800..=0xDBFF), Some(low)) => {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
            }
            (Some(unit), _) => (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
            (None, _) => (char::REPLACEMENT_CHARACTER, 2),
        },
        other if other.is_ascii_punctuation() => (char::from(other), 2),
        _ => (char::REPLACEMENT_CHARACTER, 1),
    }
}
