//! How a client reaches its servers.

use std::{io, net::SocketAddr, time::Duration};

use tokio::runtime::Handle;

use crate::{
    addresses::Address,
    client::Client,
    credentials::{Tls, Token},
    errors::{Error, Result},
    known::DEFAULT_KNOWN_BYTES,
    retry::RetryPolicy,
    servers::{Names, Place, Servers, channel_to, endpoint_of},
};

/// The budget of a whole call unless told.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Twice what a server accepts by default, so that nothing it accepts is unreadable.
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 256 << 20;

/// What a client is built of. See [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Settings {
    addresses: Vec<String>,
    names: Names,
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
            names: Names::default(),
            realm: String::new(),
            timeout: DEFAULT_TIMEOUT,
            max_message_bytes: DEFAULT_MAX_MESSAGE_BYTES,
            known_bytes: DEFAULT_KNOWN_BYTES,
            retry: RetryPolicy::default(),
            tls: None,
            token: None,
        }
    }

    /// Adds another address of the same store: each call takes the next server that answers, of all that the addresses
    /// and names stand for.
    pub fn also_at(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Looks names up by a function instead of the operating system's: it is given the name and the port of an address,
    /// and says which servers these are. It may wait; what it fails with is told where no server is known.
    pub fn look_up(mut self, by: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        self.names = Names::by(by);
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
    /// What was given cannot be meant, or there is no Tokio runtime here; nothing was sent.
    pub fn build(self) -> Result<Client> {
        let Ok(runtime) = Handle::try_current() else {
            return Err(Error::invalid_argument(
                "a client is built within a Tokio runtime: its connections live there",
            ));
        };
        let addresses = self.addresses.iter().map(|text| Address::parse(text)).collect::<Result<Vec<_>>>()?;
        let places = self.addresses.iter().map(|text| self.place(text)).collect::<Result<Vec<_>>>()?;
        let stays_here = self.token.is_some() && self.tls.is_none();
        if stays_here && !addresses.iter().all(Address::is_local) {
            return Err(Error::invalid_argument("token would travel to another machine for all to read: speak TLS"));
        }
        if let Some(token @ Token::Fixed(_)) = &self.token {
            token.metadata()?;
        }
        let servers = Servers::new(places, self.names.clone().only_local(stays_here), runtime);
        Ok(Client::new(servers, self))
    }

    fn place(&self, text: &str) -> Result<Place> {
        let address = Address::parse(text)?;
        let endpoint = endpoint_of(&address, text, self.tls.as_ref())?;
        Ok(match address {
            Address::Unix(_) => Place::Fixed(endpoint.connect_lazy()),
            Address::Ip(at) => Place::Fixed(channel_to(&endpoint, at)),
            Address::Name(host, port) => Place::Named { host, port, endpoint: Box::new(endpoint) },
        })
    }
}
