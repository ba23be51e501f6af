//! How a client reaches its servers.

use std::{
    net::{IpAddr, ToSocketAddrs},
    time::Duration,
};

use tonic::transport::{Channel, Endpoint};

use crate::{
    addresses::Addresses,
    client::Client,
    credentials::{Tls, Token},
    errors::{Error, Result},
    known::DEFAULT_KNOWN_BYTES,
    retry::RetryPolicy,
};

/// The budget of a whole call unless told.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Twice what a server accepts by default, so that nothing it accepts is unreadable.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 256 << 20;

/// How long a connection with calls on it may be silent before it is asked for a sign of life, and how long that may
/// take. Both together must leave time for a repeat within [`DEFAULT_TIMEOUT`].
const KEEPALIVE: Duration = Duration::from_secs(10);
/// An address that is nobody's any more does not always refuse.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer may be on its way.
const WINDOW_BYTES: u32 = 4 << 20;
/// A refusal's details travel in the trailing metadata.
const MAX_METADATA_BYTES: u32 = 64 << 10;

/// What a client is built of. See [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Settings {
    addresses: Vec<String>,
    pub(crate) realm: String,
    pub(crate) timeout: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) known_bytes: usize,
    pub(crate) retry: RetryPolicy,
    tls: Option<Tls>,
    pub(crate) token: Option<Token>,
}

impl Settings {
    pub(crate) fn new(address: impl Into<String>) -> Self {
        Self {
            addresses: vec![address.into()],
            realm: String::new(),
            timeout: DEFAULT_TIMEOUT,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            known_bytes: DEFAULT_KNOWN_BYTES,
            retry: RetryPolicy::default(),
            tls: None,
            token: None,
        }
    }

    /// Adds another address of the same store: each call takes the next one that answers.
    pub fn also_at(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Names the closed set of runtimes that is meant; empty means `default`.
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = realm.into();
        self
    }

    /// Sets the budget of a whole call, its retries and pauses included; 30 seconds unless told.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Limits a message in either direction; 256 MiB unless told.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Limits what is remembered of what was written and loaded last, so that only what changed is sent or fetched; 64
    /// MiB unless told. What comes of a call is the same; 0 remembers nothing and sends everything.
    pub fn known_bytes(mut self, bytes: usize) -> Self {
        self.known_bytes = bytes;
        self
    }

    /// Sets how calls that may be repeated are.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Speaks TLS, and knows the server by it.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sends a token with each call. Without TLS it is sent to this machine only.
    pub fn token(mut self, token: impl Into<Token>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Builds the client, within a Tokio runtime: its connections live there. It connects at the first call.
    ///
    /// # Errors
    ///
    /// What was given cannot be meant; nothing was sent.
    ///
    /// # Panics
    ///
    /// It is called outside of a Tokio runtime.
    pub fn build(self) -> Result<Client> {
        let channels = self.addresses.iter().map(|address| self.channel(address)).collect::<Result<Vec<_>>>()?;
        if let Some(token) = &self.token {
            if self.tls.is_none() && !self.addresses.iter().all(|address| is_local(address)) {
                return Err(Error::invalid_argument(
                    "token would travel to another machine for all to read: speak TLS",
                ));
            }
            if matches!(token, Token::Fixed(_)) {
                token.metadata()?;
            }
        }
        Ok(Client::new(Addresses::new(channels), self))
    }

    fn channel(&self, address: &str) -> Result<Channel> {
        let uri = match (address.strip_prefix("unix:"), &self.tls) {
            (Some(_), Some(_)) => {
                return Err(Error::invalid_argument(
                    "tls is not spoken over a Unix socket: leave it out, or the unix: address",
                ));
            }
            (Some(path), None) => format!("unix://{}", path.strip_prefix("//").unwrap_or(path)),
            (None, Some(_)) => format!("https://{}", checked(address)?),
            (None, None) => format!("http://{}", checked(address)?),
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|_| not_an_address(address))?;
        let endpoint = endpoint
            .user_agent(concat!("runtimestore-rust/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| Error::invalid_argument(error.to_string()))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .http2_max_header_list_size(MAX_METADATA_BYTES);
        let endpoint = match &self.tls {
            Some(tls) => tls.apply(endpoint)?,
            None => endpoint,
        };
        Ok(endpoint.connect_lazy())
    }
}

/// Reads `HOST:PORT`, with `http://` or `dns:///` before it if one likes. Without a port it could only guess.
fn checked(address: &str) -> Result<&str> {
    let bare = ["http://", "https://", "dns:///"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let bare = bare.unwrap_or(address).trim_end_matches('/');
    match bare.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(bare),
        _ => Err(not_an_address(address)),
    }
}

fn is_host(host: &str) -> bool {
    let bracketed = host.starts_with('[') && host.ends_with(']');
    !host.is_empty() && !host.contains(['/', ',', ' ', '@']) && (bracketed || !host.contains(':'))
}

fn not_an_address(address: &str) -> Error {
    Error::invalid_argument(format!(
        "address {address:?} is not HOST:PORT, such as store:50051 or [::1]:50051, nor unix:PATH"
    ))
}

/// Whether an address is surely reached without a network: a Unix socket, or loopback. What `localhost` is, the files of
/// the machine decide.
fn is_local(address: &str) -> bool {
    if address.starts_with("unix:") {
        return true;
    }
    let host = checked(address).ok().and_then(|bare| bare.rsplit_once(':')).map_or("", |(host, _)| host);
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    literal.map_or_else(|_| host == "localhost" && is_loopback_by_name(host), |ip| ip.is_loopback())
}

fn is_loopback_by_name(name: &str) -> bool {
    let found: Vec<_> = (name, 0).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
    !found.is_empty() && found.iter().all(|address| address.ip().is_loopback())
}
