//! One SQL statement: parsed, known to only read, its placeholders numbered.
//!
//! Reading is checked twice. Here by what the statement is, so that the refusal can name it; and after
//! planning by DataFusion's own `SQLOptions`, which also finds what hides inside (`SELECT … INTO`, `EXPLAIN
//! INSERT`).
//!
//! DataFusion knows `$1` and `$name`. JDBC and ODBC send `?`, so bare question marks are numbered in the order
//! of the text. The syntax tree is changed, not the text: places in error messages stay true.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::{
    execution::SessionState,
    sql::{
        parser::Statement as Parsed,
        sqlparser::{
            ast::{Statement as Ast, Value, ValueWithSpan, VisitMut, VisitorMut},
            dialect::GenericDialect,
            keywords::Keyword,
            tokenizer::{Token, TokenWithSpan, Tokenizer},
        },
    },
};

use starmere_lake::corrections::misread;
use starmere_lake::echo::cut;
use starmere_lake::sql_times::WithPrecision;

use crate::error::QueryError;

mod limits;

/// A longer text is refused; tickets carry the text.
pub(crate) const MAX_SQL_BYTES: usize = 1 << 20;
/// Each operator may be a level of the tree that a statement is, and trees are walked by recursion: threads that plan
/// have a stack of 64 MiB.
const MOST_OPERATORS: usize = 4000;

/// A statement that reads, ready to be planned.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) tree: Parsed,
    pub(crate) parameters: Parameters,
    /// What it can be nested by without parentheses.
    pub(crate) operators: usize,
}

impl Statement {
    /// Whether it asks for rows of tables, and not for a plan or what there is.
    pub(crate) fn is_query(&self) -> bool {
        matches!(&self.tree, Parsed::Statement(ast) if matches!(ast.as_ref(), Ast::Query(_)))
    }
}

/// What a statement wants to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parameters {
    /// `$1` to `$n`, or `n` times `?`.
    Positional(usize),
    /// `$name`, in the order they are first mentioned, with their sign.
    Named(Vec<String>),
}

impl Parameters {
    /// How many values are wanted.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Positional(count) => *count,
            Self::Named(names) => names.len(),
        }
    }

    /// Their identifiers in the plan: `$1`, `$name`.
    pub(crate) fn ids(&self) -> Vec<String> {
        match self {
            Self::Positional(count) => (1..=*count).map(|number| format!("${number}")).collect(),
            Self::Named(names) => names.clone(),
        }
    }
}

/// Parses exactly one statement in the dialect of the session.
///
/// # Errors
/// `Invalid`: too long, not SQL (with the place), not one statement, or not one that reads.
pub(crate) fn parse(state: &SessionState, sql: &str) -> Result<Statement, QueryError> {
    if sql.len() > MAX_SQL_BYTES {
        return Err(QueryError::invalid(format!("the statement has {} bytes, more than {MAX_SQL_BYTES}", sql.len())));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().unwrap_or_default();
    let operators = operators(&tokens);
    if operators > MOST_OPERATORS {
        let message = format!("the statement has {operators} operators, more than {MOST_OPERATORS}");
        return Err(QueryError::invalid(message).with_hint("long lists of values go into IN (…) or VALUES"));
    }
    check_numbers(&tokens)?;
    let dialect = state.config_options().sql_parser.dialect;
    let mut tree = state.sql_to_statement(sql, &dialect).map_err(|error| at_the_end(error.into(), sql))?;
    check_reads(&tree)?;
    let parameters = number_placeholders(&mut tree)?;
    visit(&mut tree, &mut WithPrecision);
    Ok(Statement { tree, parameters, operators })
}

/// How many operators there are, in symbols and in words: what a statement can be nested by without parentheses.
fn operators(tokens: &[TokenWithSpan]) -> usize {
    // `x AT TIME ZONE y` is counted by its last word: columns are called `at`.
    const WORDS: [Keyword; 22] = [
        Keyword::AND,
        Keyword::OR,
        Keyword::NOT,
        Keyword::IS,
        Keyword::LIKE,
        Keyword::ILIKE,
        Keyword::BETWEEN,
        Keyword::COLLATE,
        Keyword::JOIN,
        Keyword::UNION,
        Keyword::EXCEPT,
        Keyword::INTERSECT,
        Keyword::IN,
        Keyword::XOR,
        Keyword::DIV,
        Keyword::ZONE,
        Keyword::SIMILAR,
        Keyword::RLIKE,
        Keyword::REGEXP,
        Keyword::MATCH,
        Keyword::MEMBER,
        Keyword::OVERLAPS,
    ];
    let is_operator = |token: &&TokenWithSpan| match &token.token {
        Token::Word(word) => WORDS.contains(&word.keyword),
        Token::Whitespace(_) | Token::Comma | Token::Period | Token::SemiColon | Token::Placeholder(_) => false,
        Token::LParen | Token::RParen | Token::Number(..) | Token::SingleQuotedString(_) => false,
        _ => true,
    };
    tokens.iter().filter(is_operator).count()
}

/// `1_000` would be the number 1, named `_000`.
fn check_numbers(tokens: &[TokenWithSpan]) -> Result<(), QueryError> {
    for pair in tokens.windows(2) {
        if let (Token::Number(number, _), Token::Word(word)) = (&pair[0].token, &pair[1].token)
            && word.quote_style.is_none()
            && word.value.starts_with('_')
        {
            let (number, word, digits) = (cut(number), cut(&word.value), word.value.replace('_', ""));
            let digits = cut(&digits);
            let message = format!("`{number}{word}` would be the number {number}, named `{word}`");
            let place = &pair[0].span.start;
            return Err(QueryError::invalid(message)
                .at(place.line, place.column)
                .with_hint(format!("write `{number}{digits}`, or `{number} AS \"{word}\"` for a name")));
        }
    }
    Ok(())
}

/// The parser gives no place where the text ends too early: it is its end.
fn at_the_end(error: QueryError, sql: &str) -> QueryError {
    if error.line.is_some() || !error.to_string().contains("found: EOF") {
        return error;
    }
    let text = sql.trim_end();
    let (lines, last) = text.lines().fold((0, ""), |(lines, _), line| (lines + 1, line));
    error.at(lines.max(1), last.chars().count() as u64 + 1)
}

fn check_reads(statement: &Parsed) -> Result<(), QueryError> {
    match statement {
        Parsed::Statement(ast) => match misread(ast.as_ref()) {
            Some(reason) => Err(QueryError::invalid(reason)),
            None => check_ast_reads(ast).and_then(|()| limits::check(ast.as_ref())),
        },
        Parsed::Explain(explain) => check_reads(&explain.statement),
        Parsed::CopyTo(_) | Parsed::CreateExternalTable(_) | Parsed::Reset(_) => Err(refuse(&statement.to_string())),
    }
}

fn check_ast_reads(statement: &Ast) -> Result<(), QueryError> {
    match statement {
        Ast::Query(_)
        | Ast::ExplainTable { .. }
        | Ast::ShowCatalogs { .. }
        | Ast::ShowColumns { .. }
        | Ast::ShowCreate { .. }
        | Ast::ShowDatabases { .. }
        | Ast::ShowFunctions { .. }
        | Ast::ShowSchemas { .. }
        | Ast::ShowTables { .. }
        | Ast::ShowVariable { .. }
        | Ast::ShowVariables { .. }
        | Ast::ShowViews { .. } => Ok(()),
        Ast::Explain { statement, .. } => check_ast_reads(statement),
        other => Err(refuse(&other.to_string())),
    }
}

fn refuse(statement: &str) -> QueryError {
    let word = statement.split_whitespace().next().unwrap_or("this").to_uppercase();
    QueryError::invalid(format!("`{}` is not served: queries only read", cut(&word)))
        .with_hint("use SELECT, WITH, VALUES, EXPLAIN, SHOW or DESCRIBE; data comes in through streams and models")
}

/// Where a placeholder stands; line and column tell them apart and order them.
type Place = (u64, u64);

#[derive(Default)]
struct Collect(Vec<(Place, String)>);

impl VisitorMut for Collect {
    type Break = ();

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        if let Value::Placeholder(text) = &value.value {
            self.0.push(((value.span.start.line, value.span.start.column), text.clone()));
        }
        ControlFlow::Continue(())
    }
}

struct Rename(HashMap<Place, String>);

impl VisitorMut for Rename {
    type Break = ();

    fn pre_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        let place = (value.span.start.line, value.span.start.column);
        if let Value::Placeholder(text) = &mut value.value
            && let Some(name) = self.0.get(&place)
        {
            text.clone_from(name);
        }
        ControlFlow::Continue(())
    }
}

fn visit(statement: &mut Parsed, visitor: &mut impl VisitorMut<Break = ()>) {
    match statement {
        Parsed::Statement(ast) => {
            let _never_breaks = VisitMut::visit(ast.as_mut(), visitor);
        }
        Parsed::Explain(explain) => visit(&mut explain.statement, visitor),
        Parsed::CopyTo(_) | Parsed::CreateExternalTable(_) | Parsed::Reset(_) => {}
    }
}

fn number_placeholders(statement: &mut Parsed) -> Result<Parameters, QueryError> {
    let mut found = Collect::default();
    visit(statement, &mut found);
    let mut found = found.0;
    found.sort();
    found.dedup();
    let (parameters, names) = decide_names(&found)?;
    visit(statement, &mut Rename(names));
    Ok(parameters)
}

/// What each placeholder is called in the plan, given all of them in the order of the text.
fn decide_names(found: &[(Place, String)]) -> Result<(Parameters, HashMap<Place, String>), QueryError> {
    let mut names = HashMap::new();
    let mut bare = 0;
    let mut highest = 0;
    let mut named: Vec<String> = Vec::new();
    for (place, text) in found {
        let (line, column) = *place;
        if text == "?" {
            bare += 1;
            names.insert(*place, format!("${bare}"));
        } else if let Some(number) = text.get(1..).and_then(|number| number.parse::<usize>().ok()) {
            if number == 0 || number > usize::from(u16::MAX) {
                let message = format!("`{}` is no placeholder: they count from `$1`", cut(text));
                return Err(QueryError::invalid(message).at(line, column));
            }
            highest = highest.max(number);
            names.insert(*place, format!("${number}"));
        } else if !named.contains(text) {
            named.push(text.clone());
        }
        let kinds = [bare > 0, highest > 0, !named.is_empty()];
        if kinds.iter().filter(|used| **used).count() > 1 {
            let message = format!("`{}` is another kind of placeholder than those before it", cut(text));
            return Err(QueryError::invalid(message).at(line, column).with_hint("use `?`, `$1` or `$name` throughout"));
        }
    }
    let parameters =
        if named.is_empty() { Parameters::Positional(bare.max(highest)) } else { Parameters::Named(named) };
    Ok((parameters, names))
}

#[cfg(test)]
mod tests;
