//! Forms: what `application/x-www-form-urlencoded` says, as one event of JSON.
//!
//! A form is a way to carry an event, as packing is: what lands is what it carries. A form whose only field is `payload`,
//! an object of JSON, is that object, with its bytes; this is how GitHub and Slack send. Any other form is an object of
//! its fields, in their order: `a=1&b=2&b=3` is `{"a":"1","b":["2","3"]}`.

use axum::http::StatusCode;
use percent_encoding::percent_decode;
use serde_json::Value;

use super::Refusal;

/// Fields of a form.
const MOST_FIELDS: usize = 1000;
/// The field that holds an event.
const PAYLOAD: &str = "payload";

/// The body begins with the name of a field. `curl` says of everything that it is a form; JSON never begins so.
pub(super) fn is_one(body: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"%+-_.*~$!:()[]".contains(byte);
    let end = body.iter().position(|byte| !is_of_name(byte)).unwrap_or(0);
    end > 0 && body[end] == b'='
}

/// The most memory that reading the form takes, with the event that it becomes.
pub(super) fn memory(body: &[u8]) -> usize {
    // A byte may become six (`\u0000`), a short field seven, and texts are decoded before they are written.
    let each = if body.starts_with(b"payload=") { 2 } else { 8 };
    each * body.len()
}

/// The event that the form is.
pub(super) fn event(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let body = body.trim_ascii_end();
    if body.iter().filter(|&&byte| byte == b'&').count() >= MOST_FIELDS {
        let message = format!("the form has more than {MOST_FIELDS} fields");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message, "send the event as application/json"));
    }
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    for field in body.split(|&byte| byte == b'&').filter(|field| !field.is_empty()) {
        let end = field.iter().position(|&byte| byte == b'=').unwrap_or(field.len());
        let (name, value) = (text(&field[..end])?, text(field.get(end + 1..).unwrap_or_default())?);
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => fields.push((name, vec![value])),
        }
    }
    if let [(name, values)] = fields.as_mut_slice()
        && *name == PAYLOAD
        && let [payload] = values.as_mut_slice()
        && payload.trim_ascii_start().starts_with('{')
    {
        return Ok(std::mem::take(payload).into_bytes());
    }
    let mut json = String::from("{");
    for (name, mut values) in fields {
        if json.len() > 1 {
            json.push(',');
        }
        let value = if values.len() == 1 { Value::from(values.remove(0)) } else { Value::from(values) };
        json += &Value::from(name).to_string();
        json.push(':');
        json += &value.to_string();
    }
    json.push('}');
    Ok(json.into_bytes())
}

/// A name or a value.
fn text(written: &[u8]) -> Result<String, Refusal> {
    let spaced: Vec<u8> = written.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
    let decoded = percent_decode(&spaced).decode_utf8().map_err(|_| {
        let hint = "nothing has landed; send the form in UTF-8, or the event as application/json";
        Refusal::new(StatusCode::BAD_REQUEST, "the form is not UTF-8", hint)
    })?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(body: &str) -> String {
        event(body.as_bytes()).map_or_else(|refusal| refusal.message, |event| String::from_utf8(event).unwrap())
    }

    #[test]
    fn a_form_is_told_from_json_however_it_is_called() {
        for form in ["a=1", "payload=%7B%7D", "user%5Bname%5D=x", "user[name]=x", "a.b=", "$x=1&y"] {
            assert!(is_one(form.as_bytes()), "{form}");
        }
        for other in ["", "=", "{\"a\":\"b=c\"}", "[1]", "\"a=b\"", "nonsense", "17", "\n{}", "a\nb=1", "a b=1"] {
            assert!(!is_one(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn a_form_is_an_object_of_its_fields() {
        assert_eq!(said("a=1&b=2&b=3&c&&d=\r\n"), r#"{"a":"1","b":["2","3"],"c":"","d":""}"#);
        assert_eq!(said("a%22=x+y%0A%c3%bc&e=%5C%5c"), r#"{"a\"":"x y\nü","e":"\\\\"}"#);
        assert_eq!(said("a=%zz%2"), r#"{"a":"%zz%2"}"#, "what is no escape stays");
        assert_eq!(said("a=%ff"), "the form is not UTF-8");
        assert_eq!(said(&"a&".repeat(1001)), "the form has more than 1000 fields");
    }

    #[test]
    fn a_payload_keeps_its_bytes() {
        assert_eq!(said("payload=%7B%22a%22%3A+%221%2B1%22%7D"), r#"{"a": "1+1"}"#);
        assert_eq!(said("payload={\"a\": 1.00}"), r#"{"a": 1.00}"#);
        assert_eq!(said("payload=%7B%22a%22"), "{\"a\"", "broken, it is an event all the same");
        assert_eq!(said("payload=%7B%7D&x=1"), r#"{"payload":"{}","x":"1"}"#, "nothing is dropped");
        assert_eq!(said("payload=hello"), r#"{"payload":"hello"}"#);
    }

    #[test]
    fn no_form_takes_more_than_it_is_given() {
        let few = |name: &str, value: &str| format!("{name}={value}");
        for form in
            [few("a", &"\u{1}".repeat(99)), few(&"\"".repeat(9), ""), "a&".repeat(999), few("a", ""), "a=".to_owned()]
        {
            let (event, most) = (event(form.as_bytes()).map_err(|refusal| refusal.message), memory(form.as_bytes()));
            assert!(event.as_ref().is_ok_and(|event| event.len() <= most), "{form} {most}: {event:?}");
        }
    }
}
