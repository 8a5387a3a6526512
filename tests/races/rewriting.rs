//! Files of a stream are put together while others land and build: nothing changes for anybody.

use fastrand::Rng;

use crate::support::events::{STREAMS, events, expected};
use crate::support::producer::Producer;
use crate::support::project::Project;
use crate::support::upkeep::compact_all;

const INGEST: &[&str] = &["ingest", "--once"];
const BUILD: &[&str] = &["build"];

async fn rewrite_streams(project: &Project) {
    let warehouse = project.warehouse();
    for name in STREAMS {
        compact_all(&warehouse, name).await.unwrap();
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
