//! arrow-flight's `FlightSqlService`: sends each call where it is answered.

use std::{pin::Pin, sync::Arc};

use arrow_flight::{
    Action, BasicAuth, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, Ticket,
    flight_service_server::FlightService,
    sql::{
        ActionBeginSavepointRequest, ActionBeginSavepointResult, ActionBeginTransactionRequest,
        ActionBeginTransactionResult, ActionCancelQueryRequest, ActionCancelQueryResult,
        ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
        ActionCreatePreparedSubstraitPlanRequest, ActionEndSavepointRequest, ActionEndTransactionRequest,
        CommandGetCatalogs, CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys,
        CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
        CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
        CommandStatementQuery, CommandStatementSubstraitPlan, CommandStatementUpdate, DoPutPreparedStatementResult,
        SqlInfo, TicketStatementQuery,
        server::{FlightSqlService, PeekableFlightDataStream},
    },
};
use bytes::Bytes;
use futures::{Stream, stream};
use prost::Message;
use tonic::{Request, Response, Status, Streaming, metadata::AsciiMetadataValue};

use super::{
    authorization, caller_of,
    encode::{self, DataStream},
    metadata::Metadata,
    prepared::PreparedStatements,
    statements,
};
use crate::{
    access::{Access, Caller},
    error::QueryError,
    query::Queries,
    server::Peer,
};

/// The actions that are answered, as told to clients that ask.
pub(super) const ACTIONS: [(&str, &str); 5] = [
    ("CreatePreparedStatement", "Prepares a statement: ActionCreatePreparedStatementRequest"),
    ("ClosePreparedStatement", "Forgets a statement: ActionClosePreparedStatementRequest"),
    ("CancelQuery", "Stops a running query: ActionCancelQueryRequest"),
    ("CancelFlightInfo", "Stops a running query: CancelFlightInfoRequest"),
    ("CloseSession", "Forgets the caller's token: CloseSessionRequest"),
];

type ActionStream = Pin<Box<dyn Stream<Item = Result<arrow_flight::Result, Status>> + Send>>;

/// Answers Flight SQL.
pub(super) struct Service {
    queries: Queries,
    access: Arc<Access>,
    prepared: PreparedStatements,
}

/// Flight's answer to `CloseSession`; arrow-flight does not have it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct CloseSessionResult {
    /// 1: closed.
    #[prost(int32, tag = "1")]
    status: i32,
}

impl Service {
    pub(super) fn new(queries: Queries, access: Arc<Access>) -> Self {
        let prepared = PreparedStatements::new(queries.limits().prepared_memory);
        Self { queries, access, prepared }
    }

    /// Promises the answer to a question about metadata; the ticket is the question.
    fn promise<M: Metadata>(
        &self,
        question: &M,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let ticket = question.as_any().encode_to_vec();
        encode::info(&question.schema(), ticket, request.into_inner())
    }

    /// Answers a question about metadata from the newest view.
    async fn answer<M: Metadata + Send>(
        &self,
        question: M,
        request: Request<Ticket>,
    ) -> Result<Response<DataStream>, Status> {
        let view = self.queries.view().await?.seen_by(&caller(&request)?);
        let schema = question.schema();
        let batch = question.rows(&view)?;
        Ok(encode::data(schema, stream::iter([Ok(batch)])))
    }

    fn cancel(&self, info: &FlightInfo, caller: &Caller) -> bool {
        let query = statements::running(&self.prepared, info, caller);
        query.is_some_and(|id| {
            let running = self.queries.running();
            let seen = running.iter().any(|query| query.id == id && caller.sees_queries_of(&query.user));
            seen && self.queries.cancel(id)
        })
    }
}

/// Who `Flight` let in.
fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| QueryError::internal("a call came in without a caller").into())
}

fn read_only(what: &str) -> Status {
    QueryError::invalid(format!("{what}: this server is read-only"))
        .with_hint("data comes in through streams and models")
        .into()
}

fn no_transactions() -> Status {
    QueryError::invalid("transactions are not served: every query reads one snapshot by itself").into()
}

fn no_substrait() -> Status {
    Status::unimplemented("Substrait plans are not served: send SQL")
}

fn unreadable(what: &str) -> impl FnOnce(prost::DecodeError) -> Status {
    let message = format!("could not read the `{what}`");
    move |error| QueryError::invalid(message).caused_by(error).into()
}

fn one_result(body: Vec<u8>) -> Response<ActionStream> {
    let results: ActionStream = Box::pin(stream::iter([Ok(arrow_flight::Result::new(body))]));
    Response::new(results)
}

#[tonic::async_trait]
impl FlightSqlService for Service {
    type FlightService = Self;

    /// Trades a name and password for a token, which goes back both as a header and as the payload: drivers
    /// look in either place. Old Java clients send their name in the first message instead of a header.
    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        let caller = if authorization(request.metadata()).is_some() || self.access.is_open() {
            caller_of(&self.access, request.metadata(), peer)?
        } else {
            let first = request.into_inner().message().await?.unwrap_or_default();
            let auth = BasicAuth::decode(first.payload).map_err(unreadable("BasicAuth"))?;
            self.access.password(&auth.username, &auth.password, peer)?
        };
        let token = self.access.issue(&caller);
        let header = AsciiMetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|error| QueryError::internal("a token does not fit a header").caused_by(error))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: Bytes::from(token) };
        let answers: Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>> =
            Box::pin(stream::iter([Ok(answer)]));
        let mut response = Response::new(answers);
        response.metadata_mut().insert("authorization", header);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let caller = caller(&request)?;
        statements::plan(&self.queries, query.query, &caller, request.into_inner()).await
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        statements::run(&self.queries, &ticket.statement_handle, caller(&request)?).await
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let caller = caller(&request)?;
        let handle = query.prepared_statement_handle;
        let descriptor = request.into_inner();
        statements::plan_prepared(&self.queries, &self.prepared, &handle, &caller, descriptor).await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        let caller = caller(&request)?;
        let handle = query.prepared_statement_handle;
        statements::run_prepared(&self.queries, &self.prepared, &handle, caller).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let caller = caller(&request)?;
        Ok(statements::prepare(&self.queries, &self.prepared, query.query, &caller).await?)
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let caller = caller(&request)?;
        let handle = query.prepared_statement_handle;
        statements::bind(&self.prepared, &handle, &caller, request.into_inner()).await?;
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        self.prepared.close(&query.prepared_statement_handle, &caller(&request)?);
        Ok(())
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info).map_err(unreadable("FlightInfo"))?;
        let cancelled = self.cancel(&info, &caller(&request)?);
        Ok(ActionCancelQueryResult { result: cancel_status(cancelled) as i32 })
    }

    /// Actions of Flight itself, which arrow-flight leaves to the server.
    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let caller = caller(&request)?;
        let header = authorization(request.metadata());
        let action = request.into_inner();
        match action.r#type.as_str() {
            "CancelFlightInfo" => {
                let request =
                    CancelFlightInfoRequest::decode(action.body).map_err(unreadable("CancelFlightInfoRequest"))?;
                let cancelled = request.info.is_some_and(|info| self.cancel(&info, &caller));
                let result = CancelFlightInfoResult::new(cancel_status(cancelled));
                Ok(one_result(result.encode_to_vec()))
            }
            "CloseSession" => {
                self.access.revoke(&header.unwrap_or_default());
                Ok(one_result(CloseSessionResult { status: 1 }.encode_to_vec()))
            }
            "SetSessionOptions" | "GetSessionOptions" => Err(Status::unimplemented(
                "session options are not kept: name catalog and schema in the query, as in \
                 `sales.orders_v1.order_lines`",
            )),
            other => {
                let known: Vec<&str> = ACTIONS.iter().map(|(name, _)| *name).collect();
                let message = format!("there is no action `{other}`");
                let hint = format!("there are {}", known.join(", "));
                Err(QueryError::invalid(message).with_hint(hint).into())
            }
        }
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.promise(&query, request)
    }

    async fn do_get_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.answer(query, request).await
    }

    async fn get_flight_info_substrait_plan(
        &self,
        _query: CommandStatementSubstraitPlan,
        _request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        Err(no_substrait())
    }

    async fn do_put_substrait_plan(
        &self,
        _query: CommandStatementSubstraitPlan,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(no_substrait())
    }

    async fn do_action_create_prepared_substrait_plan(
        &self,
        _query: ActionCreatePreparedSubstraitPlanRequest,
        _request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        Err(no_substrait())
    }

    async fn do_put_statement_update(
        &self,
        _query: CommandStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only("updates are not served"))
    }

    async fn do_put_prepared_statement_update(
        &self,
        _query: CommandPreparedStatementUpdate,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only("updates are not served"))
    }

    async fn do_put_statement_ingest(
        &self,
        _query: CommandStatementIngest,
        _request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        Err(read_only("tables are not filled here"))
    }

    async fn do_action_begin_transaction(
        &self,
        _query: ActionBeginTransactionRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginTransactionResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_transaction(
        &self,
        _query: ActionEndTransactionRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    async fn do_action_begin_savepoint(
        &self,
        _query: ActionBeginSavepointRequest,
        _request: Request<Action>,
    ) -> Result<ActionBeginSavepointResult, Status> {
        Err(no_transactions())
    }

    async fn do_action_end_savepoint(
        &self,
        _query: ActionEndSavepointRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        Err(no_transactions())
    }

    /// Nothing to register: what the server says of itself is made from the view ([`super::info`]).
    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}

/// Flight's and Flight SQL's words for it have the same numbers.
fn cancel_status(cancelled: bool) -> CancelStatus {
    if cancelled { CancelStatus::Cancelled } else { CancelStatus::NotCancellable }
}
