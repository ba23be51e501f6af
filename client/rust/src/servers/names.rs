//! Looks up what names stand for.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use tokio::runtime::Handle;
use tonic::Code;

use crate::errors::{Error, Result};

type LookUp = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// How names are looked up: by the operating system, unless told. It may wait.
#[derive(Clone)]
pub(crate) struct Names {
    look_up: Arc<LookUp>,
    /// Whether a name may stand for this machine alone.
    only_local: bool,
}

impl Default for Names {
    fn default() -> Self {
        Self { look_up: Arc::new(|host, port| Ok((host, port).to_socket_addrs()?.collect())), only_local: false }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Names").field("only_local", &self.only_local).finish_non_exhaustive()
    }
}

impl Names {
    /// Looks names up by a function.
    pub(crate) fn by(look_up: impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        Self { look_up: Arc::new(look_up), only_local: false }
    }

    /// Refuses names that stand for other machines than this one.
    pub(crate) fn only_local(self, only_local: bool) -> Self {
        Self { only_local, ..self }
    }

    /// Finds the servers that a name stands for, each once, in the order of the answer.
    ///
    /// # Errors
    ///
    /// There are none, nobody can tell now, or they are not where they may be.
    pub(crate) async fn look_up(&self, runtime: &Handle, host: &str, port: u16) -> Result<Vec<SocketAddr>> {
        let (look_up, asked) = (Arc::clone(&self.look_up), host.to_owned());
        let answered = runtime.spawn_blocking(move || look_up(&asked, port)).await;
        let answered = answered.unwrap_or_else(|error| Err(io::Error::other(error)));
        let unknown = |why: &str| Error::never_sent(Code::Unavailable, format!("{host} cannot be looked up: {why}"));
        let mut found: Vec<SocketAddr> = Vec::new();
        for at in answered.map_err(|error| unknown(&error.to_string()))? {
            if self.only_local && !at.ip().is_loopback() {
                let message =
                    format!("token would travel to another machine for all to read, since {host} is none here");
                return Err(Error::invalid_argument(format!("{message}: speak TLS")));
            }
            if !found.contains(&at) {
                found.push(at);
            }
        }
        if found.is_empty() { Err(unknown("it stands for no address")) } else { Ok(found) }
    }
}
