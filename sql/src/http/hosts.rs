//! Which requests are refused for where they come from: what makes web pages of strangers harmless.
//!
//! Requests of HTTP/1.1 without `Host`, and those with several, are refused with 400, as RFC 9112 asks for.
//!
//! A page in the browser of somebody who can reach this server can make that browser send requests. Two checks,
//! which no other client notices:
//!
//! * `Host` is an address, `localhost`, or a name that is configured. A page whose own name has been pointed to
//!   this server (DNS rebinding) sends its name there, and is refused with 421.
//! * `Origin` and `Sec-Fetch-Site`, which only browsers send, say that a page of this server asks, or the user
//!   themselves. Others are refused with 403.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Version, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use starmere_lake::echo::cut;

use super::guard::error_json;
use crate::error::QueryError;

/// The names by which clients call this server, beside its addresses and `localhost`.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    /// Names without port, such as `dwh.example.com`.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect())
    }

    /// Whether this `Host`, with or without a port, is one of ours.
    fn knows(&self, host: &str) -> bool {
        let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
        let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        name == "localhost"
            || name.parse::<Ipv4Addr>().is_ok()
            || bracketed.is_some_and(|name| name.parse::<Ipv6Addr>().is_ok())
            || self.0.contains(&name)
    }

    /// Why a request is refused, and with what status.
    fn refusal(
        &self,
        (method, version): (&Method, Version),
        target: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<(StatusCode, QueryError)> {
        let hosts = texts(headers, "host");
        if hosts.len() > 1 || (hosts.is_empty() && version == Version::HTTP_11) {
            let error = QueryError::invalid(format!("the request has {} headers `Host`", hosts.len()))
                .with_hint("send one, with the name or the address by which this server is called");
            return Some((StatusCode::BAD_REQUEST, error));
        }
        if let Some(host) = hosts.iter().copied().chain(target).find(|host| !self.knows(host)) {
            let error = QueryError::denied(format!("`{}` is not a name of this server", cut(host)))
                .with_hint("call it by its address, or add the name to `listeners.hosts` in starmere.yaml");
            return Some((StatusCode::MISDIRECTED_REQUEST, error));
        }
        let refused = |what: String| {
            let hint = "ask from a program, or from a page of the same host and port";
            Some((StatusCode::FORBIDDEN, QueryError::denied(what).with_hint(hint)))
        };
        let is_ours = |origin: &&str| {
            let host = origin.split_once("://").map(|(_, host)| host);
            host.is_some_and(|host| {
                hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host))
                    // Behind a proxy `Host` may be another name.
                    || self.0.contains(&host.to_ascii_lowercase())
            })
        };
        if let Some(origin) = texts(headers, "origin").into_iter().find(|origin| !is_ours(origin)) {
            return refused(format!("a page of `{}` may not send requests to this server", cut(origin)));
        }
        let is_link = matches!(*method, Method::GET | Method::HEAD) && texts(headers, "sec-fetch-mode") == ["navigate"];
        let from_a_page =
            texts(headers, "sec-fetch-site").iter().any(|site| ["cross-site", "same-site"].contains(site));
        if from_a_page && !is_link && !headers.contains_key(header::ORIGIN) {
            return refused("a page of another server may not send requests to this one".to_owned());
        }
        None
    }
}

/// The values of a header; one that is no text is no name of ours.
fn texts<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

/// Puts the checks before all routes, those included that answer what no route takes.
pub fn for_hosts(router: axum::Router, hosts: Hosts) -> axum::Router {
    router.layer(middleware::from_fn_with_state(hosts, check))
}

async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let target = request.uri().authority().map(|authority| authority.as_str());
    let refusal = hosts.refusal((request.method(), request.version()), target, request.headers());
    match refusal {
        Some((status, error)) => (status, Json(error_json(&error))).into_response(),
        None => next.run(request).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: Method, headers: &[(&'static str, &str)]) -> u16 {
        status_of(Version::HTTP_11, method, headers)
    }

    fn status_of(version: Version, method: Method, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(header::HeaderName::from_static(name), value.parse().unwrap());
        }
        let hosts = Hosts::new(["dwh.example.com".to_owned()]);
        hosts.refusal((&method, version), None, &map).map_or(200, |(status, _)| status.as_u16())
    }

    #[test]
    fn a_request_has_one_host() {
        let host = ("host", "localhost");
        for (version, headers, expected) in [
            (Version::HTTP_11, vec![], 400),
            (Version::HTTP_11, vec![host], 200),
            (Version::HTTP_11, vec![host, host], 400),
            (Version::HTTP_11, vec![host, ("host", "evil.example")], 400),
            (Version::HTTP_10, vec![], 200),
            (Version::HTTP_10, vec![host, host], 400),
        ] {
            assert_eq!(status_of(version, Method::GET, &headers), expected, "{version:?} {headers:?}");
        }
    }

    #[test]
    fn names_of_others_are_refused() {
        for host in ["127.0.0.1:7070", "[::1]:7070", "[::1]", "localhost", "LOCALHOST:80", "DWH.example.com"] {
            assert_eq!(status(Method::POST, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "evil.example:7070", "localhost.evil.example", "127.0.0.1.evil.example", "::1"] {
            assert_eq!(status(Method::GET, &[("host", host)]), 421, "{host}");
        }
        let hosts = Hosts::default();
        let refused = hosts.refusal((&Method::GET, Version::HTTP_10), Some("evil.example"), &HeaderMap::new());
        assert!(refused.is_some_and(|(_, error)| error.hint().is_some_and(|hint| hint.contains("listeners.hosts"))));
    }

    #[test]
    fn pages_of_others_are_refused() {
        let host = ("host", "localhost:7070");
        let allowed = [
            vec![host],
            vec![host, ("origin", "http://localhost:7070"), ("sec-fetch-site", "same-origin")],
            vec![host, ("origin", "https://dwh.example.com")],
            vec![host, ("sec-fetch-site", "none")],
        ];
        for headers in allowed {
            assert_eq!(status(Method::POST, &headers), 200, "{headers:?}");
        }
        let refused = [
            vec![host, ("origin", "http://evil.example")],
            vec![host, ("origin", "http://localhost:3000")],
            vec![host, ("origin", "http://dwh.example.com:3000")],
            vec![host, ("origin", "null")],
            vec![host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
            vec![host, ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "navigate")],
        ];
        for headers in refused {
            assert_eq!(status(Method::POST, &headers), 403, "{headers:?}");
        }
        let link = [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(status(Method::GET, &link), 200, "a link that somebody follows");
    }
}
