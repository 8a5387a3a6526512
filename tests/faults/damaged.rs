//! What was damaged is named, refused or not needed, and nobody panics.

use super::*;

/// Every object of a warehouse, one at a time: gone, empty, cut in half, overwritten. Two kinds of damage have tests of
/// their own: a commit without some of its lines, and a log without its last commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_is_named_or_not_needed() {
    let scene = Arc::new(Scene::new(Work::Land, 0).await);
    let objects = damage::objects(&scene.store).await;
    let is_last = |path: &ObjectPath| {
        let log = objects.iter().filter(|other| damage::folder(other) == damage::folder(path));
        log.filter_map(paths::commit_version).max() == paths::commit_version(path)
    };
    let mut cases = Vec::new();
    for path in &objects {
        for damage in Damage::ALL {
            let is_apart = damage == Damage::Empty || (damage == Damage::Gone && is_last(path));
            if damage::is_in_log(path) && is_apart {
                continue;
            }
            let store = scene.fork();
            damage.befall(&store, path).await;
            let name = if damage == Damage::Gone { damage::folder(path).to_owned() } else { path.to_string() };
            cases.push((format!("{damage:?} {path}"), store, name));
        }
    }
    assert!(cases.len() > 80, "only {} cases", cases.len());
    scene.has_no_complaints(cases).await;
}

/// Single bits of the files of streams and models: in pages, their headers, indexes, filters, hashes, digests, footers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_bit_is_named_or_not_needed() {
    let scene = Arc::new(Scene::new(Work::Land, 0).await);
    let mut random = Rng::with_seed(22);
    let mut cases = Vec::new();
    for path in damage::objects(&scene.store).await.into_iter().filter(damage::is_data_file) {
        let bytes = damage::read(&scene.store, &path).await;
        for _ in 0..4 {
            let store = scene.fork();
            let (flipped, bit) = damage::flipped(&bytes, &mut random);
            damage::write(&store, &path, flipped).await;
            cases.push((format!("bit {bit} of {path}"), store, path.to_string()));
        }
    }
    assert!(cases.len() > 20, "only {} cases", cases.len());
    scene.has_no_complaints(cases).await;
}

/// Commits that were cut between two lines, before the first one included: what is left can be read and is not all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_some_of_its_lines_is_refused() {
    let scene = Arc::new(Scene::new(Work::Land, 0).await);
    let mut cases = Vec::new();
    for path in damage::commits(&scene.store).await {
        let text = damage::read(&scene.store, &path).await;
        let ends: Vec<usize> =
            text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
        for end in std::iter::once(0).chain(ends).filter(|end| *end < text.len()) {
            let store = scene.fork();
            damage::write(&store, &path, text.slice(..end)).await;
            cases.push((format!("{path} cut at {end}"), store, damage::table(&path).to_owned()));
        }
    }
    scene.has_no_complaints(cases).await;
}

/// A table that a snapshot pins has lost the newest of its commits: whoever makes that version again makes another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_version_that_is_gone_is_not_made_again() {
    let scene = Arc::new(Scene::new(Work::Land, 0).await);
    let snapshot = Catalog::new(&plain(&scene.fork())).newest().await.unwrap();
    let mut cases = Vec::new();
    for (table, pin) in snapshot.tables.iter().filter(|(table, _)| !table.starts_with("lake.")) {
        let store = scene.fork();
        Damage::Gone.befall(&store, &pin.path.commit(pin.version)).await;
        cases.push((format!("{table} without version {}", pin.version), store, pin.path.to_string()));
    }
    scene.has_no_complaints(cases).await;
}

fn orders() -> TablePath {
    TablePath::stream("sales", "orders")
}

/// Adds a commit that somebody else wrote to the tables of orders and of the fact, each in a store of its own.
async fn with_commit(scene: &Scene, text: impl Into<Bytes>) -> Vec<(Arc<InMemory>, TablePath)> {
    let text: Bytes = text.into();
    let snapshot = Catalog::new(&plain(&scene.fork())).newest().await.unwrap();
    let mut stores = Vec::new();
    for table in ["lake.sales.orders", "sales.order_lines"] {
        let (store, pin) = (scene.fork(), &snapshot.tables[table]);
        damage::write(&store, &pin.path.commit(pin.version + 1), text.clone()).await;
        stores.push((store, pin.path.clone()));
    }
    stores
}

/// Commits that nobody of ours writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_commit_is_refused_or_does_no_harm() {
    let scene = Arc::new(Scene::new(Work::Land, 0).await);
    let features = ["deletionVectors"];
    let reader = json!({
        "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features,
    });
    let add = |path: &str, size: i64| {
        let add = json!({
            "path": path, "partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": true,
        });
        json!({ "add": add }).to_string()
    };
    let mut texts: Vec<(String, Bytes)> = vec![
        ("another reader".into(), json!({ "protocol": reader }).to_string().into()),
        ("a path outside".into(), add("../../../secret.parquet", 10).into()),
        ("a path of the machine".into(), add("file:///etc/passwd", 10).into()),
        ("a path that is none".into(), add("%ff%00//", 10).into()),
        ("no UTF-8".into(), Bytes::from_static(b"\xff\xfe{}")),
        ("a number".into(), "17".into()),
        ("nothing".into(), "null".into()),
        ("two actions in one".into(), r#"{"add":{},"remove":{}}"#.into()),
        ("a file without a path".into(), r#"{"add":{"size":1}}"#.into()),
        ("a version that is none".into(), r#"{"txn":{"appId":"x","version":99999999999999999999}}"#.into()),
        ("depth".into(), format!(r#"{{"other":{}"#, "[".repeat(100_000)).into()),
    ];
    for size in [-1, 0, 7, i64::MAX] {
        texts.push((format!("a file of {size} bytes"), add("nowhere.parquet", size).into()));
    }
    let mut cases = Vec::new();
    for (words, text) in texts {
        for (store, table) in with_commit(&scene, text).await {
            cases.push((format!("{words} in {table}"), store, table.to_string()));
        }
    }
    // Files that are there, with sizes that are not theirs.
    let snapshot = tables::stream(&plain(&scene.fork()), "orders").snapshot().await.unwrap().unwrap();
    let file = snapshot.files().next().unwrap();
    for size in [-1, 0, 7, file.size - 1, file.size + 1, i64::MAX] {
        let store = scene.fork();
        damage::write(&store, &orders().commit(snapshot.version() + 1), add(&file.path, size)).await;
        cases.push((format!("{size} bytes of {}", file.path), store, orders().to_string()));
    }
    scene.has_no_complaints(cases).await;
}

/// A table whose writer version was raised may be read, and not be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_asks_for_another_writer_is_not_written() {
    let scene = Arc::new(Scene::new(Work::Land, 0).await);
    let protocol = json!({ "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["rowTracking"] });
    for (store, table) in with_commit(&scene, json!({ "protocol": protocol }).to_string()).await {
        let before = plain(&store).table(table.clone()).snapshot().await.unwrap().unwrap();
        assert!(before.rows() > Some(0), "`{table}` can be read");
        let error = scene.everything(&store).await.expect_err("somebody else's features are not known");
        assert!(format!("{error:#}").contains(table.as_str()), "{error:#}");
        let after = plain(&store).table(table.clone()).snapshot().await.unwrap().unwrap();
        assert_eq!(after.version(), before.version(), "nothing was written to `{table}`");
    }
}

/// A schema that nobody can read: the error names the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_cannot_be_read_is_named() {
    let scene = Arc::new(Scene::new(Work::Land, 0).await);
    let unknown = json!({ "type": "struct", "fields": [{ "name": "a", "type": "variant" }] }).to_string();
    let mut cases = Vec::new();
    for schema in ["nonsense", "{}", unknown.as_str()] {
        let format = json!({ "provider": "parquet", "options": {} });
        let metadata =
            json!({ "id": "x", "format": format, "schemaString": schema, "partitionColumns": [], "configuration": {} });
        for (store, table) in with_commit(&scene, json!({ "metaData": metadata }).to_string()).await {
            cases.push((format!("schema {schema} of {table}"), store, table.to_string()));
        }
    }
    scene.has_no_complaints(cases).await;
}

/// Hints and checkpoints that are not what they say: the log itself is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_points_nowhere_hides_nothing() {
    let scene = Arc::new(Scene::new(Work::Land, 52).await);
    let table = orders();
    let checkpoint = damage::read(&scene.store, &table.checkpoint(50)).await;
    let hint = |version: u64| Some(Bytes::from(json!({ "version": version, "size": 1 }).to_string()));
    let damaged: Vec<(&str, ObjectPath, Option<Bytes>)> = vec![
        ("a hint far ahead", table.last_checkpoint(), hint(999)),
        ("the largest hint", table.last_checkpoint(), hint(u64::MAX)),
        ("a hint a little ahead", table.last_checkpoint(), hint(51)),
        ("a hint behind", table.last_checkpoint(), hint(49)),
        ("half a hint", table.last_checkpoint(), Some(Bytes::from_static(b"{\"version\":5"))),
        ("no hint", table.last_checkpoint(), None),
        ("no checkpoint", table.checkpoint(50), None),
        ("an empty checkpoint", table.checkpoint(50), Some(Bytes::new())),
        ("half a checkpoint", table.checkpoint(50), Some(checkpoint.slice(..checkpoint.len() / 2))),
        ("another file", table.checkpoint(50), Some(Bytes::from(vec![b'x'; checkpoint.len()]))),
        ("a checkpoint after the end of numbers", table.checkpoint(u64::MAX), Some(checkpoint.clone())),
    ];
    let (mut cases, mut complaints) = (Vec::new(), Vec::new());
    for (words, path, bytes) in damaged {
        let store = scene.fork();
        match bytes {
            Some(bytes) => damage::write(&store, &path, bytes).await,
            None => Damage::Gone.befall(&store, &path).await,
        }
        // Whoever takes the table for missing tries to make it, for ever.
        let reader = tables::stream(&plain(&store), "orders");
        match tokio::spawn(async move { reader.snapshot().await }).await {
            Ok(Ok(None)) => complaints.push(format!("{words}: the table is said not to exist")),
            Ok(_) => cases.push((words.to_owned(), store, table.to_string())),
            Err(error) => complaints.push(format!("{words}: {error}")),
        }
    }
    scene.has_no_complaints(cases).await;
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// Changes a few bytes anywhere.
fn changed(bytes: &Bytes, random: &mut Rng) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..random.u32(1..5) {
        if changed.len() < 2 {
            break;
        }
        let at = random.usize(0..changed.len());
        match random.u32(0..4) {
            0 => changed[at] = random.u8(..),
            1 => changed.insert(at, *b"{}[]\",:-0e\n".get(random.usize(0..11)).unwrap()),
            2 => {
                changed.remove(at);
            }
            _ => changed.truncate(at),
        }
    }
    changed
}

/// Logs and catalog snapshots in which any bytes were changed are read, or refused by name; nobody panics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_bytes_make_nobody_panic() {
    let scene = Scene::new(Work::Land, 0).await;
    let store = scene.fork();
    let mut random = Rng::with_seed(12);
    let commit = orders().commit(1);
    let bytes = damage::read(&store, &commit).await;
    for _ in 0..1500 {
        damage::write(&store, &commit, changed(&bytes, &mut random)).await;
        if let Err(error) = tables::stream(&plain(&store), "orders").snapshot().await {
            assert!(error.to_string().contains(orders().as_str()), "{error}");
        }
    }
    let newest = paths::catalog(None, scene.number);
    let bytes = damage::read(&store, &newest).await;
    for _ in 0..1500 {
        damage::write(&store, &newest, changed(&bytes, &mut random)).await;
        if let Err(error) = Catalog::new(&plain(&store)).newest().await {
            assert!(error.to_string().contains(&newest.to_string()), "{error}");
        }
    }
}

const SUM: &str = "SELECT sum(l.quantity) AS quantity, count(c.city) AS cities FROM sales.orders_v1.order_lines l \
                   JOIN sales.orders_v1.customer c ON l.customer_key = c.customer_key";

/// What a user sees: each command, and a server, says which object is damaged, and works again when it is restored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_servers_name_what_is_damaged() {
    let query: &[&str] = &["--format", "csv", "sql", SUM];
    let commands = [query, &["ingest", "--once"], &["build"], &["status"], &["verify"]];
    let project = Project::new();
    let mut random = Rng::with_seed(13);
    let mut producer = Producer::new(&project.inbox());
    for told in events(&mut random, 60).chunks(30) {
        producer.take(told, &mut random);
        producer.finish(&mut random);
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
    }
    let good = project.succeed(query).await;
    let snapshot = project.snapshot().await;
    let (fact, customer) = (&snapshot.tables["sales.order_lines"], &snapshot.tables["sales.customer"]);
    let warehouse = project.warehouse();
    let mut files = Vec::new();
    for pin in [fact, customer] {
        let table = warehouse.table(pin.path.clone()).snapshot_at(pin.version).await.unwrap();
        files.push(pin.path.file(&table.files().next().unwrap().path));
    }
    let damaged = [
        (files[0].clone(), Damage::Gone),
        (files[1].clone(), Damage::Overwritten),
        (files[1].clone(), Damage::Cut),
        (fact.path.commit(fact.version), Damage::Cut),
        (orders().commit(1), Damage::Overwritten),
        (paths::catalog(None, snapshot.number), Damage::Cut),
    ];
    for (path, damage) in damaged {
        let place = project.root().join("warehouse").join(path.to_string());
        let bytes = std::fs::read(&place).unwrap();
        match damage.of(&bytes) {
            Some(left) => std::fs::write(&place, left).unwrap(),
            None => std::fs::remove_file(&place).unwrap(),
        }
        let mut noticed = 0;
        for command in commands {
            let Ended { words, status, output, errors } = project.run(command).await;
            let said = format!("{damage:?} {path}: `starmere {words}` ended with {status}\n{errors}{output}");
            assert!(!errors.contains("panicked") && status.code().is_some(), "{said}");
            if status.success() {
                assert!(command != query || output == good, "{said}\n{output}");
                continue;
            }
            noticed += 1;
            assert!(errors.contains("error: "), "{said}");
            // What `verify` finds is data.
            assert!(errors.contains(&path.to_string()) || output.contains(&path.to_string()), "{said}");
        }
        assert!(noticed > 0, "nobody noticed {damage:?} {path}");
        let server = Server::start(project.root()).await;
        let asked = async || {
            let address = server.address.clone();
            spawn_blocking(move || http::post(&address, "/v1/sql?format=csv", SUM)).await.unwrap().unwrap()
        };
        let answer = asked().await;
        if answer.status == 200 {
            assert_eq!(answer.text(), good, "{damage:?} {path}");
        } else {
            assert_eq!(answer.status, 500, "{damage:?} {path}: {}", answer.text());
            assert!(answer.text().contains(&path.to_string()), "{damage:?} {path}: {}", answer.text());
        }
        std::fs::write(&place, bytes).unwrap();
        // A server looks at a log that was damaged once a second.
        let restored = async {
            loop {
                let answer = asked().await;
                if answer.status == 200 {
                    return answer.text();
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        };
        let restored = tokio::time::timeout(PATIENCE, restored).await;
        assert_eq!(restored.ok(), Some(good.clone()), "{path} is restored");
        server.terminate();
        server.end().await;
    }
    project.succeed(&["verify"]).await;
}

/// A stream that has lost its newest commit, which is published: landing does not make that version again, and
/// `verify` tells of it, and of everything else that is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_commit_of_a_stream_is_told_and_not_made_again() {
    let project = Project::new();
    let mut random = Rng::with_seed(14);
    let mut producer = Producer::new(&project.inbox());
    producer.take(&events(&mut random, 30), &mut random);
    producer.finish(&mut random);
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    let snapshot = project.snapshot().await;
    let (stream, fact) = (&snapshot.tables["lake.sales.orders"], &snapshot.tables["sales.order_lines"]);
    let table = project.warehouse().table(fact.path.clone()).snapshot_at(fact.version).await.unwrap();
    let file = fact.path.file(&table.files().next().unwrap().path);
    let place = |path: &ObjectPath| project.root().join("warehouse").join(path.to_string());
    let commit = place(&stream.path.commit(stream.version));
    std::fs::remove_file(&commit).unwrap();
    std::fs::remove_file(place(&file)).unwrap();
    let lost = format!("version {} of the stream is published", stream.version);
    let Ended { status, errors, .. } = project.run(&["ingest", "--once"]).await;
    assert!(status.code() == Some(2) && errors.contains(&lost), "{status}\n{errors}");
    assert!(!commit.exists(), "it was made again");
    for (arguments, also) in [(&["verify", "--lake-only"][..], None), (&["verify"][..], Some(file.to_string()))] {
        let Ended { status, output, errors, .. } = project.run(arguments).await;
        assert_eq!(status.code(), Some(2), "{errors}");
        assert!(output.contains(&lost) && also.is_none_or(|also| output.contains(&also)), "{output}\n{errors}");
    }
}
