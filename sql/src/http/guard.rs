//! Lets in whom [`Access`] knows, and says errors in JSON.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
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
