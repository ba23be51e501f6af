//! What a client shows to a server, and by what it knows one: TLS and bearer tokens.

use std::{fmt, path::PathBuf, sync::Arc};

use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::Endpoint,
};

use crate::errors::{Error, Result};

/// A bearer token, or what is asked for it before each attempt of a call, so that it may change; it must not wait.
#[derive(Clone)]
pub enum Token {
    /// Always the same.
    Fixed(String),
    /// Asked for before each attempt.
    Asked(Arc<dyn Fn() -> String + Send + Sync>),
}

impl From<&str> for Token {
    fn from(token: &str) -> Self {
        Self::Fixed(token.to_owned())
    }
}

impl From<String> for Token {
    fn from(token: String) -> Self {
        Self::Fixed(token)
    }
}

impl Token {
    /// Makes what an attempt carries.
    ///
    /// # Errors
    ///
    /// It cannot be a token; nothing of it is quoted.
    pub(crate) fn metadata(&self) -> Result<MetadataValue<Ascii>> {
        let text = match self {
            Self::Fixed(token) => token.clone(),
            Self::Asked(ask) => ask(),
        };
        let printable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {text}").parse().ok().filter(|_| printable).ok_or_else(|| {
                Error::invalid_argument(
                    "token must be printable ASCII without spaces, such as rst_...; a file's end of line is none",
                )
            })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token")
    }
}

/// A file in PEM by its path, or its bytes.
#[derive(Clone)]
pub enum Pem {
    /// The path of a file, read when the client is built.
    File(PathBuf),
    /// The bytes themselves.
    Bytes(Vec<u8>),
}

impl fmt::Debug for Pem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pem")
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&str> for Pem {
    /// A path; bytes are given as a `Vec<u8>`.
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<Vec<u8>> for Pem {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

#[cfg(feature = "tls")]
impl Pem {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            // Not quoted: it may be a key.
            Self::File(path) if path.to_string_lossy().contains("-----BEGIN") => Err(Error::invalid_argument(
                "the text of a PEM was given where the path of a file is meant: give its bytes, as a Vec<u8>",
            )),
            Self::File(path) => read_regular(path)
                .map_err(|error| Error::invalid_argument(format!("{} cannot be read: {error}", path.display()))),
        }
    }
}

/// How large a file may be; a bundle of all CAs that there are has a quarter of a megabyte.
#[cfg(feature = "tls")]
const MOST_PEM_BYTES: u64 = 16 << 20;

/// Reads a file whole. It waits for no pipe, and reads no device without an end.
#[cfg(feature = "tls")]
fn read_regular(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, ErrorKind, Read};

    // Looked at before it is opened: opening a pipe waits for who writes into it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MOST_PEM_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_PEM_BYTES {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it is larger than {MOST_PEM_BYTES} bytes")));
    }
    Ok(bytes)
}

/// How a client speaks TLS.
///
/// `ca` signs the certificates of servers that are trusted; without it, those that the operating system trusts do. A
/// server that asks for a certificate is shown the `identity`. `server_name` is the name that the server's certificate
/// is for, where it is not the one in the address.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Whose signature is trusted.
    pub ca: Option<Pem>,
    /// The certificate that is shown, and its key.
    pub identity: Option<(Pem, Pem)>,
    /// The name in the server's certificate.
    pub server_name: Option<String>,
}

impl Tls {
    #[cfg(feature = "tls")]
    pub(crate) fn apply(&self, endpoint: Endpoint) -> Result<Endpoint> {
        use tonic::transport::{Certificate, ClientTlsConfig, Identity};

        let mut config = ClientTlsConfig::new();
        config = match &self.ca {
            Some(ca) => config.ca_certificate(Certificate::from_pem(ca.read()?)),
            None => config.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate.read()?, key.read()?));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name.clone());
        }
        endpoint.tls_config(config).map_err(|error| Error::invalid_argument(format!("tls cannot be used: {error:?}")))
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(crate) fn apply(&self, _endpoint: Endpoint) -> Result<Endpoint> {
        Err(Error::invalid_argument("tls needs the feature `tls` of this crate"))
    }
}
