//! References in `starmere.yaml`: `${env:NAME}` and `${file:PATH}` may stand in any value.
//!
//! They are replaced in the text, before it is read into types, so that numbers and addresses may be references too. A
//! value that has one becomes a quoted text: whatever a variable holds, it cannot become another key or a comment.
//! Secrets are left as they are, and looked up when they are used: `check` needs none of them.

use std::path::Path;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::{Value, json};
use starmere_models::define::{Place, Problem};

use crate::failure;
use crate::project::{is_whole, resolved};

/// What to write.
const HINT: &str = "write ${env:NAME} or ${file:PATH}";

/// The text of the file, which problems call `file`, with its references looked up; `root` is the project's folder.
pub(crate) fn looked_up(root: &Path, text: &str, file: &str) -> Result<String, Vec<Problem>> {
    let (mut result, mut copied, mut problems) = (String::with_capacity(text.len()), 0, Vec::new());
    let mut keys = Keys::default();
    for event in Parser::new_from_str(text) {
        // What is no YAML is told by whoever reads it.
        let Ok((event, span)) = event else { return Ok(text.to_owned()) };
        let Some((value, is_secret)) = keys.go_on(&event) else { continue };
        if is_secret || !value.contains("${") {
            continue;
        }
        let (line, column) = (span.start.line() as u64, span.start.col() as u64 + 1);
        let place = Place { file: file.to_owned(), line, column };
        let in_one_line = !matches!(&event, Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..));
        let range = span.byte_range().filter(|range| in_one_line && !text[range.clone()].contains('\n'));
        let Some(range) = range else {
            let problem = Problem::new(place, "a value with a reference has several lines");
            problems.push(problem.hint("write it in one line, in quotes"));
            continue;
        };
        if !is_whole(value) {
            problems.push(Problem::new(place, format!("`{value}` has a reference that is not whole")).hint(HINT));
            continue;
        }
        match resolved(root, value) {
            Ok(value) => {
                result += &text[copied..range.start];
                // JSON's texts are YAML's texts in double quotes.
                result += &json!(value).to_string();
                copied = range.end;
            }
            Err(error) => {
                let hint = failure::hint(&error).unwrap_or_else(|| "mend the reference".to_owned());
                problems.push(Problem::new(place, format!("{error:#}")).hint(hint));
            }
        }
    }
    result += &text[copied..];
    if problems.is_empty() { Ok(result) } else { Err(problems) }
}

/// Which keys lead to where the parser is.
#[derive(Default)]
pub(crate) struct Keys(Vec<Level>);

enum Level {
    List,
    /// With the key whose value comes next, unless a key does.
    Mapping(Option<String>),
}

impl Keys {
    /// Goes on by an event. Where it is a value and no key: its text, and whether it is a secret.
    pub(crate) fn go_on<'e>(&mut self, event: &'e Event<'_>) -> Option<(&'e str, bool)> {
        let is_key = matches!(self.0.last(), Some(Level::Mapping(None)));
        match event {
            Event::Scalar(text, ..) if is_key => self.ended(text),
            Event::Scalar(text, ..) => {
                let is_secret = self.is_secret();
                self.ended("");
                return Some((&**text, is_secret));
            }
            Event::Alias(..) => self.ended(""),
            Event::MappingStart(..) => self.0.push(Level::Mapping(None)),
            Event::SequenceStart(..) => self.0.push(Level::List),
            Event::MappingEnd | Event::SequenceEnd => {
                self.0.pop();
                self.ended("");
            }
            _ => {}
        }
        None
    }

    /// A key has ended, which is called this, or a value.
    fn ended(&mut self, name: &str) {
        if let Some(Level::Mapping(key)) = self.0.last_mut() {
            *key = if key.is_some() { None } else { Some(name.to_owned()) };
        }
    }

    /// Passwords, the secrets of webhooks, and the settings of a source, which hold some.
    fn is_secret(&self) -> bool {
        let keys = self.0.iter().filter_map(|level| match level {
            Level::Mapping(key) => key.as_deref(),
            Level::List => None,
        });
        let keys: Vec<&str> = keys.collect();
        matches!(keys.last(), Some(&("password" | "secrets"))) || keys.contains(&"settings")
    }
}

/// How editors know a reference, and a variable of a definition.
pub(crate) const REFERENCE: &str = r"^\$\{(env|file):[^}]+\}$";
pub(crate) const VARIABLE: &str = r"^\$\{[a-z][a-z0-9_]*\}$";

/// Lets editors take `pattern` where a schema wants numbers, truth values and texts of a certain form.
pub(crate) fn allow(schema: &mut Value, pattern: &str) {
    let is_one = |kind: &Value| matches!(kind.as_str(), Some("integer" | "number" | "boolean"));
    let kind = schema.get("type");
    let is_form = schema.get("pattern").is_some_and(Value::is_string);
    if is_form || kind.is_some_and(|kind| is_one(kind) || kind.as_array().is_some_and(|kinds| kinds.iter().any(is_one)))
    {
        let own = schema.take();
        *schema = json!({ "anyOf": [own, { "type": "string", "pattern": pattern }] });
        return;
    }
    match schema {
        Value::Object(members) => members.values_mut().for_each(|member| allow(member, pattern)),
        Value::Array(items) => items.iter_mut().for_each(|item| allow(item, pattern)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked_up_in(files: &[(&str, &str)], text: &str) -> Result<String, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        let looked_up = looked_up(folder.path(), text, "starmere.yaml");
        looked_up.map_err(|problems| problems.iter().map(|problem| problem.to_string()).collect())
    }

    #[test]
    fn values_of_any_kind_are_looked_up_and_secrets_are_not() {
        let text = "\
# ${env:NOBODY}
http: ${file:http}   # ${env:NOBODY}
list: [\"${file:number}\", 'a ${file:number} b']
password_file: x${file:number}
users: { a: { password: '${env:NOBODY}' } }
webhooks: { a: { secrets: ['${env:NOBODY}', '${env:NOBODY}'], tolerance_seconds: 1 } }
sources:
  s:
    kafka:
      settings: { x: '${env:NOBODY}' }
      topics: ['${file:number}']
${file:number}: y
";
        let expected = "\
# ${env:NOBODY}
http: \"127.0.0.1:0\"   # ${env:NOBODY}
list: [\"7\", \"a 7 b\"]
password_file: \"x7\"
users: { a: { password: '${env:NOBODY}' } }
webhooks: { a: { secrets: ['${env:NOBODY}', '${env:NOBODY}'], tolerance_seconds: 1 } }
sources:
  s:
    kafka:
      settings: { x: '${env:NOBODY}' }
      topics: [\"7\"]
${file:number}: y
";
        assert_eq!(looked_up_in(&[("http", "127.0.0.1:0\n"), ("number", "7")], text).as_deref(), Ok(expected));
    }

    #[test]
    fn what_a_variable_holds_stays_one_value() {
        let nasty = "a\"\nb: c # \\ ü";
        let text = looked_up_in(&[("nasty", nasty)], "x: ${file:nasty}\n").unwrap();
        let parsed: Value = starmere_models::define::parse_text(&text, "x").unwrap().definition;
        assert_eq!(parsed, json!({ "x": nasty }));
    }

    #[test]
    fn what_cannot_be_looked_up_is_told_with_its_place() {
        let text = "a: 1\nb: { c: '${env:STARMERE_NOBODY}' }\nd: x${env\ne: |\n  ${env:X}\nf: ${file:nowhere}\n";
        let told = looked_up_in(&[], text).unwrap_err();
        let words = [
            "starmere.yaml:2:9: the variable `STARMERE_NOBODY` is not set",
            "starmere.yaml:3:4: `x${env` has a reference that is not whole",
            "a value with a reference has several lines",
            "starmere.yaml:6:4: could not read `nowhere`",
        ];
        assert_eq!(told.len(), words.len(), "{told:?}");
        for (told, words) in told.iter().zip(words) {
            assert!(told.contains(words), "{words}: {told}");
        }
    }

    #[test]
    fn text_that_is_no_yaml_is_left_as_it_is() {
        for text in ["a: x\nb: [", "a: '${file:a}'\nb: [", ""] {
            assert_eq!(looked_up_in(&[("a", "1")], text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn editors_take_references_for_numbers() {
        let form = json!({ "type": "string", "pattern": "^(int|bool)$" });
        let mut schema = json!({
            "properties": { "a": { "type": ["integer", "null"] }, "b": { "type": "string" }, "c": form }
        });
        allow(&mut schema, VARIABLE);
        assert_eq!(schema["properties"]["a"]["anyOf"][0], json!({ "type": ["integer", "null"] }));
        assert_eq!(schema["properties"]["a"]["anyOf"][1]["type"], "string");
        assert_eq!(schema["properties"]["b"], json!({ "type": "string" }));
        assert_eq!(schema["properties"]["c"]["anyOf"], json!([form, { "type": "string", "pattern": VARIABLE }]));
    }
}
