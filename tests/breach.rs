//! One domain's breach holds back what it reaches. The rest is published, and a snapshot fits together all the same.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;

use crate::support::project::Project;
use crate::support::seeds;

const SEEDS: u64 = 8;
const ROUNDS: usize = 5;
/// Of events that double a code. A model leaves them out once it is mended.
const WRONG: u64 = 5000;

/// Domains that sell something each. Some count what another one's product shows.
struct Domains {
    project: Project,
    random: Rng,
    /// Whose product each of them reads, where it reads one.
    reads: Vec<Option<usize>>,
    /// Rows and pieces that each has sold, those that are wrong left out.
    sold: Vec<(u64, u64)>,
    /// What is published of it.
    published: Vec<(u64, u64)>,
    broken: BTreeSet<usize>,
    events: u64,
}

impl Domains {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let mut reads = vec![None];
        for domain in 1..random.usize(3..6) {
            reads.push(if random.u8(..3) == 0 { None } else { Some(random.usize(..domain)) });
        }
        Self::that_read(reads, random)
    }

    fn that_read(reads: Vec<Option<usize>>, random: Rng) -> Self {
        let (sold, published) = (vec![(0, 0); reads.len()], vec![(0, 0); reads.len()]);
        let domains =
            Self { project: Project::new(), random, reads, sold, published, broken: BTreeSet::new(), events: 0 };
        domains.define();
        domains
    }

    fn define(&self) {
        let mut sources = String::new();
        for (domain, reads) in self.reads.iter().enumerate() {
            sources += &format!("  files_{domain}: {{ stream: sold_{domain}, files: inbox/sold_{domain} }}\n");
            let stream = format!(
                "stream: sold_{domain}\ndomain: d{domain}\nenvelope: {{ id: id, type: type, time: at }}\nevents:\n  sold: \
                 {{ versions: {{ 1: {{ fields: {{ code: {{ type: string, required: true }}, pieces: {{ type: int }} }} }} }} }}\n"
            );
            self.project.write(&format!("streams/sold_{domain}.yaml"), &stream);
            self.define_fact(domain, "");
            self.define_product(domain, "sales", "pieces: { type: int }");
            if let Some(read) = reads {
                let select = format!("SELECT code, count(*) AS times FROM {} GROUP BY code", self.source(*read));
                let model = format!("sql: seen\ngrain: [code]\nselect: {select}\n");
                self.project.write(&format!("domains/d{domain}/models/seen.yaml"), &model);
                self.define_product(domain, "seen", "times: { type: bigint }");
            }
        }
        let main = format!("project: domains\nwarehouse: ./warehouse\nsources:\n{sources}");
        self.project.write("starmere.yaml", &main);
    }

    fn define_fact(&self, domain: usize, more: &str) {
        let fact = format!(
            "fact: sales\nfrom: {{ stream: sold_{domain}, event: sold }}\n{more}grain: [code]\n\
             degenerate: {{ code: {{}} }}\nmeasures: {{ pieces: {{ type: int }} }}\n"
        );
        self.project.write(&format!("domains/d{domain}/models/sales.yaml"), &fact);
    }

    fn define_product(&self, domain: usize, name: &str, column: &str) {
        let product = format!(
            "product: {name}\nversion: 1\nports:\n  {name}:\n    model: {name}\n    primary_key: [code]\n    columns:\n      \
             code: {{ type: string, nullable: false }}\n      {column}\n"
        );
        self.project.write(&format!("domains/d{domain}/products/{name}_v1.yaml"), &product);
    }

    /// What other domains read of it.
    fn source(&self, domain: usize) -> String {
        match self.reads[domain].is_some() && domain % 2 == 1 {
            true => format!("d{domain}.seen_v1.seen"),
            false => format!("d{domain}.sales_v1.sales"),
        }
    }

    /// Writes events of a domain: of new codes, or one more of a code that is there.
    fn write(&mut self, domain: usize, is_wrong: bool) {
        let mut lines = String::new();
        let count = if is_wrong { 1 } else { self.random.u64(1..4) };
        for _ in 0..count {
            self.events += 1;
            let (number, rows) = (self.events, self.sold[domain].0);
            let (code, pieces) = if is_wrong { (self.random.u64(..rows), WRONG) } else { (rows, number) };
            lines += &format!(
                "{{\"id\":\"e{number}\",\"type\":\"sold\",\"at\":\"2024-01-01T00:00:00Z\",\"code\":\"c{code}\",\
                 \"pieces\":{pieces}}}\n"
            );
            if !is_wrong {
                self.sold[domain] = (rows + 1, self.sold[domain].1 + pieces);
            }
        }
        self.project.write(&format!("inbox/sold_{domain}/{}.jsonl", self.events), &lines);
    }

    async fn number(&self, sql: &str) -> [u64; 2] {
        let rows = self.project.query(sql).await;
        ["a", "b"].map(|name| rows[0][name].as_u64().unwrap_or_default())
    }

    /// Fails unless what is published fits together, and is new where no breach reaches it.
    async fn look(&mut self) {
        for domain in 0..self.reads.len() {
            if !self.broken.contains(&domain) {
                self.published[domain] = self.sold[domain];
            }
            let sql = format!("SELECT count(*) AS a, sum(pieces) AS b FROM d{domain}.sales_v1.sales");
            let [rows, pieces] = self.number(&sql).await;
            let words = format!("of d{domain}, while {:?} are broken", self.broken);
            assert_eq!((rows, pieces), self.published[domain], "{words}");
            let Some(read) = self.reads[domain] else { continue };
            let sql = format!(
                "SELECT count(*) AS a, count(s.code) AS b FROM (SELECT code, count(*) AS times FROM {} GROUP BY code) AS r \
                 FULL JOIN d{domain}.seen_v1.seen AS s ON s.code = r.code AND s.times = r.times",
                self.source(read)
            );
            let [all, both] = self.number(&sql).await;
            assert_eq!(all, both, "what is seen is what is there, {words}");
            let sql = format!("SELECT count(*) AS a, 0 AS b FROM {}", self.source(read));
            assert_eq!(self.number(&sql).await[0], all, "{words}");
        }
    }

    async fn round(&mut self, number: usize) {
        for domain in 0..self.reads.len() {
            if number == 0 || self.random.bool() {
                self.write(domain, false);
            }
        }
        if number > 0 && self.random.bool() {
            let domain = self.random.usize(..self.reads.len());
            self.write(domain, true);
            self.broken.insert(domain);
        }
        self.project.succeed(&["ingest", "--once"]).await;
        if self.random.bool() {
            let mut dying = self.project.start(&["build"]);
            dying.outlives(Duration::from_millis(self.random.u64(..120))).await;
            dying.kill().await;
        }
        let ended = self.project.run(&["build"]).await;
        assert_eq!(ended.status.code(), Some(i32::from(!self.broken.is_empty())), "{}", ended.errors);
        for domain in &self.broken {
            let words = format!("`d{domain}.sales_v1.sales` breaks its contract: (code) tells rows apart");
            assert!(ended.errors.contains(&words), "{words}\n{}", ended.errors);
        }
        self.look().await;
    }
}

/// Random domains that read each other, with rows that break contracts, and builds that die.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breach_holds_back_what_it_reaches_and_nothing_else() {
    for seed in seeds(SEEDS) {
        let mut domains = Domains::new(seed);
        for number in 0..ROUNDS {
            domains.round(number).await;
        }
        // What is held back is as it would be built from what it was made of.
        domains.project.succeed(&["verify"]).await;
        for domain in std::mem::take(&mut domains.broken) {
            domains.define_fact(domain, &format!("where: pieces < {WRONG}\n"));
        }
        domains.project.succeed(&["build", "--accept-breaking"]).await;
        domains.look().await;
        domains.project.succeed(&["verify"]).await;
    }
}

/// A product that was never published: what it reaches is not there, and the rest is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_that_begins_with_a_breach_is_not_published() {
    let mut domains = Domains::that_read(vec![None, Some(0), None], Rng::with_seed(0));
    for domain in 0..3 {
        domains.write(domain, false);
    }
    domains.write(0, true);
    domains.project.succeed(&["ingest", "--once"]).await;
    let ended = domains.project.run(&["build"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.errors);
    let words = "held back: `d0.sales_v1`, `d1.seen_v1`; all else is published: catalog snapshot 1";
    assert!(ended.errors.contains(words), "{}", ended.errors);
    for (port, is_there) in [("d0.sales_v1.sales", false), ("d1.seen_v1.seen", false), ("d1.sales_v1.sales", true)] {
        let asked = domains.project.run(&["sql", &format!("SELECT * FROM {port}")]).await;
        assert_eq!(asked.status.success(), is_there, "{port}: {}", asked.errors);
    }
    let listed = domains.project.query("SELECT DISTINCT port FROM system.catalog.columns ORDER BY port").await;
    let listed: Vec<&str> = listed.iter().filter_map(|row| row["port"].as_str()).collect();
    assert_eq!(listed.iter().filter(|port| port.starts_with("d0") || port.contains("seen")).count(), 0, "{listed:?}");
}
