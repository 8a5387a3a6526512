//! Variables in definitions: `${NAME}` stands for what `variables` of starmere.yaml say.
//!
//! They are replaced in the text, before it is read into types: what a definition means, and the fingerprint of what is
//! made of it, has their values in it, and a variable that nothing names changes nothing. A scalar stays one in its
//! style, whatever a variable holds, and lines stay where they are. Keys are left as they are.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle};
use serde_json::json;
use starmere_models::define::{Place, Placed, Problem, Scalar, is_advice, suggestion};
use starmere_models::resolve::check_name;

use crate::references::Keys;

/// What to write where `${` is no variable.
const TEXT: &str = "variables are written ${name}; where the text itself is meant, write $${";

/// Variables and their values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Those that are `declared` in `file`.
    pub(crate) fn of(declared: &BTreeMap<String, Placed<Scalar>>, file: &str) -> Result<Self, Vec<Problem>> {
        let (mut variables, mut problems) = (BTreeMap::new(), Vec::new());
        for (name, value) in declared {
            let place = value.place(file);
            problems.extend(check_name(name, &place));
            let text = value.0.clone().unwrap_or_default();
            if text.is_empty() || text.trim() != text || text.contains(char::is_control) {
                let problem = Problem::new(place, format!("the variable `{name}` is not one line of text"));
                problems.push(problem.hint("write a text or a number, without blanks at its ends"));
            }
            variables.insert(name.clone(), text);
        }
        if problems.is_empty() { Ok(Self(variables)) } else { Err(problems) }
    }

    /// A definition's text, which problems call `file`, with the values of its variables.
    pub(crate) fn filled_in(&self, text: &str, file: &str) -> Result<String, Vec<Problem>> {
        let (mut result, mut copied, mut problems) = (String::with_capacity(text.len()), 0, Vec::new());
        let mut keys = Keys::default();
        let events = text.contains("${").then(|| Parser::new_from_str(text));
        for event in events.into_iter().flatten() {
            // What is no YAML is told by whoever reads it.
            let Ok((event, span)) = event else { return Ok(text.to_owned()) };
            let is_value = keys.go_on(&event).is_some();
            let Event::Scalar(_, style, ..) = &event else { continue };
            let Some(range) = span.byte_range().filter(|_| is_value) else { continue };
            let Some(raw) = text.get(range.clone()).filter(|raw| raw.contains("${")) else { continue };
            match self.scalar(raw, *style) {
                Ok(scalar) => {
                    result += &text[copied..range.start];
                    result += &scalar;
                    copied = range.end;
                }
                Err((message, hint)) => {
                    let (line, column) = (span.start.line() as u64, span.start.col() as u64 + 1);
                    let place = Place { file: file.to_owned(), line, column };
                    problems.push(Problem::new(place, message).hint(hint));
                }
            }
        }
        result += &text[copied..];
        if problems.is_empty() { Ok(result) } else { Err(problems) }
    }

    /// A scalar as it was written, filled in; or what is wrong with it, and what to do.
    fn scalar(&self, raw: &str, style: ScalarStyle) -> Result<String, (String, String)> {
        let is_plain = style == ScalarStyle::Plain;
        let whole = raw.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).filter(|_| is_plain);
        if let Some(number) = whole.and_then(|name| self.0.get(name)).filter(|value| is_number(value)) {
            return Ok(number.clone());
        }
        // A plain text may not hold what a value does; between double quotes, it may.
        let own = |text: &str| match is_plain {
            true => text.replace('\\', "\\\\").replace('"', "\\\""),
            false => text.to_owned(),
        };
        let filled = |value: &str| match style {
            ScalarStyle::Plain | ScalarStyle::DoubleQuoted => {
                // JSON's texts are YAML's texts in double quotes.
                let quoted = json!(value).to_string();
                quoted[1..quoted.len() - 1].to_owned()
            }
            ScalarStyle::SingleQuoted => value.replace('\'', "''"),
            ScalarStyle::Literal | ScalarStyle::Folded => value.to_owned(),
        };
        let (mut result, mut rest) = (String::new(), raw);
        while let Some(start) = rest.find("${") {
            let after = &rest[start + 2..];
            if let Some(before) = rest[..start].strip_suffix('$') {
                result += &own(before);
                result += "${";
                rest = after;
                continue;
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(("there is a `${` without `}`".to_owned(), TEXT.to_owned()));
            };
            result += &own(&rest[..start]);
            result += &filled(self.value(name)?);
            rest = after;
        }
        result += &own(rest);
        Ok(if is_plain { format!("\"{result}\"") } else { result })
    }

    fn value(&self, name: &str) -> Result<&str, (String, String)> {
        if let Some(value) = self.0.get(name) {
            return Ok(value);
        }
        if let Some(("env" | "file", _)) = name.split_once(':') {
            let message = format!("`${{{name}}}` is looked up in starmere.yaml only");
            let hint =
                format!("declare a variable there, `variables: {{ name: \"${{{name}}}\" }}`, and write ${{name}}");
            return Err((message, hint));
        }
        if check_name(name, &Place::default()).is_some() {
            return Err((format!("`${{{name}}}` is no variable"), TEXT.to_owned()));
        }
        let near = suggestion(name, self.0.keys().map(String::as_str));
        let hint = match is_advice(&near) {
            true => near,
            false => format!("declare it in starmere.yaml: `variables: {{ {name}: … }}`"),
        };
        Err((format!("there is no variable `{name}`"), hint))
    }
}

/// Adds what to do to a problem of a line in which something looks like a variable and is none.
pub(crate) fn advised(problem: Problem, text: &str) -> Problem {
    let line = usize::try_from(problem.place.line.saturating_sub(1)).ok().and_then(|line| text.lines().nth(line));
    match line {
        Some(line) if line.contains("${") => {
            problem.hint("between braces and brackets, write a text with ${ in quotes")
        }
        _ => problem,
    }
}

/// Whether a text is a number, without an exponent.
fn is_number(text: &str) -> bool {
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    are_digits(whole.strip_prefix('-').unwrap_or(whole)) && are_digits(part)
}

#[cfg(test)]
mod tests {
    use starmere_models::define::parse_text;

    use super::*;

    fn variables() -> Variables {
        let all = [("days", "400"), ("vat", "-1.10"), ("nasty", "a\"b\\c'd: e # f"), ("money", "decimal(9,2)")];
        Variables(all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    fn filled_in(text: &str) -> Result<String, Vec<String>> {
        let filled = variables().filled_in(text, "f.yaml");
        filled.map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_scalar_stays_one_in_every_style() {
        let nasty = "a\"b\\c'd: e # f";
        let text = "\
# ${nobody}
plain: x ${nasty} \"y\\  # ${nobody}
lines: x
  ${nasty}
  y
double: \"x\\t${nasty}\"
single: 'it''s ${nasty}'
literal: |
  ${nasty}
    ${days}
folded: >-
  ${nasty}
  ${money}
flow: { a: ['${nasty}', \"${days}\"] }
${nobody}: keys stay
last: ${nasty}
";
        let filled = filled_in(text).unwrap();
        assert_eq!(filled.lines().count(), text.lines().count(), "{filled}");
        let read: serde_json::Value = parse_text(&filled, "f.yaml").unwrap().definition;
        let expected = json!({
            "plain": format!("x {nasty} \"y\\"),
            "lines": format!("x {nasty} y"),
            "double": format!("x\t{nasty}"),
            "single": format!("it's {nasty}"),
            "literal": format!("{nasty}\n  400\n"),
            "folded": format!("{nasty} decimal(9,2)"),
            "flow": { "a": [nasty, "400"] },
            "${nobody}": "keys stay",
            "last": nasty,
        });
        assert_eq!(read, expected, "{filled}");
    }

    #[test]
    fn what_is_nothing_but_a_number_is_one() {
        let text = "a: ${days}\nb: ${vat}\nc: '${days}'\nd: ${days} days\ne: $${days}\n";
        let expected = "a: 400\nb: -1.10\nc: '400'\nd: \"400 days\"\ne: \"${days}\"\n";
        assert_eq!(filled_in(text).as_deref(), Ok(expected));
        for text in ["", "-", ".", "1.", ".5", "1e3", "1_0", "0x1", "1.2.3", "+1"] {
            assert!(!is_number(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_variable_is_told_with_its_place_and_a_mend() {
        let text = "a: ${dayz}\nb: { c: 'x ${env:DAYS}' }\nd: >\n  x ${A b}\ne: x${days\n";
        let told = filled_in(text).unwrap_err();
        let expected = [
            "f.yaml:1:4: there is no variable `dayz`\n  hint: did you mean `days`?",
            "f.yaml:2:9: `${env:DAYS}` is looked up in starmere.yaml only\n  hint: declare a variable there, \
             `variables: { name: \"${env:DAYS}\" }`, and write ${name}",
            "f.yaml:4:3: `${A b}` is no variable\n  hint: variables are written ${name}; where the text itself is meant, \
             write $${",
            "f.yaml:5:4: there is a `${` without `}`\n  hint: variables are written ${name}; where the text itself is \
             meant, write $${",
        ];
        assert_eq!(told, expected);
        let none = Variables::default().filled_in("a: ${days}", "f.yaml").unwrap_err();
        assert_eq!(none[0].hint.as_deref(), Some("declare it in starmere.yaml: `variables: { days: … }`"));
    }

    #[test]
    fn variables_are_names_and_lines_of_text() {
        let of = |text: &str| {
            let declared: BTreeMap<String, Placed<Scalar>> = parse_text(text, "starmere.yaml").unwrap().definition;
            Variables::of(&declared, "starmere.yaml").map_err(|problems| problems[0].to_string())
        };
        assert_eq!(of("a: 1.10\nb: '007'\nc: true\nd: x y\n").map(|variables| variables.0.len()), Ok(4));
        assert_eq!(of("a: 1.10\n").map(|variables| variables.0["a"].clone()).as_deref(), Ok("1.10"));
        for wrong in ["a:", "a: ''", "a: ' x'", "a: \"x\\ny\"", "a: null"] {
            let told = of(wrong).unwrap_err();
            assert!(told.starts_with("starmere.yaml:1:"), "{told}");
            assert!(told.contains("the variable `a` is not one line of text"), "{told}");
        }
        assert!(of("A: x").unwrap_err().contains("`A` is not a name"));
    }
}
