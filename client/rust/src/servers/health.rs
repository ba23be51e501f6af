//! Asks a server whether it is there.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

/// How long a server may take to answer, a connection to it included.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Whether a server answers when it is asked whether it is healthy, whatever it says. Nobody needs a token to ask.
pub(super) async fn is_there(channel: Channel) -> bool {
    match timeout(ANSWERS_WITHIN, ask(channel)).await {
        Ok(Ok(())) => true,
        // What stands before the server may not know the question; the answer came all the same.
        Ok(Err(status)) => matches!(status.code(), Code::Unimplemented | Code::Unauthenticated),
        Err(_) => false,
    }
}

async fn ask(channel: Channel) -> Result<(), Status> {
    let mut health = Grpc::new(channel);
    health.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    // An empty request asks for the server as a whole; of the answer nothing is read.
    health.unary(Request::new(()), path, ProstCodec::<(), ()>::default()).await?;
    Ok(())
}
