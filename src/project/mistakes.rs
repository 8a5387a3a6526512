//! What cannot be right in `starmere.yaml` and in streams, and would fail later.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use starmere_models::define::{Parsed, Place, Problem, StreamFile, suggestion};
use starmere_sql::check_listener;

use super::secrets::{is_whole, reference};
use super::starmere_yaml::{
    BUILD_MEMORY_MIB, GATHER_MS, LEAST_BUILD_MEMORY_MIB, LEAST_INGEST_MEMORY_MIB, MOST_GATHER_MS, PUBLISH_SECONDS,
    ProjectFile,
};
use crate::output::bytes as size;
use crate::sources::sharing;

/// What streams say of their events' length and age. An event has so many bytes at most, where that is known.
pub(super) fn of_streams(streams: &[Parsed<StreamFile>], most_event_bytes: Option<usize>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (parsed, bytes) in
        streams.iter().filter_map(|parsed| Some((parsed, parsed.definition.max_event_bytes.as_ref()?)))
    {
        let place = bytes.place(&parsed.file);
        if bytes.value == 0 {
            let hint = "write how long an event may be, or leave it out";
            problems.push(Problem::new(place, "no event has 0 bytes").hint(hint));
        } else if let Some(most) = most_event_bytes.filter(|&most| most < bytes.value) {
            let message = format!(
                "an event of {} does not fit into the memory for events on their way",
                size(bytes.value as u64)
            );
            let hint = format!("write at most {most}, or more `ingest_memory_mib` into starmere.yaml");
            problems.push(Problem::new(place, message).hint(hint));
        }
    }
    for (parsed, days) in streams.iter().filter_map(|parsed| Some((parsed, parsed.definition.retention_days.as_ref()?)))
    {
        if days.value == 0 {
            let hint = "write for how many days events are kept, or leave it out: then all are";
            problems.push(Problem::new(days.place(&parsed.file), "events are kept for a day at least").hint(hint));
        }
    }
    problems
}

/// What `starmere.yaml` says of streams, and of users. `broken`: some files could not be read, so streams may be missing.
pub(super) fn of_sources_and_users(
    file: &ProjectFile,
    name: &str,
    streams: &[Parsed<StreamFile>],
    broken: bool,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (source, definition) in &file.sources {
        let known: BTreeSet<&str> = streams.iter().map(|parsed| parsed.definition.stream.as_str()).collect();
        let place = definition.place(name);
        if !known.contains(definition.stream.as_str()) && !broken {
            let hint = suggestion(&definition.stream, known.iter().copied());
            let message = format!("the source `{source}` feeds `{}`, which is no stream", definition.stream);
            problems.push(Problem::new(place, message).hint(hint));
        } else if let Some((message, hint)) = streams
            .iter()
            .find(|parsed| *parsed.definition.stream == definition.stream)
            .and_then(|parsed| definition.misfit(&parsed.definition))
        {
            problems.push(Problem::new(place, format!("the source `{source}` {message}")).hint(hint));
        } else if source == "http" {
            problems
                .push(Problem::new(place, "`http` is the name of the listener").hint("give the source another name"));
        }
    }
    let known: BTreeSet<&str> = streams.iter().map(|parsed| parsed.definition.stream.as_str()).collect();
    for (stream, webhook) in file.webhooks.iter().filter(|_| !broken) {
        let mistakes = webhook.mistakes(stream, &known).into_iter();
        problems.extend(mistakes.map(|(message, hint)| Problem::new(webhook.place(name), message).hint(hint)));
    }
    for (user, definition) in &file.users {
        let message = match reference(&definition.password) {
            Some(_) => continue,
            None if definition.password.starts_with("${") => {
                format!("the password of `{user}` is not a whole reference")
            }
            None => format!("the password of `{user}` stands in the file"),
        };
        let hint = "write a reference: ${env:NAME} or ${file:PATH}";
        problems.push(Problem::new(definition.place(name), message).hint(hint));
    }
    problems
}

/// What `starmere.yaml` says of the outside that cannot be right.
pub(super) fn of_the_outside(root: &Path, file: &ProjectFile, name: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in file.sources.values() {
        for (message, hint) in source.mistakes(root) {
            problems.push(Problem::new(source.place(name), message).hint(hint));
        }
    }
    let topics = file.sources.iter().filter_map(|(source, file)| Some((source.as_str(), file.kafka.as_ref()?)));
    for (source, (message, hint)) in sharing(&file.project, topics) {
        problems.push(Problem::new(file.sources[source].place(name), message).hint(hint));
    }
    let mut tell = |place: Place, wrong: Option<(String, String)>| {
        problems.extend(wrong.map(|(message, hint)| Problem::new(place, message).hint(hint)));
    };
    tell(
        file.warehouse.place(name),
        wrong_warehouse(&file.warehouse).map(|(message, hint)| (message, hint.to_owned())),
    );
    for listener in [&file.listeners.http, &file.listeners.flight] {
        tell(listener.place(name), wrong_listener(listener, !file.users.is_empty()));
    }
    for host in &file.listeners.hosts {
        tell(host.place(name), wrong_host(host));
    }
    if let Some(ms) = file.listeners.gather_ms.as_ref().filter(|ms| ms.value > MOST_GATHER_MS) {
        let message = format!("{} ms are too long to wait for an answer", ms.value);
        let hint = format!("write at most {MOST_GATHER_MS}, or leave it out: then it is {GATHER_MS}");
        problems.push(Problem::new(ms.place(name), message).hint(hint));
    }
    if let Some(seconds) = file.publish_every_seconds.as_ref().filter(|seconds| seconds.value == 0) {
        let hint = format!("write 1 or more, or leave it out: then it is {PUBLISH_SECONDS}");
        problems.push(Problem::new(seconds.place(name), "builds are a second apart at least").hint(hint));
    }
    if let Some(mib) = file.ingest_memory_mib.as_ref().filter(|mib| mib.value < LEAST_INGEST_MEMORY_MIB) {
        let message = format!("{} MiB are too little memory for events on their way", mib.value);
        let hint = format!("write {LEAST_INGEST_MEMORY_MIB} or more, or leave it out: then it is 512");
        problems.push(Problem::new(mib.place(name), message).hint(hint));
    }
    if let Some(mib) = file.build_memory_mib.as_ref().filter(|mib| mib.value < LEAST_BUILD_MEMORY_MIB) {
        let message = format!("{} MiB are too little memory for builds", mib.value);
        let hint = format!(
            "write {LEAST_BUILD_MEMORY_MIB} or more, or leave it out: then it is a quarter of what the process may use, \
             {BUILD_MEMORY_MIB} at most"
        );
        problems.push(Problem::new(mib.place(name), message).hint(hint));
    }
    problems.extend(file.queries.mistakes(name));
    problems
}

pub(super) fn wrong_warehouse(location: &str) -> Option<(String, &'static str)> {
    const KINDS: &str = "write a folder, s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or memory://";
    if location.contains("${") {
        return (!is_whole(location))
            .then(|| (format!("`{location}` has a reference that is not whole"), "write ${env:NAME} or ${file:PATH}"));
    }
    if location.trim().is_empty() {
        return Some(("nothing where a warehouse belongs".to_owned(), KINDS));
    }
    match location.split_once("://") {
        Some(("s3" | "gs" | "az", rest)) if rest.starts_with('/') || rest.is_empty() => {
            Some((format!("`{location}` names no bucket"), KINDS))
        }
        None | Some(("file" | "memory" | "s3" | "gs" | "az", _)) => None,
        Some((scheme, _)) => Some((format!("`{scheme}` is not a kind of warehouse"), KINDS)),
    }
}

pub(super) fn wrong_listener(address: &str, has_users: bool) -> Option<(String, String)> {
    let number = address.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    match number.as_deref().unwrap_or(address).parse::<SocketAddr>() {
        Err(_) => Some((
            format!("`{address}` is not an address to listen on"),
            "write `IP:port`, such as 127.0.0.1:7070; port 0: the system chooses".to_owned(),
        )),
        Ok(number) => {
            let error = check_listener(&number, has_users).err()?;
            Some((error.to_string(), error.hint().unwrap_or_default().to_owned()))
        }
    }
}

fn wrong_host(host: &str) -> Option<(String, String)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let is_wrong = host.is_empty() || !host.chars().all(is_name);
    is_wrong.then(|| {
        (format!("`{host}` is not the name of a host"), "write a name without port, such as dwh.example.com".to_owned())
    })
}
