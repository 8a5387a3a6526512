//! Promise 1 across crashes: whenever a process is killed, nothing is lost and nothing is counted twice.

use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::StreamExt;

use crate::support::events::{events, expected};
use crate::support::process::Ended;
use crate::support::producer::Producer;
use crate::support::project::Project;
use crate::support::seeds;

const SEEDS: u64 = 200;
/// Each of these is sent three times.
const EVENTS: u64 = 120;
/// Processes that are killed, for each seed.
const KILLS: usize = 4;
/// Seeds that run side by side.
const WORKERS: usize = 2;

const INGEST: &[&str] = &["ingest", "--once"];
const BUILD: &[&str] = &["build"];

/// How long landing and building usually take.
#[derive(Clone, Copy, Debug)]
struct Usual {
    ingest: Duration,
    build: Duration,
}

/// Tries to lose or double events by killing `ingest` and `build` at random moments, from their first instant to a
/// little after their usual end, while files grow, by half lines too, are renamed and replaced, between the
/// processes and under their hands. Each event is in three files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_loses_nothing_and_counts_nothing_twice() {
    let usual = measure().await;
    let runs = futures::stream::iter(seeds(SEEDS)).for_each_concurrent(WORKERS, |seed| async move {
        if let Err(error) = tokio::spawn(run(seed, usual)).await {
            panic!("seed {seed} (STARMERE_SEEDS={seed}..{} runs it alone): {error}", seed + 1);
        }
    });
    runs.await;
}

/// A life without accidents.
async fn measure() -> Usual {
    let project = Project::new();
    let mut random = Rng::with_seed(0);
    let mut producer = Producer::new(&project.inbox());
    producer.take(&events(&mut random, EVENTS), &mut random);
    producer.finish(&mut random);
    let begun = Instant::now();
    project.succeed(INGEST).await;
    let ingest = begun.elapsed();
    project.succeed(BUILD).await;
    Usual { ingest, build: begun.elapsed() - ingest }
}

async fn run(seed: u64, usual: Usual) {
    let mut random = Rng::with_seed(seed);
    let project = Project::new();
    let events = events(&mut random, EVENTS);
    let mut producer = Producer::new(&project.inbox());
    producer.take(&events, &mut random);
    for _ in 0..KILLS {
        for _ in 0..random.u32(1..8) {
            producer.act(&mut random);
        }
        let ended = match random.bool() {
            true => killed(&project, INGEST, usual.ingest, &mut producer, &mut random).await,
            false => killed(&project, BUILD, usual.build, &mut producer, &mut random).await,
        };
        let Ended { words, status, errors, .. } = ended;
        // A file that was renamed under its hands is refused for now: status 1.
        let fine = [None, Some(0), Some(1)].contains(&status.code());
        assert!(fine, "seed {seed}: `starmere {words}` ended with {status}\n{errors}");
    }
    producer.finish(&mut random);
    project.succeed(INGEST).await;
    project.succeed(BUILD).await;
    project.succeed(&["verify", "--lake-only"]).await;
    assert_eq!(project.landed().await, producer.all(), "seed {seed}: the lake holds each line once");
    assert_eq!(project.published().await, expected(&events), "seed {seed}: each event counts once");
}

/// Starts a process and kills it at some moment; before that, files may change once more.
async fn killed(
    project: &Project,
    command: &[&str],
    usual: Duration,
    producer: &mut Producer,
    random: &mut Rng,
) -> Ended {
    let mut process = project.start(command);
    let moment = usual.mul_f64(1.3 * random.f64());
    let first = moment.mul_f64(random.f64());
    if process.outlives(first).await {
        producer.act(random);
        process.outlives(moment.saturating_sub(first)).await;
    }
    process.kill().await
}
