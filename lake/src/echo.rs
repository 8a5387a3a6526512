//! What clients wrote, in messages: only its beginning, so that an answer is not as long as what was sent.

use std::borrow::Cow;

/// A name in a message has so many characters at most.
const NAME: usize = 100;

/// A name that a client wrote, cut where it is long.
pub fn cut(name: &str) -> Cow<'_, str> {
    cut_at(NAME, name)
}

/// The text up to so many characters, and `…` where there are more.
pub fn cut_at(most: usize, text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(cut(&"ü".repeat(100)), "ü".repeat(100));
        assert_eq!(cut(&"ü".repeat(60_000)), format!("{}…", "ü".repeat(100)));
        assert_eq!(cut_at(0, ""), "");
        assert_eq!(cut_at(0, "a"), "…");
    }
}
