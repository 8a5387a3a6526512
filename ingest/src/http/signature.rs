//! Signatures of webhooks: the sender proves that it knows a secret, over the bytes of the body as they came.
//!
//! | scheme | header | what is signed | signature |
//! | --- | --- | --- | --- |
//! | GitHub | `X-Hub-Signature-256: sha256=…` | the body | HMAC-SHA256, hexadecimal |
//! | Stripe | `Stripe-Signature: t=…,v1=…` | time, `.`, body | the same |
//! | [Standard Webhooks](https://www.standardwebhooks.com) | `webhook-signature: v1,…` | id, `.`, time, `.`, body | HMAC-SHA256, base64 |
//!
//! Each of the secrets is tried, so one can be replaced while the other is still used. Signatures are compared in constant
//! time. A signed time keeps a request from being sent again later; GitHub signs none.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use starmere_lake::echo::cut;
use subtle::ConstantTimeEq as _;

use super::Refusal;

/// How requests are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    GitHub,
    Stripe,
    Standard,
}

/// What a request to a stream has to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signatures {
    scheme: Scheme,
    secrets: Vec<Secret>,
    /// So far may a signed time be from ours.
    tolerance: Duration,
}

#[derive(Clone, PartialEq, Eq)]
struct Secret(Vec<u8>);

/// Never shown.
impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Secret {
    /// Whether one of the signatures is that of these bytes, one part after the other.
    fn has_signed(&self, parts: &[&[u8]], signatures: &[Vec<u8>]) -> bool {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        parts.iter().for_each(|part| context.update(part));
        let own = context.sign();
        let own: &[u8] = own.as_ref();
        signatures.iter().any(|signature| bool::from(own.ct_eq(signature.as_slice())))
    }
}

/// What begins a secret of Standard Webhooks.
const STANDARD_SECRET: &str = "whsec_";
/// Between what is signed together.
const DOT: &[u8] = b".";

impl Signatures {
    /// Signatures made with any of `secrets`, as their service writes them.
    ///
    /// # Errors
    ///
    /// Which of the secrets, counted from 1, cannot be one, and why.
    pub fn new(scheme: Scheme, secrets: &[String], tolerance: Duration) -> Result<Self, String> {
        let secret = |(place, text): (usize, &String)| {
            let text = text.trim();
            let bytes = match scheme {
                Scheme::GitHub | Scheme::Stripe => Some(text.as_bytes().to_vec()),
                Scheme::Standard => STANDARD.decode(text.strip_prefix(STANDARD_SECRET).unwrap_or(text)).ok(),
            };
            match bytes {
                None => Err(format!("secret {} is not `whsec_` and base64", place + 1)),
                // Anybody can sign with nothing.
                Some(bytes) if bytes.is_empty() => Err(format!("secret {} is empty", place + 1)),
                Some(bytes) => Ok(Secret(bytes)),
            }
        };
        let secrets = secrets.iter().enumerate().map(secret).collect::<Result<Vec<Secret>, String>>()?;
        Ok(Self { scheme, secrets, tolerance })
    }

    /// Refuses a request that is not signed with one of the secrets. `now` is in seconds since 1970.
    pub(super) fn check(&self, headers: &HeaderMap, body: &[u8], now: i64) -> Result<(), Refusal> {
        let header = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.ok_or_else(|| {
                let hint = "nothing has landed; set the secret of the stream where the webhook is configured";
                refused(format!("the request is not signed: it has no `{name}`"), hint)
            })
        };
        let (parts, signatures): (Vec<&[u8]>, Vec<Vec<u8>>) = match self.scheme {
            Scheme::GitHub => {
                let signature = header("x-hub-signature-256")?.strip_prefix("sha256=");
                (vec![body], signature.and_then(|text| hex::decode(text).ok()).into_iter().collect())
            }
            Scheme::Stripe => {
                let members: Vec<(&str, &str)> =
                    header("stripe-signature")?.split(',').filter_map(|member| member.trim().split_once('=')).collect();
                let time = members.iter().find(|(name, _)| *name == "t").map_or("", |(_, time)| *time);
                self.check_time(time, now)?;
                let signatures = members.iter().filter(|(name, _)| *name == "v1");
                let signatures = signatures.filter_map(|(_, text)| hex::decode(text).ok()).collect();
                (vec![time.as_bytes(), DOT, body], signatures)
            }
            Scheme::Standard => {
                let (id, time) = (header("webhook-id")?, header("webhook-timestamp")?);
                self.check_time(time, now)?;
                let signatures = header("webhook-signature")?.split(' ').filter_map(|text| text.strip_prefix("v1,"));
                let signatures = signatures.filter_map(|text| STANDARD.decode(text).ok()).collect();
                (vec![id.as_bytes(), DOT, time.as_bytes(), DOT, body], signatures)
            }
        };
        if self.secrets.iter().any(|secret| secret.has_signed(&parts, &signatures)) {
            return Ok(());
        }
        let hint = "nothing has landed; the webhook and `webhooks` in starmere.yaml need the same secret, and nothing in \
                    between may change the body";
        Err(refused("the signature is not of this body with a secret of the stream".to_owned(), hint))
    }

    fn check_time(&self, time: &str, now: i64) -> Result<(), Refusal> {
        let is_now = time.parse::<i64>().is_ok_and(|at| at.abs_diff(now) <= self.tolerance.as_secs());
        if is_now {
            return Ok(());
        }
        let message = format!("the request was signed at `{}`, and here it is {now}, in seconds since 1970", cut(time));
        let hint = "nothing has landed; set the clocks, or `tolerance_seconds` of the webhook; a request that is sent again \
                    is signed again";
        Err(refused(message, hint))
    }
}

fn refused(message: String, hint: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Duration = Duration::from_secs(300);

    fn check(
        scheme: Scheme,
        secrets: &[&str],
        headers: &[(&'static str, &str)],
        body: &str,
        now: i64,
    ) -> Result<(), String> {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        let signatures = Signatures::new(scheme, &secrets, TOLERANCE).unwrap();
        assert!(!format!("{signatures:?}").contains(&secrets[0]));
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| {
            map.insert(*name, value.parse().unwrap());
        });
        signatures.check(&map, body.as_bytes(), now).map_err(|refusal| {
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
            refusal.message
        })
    }

    /// The example of GitHub's documentation.
    #[test]
    fn github() {
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let secret = "It's a Secret to Everybody";
        let check = |secrets: &[&str], signature: &str, body: &str| {
            check(Scheme::GitHub, secrets, &[("x-hub-signature-256", signature)], body, 0)
        };
        assert_eq!(check(&[secret], signature, "Hello, World!"), Ok(()));
        assert_eq!(check(&["another", secret], signature, "Hello, World!"), Ok(()), "while it is replaced");
        let wrong: Result<(), String> = Err("the signature is not of this body with a secret of the stream".to_owned());
        assert_eq!(check(&["another"], signature, "Hello, World!"), wrong);
        assert_eq!(check(&[secret], signature, "Hello, World"), wrong);
        for (at, digit) in [(7, "8"), (70, "8")] {
            let mut other = signature.to_owned();
            other.replace_range(at..=at, digit);
            assert_eq!(check(&[secret], &other, "Hello, World!"), wrong);
        }
        for cut in ["", "sha256=", "sha256=7571", "sha1=7571", &signature[7..], "sha256=xy"] {
            assert_eq!(check(&[secret], cut, "Hello, World!"), wrong);
        }
        let missing = self::check(Scheme::GitHub, &[secret], &[], "Hello, World!", 0);
        assert_eq!(missing, Err("the request is not signed: it has no `x-hub-signature-256`".to_owned()));
    }

    fn signed(key: &[u8], text: &str) -> hmac::Tag {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
    }

    #[test]
    fn stripe() {
        let (secret, now) = ("whsec_test", 1_700_000_000);
        let by = |secret: &str, time: i64| hex::encode(signed(secret.as_bytes(), &format!("{time}.{{}}")));
        let check =
            |header: &str, body: &str| check(Scheme::Stripe, &[secret], &[("stripe-signature", header)], body, now);
        let (right, other) = (by(secret, now), by("whsec_other", now));
        assert_eq!(check(&format!("t={now},v1={right},v0=abc"), "{}"), Ok(()));
        assert_eq!(
            check(&format!("t={now}, v1={other}, v1={right}"), "{}"),
            Ok(()),
            "signed with both, while one is replaced"
        );
        for wrong in [
            format!("t={now},v1={other}"),
            format!("t={now},v0={right}"),
            format!("t={},v1={right}", now - 1),
            format!("t={now}"),
        ] {
            assert!(check(&wrong, "{}").is_err_and(|told| told.contains("not of this body")), "{wrong}");
        }
        assert!(check(&format!("t={now},v1={right}"), "{ }").is_err());
        for (time, is_taken) in [(now - 300, true), (now - 301, false), (now + 300, true), (now + 301, false)] {
            assert_eq!(check(&format!("t={time},v1={}", by(secret, time)), "{}").is_ok(), is_taken, "{time}");
        }
        for timeless in [format!("v1={right}"), format!("t=,v1={right}"), format!("t=99999999999999999999,v1={right}")]
        {
            assert!(check(&timeless, "{}").is_err_and(|told| told.contains("was signed at")), "{timeless}");
        }
    }

    /// The example of the specification's libraries.
    #[test]
    fn standard_webhooks() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let (id, time, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        let signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let check = |secret: &str, id: &str, signature: &str, now: i64| {
            let time = time.to_string();
            let headers = [("webhook-id", id), ("webhook-timestamp", time.as_str()), ("webhook-signature", signature)];
            check(Scheme::Standard, &[secret], &headers, body, now)
        };
        assert_eq!(check(secret, id, signature, time), Ok(()));
        assert_eq!(check(&secret["whsec_".len()..], id, signature, time), Ok(()));
        assert_eq!(check(secret, id, &format!("v1a,xyz v1,AAAA {signature}"), time), Ok(()));
        assert!(check(secret, "msg_other", signature, time).is_err(), "the id is signed");
        assert!(check(secret, id, &signature["v1,".len()..], time).is_err());
        assert!(check(secret, id, &signature.replace("v1,", "v2,"), time).is_err());
        assert!(check("whsec_c2VjcmV0", id, signature, time).is_err());
        assert!(check(secret, id, signature, time + 301).is_err_and(|told| told.contains("was signed at")));
    }

    #[test]
    fn a_secret_that_anybody_knows_is_none() {
        let new = |scheme, secret: &str| Signatures::new(scheme, &["a".repeat(4), secret.to_owned()], TOLERANCE);
        assert_eq!(new(Scheme::GitHub, " \n"), Err("secret 2 is empty".to_owned()));
        assert_eq!(new(Scheme::Stripe, ""), Err("secret 2 is empty".to_owned()));
        assert_eq!(new(Scheme::Standard, "whsec_"), Err("secret 2 is empty".to_owned()));
        assert_eq!(new(Scheme::Standard, "whsec_?"), Err("secret 2 is not `whsec_` and base64".to_owned()));
    }
}
