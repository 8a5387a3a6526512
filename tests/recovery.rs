//! The ways out that errors name: a damaged catalog, a stream that has lost commits, a warehouse of a newer binary.

use serde_json::json;
use starmere_lake::paths;
use tokio::task::spawn_blocking;

use crate::support::http;
use crate::support::process::{Server, until};
use crate::support::project::Project;

fn order(id: &str) -> String {
    let lines = json!([{ "quantity": 1 }]);
    let at = "2024-02-01T00:00:00Z";
    let order = json!({ "id": id, "type": "order_placed", "at": at, "order": id, "customer": "c1", "lines": lines });
    format!("{order}\n")
}

/// Orders that have landed one by one, each built.
async fn built(orders: &[&str]) -> Project {
    let project = Project::new();
    for id in orders {
        project.write(&format!("inbox/orders/{id}.jsonl"), &order(id));
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
    }
    project
}

async fn lines(project: &Project) -> serde_json::Value {
    project.query("SELECT count(*) AS n FROM sales.orders_v1.order_lines").await[0]["n"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_newest_catalog_is_told_with_a_way_out_that_works() {
    let project = built(&["A", "B"]).await;
    let newest = project.snapshot().await.number;
    let place = project.root().join("warehouse").join(paths::catalog(None, newest).to_string());
    let bytes = std::fs::read(&place).unwrap();
    std::fs::write(&place, &bytes[..bytes.len() / 2]).unwrap();
    let way_out = format!("starmere build --back-to {}", newest - 1);
    for command in [&["build"][..], &["status"], &["sql", "SELECT 1"]] {
        let refused = project.run(command).await;
        assert!(!refused.status.success() && refused.errors.contains(&way_out), "{command:?}\n{}", refused.errors);
    }
    project.succeed(&["build", "--back-to", &(newest - 1).to_string()]).await;
    assert_eq!((project.snapshot().await.number, lines(&project).await), (newest + 1, 1.into()));
    project.succeed(&["build"]).await;
    assert_eq!(lines(&project).await, 2);
    project.succeed(&["upkeep"]).await;
    project.succeed(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_catalog_that_is_truncated_is_published_over_too() {
    let project = built(&["A"]).await;
    let place = project.root().join("warehouse").join(paths::catalog(None, 1).to_string());
    std::fs::write(place, "{").unwrap();
    let refused = project.run(&["build"]).await;
    assert!(refused.errors.contains("--back-to 0"), "{}", refused.errors);
    project.succeed(&["build", "--back-to", "0"]).await;
    project.succeed(&["build"]).await;
    assert_eq!((project.snapshot().await.number, lines(&project).await), (3, 1.into()));
}

/// A copy in the order lake, models, catalog: the streams are older than what is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_older_than_the_catalog_is_told_with_a_way_out_that_works() {
    let project = built(&["A", "B"]).await;
    let stream = project.snapshot().await.tables["lake.sales.orders"].clone();
    let commit = project.root().join("warehouse").join(stream.path.commit(stream.version).to_string());
    std::fs::remove_file(commit).unwrap();
    for command in [&["build"][..], &["build", "--full"], &["build", "--accept-loss", "orders"]] {
        let refused = project.run(command).await;
        let way_out = "starmere build --full --accept-loss orders";
        assert!(!refused.status.success() && refused.errors.contains(way_out), "{command:?}\n{}", refused.errors);
    }
    project.succeed(&["build", "--full", "--accept-loss", "orders"]).await;
    assert_eq!(lines(&project).await, 1);
    // The source has it still: what was lost lands again, and is built.
    project.succeed(&["ingest", "--once"]).await;
    project.succeed(&["build"]).await;
    assert_eq!(lines(&project).await, 2);
    project.succeed(&["verify"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_is_missing_is_told() {
    let project = built(&["A"]).await;
    std::fs::remove_dir_all(project.root().join("warehouse/catalog")).unwrap();
    let status = project.run(&["status"]).await;
    assert!(status.errors.contains("restore the objects below `catalog/`"), "{}", status.errors);
    let build = project.run(&["build"]).await;
    assert!(build.errors.contains("restore the objects below `catalog/`"), "{}", build.errors);
    assert_eq!(lines(&project).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_of_a_newer_binary_is_not_written() {
    let project = built(&["A"]).await;
    let place = project.root().join("warehouse").join(paths::format_number().to_string());
    let ours = std::fs::read_to_string(&place).unwrap();
    assert!(ours.contains("\"format\":1"), "{ours}");
    std::fs::write(&place, r#"{"format":9,"reader":1,"written_by":"7.0.0"}"#).unwrap();
    project.write("inbox/orders/B.jsonl", &order("B"));
    for command in [&["ingest", "--once"][..], &["build"], &["upkeep"], &["build", "--back-to", "1"], &["serve"]] {
        let refused = project.run(command).await;
        assert_eq!(refused.status.code(), Some(1), "{command:?}\n{}", refused.errors);
        let words = ["has format 9", "up to 1", "Starmere 7.0.0"];
        assert!(words.iter().all(|words| refused.errors.contains(words)), "{command:?}\n{}", refused.errors);
    }
    assert_eq!(lines(&project).await, 1);
    std::fs::write(&place, r#"{"format":9,"reader":9,"written_by":"7.0.0"}"#).unwrap();
    assert!(!project.run(&["sql", "SELECT 1"]).await.status.success());
    // One that was made before there were numbers gets ours.
    std::fs::remove_file(&place).unwrap();
    project.succeed(&["ingest", "--once"]).await;
    assert_eq!(std::fs::read_to_string(&place).unwrap(), ours);
}

/// A volume that is not mounted leaves an empty folder, in which an empty warehouse would begin without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_that_begins_is_told_once() {
    let project = Project::new();
    project.write("inbox/orders/A.jsonl", &order("A"));
    let words = "WARN starmere_lake::format_number: there was no warehouse at `./warehouse`; a new one is made";
    let first = project.run(&["ingest", "--once"]).await.errors;
    assert_eq!(first.matches(words).count(), 1, "{first}");
    assert!(first.contains("check that its volume is mounted"), "{first}");
    let second = project.run(&["ingest", "--once"]).await.errors;
    assert!(!second.contains("there was no warehouse"), "{second}");
    // One that was made before there were numbers is there.
    std::fs::remove_file(project.root().join("warehouse").join(paths::format_number().to_string())).unwrap();
    let numbered = project.run(&["ingest", "--once"]).await.errors;
    assert!(!numbered.contains("there was no warehouse"), "{numbered}");
}

/// Landing needs no catalog: neither sources nor posts wait until it is mended. Queries need it, so the server is not
/// ready, and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_land_while_the_newest_catalog_is_damaged() {
    let project = built(&["A", "B"]).await;
    let newest = project.snapshot().await.number;
    let place = project.root().join("warehouse").join(paths::catalog(None, newest).to_string());
    std::fs::write(place, "{").unwrap();
    project.write("inbox/orders/C.jsonl", &order("C"));
    project.succeed(&["ingest", "--once"]).await;
    assert_eq!(project.landed().await[1].len(), 3);
    let server = Server::start_as(project.root(), "up").await;
    let address = server.address.clone();
    let asked = spawn_blocking(move || {
        let posted = http::post(&address, "/v1/streams/orders/events", &order("D")).unwrap();
        let queried = http::post(&address, "/v1/sql", "SELECT 1").unwrap();
        let ready = [(); 2].map(|()| http::get(&address, "/readyz").unwrap());
        let metrics = http::get(&address, "/metrics").unwrap().text();
        ([posted.status, queried.status], ready.map(|ready| (ready.status, ready.text())), metrics)
    });
    let (statuses, ready, metrics) = asked.await.unwrap();
    assert_eq!(statuses, [200, 500]);
    let reason = "the newest catalog snapshot is damaged; queries are not answered\n";
    assert_eq!(ready, [(); 2].map(|()| (503, reason.to_owned())));
    assert!(metrics.contains("\nstarmere_damage_found_total 1\n"), "{metrics}");
    server.terminate();
    server.end().await;
    project.succeed(&["build", "--back-to", &(newest - 1).to_string()]).await;
    project.succeed(&["build"]).await;
    assert_eq!(lines(&project).await, 4);
}

/// A file of a model that is cut, or gone: queries and builds say which one it is, and what they say to do helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_of_a_model_is_told_with_a_way_out_that_works() {
    for is_gone in [false, true] {
        let project = built(&["A", "B"]).await;
        let pin = project.snapshot().await.tables["sales.order_lines"].clone();
        let table = project.warehouse().table(pin.path.clone()).snapshot_at(pin.version).await.unwrap();
        let path = pin.path.file(&table.files().next().unwrap().path).to_string();
        let place = project.root().join("warehouse").join(&path);
        if is_gone {
            std::fs::remove_file(&place).unwrap();
        } else {
            let bytes = std::fs::read(&place).unwrap();
            std::fs::write(&place, &bytes[..bytes.len() / 2]).unwrap();
        }
        project.write("inbox/orders/C.jsonl", &order("C"));
        project.succeed(&["ingest", "--once"]).await;
        let way_out = "starmere build --full sales.order_lines";
        for command in [&["sql", "SELECT sum(quantity) FROM sales.orders_v1.order_lines"][..], &["build"]] {
            let refused = project.run(command).await;
            let said = refused.errors.contains(&path) && refused.errors.contains(way_out);
            assert!(!refused.status.success() && said, "{command:?}\n{}", refused.errors);
        }
        project.succeed(&["build", "--full", "sales.order_lines"]).await;
        assert_eq!(lines(&project).await, 3);
    }
}

/// A newer binary raises the format while an older `up` runs: it stops landing and building, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_up_stops_writing_a_warehouse_whose_format_is_raised() {
    let project = Project::new();
    project.write("inbox/orders/A.jsonl", &order("A"));
    let server = Server::start_as(project.root(), "up").await;
    let post = async |id: &str| {
        let (address, event) = (server.address.clone(), order(id));
        spawn_blocking(move || http::post(&address, "/v1/streams/orders/events", &event)).await.unwrap().unwrap()
    };
    assert_eq!(post("B").await.status, 200);
    until("both orders are published", async || {
        !project.snapshot().await.tables.is_empty() && lines(&project).await == 2
    })
    .await;
    let place = project.root().join("warehouse").join(paths::format_number().to_string());
    let ours = std::fs::read_to_string(&place).unwrap();
    std::fs::write(&place, r#"{"format":9,"reader":1,"written_by":"7.0.0"}"#).unwrap();
    until("posts are refused", async || post("C").await.status == 503).await;
    let refused = post("C").await.text();
    assert!(refused.contains("has format 9") && refused.contains("Starmere 7.0.0"), "{refused}");
    let landed = project.landed().await[1].len();
    project.write("inbox/orders/D.jsonl", &order("D"));
    until("`status` says so", async || {
        let status = project.run(&["status"]).await.errors;
        status.contains("format warehouse since") && status.contains("source order_files has failed")
    })
    .await;
    let scraped = {
        let address = server.address.clone();
        spawn_blocking(move || http::get(&address, "/metrics")).await.unwrap().unwrap().text()
    };
    let trouble = r#"starmere_trouble{about="format",object="warehouse"} 1"#;
    assert!(scraped.contains(trouble), "{scraped}");
    let ready = {
        let address = server.address.clone();
        spawn_blocking(move || http::get(&address, "/readyz")).await.unwrap().unwrap()
    };
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert_eq!(project.landed().await[1].len(), landed, "nothing lands");
    // The newer binary is gone again, and the copy from before it is restored.
    std::fs::write(&place, ours).unwrap();
    until("landing goes on", async || post("E").await.status == 200).await;
    until("the file has landed", async || project.landed().await[1].len() == landed + 2).await;
    server.terminate();
    server.end().await;
}

/// Models of a kind that only a newer binary knows are not dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_of_unknown_kinds_are_not_dropped() {
    let project = built(&["A"]).await;
    let snapshot = project.snapshot().await;
    let place = project.root().join("warehouse").join(paths::catalog(None, snapshot.number).to_string());
    let mut newer = serde_json::to_value(&snapshot).unwrap();
    let graph = json!({ "name": "sales.network", "kind": "graph" });
    newer["meaning"]["models"].as_array_mut().unwrap().push(graph);
    std::fs::write(&place, newer.to_string()).unwrap();
    project.write("inbox/orders/B.jsonl", &order("B"));
    project.succeed(&["ingest", "--once"]).await;
    let refused = project.run(&["build"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", refused.errors);
    assert!(refused.errors.contains("`sales.network`, whose kind `graph`"), "{}", refused.errors);
    assert_eq!(project.snapshot().await.number, snapshot.number);
}
