//! When a call is sent again, after what pause, and when no longer.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::errors::{Error, ErrorReason};

/// How many attempts of a call may end by a reset or in the middle: a restart behind a proxy costs fewer; what is no
/// accident, such as a proxy's own limit, is told after some seconds and not only when the deadline passes.
const MOST_RESETS: u32 = 10;

/// How often and how fast a call that may be repeated is sent again, always within the call's one deadline.
///
/// The pause before the next attempt is random between 0 and a bound that grows; where the server says when to come
/// back, that comes first and the random pause is added to it.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Counts the first attempt: 1 means that nothing is ever repeated, `None` that the deadline alone decides.
    pub max_attempts: Option<u32>,
    /// The bound of the first pause.
    pub initial_backoff: Duration,
    /// The bound of every pause.
    pub max_backoff: Duration,
    /// By how much the bound grows with each attempt.
    pub backoff_multiplier: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: None,
            initial_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            backoff_multiplier: 2.0,
        }
    }
}

impl RetryPolicy {
    /// Chooses a random pause: clients that failed together should not return together.
    pub(crate) fn pause(&self, attempts: u32) -> Duration {
        // The exponent is bounded so that the power cannot overflow; the cap is reached long before.
        let exponent = i32::try_from(attempts.saturating_sub(1).min(64)).unwrap_or(64);
        let bound = self.initial_backoff.as_secs_f64() * self.backoff_multiplier.max(1.0).powi(exponent);
        let bound = bound.min(self.max_backoff.as_secs_f64());
        Duration::try_from_secs_f64(bound * rand::random::<f64>()).unwrap_or(self.max_backoff)
    }
}

/// The rounds of one compare-and-swap loop: as many as the deadline allows, since each lost one is another's win.
///
/// Whoever lost k rounds has about k rivals, and comes back within the time that two rounds of each take: the pause
/// before the next round is random between 0 and 2 * k times what the last one took, at most the policy's
/// `max_backoff`, and leaves time for one more as long as that. So many writers come one after the other, and none waits
/// long after the last of them.
#[derive(Debug)]
pub(crate) struct UpdateRounds {
    most: Duration,
    deadline: Deadline,
    lost: u32,
    began: Instant,
}

impl UpdateRounds {
    pub(crate) fn within(deadline: Deadline, policy: &RetryPolicy) -> Self {
        Self { most: policy.max_backoff, deadline, lost: 0, began: Instant::now() }
    }

    /// Tells how long to wait before the next round.
    pub(crate) fn pause_after_lost_round(&mut self) -> Result<Duration, Error> {
        self.lost = self.lost.saturating_add(1);
        let (now, left) = (Instant::now(), self.deadline.left());
        let took = now.saturating_duration_since(self.began);
        let mut most = took.saturating_mul(self.lost.saturating_mul(2)).min(self.most);
        if left > took {
            most = most.min(left.saturating_sub(took));
        }
        let pause = most.mul_f64(rand::random());
        if pause < left {
            self.began = now + pause;
            return Ok(pause);
        }
        let message = format!("the snapshot was changed by others {} times; nothing was written", self.lost);
        Err(Error::call_failed(Code::DeadlineExceeded, message))
    }
}

/// The point in time at which a whole call ends, retries included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    timeout: Duration,
}

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        // Thirty years: what is far beyond cannot be added to a point in time.
        let timeout = timeout.min(Duration::from_secs(1_000_000_000));
        Self { at: Instant::now() + timeout, timeout }
    }

    pub(crate) fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Makes the failure of a call whose answer did not come in time.
    pub(crate) fn exceeded(&self) -> Error {
        Error::call_failed(Code::DeadlineExceeded, self.what_passed())
    }

    /// Makes the failure of a call, or of its last attempt, that could not be sent in time.
    pub(crate) fn exceeded_unsent(&self) -> Error {
        Error::never_sent(Code::DeadlineExceeded, self.what_passed())
    }

    fn what_passed(&self) -> String {
        format!("the answer did not come within the call's {} seconds", self.timeout.as_secs_f64())
    }
}

/// What a call is, as far as repeating it goes.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// It changes nothing.
    Load,
    /// It is a write; without a request id the server would not recognise a repeat.
    Write { request_id: String },
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    deadline: Deadline,
    kind: Kind,
    made: u32,
    resets: u32,
    in_doubt: bool,
    last: Option<Error>,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy, deadline: Deadline, kind: Kind) -> Self {
        Self { policy, deadline, kind, made: 0, resets: 0, in_doubt: false, last: None }
    }

    /// Begins an attempt; it may take as long as this.
    ///
    /// # Errors
    ///
    /// No time is left: the failure of the last attempt says more than that.
    pub(crate) fn begin(&mut self) -> Result<Duration, Error> {
        let left = self.deadline.left();
        if left.is_zero() {
            return Err(match self.last.take() {
                Some(last) => self.final_error(last),
                None => self.deadline.exceeded_unsent(),
            });
        }
        self.made += 1;
        Ok(left)
    }

    /// Takes the attempt that was begun back: it reached no server.
    pub(crate) fn not_made(&mut self) {
        self.made -= 1;
    }

    /// Tells how long to wait before the next attempt, or with what the call ends.
    ///
    /// # Errors
    ///
    /// The call is not repeated; the error names the request id, also one that the client chose.
    pub(crate) fn failed(&mut self, error: Error) -> Result<Duration, Error> {
        let error = match &self.kind {
            Kind::Write { request_id } if !request_id.is_empty() => {
                let error = error.with_metadata("request_id", request_id.as_str());
                self.in_doubt |= leaves_doubt(&error);
                error
            }
            _ => error,
        };
        self.resets += u32::from(is_reset(&error));
        let used_up = self.policy.max_attempts.is_some_and(|most| self.made >= most);
        let pause = error.retry_after().unwrap_or_default().saturating_add(self.policy.pause(self.made));
        // With no time for another attempt the error at hand says more than a deadline.
        if used_up || !self.may_repeat(&error) || pause >= self.deadline.left() {
            return Err(self.final_error(error));
        }
        self.last = Some(error);
        Ok(pause)
    }

    /// Makes what the caller is told when the last attempt ended with `error`: the truth about all of them.
    ///
    /// A server that says "nothing was committed" says so of the attempt that it saw.
    fn final_error(&self, error: Error) -> Error {
        if !self.in_doubt || leaves_doubt(&error) || is_conclusive(&error) {
            return error;
        }
        Error::outcome_unknown(&error)
    }

    fn may_repeat(&self, error: &Error) -> bool {
        use ErrorReason::{CommitOutcomeUnknown, Overloaded, StoreUnavailable};
        // The server promises that the attempt left no trace.
        if matches!(error.reason(), Some(StoreUnavailable | Overloaded)) {
            return true;
        }
        if matches!(&self.kind, Kind::Write { request_id } if request_id.is_empty()) {
            return false;
        }
        match error.reason() {
            Some(reason) => reason == CommitOutcomeUnknown,
            None if is_reset(error) => self.resets < MOST_RESETS,
            // A server that stops cancels the calls that reach it in that moment.
            None => match error.code() {
                Code::Unavailable | Code::Cancelled => true,
                Code::ResourceExhausted => error.retry_after().is_some(),
                _ => false,
            },
        }
    }
}

/// Whether it is open that the attempt was committed.
fn leaves_doubt(error: &Error) -> bool {
    !error.is_unsent() && error.reason().is_none_or(|reason| reason == ErrorReason::CommitOutcomeUnknown)
}

/// Whether the transport ended the attempt: a proxy that restarts resets streams, or ends them in the middle.
fn is_reset(error: &Error) -> bool {
    if error.reason().is_some() || error.text("reason").is_some() {
        return false;
    }
    match error.code() {
        Code::Internal | Code::Unknown => true,
        // Two of HTTP/2's own error codes arrive as these, and the text alone says so.
        Code::ResourceExhausted | Code::PermissionDenied => error.message().starts_with("h2 protocol error"),
        _ => false,
    }
}

/// Whether a refusal is true of every attempt, also of one that is still on its way to the server.
///
/// The server first looks whether it knows the request, and what it compares with only grows, so that what has been
/// passed stays passed.
fn is_conclusive(error: &Error) -> bool {
    let (named, there) = match error.reason() {
        // The last compares two parts of the same request, as every version of the server does.
        Some(ErrorReason::BoundaryReceiptExists | ErrorReason::RequestIdReused | ErrorReason::SessionKeyMismatch) => {
            return true;
        }
        Some(ErrorReason::RevisionMismatch) => ("if_revision", "current_revision"),
        Some(ErrorReason::Fenced) => ("fence", "current_fence"),
        Some(ErrorReason::OauthFlowSnapshotChanged) => ("expected_version", "current_version"),
        _ => return false,
    };
    match (error.number(named), error.number(there)) {
        // What is ahead of the store may yet be reached by other writers, and the earlier attempt land then.
        (Some(named), Some(there)) => named <= there,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
