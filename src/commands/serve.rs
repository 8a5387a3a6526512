//! `starmere serve` and `starmere up`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use starmere_ingest::http::{EVENTS_PATH, Limits as HttpLimits, Listener, Sender};
use starmere_ingest::landings;
use starmere_lake::Error as LakeError;
use starmere_lake::machine::Machine;
use starmere_lake::troubles::{self, About};
use starmere_lake::{format_number, metrics};
use starmere_sql::http::{Hosts, for_hosts};
use starmere_sql::server::Peer;
use starmere_sql::{Access, Caller, Queries, Right, Rights, Users, check_listener};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::reload::{Current, Watcher};
use super::{TO_STOP, ingest, told_to_stop, upkeep};
use crate::command_line::Serve;
use crate::definitions::Act;
use crate::failure::Mendable;
use crate::output::{Output, counted};
use crate::project::Opened;
use crate::publish::{Kept, Superseded, keep_built};
use crate::views::ProjectViews;
use crate::{builds, health, reports};

/// Whoever asks whether the process is ready is told what was found so long ago at most.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// A warehouse that takes longer is not there.
const WAREHOUSE_WAITS: Duration = Duration::from_secs(2);
/// Why a process is not ready.
const NO_ANSWER: &str = "the warehouse does not answer";
const DAMAGED_CATALOG: &str = "the newest catalog snapshot is damaged; queries are not answered";
/// Landing is tried again within seconds. After so long nobody tries it any more, and the store is asked.
const TRIED_LATELY: Duration = Duration::from_secs(60);

pub(super) async fn run(opened: &Opened, arguments: &Serve, continuously: bool, output: &Output) -> anyhow::Result<()> {
    let told = told_to_stop();
    let users = declared_users(opened)?;
    starmere_sql::hide_paths(private_paths(opened));
    let listeners = &opened.project.file.listeners;
    let http = listen(arguments.http.as_ref().unwrap_or(&listeners.http), &users, LISTENERS).await?;
    let flight = listen(arguments.flight.as_ref().unwrap_or(&listeners.flight), &users, LISTENERS).await?;
    let (http_at, flight_at) = (http.local_addr()?, flight.local_addr()?);
    let targets = opened.targets().await?;
    let (stop, ending) = (CancellationToken::new(), CancellationToken::new());
    let (watcher, current) = Watcher::new(opened, &[], continuously, output);
    let access = Arc::new(Access::new(users));
    let limits = opened.project.file.queries.limits(Machine::here());
    let views = ProjectViews::following(current.receiver());
    let views = if arguments.work { views.with_work() } else { views };
    let queries = Queries::new(Arc::new(views), limits);

    let limits = HttpLimits { gather: listeners.gather(), ..HttpLimits::default() };
    let events = Listener::new(targets, limits, &opened.memory, &stop);
    let posting = events.router().route_layer(middleware::from_fn(note_sender));
    let router = starmere_sql::http::guarded(posting, access.clone(), &[Right::Post])
        .merge(starmere_sql::http::guarded(watched(&current), access.clone(), &[Right::Metrics]))
        .merge(starmere_sql::http::router(queries.clone(), access.clone()))
        .merge(probes(Ready::of(opened, &ending)));
    let events_path = format!("POST {EVENTS_PATH}");
    let paths = [events_path.as_str(), "GET /metrics", "GET /livez", "GET /readyz"];
    let router = starmere_sql::http::answering_all(router, &paths).layer(middleware::from_fn(count_request));
    let router = for_hosts(router, hosts(opened, arguments.http.as_deref()));

    let web = tokio::spawn(starmere_sql::serve_http(http, router, stop.clone()));
    let grpc = tokio::spawn(starmere_sql::serve_flight(flight, queries.clone(), access, stop.clone()));
    tokio::spawn(watcher.run(stop.clone()));
    tokio::spawn(renew(current.clone(), events.clone(), stop.clone()));
    let work = continuously.then(|| {
        let (current, output) = (current.clone(), output.clone());
        let stop = stop.clone();
        tokio::spawn(async move { keep_up(&current, &output, &stop).await })
    });
    tokio::spawn(observe(current.clone(), if continuously { "up" } else { "serve" }, stop.clone()));
    output.say(format!("flight sql  grpc://{flight_at}"));
    output.say(format!("http        http://{http_at}"));
    told.await;
    ending.cancel();
    drained(arguments.drain, output).await;
    output.say("ending: landing what has been accepted");
    stop.cancel();
    if tokio::time::timeout(TO_STOP, events.finished()).await.is_err() {
        output.say(left_behind(events.unlanded()));
    }
    queries.cancel_all();
    if let Some(mut work) = work
        && tokio::time::timeout(TO_STOP, &mut work).await.is_err()
    {
        output.say(format!(
            "ending: sources have not landed what they had read within {} s; the next process reads it again, from the \
             positions in the tables",
            TO_STOP.as_secs()
        ));
        work.abort();
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), async { (web.await, grpc.await) }).await;
    if let Ok((web, grpc)) = ended {
        web.context("the HTTP listener died")?;
        grpc.context("the Flight listener died")??;
    }
    Ok(())
}

/// What is said of events that the store has not taken when the process ends. A request is answered after its commit,
/// so nothing that was acknowledged is among them.
fn left_behind(events: u64) -> String {
    format!(
        "ending: the store has not taken {} over HTTP within {} s; whether they land is not known, and their requests \
         were not answered with success: send them again, with the same ids",
        counted(events, "event", "events"),
        TO_STOP.as_secs()
    )
}

/// Goes on for so many seconds after it was told to stop, so that whoever sends requests sees that it is not ready any
/// more; told again, it ends at once.
async fn drained(seconds: u64, output: &Output) {
    if seconds == 0 {
        return;
    }
    output.say(format!("ending: not ready any more; listening for another {seconds} s, or until told to stop again"));
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        () = told_to_stop() => {}
    }
}

/// Where Prometheus scrapes.
const METRICS_PATH: &str = "/metrics";

fn watched(current: &Current) -> axum::Router {
    axum::Router::new().route(METRICS_PATH, axum::routing::get(metrics)).with_state(current.clone())
}

/// Takes events by the definitions as they are.
async fn renew(mut current: Current, events: Listener, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = current.changed() => {}
            () = stop.cancelled() => return,
        }
        match current.now().targets().await {
            Ok(targets) => events.renew(targets),
            Err(error) => tracing::error!(error = format!("{error:#}"), "streams stay as they were"),
        }
    }
}

/// Answers whether the process runs, and whether it may be asked; to everybody, since probes have no passwords.
fn probes(ready: Ready) -> axum::Router {
    axum::Router::new()
        .route("/livez", axum::routing::get(livez))
        .route("/readyz", axum::routing::get(readyz))
        .with_state(ready)
}

/// What readiness depends on. Definitions have been read and listeners are open where this can be asked.
#[derive(Clone)]
struct Ready {
    opened: Opened,
    /// The process has been told to stop.
    ending: CancellationToken,
    /// It answers queries, and none of them without the newest catalog snapshot. Landing needs no catalog.
    answers_queries: bool,
    /// When the warehouse was tried last, and what was wrong then.
    tried: Arc<tokio::sync::Mutex<Tried>>,
}

type Tried = Option<(Instant, Option<&'static str>)>;

impl Ready {
    /// The readiness of a process that answers queries.
    fn of(opened: &Opened, ending: &CancellationToken) -> Self {
        Self { opened: opened.clone(), ending: ending.clone(), answers_queries: true, tried: Arc::default() }
    }

    /// Why the process is not ready. Says nothing of the machine: everybody may ask.
    async fn not_because(&self) -> Option<&'static str> {
        if self.ending.is_cancelled() {
            return Some("ending");
        }
        let mut tried = self.tried.lock().await;
        let last = *tried;
        match last {
            Some((at, found)) if at.elapsed() < TRY_AGAIN => found,
            _ => {
                let found = self.wrong_with_the_warehouse().await;
                *tried = Some((Instant::now(), found));
                found
            }
        }
    }

    async fn wrong_with_the_warehouse(&self) -> Option<&'static str> {
        if let Some(wrong) = self.wrong_with_the_catalog().await {
            return Some(wrong);
        }
        if format_number::as_noted(self.opened.warehouse.store()).is_err() {
            return Some("a newer binary has raised the warehouse's format: this one lands no events");
        }
        let takes_events = match landings::refused_ago() {
            None => true,
            Some(ago) if ago < TRIED_LATELY => false,
            Some(_) => {
                let written = tokio::time::timeout(WAREHOUSE_WAITS, self.opened.warehouse.store().time()).await;
                matches!(written, Ok(Ok(_)))
            }
        };
        (!takes_events).then_some("the warehouse takes no events; queries are answered")
    }

    async fn wrong_with_the_catalog(&self) -> Option<&'static str> {
        let (cause, wrong) = match tokio::time::timeout(WAREHOUSE_WAITS, self.opened.catalog.newest()).await {
            Ok(Ok(_)) => {
                troubles::well(About::Warehouse, health::WAREHOUSE);
                return None;
            }
            Ok(Err(error @ LakeError::DamagedSnapshot { .. })) => {
                (troubles::causes(&error), self.answers_queries.then_some(DAMAGED_CATALOG))
            }
            Ok(Err(error)) => (troubles::causes(&error), Some(NO_ANSWER)),
            Err(_) => (format!("no answer within {} s", WAREHOUSE_WAITS.as_secs()), Some(NO_ANSWER)),
        };
        troubles::failed(About::Warehouse, health::WAREHOUSE, &cause);
        wrong
    }
}

/// The process runs. Says nothing about the warehouse: a restart would not bring it back.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(ready): State<Ready>) -> Response {
    match ready.not_because().await {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Notes whose request it is: a user's, or where there are no users, an address's.
async fn note_sender(mut request: Request, next: Next) -> Response {
    let extensions = request.extensions_mut();
    let user = extensions.get::<Caller>().filter(|caller| **caller != Caller::anonymous());
    let sender = match (user, extensions.get::<Peer>()) {
        (Some(caller), _) => Sender::new(caller.user.as_str()),
        (None, Some(peer)) => Sender::new(peer.0.to_string()),
        (None, None) => Sender::default(),
    };
    extensions.insert(sender);
    next.run(request).await
}

/// Counts requests by route, never by path: paths are what clients send.
async fn count_request(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let class = format!("{}xx", response.status().as_u16() / 100);
    metrics::HTTP_REQUESTS.add(&[route.as_ref().map_or("other", MatchedPath::as_str), &class], 1);
    response
}

/// Watches sources and tells troubles, beside the work of `command`.
pub(super) async fn observe(mut current: Current, command: &'static str, stop: CancellationToken) {
    let warehouse = current.now().warehouse.clone();
    let watching = async {
        while !stop.is_cancelled() {
            let opened = current.now();
            tokio::select! {
                () = health::watch(&opened, &stop) => {}
                () = current.changed() => {}
            }
        }
    };
    tokio::join!(watching, reports::keep_telling(&warehouse, command, &stop));
}

/// Answers metrics and probes only, until told to stop.
pub(super) async fn metrics_alone(
    current: &Current,
    address: &str,
    output: &Output,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let opened = current.now();
    let users = declared_users(&opened)?;
    starmere_sql::hide_paths(private_paths(&opened));
    let http = listen(address, &users, "write --metrics 127.0.0.1:9100, say; port 0: the system chooses").await?;
    output.say(format!("http        http://{}", http.local_addr()?));
    let router = starmere_sql::http::guarded(watched(current), Arc::new(Access::new(users)), &[Right::Metrics])
        .merge(probes(Ready { answers_queries: false, ..Ready::of(&opened, stop) }))
        .layer(middleware::from_fn(count_request));
    let router = for_hosts(router, hosts(&opened, Some(address)));
    tokio::spawn(starmere_sql::serve_http(http, router, stop.clone()));
    Ok(())
}

async fn metrics(State(current): State<Current>) -> Response {
    let text = health::metrics(&current.now()).await;
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The names by which clients may call the HTTP listener: those that are declared, and that of its address.
fn hosts(opened: &Opened, address: Option<&str>) -> Hosts {
    let listeners = &opened.project.file.listeners;
    let address = address.unwrap_or(&listeners.http);
    let own = address.rsplit_once(':').map(|(name, _)| name.to_owned());
    Hosts::new(listeners.hosts.iter().map(|name| (**name).clone()).chain(own))
}

/// Where on this machine the project's data lies: clients are not shown it.
fn private_paths(opened: &Opened) -> Vec<String> {
    let root = &opened.project.root;
    let warehouse = opened.warehouse.store().location();
    let folder = warehouse.strip_prefix("file://").unwrap_or(warehouse);
    let folder = (!folder.contains("://")).then(|| root.join(folder));
    let folders = folder.into_iter().chain([root.clone(), std::env::temp_dir()]);
    folders
        .flat_map(|folder| [std::path::absolute(&folder).ok(), folder.canonicalize().ok()])
        .flatten()
        .map(|folder| folder.display().to_string())
        .collect()
}

fn declared_users(opened: &Opened) -> anyhow::Result<Users> {
    let users = opened.project.users()?;
    check_passwords(&users)?;
    Ok(Users::with_rights(users))
}

/// A secret that resolves to nothing would let in everybody who knows a name.
fn check_passwords(users: &[(String, String, Rights)]) -> anyhow::Result<()> {
    match users.iter().find(|(_, password, _)| password.trim().is_empty()) {
        Some((name, ..)) => Err(Mendable::error(
            format!("the password of user `{name}` is empty"),
            "put a password where `password:` of that user in starmere.yaml points to",
        )),
        None => Ok(()),
    }
}

/// What to do about an address that cannot be listened on.
const LISTENERS: &str =
    "mend `listeners` in starmere.yaml, or say where with --http and --flight; port 0: the system chooses";

async fn listen(address: &str, users: &Users, hint: &'static str) -> anyhow::Result<TcpListener> {
    let mut resolved = tokio::net::lookup_host(address)
        .await
        .map_err(|error| Mendable::error(format!("`{address}` is not an address: {error}"), hint))?;
    let none = || Mendable::error(format!("`{address}` is not an address"), hint);
    let address: SocketAddr = resolved.next().ok_or_else(none)?;
    check_listener(&address, !users.is_open())?;
    TcpListener::bind(address)
        .await
        .map_err(|error| Mendable::error(format!("could not listen on {address}: {error}"), hint))
}

/// Lands and builds whatever is new.
async fn keep_up(current: &Current, output: &Output, stop: &CancellationToken) {
    let building = async {
        tokio::select! {
            () = build(current, output) => {}
            () = stop.cancelled() => {}
        }
    };
    let landing = ingest::follow(current, &[], false, output, stop);
    tokio::join!(landing, building, upkeep::continuously(current, stop));
}

/// Builds what is new by the definitions as they are, as long as nobody else publishes others.
async fn build(current: &Current, output: &Output) {
    /// The object of troubles about definitions.
    const DEFINITIONS: &str = "definitions";
    let quiet = output.silent();
    let (mut act, mut claim, mut built_by, mut asked) = (Act::Start, None, String::new(), None);
    loop {
        let opened = current.now();
        if opened.project.fingerprint != built_by {
            // To take up files that have changed is a deliberate act, as `build` is.
            (claim, built_by) = (None, opened.project.fingerprint.clone());
        }
        let kept = match opened.project.unread {
            // What was wrong was told.
            Some(_) => None,
            None => {
                let ports = opened.project.meaning.ports.len();
                builds::watched(ports, keep_built(&opened, &mut claim, act, &quiet)).await
            }
        };
        if claim.is_some() {
            act = Act::Change;
        }
        let is_superseded = matches!(kept, Some(Kept::Superseded(_)));
        opened.watched.is_superseded.store(is_superseded, Ordering::Relaxed);
        if !is_superseded {
            troubles::well(About::Build, DEFINITIONS);
        }
        match kept {
            Some(Kept::Published(number)) => output.say(format!("published catalog snapshot {number}")),
            // Perhaps the files are these by now; else it is told the next time.
            Some(Kept::Superseded(ours)) if asked != Some(ours.by.number) => {
                asked = Some(ours.by.number);
                current.reread();
            }
            Some(Kept::Superseded(ours)) => troubles::failed(About::Build, DEFINITIONS, &superseded(&ours)),
            // What failed was told.
            Some(Kept::HoldsAll) | None => {}
        }
        tokio::time::sleep(current.now().project.file.publish_every()).await;
    }
}

/// Why nothing is built, where somebody else has published other definitions.
fn superseded(ours: &Superseded) -> String {
    format!(
        "{}: nothing is built until they are the same; events are landed and queries answered; hint: bring the files \
         up to date, or publish those that are here with `starmere build`, which makes them the newest",
        ours.words()
    )
}

#[cfg(test)]
mod tests {
    use super::{Rights, check_passwords};

    #[test]
    fn an_empty_password_is_refused_by_name() {
        let user = |name: &str, password: &str| (name.to_owned(), password.to_owned(), Rights::default());
        assert!(check_passwords(&[]).is_ok());
        assert!(check_passwords(&[user("ana", "secret")]).is_ok());
        for empty in ["", " \n"] {
            let error = check_passwords(&[user("ana", "secret"), user("ben", empty)]).unwrap_err();
            assert!(error.to_string().contains("`ben`"), "{error}");
        }
    }
}
