//! `starmere serve` and `starmere up`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use starmere_ingest::http::{EVENTS_PATH, Limits as HttpLimits, Listener};
use starmere_sql::http::{Hosts, for_hosts};
use starmere_sql::{Access, Limits, Queries, Right, Rights, Users, check_listener};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{TO_STOP, ingest, told_to_stop, upkeep};
use crate::command_line::Serve;
use crate::failure::Mendable;
use crate::health;
use crate::output::Output;
use crate::project::Opened;
use crate::publish::{How, build_and_publish};
use crate::views::ProjectViews;

/// `up` looks this often whether something is to be built.
const BUILD_EVERY: Duration = Duration::from_secs(2);

pub(super) async fn run(opened: &Opened, arguments: &Serve, continuously: bool, output: &Output) -> anyhow::Result<()> {
    let users = declared_users(opened)?;
    starmere_sql::hide_paths(private_paths(opened));
    let listeners = &opened.project.file.listeners;
    let http = listen(arguments.http.as_ref().unwrap_or(&listeners.http), &users, LISTENERS).await?;
    let flight = listen(arguments.flight.as_ref().unwrap_or(&listeners.flight), &users, LISTENERS).await?;
    let (http_at, flight_at) = (http.local_addr()?, flight.local_addr()?);
    let names = opened.project.streams.iter().map(|parsed| parsed.definition.stream.to_string());
    let streams = names.map(|name| opened.stream(&name)).collect::<anyhow::Result<Vec<_>>>()?;
    let stop = CancellationToken::new();
    let access = Arc::new(Access::new(users));
    // Queries keep processors busy; listeners must answer all the same.
    let engine = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("query")
        .thread_stack_size(crate::STACK_BYTES)
        .build()
        .context("could not start the threads of queries")?;
    let queries = Queries::new(Arc::new(ProjectViews::new(opened)), Limits::default()).on(engine.handle().clone());

    let events = Listener::new(streams, HttpLimits::default(), &opened.memory, &stop);
    let router = starmere_sql::http::guarded(events.router(), access.clone(), &[Right::Post])
        .merge(starmere_sql::http::guarded(watched(opened), access.clone(), &[Right::Metrics]))
        .merge(starmere_sql::http::router(queries.clone(), access.clone()));
    let router = starmere_sql::http::answering_all(router, &[format!("POST {EVENTS_PATH}").as_str(), "GET /metrics"]);
    let router = for_hosts(router, hosts(opened, arguments.http.as_deref()));

    let web = tokio::spawn(starmere_sql::serve_http(http, router, stop.clone()));
    let grpc = tokio::spawn(starmere_sql::serve_flight(flight, queries.clone(), access, stop.clone()));
    let work = continuously.then(|| {
        let (opened, output) = (opened.clone(), output.clone());
        let stop = stop.clone();
        tokio::spawn(async move { keep_up(&opened, &output, &stop).await })
    });
    output.say(format!("flight sql  grpc://{flight_at}"));
    output.say(format!("http        http://{http_at}"));
    told_to_stop().await;
    output.say("ending: landing what has been accepted");
    stop.cancel();
    // Queries that go on for long are cut off; events that were accepted are not.
    events.finished().await;
    queries.cancel_all();
    if let Some(mut work) = work
        && tokio::time::timeout(TO_STOP, &mut work).await.is_err()
    {
        work.abort();
    }
    let ended = tokio::time::timeout(Duration::from_secs(5), async { (web.await, grpc.await) }).await;
    engine.shutdown_background();
    if let Ok((web, grpc)) = ended {
        web.context("the HTTP listener died")?;
        grpc.context("the Flight listener died")??;
    }
    Ok(())
}

/// Where Prometheus scrapes.
const METRICS_PATH: &str = "/metrics";

fn watched(opened: &Opened) -> axum::Router {
    axum::Router::new().route(METRICS_PATH, axum::routing::get(metrics)).with_state(opened.clone())
}

/// Answers metrics only, until told to stop.
pub(super) async fn metrics_alone(
    opened: &Opened,
    address: &str,
    output: &Output,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let users = declared_users(opened)?;
    starmere_sql::hide_paths(private_paths(opened));
    let http = listen(address, &users, "write --metrics 127.0.0.1:9100, say; port 0: the system chooses").await?;
    output.say(format!("http        http://{}", http.local_addr()?));
    let router = starmere_sql::http::guarded(watched(opened), Arc::new(Access::new(users)), &[Right::Metrics]);
    let router = for_hosts(router, hosts(opened, Some(address)));
    tokio::spawn(starmere_sql::serve_http(http, router, stop.clone()));
    Ok(())
}

async fn metrics(State(opened): State<Opened>) -> Response {
    match health::metrics(&opened).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            let text = format!("{error:#}\n");
            (StatusCode::SERVICE_UNAVAILABLE, starmere_sql::error::without_paths(&text).into_owned()).into_response()
        }
    }
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
async fn keep_up(opened: &Opened, output: &Output, stop: &CancellationToken) {
    let landing = async {
        match ingest::feeds(opened, &[], false) {
            Ok(feeds) => ingest::continuously(opened, &feeds, output, stop).await,
            Err(error) => output.error(&error),
        }
    };
    let building = async {
        let quiet = output.silent();
        let mut last_trouble: Option<String> = None;
        let mut number = None;
        loop {
            match build_and_publish(opened, &[], &How::default(), &quiet).await {
                Ok(snapshot) => {
                    if number != Some(snapshot.number) {
                        output.say(format!("published catalog snapshot {}", snapshot.number));
                    }
                    number = Some(snapshot.number);
                    last_trouble = None;
                }
                Err(error) => {
                    let words = format!("{error:#}");
                    if last_trouble.as_ref() != Some(&words) {
                        output.error(&error);
                    }
                    last_trouble = Some(words);
                }
            }
            tokio::time::sleep(BUILD_EVERY).await;
        }
    };
    let building = async {
        tokio::select! {
            () = building => {}
            () = stop.cancelled() => {}
        }
    };
    tokio::join!(landing, building, upkeep::continuously(opened, stop));
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
