//! Constants that the engine repeats for each row of a batch.
//!
//! `SELECT '…' FROM t` with a text of a megabyte makes batches of eight gigabytes, and so does a parameter, or a
//! constant that the planner computed. Once a query is optimized, a large constant becomes a function that knows of
//! how many rows a batch is, and refuses. Where constants are compared they are not repeated, and stay what they are.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use super::growth::size_of;
use super::{Bounded, Joined, MOST_OF_BATCH};
use crate::literals::compares;

/// A batch of constants of this size is within bounds.
const SMALL: u64 = MOST_OF_BATCH >> 13;

/// Plans a query whose large constants are bounded.
#[derive(Debug)]
pub(crate) struct BoundedConstants;

#[async_trait]
impl QueryPlanner for BoundedConstants {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::default();
        if !has_large_constants(plan)? {
            return planner.create_physical_plan(plan, session).await;
        }
        let bounded = plan.clone().transform_up_with_subqueries(|node| {
            if !gives_columns(&node) {
                return Ok(Transformed::no(node));
            }
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(bounded(expr)?.update_data(|expr| name.restore(expr)))
            })
        })?;
        planner.create_physical_plan(&bounded.data, session).await
    }
}

fn gives_columns(node: &LogicalPlan) -> bool {
    matches!(
        node,
        LogicalPlan::Projection(_)
            | LogicalPlan::Aggregate(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Filter(_)
    )
}

fn has_large_constants(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                found |= is_large(part);
                Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn is_large(part: &Expr) -> bool {
    match part {
        // Views of one text take no room.
        Expr::Literal(ScalarValue::Utf8View(_) | ScalarValue::BinaryView(_), _) => false,
        Expr::Literal(value, _) => size_of(value).is_ok_and(|size| size > SMALL),
        _ => false,
    }
}

fn bounded(expr: Expr) -> Result<Transformed<Expr>> {
    let stay = match &expr {
        Expr::BinaryExpr(BinaryExpr { op, .. }) => compares(*op),
        Expr::Like(_) | Expr::SimilarTo(_) | Expr::InList(_) | Expr::Between(_) => true,
        // It counts what it repeats.
        Expr::ScalarFunction(call) => call.func.inner().is::<Bounded>() || call.func.inner().is::<Joined>(),
        Expr::AggregateFunction(call) if call.params.args.iter().any(is_large) => {
            return exec_err!(
                "`{}` has a constant of more than {} KiB, which would be repeated for each row; make it shorter",
                call.func.name(),
                SMALL >> 10
            );
        }
        _ => false,
    };
    match expr {
        Expr::Literal(value, metadata) => {
            let constant = Expr::Literal(value, metadata);
            Ok(match is_large(&constant) {
                true => Transformed::yes(LargeConstant::call(constant)),
                false => Transformed::no(constant),
            })
        }
        other => other.map_children(|part| match part {
            Expr::Literal(..) if stay => Ok(Transformed::no(part)),
            part => bounded(part),
        }),
    }
}

/// A constant that knows how often it is repeated.
#[derive(Debug, PartialEq, Eq, Hash)]
struct LargeConstant {
    value: ScalarValue,
    /// Volatile, so that it is not taken for a constant again.
    signature: Signature,
}

impl LargeConstant {
    fn call(constant: Expr) -> Expr {
        match constant {
            Expr::Literal(value, _) => {
                let signature = Signature::nullary(Volatility::Volatile);
                ScalarUDF::from(Self { value, signature }).call(Vec::new())
            }
            other => other,
        }
    }
}

impl ScalarUDFImpl for LargeConstant {
    fn name(&self) -> &str {
        "constant"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::new(Field::new(self.name(), self.value.data_type(), self.value.is_null())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let size = size_of(&self.value)?;
        if size.saturating_mul(args.number_rows as u64) > MOST_OF_BATCH {
            return exec_err!(
                "a constant of {} KiB would be repeated for {} rows, which takes more than {} MiB; \
                 make it shorter, or give it in a row of its own",
                size >> 10,
                args.number_rows,
                MOST_OF_BATCH >> 20
            );
        }
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}
