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
            let place = Place { file: name.to_owned(), line, column };
            Err(explain(place, &error.without_snippet().to_string()))
        }
    }
}

/// Words serde's message as ours: unknown keys get a suggestion.
fn explain(place: Place, message: &str) -> Problem {
    let message = message.lines().next().unwrap_or(message);
    // The parser appends the place, which we show ourselves.
    let message = message.split(" at line ").next().unwrap_or(message).trim_end_matches([',', ':', ' ']);
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let known = |what: &str| {
        let wrong = quoted.first().copied().unwrap_or_default();
        let hint = super::suggestion(wrong, quoted.iter().skip(1).copied());
        Problem::new(place.clone(), format!("unknown {what} `{wrong}`")).hint(hint)
    };
    if message.contains("unknown field") {
        known("key")
    } else if message.contains("unknown variant") {
        known("choice")
    } else {
        Problem::new(place, message)
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
