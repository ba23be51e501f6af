//! What is taken as the address of a server.

use std::net::SocketAddr;

use crate::errors::{Error, Result};

/// An address as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket, by its path.
    Unix(String),
    /// One server, by its number.
    Ip(SocketAddr),
    /// A name, which may stand for several servers, and for others later.
    Name(String, u16),
}

impl Address {
    /// Reads `unix:PATH`, or `HOST:PORT` with `http://` or `dns:///` before it if one likes. Without a port it could only
    /// guess.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).to_owned()));
        }
        let bare = ["http://", "https://", "dns:///"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let bare = bare.unwrap_or(text).trim_end_matches('/');
        if let Ok(at) = bare.parse::<SocketAddr>()
            && at.port() > 0
        {
            return Ok(Self::Ip(at));
        }
        match bare.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) if is_name(host) && port > 0 => Ok(Self::Name(host.to_owned(), port)),
            _ => Err(not_an_address(text)),
        }
    }

    /// Names the server, and its port, as a request does.
    pub(crate) fn authority(&self) -> String {
        match self {
            // What a Unix socket is called matters to nobody.
            Self::Unix(_) => "localhost".to_owned(),
            Self::Ip(at) if at.is_ipv6() => format!("[{}]:{}", at.ip(), at.port()),
            Self::Ip(at) => at.to_string(),
            Self::Name(host, port) => format!("{host}:{port}"),
        }
    }

    /// Whether it is meant to be reached without a network. What `localhost` is, shows when it is looked up.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Ip(at) => at.ip().is_loopback(),
            Self::Name(host, _) => host == "localhost",
        }
    }
}

fn is_name(host: &str) -> bool {
    !host.is_empty() && !host.contains(['/', ',', ' ', '@', ':', '[', ']'])
}

pub(crate) fn not_an_address(text: &str) -> Error {
    Error::invalid_argument(format!(
        "address {text:?} is not HOST:PORT, such as store:50051 or [::1]:50051, nor unix:PATH"
    ))
}
