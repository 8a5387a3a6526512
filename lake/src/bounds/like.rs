//! `LIKE` with a pattern that may be another one for each row: each pattern is compiled for its row, which nothing
//! stops. As a function it is called for some rows after the other. So are the operators of regular expressions, where
//! these may take long for each letter of a text.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::functions::regex::regexp_like;
use datafusion::logical_expr::expr::Like;
use datafusion::logical_expr::{
    self as expr, ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, LikeExpr, lit};

use super::work::{self, Work};
use super::{Bounded, Needs, within_bounds};

/// `text LIKE pattern`, where the pattern is not one constant; other expressions as they are.
pub(crate) fn alike(like: Like) -> std::result::Result<Expr, Like> {
    if like.escape_char.is_some() || matches!(like.pattern.as_ref(), Expr::Literal(..)) {
        return Err(like);
    }
    let Like { negated, expr, pattern, case_insensitive, .. } = like;
    let alike = Alike { negated, ignores_case: case_insensitive, signature: Signature::any(2, Volatility::Immutable) };
    Ok(ScalarUDF::from(alike).call(vec![*expr, *pattern]))
}

/// `text ~ pattern` and its kin as a function, where the pattern may take long.
pub(crate) fn matched(text: &Expr, op: Operator, pattern: &Expr) -> Option<Expr> {
    let (negated, ignores_case) = match op {
        Operator::RegexMatch => (false, false),
        Operator::RegexIMatch => (false, true),
        Operator::RegexNotMatch => (true, false),
        Operator::RegexNotIMatch => (true, true),
        _ => return None,
    };
    let flags = if ignores_case { "i" } else { "" };
    if is_quick_pattern(pattern, flags) {
        return None;
    }
    let mut args = vec![text.clone(), pattern.clone()];
    args.extend(ignores_case.then(|| expr::lit(flags)));
    let function = Bounded::of(&regexp_like())?;
    let matched = function.call(args);
    Some(if negated { !matched } else { matched })
}

/// Whether a pattern is a constant that takes few steps for each letter of a text.
pub(super) fn is_quick_pattern(pattern: &Expr, flags: &str) -> bool {
    let Expr::Literal(pattern, _) = pattern else { return false };
    pattern.try_as_str().flatten().is_none_or(|pattern| work::is_quick(pattern, flags))
}

/// Whether texts are like patterns.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Alike {
    negated: bool,
    ignores_case: bool,
    signature: Signature,
}

impl Alike {
    fn compare(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let mut texts = args.args.into_iter();
        let (Some(text), Some(pattern), None) = (texts.next(), texts.next(), texts.next()) else {
            return exec_err!("LIKE takes a text and a pattern");
        };
        let mut columns = Vec::new();
        let mut side = |of: ColumnarValue| -> Arc<dyn PhysicalExpr> {
            match of {
                ColumnarValue::Scalar(constant) => lit(constant),
                ColumnarValue::Array(array) => {
                    let name = columns.len().to_string();
                    columns.push((name.clone(), array, true));
                    Arc::new(Column::new(&name, columns.len() - 1))
                }
            }
        };
        let like = LikeExpr::new(self.negated, self.ignores_case, side(text), side(pattern));
        if columns.is_empty() {
            let schema = Arc::new(Schema::empty());
            let options = RecordBatchOptions::new().with_row_count(Some(rows));
            return like.evaluate(&RecordBatch::try_new_with_options(schema, Vec::new(), &options)?);
        }
        like.evaluate(&RecordBatch::try_from_iter_with_nullable(columns)?)
    }
}

impl ScalarUDFImpl for Alike {
    fn name(&self) -> &str {
        match (self.negated, self.ignores_case) {
            (false, false) => "like",
            (true, false) => "not_like",
            (false, true) => "ilike",
            (true, true) => "not_ilike",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let needs = Needs { growth: None, work: Some(Work::Liked) };
        within_bounds("LIKE", needs, args, |args| self.compare(args))
    }
}
