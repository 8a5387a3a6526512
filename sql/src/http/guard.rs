//! Lets in whom [`Access`] knows, and says errors in JSON.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde_json::{Value, json};
use starmere_lake::echo::cut;
use tokio::time::timeout;

use super::MAX_BODY_BYTES;
use crate::{
    access::{Access, Right},
    error::{ErrorKind, QueryError},
    server::Peer,
};

/// How long the body of a request may take to come.
const BODY: Duration = Duration::from_secs(30);

/// So much of a body that is too long is read and thrown away: many clients look for an answer only when they have sent
/// everything, and would see a broken connection.
const MOST_READ_BYTES: usize = 16 * MAX_BODY_BYTES;

/// Who is let in.
#[derive(Clone)]
struct Admission {
    access: Arc<Access>,
    /// One of these rights is needed; none: every user is let in.
    any: &'static [Right],
}

/// Puts a guard before routes: a user needs one of these rights. Handlers find the [`Caller`](crate::Caller) as an
/// extension.
pub fn guarded(router: Router, access: Arc<Access>, any: &'static [Right]) -> Router {
    router.route_layer(middleware::from_fn_with_state(Admission { access, any }, admit))
}

/// Answers paths and methods that the router does not know as other errors are answered. For the router of all
/// routes: `more` names those that are not this crate's, as in `POST /v1/streams/{stream}/events`.
pub fn answering_all(router: Router, more: &[&str]) -> Router {
    let paths: Vec<&str> = super::PATHS.iter().chain(more).copied().collect();
    let hint: Arc<str> = format!("there are {}", paths.join(", ")).into();
    let path_hint = Arc::clone(&hint);
    router
        .fallback(move |uri: Uri| {
            let error = QueryError::not_found(format!("there is no path `{}`", cut(uri.path()))).with_hint(&*path_hint);
            async move { error.into_response() }
        })
        .method_not_allowed_fallback(move |method: Method, uri: Uri| {
            let message = format!("`{}` does not take `{}`", cut(uri.path()), cut(method.as_str()));
            let error = QueryError::invalid(message).with_hint(&*hint);
            async move { (StatusCode::METHOD_NOT_ALLOWED, Json(error_json(&error))).into_response() }
        })
}

/// Finds out who calls, by `Authorization: Basic …` or `Bearer …`, and notes it for the handlers.
async fn admit(State(admission): State<Admission>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok());
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let caller = admission.access.caller(header, peer);
    match caller.and_then(|caller| caller.may(admission.any).map(|()| caller)) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// The whole body; none where it is longer than it may be.
async fn read_whole(body: Body) -> Result<Option<Bytes>, axum::Error> {
    let mut chunks = body.into_data_stream();
    let (mut whole, mut length) = (BytesMut::new(), 0);
    while length <= MOST_READ_BYTES
        && let Some(chunk) = chunks.next().await.transpose()?
    {
        length += chunk.len();
        if length <= MAX_BODY_BYTES {
            whole.extend_from_slice(&chunk);
        }
    }
    Ok((length <= MAX_BODY_BYTES).then(|| whole.freeze()))
}

/// Takes the whole body, which is small, before the handler runs: one that stalls holds nothing but its connection.
pub(super) async fn whole_body(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let refuse = |status: StatusCode, error: &QueryError| (status, Json(error_json(error))).into_response();
    match timeout(BODY, read_whole(body)).await {
        Ok(Ok(Some(body))) => next.run(Request::from_parts(parts, Body::from(body))).await,
        Ok(Ok(None)) => {
            let message = format!("the body is larger than {MAX_BODY_BYTES} bytes");
            let error = QueryError::invalid(message).with_hint("send a shorter query");
            refuse(StatusCode::PAYLOAD_TOO_LARGE, &error)
        }
        Ok(Err(error)) => {
            let error = QueryError::invalid("the body was cut off").caused_by(error);
            refuse(StatusCode::BAD_REQUEST, &error.with_hint("send the request again"))
        }
        Err(_) => {
            let message = format!("the body did not come within {} s", BODY.as_secs());
            refuse(StatusCode::REQUEST_TIMEOUT, &QueryError::invalid(message).with_hint("send the request again"))
        }
    }
}

/// `{"error": {…}}`; members that are not known are null.
pub(super) fn error_json(error: &QueryError) -> Value {
    json!({
        "error": {
            "kind": error.kind().word(),
            "message": error.shown(),
            "hint": error.hint(),
            "line": error.line,
            "column": error.column,
        }
    })
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        let status = self.kind().codes().1;
        if self.kind() == ErrorKind::Internal {
            tracing::error!(error = %self.text(), "a request failed through our fault");
        }
        let mut response = (status, Json(error_json(&self))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"starmere\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
