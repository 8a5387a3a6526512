//! Files that were changed, cut off and put together anew: each lands or is refused, by name, and nobody panics.

use apache_avro::Codec;
use fastrand::Rng;
use starmere_lake::formats::Encoding;

use super::World;
use super::formats::{avro, parquet};

/// How many changed files are tried of each kind: a part of STARMERE_FUZZ, or a few in every run.
fn tries() -> usize {
    std::env::var("STARMERE_FUZZ").ok().and_then(|tries| tries.parse().ok()).unwrap_or(3_000) / 30
}

/// Changes a few bytes, cuts some out, repeats some.
fn changed(bytes: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..random.usize(1..5) {
        let place = random.usize(0..=changed.len());
        match random.u8(0..6) {
            0 => changed.insert(place, random.u8(..)),
            1 => changed.truncate(place),
            2 => {
                let from = random.usize(place.saturating_sub(40)..=place);
                let piece = changed[from..place].to_vec();
                changed.splice(place..place, piece);
            }
            _ if place < changed.len() => {
                let others = [0, 1, 0x7f, 0x80, 0xff, changed[place] ^ 1, changed[place].wrapping_add(1)];
                changed[place] = *random.choice(&others).unwrap();
            }
            _ => {}
        }
    }
    changed
}

async fn lands_or_is_refused(encoding: Encoding, name: &str, good: &[u8]) {
    let world = World::of(encoding.clone());
    world.write(name, good);
    let report = world.land().await;
    assert!(report.refused.is_empty() && report.counts.events > 0, "{name}: {report:?}");
    let most = report.counts.events * 200;
    let mut random = Rng::with_seed(3);
    for number in 0..tries() {
        let world = World::of(encoding.clone());
        let hostile = changed(good, &mut random);
        world.write(name, &hostile);
        // What `land` cannot do is an error, which ends the test.
        let report = world.land().await;
        assert!(report.counts.events <= most, "{name}, {number}: {} events", report.counts.events);
        assert!(report.refused.iter().all(|refused| refused.path == name), "{name}, {number}: {report:?}");
        let again = world.land().await;
        assert_eq!(again.counts.events, 0, "{name}, {number}: {report:?}, then {again:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parquet_that_is_hostile() {
    lands_or_is_refused(Encoding::Json, "a.parquet", &parquet(0..40)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn avro_that_is_hostile() {
    for codec in [Codec::Null, Codec::Deflate(Default::default()), Codec::Snappy, Codec::Zstandard(Default::default())]
    {
        lands_or_is_refused(Encoding::Avro { schema: None }, "a.avro", &avro(codec, &[3, 9])).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_that_are_hostile() {
    let at = "2024-01-01T00:00:00Z";
    let lines = format!("{{\"type\":\"t\",\"at\":\"{at}\",\"n\":1}}\n").repeat(5);
    lands_or_is_refused(Encoding::Json, "a.jsonl", lines.as_bytes()).await;
    let records = format!("type,at,n\n{}", format!("t,{at},\"1\"\"2\n3\"\n").repeat(5));
    lands_or_is_refused(Encoding::Csv { delimiter: b',' }, "a.csv", records.as_bytes()).await;
    let packed = zstd::stream::encode_all(lines.as_bytes(), 1).unwrap();
    lands_or_is_refused(Encoding::Json, "a.jsonl.zst", &packed).await;
}
