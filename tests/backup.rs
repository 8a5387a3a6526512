//! A warehouse that is copied in the order of docs/operations.md while `up` writes to it: the copy is whole, holds all
//! that was acknowledged before the copy began, and goes on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::task::spawn_blocking;

use crate::support::http;
use crate::support::process::{PATIENCE, Server};
use crate::support::project::Project;

/// Copies that are made while events come.
const COPIES: usize = 3;
/// So many events are acknowledged between two copies.
const BETWEEN: u64 = 60;

fn order(number: u64) -> String {
    let (order, customer) = (format!("o{number}"), format!("c{}", number % 7));
    let lines = [json!({ "quantity": 1 })];
    json!({ "id": number, "type": "order_placed", "at": "2024-01-01T00:00:00Z", "order": order, "customer": customer,
        "lines": lines })
    .to_string()
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "{what}: it never was so");
}

/// The files below `root`, relative to it, as far as they are there; in the order in which the system lists them.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(root).unwrap().to_path_buf()),
            }
        }
    }
    // What is being written is not there yet.
    found.retain(|path| !path.to_string_lossy().contains('#'));
    found
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Copies the files that are wanted; those that vanish meanwhile are passed over.
fn copy(from: &Path, to: &Path, is_wanted: impl Fn(&Path) -> bool) {
    for path in files(from).into_iter().filter(|path| is_wanted(path)) {
        let place = to.join(&path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        match fs::copy(from.join(&path), place) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            copied => _ = copied.unwrap(),
        }
    }
}

fn copy_warehouse(from: &Path, to: &Path, marks: &Path) {
    let is_of_table = |path: &Path| ["models", "ledger", "lake"].iter().any(|folder| path.starts_with(folder));
    let is_in = |path: &Path, folder: &str| path.iter().any(|part| part == folder);
    let is_log = |path: &Path| is_of_table(path) && is_in(path, "_delta_log");
    let is_archive = |path: &Path| is_of_table(path) && is_in(path, "archive");
    copy(from, to, |path| !is_of_table(path) && !path.starts_with("operations"));
    // The moment of the copy, by the clock of the file system; it goes on before anything is listed.
    let (began, later) = (marks.join("began"), marks.join("later"));
    fs::write(&began, "").unwrap();
    let began = modified(&began).unwrap();
    while modified(&later).is_none_or(|later| later <= began) {
        fs::write(&later, "").unwrap();
    }
    copy(from, to, |path| is_log(path) && modified(&from.join(path)).is_some_and(|at| at <= began));
    copy(from, to, is_archive);
    copy(from, to, |path| is_of_table(path) && !is_log(path) && !is_archive(path));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_that_is_copied_while_up_writes_can_be_opened_and_goes_on() {
    let project = Project::new();
    let server = Server::start_as(project.root(), "up").await;
    let (acknowledged, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let posting = {
        let (address, acknowledged, ends) = (server.address.clone(), acknowledged.clone(), ends.clone());
        spawn_blocking(move || {
            for number in 0.. {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let answer = http::post(&address, "/v1/streams/orders/events", &order(number)).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                acknowledged.store(number + 1, Ordering::Release);
            }
        })
    };
    let now = || acknowledged.load(Ordering::Acquire);
    until("a build is published", async || {
        project.snapshot().await.tables.keys().any(|table| table == "sales.order_lines")
    })
    .await;
    let mut copies = Vec::new();
    for _ in 0..COPIES {
        let goal = now() + BETWEEN;
        until("events land", async || now() >= goal).await;
        let restored = Project::new();
        let before = now();
        let (from, to) = (project.root().join("warehouse"), restored.root().join("warehouse"));
        let marks = project.root().to_path_buf();
        spawn_blocking(move || copy_warehouse(&from, &to, &marks)).await.unwrap();
        copies.push((restored, before));
    }
    ends.store(true, Ordering::Relaxed);
    posting.await.unwrap();
    server.terminate();
    server.end().await;
    for (restored, before) in copies {
        restored.succeed(&["verify"]).await;
        let landed = restored.landed().await[1].len();
        assert!(landed as u64 >= before, "{landed} events are in the copy, and {before} were acknowledged before it");
        restored.succeed(&["build"]).await;
        restored.succeed(&["verify"]).await;
        assert_eq!(restored.published().await.len(), landed, "the copy goes on");
    }
}
