//! DataFusion sessions, set up for star joins over a warehouse.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::corrections::corrected;
use crate::literals::with_exact_numbers;
use crate::star::StarJoins;
use crate::store::Store;

/// A dimension of up to this size is built once and shared by all partitions of the fact, which is then never
/// repartitioned for it (DataFusion's own default is 1 MiB).
const BROADCAST_BYTES: usize = 256 << 20;
const BROADCAST_ROWS: usize = 8_000_000;
/// Of the memory of an engine: the largest dimension that is shared, and, of that again, what each sort holds back.
const SHARE: usize = 4;
/// Bytes that an engine may have spilled at a time, unless it is told otherwise.
const SPILL_BYTES: u64 = 100 << 30;

/// What sessions share: memory, caches, the store.
#[derive(Clone, Debug)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    memory: usize,
    partitions: usize,
}

impl Engine {
    /// An engine over `store` that uses at most `memory` bytes for its operators and spills beyond.
    pub fn new(store: &Store, memory: usize) -> Result<Self> {
        Self::with_spill(store, memory, SPILL_BYTES)
    }

    /// An engine that has at most `spill` bytes in temporary files at a time: a query that needs more is refused.
    pub fn with_spill(store: &Store, memory: usize, spill: u64) -> Result<Self> {
        let top = std::num::NonZeroUsize::new(5).expect("5 is not 0");
        let pool = TrackConsumersPool::new(FairSpillPool::new(memory), top);
        let disk = DiskManagerBuilder::default().with_max_temp_directory_size(spill);
        let runtime =
            RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).with_disk_manager_builder(disk).build_arc()?;
        runtime.register_object_store(store.url(), store.objects().clone());
        let partitions = std::thread::available_parallelism().map_or(2, usize::from);
        Ok(Self { runtime, memory, partitions })
    }

    /// How many tasks a query is split into.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// A session for work of our own, which may register tables by bare names.
    pub fn session(&self) -> SessionContext {
        self.with_default_schema(true)
    }

    /// A session for users: no catalog but those that are registered with it.
    pub fn user_session(&self) -> SessionContext {
        self.with_default_schema(false)
    }

    fn with_default_schema(&self, default_schema: bool) -> SessionContext {
        let mut config = SessionConfig::new()
            .with_target_partitions(self.partitions)
            .with_information_schema(true)
            .with_create_default_catalog_and_schema(default_schema);
        let options = config.options_mut();
        options.optimizer.hash_join_single_partition_threshold = BROADCAST_BYTES.min(self.memory / SHARE);
        options.optimizer.hash_join_single_partition_threshold_rows = BROADCAST_ROWS;
        let reservation = options.execution.sort_spill_reservation_bytes;
        options.execution.sort_spill_reservation_bytes = reservation.min(self.memory / SHARE / SHARE);
        options.execution.time_zone = Some("UTC".into());
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(self.runtime.clone())
            .with_default_features()
            .with_physical_optimizer_rules(physical_rules())
            .build();
        SessionContext::new_with_state(with_exact_numbers(state))
    }
}

/// DataFusion's rules, corrected, and ours.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = corrected(PhysicalOptimizer::new().rules);
    let sides_are_chosen = rules.iter().position(|rule| rule.name() == "join_selection").unwrap_or_default();
    rules.insert(sides_are_chosen, Arc::new(StarJoins { most_members: BROADCAST_ROWS }));
    rules.push(Arc::new(YieldAboveJoins));
    rules
}

/// Lets joins that make many rows of few yield to others, so that such a query can be cancelled and does not hold
/// up its neighbours: DataFusion counts only what is read.
#[derive(Debug)]
struct YieldAboveJoins;

impl PhysicalOptimizerRule for YieldAboveJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrapped = plan.transform_up(|node| {
            let multiplies = ["CrossJoinExec", "NestedLoopJoinExec", "HashJoinExec", "SortMergeJoinExec", "UnnestExec"];
            Ok(if multiplies.contains(&node.name()) {
                Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)
            } else {
                Transformed::no(node)
            })
        });
        wrapped.map(|plan| plan.data)
    }

    fn name(&self) -> &str {
        "yield_above_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
