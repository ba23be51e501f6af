//! Makes the connections to servers: each channel is one connection, made when it is needed and again when it broke.

use std::{io, net::SocketAddr, time::Duration};

use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::{
    addresses::{Address, not_an_address},
    credentials::Tls,
    errors::{Error, Result},
};

/// How long a connection with calls on it may be silent before it is asked for a sign of life, and how long that may
/// take. Both together must leave time for a repeat within [`crate::DEFAULT_TIMEOUT`].
const KEEPALIVE: Duration = Duration::from_secs(10);
/// An address that is nobody's any more does not always refuse.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may take until it can be used, its handshake included.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of an answer may be on its way.
const WINDOW_BYTES: u32 = 4 << 20;
/// A refusal's details travel in the trailing metadata.
const MAX_METADATA_BYTES: u32 = 64 << 10;

/// Says how servers at an address are spoken to; files of TLS are read here.
///
/// # Errors
///
/// What was given cannot be meant.
pub(crate) fn endpoint_of(address: &Address, text: &str, tls: Option<&Tls>) -> Result<Endpoint> {
    let uri = match (address, tls) {
        (Address::Unix(_), Some(_)) => {
            return Err(Error::invalid_argument(
                "tls is not spoken over a Unix socket: leave it out, or the unix: address",
            ));
        }
        (_, None) if text.starts_with("https://") => {
            return Err(Error::invalid_argument(
                "address asks for TLS by https:// and would be spoken to without: give tls, such as Tls::default()",
            ));
        }
        (Address::Unix(path), None) => format!("unix://{path}"),
        (_, Some(_)) => format!("https://{}", address.authority()),
        (_, None) => format!("http://{}", address.authority()),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|_| not_an_address(text))?;
    let endpoint = endpoint
        .user_agent(concat!("runtimestore-rust/", env!("CARGO_PKG_VERSION")))
        .map_err(|error| Error::invalid_argument(error.to_string()))?
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_max_header_list_size(MAX_METADATA_BYTES);
    match tls {
        Some(tls) => tls.apply(endpoint),
        None => Ok(endpoint),
    }
}

/// Makes the channel to the one server of those that the endpoint's name stands for.
pub(crate) fn channel_to(endpoint: &Endpoint, at: SocketAddr) -> Channel {
    endpoint.connect_with_connector_lazy(service_fn(move |_| connect(at)))
}

async fn connect(at: SocketAddr) -> io::Result<TokioIo<TcpStream>> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{at}: {error}"));
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(at)).await;
    let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(told)?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}
