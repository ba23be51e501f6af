//! Chooses the server of a call's next attempt: the next one of those that answered last.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::time::{Duration, Instant};
use tonic::transport::Channel;

/// How long a server that did not answer is passed over while others do.
const PASSED_OVER: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Addresses {
    channels: Vec<Channel>,
    next: AtomicUsize,
    /// Until when each is passed over.
    failed: Mutex<Vec<Option<Instant>>>,
}

impl Addresses {
    pub(crate) fn new(channels: Vec<Channel>) -> Self {
        let failed = Mutex::new(vec![None; channels.len()]);
        Self { channels, next: AtomicUsize::new(0), failed }
    }

    /// Takes the next server and its place, by which it is told how the attempt went.
    pub(crate) fn take(&self) -> (usize, Channel) {
        let count = self.channels.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % count;
        if count == 1 {
            return (0, self.channels[0].clone());
        }
        let now = Instant::now();
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = |place: &usize| failed[*place].is_none_or(|until| until <= now);
        let place = (first..first + count).map(|place| place % count).find(answers).unwrap_or(first);
        (place, self.channels[place].clone())
    }

    /// Tells whether a server answered, be it by a refusal.
    pub(crate) fn answered(&self, place: usize, answered: bool) {
        if self.channels.len() > 1 {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed[place] = (!answered).then(|| Instant::now() + PASSED_OVER);
        }
    }
}
