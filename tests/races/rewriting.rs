//! Files of a stream are replaced by others with the same rows, as compaction will do: nothing changes for anybody.

use fastrand::Rng;
use starmere_lake::Error;
use starmere_lake::delta::{Commit, EncodedFile, FileOptions, REWRITE, Table, Txn};
use starmere_lake::events::{INGEST_DATE, file_schema};
use starmere_models::events::read_file;

use crate::support::events::{STREAMS, events, expected};
use crate::support::producer::Producer;
use crate::support::project::Project;
use crate::support::tables;

const INGEST: &[&str] = &["ingest", "--once"];
const BUILD: &[&str] = &["build"];

/// Replaces the first two files of the table by one; does nothing where there are fewer. Begins anew while others
/// commit.
async fn rewrite(table: &Table) {
    loop {
        let Some(base) = table.snapshot().await.unwrap() else { return };
        let two: Vec<_> = base.files().take(2).cloned().collect();
        let [first, _] = two.as_slice() else { return };
        // Tests that run over midnight have files of two days, which no file could hold.
        if two.iter().any(|add| add.partition_values != first.partition_values) {
            return;
        }
        let day = first.partition_values[INGEST_DATE].clone().unwrap();
        let mut batches = Vec::new();
        for add in &two {
            batches.push(read_file(table, add, file_schema()).await.unwrap());
        }
        let file =
            EncodedFile::of(file_schema(), &batches, &FileOptions::default()).unwrap().in_partition(INGEST_DATE, day);
        let mut add = table.upload(file).await.unwrap();
        add.data_change = false;
        let removes = two.iter().map(|add| {
            let mut remove = add.remove();
            remove.data_change = false;
            remove
        });
        let commit = Commit {
            adds: vec![add],
            removes: removes.collect(),
            txns: vec![Txn::now(REWRITE.to_owned(), base.version() as i64 + 1)],
            operation: "OPTIMIZE",
            facts: serde_json::Value::Null,
        };
        match table.commit(&base, commit).await {
            Ok(_) => return,
            Err(Error::Conflict { .. }) => {}
            Err(error) => panic!("a rewrite failed: {error}"),
        }
    }
}

async fn rewrite_streams(project: &Project) {
    let warehouse = project.warehouse();
    for name in STREAMS {
        rewrite(&tables::stream(&warehouse, name)).await;
    }
}

/// Tries to count events twice, or to hide later ones, by replacing files of the streams: files that a build has
/// read, files that it has not, and both at once; before, after and during builds and landing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_rewrites_files_changes_no_count() {
    let project = Project::new();
    let mut random = Rng::with_seed(7);
    let events = events(&mut random, 320);
    let mut producer = Producer::new(&project.inbox());
    for (round, told) in events.chunks(20).enumerate() {
        producer.take(told, &mut random);
        producer.finish(&mut random);
        let (ingest, build) = (project.succeed(INGEST), project.succeed(BUILD));
        match round % 5 {
            // What is rewritten is new to the build, or partly so.
            0 => {
                ingest.await;
                rewrite_streams(&project).await;
                build.await;
            }
            // Everything rewritten has been built from.
            1 => {
                ingest.await;
                build.await;
                rewrite_streams(&project).await;
            }
            // The build skips nothing between two rewrites.
            2 => {
                rewrite_streams(&project).await;
                ingest.await;
                rewrite_streams(&project).await;
                build.await;
            }
            3 => {
                ingest.await;
                tokio::join!(build, rewrite_streams(&project));
            }
            _ => {
                tokio::join!(ingest, rewrite_streams(&project));
                build.await;
            }
        }
        let so_far = expected(&events[..(round + 1) * 20]);
        assert_eq!(project.published().await, so_far, "round {round}: each event counts once");
    }
    assert_eq!(project.landed().await, producer.all(), "the lake holds each line once");
    project.succeed(&["verify"]).await;
}
