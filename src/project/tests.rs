use starmere_sql::{Right, Rights};

use super::mistakes::{wrong_listener, wrong_warehouse};
use super::starmere_yaml::build_memory_of;
use super::*;

const PROJECT: &str = "project: p\nwarehouse: ./warehouse\n";

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn said(files: &[(&str, &str)]) -> String {
    Project::load(project(files).path()).unwrap_err().to_string()
}

#[test]
fn builds_take_a_quarter_of_what_there_is() {
    for (limit, mib) in [(1 << 30, 256), (64 << 30, 2048), (100 << 20, 176)] {
        assert_eq!(build_memory_of(limit), mib, "{limit}");
    }
}

#[test]
fn what_would_fail_later_is_told_with_its_place() {
    let stream = "stream: s\ndomain: d\nmax_event_bytes: 0\nenvelope: { type: type, time: at }\n";
    for (line, words) in [
        ("listeners: { http: nowhere }\n", "starmere.yaml:3:20: `nowhere` is not an address to listen on"),
        ("listeners: { flight: '0.0.0.0:1' }\n", "starmere.yaml:3:22: `0.0.0.0:1` can be reached from other"),
        (
            "sources: { a: { stream: s, files: 'x/[a' } }\n",
            "`x/[a` is not a pattern of files: unclosed character class",
        ),
        (
            "sources: { a: { stream: s, files: '${env:STARMERE_NOBODY}/a' } }\n",
            "starmere.yaml:3:35: the variable `STARMERE_NOBODY` is not set",
        ),
        ("listeners: { http: '${file:streams/s.yaml}' }\n", "is not an address to listen on"),
        ("listeners: { hosts: ['http://a'] }\n", "starmere.yaml:3:22: `http://a` is not the name of a host"),
        ("ingest_memory_mib: 8\n", "starmere.yaml:3:20: 8 MiB are too little memory"),
        ("build_memory_mib: 1\n", "starmere.yaml:3:19: 1 MiB are too little memory for builds"),
        ("queries: { slots: 0 }\n", "starmere.yaml:3:19: no query runs with 0 `slots`"),
        ("listeners: { gather_ms: 20000 }\n", "starmere.yaml:3:25: 20000 ms are too long to wait for an answer"),
        ("publish_every_seconds: 0\n", "starmere.yaml:3:24: builds are a second apart at least"),
        ("", "streams/s.yaml:3:18: no event has 0 bytes"),
    ] {
        let text = said(&[("starmere.yaml", &format!("{PROJECT}{line}")), ("streams/s.yaml", stream)]);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn users_may_do_what_is_declared() {
    let users = "users:\n  a: { password: '${env:PATH}' }\n  b: { password: '${env:PATH}', can: [post] }\n";
    let project = project(&[("starmere.yaml", &format!("{PROJECT}{users}"))]);
    let users = Project::load(project.path()).unwrap().users().unwrap();
    let rights: Vec<Rights> = users.iter().map(|(_, _, rights)| *rights).collect();
    assert_eq!(rights, [Rights::default(), Rights::of(&[Right::Post])]);
    let wrong = "users: { a: { password: '${env:PATH}', can: [everything] } }\n";
    let text = said(&[("starmere.yaml", &format!("{PROJECT}{wrong}"))]);
    assert!(text.contains("everything") && text.contains("operate"), "{text}");
}

#[test]
fn a_source_must_fit_its_stream() {
    let kafka = "kafka: { brokers: 'b:1', topics: [t] }";
    for (stream, source, words) in [
        (
            "format: confluent\nenvelope: { type: type, time: at }",
            kafka,
            "the source `a` feeds `s`, whose payloads name their schemas, and names no `registry`",
        ),
        (
            "format: confluent\nenvelope: { type: type, time: at }",
            "files: in",
            "the source `a` feeds `s`, whose payloads come by Kafka only",
        ),
        ("envelope: { type: type, time: $timestamp }", "files: in", "files do not say that"),
        ("convention: outbox\nenvelope: {}", "files: in", "files do not say that"),
        ("format: csv\nconvention: cloudevents\nenvelope: {}", "files: in", "records of `csv` follow no `convention`"),
        (
            "envelope: { type: type, time: at, tombstone: lost }\nevents: { left: { versions: { 1: { fields: {} } } } }",
            kafka,
            "`tombstone` names the event `lost`, which the stream does not describe",
        ),
    ] {
        let text = said(&[
            ("starmere.yaml", &format!("{PROJECT}sources: {{ a: {{ stream: s, {source} }} }}\n")),
            ("streams/s.yaml", &format!("stream: s\ndomain: d\n{stream}\n")),
        ]);
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn files_that_nobody_reads_are_told() {
    let text = said(&[
        ("starmere.yaml", PROJECT),
        ("domains/d/model/a.yaml", ""),
        ("domains/d/models/sub/b.yaml", ""),
        ("domains/d/product/c.yml", ""),
        ("streams/sub/e.yaml", ""),
        ("domains/d/.hidden.yaml", ""),
        ("models/f.yaml", ""),
        ("products/d/g.yaml", ""),
        ("domain/d/products/h.yaml", ""),
        ("stream/i.yaml", ""),
        ("tests/j.yaml", "test: of a domain\ngiven: []\n"),
        // What other programs have.
        ("tests/compose.yaml", "services: {}\n"),
        ("deploy/models/k.yaml", ""),
        ("compose.yaml", ""),
    ]);
    let of = |file: &str, what: &str| format!("{file}:1:1: is never read; {what}");
    for words in [
        "9 problems".to_owned(),
        of("models/f.yaml", "models are in domains/<domain>/models/*.yaml"),
        of("products/d/g.yaml", "products are in domains/<domain>/products/*.yaml"),
        of("domain/d/products/h.yaml", "products are in domains/<domain>/products/*.yaml"),
        of("stream/i.yaml", "streams are in streams/*.yaml"),
        of("tests/j.yaml", "tests are in domains/<domain>/tests/*.yaml"),
        of("domains/d/model/a.yaml", "models are in domains/<domain>/models/*.yaml"),
        of("domains/d/models/sub/b.yaml", "models are in domains/<domain>/models/*.yaml"),
        of("domains/d/product/c.yml", "products are in domains/<domain>/products/*.yaml"),
        of("streams/sub/e.yaml", "streams are in streams/*.yaml"),
    ] {
        assert!(text.contains(&words), "{words}\n{text}");
    }
}

#[tokio::test]
async fn a_warehouse_may_be_a_reference() {
    let files = [("starmere.yaml", "project: p\nwarehouse: './${file:name}/a'\n"), ("name", "where\n")];
    let folder = project(&files);
    Project::load(folder.path()).unwrap().open(None).unwrap();
    assert!(folder.path().join("where/a").is_dir());
    assert!(!folder.path().join("${file:name}").exists());
}

#[test]
fn numbers_addresses_and_paths_may_be_references() {
    let text = "project: ${file:name}\nwarehouse: ./warehouse\nsnapshot_days: ${file:days}\n\
                ingest_memory_mib: \"${file:days}0\"\nlisteners: { http: '127.0.0.1:${file:days}' }\n\
                sources: { a: { stream: s, files: '${file:name}/*.jsonl' } }\n\
                users: { ana: { password: '${env:STARMERE_NOBODY}' } }\n";
    let stream = "stream: s\ndomain: d\nenvelope: { type: type, time: at }\n";
    let files = [("starmere.yaml", text), ("name", "7a\n"), ("days", "33"), ("streams/s.yaml", stream)];
    let folder = project(&files);
    let file = Project::load(folder.path()).unwrap().file;
    assert_eq!((file.project.as_str(), file.snapshot_days()), ("7a", 33));
    assert_eq!(file.ingest_memory_mib.map(|mib| mib.value), Some(330));
    assert_eq!(file.listeners.http.as_str(), "127.0.0.1:33");
    assert_eq!(file.sources["a"].files.as_deref(), Some("7a/*.jsonl"));
}

const STREAM: &str = "stream: s\ndomain: d\nenvelope: { type: type, time: at }\nevents:\n  \
    sold: { versions: { 1: { fields: { pieces: { type: int }, code: { type: string } } } } }\n";
const FACT: &str = "fact: f\nfrom: { stream: s, event: sold }\ngrain: [code]\ndegenerate: { code: {} }\n";

/// A project with two facts, one of which names variables.
fn with_variables(variables: &str) -> tempfile::TempDir {
    let named = "fact: named\nfrom: { stream: s, event: sold }\nwhere: >\n  pieces > ${most}\n  OR code = '${code}'\n\
                 grain: [code]\ndegenerate: { code: {} }\nmeasures: { pieces: { type: '${kind}' } }\n";
    project(&[
        ("starmere.yaml", &format!("{PROJECT}{variables}")),
        ("streams/s.yaml", &format!("{STREAM}retention_days: ${{days}}\n")),
        ("domains/d/models/f.yaml", FACT),
        ("domains/d/models/named.yaml", named),
        ("most", "7\n"),
    ])
}

#[test]
fn variables_are_part_of_what_names_them() {
    let read = |most: &str, days: u32| {
        let variables =
            format!("variables: {{ most: {most}, code: \"x: #1\", kind: int, days: {days}, other: {most} }}\n");
        Project::load(with_variables(&variables).path()).unwrap()
    };
    let prints = |project: &Project| {
        let models = project.models.models.iter().map(|model| model.fingerprint().to_owned());
        models.collect::<Vec<String>>()
    };
    let (first, other, longer) = (read("7", 400), read("8", 400), read("7", 401));
    assert_eq!(first.streams[0].definition.retention_days.as_ref().map(|days| days.value), Some(400));
    // Those of the fact that names it, and no other.
    let differ: Vec<bool> = prints(&first).iter().zip(prints(&other)).map(|(a, b)| *a != b).collect();
    let names: Vec<&str> = first.models.models.iter().map(|model| model.name().name.as_str()).collect();
    assert_eq!(names.into_iter().zip(differ).collect::<Vec<_>>(), [("f", false), ("named", true)]);
    assert_ne!(first.fingerprint, other.fingerprint);
    assert_eq!(prints(&first), prints(&longer));
    assert_ne!(first.fingerprint, longer.fingerprint);
    // How a variable comes by its value is no part of anything.
    assert_eq!(read("'${file:most}'", 400).fingerprint, first.fingerprint);
}

#[test]
fn variables_that_are_wrong_are_told_once() {
    let said = |variables: &str| Project::load(with_variables(variables).path()).unwrap_err().to_string();
    let text = said("variables: { most: 7, code: x, kind: int }\n");
    let hint = "\n  hint: there are: `code`, `kind`, `most`";
    assert!(text.ends_with(&format!("streams/s.yaml:6:17: there is no variable `days`{hint}")), "{text}");
    assert!(text.starts_with("1 problem"), "{text}");
    // What cannot be filled in is not judged.
    let text = said("variables: { most: '', code: x, kind: int, days: 400 }\n");
    assert!(text.starts_with("1 problem") && text.contains("starmere.yaml:3:20: the variable `most`"), "{text}");
    let text = said("variables: { most: 7, code: x, kind: intt, days: 400 }\n");
    assert!(text.contains("domains/d/models/named.yaml:8:29: `intt` is not a type: did you mean `int`?"), "{text}");
}

#[test]
fn variables_between_braces_are_in_quotes() {
    let fact = FACT.replace("code: {}", "code: { type: ${kind} }");
    let variables = format!("{PROJECT}variables: {{ kind: string }}\n");
    let files =
        [("starmere.yaml", variables.as_str()), ("streams/s.yaml", STREAM), ("domains/d/models/f.yaml", fact.as_str())];
    let text = said(&files);
    assert!(text.contains("hint: between braces and brackets, write a text with ${ in quotes"), "{text}");
}

#[test]
fn warehouses_of_unknown_kinds_and_broken_references_are_refused() {
    for right in [
        "warehouse",
        "/a/b",
        "file:///a",
        "memory://",
        "s3://bucket",
        "gs://bucket/x",
        "az://container",
        "${env:WH}",
        "s3://${env:B}/x",
    ] {
        assert_eq!(wrong_warehouse(right), None);
    }
    for wrong in
        ["", "ftp://bucket/x", "s3://", "gs://", "az:///x", "s3:///x", "${env:WH", "${WH}", "${env:}", "a/${vault:x}"]
    {
        assert!(wrong_warehouse(wrong).is_some(), "{wrong}");
    }
}

#[test]
fn only_loopback_is_listened_on_without_users() {
    for address in ["127.0.0.1:0", "[::1]:7070", "localhost:80"] {
        assert_eq!(wrong_listener(address, false), None);
    }
    assert!(wrong_listener("0.0.0.0:1", false).is_some());
    assert_eq!(wrong_listener("0.0.0.0:1", true), None);
    for address in ["", "7070", "127.0.0.1", "host:1", "127.0.0.1:99999"] {
        assert!(wrong_listener(address, true).is_some(), "{address}");
    }
}

#[test]
fn webhooks_and_strict_streams_say_what_they_take() {
    let stream = "stream: s\ndomain: d\nenvelope: { type: type, time: at }\nstrict: true\n";
    let told = |main: &str, stream: &str| {
        let main = format!("{PROJECT}{main}");
        let project = project(&[("starmere.yaml", &main), ("streams/s.yaml", stream)]);
        Project::load(project.path()).err().map_or_else(String::new, |error| error.to_string())
    };
    assert!(
        told("", stream).contains("streams/s.yaml:1:9: a strict stream describes no event"),
        "{}",
        told("", stream)
    );
    let described = format!("{stream}events: {{ e: {{ versions: {{ 1: {{ fields: {{}} }} }} }} }}\n");
    assert_eq!(told("", &described), "");
    let webhook =
        |stream: &str| format!("webhooks: {{ {stream}: {{ verify: github, secrets: ['${{env:NOBODY}}'] }} }}\n");
    assert_eq!(told(&webhook("s"), &described), "", "secrets are looked up by whoever listens");
    assert!(told(&webhook("t"), &described).contains("there is no stream `t` for the webhook"));
}
