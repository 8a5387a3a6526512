//! SQL that the engine reads or computes otherwise than it is written. It is refused, with what to write instead.
//!
//! *What follows DISTINCT FROM.* The parser (sqlparser 0.62) takes all that follows for the right side: `a IS NOT
//! DISTINCT FROM b AND c` becomes `a IS NOT DISTINCT FROM (b AND c)`. Where it cannot be told from what was meant, it
//! is refused.
//!
//! *Rows that are there several times.* The plan of EXCEPT ALL and INTERSECT ALL takes a row away, or keeps it, as
//! often as it is there, whatever is on the other side.
//!
//! *Samples.* `TABLESAMPLE` is left out of the plan: all rows are read.
//!
//! *SIMILAR TO* is a regular expression that may match anywhere: `'abc' SIMILAR TO 'b'` is true.
//!
//! *`FROM t` without SELECT* has rows without columns.
//!
//! *`^`* is the exclusive or of bits: `2 ^ 3` is 1.
//!
//! *Clauses that are left out of the plan*: PREWHERE, CONNECT BY, WITH ROLLUP, WITH CUBE, WITH TOTALS, PARTITION, WITH
//! ORDINALITY.
//!
//! *Patterns of times.* `to_char(at, 'YYYY-MM')` is `YYYY-MM`: patterns are those of strftime.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Query, Select,
    SelectFlavor, SetExpr, SetOperator, SetQuantifier, TableFactor, TableSampleKind, Value, Visit, Visitor,
};

/// What would be read or computed otherwise than it is written: what is wrong, and how to write it.
pub fn misread<T: Visit>(tree: &T) -> Option<String> {
    tree.visit(&mut Misread).break_value()
}

/// Looks for such places.
struct Misread;

impl Visitor for Misread {
    type Break = String;

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<String> {
        let reason = match expression {
            Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => after_distinct_from(right),
            Expr::SimilarTo { .. } => Some(
                "`SIMILAR TO` is taken for a regular expression here; write `~ '^(…)$'` with one, or LIKE".to_owned(),
            ),
            Expr::BinaryOp { op: BinaryOperator::BitwiseXor, left, right } => {
                let sides = format!("{left}, {right}");
                let sides = if sides.len() < 80 { sides.as_str() } else { "a, b" };
                Some(format!("`^` is the exclusive or of bits here; write `power({sides})` for a power, XOR for bits"))
            }
            Expr::Function(call) => pattern_of_times(call),
            _ => None,
        };
        reason.map_or(ControlFlow::Continue(()), ControlFlow::Break)
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<String> {
        let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = &select.group_by;
        if let Some(modifier) = modifiers.first() {
            return ControlFlow::Break(format!(
                "`{modifier}` would be left out here; write `GROUP BY ROLLUP (…)`, `CUBE (…)` or `GROUPING SETS (…)`"
            ));
        }
        if select.prewhere.is_some() {
            return ControlFlow::Break("`PREWHERE` would be left out here; write WHERE".to_owned());
        }
        if !select.connect_by.is_empty() {
            return ControlFlow::Break("`CONNECT BY` would be left out here; write WITH RECURSIVE".to_owned());
        }
        match select.flavor {
            SelectFlavor::FromFirstNoSelect => {
                ControlFlow::Break("`FROM` without SELECT gives no columns here; write `SELECT * FROM …`".to_owned())
            }
            SelectFlavor::Standard | SelectFlavor::FromFirst => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<String> {
        match table {
            TableFactor::Table { sample: Some(sample), .. } | TableFactor::Derived { sample: Some(sample), .. } => {
                let (TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) = sample;
                ControlFlow::Break(format!(
                    "`{}` would read all rows here; write `WHERE random() < 0.1` for about a tenth of them",
                    sample.to_string().trim()
                ))
            }
            TableFactor::Table { partitions, .. } if !partitions.is_empty() => {
                ControlFlow::Break("`PARTITION (…)` would read all rows here; write WHERE".to_owned())
            }
            TableFactor::Table { with_ordinality: true, .. }
            | TableFactor::Function { with_ordinality: true, .. }
            | TableFactor::UNNEST { with_ordinality: true, .. } => ControlFlow::Break(
                "`WITH ORDINALITY` would be left out here; write `row_number() OVER ()` in SELECT".to_owned(),
            ),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<String> {
        let mut waiting = vec![query.body.as_ref()];
        while let Some(body) = waiting.pop() {
            let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { continue };
            let counts = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
            if counts && *op != SetOperator::Union {
                return ControlFlow::Break(format!(
                    "`{op} ALL` does not count rows here; write `{op}` for rows that differ, or GROUP BY and compare the counts"
                ));
            }
            waiting.extend([left.as_ref(), right.as_ref()]);
        }
        ControlFlow::Continue(())
    }
}

fn after_distinct_from(right: &Expr) -> Option<String> {
    match right {
        // In parentheses it would be another node.
        Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or | BinaryOperator::Xor), .. } => {
            Some(format!(
                "`{op}` after DISTINCT FROM could belong to its right side; write parentheses: `(a IS NOT DISTINCT FROM b) {op} …`"
            ))
        }
        _ => None,
    }
}

/// Parts of a pattern as Postgres has them, and as they are here; the longest first.
const PARTS_OF_TIMES: [(&str, &str); 24] = [
    ("YYYY", "%Y"),
    ("MONTH", "%B"),
    ("IYYY", "%G"),
    ("HH24", "%H"),
    ("HH12", "%I"),
    ("DDD", "%j"),
    ("DAY", "%A"),
    ("MON", "%b"),
    ("YY", "%y"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("DY", "%a"),
    ("HH", "%I"),
    ("MI", "%M"),
    ("SS", "%S"),
    ("MS", "%3f"),
    ("US", "%6f"),
    ("IW", "%V"),
    ("ID", "%u"),
    ("AM", "%p"),
    ("PM", "%p"),
    ("TZ", "%Z"),
    ("OF", "%:z"),
    ("FM", ""),
];

/// A call of `to_char` whose pattern has nothing of strftime, and would be given as it stands.
fn pattern_of_times(call: &Function) -> Option<String> {
    let name = call.name.to_string().to_lowercase();
    if !matches!(name.as_str(), "to_char" | "date_format") {
        return None;
    }
    let FunctionArguments::List(list) = &call.args else { return None };
    let [_, FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(pattern)))] = list.args.as_slice() else {
        return None;
    };
    let (Value::SingleQuotedString(pattern) | Value::EscapedStringLiteral(pattern)) = &pattern.value else {
        return None;
    };
    let is_a_pattern = pattern.contains('%') || !pattern.chars().any(char::is_alphabetic);
    (!is_a_pattern).then(|| {
        let written = strftime(pattern);
        match written.contains('%') {
            true => format!(
                "`{name}` would give `{pattern}` as it stands: patterns are those of strftime; write `{written}`"
            ),
            false => format!(
                "`{name}` would give `{pattern}` as it stands: patterns are those of strftime, as in `%Y-%m-%d`"
            ),
        }
    })
}

/// A pattern of Postgres, as it is written here.
fn strftime(pattern: &str) -> String {
    let mut written = String::new();
    let mut rest = pattern;
    while let Some(letter) = rest.chars().next() {
        let part = PARTS_OF_TIMES
            .iter()
            .find(|(part, _)| rest.get(..part.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(part)));
        match part {
            Some((part, here)) => {
                written.push_str(here);
                rest = &rest[part.len()..];
            }
            None => {
                written.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn what_would_be_answered_otherwise_is_refused() {
        for (sql, instead) in [
            ("SELECT * FROM t TABLESAMPLE BERNOULLI (10)", "WHERE random() < 0.1"),
            ("SELECT * FROM t TABLESAMPLE (10 PERCENT)", "WHERE random() < 0.1"),
            ("SELECT * FROM (SELECT 1) AS s TABLESAMPLE SYSTEM (10)", "WHERE random() < 0.1"),
            ("SELECT a SIMILAR TO 'b%' FROM t", "write `~ '^(…)$'`"),
            ("SELECT a NOT SIMILAR TO 'b%' FROM t", "write `~ '^(…)$'`"),
            ("FROM t LIMIT 1", "write `SELECT * FROM …`"),
            ("WITH s AS (FROM t) SELECT * FROM s", "write `SELECT * FROM …`"),
            ("SELECT 2^3", "write `power(2, 3)`"),
            ("SELECT a FROM t PREWHERE a > 1", "write WHERE"),
            ("SELECT a FROM t START WITH a = 1 CONNECT BY a = PRIOR b", "write WITH RECURSIVE"),
            ("SELECT a, count(*) FROM t GROUP BY a WITH ROLLUP", "`GROUP BY ROLLUP (…)`"),
            ("SELECT a, count(*) FROM t GROUP BY a WITH TOTALS", "`GROUP BY ROLLUP (…)`"),
            ("SELECT a FROM t PARTITION (p0)", "write WHERE"),
            ("SELECT * FROM generate_series(1, 3) WITH ORDINALITY", "row_number() OVER ()"),
            ("SELECT to_char(at, 'YYYY-MM') FROM t", "write `%Y-%m`"),
            ("SELECT TO_CHAR(at, 'DD Mon YYYY, HH24:MI:SS.MS') FROM t", "write `%d %b %Y, %H:%M:%S.%3f`"),
            ("SELECT date_format(at, 'Q') FROM t", "as in `%Y-%m-%d`"),
        ] {
            let tree = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
            let reason = misread(&tree[0]);
            assert!(reason.as_ref().is_some_and(|reason| reason.contains(instead)), "{sql}: {reason:?}");
        }
    }

    #[test]
    fn what_is_read_as_it_is_written_passes() {
        for sql in [
            "SELECT a ~ '^(b)$', a LIKE 'b%', power(2, 3), 5 XOR 3 FROM t",
            "FROM t SELECT a",
            "SELECT to_char(at, '%Y-%m'), to_char(at, f), to_char(at, '') FROM t WHERE random() < 0.1",
        ] {
            let tree = Parser::parse_sql(&GenericDialect {}, sql).unwrap();
            assert_eq!(misread(&tree[0]), None, "{sql}");
        }
    }
}
