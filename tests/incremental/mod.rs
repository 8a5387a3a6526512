//! Promise 2: incremental equals rebuild, and both equal the answer.
//!
//! Seeded histories land in random batches, with builds, builds that die, and restarts in between. What every build
//! publishes is compared with an answer computed from the raw lines by code that shares nothing with the product
//! ([`naive`]), and what the last one publishes also with a rebuild from the lake, surrogate keys included.
//!
//! `STARMERE_SEEDS=1000` runs more, `STARMERE_SEEDS=17..18` runs one again. Where a build dies depends a little on
//! how threads are scheduled; everything else follows from the seed.

mod definitions;
mod derived;
mod history;
mod naive;
mod queries;
mod reading;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use starmere_lake::delta::Warehouse;
use starmere_models::build::{Builder, Built, Progress, Watch};
use starmere_models::resolve::{Model, Models};

use definitions::{models, part};
use history::{History, Landed, Step};
use world::{NOBODY, NULL, Quiet, Row, Tables, UNKNOWN, World, labelled, moment, paused, same, unless_conflict};

#[test]
fn published_tables_equal_a_rebuild_and_the_answer() {
    each_seed(150, |history, _| goes_well(history, models()));
}

/// The same of other histories, many more: each has all facts and dimensions, and a part of what is made of them.
#[test]
fn parts_of_the_tables_equal_a_rebuild_and_the_answer() {
    each_seed(600, |history, seed| goes_well(history, part(seed)));
}

fn goes_well(history: &History, models: &'static Models) -> Result<()> {
    on_runtime(async {
        let mut world = World::new(models, history).await?;
        let mut landed: Vec<Landed> = Vec::new();
        for (number, step) in history.steps.iter().enumerate() {
            match step {
                Step::Land(rows) => {
                    world.land(rows).await?;
                    landed.extend_from_slice(rows);
                }
                Step::Restart => world.restart(),
                Step::Dying(pauses) => world.build_and_die(*pauses).await?,
                Step::Build => {
                    let built = labelled(world.build(false).await?)?;
                    same("the build", &built, "the answer", &world.answer(&landed))
                        .with_context(|| format!("at step {}", number + 1))?;
                }
            }
        }
        world.restart();
        let built = world.build(false).await?;
        world.restart();
        same("the build", &built, "the rebuild", &world.build(true).await?)?;
        same("the build", &labelled(built)?, "the answer", &world.answer(&landed))
    })
}

/// A slow build is held up somewhere in the middle while more events land and another process builds them.
#[test]
fn a_build_that_is_overtaken_does_no_harm() {
    each_seed(24, |history, seed| {
        on_runtime(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut world = World::new(models(), history).await?;
            let mut landed: Vec<Landed> = Vec::new();
            for (number, rows) in history.batches().take(6).enumerate() {
                let at = || format!("at batch {}", number + 1);
                let slow_process = world.other();
                let slow = Builder::new(&slow_process, models(), false).await?;
                let mut slow_build = pin!(slow.build(models(), &Quiet));
                let ended = paused(slow_build.as_mut(), random.u32(..120)).await;
                let before = world.answer(&landed);
                world.land(rows).await?;
                landed.extend_from_slice(rows);
                let answer = world.answer(&landed);
                if random.bool() {
                    same("the build", &labelled(world.build(false).await?)?, "the answer", &answer).with_context(at)?;
                }
                let ended = match ended {
                    Some(ended) => ended,
                    None => slow_build.await,
                };
                // It ends with a conflict, or with just what it was asked for.
                if let Some(pins) = unless_conflict(ended)? {
                    let built = labelled(world.read(&pins).await?)?;
                    same("the slow build", &built, "what had landed before it", &before).with_context(at)?;
                }
                same("the build after it", &labelled(world.build(false).await?)?, "the answer", &answer)
                    .with_context(at)?;
            }
            let built = world.build(false).await?;
            same("the build", &built, "the rebuild", &world.build(true).await?)
        })
    });
}

/// How many models are built at once, at most.
#[derive(Default)]
struct AtOnce {
    now: AtomicU64,
    most: AtomicU64,
}

impl Watch for AtOnce {
    fn begun(&self, _: &Model, _: &Arc<Progress>) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    fn done(&self, _: &Model, _: &Built) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of streams alone: queries want more memory than so few events.
static OF_STREAMS: LazyLock<Models> = LazyLock::new(|| {
    let is_of_streams = |model: &&Model| matches!(model, Model::Dimension(_) | Model::Fact(_));
    let all = models();
    let of_streams = all.models.iter().filter(is_of_streams).cloned().collect();
    Models { streams: all.streams.clone(), models: of_streams, notes: Vec::new() }
});

#[test]
fn models_are_built_side_by_side_where_there_is_memory() {
    let history = History::random(7);
    let most = |memory: u64| {
        on_runtime(async {
            let mut world = World::new(&OF_STREAMS, &history).await?;
            for rows in history.batches() {
                world.land(rows).await?;
            }
            let watch = AtOnce::default();
            let builder = Builder::new(&world.other(), &OF_STREAMS, false).await?.within(memory);
            builder.build(&OF_STREAMS, &watch).await?;
            Ok(watch.most.into_inner())
        })
    };
    assert_eq!(most(1 << 30).unwrap(), 4);
    // About a kilobyte an event: each is alone.
    assert_eq!(most(1 << 10).unwrap(), 1);
}

/// With a kilobyte of memory, ids are compared in many passes, copies one by one, and changes and rejects are written after
/// each file that is read. With as much as is usual, nothing of that happens.
#[test]
fn less_memory_makes_the_same_rows() {
    let (little, usual) = (1 << 10, 2 << 30);
    each_seed(60, |history, seed| {
        on_runtime(async {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut world = World::new(&OF_STREAMS, history).await?;
            for rows in history.batches() {
                world.land(rows).await?;
                if random.u8(..4) == 0 {
                    world.build_within(little, false).await?;
                }
            }
            let built = world.build_within(little, false).await?;
            same("the build", &built, "the rebuild", &world.build_within(usual, true).await?)?;
            same("the build", &built, "the rebuild with little memory", &world.build_within(little, true).await?)
        })
    });
}

/// Two processes build while a third one lands; whoever meets a conflict begins again.
#[test]
fn racing_builds_end_with_the_right_tables() {
    each_seed(20, |history, _| {
        let mut world = on_runtime(World::new(models(), history))?;
        let (first, second) = (world.other(), world.other());
        thread::scope(|scope| {
            let racers = [first, second].map(|process| scope.spawn(move || on_runtime(race(&process, 4))));
            let landed = on_runtime(async {
                for rows in history.batches() {
                    world.land(rows).await?;
                }
                Ok(())
            });
            let raced: Result<()> = racers.into_iter().try_for_each(|racer| match racer.join() {
                Ok(raced) => raced,
                Err(_) => bail!("a racer panicked"),
            });
            landed.and(raced)
        })?;
        let landed: Vec<Landed> = history.batches().flatten().cloned().collect();
        on_runtime(async {
            let built = world.build(false).await?;
            same("the build", &built, "the rebuild", &world.build(true).await?)?;
            same("the build", &labelled(built)?, "the answer", &world.answer(&landed))
        })
    });
}

/// Builds until `rounds` builds have ended well.
async fn race(process: &Warehouse, rounds: u32) -> Result<()> {
    for _ in 0..rounds {
        let mut attempts = 0;
        loop {
            let built = match Builder::new(process, models(), false).await {
                Ok(builder) => builder.build(models(), &Quiet).await,
                Err(error) => Err(error),
            };
            if unless_conflict(built)?.is_some() {
                break;
            }
            attempts += 1;
            // Of two builds in conflict one goes on, so this many in a row are a livelock.
            ensure!(attempts < 500, "{attempts} conflicts in a row");
        }
    }
    Ok(())
}

/// A test that cannot fail is a defect: whatever the histories are to hold, some of them do.
#[test]
fn histories_hold_what_breaks_others() {
    let mut all = Tables::new();
    let (mut copies, mut rejected, mut longest) = (0, 0, 0);
    let mut met: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..60 {
        let landed: Vec<Landed> = History::random(seed).batches().flatten().cloned().collect();
        let events: Vec<_> = landed.iter().filter_map(reading::event).collect();
        meets(&events, &landed, &mut met);
        rejected += landed.len() - events.len();
        copies += events.len() - naive::counting(&landed).len();
        longest = longest.max(History::random(seed).batches().count());
        for (table, rows) in naive::tables(&landed) {
            // Members have the same names in all histories: a row tells its history.
            let named = rows.into_iter().map(|mut row| {
                row.insert("seed".to_owned(), seed.to_string());
                row
            });
            all.entry(table).or_default().extend(named);
        }
    }
    let count = |table: &str, wanted: &dyn Fn(&Row) -> bool| all[table].iter().filter(|row| wanted(row)).count();
    let is = |column: &'static str, value: &'static str| move |row: &Row| row[column] == value;
    let mut versions: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in &all["sales.customer"] {
        *versions.entry((row["seed"].as_str(), row["customer_id"].as_str())).or_default() += 1;
    }
    let recreated = |row: &Row| row["is_deleted"] == "true" && row["is_current"] == "false";
    let many_members = |row: &Row| row["buyer_key"] != row["payer_key"];
    let held = [
        ("copies of events", copies),
        ("lines that are no events", rejected),
        ("histories of more than fifty batches", usize::from(longest > 50)),
        ("members with five versions", versions.values().filter(|count| **count >= 5).count()),
        ("inferred customers", count("sales.customer", &is("is_inferred", "true"))),
        ("inferred regions", count("sales.region", &is("is_inferred", "true"))),
        ("inferred shops", count("sales.shop", &is("is_inferred", "true"))),
        ("deleted customers", count("sales.customer", &is("is_deleted", "true"))),
        ("members that come back", count("sales.customer", &recreated)),
        ("regions that come back", count("sales.region", &recreated)),
        ("customers of no region", count("sales.customer", &is("region_durable_key", UNKNOWN))),
        ("lines of two customers", count("sales.order_lines", &many_members)),
        ("lines of unknown products", count("sales.order_lines", &is("product_durable_key", NOBODY))),
        ("lines without a product", count("sales.order_lines", &is("product_durable_key", UNKNOWN))),
        ("lines due on no day", count("sales.order_lines", &is("due_date_key", "0"))),
        ("orders of unknown customers", count("sales.orders", &is("customer_durable_key", NOBODY))),
    ];
    for (what, times) in held.into_iter().chain(MEETINGS.map(|what| (what, met.get(what).copied().unwrap_or_default())))
    {
        assert!(times > 0, "no history has {what}");
    }
    // Of flags there are no events.
    let are_rejects = |table: &str| table.ends_with("/rejects") && table != "sales.flags/rejects";
    for (table, rows) in all.iter().filter(|(table, _)| are_rejects(table)) {
        assert!(!rows.is_empty(), "no history has {table}");
    }
}

/// What histories meet, in the order in which things land.
const MEETINGS: [&str; 9] = [
    "the same event by two sources",
    "copies that differ",
    "a copy that takes the place of one that counted",
    "changes of a member at one instant",
    "a reference before its member lands",
    "a reference after its member",
    "a reference without a member",
    "a parent's change inside a child's interval",
    "a change under facts that have landed",
];

/// Counts what a history meets: `events` in the order in which they land.
fn meets(events: &[reading::Event], landed: &[Landed], met: &mut BTreeMap<&'static str, usize>) {
    let mut count = |what: &'static str| *met.entry(what).or_default() += 1;
    let said = |event: &reading::Event| match reading::customer(event) {
        Some(Ok(change)) => Some(change),
        _ => None,
    };
    let mentioned = |event: &reading::Event| match reading::orders(event) {
        Some(Ok(rows)) => rows[0].roles[0].2.clone(),
        _ => None,
    };
    for (place, event) in events.iter().enumerate() {
        let same = |other: &&reading::Event| other.place.stream == event.place.stream && other.id == event.id;
        for other in events[..place].iter().filter(same) {
            if other.body == event.body && other.place.source != event.place.source {
                count(MEETINGS[0]);
            }
            if other.body != event.body {
                count(MEETINGS[1]);
            }
        }
        if events[..place].iter().any(|other| same(&other))
            && events[..place].iter().filter(same).all(|other| event.place < other.place)
        {
            count(MEETINGS[2]);
        }
        let Some(change) = said(event) else { continue };
        let of_member = |other: &&reading::Event| said(other).is_some_and(|other| other.member == change.member);
        if events[..place].iter().filter(of_member).any(|other| other.place.at == event.place.at && !same(&other)) {
            count(MEETINGS[3]);
        }
        let refers = |other: &&reading::Event| mentioned(other).as_ref() == Some(&change.member);
        if !events[..place].iter().any(|other| of_member(&other)) {
            events[..place].iter().filter(refers).for_each(|_| count(MEETINGS[4]));
        }
        events[place..].iter().filter(refers).for_each(|_| count(MEETINGS[5]));
        if events[..place].iter().filter(refers).any(|other| other.place.at >= event.place.at) {
            count(MEETINGS[8]);
        }
    }
    let members: BTreeSet<String> = events.iter().filter_map(said).map(|change| change.member).collect();
    events.iter().filter_map(mentioned).filter(|member| !members.contains(member)).for_each(|_| count(MEETINGS[6]));
    let own: BTreeSet<String> =
        events.iter().filter(|event| said(event).is_some()).map(|event| moment(event.place.at)).collect();
    let is_own = |row: &&Row| {
        row["customer_id"] == NULL || row["valid_from"].starts_with("0001") || own.contains(&row["valid_from"])
    };
    naive::tables(landed)["sales.customer"].iter().filter(|row| !is_own(row)).for_each(|_| count(MEETINGS[7]));
}

/// Runs `work` to its end on a runtime of its own.
fn on_runtime<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The seeds to run, of a test that runs `usual` of them.
fn seeds(usual: u64) -> Range<u64> {
    let number = |text: &str| text.trim().parse::<u64>().expect("STARMERE_SEEDS is a number or a range such as 17..18");
    match std::env::var("STARMERE_SEEDS") {
        Err(_) => 0..usual,
        Ok(text) => match text.split_once("..") {
            Some((from, to)) => number(from)..number(to),
            // All tests in proportion.
            None => 0..(number(&text) * usual).div_ceil(150),
        },
    }
}

/// Runs `test` with each history, some side by side; fails with the shortest history that it fails with.
fn each_seed(usual: u64, test: impl Fn(&History, u64) -> Result<()> + Sync) {
    let seeds = seeds(usual);
    let next = AtomicU64::new(seeds.start);
    let failures: Mutex<Vec<(usize, u64, String)>> = Mutex::default();
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let history = History::random(seed);
            let reason = match catch_unwind(AssertUnwindSafe(|| test(&history, seed))) {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "it panicked, as told above".to_owned(),
            };
            failures.lock().unwrap_or_else(PoisonError::into_inner).push((history.size(), seed, reason));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(run);
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort();
    if let Some((_, seed, reason)) = failures.first() {
        let all: Vec<u64> = failures.iter().map(|(_, seed, _)| *seed).collect();
        let history = History::random(*seed);
        panic!("{} of {} seeds fail: {all:?}\nseed {seed}: {reason}\n\n{history}", all.len(), seeds.end - seeds.start);
    }
}
