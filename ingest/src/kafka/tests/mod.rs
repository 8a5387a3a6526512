//! Over librdkafka's mock cluster, and over a simulated group, in this process.

mod group;
mod simulation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use starmere_lake::delta::Warehouse;
use starmere_lake::events::file_schema;
use starmere_lake::landing::Stream;
use starmere_lake::paths::TablePath;
use starmere_lake::provider::PinnedTable;
use starmere_lake::session::Engine;
use starmere_lake::store::Store;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::envelope::{Mapping, TypeOf};
use crate::files::Progress;
use crate::memory::Memory;

const TOPIC: &str = "orders";
/// A rebalance takes seconds; whatever takes this long is stalled.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

type Cluster = MockCluster<'static, DefaultProducerContext>;

struct World {
    store: Store,
    stream: Stream,
    cluster: Cluster,
    producer: ThreadedProducer<DefaultProducerContext>,
}

fn mapping() -> Mapping {
    Mapping {
        id: Some("id".into()),
        max_event_bytes: 500,
        ..Mapping::new(TypeOf::Constant("placed".into()), Some("at".into()))
    }
}

fn cluster(partitions: i32) -> (Cluster, ThreadedProducer<DefaultProducerContext>) {
    let cluster = MockCluster::new(2).unwrap();
    cluster.create_topic(TOPIC, partitions, 1).unwrap();
    let producer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("linger.ms", "1")
        .create()
        .unwrap();
    (cluster, producer)
}

fn event(number: usize) -> String {
    format!(r#"{{"id":{number},"at":"2024-01-01T00:00:00Z"}}"#)
}

impl World {
    fn new(partitions: i32) -> Self {
        let store = Store::memory();
        let table = Warehouse::new(store.clone()).table(TablePath::stream("d", "s"));
        let (cluster, producer) = cluster(partitions);
        Self { store, stream: Stream::new("s", table), cluster, producer }
    }

    fn produce(&self, partitions: i32, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let payload = event(number);
            let record = BaseRecord::<str, str>::to(TOPIC).partition(number as i32 % partitions).payload(&payload);
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(Duration::from_secs(20)).unwrap();
    }

    fn source(&self) -> Source {
        Source {
            name: "kafka".into(),
            topics: vec![TOPIC.into()],
            membership: Membership::Group("starmere".into()),
            start: Start::Earliest,
            registry: None,
            settings: BTreeMap::from([
                ("bootstrap.servers".to_owned(), self.cluster.bootstrap_servers()),
                ("session.timeout.ms".to_owned(), "6000".to_owned()),
                ("reconnect.backoff.max.ms".to_owned(), "200".to_owned()),
            ]),
        }
    }

    async fn drain(&self) -> Report {
        self.drain_of(&self.source()).await
    }

    async fn drain_of(&self, source: &Source) -> Report {
        land(
            &self.stream,
            &mapping(),
            source,
            &Arc::new(Progress::default()),
            &Memory::default(),
            Until::Drained(CancellationToken::new()),
        )
        .await
        .unwrap()
    }

    async fn rows(&self) -> RecordBatch {
        rows(&self.store, &self.stream).await
    }

    /// Produces the next `count` records.
    fn produce_more(&self, partitions: i32, produced: &mut usize, count: usize) {
        self.produce(partitions, *produced..*produced + count);
        *produced += count;
    }

    /// Produces records until the member has read some: the group has given it partitions.
    async fn produce_until_read_by(&self, member: &Member, partitions: i32, produced: &mut usize) {
        let begun = Instant::now();
        while member.progress.events.load(Ordering::Relaxed) == 0 {
            assert!(begun.elapsed() < PATIENCE, "the group gives a member nothing to read");
            self.produce_more(partitions, produced, 40);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Each of the events is there once.
    async fn has_once(&self, numbers: std::ops::Range<usize>) {
        let rows = self.rows().await;
        let payloads: Vec<Vec<u8>> = payloads(&rows);
        let found: BTreeSet<&Vec<u8>> = payloads.iter().collect();
        assert_eq!(payloads.len(), found.len(), "some are there twice");
        let expected: Vec<Vec<u8>> = numbers.map(|number| event(number).into_bytes()).collect();
        assert_eq!(found, expected.iter().collect());
    }
}

/// A process that follows the topic.
struct Member {
    stop: CancellationToken,
    progress: Arc<Progress>,
    running: JoinHandle<Report>,
}

impl Member {
    fn of(world: &World) -> Self {
        Self::with(world.stream.clone(), world.source())
    }

    fn with(stream: Stream, source: Source) -> Self {
        let (stop, progress) = (CancellationToken::new(), Arc::new(Progress::default()));
        let (until, told) = (Until::Stopped(stop.clone()), progress.clone());
        let running =
            tokio::spawn(
                async move { land(&stream, &mapping(), &source, &told, &Memory::default(), until).await.unwrap() },
            );
        Self { stop, progress, running }
    }

    async fn leaves(self) -> Report {
        self.stop.cancel();
        self.running.await.unwrap()
    }
}

/// Waits until so many rows have landed.
async fn have_landed(stream: &Stream, rows: usize) {
    let begun = Instant::now();
    while stream.open().await.unwrap().rows() < Some(rows as u64) {
        assert!(begun.elapsed() < PATIENCE, "{rows} rows do not land");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn rows(store: &Store, stream: &Stream) -> RecordBatch {
    let engine = Engine::new(store, 1 << 28).unwrap();
    let session = engine.session();
    let snapshot = stream.open().await.unwrap();
    session.register_table("s", Arc::new(PinnedTable::new(store, snapshot))).unwrap();
    let query = "SELECT * FROM s ORDER BY topic, partition, position";
    let batches = session.sql(query).await.unwrap().collect().await.unwrap();
    arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap()
}

fn payloads(rows: &RecordBatch) -> Vec<Vec<u8>> {
    let column = arrow::compute::cast(rows.column_by_name("payload").unwrap(), &arrow::datatypes::DataType::Binary);
    column.unwrap().as_binary::<i32>().iter().map(|payload| payload.unwrap().to_vec()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_lands_once() {
    let world = World::new(3);
    world.produce(3, 0..1000);
    let report = world.drain().await;
    assert_eq!((report.counts.events, report.counts.rejects, report.stops.len()), (1000, 0, 0));
    assert_eq!(world.drain().await.counts.events, 0);
    world.produce(3, 1000..1100);
    assert_eq!(world.drain().await.counts.events, 100);
    world.has_once(0..1100).await;
    let rows = world.rows().await;
    let partition = rows.column_by_name("partition").unwrap().as_primitive::<Int32Type>();
    let position = rows.column_by_name("position").unwrap().as_primitive::<Int64Type>();
    assert_eq!((partition.value(0), position.value(0)), (0, 0));
    assert_eq!(arrow::compute::max(partition), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_headers_and_tombstones_are_kept() {
    let world = World::new(1);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("1") })
        .insert(Header { key: "trace", value: Some("2") })
        .insert(Header { key: "empty", value: None::<&str> });
    let payload = event(1);
    let with = BaseRecord::to(TOPIC).key("k1").payload(payload.as_str()).headers(headers);
    world.producer.send(with).map_err(|(error, _)| error).unwrap();
    world.producer.send(BaseRecord::<str, str>::to(TOPIC).key("k1")).map_err(|(error, _)| error).unwrap();
    let long = format!(r#"{{"id":3,"at":"2024-01-01T00:00:00Z","text":"{}"}}"#, "x".repeat(600));
    world.producer.send(BaseRecord::to(TOPIC).key("k3").payload(long.as_str())).map_err(|(error, _)| error).unwrap();
    world.producer.flush(Duration::from_secs(20)).unwrap();
    let report = world.drain().await;
    assert_eq!((report.counts.events, report.counts.rejects), (3, 2));
    let rows = world.rows().await;
    assert_eq!(rows.num_rows(), 3);
    let text = |column: &str, row: usize| {
        let column = rows.column_by_name(column).unwrap();
        column.is_valid(row).then(|| arrow::util::display::array_value_to_string(column, row).unwrap())
    };
    let hex = |text: &str| Some(hex::encode(text));
    assert_eq!((text("key", 0), text("key", 1), text("key", 2)), (hex("k1"), hex("k1"), hex("k3")));
    let headers = format!(
        "[{{name: trace, value: {}}}, {{name: trace, value: {}}}, {{name: empty, value: }}]",
        hex::encode("1"),
        hex::encode("2")
    );
    assert_eq!((text("headers", 0), text("headers", 1)), (Some(headers), None));
    assert_eq!((text("op", 0), text("op", 1)), (None, Some("delete".into())));
    assert!(text("rejection", 1).unwrap().starts_with("a tombstone: it has a key, and no payload"));
    assert!(text("rejection", 2).unwrap().contains("max_event_bytes"));
    assert_eq!(file_schema().fields().len() + 1, rows.num_columns());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_race_land_each_record_once() {
    let world = World::new(4);
    world.produce(4, 0..4000);
    let source = world.source();
    let (first, second, third) = tokio::join!(world.drain(), world.drain_of(&source), world.drain());
    assert_eq!(first.counts.events + second.counts.events + third.counts.events, 4000);
    world.has_once(0..4000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_group_share_partitions_and_land_each_record_once() {
    let world = World::new(4);
    let (mut members, mut produced) = (Vec::new(), 0);
    for _ in 0..3 {
        let member = Member::of(&world);
        world.produce_until_read_by(&member, 4, &mut produced).await;
        members.push(member);
    }
    world.produce_more(4, &mut produced, 400);
    members.remove(0).leaves().await;
    world.produce_more(4, &mut produced, 400);
    have_landed(&world.stream, produced).await;
    for member in members {
        member.leaves().await;
    }
    world.has_once(0..produced).await;
}

/// Two checkouts of one project, each with a warehouse of its own, split the partitions between them, and each missed
/// records without a word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_warehouses_of_one_project_get_every_record_each() {
    let world = World::new(4);
    let source = Source { membership: Membership::OfTable("starmere.shop.orders".into()), ..world.source() };
    let other = Stream::new("s", Warehouse::new(Store::memory()).table(TablePath::stream("d", "s")));
    let members = [&world.stream, &other].map(|stream| Member::with(stream.clone(), source.clone()));
    world.produce(4, 0..400);
    for (stream, member) in [&world.stream, &other].into_iter().zip(members) {
        have_landed(stream, 400).await;
        assert_eq!(member.leaves().await.counts.events, 400);
    }
    world.has_once(0..400).await;
}

/// What stalled a source for good: a member comes under load, and leaves, so that its partitions go back to one that has
/// gathered more of its own meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_restarted_one_after_the_other_under_load_stall_nothing() {
    let world = World::new(4);
    let mut produced = 0;
    let mut members = vec![Member::of(&world)];
    for round in 0..4 {
        let comes = Member::of(&world);
        world.produce_until_read_by(&comes, 4, &mut produced).await;
        members.push(comes);
        for _ in 0..10 {
            world.produce_more(4, &mut produced, 50);
            have_landed(&world.stream, produced).await;
        }
        // Both have gathered some of it when one of them goes; in the last round, the one that stayed until then.
        world.produce_more(4, &mut produced, 400);
        members.remove(if round == 3 { 0 } else { 1 }).leaves().await;
    }
    have_landed(&world.stream, produced).await;
    for member in members {
        member.leaves().await;
    }
    world.has_once(0..produced).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_again_stops_until_it_is_told_to_go_on() {
    for (before, after) in [(50, 200), (200, 50)] {
        let mut world = World::new(1);
        world.produce(1, 0..before);
        world.drain().await;
        (world.cluster, world.producer) = cluster(1);
        world.produce(1, 1000..1000 + after);
        let report = world.drain().await;
        assert_eq!(report.counts.events, 0);
        let stopped = stops(&world.stream).await.unwrap();
        assert_eq!(stopped, report.stops);
        let end = (after < before).then_some(after as i64);
        assert_eq!(stopped[0].why, Why::MadeAgain { position: before as i64, end });
        let shorter = "partition 0 of `orders`: it ends at 50, before our position 200; the topic was made again";
        assert_eq!(stopped[0].to_string() == shorter, after < before, "{}", stopped[0]);
        assert_eq!(world.drain().await.counts.events, 0, "it stays stopped");
        assert!(go_on(&world.stream, &stopped[0]).await.unwrap());
        assert!(!go_on(&world.stream, &stopped[0]).await.unwrap(), "once");
        assert_eq!(stops(&world.stream).await.unwrap(), []);
        assert_eq!(world.drain().await.counts.events, after as u64);
        assert_eq!(world.drain().await.counts.events, 0);
        assert_eq!(payloads(&world.rows().await).len(), before + after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_expired_before_they_landed_stop_their_partition_until_it_is_told_to_go_on() {
    let world = World::new(2);
    world.produce(2, 0..100);
    world.drain().await;
    // The mock cluster keeps 5 MiB of a partition.
    let text = "x".repeat(4000);
    for _ in 0..2000 {
        let record = BaseRecord::<str, str>::to(TOPIC).partition(0).payload(&text);
        world.producer.send(record).map_err(|(error, _)| error).unwrap();
        if world.producer.in_flight_count() > 500 {
            world.producer.flush(Duration::from_secs(20)).unwrap();
        }
    }
    world.producer.flush(Duration::from_secs(20)).unwrap();
    world.produce(2, 100..200);
    let report = world.drain().await;
    assert_eq!(report.counts.events, 50, "the other partition goes on");
    let [stop] = report.stops.as_slice() else { panic!("{:?}", report.stops) };
    let Why::Expired { position, earliest } = stop.why else { panic!("{stop}") };
    assert_eq!((stop.partition.partition, position), (0, 50));
    assert!(earliest > 50, "{earliest}");
    assert_eq!(world.drain().await.counts.events, 0, "it stays stopped");
    assert!(go_on(&world.stream, stop).await.unwrap());
    assert_eq!(world.drain().await.counts.events, (50 + 2000 + 50 - earliest) as u64);
    assert_eq!((world.drain().await.counts.events, stops(&world.stream).await.unwrap().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_begins_where_it_is_told_to() {
    let world = World::new(2);
    world.produce(2, 0..100);
    let offsets = BTreeMap::from([(TOPIC.to_owned(), BTreeMap::from([(0, 40), (1, 1000)]))]);
    let from = Source { start: Start::Offsets(offsets), ..world.source() };
    assert_eq!(world.drain_of(&from).await.counts.events, 10 + 50, "what is out of range begins at the earliest");
    let latest = Source { name: "late".into(), start: Start::Latest, ..world.source() };
    assert_eq!(world.drain_of(&latest).await.counts.events, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_by_pattern_and_partitions_by_number() {
    let world = World::new(3);
    world.cluster.create_topic("returns", 1, 1).unwrap();
    world.produce(3, 0..30);
    world.producer.send(BaseRecord::<str, str>::to("returns").payload("{}")).map_err(|(error, _)| error).unwrap();
    world.producer.flush(Duration::from_secs(20)).unwrap();
    let fixed = Source { membership: Membership::Partitions(vec![1]), ..world.source() };
    assert_eq!(world.drain_of(&fixed).await.counts.events, 10);
    let pattern = Source { topics: vec!["^o.*s$".into()], ..world.source() };
    assert_eq!(world.drain_of(&pattern).await.counts.events, 20, "the rest of the topic, and no other");
    world.has_once(0..30).await;
}

/// By default, the client looks for it again after five minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_made_later_is_read_within_seconds() {
    let world = World::new(1);
    let source = Source { topics: vec!["late".into()], ..world.source() };
    let member = Member::with(world.stream.clone(), source.clone());
    let known = ends(&source).await.unwrap();
    assert_eq!((known.ends, known.missing), (Vec::new(), vec!["late".to_owned()]));
    world.cluster.create_topic("late", 1, 1).unwrap();
    world.producer.send(BaseRecord::<str, str>::to("late").payload(&event(1))).map_err(|(error, _)| error).unwrap();
    world.producer.flush(Duration::from_secs(20)).unwrap();
    have_landed(&world.stream, 1).await;
    assert_eq!(member.leaves().await.counts.events, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_broker_lose_nothing() {
    let world = World::new(2);
    world.produce(2, 0..500);
    use RDKafkaRespErr as E;
    world.cluster.request_errors(
        RDKafkaApiKey::Fetch,
        &[
            E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            E::RD_KAFKA_RESP_ERR_UNKNOWN,
            E::RD_KAFKA_RESP_ERR__TRANSPORT,
            E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        ],
    );
    world.cluster.request_errors(RDKafkaApiKey::ListOffsets, &[E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE]);
    world.drain().await;
    world.produce(2, 500..600);
    world.drain().await;
    world.has_once(0..600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_source_is_said() {
    let world = World::new(1);
    let error = |source: Source| {
        let stream = world.stream.clone();
        async move {
            land(
                &stream,
                &mapping(),
                &source,
                &Arc::default(),
                &Memory::default(),
                Until::Drained(CancellationToken::new()),
            )
            .await
            .unwrap_err()
            .to_string()
        }
    };
    let missing = Source { membership: Membership::Partitions(vec![7]), ..world.source() };
    assert_eq!(error(missing).await, "kafka source `kafka`: `orders` has no partition 7");
    let mut wrong = world.source();
    wrong.settings.insert("no.such.setting".into(), "secret".into());
    let said = error(wrong).await;
    assert!(said.contains("`no.such.setting`") && !said.contains("secret"), "{said}");
    let pattern = Source { topics: vec!["^(".into()], ..world.source() };
    assert!(error(pattern).await.contains("regex parse error"));
}
