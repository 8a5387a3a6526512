//! Reading definition files, and saying where they are wrong.

use serde::de::DeserializeOwned;

use super::{DerivedFile, DimensionFile, FactFile, Place, Problem};

/// A definition and the file it stands in.
#[derive(Clone, Debug)]
pub struct Parsed<T> {
    /// As problems name it.
    pub file: String,
    pub definition: T,
}

/// Reads and parses the file at `path`, which problems call `name`.
pub fn parse<T: DeserializeOwned>(path: &std::path::Path, name: &str) -> Result<Parsed<T>, Problem> {
    parse_text(&read_text(path, name)?, name)
}

/// Reads the file at `path`, which problems call `name`.
pub fn read_text(path: &std::path::Path, name: &str) -> Result<String, Problem> {
    let place = || Place { file: name.to_owned(), line: 1, column: 1 };
    let bytes = std::fs::read(path);
    text_of(bytes.map_err(|error| Problem::new(place(), format!("could not be read: {error}")))?, name)
}

/// A model of any kind: a key of its own says which.
#[derive(Clone, Debug)]
pub enum ModelFile {
    Dimension(Box<Parsed<DimensionFile>>),
    Fact(Parsed<FactFile>),
    Derived(Parsed<DerivedFile>),
}

/// Parses a model.
pub fn parse_model_text(text: &str, name: &str) -> Result<ModelFile, Problem> {
    fn derived<T: DeserializeOwned>(text: &str, name: &str, kind: fn(T) -> DerivedFile) -> Result<ModelFile, Problem> {
        let Parsed { file, definition } = parse_text::<T>(text, name)?;
        Ok(ModelFile::Derived(Parsed { file, definition: kind(definition) }))
    }
    let has = |key: &str| text.lines().any(|line| line.trim_start_matches('\u{feff}').starts_with(key));
    if has("fact:") {
        return parse_text(text, name).map(ModelFile::Fact);
    }
    type Parse = fn(&str, &str) -> Result<ModelFile, Problem>;
    let kinds: [(&str, Parse); 10] = [
        ("sql:", |text, name| derived(text, name, DerivedFile::Sql)),
        ("rollup:", |text, name| derived(text, name, DerivedFile::Rollup)),
        ("derived_fact:", |text, name| derived(text, name, DerivedFile::DerivedFact)),
        ("periodic_snapshot:", |text, name| derived(text, name, DerivedFile::Periodic)),
        ("accumulating_snapshot:", |text, name| derived(text, name, DerivedFile::Accumulating)),
        ("ledger:", |text, name| derived(text, name, DerivedFile::Ledger)),
        ("allocation:", |text, name| derived(text, name, DerivedFile::Allocation)),
        ("bridge:", |text, name| derived(text, name, DerivedFile::Bridge)),
        ("shrunken_dimension:", |text, name| derived(text, name, DerivedFile::Shrunken)),
        ("hierarchy:", |text, name| derived(text, name, DerivedFile::Hierarchy)),
    ];
    match kinds.iter().find(|(key, _)| has(key)) {
        Some((_, parse)) => parse(text, name),
        None => parse_text(text, name).map(|file| ModelFile::Dimension(Box::new(file))),
    }
}

fn text_of(bytes: Vec<u8>, name: &str) -> Result<String, Problem> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let before = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
            let column = 1 + before.chars().rev().take_while(|&character| character != '\n').count() as u64;
            let place = Place { file: name.to_owned(), line: 1 + before.matches('\n').count() as u64, column };
            Err(Problem::new(place, "not UTF-8").hint("save the file as UTF-8"))
        }
    }
}

/// Parses a definition. `true` and `false` are truth values, as YAML 1.2 has it; `no` and `y` are texts.
pub fn parse_text<T: DeserializeOwned>(text: &str, name: &str) -> Result<Parsed<T>, Problem> {
    match serde_saphyr::from_str_with_options::<T>(text, serde_saphyr::options! { strict_booleans: true }) {
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
    const TOO_MUCH: &str = "nested too deeply, or too long with its anchors written out";
    let message = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            let hint = super::suggestion(field, expected.iter().copied());
            return Problem::new(place, format!("unknown key `{field}`")).hint(hint);
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            let hint = super::suggestion(variant, expected.iter().copied());
            return Problem::new(place, format!("unknown choice `{variant}`")).hint(hint);
        }
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        Error::DuplicateMappingKey { key, .. } => {
            format!("the key `{}` is there twice", key.as_deref().unwrap_or_default())
        }
        Error::ExpectedMappingEndAfterEnumVariantValue { .. } => "a second key where one belongs".to_owned(),
        Error::InvalidBooleanStrict { .. } => "neither `true` nor `false`".to_owned(),
        Error::InvalidScalar { .. } => "not a whole number, or out of range".to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => {
            "not a map: keys and values, as in `key: value`".to_owned()
        }
        Error::Unexpected { expected: "sequence start", .. } => "not a list".to_owned(),
        Error::Unexpected { expected: "string scalar", .. } => "not a text".to_owned(),
        Error::NullIntoString { .. } => "nothing where a text belongs".to_owned(),
        Error::Eof { .. } => "the file ends where a definition belongs".to_owned(),
        Error::MultipleDocuments { .. } => "a second definition: a file holds one".to_owned(),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an anchor that contains itself".to_owned(),
        Error::UnknownAnchor { .. } => "there is no such anchor".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. } => TOO_MUCH.to_owned(),
        other => {
            let text = other.to_string();
            let first = text.lines().next().unwrap_or_default();
            // The parser appends the place, which we show ourselves.
            let message = first.split(" at line ").next().unwrap_or(first).trim_start_matches("error: ");
            match message.trim_end_matches([',', ':', ' ']) {
                "recursion limit exceeded" => TOO_MUCH.to_owned(),
                message if message.starts_with("budget breached") => TOO_MUCH.to_owned(),
                message => message.to_owned(),
            }
        }
    };
    Problem::new(place, message)
}

#[cfg(test)]
mod tests {
    use super::super::{DimensionFile, FactFile};
    use super::*;

    #[test]
    fn a_wrong_key_is_shown_with_its_place_and_a_suggestion() {
        let text = "dimension: customer\nkey: customer_id\natributes: {}\n";
        let problem = parse_text::<DimensionFile>(text, "customer.yaml").unwrap_err();
        assert_eq!(
            problem.to_string(),
            "customer.yaml:3:1: unknown key `atributes`\n  hint: did you mean `attributes`?"
        );
    }

    #[test]
    fn a_wrong_type_is_shown_with_its_place() {
        let text = "fact: f\nfrom: { stream: s, event: e }\ngrain: id\nmeasures:\n  amount: { type: integer }\n";
        let problem = parse_text::<FactFile>(text, "f.yaml").unwrap_err();
        assert_eq!((problem.place.line, problem.place.column), (5, 19), "{problem}");
        assert_eq!(problem.message, "`integer` is not a type: did you mean `int`?");
    }

    #[test]
    fn broken_yaml_is_a_problem_and_no_panic() {
        for text in ["", "[", "fact: [\n", "fact: f\n  grain: x", "\u{0}", "fact: f\nfact: g\n", "- 1"] {
            let problem = parse_text::<FactFile>(text, "f.yaml").unwrap_err();
            assert!(!problem.message.is_empty());
        }
    }
    #[test]
    fn bytes_that_are_no_text_have_a_place() {
        let bytes = ["fact: f\nfrom: Größe ".as_bytes(), b"\xff"].concat();
        let problem = text_of(bytes, "f.yaml").unwrap_err();
        assert_eq!(problem.to_string(), "f.yaml:2:13: not UTF-8\n  hint: save the file as UTF-8");
    }
}
