//! A project of two streams, a dimension with history and a fact, in a folder of its own.

use std::path::{Path, PathBuf};

use starmere_lake::catalog::{Catalog, CatalogSnapshot};
use starmere_lake::delta::Warehouse;
use starmere_lake::store::Store;
use tempfile::TempDir;

use super::events::{OrderLine, STREAMS};
use super::process::{Ended, Running};
use super::tables;

const PROJECT: &str = "
project: small
warehouse: ./warehouse
sources:
  customer_files: { stream: customers, files: inbox/customers }
  order_files: { stream: orders, files: inbox/orders }
listeners: { http: '127.0.0.1:0', flight: '127.0.0.1:0', gather_ms: 1 }
";

pub(crate) const CUSTOMERS: &str = "
stream: customers
domain: sales
envelope: { id: id, type: type, time: at }
events:
  customer_moved:
    versions:
      1:
        fields:
          customer_id: { path: customer, type: string, required: true }
          city: { type: string }
";

pub(crate) const ORDERS: &str = "
stream: orders
domain: sales
envelope: { id: id, type: type, time: at }
events:
  order_placed:
    versions:
      1:
        fields:
          order_id: { path: order, type: string, required: true }
          customer_id: { path: customer, type: string }
          lines:
            each:
              quantity: { type: int }
";

pub(crate) const CUSTOMER: &str = "
dimension: customer
key: customer_id
from:
  - { stream: customers, event: customer_moved, as: state }
attributes:
  city: { type: string, history: version }
inferred_from: [sales.order_lines]
";

pub(crate) const ORDER_LINES: &str = "
fact: order_lines
from: { stream: orders, event: order_placed, each: lines }
grain: [order_id, line_number]
dimensions:
  customer: { dimension: customer, key: customer_id }
degenerate:
  order_id: {}
  line_number: { expression: ordinal, type: int }
measures:
  quantity: { type: int }
";

const PRODUCT: &str = "
product: orders
version: 1
ports:
  order_lines:
    model: order_lines
    primary_key: [order_id, line_number]
    foreign_keys: { customer_key: sales.orders_v1.customer }
    columns:
      order_id: { type: string, nullable: false }
      line_number: { type: int, nullable: false }
      customer_key: { type: bigint, nullable: false }
      quantity: { type: int, nullable: false }
      placed_at: { from: occurred_at, type: timestamp, nullable: false }
  customer:
    model: customer
    primary_key: [customer_key]
    columns:
      customer_key: { type: bigint, nullable: false }
      customer_id: { type: string }
      city: { type: string }
      valid_from: { type: timestamp, nullable: false }
      valid_to: { type: timestamp, nullable: false }
      is_inferred: { type: bool, nullable: false }
";

const FILES: [(&str, &str); 6] = [
    ("starmere.yaml", PROJECT),
    ("streams/customers.yaml", CUSTOMERS),
    ("streams/orders.yaml", ORDERS),
    ("domains/sales/models/customer.yaml", CUSTOMER),
    ("domains/sales/models/order_lines.yaml", ORDER_LINES),
    ("domains/sales/products/orders_v1.yaml", PRODUCT),
];

/// The project's folder. It stays where the test fails.
#[derive(Debug)]
pub(crate) struct Project {
    folder: TempDir,
}

impl Drop for Project {
    #[expect(clippy::print_stderr, reason = "whoever looks into a failure wants the folder")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("the project is kept in {}", self.root().display());
        }
    }
}

impl Project {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is room for a project");
        let project = Self { folder };
        for (name, text) in FILES {
            project.write(name, text);
        }
        for stream in STREAMS {
            std::fs::create_dir_all(project.inbox().join(stream)).expect("there is room for an inbox");
        }
        project
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Where the streams' files are, a folder a stream.
    pub(crate) fn inbox(&self) -> PathBuf {
        self.root().join("inbox")
    }

    /// Writes a file, by its path in the project.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.root().join(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("there is room for a folder");
        std::fs::write(path, text).expect("there is room for a file");
    }

    /// Starts `starmere` in the project.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.root(), arguments)
    }

    /// Runs `starmere` to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).end().await
    }

    /// Runs `starmere` to its end, which must be a good one; what it said on standard output.
    pub(crate) async fn succeed(&self, arguments: &[&str]) -> String {
        self.run(arguments).await.good()
    }

    /// The rows that answer a query, by `starmere sql`.
    pub(crate) async fn query(&self, sql: &str) -> Vec<serde_json::Value> {
        let answer = self.succeed(&["--format", "json", "sql", sql]).await;
        serde_json::from_str(&answer).expect("an answer in JSON is JSON")
    }

    /// The warehouse, opened by this process.
    pub(crate) fn warehouse(&self) -> Warehouse {
        Warehouse::new(Store::open("warehouse", self.root()).expect("the warehouse can be opened"))
    }

    /// The newest catalog snapshot.
    pub(crate) async fn snapshot(&self) -> CatalogSnapshot {
        Catalog::new(&self.warehouse()).newest().await.expect("the catalog can be read")
    }

    /// The payloads in both streams, in order of text.
    pub(crate) async fn landed(&self) -> [Vec<String>; 2] {
        let warehouse = self.warehouse();
        [tables::landed(&warehouse, STREAMS[0]).await, tables::landed(&warehouse, STREAMS[1]).await]
    }

    /// The rows of the published fact, in order, with what the published dimension says of them.
    pub(crate) async fn published(&self) -> Vec<OrderLine> {
        tables::published(&self.warehouse(), &self.snapshot().await).await
    }
}
