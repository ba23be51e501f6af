//! What is repeated, and what is told in the end.

use std::{collections::HashMap, error, fmt, io, time::Duration};

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::{ErrorDetails, StatusExt};

use super::*;
use crate::errors::DOMAIN;

const PATIENT: Duration = Duration::from_mins(5);

fn attempts(request_id: Option<&str>) -> Attempts {
    let kind = request_id.map_or(Kind::Load, |request_id| Kind::Write { request_id: request_id.to_owned() });
    Attempts::new(RetryPolicy::default(), Deadline::after(PATIENT), kind)
}

fn refusal(reason: &str, metadata: &[(&str, &str)], retry_after: Option<Duration>) -> Error {
    let metadata = metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata.collect::<HashMap<_, _>>());
    if let Some(after) = retry_after {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(Code::Unavailable, "refused", details).into()
}

/// What the transport makes of an error that it met.
fn met(error: impl error::Error + Send + Sync + 'static) -> Error {
    Status::from_error(Box::new(Wrapped(Box::new(error)))).into()
}

#[derive(Debug)]
struct Wrapped(Box<dyn error::Error + Send + Sync>);

impl fmt::Display for Wrapped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("transport error")
    }
}

impl error::Error for Wrapped {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&*self.0)
    }
}

fn broken() -> Error {
    met(io::Error::from(io::ErrorKind::ConnectionReset))
}

fn not_connected() -> Error {
    met(ConnectError(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused))))
}

fn told_after(failed: Vec<Error>) -> Error {
    let mut attempts = attempts(Some("14b07000-0000-4000-8000-000000000003"));
    attempts.policy.max_attempts = u32::try_from(failed.len()).ok();
    let mut told = None;
    for error in failed {
        attempts.begin().unwrap();
        told = attempts.failed(error).err();
    }
    told.expect("it ends with the last one")
}

#[test]
fn who_is_told_when_to_come_back_does_not_come_sooner() {
    let after = Duration::from_secs(7);
    for error in [refusal("OVERLOADED", &[], Some(after)), refusal("STORE_UNAVAILABLE", &[], Some(after))] {
        let mut attempts = attempts(Some(""));
        attempts.begin().unwrap();
        let pause = attempts.failed(error).unwrap();
        assert!((after..=after + attempts.policy.initial_backoff).contains(&pause), "{pause:?}");
    }
    let mut attempts = attempts(None);
    attempts.begin().unwrap();
    let told = attempts.failed(refusal("OVERLOADED", &[], Some(PATIENT))).unwrap_err();
    assert_eq!(told.reason(), Some(ErrorReason::Overloaded), "for another attempt no time is left");
}

#[test]
fn a_connection_that_breaks_is_made_anew_for_as_long_as_there_is_time() {
    let mut attempts = attempts(Some("id"));
    for _ in 0..100 {
        attempts.begin().unwrap();
        attempts.failed(broken()).unwrap();
        attempts.begin().unwrap();
        attempts.failed(not_connected()).unwrap();
    }
}

#[test]
fn what_is_reset_again_and_again_is_told_before_the_deadline() {
    for code in [Code::Internal, Code::Unknown] {
        let mut attempts = attempts(None);
        let mut made = 0;
        let told = loop {
            attempts.begin().unwrap();
            made += 1;
            if let Err(error) = attempts.failed(Status::new(code, "reset").into()) {
                break error;
            }
        };
        assert_eq!((made, told.code()), (MOST_RESETS, code));
    }
}

#[test]
fn without_a_request_id_only_what_left_no_trace_is_repeated() {
    let unanswered = [broken(), not_connected(), refusal("COMMIT_OUTCOME_UNKNOWN", &[], None)];
    for (request_id, repeated) in [("", false), ("id", true)] {
        for error in unanswered.clone() {
            let mut attempts = attempts(Some(request_id));
            attempts.begin().unwrap();
            assert_eq!(attempts.failed(error).is_ok(), repeated);
        }
        let mut attempts = attempts(Some(request_id));
        attempts.begin().unwrap();
        attempts.failed(refusal("STORE_UNAVAILABLE", &[], None)).unwrap();
    }
}

#[test]
fn what_is_told_is_true_of_all_attempts() {
    let refused = || refusal("SESSION_SNAPSHOT_INVALID", &[("store_error", "write_failed")], None);
    let told = told_after(vec![broken(), refused()]);
    assert_eq!(told.reason(), Some(ErrorReason::CommitOutcomeUnknown));
    assert_eq!((told.text("last_reason"), told.store_error()), (Some("SESSION_SNAPSHOT_INVALID"), None));
    // Nothing was sent before: the refusal is the whole truth.
    for error in [not_connected(), Deadline::after(PATIENT).exceeded_unsent()] {
        let told = told_after(vec![not_connected(), error, refused()]);
        assert_eq!(told.reason(), Some(ErrorReason::SessionSnapshotInvalid));
    }
    // An earlier attempt may have landed, though the last one was not even sent.
    assert_eq!(told_after(vec![broken(), not_connected()]).reason(), Some(ErrorReason::CommitOutcomeUnknown));
}

#[test]
fn a_refusal_that_no_attempt_can_have_escaped_is_told_as_it_is() {
    let compared = |reason, named, there| {
        told_after(vec![broken(), refusal(reason, &[(named, "5"), (there, "7")], None)]).reason().unwrap().as_str_name()
            == reason
            && told_after(vec![broken(), refusal(reason, &[(named, "8"), (there, "7")], None)]).reason()
                == Some(ErrorReason::CommitOutcomeUnknown)
    };
    assert!(compared("REVISION_MISMATCH", "if_revision", "current_revision"));
    assert!(compared("FENCED", "fence", "current_fence"));
    assert!(compared("OAUTH_FLOW_SNAPSHOT_CHANGED", "expected_version", "current_version"));
    for reason in ["BOUNDARY_RECEIPT_EXISTS", "REQUEST_ID_REUSED", "SESSION_KEY_MISMATCH"] {
        let told = told_after(vec![broken(), refusal(reason, &[], None)]);
        assert_eq!(told.reason().unwrap().as_str_name(), reason);
    }
}

#[test]
fn the_transports_own_clock_is_told_as_the_deadline() {
    assert_eq!(met(TimeoutExpired(())).code(), Code::DeadlineExceeded);
}

#[test]
fn no_policy_and_no_answer_makes_a_pause_that_cannot_be() {
    for (multiplier, backoff) in [(f64::NAN, Duration::MAX), (f64::INFINITY, Duration::ZERO), (-1.0, Duration::MAX)] {
        let policy = RetryPolicy {
            max_attempts: Some(0),
            initial_backoff: backoff,
            max_backoff: Duration::MAX,
            backoff_multiplier: multiplier,
        };
        let mut attempts = Attempts::new(policy, Deadline::after(Duration::MAX), Kind::Load);
        for after in [None, Some(Duration::from_secs(i64::MAX.unsigned_abs()))] {
            attempts.begin().unwrap();
            assert!(attempts.failed(refusal("OVERLOADED", &[], after)).is_err());
        }
    }
}

#[test]
fn a_lost_round_is_followed_by_another_where_time_is_left_for_one() {
    let seconds = Duration::from_secs;
    for _ in 0..100 {
        let began = Instant::now().checked_sub(seconds(20)).unwrap();
        let mut rounds = UpdateRounds { most: seconds(600), deadline: Deadline::after(seconds(30)), lost: 5, began };
        assert!(rounds.pause_after_lost_round().unwrap() < seconds(11));
    }
}
