use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};

use super::*;
use crate::error::ErrorKind;

fn access() -> Access {
    Access::new(Users::new(vec![
        ("ana".to_owned(), "secret".to_owned()),
        ("ben".to_owned(), "other:with colon".to_owned()),
    ]))
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

#[test]
fn right_password_is_admitted() {
    let access = access();
    assert_eq!(access.caller(Some(&basic("ana", "secret"))).unwrap().user, "ana");
    assert_eq!(access.caller(Some(&basic("ben", "other:with colon"))).unwrap().user, "ben");
}

#[test]
fn padding_of_credentials_does_not_matter() {
    for password in ["secret", "secret1", "secret12"] {
        let access = Access::new(Users::new(vec![("ana".to_owned(), password.to_owned())]));
        let shown = format!("ana:{password}");
        for encoded in [BASE64_STANDARD.encode(&shown), BASE64_STANDARD_NO_PAD.encode(&shown)] {
            assert_eq!(access.caller(Some(&format!("Basic {encoded}"))).unwrap().user, "ana", "{encoded}");
        }
    }
}

#[test]
fn everything_else_is_refused() {
    let access = access();
    let headers = [
        None,
        Some(basic("ana", "other:with colon")),
        Some(basic("ana", "")),
        Some(basic("eve", "secret")),
        Some("Basic %%%".to_owned()),
        Some("Basic".to_owned()),
        Some("Digest abc".to_owned()),
        Some("Bearer abc".to_owned()),
    ];
    for header in headers {
        let error = access.caller(header.as_deref()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{header:?}");
    }
}

#[test]
fn token_lasts_while_it_is_used() {
    let access = access();
    let start = Instant::now();
    let ana = Caller { user: "ana".to_owned() };
    access.remember("abc", &ana, start);
    let almost = TOKEN_IDLE - Duration::from_secs(1);
    assert_eq!(access.bearer("abc", start + almost).unwrap(), ana);
    assert_eq!(access.bearer("abc", start + almost * 2).unwrap(), ana);
    assert!(access.bearer("abc", start + almost * 2 + TOKEN_IDLE).is_err());
    assert!(access.bearer("abc", start).is_err(), "an expired token stays forgotten");
}

#[test]
fn revoked_token_is_forgotten() {
    let access = access();
    let header = format!("Bearer {}", access.issue(&Caller { user: "ana".to_owned() }));
    assert!(access.caller(Some(&header)).is_ok());
    access.revoke(&header);
    assert!(access.caller(Some(&header)).is_err());
}

#[test]
fn tokens_are_bounded_and_the_oldest_goes() {
    let access = access();
    let start = Instant::now();
    let ana = Caller { user: "ana".to_owned() };
    for number in 0..=TOKENS {
        access.remember(&number.to_string(), &ana, start + Duration::from_millis(number as u64));
    }
    assert_eq!(access.sessions().len(), TOKENS);
    let later = start + Duration::from_secs(60);
    assert!(access.bearer("0", later).is_err());
    assert!(access.bearer("1", later).is_ok());
}

#[test]
fn without_users_only_loopback_is_listened_on() {
    let loopback = ["127.0.0.1:7070", "[::1]:7070"].map(|address| address.parse().unwrap());
    let public = ["0.0.0.0:7070", "[::]:0", "192.168.1.5:80"].map(|address| address.parse().unwrap());
    for address in &loopback {
        assert!(check_listener(address, false).is_ok());
    }
    for address in &public {
        let error = check_listener(address, false).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("users:")));
        assert!(check_listener(address, true).is_ok());
    }
    assert_eq!(Access::new(Users::default()).caller(None).unwrap(), Caller::anonymous());
}

#[test]
fn passwords_do_not_show() {
    let shown = format!("{:?}", Users::new(vec![("ana".to_owned(), "secret".to_owned())]));
    assert_eq!(shown, r#"["ana"]"#);
}
