//! How long a function may take, by its arguments.
//!
//! Most functions read each byte of their arguments once or a few times. The ones here take longer, and nothing stops
//! a function within a call. A step is about a nanosecond; the factors are rounded up. `tests::KNOWN` lists the
//! functions that were read in their source and take time linear in their arguments with a small factor.
//!
//! The cost of a regular expression follows from its text: see [`Pattern`].

use std::iter::Peekable;
use std::mem;
use std::str::Chars;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::ColumnarValue;

use super::growth::{Sizes, text_of};

/// Steps to compare two letters and to note by how much their texts differ so far.
const LETTERS: u64 = 2;
/// Bytes that are compared in one step.
const COMPARED: u64 = 8;
/// Steps to compare two elements of lists, beside their bytes.
const ELEMENT_COMPARED: u64 = 6;
/// Steps to compare a value with another one for which the engine makes an array.
const ARRAY_COMPARED: u64 = 400;
/// Steps to look up an element in a table of hashes, beside its bytes.
const HASHED: u64 = 100;
/// Steps to compare two elements in a sort.
const SORTED: u64 = 6;
/// Steps to read one letter of a format of times.
const FORMAT_READ: u64 = 50;
/// Bytes of two texts that are multiplied: below, letters need not be counted.
const FEW: u64 = 1_000_000;

/// Steps to begin a search for a pattern.
const SEARCH: u64 = 50;
/// Steps that one state of a pattern takes for each letter of a text.
const STATE: u64 = 12;
/// Steps that each group of a pattern adds to those of a state: where it begins and ends is copied.
const GROUP: u64 = 2;
/// States of the largest pattern that the engine compiles: it may have 10 MiB.
const MOST_STATES: u64 = 1 << 19;
/// Steps to compile an empty pattern.
const COMPILED: u64 = 30_000;
/// Steps to read one letter of a pattern, and to make one state of it.
const STATE_COMPILED: u64 = 1_000;
/// Steps to read a class of letters, such as `\w` or a range: some have hundreds of parts.
const CLASS_READ: u64 = 20_000;
/// States that a class of letters is compiled to.
const CLASS_STATES: u64 = 60;
/// Steps to compile the largest pattern, once it has been read.
const MOST_COMPILED: u64 = 200_000_000;
/// Steps to compile a letter of a pattern of LIKE that may stand for any other.
const LETTER_LIKED: u64 = 2_000;
/// States of a pattern that takes few steps for each letter: which letters lead where is remembered.
const QUICK: usize = 64;
/// A repetition of at most so many times counts as one that ends soon.
const FEW_TIMES: u64 = 16;

/// What the time of a function depends on, where it is not just the size of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    /// Each letter of a text is compared with each letter of another one.
    LettersCompared,
    /// A text is compared with a part of another one, wherever that has its first byte.
    TextSearched,
    /// Letters at the ends of a text are searched in a set of letters, one after the other.
    Trimmed,
    /// A text is searched for a pattern.
    PatternSearched { flags: usize, again: Again },
    /// A text is read by each of several formats.
    TimesRead,
    /// Each element of a list is compared with each element of another one.
    AllElementsCompared,
    /// The same, or a table of one list is made where it is a constant.
    AnyElementsCompared,
    /// Each element of a list is compared with a value.
    ElementsCompared,
    /// Each key of a map is compared with a value.
    KeysCompared,
    /// Elements of lists are put into a table of hashes.
    ElementsHashed,
    /// The elements of a list are sorted.
    ElementsSorted,
    /// A text is compared with a pattern of LIKE, which is compiled where it is no constant.
    Liked,
}

/// Whether a pattern is searched again behind each place where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Again {
    Never,
    Always,
    /// Where the flags have a `g`.
    WithFlag,
    /// Where the call says which of the places it asks for.
    WithCount,
}

impl Work {
    /// How long a function of the engine works; `None` where it takes time linear in the size of its arguments.
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "levenshtein" => Self::LettersCompared,
            "strpos" => Self::TextSearched,
            "btrim" | "ltrim" | "rtrim" => Self::Trimmed,
            "regexp_like" | "regexp_match" => Self::PatternSearched { flags: 2, again: Again::Never },
            "regexp_count" => Self::PatternSearched { flags: 3, again: Again::Always },
            "regexp_replace" => Self::PatternSearched { flags: 3, again: Again::WithFlag },
            "regexp_instr" => Self::PatternSearched { flags: 4, again: Again::WithCount },
            "to_timestamp"
            | "to_timestamp_seconds"
            | "to_timestamp_millis"
            | "to_timestamp_micros"
            | "to_timestamp_nanos"
            | "to_date"
            | "to_time"
            | "to_unixtime" => Self::TimesRead,
            "array_has_all" => Self::AllElementsCompared,
            "array_has_any" => Self::AnyElementsCompared,
            "array_position" | "array_positions" | "array_remove" | "array_remove_n" | "array_remove_all"
            | "array_replace" | "array_replace_n" | "array_replace_all" => Self::ElementsCompared,
            "map_extract" => Self::KeysCompared,
            "array_distinct" | "array_except" | "array_intersect" | "array_union" | "map" => Self::ElementsHashed,
            "array_sort" => Self::ElementsSorted,
            _ => return None,
        })
    }

    /// At most so many steps are taken for each row. What is done once for all rows counts for the first.
    pub(super) fn steps(self, args: &[ColumnarValue], rows: usize) -> Result<Vec<u64>> {
        if let Self::PatternSearched { flags, again } = self {
            return Ok(patterns_searched(args, rows, flags, again));
        }
        let sizes = args.iter().map(Sizes::of).collect::<Result<Vec<_>>>()?;
        let size = |arg: usize, row: usize| sizes.get(arg).map_or(0, |sizes| sizes.at(row));
        let sum = |row: usize| sizes.iter().map(|sizes| sizes.at(row)).fold(0, u64::saturating_add);
        let count = |arg: usize, row: usize| elements(args.get(arg), row);
        let compared = |row: usize| {
            let each = count(0, row).saturating_mul(ELEMENT_COMPARED).saturating_add(size(0, row) / COMPARED);
            sum(row).saturating_mul(ELEMENT_COMPARED).saturating_add(each.saturating_mul(count(1, row)))
        };
        let hashed = |row: usize| {
            let all = (0..args.len()).map(|arg| count(arg, row)).fold(0, u64::saturating_add);
            sum(row).saturating_mul(2).saturating_add(all.saturating_mul(HASHED))
        };
        let has_constant = args.iter().any(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let has_nested_elements = args.first().is_some_and(|list| has_nested_elements(&list.data_type()));
        let of_row = |row: usize| match self {
            Self::LettersCompared => letters_compared(args, row, size(0, row), size(1, row)),
            Self::TextSearched => text_searched(args, row, size(0, row), size(1, row)),
            // Spaces, where no letters are given.
            Self::Trimmed => (size(0, row) + 2).saturating_mul(size(1, row).max(1)),
            Self::TimesRead => (1..args.len())
                .map(|format| size(0, row).saturating_add(size(format, row).saturating_mul(FORMAT_READ)))
                .fold(size(0, row), u64::saturating_add),
            Self::AnyElementsCompared if has_constant => hashed(row),
            Self::AllElementsCompared | Self::AnyElementsCompared => compared(row),
            Self::ElementsCompared if has_nested_elements => {
                sum(row).saturating_add(count(0, row).saturating_mul(ARRAY_COMPARED))
            }
            Self::ElementsCompared => sum(row),
            Self::KeysCompared => {
                let each = ARRAY_COMPARED.saturating_add(size(1, row) / COMPARED);
                sum(row).saturating_add(count(0, row).saturating_mul(each))
            }
            Self::ElementsHashed => hashed(row),
            Self::ElementsSorted => {
                let times = u64::from(count(0, row).checked_ilog2().unwrap_or_default()) + 1;
                let each = size(0, row) / COMPARED + count(0, row).saturating_mul(SORTED);
                sum(row).saturating_add(each.saturating_mul(times))
            }
            Self::Liked if matches!(args.get(1), Some(ColumnarValue::Scalar(_))) => sum(row),
            Self::Liked => liked(size(0, row), size(1, row)),
            Self::PatternSearched { .. } => 0,
        };
        Ok((0..rows).map(of_row).collect())
    }
}

/// How many elements a list or a map has.
fn elements(of: Option<&ColumnarValue>, row: usize) -> u64 {
    let (array, row) = match of {
        Some(ColumnarValue::Array(array)) => (array.clone(), row),
        Some(ColumnarValue::Scalar(ScalarValue::List(list))) => (list.clone() as ArrayRef, 0),
        Some(ColumnarValue::Scalar(ScalarValue::LargeList(list))) => (list.clone() as ArrayRef, 0),
        Some(ColumnarValue::Scalar(ScalarValue::FixedSizeList(list))) => (list.clone() as ArrayRef, 0),
        Some(ColumnarValue::Scalar(ScalarValue::Map(map))) => (map.clone() as ArrayRef, 0),
        _ => return 0,
    };
    let length = match array.data_type() {
        DataType::List(_) => i64::from(array.as_list::<i32>().value_length(row)),
        DataType::LargeList(_) => array.as_list::<i64>().value_length(row),
        DataType::FixedSizeList(_, length) => i64::from(*length),
        DataType::Map(..) => i64::from(array.as_map().value_length(row)),
        _ => 0,
    };
    u64::try_from(length).unwrap_or_default()
}

fn has_nested_elements(list: &DataType) -> bool {
    match list {
        DataType::List(of) | DataType::LargeList(of) | DataType::FixedSizeList(of, _) => of.data_type().is_nested(),
        _ => false,
    }
}

/// Letters are counted, where the bytes of which they consist would be many.
fn letters_compared(args: &[ColumnarValue], row: usize, left: u64, right: u64) -> u64 {
    let bytes = left.saturating_mul(right);
    if bytes <= FEW {
        return bytes.saturating_mul(LETTERS);
    }
    let letters = |arg: usize| text_of(args.get(arg), row).chars().count() as u64;
    letters(0).saturating_mul(letters(1)).saturating_mul(LETTERS)
}

/// Whether a pattern takes few steps for each letter of a text, so that a batch of texts is searched soon.
pub(super) fn is_quick(pattern: &str, flags: &str) -> bool {
    pattern.len() <= QUICK && Pattern::of(pattern, flags).states <= QUICK as u64
}

/// Each letter of the pattern is a state.
fn liked(text: u64, pattern: u64) -> u64 {
    let compiled = COMPILED.saturating_add(pattern.saturating_mul(STATE_COMPILED + LETTER_LIKED));
    compiled.saturating_add((text + 1).saturating_mul(pattern + 1).saturating_mul(STATE))
}

/// A constant is searched by an algorithm whose time is linear.
fn text_searched(args: &[ColumnarValue], row: usize, text: u64, part: u64) -> u64 {
    if part > text || matches!(args, [ColumnarValue::Array(_), ColumnarValue::Scalar(_)]) {
        return text;
    }
    let bytes = text_of(args.first(), row).as_bytes();
    let Some(first) = text_of(args.get(1), row).bytes().next() else { return text };
    let last = usize::try_from(text - part).unwrap_or(usize::MAX);
    let places = bytes.iter().take(last.saturating_add(1)).filter(|byte| **byte == first).count() as u64;
    text.saturating_add(places.saturating_mul(part / COMPARED + ELEMENT_COMPARED))
}

/// A pattern is compiled for each row where it is another one than in the row before.
fn patterns_searched(args: &[ColumnarValue], rows: usize, flags: usize, again: Again) -> Vec<u64> {
    let mut last: Option<(&str, &str, Pattern)> = None;
    let mut steps = Vec::with_capacity(rows);
    for row in 0..rows {
        let (written, flags) = (text_of(args.get(1), row), text_of(args.get(flags), row));
        let known = last.filter(|(of, with, _)| *of == written && *with == flags);
        let (pattern, compiled) = match known {
            Some((_, _, pattern)) => (pattern, 0),
            None => {
                let pattern = Pattern::of(written, flags);
                last = Some((written, flags, pattern));
                (pattern, pattern.compiled)
            }
        };
        let is_again = match again {
            Again::Never => false,
            Again::Always => true,
            Again::WithFlag => flags.contains('g'),
            Again::WithCount => args.len() > 3,
        };
        let text = text_of(args.first(), row).len() as u64;
        steps.push(compiled.saturating_add(pattern.steps(text, is_again)));
    }
    steps
}

/// What a regular expression costs, at most.
///
/// The engine follows all ways in which a pattern may go on, at each letter of a text. It remembers which letters lead
/// from which ways to which, and so a letter mostly takes a nanosecond. But there are patterns with too many
/// combinations to be remembered, such as `[ab]*a[ab]{1000}`: then each letter costs as much as the pattern has states.
/// There are as many as letters and classes in the pattern, those that are repeated by a count as often as they are.
///
/// A search ends soon behind the place that it finds, but for patterns that may match there and go on in hope of a
/// longer match or of one that begins before, such as `.*z|a` or `([ab]{2})*b`: in a text without a `z`, each `a` is
/// found only when all of the text was read. Others read on over nothing that a search behind could find.
#[derive(Clone, Copy, Debug)]
struct Pattern {
    states: u64,
    groups: u64,
    /// Steps to compile it.
    compiled: u64,
    /// Whether each search may read all of the text, though it finds something near.
    reads_on: bool,
}

impl Pattern {
    /// Of what the engine makes of a pattern and its flags.
    fn of(written: &str, flags: &str) -> Self {
        let flags = flags.replace('g', "");
        let whole = if flags.is_empty() { written.to_owned() } else { format!("(?{flags}){written}") };
        let read = match verbose(&whole) {
            Some(dense) => Reading::of(&dense),
            None => Reading::of(&whole),
        };
        let Reading { part, groups, classes } = read.unwrap_or_else(|| Reading::unknown(&whole));
        let letters = (whole.len() as u64).saturating_mul(STATE_COMPILED);
        let classes = classes.saturating_mul(CLASS_READ);
        let made = part.made.saturating_mul(STATE_COMPILED).min(MOST_COMPILED);
        Self {
            states: part.states.clamp(1, MOST_STATES),
            groups,
            compiled: COMPILED.saturating_add(letters).saturating_add(classes).saturating_add(made),
            reads_on: part.reads_on,
        }
    }

    /// Steps to search it in a text of so many bytes.
    fn steps(self, text: u64, is_again: bool) -> u64 {
        let letter = self.states.saturating_mul(STATE + self.groups.saturating_mul(GROUP));
        let once = (text + 1).saturating_mul(letter);
        match (is_again, self.reads_on) {
            (false, _) => SEARCH.saturating_add(once),
            (true, false) => once.saturating_add((text + 1).saturating_mul(SEARCH)),
            // From each letter to the end of the text.
            (true, true) => once.saturating_mul(text / 2 + 1).saturating_add((text + 1).saturating_mul(SEARCH)),
        }
    }
}

/// A part of a pattern.
#[derive(Clone, Copy, Debug)]
struct Part {
    states: u64,
    /// States that it is compiled to: those of classes counted.
    made: u64,
    /// How many letters it takes, where it always takes as many.
    length: Option<u64>,
    may_be_empty: bool,
    /// Something in it is repeated without an end, or often.
    repeats: bool,
    /// So is something that is not a letter: it may begin at one letter, and not at the next.
    repeats_words: bool,
    /// Behind what is repeated something must follow.
    is_open: bool,
    /// It may match, while something before or beside it is still open.
    reads_on: bool,
}

impl Part {
    const EMPTY: Self = Self {
        states: 0,
        made: 0,
        length: Some(0),
        may_be_empty: true,
        repeats: false,
        repeats_words: false,
        is_open: false,
        reads_on: false,
    };
    const LETTER: Self = Self { states: 1, made: 1, length: Some(1), may_be_empty: false, ..Self::EMPTY };
    const CLASS: Self = Self { made: CLASS_STATES, ..Self::LETTER };

    fn then(self, next: Self) -> Self {
        Self {
            states: self.states.saturating_add(next.states),
            made: self.made.saturating_add(next.made),
            length: self.length.zip(next.length).map(|(length, more)| length.saturating_add(more)),
            may_be_empty: self.may_be_empty && next.may_be_empty,
            repeats: self.repeats || next.repeats,
            repeats_words: self.repeats_words || next.repeats_words,
            is_open: self.is_open || next.is_open || (self.repeats && !next.may_be_empty),
            reads_on: self.reads_on || next.reads_on || (self.repeats_words && !next.may_be_empty),
        }
    }

    fn or(self, other: Self) -> Self {
        let is_open = self.is_open || other.is_open;
        Self {
            states: self.states.saturating_add(other.states).saturating_add(1),
            made: self.made.saturating_add(other.made).saturating_add(1),
            length: self.length.filter(|length| other.length == Some(*length)),
            may_be_empty: self.may_be_empty || other.may_be_empty,
            repeats: self.repeats || other.repeats,
            repeats_words: self.repeats_words || other.repeats_words,
            is_open,
            reads_on: self.reads_on || other.reads_on || is_open,
        }
    }

    /// Repeated `least` times, and up to `most` times or without an end.
    fn times(self, least: u64, most: Option<u64>) -> Self {
        let copies = most.unwrap_or(least.saturating_add(1)).max(1);
        let is_often = most.is_none_or(|most| most > FEW_TIMES);
        let follows_itself = !self.may_be_empty && least >= 2;
        let is_exact = most == Some(least);
        Self {
            states: self.states.saturating_mul(copies).saturating_add(1),
            made: self.made.saturating_mul(copies).saturating_add(1),
            length: self.length.filter(|_| is_exact).map(|length| length.saturating_mul(least)),
            may_be_empty: self.may_be_empty || least == 0,
            repeats: self.repeats || is_often,
            repeats_words: self.repeats_words || (is_often && self.length != Some(1)),
            is_open: self.is_open || (self.repeats && follows_itself),
            reads_on: self.reads_on || (self.is_open && !is_exact) || (self.repeats_words && follows_itself),
        }
    }

    /// A state where it begins and one where it ends.
    fn in_group(self) -> Self {
        Self { states: self.states.saturating_add(2), made: self.made.saturating_add(2), ..self }
    }
}

/// What stands between parentheses, as far as it was read.
#[derive(Debug)]
struct Group {
    /// The alternatives before the last `|`.
    before: Option<Part>,
    part: Part,
    /// What a repetition that follows would repeat.
    last: Part,
}

impl Group {
    const EMPTY: Self = Self { before: None, part: Part::EMPTY, last: Part::EMPTY };

    fn add(&mut self, part: Part) {
        self.part = self.part.then(mem::replace(&mut self.last, part));
    }

    fn end_alternative(&mut self) {
        self.add(Part::EMPTY);
        let alternative = mem::replace(&mut self.part, Part::EMPTY);
        self.before = Some(self.before.map_or(alternative, |before| before.or(alternative)));
    }

    fn whole(mut self) -> Part {
        self.end_alternative();
        self.before.unwrap_or(Part::EMPTY)
    }
}

/// What was read of a pattern. It need not be a valid one: the engine refuses those.
#[derive(Debug)]
struct Reading {
    part: Part,
    groups: u64,
    classes: u64,
}

impl Reading {
    /// `None` for a pattern in a part of which whitespace and comments are skipped.
    fn of(pattern: &str) -> Option<Self> {
        let mut letters = pattern.chars().peekable();
        let (mut outer, mut group) = (Vec::new(), Group::EMPTY);
        let (mut groups, mut classes) = (0, 0);
        while let Some(letter) = letters.next() {
            let repeated = match letter {
                '*' => Some((0, None)),
                '+' => Some((1, None)),
                '?' => Some((0, Some(1))),
                '{' => counts(&mut letters),
                _ => None,
            };
            if let Some((least, most)) = repeated {
                group.last = group.last.times(least, most);
                // Which of several matches is taken.
                letters.next_if_eq(&'?');
                continue;
            }
            match letter {
                '(' => {
                    groups += 1;
                    if begins_group(&mut letters)? {
                        outer.push(mem::replace(&mut group, Group::EMPTY));
                    } else {
                        group.add(Part::EMPTY);
                    }
                }
                ')' => {
                    if let Some(around) = outer.pop() {
                        let part = mem::replace(&mut group, around).whole();
                        group.add(part.in_group());
                    }
                }
                '|' => group.end_alternative(),
                '[' => {
                    classes += class(&mut letters);
                    group.add(Part::CLASS);
                }
                '.' => {
                    classes += 1;
                    group.add(Part::CLASS);
                }
                '\\' => {
                    classes += 1;
                    group.add(escaped(&mut letters));
                }
                _ => group.add(Part::LETTER),
            }
        }
        Some(Self { part: group.whole(), groups, classes })
    }

    /// The most that it may be.
    fn unknown(pattern: &str) -> Self {
        let length = pattern.len() as u64;
        let states = if pattern.contains('{') { MOST_STATES } else { length.saturating_mul(2) };
        let made = states.saturating_mul(CLASS_STATES);
        let part = Part { states, made, reads_on: true, ..Part::EMPTY };
        Self { part, groups: pattern.matches('(').count() as u64, classes: length }
    }
}

/// Reads what follows `(`, up to the content of the group: `(?i)` has none. `None` where whitespace is skipped.
fn begins_group(letters: &mut Peekable<Chars<'_>>) -> Option<bool> {
    if letters.next_if_eq(&'?').is_none() {
        return Some(true);
    }
    let mut is_name = false;
    for letter in letters.by_ref() {
        match letter {
            ':' | '>' => return Some(true),
            ')' => return Some(false),
            '<' => is_name = true,
            'x' if !is_name => return None,
            _ => {}
        }
    }
    Some(true)
}

/// Reads what follows `{`: how often something is repeated.
fn counts(letters: &mut Peekable<Chars<'_>>) -> Option<(u64, Option<u64>)> {
    let within: String = letters.by_ref().take_while(|letter| *letter != '}').collect();
    let (least, most) = match within.split_once(',') {
        Some((least, most)) => (least.trim(), Some(most.trim())),
        None => (within.trim(), None),
    };
    let least = if least.is_empty() { 0 } else { least.parse().ok()? };
    Some(match most {
        None => (least, Some(least)),
        Some("") => (least, None),
        Some(most) => (least, Some(most.parse().ok()?)),
    })
}

/// Reads what follows `[`, and counts the parts that may be large.
fn class(letters: &mut Peekable<Chars<'_>>) -> u64 {
    let (mut depth, mut parts) = (0, 0);
    let mut next = Some('[');
    while let Some(letter) = next {
        match letter {
            '[' => {
                depth += 1;
                parts += 1;
                letters.next_if_eq(&'^');
                // The first letter is one of the class, even this one.
                letters.next_if_eq(&']');
            }
            ']' => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            '\\' => {
                parts += 1;
                letters.next();
            }
            '-' | '&' | '~' => parts += 1,
            _ => {}
        }
        next = letters.next();
    }
    parts
}

/// Reads what follows `\`.
fn escaped(letters: &mut Peekable<Chars<'_>>) -> Part {
    let Some(letter) = letters.next() else { return Part::EMPTY };
    // `\x{41}` has no count, and neither has `\b{start}`.
    if matches!(letter, 'p' | 'P' | 'x' | 'u' | 'U' | 'b') && letters.next_if_eq(&'{').is_some() {
        letters.by_ref().take_while(|letter| *letter != '}').for_each(drop);
    }
    match letter {
        'd' | 'D' | 's' | 'S' | 'w' | 'W' | 'p' | 'P' => Part::CLASS,
        _ => Part::LETTER,
    }
}

/// A pattern without the whitespace and the comments that a flag at its beginning lets it have.
fn verbose(pattern: &str) -> Option<String> {
    let (flags, rest) = pattern.strip_prefix("(?")?.split_once(')')?;
    if !flags.contains('x') || !flags.bytes().all(|flag| flag.is_ascii_alphabetic()) {
        return None;
    }
    let mut dense = String::with_capacity(rest.len());
    let mut letters = rest.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                dense.push(letter);
                dense.extend(letters.next());
            }
            '#' => letters.by_ref().take_while(|letter| *letter != '\n').for_each(drop),
            letter if letter.is_whitespace() => {}
            letter => dense.push(letter),
        }
    }
    Some(dense)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ListArray, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::literals::planning_session;

    /// Functions that take time linear in the size of their arguments and of what they make, with a small factor.
    const KNOWN: &str = "
        abs acos acosh array_add array_any_value array_append array_avg array_compact array_concat array_dims
        array_distance array_element array_has array_length array_max array_min array_ndims array_normalize
        array_pop_back array_pop_front array_prepend array_product array_repeat array_resize array_reverse
        array_scale array_slice array_subtract array_sum array_to_string arrays_zip arrow_cast arrow_field
        arrow_metadata arrow_try_cast arrow_typeof ascii asin asinh atan atan2 atanh bit_length cardinality
        cast_to_type cbrt ceil character_length chr coalesce concat concat_ws contains cos cosh cosine_distance cot
        current_date current_time date_bin date_part date_trunc decode degrees empty encode ends_with exp factorial
        file_row_index find_in_set flatten floor from_unixtime gcd generate_series get_field greatest initcap
        inner_product input_file_name isnan iszero lcm least left ln log log10 log2 lower lpad make_array make_date
        make_time map_entries map_keys map_values named_struct nanvl now nullif nvl nvl2 octet_length overlay pi
        power radians random range repeat replace reverse right round rpad signum sin sinh split_part sqrt
        starts_with string_to_array struct substr substr_index tan tanh to_char to_hex to_local_time translate
        trunc try_cast_to_type union_extract union_tag upper uuid version with_metadata";

    fn text(of: &str) -> ColumnarValue {
        ColumnarValue::Scalar(ScalarValue::from(of))
    }

    fn texts(of: &[&str]) -> ColumnarValue {
        ColumnarValue::Array(Arc::new(StringArray::from(of.to_vec())))
    }

    fn list(of: i64) -> ListArray {
        ListArray::from_iter_primitive::<Int64Type, _, _>([Some((0..of).map(Some))])
    }

    fn lists(of: i64) -> ColumnarValue {
        ColumnarValue::Array(Arc::new(list(of)))
    }

    fn steps(name: &str, args: &[ColumnarValue]) -> u64 {
        Work::of(name).unwrap().steps(args, 1).unwrap()[0]
    }

    /// A version of the engine with other functions is read before it is used.
    #[test]
    fn each_function_of_a_session_was_judged() {
        let state = planning_session().state();
        let mut new: Vec<&str> = state
            .scalar_functions()
            .values()
            .map(|function| function.name())
            .filter(|name| Work::of(name).is_none() && !KNOWN.split_whitespace().any(|known| known == *name))
            .collect();
        new.sort_unstable();
        new.dedup();
        assert!(new.is_empty(), "read the source of {new:?}: do they take more than linear time?");
    }

    #[test]
    fn what_takes_minutes_takes_many_steps() {
        const MINUTE: u64 = 60_000_000_000;
        let a = |count: usize| text(&"a".repeat(count));
        assert!(steps("levenshtein", &[a(1_000_000), a(1_000_000)]) > MINUTE);
        assert!(steps("strpos", &[a(30_000_000), text(&format!("{}b", "a".repeat(15_000_000)))]) > MINUTE);
        assert!(steps("btrim", &[a(1_000_000), text(&format!("{}a", "b".repeat(1_000_000)))]) > MINUTE);
        assert!(steps("regexp_like", &[a(10_000_000), text("[ab]*a[ab]{5000}")]) > MINUTE);
        assert!(steps("regexp_count", &[a(1_000_000), text(".*[^A-Za-z]|a")]) > MINUTE);
        assert!(steps("regexp_like", &[a(1), text(&r"\w".repeat(5_000_000))]) > MINUTE);
        assert!(steps("array_has_all", &[lists(1_000_000), lists(1_000_000)]) > MINUTE);
        assert!(steps("array_has_any", &[lists(1_000_000), lists(1_000_000)]) > MINUTE);
    }

    #[test]
    fn what_is_common_takes_few_steps() {
        const MILLISECOND: u64 = 1_000_000;
        let line = "2024-01-01 12:00:00 GET https://example.org/a/b?c=d 200 (1.5 ms), from 127.0.0.1";
        for (name, args) in [
            ("levenshtein", vec![text("kitten"), text("sitting")]),
            ("strpos", vec![text(line), text("https")]),
            ("strpos", vec![texts(&[&line.repeat(1_000)]), text(line)]),
            ("btrim", vec![text(line), text(" \t\r\n")]),
            ("regexp_like", vec![text(line), text(r"^\d{4}-\d{2}-\d{2}")]),
            ("regexp_replace", vec![text(line), text("^https?://(?:www\\.)?([^/]+)/.*$"), text("\\1")]),
            ("regexp_replace", vec![text(line), text("[^a-z]+"), text(" "), text("g")]),
            ("regexp_count", vec![text(line), text("a|e|i")]),
            ("to_timestamp", vec![text(line), text("%Y-%m-%d"), text("%d.%m.%Y")]),
            ("array_has_all", vec![lists(100), lists(10)]),
            ("array_has_any", vec![lists(1_000), ColumnarValue::Scalar(ScalarValue::List(Arc::new(list(1_000))))]),
            ("array_sort", vec![lists(1_000)]),
            ("array_distinct", vec![lists(1_000)]),
            ("array_position", vec![lists(10_000), ColumnarValue::Scalar(ScalarValue::from(1_i64))]),
        ] {
            let taken = steps(name, &args);
            assert!(taken > 0 && taken < MILLISECOND, "{name}: {taken}");
        }
    }

    /// Letters of four bytes are letters.
    #[test]
    fn letters_are_compared_not_bytes() {
        let letters = text(&"\u{1f600}".repeat(2_000));
        assert_eq!(steps("levenshtein", &[letters.clone(), letters]), 4_000_000 * LETTERS);
        assert_eq!(steps("levenshtein", &[text(""), text("abc")]), 0);
        assert_eq!(steps("levenshtein", &[ColumnarValue::Scalar(ScalarValue::Utf8(None)), text("abc")]), 0);
    }

    #[test]
    fn each_pattern_of_a_column_is_compiled_once_in_a_row() {
        let patterns = texts(&["a", "a", "b", "a"]);
        let work = Work::of("regexp_like").unwrap();
        let taken = work.steps(&[text("x"), patterns], 4).unwrap();
        let is_compiled: Vec<bool> = taken.iter().map(|steps| *steps > COMPILED).collect();
        assert_eq!(is_compiled, [true, false, true, true]);
        let constant = work.steps(&[texts(&["x", "y", "z"]), text("a+")], 3).unwrap();
        assert!(constant[0] > COMPILED && constant[1] < COMPILED && constant[2] < COMPILED, "{constant:?}");
    }

    #[test]
    fn states_of_patterns_are_counted_as_often_as_they_are_repeated() {
        for (pattern, flags, least) in [
            ("(a|b|ab){1000}", "", 4_000),
            ("a{1000,}", "", 1_000),
            ("a{1,1000}", "", 1_000),
            ("a{,1000}", "", 1_000),
            ("a{ 10 , 1000 }?", "", 1_000),
            ("(?:(?:a{10}){10}){10}", "", 1_000),
            ("((a{100}){100}){100}", "", MOST_STATES),
            (r"\p{L}{1000}", "", 1_000),
            (r"\pL{1000}", "", 1_000),
            (r"\d{1000}", "", 1_000),
            (r"\\{1000}", "", 1_000),
            ("[]]{1000}", "", 1_000),
            ("[^]]{1000}", "", 1_000),
            ("[[:alpha:]]{1000}", "", 1_000),
            ("[a[b]]{1000}", "", 1_000),
            (r"[\]]{1000}", "", 1_000),
            ("(?P<x>a){1000}", "", 1_000),
            ("(?i:a){1000}", "", 1_000),
            ("a?{1000}", "", 1_000),
            ("((((a)))){1000}", "", 9_000),
            ("(?:(a)|()){1000}", "", 5_000),
            ("a", "i)(b{1000})(?i", 1_000),
            ("(?x)#[\n(a|b){1000}", "", 2_000),
            ("#[\n(a|b){1000}", "x", 2_000),
            ("(?x)a { 1 0 0 0 }", "", 1_000),
            ("(?x: #[\n(a|b){1000})", "", 1_000),
            ("(?x)a(?-x)#(b){1000}", "", 1_000),
        ] {
            let states = Pattern::of(pattern, flags).states;
            assert!(states >= least, "`{pattern}`, `{flags}`: {states}");
            assert!(states <= MOST_STATES);
        }
        let few = r"abc \x{1000} a\{1000} \b{start}a [a{1000}] []{1000}] [^]{1000}] [a[b]{1000}] [[:alpha:]{1000}]
            (?<x1000>a) a{ a))) ((( [ \ {1000}";
        for pattern in few.split_whitespace().chain(["", "(?x) a  b # {1000}"]) {
            let states = Pattern::of(pattern, "").states;
            assert!(states <= 20, "`{pattern}`: {states}");
        }
    }

    /// A search that goes on behind what it found is paid for by each search.
    #[test]
    fn patterns_that_read_on_are_known() {
        let read_on = r".*z|a .*[^A-Z]|[A-Z] a(.*z)? a(?:.*z)? a(?:.*z)* a(?:.*?z)?? foo|bar.*z (foo|bar[^;]*;)+
            (?:.{0,1000}z)|a (?:(?:.*z)|a)b .*$|a .*\b|a (?:x*?z+?|a) (?x)(?-x:#).*z|a (?:[^c]{2})*?[bc]
            (?:[bc]|[^c]c)*c (?:.[^c])*?b (?:(?:ab)*){2}c \w+(?:\.\w+)*@\w+";
        for pattern in read_on.split_whitespace() {
            assert!(Pattern::of(pattern, "").reads_on, "`{pattern}`");
        }
        let stop = r"a+ \d+|[a-z]+ \s+|, a.*z a.*?z https?://[^/]+/ (http|https)://[^/]+/.* \w+(?:\.\w+)* (?:a|b)*c ^.*$
            a{2,5}|b (?i)error|warning x*";
        for pattern in stop.split_whitespace() {
            assert!(!Pattern::of(pattern, "").reads_on, "`{pattern}`");
        }
    }

    #[test]
    fn rows_have_their_own_steps() {
        let left = texts(&["", "a", "aaaa"]);
        let taken = Work::of("levenshtein").unwrap().steps(&[left, text("bbb")], 3).unwrap();
        assert_eq!(taken, [0, 3 * LETTERS, 12 * LETTERS]);
        let needles = texts(&["a", "b", ""]);
        let taken = Work::of("strpos").unwrap().steps(&[texts(&["aaaa", "aaaa", "aaaa"]), needles], 3).unwrap();
        assert!(taken[0] > taken[1] && taken[1] == 4 && taken[2] == 4, "{taken:?}");
    }
}
