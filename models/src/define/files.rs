//! Reading definition files, and saying where they are wrong.

use serde::de::DeserializeOwned;

use super::{Place, Problem};

/// A definition and the file it stands in.
#[derive(Clone, Debug)]
pub struct Parsed<T> {
    /// As problems name it.
    pub file: String,
    pub definition: T,
}

/// Reads and parses the file at `path`, which problems call `name`.
pub fn parse<T: DeserializeOwned>(path: &std::path::Path, name: &str) -> Result<Parsed<T>, Problem> {
    let place = || Place { file: name.to_owned(), line: 1, column: 1 };
    let bytes = std::fs::read(path).map_err(|error| Problem::new(place(), format!("could not be read: {error}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|error| Problem::new(place(), format!("not UTF-8: invalid at byte {}", error.utf8_error().valid_up_to())))?;
    parse_text(&text, name)
}

/// Parses a definition.
pub fn parse_text<T: DeserializeOwned>(text: &str, name: &str) -> Result<Parsed<T>, Problem> {
    match serde_saphyr::from_str::<T>(text) {
        Ok(definition) => Ok(Parsed { file: name.to_owned(), definition }),
        Err(error) => {
            let location = error.location();
            let (line, column) = location.map_or((1, 1), |location| (location.line(), location.column()));
            Err(explain(Place { file: name.to_owned(), line, column }, error.without_snippet()))
        }
    }
}

/// Words the parser's error as ours: unknown keys get a suggestion.
fn explain(place: Place, error: &serde_saphyr::Error) -> Problem {
    use serde_saphyr::Error;
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            Problem::new(place, format!("unknown key `{field}`")).hint(super::suggestion(field, expected.iter().copied()))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            Problem::new(place, format!("unknown choice `{variant}`")).hint(super::suggestion(variant, expected.iter().copied()))
        }
        Error::SerdeMissingField { field, .. } => Problem::new(place, format!("the key `{field}` is missing")),
        Error::DuplicateMappingKey { key, .. } => {
            Problem::new(place, format!("the key `{}` is there twice", key.as_deref().unwrap_or_default()))
        }
        other => {
            let text = other.to_string();
            let first = text.lines().next().unwrap_or_default();
            // The parser appends the place, which we show ourselves.
            let message = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ");
            Problem::new(place, message.trim_end_matches([',', ':', ' ']))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DimensionFile, FactFile};
    use super::*;

    #[test]
    fn a_wrong_key_is_shown_with_its_place_and_a_suggestion() {
        let text = "dimension: customer\nkey: customer_id\natributes: {}\n";
        let problem = parse_text::<DimensionFile>(text, "customer.yaml").unwrap_err();
        assert_eq!(problem.to_string(), "customer.yaml:3:1: unknown key `atributes`\n  hint: did you mean `attributes`?");
    }

    #[test]
    fn a_wrong_type_is_shown_with_its_place() {
        let text = "fact: f\nfrom: { stream: s, event: e }\ngrain: id\nmeasures:\n  amount: { type: integer }\n";
        let problem = parse_text::<FactFile>(text, "f.yaml").unwrap_err();
        assert_eq!((problem.place.line, problem.place.column > 1), (5, true), "{problem}");
        assert!(problem.message.contains("`integer` is not a type: did you mean `int`?") || problem.message.contains("is not a type"), "{problem}");
    }

    #[test]
    fn broken_yaml_is_a_problem_and_no_panic() {
        for text in ["", "[", "fact: [\n", "fact: f\n  grain: x", "\u{0}", "fact: f\nfact: g\n", "- 1"] {
            let problem = parse_text::<FactFile>(text, "f.yaml").unwrap_err();
            assert!(!problem.message.is_empty());
        }
    }
}
