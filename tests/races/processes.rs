//! Processes that race.

use fastrand::Rng;

use crate::support::events::{Event, events, expected};
use crate::support::producer::Producer;
use crate::support::project::Project;

const INGEST: &[&str] = &["ingest", "--once"];
const BUILD: &[&str] = &["build"];

/// A project whose files grow from round to round.
struct Rounds {
    project: Project,
    random: Rng,
    producer: Producer,
    /// In the order in which they are told.
    events: Vec<Event>,
    told: usize,
    rounds: usize,
}

impl Rounds {
    fn new(seed: u64, count: u64, rounds: usize) -> Self {
        let project = Project::new();
        let mut random = Rng::with_seed(seed);
        let events = events(&mut random, count);
        let producer = Producer::new(&project.inbox());
        Self { project, random, producer, events, told: 0, rounds }
    }

    /// Writes the next round's events; false after the last round.
    fn next(&mut self) -> bool {
        let more = self.events.len().div_ceil(self.rounds).min(self.events.len() - self.told);
        let told = &self.events[self.told..self.told + more];
        self.producer.take(told, &mut self.random);
        self.told += more;
        self.producer.finish(&mut self.random);
        more > 0
    }

    async fn landed_once(&self) {
        assert_eq!(self.project.landed().await, self.producer.all(), "the lake holds each line once");
    }

    async fn count_once(&self) {
        let expected = expected(&self.events[..self.told]);
        assert_eq!(self.project.published().await, expected, "each event counts once");
    }
}

/// Tries to land a line twice, or not at all, by having three processes look at the same files at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_land_the_same_files_land_each_line_once() {
    let mut rounds = Rounds::new(1, 240, 8);
    while rounds.next() {
        let project = &rounds.project;
        tokio::join!(project.succeed(INGEST), project.succeed(INGEST), project.succeed(INGEST));
        rounds.landed_once().await;
    }
    rounds.project.succeed(&["verify", "--lake-only"]).await;
}

/// Tries to count events twice by building twice at once, each time with something new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_that_run_at_once_count_each_event_once() {
    let mut rounds = Rounds::new(2, 400, 8);
    while rounds.next() {
        let project = &rounds.project;
        project.succeed(INGEST).await;
        tokio::join!(project.succeed(BUILD), project.succeed(BUILD));
        rounds.count_once().await;
    }
    let rows = rounds.project.query("SELECT count(*) AS n FROM sales.orders_v1.order_lines").await;
    assert_eq!(rows, [serde_json::json!({ "n": expected(&rounds.events).len() })]);
    rounds.project.succeed(&["verify"]).await;
}

/// Tries to build on half of what lands: landing and building go on at once, and twice each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn building_while_events_land_ends_with_each_counted_once() {
    let mut rounds = Rounds::new(3, 400, 8);
    while rounds.next() {
        let project = &rounds.project;
        tokio::join!(project.succeed(INGEST), project.succeed(BUILD), project.succeed(INGEST), project.succeed(BUILD));
        // What is published fits together, however much of it there is.
        project.published().await;
    }
    rounds.project.succeed(BUILD).await;
    rounds.landed_once().await;
    rounds.count_once().await;
    rounds.project.succeed(&["verify"]).await;
}

/// Tries to mix two generations: a rebuild aside swaps its tables in while the usual builds go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_build_beside_usual_ones_counts_each_event_once() {
    let mut rounds = Rounds::new(4, 200, 4);
    while rounds.next() {
        let project = &rounds.project;
        project.succeed(INGEST).await;
        tokio::join!(project.succeed(&["build", "--full"]), project.succeed(BUILD));
        project.succeed(BUILD).await;
        rounds.count_once().await;
    }
    rounds.project.succeed(&["verify"]).await;
}
