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
    assert_eq!(access.caller(Some(&basic("ana", "secret")), None).unwrap().user, "ana");
    assert_eq!(access.caller(Some(&basic("ben", "other:with colon")), None).unwrap().user, "ben");
}

#[test]
fn padding_of_credentials_does_not_matter() {
    for password in ["secret", "secret1", "secret12"] {
        let access = Access::new(Users::new(vec![("ana".to_owned(), password.to_owned())]));
        let shown = format!("ana:{password}");
        for encoded in [BASE64_STANDARD.encode(&shown), BASE64_STANDARD_NO_PAD.encode(&shown)] {
            assert_eq!(access.caller(Some(&format!("Basic {encoded}")), None).unwrap().user, "ana", "{encoded}");
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
        let error = access.caller(header.as_deref(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{header:?}");
    }
}

#[test]
fn token_lasts_while_it_is_used() {
    let access = access();
    let start = Instant::now();
    let ana = Caller::named("ana");
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
    let header = format!("Bearer {}", access.issue(&Caller::named("ana")));
    assert!(access.caller(Some(&header), None).is_ok());
    access.revoke(&header);
    assert!(access.caller(Some(&header), None).is_err());
}

#[test]
fn tokens_are_bounded_and_the_oldest_goes() {
    let access = access();
    let start = Instant::now();
    let ana = Caller::named("ana");
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
    assert_eq!(Access::new(Users::default()).caller(None, None).unwrap(), Caller::anonymous());
}

#[test]
fn passwords_do_not_show() {
    let shown = format!("{:?}", Users::new(vec![("ana".to_owned(), "secret".to_owned())]));
    assert_eq!(shown, r#"["ana"]"#);
}

#[test]
fn guessing_is_slowed_and_counted() {
    let access = access();
    let peer = Some(IpAddr::from([10, 0, 0, 1]));
    let tries: Vec<ErrorKind> =
        (0..20).map(|number| access.password("ana", &number.to_string(), peer).unwrap_err().kind()).collect();
    assert_eq!(tries[..6], [ErrorKind::Unauthenticated; 6]);
    assert_eq!(tries[6..], [ErrorKind::Unavailable; 14]);
    assert_eq!(access.failed_log_ins(), 20);
    assert_eq!(access.password("ana", "secret", peer).unwrap_err().kind(), ErrorKind::Unavailable);
    let elsewhere = Some(IpAddr::from([10, 0, 0, 2]));
    let ana = access.password("ana", "secret", elsewhere).unwrap();
    let token = format!("Bearer {}", access.issue(&ana));
    assert_eq!(access.caller(Some(&token), peer).unwrap(), ana, "tokens are not held back");
}

#[test]
fn six_wrong_passwords_lock_nobody_out_who_was_in() {
    let access = access();
    let peer = Some(IpAddr::from([10, 0, 0, 1]));
    assert!(access.password("ana", "secret", peer).is_ok());
    for number in 0..20 {
        let wrong = access.password("ana", &number.to_string(), peer).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Unauthenticated);
        assert_eq!(access.password("ana", "secret", peer).unwrap().user, "ana");
    }
    // Where it has never been, it waits; an old password that is tried again and again counts once.
    let elsewhere = Some(IpAddr::from([10, 0, 0, 2]));
    for _ in 0..20 {
        let wrong = access.password("ana", "old", elsewhere).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Unauthenticated);
    }
    assert!(access.password("ana", "secret", elsewhere).is_ok());
}

#[test]
fn users_have_the_rights_that_are_declared() {
    let log_in = |rights: Rights| {
        let users = Users::with_rights(vec![("ana".to_owned(), "secret".to_owned(), rights)]);
        Access::new(users).password("ana", "secret", None).unwrap()
    };
    let plain = log_in(Rights::default());
    for right in [Right::Query, Right::Raw, Right::Post, Right::Metrics] {
        assert!(plain.may(&[right]).is_ok(), "{right:?}");
    }
    assert!(!plain.sees_queries_of("ben") && plain.sees_queries_of("ana"));
    let operator = log_in(Rights::of(&[Right::Operate]));
    assert!(operator.sees_queries_of("ben") && operator.may(&[Right::Metrics]).is_ok());
    let denied = operator.may(&[Right::Post]).unwrap_err();
    assert_eq!((denied.kind(), denied.to_string()), (ErrorKind::Denied, "the user `ana` may not post events".into()));
    assert_eq!(denied.hint(), Some("add `post` to `can:` of that user in starmere.yaml"));
    assert!(log_in(Rights::of(&[Right::Raw])).may(&[Right::Query, Right::Raw]).is_ok());
}
