//! Schemas and batches as Flight sends them.

use std::pin::Pin;

use arrow::{
    array::RecordBatch,
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    ipc::writer::IpcWriteOptions,
};
use arrow_flight::{
    FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, Ticket,
    encode::FlightDataEncoderBuilder, error::FlightError,
};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use tonic::{Response, Status};

use crate::error::QueryError;

/// What `DoGet` answers with.
pub(super) type DataStream = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send>>;

/// A stream of batches as Flight data: the schema first, even where no batch follows; an error becomes the
/// call's status.
pub(super) fn data(
    schema: SchemaRef,
    batches: impl Stream<Item = Result<RecordBatch, QueryError>> + Send + 'static,
) -> Response<DataStream> {
    let batches = batches.map_err(|error| FlightError::from(Status::from(error)));
    let data = FlightDataEncoderBuilder::new().with_schema(schema).build(batches);
    let data: DataStream = Box::pin(data.map_err(Status::from));
    Response::new(data)
}

/// An answer that one ticket fetches, from this server.
pub(super) fn info(
    schema: &Schema,
    ticket: impl Into<Bytes>,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let info = FlightInfo::new().try_with_schema(schema).map_err(QueryError::from)?;
    let endpoint = FlightEndpoint::new().with_ticket(Ticket::new(ticket));
    Ok(Response::new(info.with_endpoint(endpoint).with_descriptor(descriptor)))
}

/// A schema as an encapsulated IPC message.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Bytes, QueryError> {
    let options = IpcWriteOptions::default();
    let message: Result<IpcMessage, ArrowError> = SchemaAsIpc::new(schema, &options).try_into();
    Ok(message?.0)
}
