//! Where a definition says something, and what is wrong there.

use std::fmt;
use std::ops::Deref;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A place in a file; lines and columns count from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    pub line: u64,
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value and its place in the file. Written out and compared, it is only the value.
#[derive(Clone, Debug, Default)]
pub struct Placed<T> {
    pub value: T,
    line: u64,
    column: u64,
}

impl<T> Placed<T> {
    /// The place, in `file`.
    pub fn place(&self, file: &str) -> Place {
        Place { file: file.to_owned(), line: self.line, column: self.column }
    }

    /// Another value at the same place.
    pub fn at<U>(&self, value: U) -> Placed<U> {
        Placed { value, line: self.line, column: self.column }
    }
}

impl<T> From<T> for Placed<T> {
    fn from(value: T) -> Self {
        Self { value, line: 1, column: 1 }
    }
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<T>::deserialize(deserializer)?;
        let (line, column) = (spanned.referenced.line(), spanned.referenced.column());
        Ok(Self { value: spanned.value, line, column })
    }
}

impl<T: Serialize> Serialize for Placed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Placed<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(generator)
    }

    fn inline_schema() -> bool {
        T::inline_schema()
    }
}

/// Something wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
}

impl Problem {
    /// A problem at `place`.
    pub fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into(), hint: None }
    }

    /// Says what to do, where the hint does.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint: String = hint.into();
        self.hint = Some(hint).filter(|hint| is_advice(hint));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// What [`suggestion`] says where there is nothing to choose from: fit for a sentence, and no hint.
const NO_CHOICE: &str = "there is none";

/// Whether a hint says what to do.
pub fn is_advice(hint: &str) -> bool {
    !hint.is_empty() && hint != NO_CHOICE
}

/// "did you mean …", or all choices where nothing is near.
pub fn suggestion<'a>(wrong: &str, choices: impl IntoIterator<Item = &'a str>) -> String {
    let choices: Vec<&str> = choices.into_iter().collect();
    let near = choices.iter().map(|choice| (strsim::damerau_levenshtein(wrong, choice), choice)).min();
    let near = near.filter(|(distance, _)| *distance <= 1 + wrong.len() / 4).map(|(_, choice)| choice);
    let begun = || {
        choices
            .iter()
            .filter(|choice| choice.len() > 2 && wrong.starts_with(**choice))
            .max_by_key(|choice| choice.len())
    };
    match near.or_else(begun) {
        Some(choice) => format!("did you mean `{choice}`?"),
        None if choices.is_empty() => NO_CHOICE.to_owned(),
        None => {
            format!("there are: {}", choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_that_says_nothing_to_do_is_no_hint() {
        let said = |choices: &[&str]| {
            let hint = suggestion("salse", choices.iter().copied());
            Problem::new(Place::default(), "there is no model `salse`").hint(hint).hint
        };
        assert_eq!(said(&["sales"]).as_deref(), Some("did you mean `sales`?"));
        assert_eq!(said(&[]), None);
        assert_eq!(Problem::new(Place::default(), "wrong").hint("").hint, None);
    }
}
