//! Who is asking.
//!
//! Users have names and passwords; only salted SHA-256 digests stay in memory. A caller shows a password
//! with each call (`Basic`), or once, for a token (`Bearer`) that lasts while it is used. Tokens live in
//! memory: after a restart clients are told so and log in again, which drivers do by themselves.
//!
//! Without users everybody is `anonymous`, and [`check_listener`] lets only loopback addresses be listened
//! on. There are no roles yet: whoever may query may also see and cancel what others run.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::QueryError;

#[cfg(test)]
mod tests;

/// A token that is not used for this long is forgotten.
pub const TOKEN_IDLE: Duration = Duration::from_secs(12 * 60 * 60);

/// So many tokens are kept; the one unused for longest makes room.
pub const TOKENS: usize = 10_000;

/// Standard base64, padded or not: RFC 7617 asks for padding, and the Go driver of Flight SQL sends none.
const CREDENTIALS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whoever asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// A user's name, or `anonymous` where there are no users.
    pub user: String,
}

impl Caller {
    /// Who asks where there are no users.
    pub fn anonymous() -> Self {
        Self { user: "anonymous".to_owned() }
    }
}

/// The users, by name, with salted digests of their passwords.
#[derive(Default)]
pub struct Users {
    people: Vec<Person>,
}

struct Person {
    name: String,
    salt: [u8; 16],
    digest: [u8; 32],
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.people.iter().map(|person| &person.name)).finish()
    }
}

impl Users {
    /// Users from `(name, password)`; the passwords are not kept.
    pub fn new(people: Vec<(String, String)>) -> Self {
        let people = people
            .into_iter()
            .map(|(name, password)| {
                let salt = Uuid::new_v4().into_bytes();
                Person { name, digest: digest(&salt, &password), salt }
            })
            .collect();
        Self { people }
    }

    /// Nobody is declared, so everybody may.
    pub fn is_open(&self) -> bool {
        self.people.is_empty()
    }

    /// Whether the password is this user's. Takes as long for a name that does not exist.
    fn admit(&self, name: &str, password: &str) -> bool {
        self.people.iter().fold(false, |admitted, person| {
            let same = same_bytes(&digest(&person.salt, password), &person.digest);
            admitted | (same & (person.name == name))
        })
    }
}

/// Refuses to listen where strangers are when nobody is declared.
///
/// # Errors
/// `Invalid`, with how to mend it, for an address that is not loopback while `users` is open.
pub fn check_listener(address: &SocketAddr, has_users: bool) -> Result<(), QueryError> {
    if !has_users && !address.ip().is_loopback() {
        return Err(QueryError::invalid(format!(
            "`{address}` can be reached from other machines, and no users are declared"
        ))
        .with_hint("declare `users:` in starmere.yaml, or listen on 127.0.0.1 and put a proxy in front"));
    }
    Ok(())
}

/// Tells callers apart: by password or by token.
#[derive(Debug, Default)]
pub struct Access {
    users: Users,
    sessions: Mutex<HashMap<[u8; 32], Session>>,
}

#[derive(Debug)]
struct Session {
    user: String,
    used: Instant,
}

impl Access {
    /// Access for these users.
    pub fn new(users: Users) -> Self {
        Self { users, sessions: Mutex::default() }
    }

    /// Whether everybody may.
    pub fn is_open(&self) -> bool {
        self.users.is_open()
    }

    /// Who shows this `Authorization` header (`Basic …` or `Bearer …`).
    ///
    /// # Errors
    /// `Unauthenticated` where users are declared and the header is missing, unreadable or wrong.
    pub fn caller(&self, authorization: Option<&str>) -> Result<Caller, QueryError> {
        if self.is_open() {
            return Ok(Caller::anonymous());
        }
        let header = authorization.ok_or_else(|| refuse("this server knows its users"))?;
        let (scheme, value) = header.trim().split_once(' ').unwrap_or((header, ""));
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            self.bearer(value, Instant::now())
        } else if scheme.eq_ignore_ascii_case("basic") {
            let (name, password) = decode_basic(value)?;
            self.password(&name, &password)
        } else {
            Err(refuse(format!("`{scheme}` is not a scheme this server accepts")))
        }
    }

    /// Who has this password.
    ///
    /// # Errors
    /// `Unauthenticated` where users are declared and this is none of them.
    pub fn password(&self, name: &str, password: &str) -> Result<Caller, QueryError> {
        if self.is_open() {
            return Ok(Caller::anonymous());
        }
        if self.users.admit(name, password) {
            Ok(Caller { user: name.to_owned() })
        } else {
            Err(refuse(format!("the name `{name}` or its password is wrong")))
        }
    }

    /// A new token for a caller.
    pub fn issue(&self, caller: &Caller) -> String {
        let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        self.remember(&token, caller, Instant::now());
        token
    }

    /// Forgets the token of an `Authorization: Bearer …` header; others are left alone.
    pub fn revoke(&self, authorization: &str) {
        if let Some((scheme, token)) = authorization.trim().split_once(' ')
            && scheme.eq_ignore_ascii_case("bearer")
        {
            self.sessions().remove(&token_digest(token.trim()));
        }
    }

    fn remember(&self, token: &str, caller: &Caller, now: Instant) {
        let mut sessions = self.sessions();
        if sessions.len() >= TOKENS {
            sessions.retain(|_, session| now.duration_since(session.used) < TOKEN_IDLE);
        }
        if sessions.len() >= TOKENS {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.used).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                sessions.remove(&oldest);
            }
        }
        sessions.insert(token_digest(token), Session { user: caller.user.clone(), used: now });
    }

    fn bearer(&self, token: &str, now: Instant) -> Result<Caller, QueryError> {
        let key = token_digest(token);
        let mut sessions = self.sessions();
        if let Some(session) = sessions.get_mut(&key) {
            if now.duration_since(session.used) < TOKEN_IDLE {
                session.used = now;
                return Ok(Caller { user: session.user.clone() });
            }
            sessions.remove(&key);
        }
        Err(refuse("the token is unknown or has expired"))
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<[u8; 32], Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(message: impl Into<String>) -> QueryError {
    QueryError::unauthenticated(message)
        .with_hint("log in with a name and password that `users:` in starmere.yaml declares")
}

fn decode_basic(value: &str) -> Result<(String, String), QueryError> {
    let unreadable = || refuse("the `Basic` credentials are not base64 of `name:password`");
    let bytes = CREDENTIALS.decode(value).map_err(|_| unreadable())?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable())?;
    let (name, password) = text.split_once(':').ok_or_else(unreadable)?;
    Ok((name.to_owned(), password.to_owned()))
}

fn digest(salt: &[u8; 16], password: &str) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(password.as_bytes()).finalize().into()
}

/// Tokens are found by their digest, so that finding takes equally long for near misses.
fn token_digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Looks at every byte, wherever the first difference is.
fn same_bytes(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let differences = left.iter().zip(right).fold(0, |all, (left, right)| all | (left ^ right));
    std::hint::black_box(differences) == 0
}
