//! All sources at once into one stream, over a store that fails at random: topics, files and requests; two writers each
//! who both believe that all is theirs; processes that die in the middle; copies and nonsense among the events;
//! compaction in between. Afterwards, each record of a topic and each line of a file has landed once, each request that
//! was answered is there, and whatever was nonsense, and nothing else, is a reject.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use starmere_ingest::kafka::{self, Membership, Start, Until};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::*;

/// So many run in CI; `STARMERE_SEEDS` runs others, or more.
const SEEDS: u64 = 1000;
/// So many topics are in a cluster: its answers name them all.
const TOPICS: usize = 100;
/// The copies of an event are told apart by their numbers; each source has its own.
const OF_TOPICS: usize = 1_000_000;
const OF_REQUESTS: usize = 2_000_000;

/// A broker in this process, with a producer.
#[derive(Clone)]
struct Broker {
    address: String,
    producer: Arc<ThreadedProducer<DefaultProducerContext>>,
}

impl Broker {
    fn of(cluster: &MockCluster<'static, DefaultProducerContext>) -> Self {
        let address = cluster.bootstrap_servers();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &address).set("linger.ms", "0");
        Self { address, producer: Arc::new(config.create().unwrap()) }
    }
}

/// A seed's topic.
struct Topic {
    broker: Broker,
    name: String,
    partitions: i32,
    /// What it has.
    payloads: Vec<String>,
}

impl Topic {
    fn new(broker: Broker, seed: u64) -> Self {
        let (name, partitions) = Self::of(seed);
        Self { broker, name, partitions, payloads: Vec::new() }
    }

    fn of(seed: u64) -> (String, i32) {
        (format!("topic-{seed}"), 1 + (seed % 3) as i32)
    }

    fn produce(&mut self, payload: String, random: &mut Rng) {
        let partition = random.i32(0..self.partitions);
        let record = BaseRecord::<str, str>::to(&self.name).partition(partition).payload(&payload);
        self.broker.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.payloads.push(payload);
    }

    fn source(&self) -> kafka::Source {
        kafka::Source {
            name: "topics".into(),
            topics: vec![self.name.clone()],
            membership: Membership::Group(format!("of-{}", self.name)),
            start: Start::Earliest,
            registry: None,
            settings: BTreeMap::from([
                ("bootstrap.servers".to_owned(), self.broker.address.clone()),
                ("topic.metadata.refresh.interval.ms".to_owned(), "-1".to_owned()),
            ]),
        }
    }
}

/// A process with the listener, which can die.
struct Web {
    runtime: Runtime,
    address: String,
}

impl Web {
    fn new(warehouse: &Warehouse) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stream = Stream::new("orders", tables::stream(warehouse, "orders"));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        runtime.spawn(async move {
            let stop = CancellationToken::new();
            let listener = Listener::new(
                vec![Target { stream, mapping: mapping(), signatures: None, judge: None }],
                quick(),
                &Memory::default(),
                &stop,
            );
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            axum::serve(socket, listener.router()).await
        });
        Self { runtime, address }
    }

    fn dies(self) {
        self.runtime.shutdown_background();
    }
}

/// Lands all that a topic has, unless it dies before.
async fn lands_topic(warehouse: &Warehouse, source: &kafka::Source, dies_after: Option<Duration>) {
    let stream = Stream::new("orders", tables::stream(warehouse, "orders"));
    let (mapping, progress, memory) = (mapping(), Arc::default(), Memory::default());
    let landing = kafka::land(&stream, &mapping, source, &progress, &memory, Until::Drained(CancellationToken::new()));
    let outcome = match dies_after {
        Some(after) => tokio::time::timeout(after, landing).await.unwrap_or_else(|_| Ok(kafka::Report::default())),
        None => landing.await,
    };
    if let Err(error) = outcome {
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Conflict), "{error:?}");
    }
}

/// Lands all that a folder has, unless it dies before.
async fn lands_files(warehouse: &Warehouse, folder: PathBuf, dies_after: Option<Duration>) {
    let stream = Stream::new("orders", tables::stream(warehouse, "orders"));
    let landing = land_folder(&stream, &folder);
    let outcome = match dies_after {
        Some(after) => tokio::time::timeout(after, landing).await.unwrap_or(Ok(())),
        None => landing.await,
    };
    if let Err(error) = outcome {
        assert!(matches!(kind(&error), Some(Kind::Unavailable | Kind::Conflict)), "{error:#}");
    }
}

/// Posts lines until they are answered, or so often; whether they were, and how often they were sent.
async fn posts(address: String, body: String, attempts: usize) -> (bool, usize) {
    spawn_blocking(move || {
        for attempt in 1..=attempts {
            if http::post(&address, "/v1/streams/orders/events", &body).is_ok_and(|answer| answer.status == 200) {
                return (true, attempt);
            }
        }
        (false, attempts)
    })
    .await
    .unwrap()
}

fn soon(random: &mut Rng) -> Option<Duration> {
    random.bool().then(|| Duration::from_millis(random.u64(0..40)))
}

async fn run(seed: u64, broker: Broker) {
    let mut random = Rng::with_seed(seed);
    let store = Arc::new(InMemory::new());
    let failing = Failing::new(seed, random.u32(0..15));
    let inbox = tempfile::tempdir().unwrap();
    for stream in STREAMS {
        std::fs::create_dir_all(inbox.path().join(stream)).unwrap();
    }
    let folder = inbox.path().join("orders");
    let mut files = Producer::new(inbox.path());
    let mut topic = Topic::new(broker, seed);
    let all = events(&mut random, 60);
    let mut nonsense = Vec::new();
    let mut web: Option<Web> = None;
    // The lines of a request: whether it was answered, and how often it was sent.
    let mut requests: Vec<(Vec<String>, bool, usize)> = Vec::new();
    for told in all.chunks(20) {
        let third = told.len() / 3;
        files.take(&told[..third], &mut random);
        (0..3).for_each(|_| files.act(&mut random));
        for event in &told[third..] {
            for _ in 0..random.usize(1..3) {
                let line = event.line(OF_TOPICS + topic.payloads.len());
                topic.produce(line, &mut random);
            }
        }
        if random.bool() {
            let line = format!("{{\"nonsense\":{}", topic.payloads.len());
            nonsense.push(line.clone());
            topic.produce(line, &mut random);
        }
        topic.broker.producer.flush(Duration::from_secs(20)).unwrap();

        // Each actor is another process, with caches of its own.
        let warehouses: Vec<Warehouse> = (0..4).map(|_| tampered(&store, &failing)).collect();
        let (source, deaths) = (topic.source(), [soon(&mut random), soon(&mut random), soon(&mut random)]);
        if web.is_none() {
            web = Some(Web::new(&tampered(&store, &failing)));
        }
        let address = web.as_ref().map(|web| web.address.clone()).unwrap();
        let mut sent = Vec::new();
        for event in told.iter().take(random.usize(0..4)) {
            let mut lines = vec![event.line(OF_REQUESTS + requests.len() * 10 + sent.len())];
            if random.u32(0..4) == 0 {
                let line = format!("[{}", OF_REQUESTS + requests.len() * 10 + sent.len());
                lines.push(line);
            }
            sent.push(lines);
        }
        let dies = random.u32(0..3) == 0;
        let posting = futures::future::join_all(sent.iter().map(|lines| posts(address.clone(), lines.join("\n"), 2)));
        let dying = async {
            if dies {
                tokio::time::sleep(Duration::from_millis(random.u64(0..30))).await;
                web.take().unwrap().dies();
            }
        };
        let compacting = async {
            if seed.is_multiple_of(3) {
                _ = compact_all(&warehouses[3], "orders").await;
            }
        };
        let (answers, ..) = tokio::join!(
            posting,
            dying,
            lands_topic(&warehouses[0], &source, deaths[0]),
            lands_topic(&warehouses[1], &source, deaths[1]),
            lands_files(&warehouses[2], folder.clone(), deaths[2]),
            compacting,
        );
        requests.extend(sent.into_iter().zip(answers).map(|(lines, (answered, times))| (lines, answered, times)));
    }
    files.finish(&mut random);
    if let Some(web) = web {
        web.dies();
    }
    failing.heal();
    let last = plain(&store);
    lands_topic(&last, &topic.source(), None).await;
    lands_files(&last, folder, None).await;

    let table = tables::stream(&plain(&store), "orders");
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for line in tables::payloads(&table).await {
        *found.entry(line).or_default() += 1;
    }
    let [_, lines] = files.all();
    for line in lines.iter().chain(&topic.payloads) {
        assert_eq!(found.remove(line), Some(1), "{line}");
    }
    for (lines, answered, times) in &requests {
        for line in lines {
            let there = found.remove(line).unwrap_or_default();
            assert!(there >= usize::from(*answered), "a request was answered and `{line}` is not there");
            assert!(there <= *times, "`{line}` was sent {times} times and is there {there} times");
        }
    }
    assert!(found.is_empty(), "nobody sent {found:?}");
    let rejected: BTreeSet<String> = tables::rejected(&table).await.into_iter().collect();
    let in_requests = |line: &String| line.starts_with('[');
    let of_topics: Vec<&String> = rejected.iter().filter(|line| !in_requests(line)).collect();
    nonsense.sort();
    assert_eq!(of_topics, nonsense.iter().collect::<Vec<_>>(), "whatever is nonsense is a reject, and nothing else");
    assert_eq!(tables::holes(&table).await, [""; 0]);
}

/// Runs each seed, so many at once; those of a cluster have their topics before they begin.
async fn each<F: Future<Output = ()> + Send + 'static>(seeds: Range<u64>, at_once: usize, run: fn(u64, Broker) -> F) {
    let all: Vec<u64> = seeds.collect();
    for some in all.chunks(TOPICS) {
        let cluster = MockCluster::new(1).unwrap();
        for &seed in some {
            let (topic, partitions) = Topic::of(seed);
            cluster.create_topic(&topic, partitions, 1).unwrap();
        }
        let broker = Broker::of(&cluster);
        let runs = futures::stream::iter(some.to_vec()).for_each_concurrent(at_once, |seed| {
            let broker = broker.clone();
            async move {
                if let Err(error) = tokio::spawn(run(seed, broker)).await {
                    panic!("seed {seed} (STARMERE_SEEDS={seed}..{} runs it alone): {error}", seed + 1);
                }
            }
        });
        runs.await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_sources_land_everything_once_whatever_fails() {
    each(seeds(SEEDS), 24, run).await;
}

/// Members of a group come, go and die while their batches are being committed to a store that fails.
async fn members(seed: u64, broker: Broker) {
    let mut random = Rng::with_seed(seed);
    let store = Arc::new(InMemory::new());
    let failing = Failing::new(seed, random.u32(0..10));
    let mut topic = Topic::new(broker, seed);
    let mut source = topic.source();
    source.settings.insert("session.timeout.ms".into(), "6000".into());
    let join = || {
        let warehouse = tampered(&store, &failing);
        let (stream, source) = (Stream::new("orders", tables::stream(&warehouse, "orders")), source.clone());
        let stop = CancellationToken::new();
        let until = Until::Stopped(stop.clone());
        let landing = async move {
            kafka::land(&stream, &mapping(), &source, &Arc::default(), &Memory::new(32 << 20), until).await
        };
        (stop, tokio::spawn(landing))
    };
    let mut running = vec![join()];
    for told in events(&mut random, 160).chunks(20) {
        for event in told {
            let line = event.line(OF_TOPICS + topic.payloads.len());
            topic.produce(line, &mut random);
        }
        topic.broker.producer.flush(Duration::from_secs(20)).unwrap();
        match random.u32(0..4) {
            0 | 1 if running.len() < 3 => running.push(join()),
            0..3 => {
                let (stop, member) = running.swap_remove(random.usize(0..running.len()));
                stop.cancel();
                member.await.unwrap().unwrap();
            }
            _ => {
                let (_, member) = running.swap_remove(random.usize(0..running.len()));
                member.abort();
            }
        }
        if running.is_empty() {
            running.push(join());
        }
        tokio::time::sleep(Duration::from_millis(random.u64(0..1500))).await;
    }
    failing.heal();
    for (stop, member) in running {
        stop.cancel();
        member.await.unwrap().unwrap();
    }
    lands_topic(&plain(&store), &topic.source(), None).await;
    let table = tables::stream(&plain(&store), "orders");
    topic.payloads.sort();
    assert_eq!(tables::payloads(&table).await, topic.payloads, "each record has landed once");
    assert_eq!(tables::holes(&table).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_come_and_go_lose_nothing_while_the_store_fails() {
    each(seeds(8), 8, members).await;
}
