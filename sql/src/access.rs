//! Who is asking.
//!
//! Users have names and passwords; only salted SHA-256 digests stay in memory. A caller shows a password
//! with each call (`Basic`), or once, for a token (`Bearer`) that lasts while it is used. Tokens live in
//! memory: after a restart clients are told so and log in again, which drivers do by themselves. Log-ins that fail
//! are slowed, counted and logged (`guesses`).
//!
//! Without users everybody is `anonymous` and may do everything, and [`check_listener`] lets only loopback addresses
//! be listened on. There are no roles yet: each user has [`Rights`].

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use sha2::{Digest, Sha256};
use starmere_lake::echo::cut;
use uuid::Uuid;

use self::guesses::Guesses;
pub use self::rights::{Caller, Right, Rights};
use crate::error::QueryError;

mod guesses;
mod rights;
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

/// The users, by name, with salted digests of their passwords.
#[derive(Default)]
pub struct Users {
    people: Vec<Person>,
}

struct Person {
    name: String,
    salt: [u8; 16],
    digest: [u8; 32],
    rights: Rights,
}

impl fmt::Debug for Users {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.people.iter().map(|person| &person.name)).finish()
    }
}

impl Users {
    /// Users from `(name, password)` with the rights of users that say nothing of them; the passwords are not kept.
    pub fn new(people: Vec<(String, String)>) -> Self {
        let by_default = |(name, password)| (name, password, Rights::default());
        Self::with_rights(people.into_iter().map(by_default).collect())
    }

    /// Users from `(name, password, rights)`; the passwords are not kept.
    pub fn with_rights(people: Vec<(String, String, Rights)>) -> Self {
        let people = people
            .into_iter()
            .map(|(name, password, rights)| {
                let salt = Uuid::new_v4().into_bytes();
                Person { name, digest: digest(&salt, &password), salt, rights }
            })
            .collect();
        Self { people }
    }

    /// Nobody is declared, so everybody may.
    pub fn is_open(&self) -> bool {
        self.people.is_empty()
    }

    /// The rights of the user with this name and password. Takes as long for a name that does not exist.
    fn admit(&self, name: &str, password: &str) -> Option<Rights> {
        self.people.iter().fold(None, |admitted, person| {
            let same = same_bytes(&digest(&person.salt, password), &person.digest);
            if same & (person.name == name) { Some(person.rights) } else { admitted }
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
    guesses: Guesses,
}

#[derive(Debug)]
struct Session {
    caller: Caller,
    used: Instant,
}

impl Access {
    /// Access for these users.
    pub fn new(users: Users) -> Self {
        Self { users, sessions: Mutex::default(), guesses: Guesses::default() }
    }

    /// Whether everybody may.
    pub fn is_open(&self) -> bool {
        self.users.is_open()
    }

    /// How many log-ins have failed since the start.
    pub fn failed_log_ins(&self) -> u64 {
        self.guesses.count()
    }

    /// Who shows this `Authorization` header (`Basic …` or `Bearer …`) from that address.
    ///
    /// # Errors
    /// `Unauthenticated` where users are declared and the header is missing, unreadable or wrong; those of
    /// [`Self::password`].
    pub fn caller(&self, authorization: Option<&str>, peer: Option<IpAddr>) -> Result<Caller, QueryError> {
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
            self.password(&name, &password, peer)
        } else {
            Err(refuse(format!("`{}` is not a scheme this server accepts", cut(scheme))))
        }
    }

    /// Who has this password.
    ///
    /// # Errors
    /// `Unauthenticated` where users are declared and this is none of them, `Unavailable` after too many of these.
    pub fn password(&self, name: &str, password: &str, peer: Option<IpAddr>) -> Result<Caller, QueryError> {
        if self.is_open() {
            return Ok(Caller::anonymous());
        }
        let now = Instant::now();
        if let Some(wait) = self.guesses.wait(peer, name, now) {
            let message = format!("too many log-ins as `{}` or from this address have failed", cut(name));
            let hint = format!("check the password, and try again in {} s", wait.as_secs() + 1);
            return Err(QueryError::unavailable(message).with_hint(hint));
        }
        if let Some(rights) = self.users.admit(name, password) {
            self.guesses.succeeded(peer, name);
            return Ok(Caller { user: name.to_owned(), rights });
        }
        self.guesses.failed(peer, name, password, now);
        // Strangers choose the name: it is quoted, and cut where it is long.
        let user = cut(name);
        let from = peer.map(|peer| peer.to_string()).unwrap_or_default();
        tracing::warn!(?user, %from, failed = self.failed_log_ins(), "a log-in failed");
        Err(refuse(format!("the name `{user}` or its password is wrong")))
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
        sessions.insert(token_digest(token), Session { caller: caller.clone(), used: now });
    }

    fn bearer(&self, token: &str, now: Instant) -> Result<Caller, QueryError> {
        let key = token_digest(token);
        let mut sessions = self.sessions();
        if let Some(session) = sessions.get_mut(&key) {
            if now.duration_since(session.used) < TOKEN_IDLE {
                session.used = now;
                return Ok(session.caller.clone());
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
