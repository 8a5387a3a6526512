//! Which plans are small: they have room of their own, beside what takes long.

use datafusion::{
    common::stats::Precision,
    physical_plan::{
        ExecutionPlan,
        statistics::{StatisticsArgs, StatisticsContext},
    },
};

/// A small query reads or makes at most so many rows: it takes a tenth of a second, about.
const SMALL_ROWS: u64 = 1_000_000;

/// Whether it is known that a plan reads and makes few rows.
pub(crate) fn is_small(plan: &dyn ExecutionPlan) -> bool {
    rows(plan).is_some_and(|rows| rows <= SMALL_ROWS)
}

/// How many rows a plan reads or makes at most, as far as statistics tell.
fn rows(plan: &dyn ExecutionPlan) -> Option<u64> {
    let children = plan.children();
    match plan.name() {
        "PlaceholderRowExec" | "EmptyExec" | "ExplainExec" => Some(1),
        // For a row there may be many.
        "UnnestExec" | "RecursiveQueryExec" => None,
        "CrossJoinExec" | "NestedLoopJoinExec" | "HashJoinExec" | "SortMergeJoinExec" => {
            children.into_iter().try_fold(1_u64, |product, child| product.checked_mul(rows(child.as_ref())?.max(1)))
        }
        _ if children.is_empty() => {
            let statistics = StatisticsContext::new().compute(plan, &StatisticsArgs::new()).ok()?;
            match statistics.num_rows {
                Precision::Exact(rows) | Precision::Inexact(rows) => Some(rows as u64),
                Precision::Absent => None,
            }
        }
        _ => children.into_iter().try_fold(0_u64, |sum, child| sum.checked_add(rows(child.as_ref())?)),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::testing::memory;

    async fn small(sql: &str) -> bool {
        let context: SessionContext = memory().context().clone();
        let plan = context.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
        is_small(plan.as_ref())
    }

    #[tokio::test]
    async fn what_is_known_to_read_little_is_small() {
        for sql in [
            "SELECT 1",
            "EXPLAIN SELECT * FROM lake.test.endless",
            "SELECT * FROM sales.orders_v1.order_lines WHERE line_number = 1",
            "SELECT count(*) FROM sales.orders_v1.order_lines a, sales.orders_v1.order_lines b",
        ] {
            assert!(small(sql).await, "{sql}");
        }
        for sql in [
            "SELECT * FROM lake.test.endless",
            "SELECT * FROM generate_series(1, 100000000)",
            "SELECT unnest([1, 2]) FROM sales.orders_v1.order_lines",
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
        ] {
            assert!(!small(sql).await, "{sql}");
        }
    }
}
