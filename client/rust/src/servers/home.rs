//! Notices that the runtime of the connections has ended: nobody else would tell those who call from another one.

use std::sync::{Arc, Weak, atomic::Ordering};

use tokio::sync::oneshot;
use tonic::Code;

use super::Shared;
use crate::errors::Error;

/// Lives in that runtime, and is dropped with it.
struct Home(Weak<Shared>);

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.has_ended.store(true, Ordering::SeqCst);
            // Those who wait for what nobody will tell any more.
            shared.changed.notify_waiters();
        }
    }
}

/// Watches the runtime until what is returned is dropped.
pub(super) fn watch(shared: &Arc<Shared>) -> oneshot::Sender<()> {
    let home = Home(Arc::downgrade(shared));
    let (watch, watched) = oneshot::channel();
    shared.runtime.spawn(async move {
        let _home = home;
        let _ = watched.await;
    });
    watch
}

/// Makes the failure of a call whose client has no runtime any more.
pub(super) fn home_ended() -> Error {
    let message = "the Tokio runtime in which the client was built has ended, and its connections with it";
    Error::never_sent(Code::FailedPrecondition, message)
}
