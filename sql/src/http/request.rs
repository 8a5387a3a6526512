//! What a request to `/v1/sql` asks for, from its body, its address and its headers.

use axum::http::{HeaderMap, header};
use datafusion::scalar::ScalarValue;
use serde::Deserialize;
use serde_json::Value;
use starmere_lake::echo::cut;

use super::formats::Format;
use crate::{error::QueryError, params::Params};

/// What may stand behind `?`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Address {
    format: Option<String>,
    limit_rows: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    sql: String,
    #[serde(default)]
    params: Value,
    format: Option<String>,
    limit_rows: Option<u64>,
}

/// What is asked.
#[derive(Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) sql: String,
    pub(super) params: Params,
    pub(super) format: Format,
    pub(super) limit_rows: Option<u64>,
}

/// Reads a request. The body wins over the address, the address over headers.
///
/// # Errors
/// `Invalid`: a content type that is neither JSON nor text, not UTF-8, JSON that is not declared, not the JSON that is
/// expected, a format that does not exist.
pub(super) fn read(headers: &HeaderMap, address: Address, body: &[u8]) -> Result<Ask, QueryError> {
    let body = if holds_json(headers)? { read_json(body)? } else { read_text(body)? };
    let format = match body.format.or(address.format) {
        Some(name) => Format::named(&name)?,
        None => Format::accepted(headers),
    };
    Ok(Ask { sql: body.sql, params: params(body.params)?, format, limit_rows: body.limit_rows.or(address.limit_rows) })
}

/// Whether the body is JSON, else it is SQL. `curl --data` says that it sends a form; browsers that send one are
/// refused for where they come from.
fn holds_json(headers: &HeaderMap) -> Result<bool, QueryError> {
    let content = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = content.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media == "application/json" || media.ends_with("+json") {
        return Ok(true);
    }
    let text = ["", "text/plain", "application/sql", "application/x-sql", "application/x-www-form-urlencoded"];
    if text.contains(&media.as_str()) {
        return Ok(false);
    }
    Err(QueryError::invalid(format!("content type `{}` is not read here", cut(&media)))
        .with_hint("send SQL as `application/sql` or `text/plain`, or an object as `application/json`"))
}

fn read_json(body: &[u8]) -> Result<Body, QueryError> {
    serde_json::from_slice(body).map_err(|error| {
        QueryError::invalid("the body is not the JSON that is expected")
            .caused_by(error)
            .with_hint(r#"send {"sql": "…", "params": […], "format": "json|jsonl|csv|arrow", "limit_rows": n}"#)
    })
}

fn read_text(body: &[u8]) -> Result<Body, QueryError> {
    let sql = std::str::from_utf8(body)
        .map_err(|error| QueryError::invalid("the body is not UTF-8 text").caused_by(error))?;
    if sql.trim_start().starts_with('{') {
        return Err(QueryError::invalid("the body begins with `{`, as no SQL statement does")
            .with_hint("to send JSON, set `Content-Type: application/json`"));
    }
    Ok(Body { sql: sql.to_owned(), params: Value::Null, format: None, limit_rows: None })
}

fn params(value: Value) -> Result<Params, QueryError> {
    match value {
        Value::Null => Ok(Params::default()),
        Value::Array(values) => values.into_iter().map(scalar).collect::<Result<_, _>>().map(Params::Positional),
        Value::Object(values) => values
            .into_iter()
            .map(|(name, value)| scalar(value).map(|value| (name, value)))
            .collect::<Result<_, _>>()
            .map(Params::Named),
        other => {
            let shown = other.to_string();
            Err(QueryError::invalid(format!("`params` is neither a list nor an object: {}", cut(&shown))))
        }
    }
}

fn scalar(value: Value) -> Result<ScalarValue, QueryError> {
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(value)),
        Value::String(value) => ScalarValue::Utf8(Some(value)),
        Value::Number(number) => {
            if let Some(value) = number.as_i64() {
                ScalarValue::Int64(Some(value))
            } else if let Some(value) = number.as_u64() {
                ScalarValue::UInt64(Some(value))
            } else {
                ScalarValue::Float64(number.as_f64())
            }
        }
        other => {
            let shown = other.to_string();
            return Err(QueryError::invalid(format!("a parameter is one value, not `{}`", cut(&shown))));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(header::HeaderName, &str)]) -> HeaderMap {
        entries.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn address(format: Option<&str>) -> Address {
        Address { format: format.map(str::to_owned), limit_rows: None }
    }

    #[test]
    fn json_body_says_everything() {
        let headers = headers(&[(header::CONTENT_TYPE, "application/json; charset=utf-8")]);
        let body = br#"{"sql": "SELECT $1", "params": [1, "a", null, 2.5, true], "format": "csv"}"#;
        let ask = read(&headers, address(Some("arrow")), body).unwrap();
        assert_eq!(ask.format, Format::Csv);
        assert_eq!(
            ask.params,
            Params::Positional(vec![
                ScalarValue::from(1_i64),
                ScalarValue::from("a"),
                ScalarValue::Null,
                ScalarValue::from(2.5_f64),
                ScalarValue::from(true),
            ])
        );
    }

    #[test]
    fn object_names_parameters() {
        let headers = headers(&[(header::CONTENT_TYPE, "application/json")]);
        let ask = read(&headers, address(None), br#"{"sql": "x", "params": {"a": 1}}"#).unwrap();
        assert_eq!(ask.params, Params::Named(vec![("a".to_owned(), ScalarValue::from(1_i64))]));
    }

    #[test]
    fn text_is_sql() {
        let form = headers(&[(header::CONTENT_TYPE, "application/x-www-form-urlencoded")]);
        let text = headers(&[(header::CONTENT_TYPE, "text/plain; charset=utf-8")]);
        for headers in [HeaderMap::new(), form, text] {
            let ask = read(&headers, address(None), b"SELECT 1").unwrap();
            assert_eq!((ask.sql.as_str(), ask.format), ("SELECT 1", Format::Json));
        }
    }

    #[test]
    fn other_content_types_are_told_what_to_send() {
        for media in ["multipart/form-data; boundary=x", "text/html", "application/octet-stream"] {
            let error = read(&headers(&[(header::CONTENT_TYPE, media)]), address(None), b"SELECT 1").unwrap_err();
            assert!(error.hint().is_some_and(|hint| hint.contains("application/sql")), "{media}");
        }
    }

    #[test]
    fn undeclared_json_is_told_how_to_declare_itself() {
        let form = headers(&[(header::CONTENT_TYPE, "application/x-www-form-urlencoded")]);
        for headers in [HeaderMap::new(), form] {
            let error = read(&headers, address(None), b" {\"sql\": \"SELECT 1\"}").unwrap_err();
            assert!(error.hint().is_some_and(|hint| hint.contains("Content-Type: application/json")));
        }
    }

    #[test]
    fn address_wins_over_accept() {
        let accept = headers(&[(header::ACCEPT, "text/html, text/csv;q=0.9")]);
        assert_eq!(read(&accept, address(None), b"x").unwrap().format, Format::Csv);
        assert_eq!(read(&accept, address(Some("jsonl")), b"x").unwrap().format, Format::JsonLines);
        let arrow = headers(&[(header::ACCEPT, "application/vnd.apache.arrow.stream")]);
        assert_eq!(read(&arrow, address(None), b"x").unwrap().format, Format::Arrow);
    }

    #[test]
    fn mistakes_are_told() {
        let json = headers(&[(header::CONTENT_TYPE, "application/json")]);
        for body in [
            &br#"{"sql": 1}"#[..],
            br#"{"query": "SELECT 1"}"#,
            br#"{"sql": "x", "params": 3}"#,
            br#"{"sql": "x", "params": [[1]]}"#,
            br#"{"sql": "x", "format": "xml"}"#,
            b"{",
        ] {
            assert!(read(&json, address(None), body).is_err(), "{}", String::from_utf8_lossy(body));
        }
        assert!(read(&HeaderMap::new(), address(None), b"\xff").is_err());
    }
}
