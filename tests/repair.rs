//! A mapping that is mended, and the rejects of the one before.

use fastrand::Rng;

use crate::support::events::{STREAMS, events, expected};
use crate::support::producer::Producer;
use crate::support::project::{CUSTOMERS, ORDERS, Project};
use crate::support::tables;
use crate::support::upkeep::compact_all;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repaired_rejects_count_as_if_they_had_never_been_rejected() {
    for compacts in [false, true] {
        let project = Project::new();
        let mut random = Rng::with_seed(11);
        let events = events(&mut random, 80);
        let mut producer = Producer::new(&project.inbox());
        // Times are looked for where no event has them.
        for (name, text) in [("customers", CUSTOMERS), ("orders", ORDERS)] {
            project.write(&format!("streams/{name}.yaml"), &text.replace("time: at", "time: when"));
        }
        producer.take(&events[..40], &mut random);
        producer.finish(&mut random);
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
        assert_eq!(project.published().await, []);
        for (name, text) in [("customers", CUSTOMERS), ("orders", ORDERS)] {
            project.write(&format!("streams/{name}.yaml"), text);
        }
        producer.take(&events[40..], &mut random);
        producer.finish(&mut random);
        project.succeed(&["ingest", "--once"]).await;
        project.succeed(&["build"]).await;
        assert_eq!(project.published().await, expected(&events[40..]));
        if compacts {
            for name in STREAMS {
                compact_all(&project.warehouse(), name).await.unwrap();
            }
        }
        let sample = project.succeed(&["rejects", "orders", "--sample"]).await;
        assert_eq!(sample.matches("no time at `when`").count(), 3, "{sample}");
        for name in STREAMS {
            let repair = ["rejects", name, "--repair", "--yes", "--allow-copies"];
            tokio::join!(project.succeed(&repair), project.succeed(&repair), project.succeed(&["build"]));
        }
        project.succeed(&["build"]).await;
        assert_eq!(project.published().await, expected(&events), "each event counts once");
        assert_eq!(project.landed().await, producer.all());
        assert_eq!(tables::holes(&tables::stream(&project.warehouse(), "orders")).await, [""; 0]);
        project.succeed(&["verify"]).await;
    }
}
