//! How large a statement may become while it is planned.
//!
//! A text of a thousand letters may stand for a plan of gigabytes: a name from WITH is planned anew wherever it is
//! read, so that one that joins itself doubles, and so does the next one. Here it is counted what a statement comes
//! to, before anything is planned. What takes more than linear time to plan has limits of its own.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{Expr, Ident, ObjectName, ObjectNamePart, Query, Select, Visit, Visitor};

use crate::error::QueryError;

/// Tables that are read and SELECTs.
const MOST_STEPS: u64 = 1000;
/// Expressions, constants among them: as many as the longest text can have without WITH.
const MOST_EXPRESSIONS: u64 = 1 << 19;
/// Columns of one SELECT: names are compared with each other.
const MOST_COLUMNS: usize = 4096;
/// Casts, fields and elements within each other: names of the inner ones are derived at each.
const DEEPEST: usize = 64;

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
        let depth = match expression {
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
        self.add(Size { steps: 0, expressions: 1 })
    }

    fn post_visit_expr(&mut self, expression: &Expr) -> ControlFlow<QueryError> {
        if matches!(expression, Expr::Cast { .. }) {
            self.casts = self.casts.saturating_sub(1);
        }
        ControlFlow::Continue(())
    }
}

/// A name, as the planner compares it.
fn normalized(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}
