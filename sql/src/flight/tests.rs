use std::{convert::Infallible, iter, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, ListArray, NullArray, RecordBatch, StringArray, UnionArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Int32Type, Int64Type, Schema, UnionFields},
    error::ArrowError,
};
use arrow_flight::{
    CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, IpcMessage,
    encode::FlightDataEncoderBuilder,
    error::FlightError,
    sql::{
        ActionCancelQueryRequest, ActionCancelQueryResult, Any, CommandGetCrossReference, CommandGetDbSchemas,
        CommandGetExportedKeys, CommandGetImportedKeys, CommandGetPrimaryKeys, CommandGetTables,
        CommandGetXdbcTypeInfo, CommandStatementQuery, ProstMessageExt, SqlInfo, client::FlightSqlServiceClient,
    },
};
use axum::http;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream::FuturesUnordered};
use prost::Message;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    body::Body,
    codegen::Service as _,
    transport::{Channel, Endpoint},
};

use super::{prepared::PreparedStatements, *};
use crate::{
    access::Users,
    query::{Limits, Query},
    server::serve_flight,
    testing::{self, ana},
};

type Client = FlightSqlServiceClient<Channel>;

/// A server on a loopback port, which stops when dropped.
struct Running {
    queries: Queries,
    address: String,
    shutdown: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn serve(users: Users) -> (Running, Client) {
    serve_queries(testing::queries(Limits::default()), users).await
}

async fn serve_queries(queries: Queries, users: Users) -> (Running, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let access = Arc::new(Access::new(users));
    tokio::spawn(serve_flight(listener, queries.clone(), access, shutdown.clone()));
    let running = Running { queries, address, shutdown };
    let client = connect(&running).await;
    (running, client)
}

async fn connect(running: &Running) -> Client {
    let endpoint = Endpoint::from_shared(running.address.clone()).unwrap();
    FlightSqlServiceClient::new(endpoint.connect().await.unwrap())
}

/// Fetches an answer and checks that it is what was promised.
async fn fetch(client: &mut Client, info: FlightInfo) -> Result<RecordBatch, FlightError> {
    let promised = info.clone().try_decode_schema().unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut stream = client.do_get(ticket).await?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await? {
        batches.push(batch);
    }
    let schema = stream.schema().cloned().unwrap();
    assert_eq!(*schema, promised, "the stream has the promised schema");
    Ok(arrow::compute::concat_batches(&schema, &batches)?)
}

async fn query(client: &mut Client, sql: &str) -> Result<RecordBatch, FlightError> {
    let info = client.execute(sql.to_owned(), None).await?;
    fetch(client, info).await
}

fn status(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => panic!("not a status: {other}"),
    }
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<String> {
    let column = batch.column_by_name(column).unwrap().as_string::<i32>();
    column.iter().map(|text| text.unwrap_or("NULL").to_owned()).collect()
}

#[tokio::test]
async fn statement_gives_what_was_promised() {
    let (_running, mut client) = serve(Users::default()).await;
    let sql = "SELECT * FROM sales.orders_v1.order_lines ORDER BY order_id, line_number";
    let batch = query(&mut client, sql).await.unwrap();
    assert_eq!(batch.num_rows(), 3);
    assert_eq!(batch.schema().field(0), &Field::new("order_id", DataType::Utf8, false));
    assert_eq!(texts(&batch, "currency"), ["EUR", "EUR", "NULL"]);
    for sql in ["EXPLAIN SELECT 1", "SHOW TABLES", "SELECT 1 WHERE 1 = 0", "VALUES (1, 'a')"] {
        query(&mut client, sql).await.unwrap();
    }
}

#[tokio::test]
async fn errors_are_statuses_before_and_within_the_stream() {
    let (_running, mut client) = serve(Users::default()).await;
    let missing = client.execute("SELECT *\nFROM a.b.c".to_owned(), None).await.unwrap_err();
    let missing = status(missing);
    assert_eq!(missing.code(), Code::NotFound);
    assert!(missing.message().contains("(line 2, column"), "{missing}");
    let written = client.execute("DROP TABLE a".to_owned(), None).await.unwrap_err();
    assert_eq!(status(written).code(), Code::InvalidArgument);
    let unbound = client.execute("SELECT $1".to_owned(), None).await.unwrap_err();
    assert_eq!(status(unbound).code(), Code::InvalidArgument);
    let sql = "SELECT 1 / (line_number - 1) FROM sales.orders_v1.order_lines";
    let running = query(&mut client, sql).await.unwrap_err();
    assert_eq!(status(running).code(), Code::InvalidArgument);
    let update = client.execute_update("DELETE FROM a".to_owned(), None).await.unwrap_err();
    assert!(status(update).message().contains("read-only"));
    let transaction = client.begin_transaction().await.unwrap_err();
    assert_eq!(status(transaction).code(), Code::InvalidArgument);
}

#[tokio::test]
async fn prepared_statement_takes_parameters() {
    let (_running, mut client) = serve(Users::default()).await;
    let sql = "SELECT line_number FROM sales.orders_v1.order_lines
        WHERE order_id = ? AND line_number >= ? ORDER BY 1";
    let mut prepared = client.prepare(sql.to_owned(), None).await.unwrap();
    let parameters = prepared.parameter_schema().unwrap().clone();
    assert_eq!(parameters.fields().len(), 2);
    assert_eq!(parameters.field(0).data_type(), &DataType::Utf8);
    assert_eq!(parameters.field(1).data_type(), &DataType::Int64);
    assert_eq!(prepared.dataset_schema().unwrap().field(0).name(), "line_number");

    for (id, from, expected) in [("a", 1, 2), ("a", 2, 1), ("b", 9, 0)] {
        let ids: ArrayRef = Arc::new(StringArray::from(vec![id]));
        let from: ArrayRef = Arc::new(Int64Array::from(vec![from]));
        let bound = RecordBatch::try_from_iter(vec![("0", ids), ("1", from)]).unwrap();
        prepared.set_parameters(bound).unwrap();
        let info = prepared.execute().await.unwrap();
        assert_eq!(fetch(&mut client, info).await.unwrap().num_rows(), expected, "{id}");
    }
    prepared.close().await.unwrap();

    let mut named = client.prepare("SELECT $b + 1 AS b, $a AS a".to_owned(), None).await.unwrap();
    let a: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let b: ArrayRef = Arc::new(Int64Array::from(vec![41]));
    named.set_parameters(RecordBatch::try_from_iter(vec![("a", a), ("b", b)]).unwrap()).unwrap();
    let info = named.execute().await.unwrap();
    let batch = fetch(&mut client, info).await.unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().value(0), 42);
    assert_eq!(texts(&batch, "a"), ["x"]);
}

/// A number, as drivers send it that do not know which type is wanted.
fn in_a_union(value: f64) -> ArrayRef {
    let fields = [Field::new("text", DataType::Utf8, true), Field::new("number", DataType::Float64, true)];
    let children: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(Vec::<&str>::new())), Arc::new(Float64Array::from(vec![value]))];
    let fields = UnionFields::try_new([0, 1], fields).unwrap();
    Arc::new(UnionArray::try_new(fields, vec![1_i8].into(), Some(vec![0_i32].into()), children).unwrap())
}

#[tokio::test]
async fn a_union_stands_for_the_value_in_it() {
    let (_running, mut client) = serve(Users::default()).await;
    let sql = "SELECT order_id FROM sales.orders_v1.order_lines WHERE line_number > ?".to_owned();
    let mut prepared = client.prepare(sql, None).await.unwrap();
    for (value, expected) in [(1.0, 1), (0.5, 3), (2.0, 0)] {
        prepared.set_parameters(RecordBatch::try_from_iter([("0", in_a_union(value))]).unwrap()).unwrap();
        let info = prepared.execute().await.unwrap();
        assert_eq!(fetch(&mut client, info).await.unwrap().num_rows(), expected, "{value}");
    }
}

/// Parameters as a client sends them.
async fn sent_parameters() -> Vec<FlightData> {
    let ids: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("ccc")]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    sent(RecordBatch::try_from_iter([("0", ids), ("1", numbers)]).unwrap()).await
}

async fn sent(batch: RecordBatch) -> Vec<FlightData> {
    let encoder = FlightDataEncoderBuilder::new().build(stream::iter([Ok(batch)]));
    encoder.try_collect().await.unwrap()
}

#[tokio::test]
async fn parameters_that_are_damaged_are_refused_in_words() {
    let prepared = PreparedStatements::new(1 << 20);
    let handle = prepared.create(&ana(), "SELECT ?, ?".to_owned(), vec!["$1".to_owned(), "$2".to_owned()]).unwrap();
    let bind = async |messages: Vec<FlightData>| {
        statements::bind(&prepared, &handle, &ana(), stream::iter(messages.into_iter().map(Ok))).await
    };
    let whole = sent_parameters().await;
    bind(whole.clone()).await.unwrap();
    assert_eq!(prepared.get(&handle, &ana()).unwrap().rows.len(), 3);

    let mut short = whole.clone();
    short[1].data_body = short[1].data_body.slice(..8);
    let error = bind(short).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("a buffer lies outside of its message"), "{error}");

    // Half a billion values in no bytes.
    let (field, many) = (Arc::new(Field::new_list_field(DataType::Null, true)), 500_000_000);
    let nulls = ListArray::new(field, OffsetBuffer::from_lengths([many]), Arc::new(NullArray::new(many)), None);
    let error = bind(sent(RecordBatch::try_from_iter([("0", Arc::new(nulls) as ArrayRef)]).unwrap()).await).await;
    let error = error.unwrap_err();
    assert!(error.message().contains("more values than a message can hold"), "{error}");

    let mut state = 20_261_130_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    for _ in 0..500 {
        let mut messages = whole.clone();
        for _ in 0..=random(3) {
            let message = random(messages.len());
            let message = &mut messages[message];
            let part = if random(2) == 0 { &mut message.data_header } else { &mut message.data_body };
            let mut bytes = part.to_vec();
            if let Some(places) = std::num::NonZeroUsize::new(bytes.len()) {
                bytes[random(places.get())] = random(256) as u8;
            }
            *part = bytes.into();
        }
        // Whatever it is, it is answered.
        let _answered = bind(messages).await;
    }
    bind(whole).await.unwrap();
}

#[tokio::test]
async fn planning_takes_a_slot_and_who_is_refused_is_told() {
    let limits = Limits { running: 1, small: 0, per_user: 1, waiting: 0, ..Limits::default() };
    let queries = testing::queries(limits);
    let (_running, mut client) = serve_queries(queries.clone(), Users::default()).await;
    let _runs = queries.start(Query::new("SELECT n FROM lake.test.endless", ana())).await.unwrap();
    let refused = client.execute("SELECT 1".to_owned(), None).await.unwrap_err();
    assert_eq!(status(refused).code(), Code::ResourceExhausted);
    let refused = client.prepare("SELECT 1".to_owned(), None).await.err().unwrap();
    assert_eq!(status(refused).code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn catalogs_schemas_and_tables_are_found() {
    let (_running, mut client) = serve(Users::default()).await;
    let info = client.get_catalogs().await.unwrap();
    let catalogs = fetch(&mut client, info).await.unwrap();
    assert_eq!(texts(&catalogs, "catalog_name"), ["lake", "sales"]);

    let wanted =
        CommandGetDbSchemas { catalog: Some("sales".to_owned()), db_schema_filter_pattern: Some("orders%".to_owned()) };
    let info = client.get_db_schemas(wanted).await.unwrap();
    let schemas = fetch(&mut client, info).await.unwrap();
    assert_eq!(texts(&schemas, "db_schema_name"), ["orders_v1"]);

    let wanted =
        CommandGetTables { table_types: vec!["TABLE".to_owned()], include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(wanted).await.unwrap();
    let tables = fetch(&mut client, info).await.unwrap();
    assert_eq!(texts(&tables, "table_name"), ["customer", "order_lines"]);
    let bytes = tables.column_by_name("table_schema").unwrap().as_binary::<i32>().value(1).to_vec();
    let schema: Result<Schema, ArrowError> = IpcMessage(bytes.into()).try_into();
    let schema = schema.unwrap();
    let amount = schema.field_with_name("amount").unwrap().metadata();
    assert_eq!(amount["ARROW:FLIGHT:SQL:TYPE_NAME"], "DECIMAL");
    assert_eq!(amount["ARROW:FLIGHT:SQL:PRECISION"], "18");
    assert_eq!(schema.field(0).data_type(), &DataType::Utf8);

    let info = client.get_table_types().await.unwrap();
    let kinds = fetch(&mut client, info).await.unwrap();
    assert_eq!(texts(&kinds, "table_type"), ["SYSTEM TABLE", "TABLE", "VIEW"]);
}

#[tokio::test]
async fn keys_have_the_schemas_of_flight_sql() {
    let (_running, mut client) = serve(Users::default()).await;
    let lines = CommandGetPrimaryKeys { table: "order_lines".to_owned(), ..Default::default() };
    let info = client.get_primary_keys(lines).await.unwrap();
    let primary = fetch(&mut client, info).await.unwrap();
    assert_eq!(texts(&primary, "column_name"), ["order_id", "line_number"]);
    let sequence = primary.column_by_name("key_sequence").unwrap().as_primitive::<Int32Type>();
    assert_eq!(sequence.values(), &[1, 2]);

    let wanted = CommandGetImportedKeys { table: "order_lines".to_owned(), ..Default::default() };
    let info = client.get_imported_keys(wanted).await.unwrap();
    let imported = fetch(&mut client, info).await.unwrap();
    let wanted = CommandGetExportedKeys {
        catalog: Some("sales".to_owned()),
        db_schema: Some("customers_v1".to_owned()),
        table: "customer".to_owned(),
    };
    let info = client.get_exported_keys(wanted).await.unwrap();
    let exported = fetch(&mut client, info).await.unwrap();
    let wanted = CommandGetCrossReference {
        pk_table: "customer".to_owned(),
        fk_table: "order_lines".to_owned(),
        ..Default::default()
    };
    let info = client.get_cross_reference(wanted).await.unwrap();
    let crossing = fetch(&mut client, info).await.unwrap();
    assert_eq!(imported, exported);
    assert_eq!(imported, crossing);
    assert_eq!(texts(&imported, "pk_table_name"), ["customer"]);
    assert_eq!(texts(&imported, "fk_column_name"), ["customer_key"]);
    let spec: Vec<String> = imported
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let nullable = if field.is_nullable() { "" } else { " not null" };
            format!("{}: {}{nullable}", field.name(), field.data_type())
        })
        .collect();
    assert_eq!(
        spec,
        [
            "pk_catalog_name: Utf8",
            "pk_db_schema_name: Utf8",
            "pk_table_name: Utf8 not null",
            "pk_column_name: Utf8 not null",
            "fk_catalog_name: Utf8",
            "fk_db_schema_name: Utf8",
            "fk_table_name: Utf8 not null",
            "fk_column_name: Utf8 not null",
            "key_sequence: Int32 not null",
            "fk_key_name: Utf8",
            "pk_key_name: Utf8",
            "update_rule: UInt8 not null",
            "delete_rule: UInt8 not null",
        ]
    );
    let wanted = CommandGetPrimaryKeys { table: "nothing".to_owned(), ..Default::default() };
    let info = client.get_primary_keys(wanted).await.unwrap();
    assert_eq!(fetch(&mut client, info).await.unwrap().num_rows(), 0);
}

#[tokio::test]
async fn server_describes_itself_and_its_types() {
    let (_running, mut client) = serve(Users::default()).await;
    let info = client.get_sql_info(vec![]).await.unwrap();
    let all = fetch(&mut client, info).await.unwrap();
    assert!(all.num_rows() > 60, "{} infos", all.num_rows());
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerReadOnly]).await.unwrap();
    assert_eq!(fetch(&mut client, info).await.unwrap().num_rows(), 1);
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None }).await.unwrap();
    let types = texts(&fetch(&mut client, info).await.unwrap(), "type_name");
    let mut schemas = testing::memory().schemas();
    schemas.push(Schema::new(vec![Field::new("b", DataType::Boolean, true)]));
    for field in schemas.iter().flat_map(|schema| schema.fields()) {
        let name = crate::types::sql_name(field.data_type());
        assert!(types.iter().any(|known| known == name), "{name} is not described");
    }
}

#[tokio::test]
async fn get_schema_and_poll_answer_as_get_flight_info() {
    let (_running, mut client) = serve(Users::default()).await;
    let command = CommandStatementQuery { query: "SELECT 1 AS a".to_owned(), transaction_id: None };
    let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
    let inner = client.inner_mut();
    let schema = inner.get_schema(descriptor.clone()).await.unwrap().into_inner();
    let schema = Schema::try_from(&schema).unwrap();
    assert_eq!(schema.field(0).name(), "a");
    let polled = inner.poll_flight_info(descriptor).await.unwrap().into_inner();
    assert_eq!(polled.progress, Some(1.0));
    assert_eq!(polled.info.unwrap().try_decode_schema().unwrap(), schema);
    let actions: Vec<ActionType> =
        inner.list_actions(Empty {}).await.unwrap().into_inner().try_collect().await.unwrap();
    assert_eq!(actions.len(), service::ACTIONS.len());
}

#[tokio::test]
async fn running_query_is_cancelled_by_its_flight() {
    let (running, mut client) = serve(Users::default()).await;
    for legacy in [false, true] {
        let info = client.execute("SELECT n FROM lake.test.endless".to_owned(), None).await.unwrap();
        let ticket = info.endpoint[0].ticket.clone().unwrap();
        let mut stream = client.do_get(ticket).await.unwrap();
        assert_eq!(stream.try_next().await.unwrap().unwrap().num_rows(), 1);
        assert_eq!(running.queries.running().iter().filter(|query| !query.is_stopping).count(), 1);
        let action = if legacy {
            let request = ActionCancelQueryRequest { info: info.encode_to_vec().into() };
            Action::new("CancelQuery", request.as_any().encode_to_vec())
        } else {
            Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info).encode_to_vec())
        };
        let mut results = client.do_action(action).await.unwrap();
        let result = results.message().await.unwrap().unwrap();
        if legacy {
            let any = Any::decode(result.body).unwrap();
            let result: ActionCancelQueryResult = any.unpack().unwrap().unwrap();
            assert_eq!(result.result, CancelStatus::Cancelled as i32);
        } else {
            let result = CancelFlightInfoResult::decode(result.body).unwrap();
            assert_eq!(result.status(), CancelStatus::Cancelled);
        }
        let error = stream.try_next().await.unwrap_err();
        assert_eq!(status(error).code(), Code::Cancelled);
    }
}

#[tokio::test]
async fn users_log_in_once_and_use_a_token() {
    let users = Users::new(vec![("ana".to_owned(), "secret".to_owned())]);
    let (running, mut client) = serve(users).await;
    let refused = client.execute("SELECT 1".to_owned(), None).await.unwrap_err();
    assert_eq!(status(refused).code(), Code::Unauthenticated);
    assert!(client.handshake("ana", "wrong").await.is_err());
    let payload = client.handshake("ana", "secret").await.unwrap();
    assert_eq!(client.token().map(String::as_bytes), Some(payload.as_ref()));
    assert_eq!(query(&mut client, "SELECT 1").await.unwrap().num_rows(), 1);

    let mut basic = connect(&running).await;
    basic.set_header("authorization", "Basic YW5hOnNlY3JldA==");
    assert_eq!(query(&mut basic, "SELECT 1").await.unwrap().num_rows(), 1);

    let _closed = client.do_action(Action::new("CloseSession", "")).await.unwrap();
    let refused = client.execute("SELECT 1".to_owned(), None).await.unwrap_err();
    assert_eq!(status(refused).code(), Code::Unauthenticated);
}

#[tokio::test]
async fn strangers_are_refused_before_their_messages_are_read() {
    use arrow_flight::flight_service_client::FlightServiceClient;
    let users = Users::new(vec![("ana".to_owned(), "secret".to_owned())]);
    let (running, _) = serve(users).await;
    let endpoint = Endpoint::from_shared(running.address.clone()).unwrap();
    let mut client = FlightServiceClient::new(endpoint.connect().await.unwrap());
    let payload = Bytes::from(vec![0_u8; HANDSHAKES.bytes + 1]);
    let large = HandshakeRequest { protocol_version: 0, payload: payload.clone() };
    let refused = client.handshake(stream::iter([large])).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let refused = client.do_get(Ticket { ticket: payload }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

/// A request with a message of so many bytes, of which only 15 of 16 come.
fn unfinished(method: &str, bytes: usize) -> http::Request<Body> {
    let head = [&[0_u8][..], &u32::try_from(bytes).unwrap().to_be_bytes()[..]].concat();
    let pieces = iter::once(head).chain(iter::repeat_n(vec![0; bytes / 16], 15));
    let pieces = stream::iter(pieces).map(|piece| Ok::<_, Infallible>(Bytes::from(piece))).chain(stream::pending());
    let request = http::Request::post(format!("http://localhost/arrow.flight.protocol.FlightService/{method}"));
    let request = match method {
        // Says who it is in the message that does not come whole.
        "Handshake" => request,
        _ => request.header("authorization", "Basic YW5hOnNlY3JldA=="),
    };
    let body = Body::new(axum::body::Body::from_stream(pieces));
    request.header("content-type", "application/grpc").body(body).unwrap()
}

fn code_of(answer: Result<http::Response<Body>, Infallible>) -> Code {
    Status::from_header_map(answer.unwrap().headers()).unwrap().code()
}

#[tokio::test]
async fn messages_that_do_not_come_whole_take_bounded_memory() {
    let users = || Users::new(vec![("ana".to_owned(), "secret".to_owned())]);
    let gate = || server(testing::queries(Limits::default()), Arc::new(Access::new(users())));
    for method in ["DoGet", "GetFlightInfo", "PollFlightInfo", "GetSchema", "DoAction", "ListFlights", "ListActions"] {
        let answer = gate().call(unfinished(method, 16 << 20)).await;
        assert_eq!(code_of(answer), Code::OutOfRange, "{method}");
    }
    for (method, bytes, room) in
        [("DoGet", 4 << 20, 8 << 20), ("DoPut", 16 << 20, 32 << 20), ("Handshake", 16 << 10, 1 << 20)]
    {
        let mut gate = gate();
        let mut calls: FuturesUnordered<_> = (0..40).map(|_| gate.call(unfinished(method, bytes))).collect();
        let most = room / (intake::HEAD + bytes / 16 * 15);
        for _ in most..40 {
            assert_eq!(code_of(calls.next().await.unwrap()), Code::ResourceExhausted, "{method}");
        }
        assert!(calls.next().now_or_never().is_none(), "the others wait: {method}");
    }
}

#[tokio::test]
async fn the_longest_statement_comes_through() {
    let (_running, mut client) = serve(Users::default()).await;
    // A ticket needs two bytes for each.
    let marks = "\"".repeat(MAX_SQL_BYTES - 40);
    let sql = format!("SELECT length('{marks}') AS n");
    let info = client.execute(sql, None).await.unwrap();
    let cancel = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    client.do_action(Action::new("CancelFlightInfo", cancel)).await.unwrap();
    assert_eq!(fetch(&mut client, info).await.unwrap().num_rows(), 1);
}

#[tokio::test]
async fn a_client_that_goes_away_while_its_query_is_planned_ends_it() {
    let limits = Limits { running: 1, small: 0, per_user: 1, ..Limits::default() };
    let (running, mut client) = serve_queries(testing::queries(limits), Users::default()).await;
    let queries = &running.queries;
    let _runs = queries.start(Query::new("SELECT n FROM lake.test.endless", ana())).await.unwrap();
    let asking = tokio::spawn(async move { client.execute("SELECT 1".to_owned(), None).await.is_ok() });
    while queries.running().len() < 2 {
        tokio::task::yield_now().await;
    }
    asking.abort();
    while queries.running().len() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn users_do_over_flight_what_they_may() {
    use crate::access::{Right, Rights};
    let user = |name: &str, right| (name.to_owned(), name.to_owned(), Rights::of(&[right]));
    let users = vec![user("ana", Right::Query), user("ben", Right::Raw), user("pia", Right::Post)];
    let (running, mut ana) = serve(Users::with_rights(users)).await;
    ana.handshake("ana", "ana").await.unwrap();
    assert_eq!(query(&mut ana, "SELECT name FROM sales.customers_v1.customer").await.unwrap().num_rows(), 2);
    let denied = ana.execute("SELECT n FROM lake.test.endless".to_owned(), None).await.unwrap_err();
    assert_eq!(status(denied).code(), Code::PermissionDenied);
    let info = ana.get_catalogs().await.unwrap();
    assert_eq!(texts(&fetch(&mut ana, info).await.unwrap(), "catalog_name"), ["sales"]);

    let mut ben = connect(&running).await;
    ben.handshake("ben", "ben").await.unwrap();
    let info = ben.execute("SELECT n FROM lake.test.endless".to_owned(), None).await.unwrap();
    let mut stream = ben.do_get(info.endpoint[0].ticket.clone().unwrap()).await.unwrap();
    assert_eq!(stream.try_next().await.unwrap().unwrap().num_rows(), 1);
    let cancel = CancelFlightInfoRequest::new(info).encode_to_vec();
    let mut results = ana.do_action(Action::new("CancelFlightInfo", cancel)).await.unwrap();
    let result = CancelFlightInfoResult::decode(results.message().await.unwrap().unwrap().body).unwrap();
    assert_eq!(result.status(), CancelStatus::NotCancellable, "it is another's");
    assert_eq!(running.queries.running().len(), 1);

    let mut pia = connect(&running).await;
    pia.handshake("pia", "pia").await.unwrap();
    let denied = pia.execute("SELECT 1".to_owned(), None).await.unwrap_err();
    assert_eq!(status(denied).code(), Code::PermissionDenied);
}
