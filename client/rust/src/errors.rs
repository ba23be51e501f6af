//! How a call was refused or failed: one type, told apart by the reason that the server names.

use std::{collections::HashMap, fmt, io, time::Duration};

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

pub use crate::v1::ErrorReason;

/// The `domain` of every `google.rpc.ErrorInfo` of the service.
pub const DOMAIN: &str = "runtimestore.v1";

/// A bad field of a request: its path, such as `input_updates[2].state_json.current_state`, and the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub description: String,
}

/// The variant of the trait's error that a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreError {
    /// `WriteFailed`.
    WriteFailed,
    /// `ReadFailed`.
    ReadFailed,
    /// `SessionKeyMismatch`.
    SessionKeyMismatch,
    /// `NotFound`.
    NotFound,
    /// `Unsupported`.
    Unsupported,
    /// `Internal`.
    Internal,
}

/// A call was refused or failed. The message is for people; programs go by [`Error::reason`] and the metadata.
#[derive(Clone)]
pub struct Error(Box<Failure>);

#[derive(Clone)]
struct Failure {
    reason: Option<ErrorReason>,
    code: Code,
    message: String,
    metadata: HashMap<String, String>,
    violations: Vec<FieldViolation>,
    retry_after: Option<Duration>,
    sent: Sent,
}

/// Whether an attempt may have reached a server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It may, or did.
    Perhaps,
    /// No connection was made.
    NotConnected,
    /// This client sent nothing, and asked no server.
    Never,
}

/// What the calls of the crate return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes the failure that gRPC, or this client, met itself: it has no reason.
    pub(crate) fn call_failed(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            reason: None,
            code,
            message: message.into(),
            metadata: HashMap::new(),
            violations: Vec::new(),
            retry_after: None,
            sent: Sent::Perhaps,
        }))
    }

    /// Makes the failure of what was not sent to any server.
    pub(crate) fn never_sent(code: Code, message: impl Into<String>) -> Self {
        let mut error = Self::call_failed(code, message);
        error.0.sent = Sent::Never;
        error
    }

    /// Makes the refusal of a request that was not sent, since it cannot be meant.
    pub(crate) fn invalid_argument(message: impl Into<String>) -> Self {
        Self::never_sent(Code::InvalidArgument, message)
    }

    /// Makes a refusal that this client tells for the server.
    pub(crate) fn refusal(reason: ErrorReason, code: Code, message: impl Into<String>) -> Self {
        let mut error = Self::call_failed(code, message);
        error.0.reason = Some(reason);
        error
    }

    /// Makes of an earlier attempt's silence and the last one's failure what is true of both.
    pub(crate) fn outcome_unknown(last: &Self) -> Self {
        let message = format!(
            "an earlier attempt of this write was not answered, so it may or may not be there; repeat it with the same \
             request id. The last attempt failed: {}",
            last.message()
        );
        let mut error = Self::refusal(ErrorReason::CommitOutcomeUnknown, Code::Unavailable, message);
        error.0.metadata.clone_from(&last.0.metadata);
        // What the last attempt was refused for is not what the call was.
        error.0.metadata.remove("store_error");
        let reason = last.reason().map_or("", |reason| reason.as_str_name());
        error.0.metadata.insert("last_reason".to_owned(), reason.to_owned());
        error.0.retry_after = last.0.retry_after;
        error
    }

    pub(crate) fn with_metadata(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.metadata.entry(key.to_owned()).or_insert_with(|| value.into());
        self
    }

    /// The reason that the server named; `None` where gRPC itself failed, or a newer server named an unknown one.
    #[must_use]
    pub fn reason(&self) -> Option<ErrorReason> {
        self.0.reason
    }

    /// The gRPC status code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What happened, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Every variable part of the message, by name.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.0.metadata
    }

    /// The fields that are bad, each with its cure.
    #[must_use]
    pub fn violations(&self) -> &[FieldViolation] {
        &self.0.violations
    }

    /// When the server says to come back.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The request id of the write that failed, also one that the client chose: repeat the write with it to find out
    /// what became of it.
    #[must_use]
    pub fn request_id(&self) -> Option<uuid::Uuid> {
        self.text("request_id").and_then(|text| text.parse().ok())
    }

    /// Whether there was no connection to send the request on.
    pub(crate) fn is_not_connected(&self) -> bool {
        self.0.sent == Sent::NotConnected
    }

    /// Whether no server can have seen the request.
    pub(crate) fn is_unsent(&self) -> bool {
        self.0.sent != Sent::Perhaps
    }

    /// Whether this is a server's answer; `None` where no server was asked.
    ///
    /// What names no reason may be of the transport, of something in between, or of a server that ends. Two codes are
    /// not: of an older server, which lacks the method, and of an answer that is larger than this client takes.
    pub(crate) fn is_answer(&self) -> Option<bool> {
        let named = self.0.reason.is_some() || self.text("reason").is_some();
        (self.0.sent != Sent::Never).then_some(named || matches!(self.0.code, Code::Unimplemented | Code::OutOfRange))
    }

    /// The variant of the trait's error that the server named; `None` where it named none.
    #[must_use]
    pub fn store_error(&self) -> Option<StoreError> {
        match self.text("store_error")? {
            "write_failed" => Some(StoreError::WriteFailed),
            "read_failed" => Some(StoreError::ReadFailed),
            "session_key_mismatch" => Some(StoreError::SessionKeyMismatch),
            "not_found" => Some(StoreError::NotFound),
            "unsupported" => Some(StoreError::Unsupported),
            "internal" => Some(StoreError::Internal),
            _ => None,
        }
    }

    /// A part of the message by its name, such as `current_revision`, as a number.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    /// A part of the message by its name, such as `owner`.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.metadata.get(key).map(String::as_str)
    }
}

impl From<Status> for Error {
    /// Reads how a call failed: the reason and the details that the server sent along.
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let mut error = Self::call_failed(status.code(), status.message());
        if error.0.message.is_empty() {
            status.code().description().clone_into(&mut error.0.message);
        }
        // What the transport met says why, such as that the connection was refused.
        let mut cause = std::error::Error::source(&status);
        while let Some(met) = cause {
            if met.is::<ConnectError>() {
                error.0.sent = Sent::NotConnected;
            }
            if met.is::<TimeoutExpired>() {
                error.0.code = Code::DeadlineExceeded;
            }
            // The connection broke. The transport has no word for that, and "unknown" is what a proxy's reset is told as.
            if met.is::<io::Error>() {
                error.0.code = Code::Unavailable;
            }
            let text = met.to_string();
            if !error.0.message.contains(&text) {
                error.0.message = format!("{}: {text}", error.0.message);
            }
            cause = met.source();
        }
        error.0.retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        if let Some(info) = details.error_info() {
            error.0.metadata.clone_from(&info.metadata);
            error.0.reason = ErrorReason::from_str_name(&info.reason).filter(|_| info.domain == DOMAIN);
            if error.0.reason.is_none() {
                // Of a newer server, or of something in between.
                error.0.metadata.insert("reason".to_owned(), info.reason.clone());
            }
        }
        if let Some(bad) = details.bad_request() {
            error.0.violations = bad
                .field_violations
                .iter()
                .map(|violation| FieldViolation {
                    field: violation.field.clone(),
                    description: violation.description.clone(),
                })
                .collect();
        }
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.reason {
            Some(reason) => write!(formatter, "{}: {}", reason.as_str_name(), self.0.message)?,
            None => write!(formatter, "{}: {}", self.0.code, self.0.message)?,
        }
        for violation in &self.0.violations {
            write!(formatter, "; {}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Error")
            .field("reason", &self.0.reason)
            .field("code", &self.0.code)
            .field("message", &self.0.message)
            .field("metadata", &self.0.metadata)
            .field("violations", &self.0.violations)
            .field("retry_after", &self.0.retry_after)
            .finish()
    }
}

impl std::error::Error for Error {}
