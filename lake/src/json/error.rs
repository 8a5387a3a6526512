//! Why a text is not JSON, and where.

use std::fmt;

/// The first fault of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The byte at which the text stops being JSON; the length of the text when it ends too early.
    pub offset: u32,
    pub reason: Reason,
}

/// What is wrong at the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    ExpectedValue,
    ExpectedName,
    ExpectedNameOrClose,
    ExpectedColon,
    ExpectedCommaOrBrace,
    ExpectedCommaOrBracket,
    ExpectedDigit,
    LeadingZero,
    UnterminatedString,
    ControlCharacter,
    UnknownEscape,
    ExpectedHex,
    LoneSurrogate,
    TooDeep,
    TrailingText,
    TooLong,
}

impl Reason {
    /// The reason as a lower-case phrase.
    pub fn phrase(self) -> &'static str {
        match self {
            Reason::ExpectedValue => "expected a value",
            Reason::ExpectedName => "expected a member name in quotes",
            Reason::ExpectedNameOrClose => "expected a member name in quotes or `}`",
            Reason::ExpectedColon => "expected `:`",
            Reason::ExpectedCommaOrBrace => "expected `,` or `}`",
            Reason::ExpectedCommaOrBracket => "expected `,` or `]`",
            Reason::ExpectedDigit => "expected a digit",
            Reason::LeadingZero => "number with a leading zero",
            Reason::UnterminatedString => "string without an end",
            Reason::ControlCharacter => "control character in a string",
            Reason::UnknownEscape => "unknown escape",
            Reason::ExpectedHex => "expected four hexadecimal digits",
            Reason::LoneSurrogate => "lone surrogate",
            Reason::TooDeep => "nested deeper than 128 levels",
            Reason::TrailingText => "text after the value",
            Reason::TooLong => "text longer than 4294967295 bytes",
        }
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at byte {}", self.reason.phrase(), self.offset)
    }
}

impl std::error::Error for JsonError {}

/// The fault at `offset`, as a result, kept out of the way of the code that runs for good texts.
#[cold]
pub(super) fn fault<T>(offset: usize, reason: Reason) -> Result<T, JsonError> {
    Err(JsonError { offset: u32::try_from(offset).unwrap_or(u32::MAX), reason })
}
