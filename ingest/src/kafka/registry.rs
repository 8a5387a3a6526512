//! A schema registry: schemas by the numbers that payloads begin with.
//!
//! Each is asked for once, and kept beside the stream's table before a row that needs it lands.

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::StatusCode;
use serde::Deserialize;
use starmere_lake::Kind;
use starmere_lake::formats::{Reference, Schema, SchemaKind};
use url::Url;

use crate::{Error, Result};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long an answer may be.
const MOST_BYTES: usize = 16 << 20;
/// How many schemas one may refer to.
const MOST_REFERENCES: usize = 1000;

/// Where schemas are registered.
#[derive(Clone, Debug)]
pub struct Registry {
    url: Url,
    user: Option<(String, Option<String>)>,
    client: reqwest::Client,
}

/// What the registry says of a schema.
#[derive(Debug, Deserialize)]
struct Registered {
    schema: String,
    #[serde(default, rename = "schemaType")]
    kind: Option<SchemaKind>,
    #[serde(default)]
    references: Vec<RegisteredReference>,
}

#[derive(Debug, Deserialize)]
struct RegisteredReference {
    name: String,
    subject: String,
    version: u32,
}

impl Registry {
    /// The registry at `url`; `user` with a password, if it asks for one.
    pub fn new(url: &str, user: Option<(String, Option<String>)>) -> Result<Self> {
        let invalid = |reason: String| Error::Registry { url: url.to_owned(), message: reason, kind: Kind::Invalid };
        let mut parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(invalid("it is no address of http or https".to_owned()));
        }
        if !parsed.path().ends_with('/') {
            parsed.set_path(&format!("{}/", parsed.path()));
        }
        let client = reqwest::Client::builder().timeout(ANSWER).user_agent("starmere").build();
        Ok(Self { url: parsed, user, client: client.map_err(|error| invalid(said(&error)))? })
    }

    /// The schema of this number, with what it refers to; or why there is none.
    pub(super) async fn fetch(&self, number: u32) -> Result<Result<Schema, String>> {
        let Some(main) = self.ask(&["schemas", "ids", &number.to_string()]).await? else {
            return Ok(Err(format!("the registry has no schema {number}")));
        };
        let mut references = Vec::new();
        let mut seen = HashSet::new();
        // What is to be done next comes last: a schema's own references before itself.
        let mut waiting: Vec<Step> = main.references.into_iter().rev().map(Step::Ask).collect();
        while let Some(step) = waiting.pop() {
            let reference = match step {
                Step::Add(reference) => {
                    references.push(reference);
                    continue;
                }
                Step::Ask(reference) => reference,
            };
            let RegisteredReference { name, subject, version } = reference;
            if !seen.insert((subject.clone(), version)) {
                continue;
            }
            if seen.len() > MOST_REFERENCES {
                return Ok(Err(format!("schema {number} refers to more than {MOST_REFERENCES} others")));
            }
            let Some(found) = self.ask(&["subjects", &subject, "versions", &version.to_string()]).await? else {
                return Ok(Err(format!(
                    "schema {number} refers to version {version} of `{subject}`, which is not there"
                )));
            };
            waiting.push(Step::Add(Reference { name, schema: found.schema }));
            waiting.extend(found.references.into_iter().rev().map(Step::Ask));
        }
        Ok(Ok(Schema { kind: main.kind.unwrap_or(SchemaKind::Avro), schema: main.schema, references }))
    }

    /// What is at a path; none, if the registry says that nothing is.
    async fn ask(&self, path: &[&str]) -> Result<Option<Registered>> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let failed = |message: String, kind: Kind| Error::Registry { url: url.to_string(), message, kind };
        let unavailable = |error: reqwest::Error| failed(said(&error), Kind::Unavailable);
        let mut request =
            self.client.get(url.clone()).header("accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, password.as_ref());
        }
        let answer = request.send().await.map_err(unavailable)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(None),
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                return Err(failed(format!("it answers {status}"), Kind::Invalid));
            }
            status => return Err(failed(format!("it answers {status}"), Kind::Unavailable)),
        }
        let (mut body, mut pieces) = (Vec::new(), answer.bytes_stream());
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece.map_err(unavailable)?);
            if body.len() > MOST_BYTES {
                return Err(failed(format!("its answer has more than {MOST_BYTES} bytes"), Kind::Invalid));
            }
        }
        let parsed = serde_json::from_slice(&body);
        parsed.map(Some).map_err(|error| failed(format!("its answer is not a schema: {error}"), Kind::Invalid))
    }
}

/// What is still to be done for a schema's references.
enum Step {
    Ask(RegisteredReference),
    Add(Reference),
}

/// An error with its causes: the client's own words are only "error sending request".
fn said(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        words += &format!(": {cause}");
        source = cause.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use axum::extract::Path;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::get;
    use serde_json::json;

    use super::*;

    async fn serve() -> (String, tokio::task::JoinHandle<()>) {
        let ids = |Path(id): Path<u32>, headers: HeaderMap| async move {
            match id {
                1 => Ok(Json(json!({ "schema": "\"long\"" }))),
                2 => Ok(Json(json!({
                    "schema": "message A { B b = 1; }", "schemaType": "PROTOBUF",
                    "references": [{ "name": "b.proto", "subject": "b/x", "version": 3 }],
                }))),
                3 => Err(StatusCode::INTERNAL_SERVER_ERROR),
                4 if headers.contains_key("authorization") => Ok(Json(json!({ "schema": "{}", "schemaType": "JSON" }))),
                4 => Err(StatusCode::UNAUTHORIZED),
                5 => Ok(Json(json!([]))),
                _ => Err(StatusCode::NOT_FOUND),
            }
        };
        let subjects = |Path((subject, version)): Path<(String, u32)>| async move {
            match (subject.as_str(), version) {
                ("b/x", 3) => Ok(Json(json!({
                    "schema": "message B {}", "references": [{ "name": "c.proto", "subject": "c", "version": 1 }],
                }))),
                ("c", 1) => Ok(Json(json!({
                    "schema": "message C {}", "references": [{ "name": "b.proto", "subject": "b/x", "version": 3 }],
                }))),
                _ => Err(StatusCode::NOT_FOUND),
            }
        };
        let router = axum::Router::new()
            .route("/registry/schemas/ids/{id}", get(ids))
            .route("/registry/subjects/{subject}/versions/{version}", get(subjects));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/registry", listener.local_addr().unwrap());
        (url, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
    }

    #[tokio::test]
    async fn schemas_come_with_what_they_refer_to() {
        let (url, server) = serve().await;
        let registry = Registry::new(&url, None).unwrap();
        assert_eq!(registry.fetch(1).await.unwrap(), Ok(Schema::avro("\"long\"")));
        let reference = |name: &str, schema: &str| Reference { name: name.into(), schema: schema.into() };
        let found = registry.fetch(2).await.unwrap().unwrap();
        assert_eq!(found.kind, SchemaKind::Protobuf);
        let expected = [reference("c.proto", "message C {}"), reference("b.proto", "message B {}")];
        assert_eq!(found.references, expected, "and a circle ends");
        assert_eq!(registry.fetch(9).await.unwrap(), Err("the registry has no schema 9".into()));
        let kind = async |number| registry.fetch(number).await.unwrap_err().kind();
        assert_eq!((kind(3).await, kind(4).await, kind(5).await), (Kind::Unavailable, Kind::Invalid, Kind::Invalid));
        let known = Registry::new(&url, Some(("me".into(), Some("secret".into())))).unwrap();
        assert_eq!(known.fetch(4).await.unwrap().unwrap().kind, SchemaKind::Json);
        server.abort();
        _ = server.await;
        assert_eq!(registry.fetch(1).await.unwrap_err().kind(), Kind::Unavailable);
        assert!(Registry::new("kafka:9092", None).is_err());
    }
}
