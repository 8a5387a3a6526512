//! Lets in whom [`Access`] knows, and says errors in JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{
    access::Access,
    error::{ErrorKind, QueryError},
};

/// Puts the same guard before other routes. Handlers find the [`Caller`](crate::Caller) as an extension.
pub fn guarded(router: Router, access: Arc<Access>) -> Router {
    router.route_layer(middleware::from_fn_with_state(access, admit))
}

/// Answers paths and methods that the router does not know as other errors are answered. For the router of all
/// routes: `more` names those that are not this crate's, as in `POST /v1/streams/{stream}/events`.
pub fn answering_all(router: Router, more: &[&str]) -> Router {
    let paths: Vec<&str> = super::PATHS.iter().chain(more).copied().collect();
    let hint: Arc<str> = format!("there are {}", paths.join(", ")).into();
    let path_hint = Arc::clone(&hint);
    router
        .fallback(move |uri: Uri| {
            let error = QueryError::not_found(format!("there is no path `{}`", uri.path())).with_hint(&*path_hint);
            async move { error.into_response() }
        })
        .method_not_allowed_fallback(move |method: Method, uri: Uri| {
            let message = format!("`{}` does not take `{method}`", uri.path());
            let error = QueryError::invalid(message).with_hint(&*hint);
            async move { (StatusCode::METHOD_NOT_ALLOWED, Json(error_json(&error))).into_response() }
        })
}

/// Finds out who calls, by `Authorization: Basic …` or `Bearer …`, and notes it for the handlers.
pub(super) async fn admit(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let header = header.and_then(|value| value.to_str().ok());
    match access.caller(header) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// `{"error": {…}}`; members that are not known are null.
pub(super) fn error_json(error: &QueryError) -> Value {
    json!({
        "error": {
            "kind": error.kind().word(),
            "message": error.text(),
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
