//! What the server says of itself: JDBC and ODBC drivers read this before anything else.
//!
//! Functions are those of the session, by the sections of their documentation, so the list stays true.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{array::RecordBatch, datatypes::SchemaRef};
use arrow_flight::sql::{
    CommandGetSqlInfo, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedGroupBy, SqlSupportedResultSetConcurrency, SqlSupportedResultSetType, SqlSupportedSubqueries,
    SqlSupportedTransaction, SqlSupportedUnions, SqlTransactionIsolationLevel, SupportedSqlGrammar,
    metadata::SqlInfoDataBuilder,
};
use datafusion::sql::sqlparser::keywords::{
    RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS,
};

use super::{
    metadata::{Metadata, built},
    prepared,
};
use crate::{error::QueryError, statement::MAX_SQL_BYTES, view::View};

impl Metadata for CommandGetSqlInfo {
    fn schema(&self) -> SchemaRef {
        Arc::new(SqlInfoDataBuilder::schema().clone())
    }

    fn rows(self, view: &View) -> Result<RecordBatch, QueryError> {
        let mut builder = SqlInfoDataBuilder::new();
        about_server(&mut builder);
        about_names(&mut builder);
        about_queries(&mut builder);
        about_limits(&mut builder);
        about_functions(&mut builder, view);
        let data = built(builder.build())?;
        built(data.record_batch(self.info))
    }
}

/// The bits of values that Flight SQL numbers from 0.
fn bits(values: &[i32]) -> i32 {
    values.iter().fold(0, |all, value| all | (1 << value))
}

fn about_server(builder: &mut SqlInfoDataBuilder) {
    builder.append(SqlInfo::FlightSqlServerName, "Starmere");
    builder.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    // Of the Arrow format, not of a library.
    builder.append(SqlInfo::FlightSqlServerArrowVersion, "1.4");
    builder.append(SqlInfo::FlightSqlServerReadOnly, true);
    builder.append(SqlInfo::FlightSqlServerSql, true);
    builder.append(SqlInfo::FlightSqlServerSubstrait, false);
    builder.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    builder.append(SqlInfo::FlightSqlServerCancel, true);
    builder.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    builder.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let idle = i32::try_from(prepared::IDLE.as_millis()).unwrap_or(i32::MAX);
    builder.append(SqlInfo::FlightSqlServerStatementTimeout, idle);
    builder.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    builder.append(SqlInfo::SqlDdlCatalog, false);
    builder.append(SqlInfo::SqlDdlSchema, false);
    builder.append(SqlInfo::SqlDdlTable, false);
    builder.append(SqlInfo::SqlAllTablesAreSelectable, true);
    builder.append(SqlInfo::SqlTransactionsSupported, false);
    let none = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    builder.append(SqlInfo::SqlDefaultTransactionIsolation, none);
    builder.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, bits(&[none]));
    builder.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    builder.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    builder.append(SqlInfo::SqlBatchUpdatesSupported, false);
    builder.append(SqlInfo::SqlSavepointsSupported, false);
    builder.append(SqlInfo::SqlStoredProceduresSupported, false);
    builder.append(SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false);
    builder.append(SqlInfo::SqlNamedParametersSupported, false);
    builder.append(SqlInfo::SqlLocatorsUpdateCopy, false);
    builder.append(SqlInfo::SqlSelectForUpdateSupported, false);
    builder.append(SqlInfo::SqlSupportedPositionedCommands, 0_i32);
}

fn about_names(builder: &mut SqlInfoDataBuilder) {
    let lower = SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32;
    builder.append(SqlInfo::SqlIdentifierCase, lower);
    builder.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    // Quoted names are kept as they are; Flight SQL has no word for that.
    let kept = SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32;
    builder.append(SqlInfo::SqlQuotedIdentifierCase, kept);
    builder.append(SqlInfo::SqlSearchStringEscape, "\\");
    builder.append(SqlInfo::SqlExtraNameCharacters, "");
    builder.append(SqlInfo::SqlCatalogTerm, "domain");
    builder.append(SqlInfo::SqlSchemaTerm, "product version");
    builder.append(SqlInfo::SqlProcedureTerm, "");
    builder.append(SqlInfo::SqlCatalogAtStart, true);
    // Catalogs and schemas can be named in queries, which Flight SQL takes for granted; the actions it
    // asks about are those of procedures, indexes and grants.
    builder.append(SqlInfo::SqlSchemasSupportedActions, 0_i32);
    builder.append(SqlInfo::SqlCatalogsSupportedActions, 0_i32);
    let keywords: BTreeSet<String> = [RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_IDENTIFIER, RESERVED_FOR_TABLE_ALIAS]
        .into_iter()
        .flatten()
        .map(|keyword| format!("{keyword:?}"))
        .collect();
    builder.append(SqlInfo::SqlKeywords, keywords.into_iter().collect::<Vec<String>>());
}

fn about_queries(builder: &mut SqlInfoDataBuilder) {
    builder.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    builder.append(SqlInfo::SqlSupportsColumnAliasing, true);
    builder.append(SqlInfo::SqlNullPlusNullIsNull, true);
    builder.append(SqlInfo::SqlSupportsTableCorrelationNames, true);
    builder.append(SqlInfo::SqlSupportsDifferentTableCorrelationNames, false);
    builder.append(SqlInfo::SqlSupportsExpressionsInOrderBy, true);
    builder.append(SqlInfo::SqlSupportsOrderByUnrelated, true);
    let groups = [SqlSupportedGroupBy::SqlGroupByUnrelated as i32, SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32];
    builder.append(SqlInfo::SqlSupportedGroupBy, bits(&groups));
    builder.append(SqlInfo::SqlSupportsLikeEscapeClause, true);
    builder.append(SqlInfo::SqlSupportsNonNullableColumns, true);
    let grammar = [SupportedSqlGrammar::SqlMinimumGrammar as i32, SupportedSqlGrammar::SqlCoreGrammar as i32];
    builder.append(SqlInfo::SqlSupportedGrammar, bits(&grammar));
    // Entry level, which Flight SQL numbers 0.
    builder.append(SqlInfo::SqlAnsi92SupportedLevel, bits(&[0]));
    builder.append(SqlInfo::SqlSupportsIntegrityEnhancementFacility, false);
    let joins = SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32;
    builder.append(SqlInfo::SqlOuterJoinsSupportLevel, joins);
    let subqueries = [
        SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
        SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
        SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
    ];
    builder.append(SqlInfo::SqlSupportedSubqueries, bits(&subqueries));
    builder.append(SqlInfo::SqlCorrelatedSubqueriesSupported, true);
    let unions = [SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32];
    builder.append(SqlInfo::SqlSupportedUnions, bits(&unions));
    let forward = SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32;
    builder.append(SqlInfo::SqlSupportedResultSetTypes, bits(&[forward]));
    let reading = bits(&[SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32]);
    builder.append(SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly, reading);
    builder.append(SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0_i32);
    builder.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0_i32);
    builder.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0_i32);
}

/// 0 means that there is no limit, or none that is known.
fn about_limits(builder: &mut SqlInfoDataBuilder) {
    let unlimited = [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnNameLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlDbSchemaNameLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTableNameLength,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ];
    for limit in unlimited {
        builder.append(limit, 0_i64);
    }
    builder.append(SqlInfo::SqlMaxStatementLength, MAX_SQL_BYTES as i64);
    builder.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, true);
}

fn about_functions(builder: &mut SqlInfoDataBuilder, view: &View) {
    let state = view.context.state();
    let mut numeric = BTreeSet::new();
    let mut text = BTreeSet::new();
    let mut time = BTreeSet::new();
    let mut system = BTreeSet::new();
    for (name, function) in state.scalar_functions() {
        let section = function.documentation().map_or("", |docs| docs.doc_section.label);
        let list = match section {
            "Math Functions" => &mut numeric,
            "String Functions" | "Regular Expression Functions" | "Binary String Functions" => &mut text,
            "Time and Date Functions" => &mut time,
            _ => &mut system,
        };
        list.insert(name.clone());
    }
    let names = |list: BTreeSet<String>| list.into_iter().collect::<Vec<String>>();
    builder.append(SqlInfo::SqlNumericFunctions, names(numeric));
    builder.append(SqlInfo::SqlStringFunctions, names(text));
    builder.append(SqlInfo::SqlDatetimeFunctions, names(time));
    builder.append(SqlInfo::SqlSystemFunctions, names(system));
}
