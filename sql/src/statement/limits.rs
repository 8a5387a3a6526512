//! How large a statement may become while it is planned.
//!
//! A text of a thousand letters may stand for a plan of gigabytes: a name from WITH is planned anew wherever it is
//! read, so that one that joins itself doubles, and so does the next one. Here it is counted what a statement comes
//! to, before anything is planned. What takes more than linear time to plan has limits of its own.

use std::{collections::HashMap, ops::ControlFlow};

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, ObjectName,
    ObjectNamePart, Query, Select, TypedString, Visit, Visitor,
};
use starmere_lake::echo::cut;

use crate::error::QueryError;

/// Tables that are read and SELECTs.
const MOST_STEPS: u64 = 1000;
/// Expressions, constants among them: as many as the longest text can have without WITH.
const MOST_EXPRESSIONS: u64 = 1 << 19;
/// Columns of one SELECT, as many as Postgres takes: names are compared with each other.
const MOST_COLUMNS: usize = 1664;
/// Sets of columns that one GROUP BY stands for: `CUBE` of ten columns has as many.
const MOST_GROUPINGS: usize = 1024;
/// Operators within each other, as a chain of them is: types of the inner ones are derived at each.
const LONGEST_CHAIN: usize = 1000;
/// Casts, fields and elements within each other: names of the inner ones are derived at each.
const DEEPEST: usize = 64;
/// Elements of a value of a type that says how many it has: also a NULL of it takes the memory of all of them.
const MOST_ELEMENTS: u64 = 4096;

/// What a statement comes to is within limits.
///
/// # Errors
/// `Invalid`: what is too much, and what to write instead.
pub(super) fn check(tree: &impl Visit) -> Result<(), QueryError> {
    match tree.visit(&mut Sizes::default()) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// What something comes to.
#[derive(Clone, Copy, Default)]
struct Size {
    steps: u64,
    expressions: u64,
}

impl Size {
    fn add(&mut self, other: Self) {
        self.steps = self.steps.saturating_add(other.steps);
        self.expressions = self.expressions.saturating_add(other.expressions);
    }
}

/// A query that is being walked through.
#[derive(Default)]
struct Scope {
    size: Size,
    /// What its names from WITH come to, as far as they were walked through.
    named: HashMap<String, Size>,
    /// The queries that give its names, to be recognised when they end.
    naming: Vec<(*const Query, String)>,
}

#[derive(Default)]
struct Sizes {
    scopes: Vec<Scope>,
    casts: usize,
    operators: usize,
}

impl Sizes {
    fn add(&mut self, size: Size) -> ControlFlow<QueryError> {
        let Some(scope) = self.scopes.last_mut() else { return ControlFlow::Continue(()) };
        scope.size.add(size);
        let Size { steps, expressions } = scope.size;
        if steps > MOST_STEPS || expressions > MOST_EXPRESSIONS {
            let message = format!(
                "with each name from WITH as the query that it stands for, the statement has more than {MOST_STEPS} \
                 tables and SELECTs, or {MOST_EXPRESSIONS} expressions"
            );
            let hint = "read a name from WITH fewer times, or make a model of its query and read that";
            return ControlFlow::Break(QueryError::invalid(message).with_hint(hint));
        }
        ControlFlow::Continue(())
    }
}

impl Visitor for Sizes {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        let naming = ctes.map(|cte| (std::ptr::from_ref(cte.query.as_ref()), normalized(&cte.alias.name))).collect();
        self.scopes.push(Scope { naming, ..Scope::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        let Some(ended) = self.scopes.pop() else { return ControlFlow::Continue(()) };
        let Some(outer) = self.scopes.last_mut() else { return ControlFlow::Continue(()) };
        match outer.naming.iter().find(|(of, _)| std::ptr::eq(*of, query)) {
            Some((_, name)) => {
                outer.named.insert(name.clone(), ended.size);
                ControlFlow::Continue(())
            }
            None => self.add(ended.size),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<QueryError> {
        let columns = select.projection.len();
        if columns > MOST_COLUMNS {
            let message = format!("a SELECT has {columns} columns, more than {MOST_COLUMNS}");
            let hint = "give values as rows, with VALUES or UNION ALL, or several statements";
            return ControlFlow::Break(QueryError::invalid(message).with_hint(hint));
        }
        let groupings = groupings(&select.group_by);
        if groupings > MOST_GROUPINGS {
            let message = format!("a GROUP BY stands for more than {MOST_GROUPINGS} sets of columns");
            let hint = "write those that you need as GROUPING SETS, or CUBE with fewer columns";
            return ControlFlow::Break(QueryError::invalid(message).with_hint(hint));
        }
        self.add(Size { steps: 1, expressions: 0 })
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<QueryError> {
        let named = match relation.0.as_slice() {
            [ObjectNamePart::Identifier(name)] => {
                let name = normalized(name);
                self.scopes.iter().rev().find_map(|scope| scope.named.get(&name).copied())
            }
            _ => None,
        };
        self.add(named.unwrap_or(Size { steps: 1, expressions: 0 }))
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<QueryError> {
        // First, so that a type that is too deep to be read is not read.
        let depth = match expression {
            Expr::Function(call) if is_arrow_cast(call) => depth_of_call(call),
            Expr::Cast { .. } => {
                self.casts += 1;
                self.casts
            }
            Expr::CompoundFieldAccess { access_chain, .. } => access_chain.len(),
            Expr::CompoundIdentifier(parts) => parts.len(),
            _ => 0,
        };
        if depth > DEEPEST {
            let message = format!("casts or fields are nested more than {DEEPEST} deep");
            let hint = "name an inner part in a subquery";
            return ControlFlow::Break(QueryError::invalid(message).with_hint(hint));
        }
        let elements = match expression {
            Expr::Cast { data_type, .. } | Expr::TypedString(TypedString { data_type, .. }) => {
                elements_as_written(&data_type.to_string())
            }
            Expr::Function(call) if is_arrow_cast(call) => elements_of_call(call),
            _ => 1,
        };
        if elements > MOST_ELEMENTS {
            let shown = expression.to_string();
            let shown = cut(&shown);
            let message = format!("each value of `{shown}` would have more than {MOST_ELEMENTS} elements");
            let hint = "leave the number of elements out, as in `BIGINT[]`; the type of `arrow_cast` is one text";
            return ControlFlow::Break(QueryError::invalid(message).with_hint(hint));
        }
        if let Some(pattern) = patterns(expression).into_iter().find(|pattern| !is_written(pattern)) {
            let shown = pattern.to_string();
            let shown = cut(&shown);
            let message =
                format!("the pattern `{shown}` could be another one for each row, and take megabytes each time");
            let hint =
                "write a pattern as one text, or give it as a parameter; for texts of columns use LIKE or `strpos`";
            return ControlFlow::Break(QueryError::invalid(message).with_hint(hint));
        }
        if matches!(expression, Expr::BinaryOp { .. }) {
            self.operators += 1;
            if self.operators > LONGEST_CHAIN {
                let message = format!("a chain of operators is longer than {LONGEST_CHAIN}");
                let hint = "write IN (…) for a chain of OR; else compute parts of it in a subquery, and name them";
                return ControlFlow::Break(QueryError::invalid(message).with_hint(hint));
            }
        }
        self.add(Size { steps: 0, expressions: 1 })
    }

    fn post_visit_expr(&mut self, expression: &Expr) -> ControlFlow<QueryError> {
        match expression {
            Expr::Cast { .. } => self.casts = self.casts.saturating_sub(1),
            Expr::BinaryOp { .. } => self.operators = self.operators.saturating_sub(1),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The regular expression of an operator or a function that takes one, and its flags.
fn patterns(expression: &Expr) -> Vec<&Expr> {
    use BinaryOperator::{PGRegexIMatch, PGRegexMatch, PGRegexNotIMatch, PGRegexNotMatch};
    match expression {
        Expr::BinaryOp { op: PGRegexMatch | PGRegexIMatch | PGRegexNotMatch | PGRegexNotIMatch, right, .. } => {
            vec![right]
        }
        Expr::RLike { pattern, .. } => vec![pattern],
        Expr::Function(call) => {
            let ([ObjectNamePart::Identifier(name)], FunctionArguments::List(list)) =
                (call.name.0.as_slice(), &call.args)
            else {
                return Vec::new();
            };
            let places: &[usize] = match normalized(name).as_str() {
                "regexp_like" | "regexp_match" => &[1, 2],
                "regexp_replace" | "regexp_count" => &[1, 3],
                "regexp_instr" => &[1, 4],
                _ => &[],
            };
            places.iter().filter_map(|place| argument(list.args.get(*place)?)).collect()
        }
        _ => Vec::new(),
    }
}

fn argument(of: &FunctionArg) -> Option<&Expr> {
    let (FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg)) = of;
    match arg {
        FunctionArgExpr::Expr(argument) => Some(argument),
        _ => None,
    }
}

/// Whether it stands there, or is a parameter: it is the same for all rows.
fn is_written(pattern: &Expr) -> bool {
    match pattern {
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => is_written(inner),
        Expr::Value(_) => true,
        _ => false,
    }
}

/// How many sets of columns a GROUP BY stands for.
fn groupings(group_by: &GroupByExpr) -> usize {
    let GroupByExpr::Expressions(expressions, _) = group_by else { return 1 };
    let sets = expressions.iter().map(|expression| match expression {
        Expr::Cube(sets) => u32::try_from(sets.len()).ok().and_then(|columns| 1_usize.checked_shl(columns)),
        Expr::Rollup(sets) => Some(sets.len() + 1),
        Expr::GroupingSets(sets) => Some(sets.len()),
        _ => Some(1),
    });
    sets.fold(1, |all, sets| usize::saturating_mul(all, sets.unwrap_or(usize::MAX)))
}

/// A name, as the planner compares it.
fn normalized(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

/// How many elements a value has of a type as SQL writes it: `REAL[3][4]` has 12.
fn elements_as_written(data_type: &str) -> u64 {
    let sizes = data_type.split('[').skip(1).filter_map(|behind| behind.split(']').next()?.parse::<u64>().ok());
    sizes.fold(1, |all, size| all.saturating_mul(size.max(1)))
}

/// Whether the function casts to a type of Arrow, which is given as a text.
fn is_arrow_cast(call: &Function) -> bool {
    match call.name.0.as_slice() {
        [ObjectNamePart::Identifier(name)] => ["arrow_cast", "arrow_try_cast"].contains(&normalized(name).as_str()),
        _ => false,
    }
}

/// How deep types are nested in the text of a type that a cast is given: each level is read within the one around it.
fn depth_of_call(call: &Function) -> usize {
    let FunctionArguments::List(list) = &call.args else { return 0 };
    let Some(data_type) = list.args.get(1).and_then(text_of_arg) else { return 0 };
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in data_type.bytes() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The same of the type that the function is given. One that is not written there could become any.
fn elements_of_call(call: &Function) -> u64 {
    let FunctionArguments::List(list) = &call.args else { return 1 };
    match list.args.get(1).map(text_of_arg) {
        // What cannot be read is refused by the engine.
        Some(Some(data_type)) => data_type.parse::<DataType>().map_or(1, |data_type| elements(&data_type)),
        Some(None) => u64::MAX,
        None => 1,
    }
}

fn text_of_arg(arg: &FunctionArg) -> Option<String> {
    let (FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg)) = arg;
    match arg {
        FunctionArgExpr::Expr(expr) => text_of(expr),
        _ => None,
    }
}

/// The text that stands there, if it is one.
fn text_of(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Nested(inner) => text_of(inner),
        Expr::Value(value) => value.value.clone().into_string(),
        _ => None,
    }
}

fn elements(of: &DataType) -> u64 {
    let fixed = |size: i32| u64::try_from(size).unwrap_or_default().max(1);
    match of {
        DataType::FixedSizeList(element, size) => fixed(*size).saturating_mul(elements(element.data_type())),
        // As many as its bytes have room for.
        DataType::FixedSizeBinary(bytes) => fixed(*bytes).div_ceil(8),
        DataType::List(element)
        | DataType::LargeList(element)
        | DataType::ListView(element)
        | DataType::LargeListView(element)
        | DataType::Map(element, _)
        | DataType::RunEndEncoded(_, element) => elements(element.data_type()),
        DataType::Struct(fields) => {
            fields.iter().fold(0, |all, field| u64::saturating_add(all, elements(field.data_type())))
        }
        DataType::Union(fields, _) => {
            fields.iter().fold(0, |all, (_, field)| u64::saturating_add(all, elements(field.data_type())))
        }
        DataType::Dictionary(_, values) => elements(values),
        _ => 1,
    }
}
