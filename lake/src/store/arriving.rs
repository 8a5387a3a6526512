//! Bytes of a bucket: the runtime that has its connections takes their memory, and the threads of a query give it back.

use async_trait::async_trait;
use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    SpawnedReqwestConnector,
};
use tokio::runtime::Handle;

use crate::meter;

/// Makes connections that live on one runtime, whoever asks.
#[derive(Debug)]
pub(super) struct Connections(SpawnedReqwestConnector);

impl Connections {
    pub(super) fn on(runtime: Handle) -> Self {
        Self(SpawnedReqwestConnector::new(runtime))
    }
}

impl HttpConnector for Connections {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Arriving(self.0.connect(options)?)))
    }
}

/// Tells the asking thread of the bytes that it gets.
#[derive(Debug)]
struct Arriving(HttpClient);

#[async_trait]
impl HttpService for Arriving {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.execute(request).await?;
        Ok(response.map(|body| {
            HttpResponseBody::new(body.map_frame(|frame| {
                meter::take_over(frame.data_ref().map_or(0, |bytes| bytes.len() as u64));
                frame
            }))
        }))
    }
}
