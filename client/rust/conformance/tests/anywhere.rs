//! A store is built, used and dropped anywhere: in a plain thread, in any runtime, and where a call is given up.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use meerkat_core::lifecycle::InputId;
use meerkat_runtime::{LogicalRuntimeId, RuntimeStore, input_state::InputLifecycleState};
use runtimestore::RemoteRuntimeStore;
use runtimestore_conformance::documents::input;
use runtimestore_testing::Server;
use uuid::Uuid;

/// How long something may take that is waited for, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_mins(2);

/// Waits for a future without any runtime.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        thread::park();
    }
}

#[test]
fn the_synchronous_methods_work_wherever_they_are_called() {
    let server = Server::start();
    let store = std::sync::Arc::new(RemoteRuntimeStore::connect(server.address()).unwrap());
    let use_it = |store: &RemoteRuntimeStore| {
        // Rc is not Send: the closure stays on this thread.
        let runs = std::rc::Rc::new(std::cell::Cell::new(0));
        store
            .update_auth_oauth_flow_snapshot(&mut |current| {
                runs.set(runs.get() + 1);
                Ok([current.unwrap_or_default(), b"x"].concat())
            })
            .unwrap();
        assert_eq!(runs.get(), 1);
        assert!(store.load_auth_oauth_flow_snapshot().unwrap().is_some());
        store.persist_auth_oauth_flow_snapshot(b"y").unwrap();
        assert!(store.auth_authority_key().is_some());
    };
    use_it(&store);
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { use_it(&store) });
    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let (address, in_worker) = (server.address().to_owned(), std::sync::Arc::clone(&store));
    workers.block_on(async move {
        let worked = tokio::spawn(async move {
            use_it(&in_worker);
            // Made and dropped inside of a runtime, too.
            use_it(&RemoteRuntimeStore::connect(address).unwrap());
        });
        worked.await.unwrap();
    });
}

#[test]
fn the_other_methods_need_no_runtime_of_the_callers() {
    let server = Server::start();
    let store = RemoteRuntimeStore::connect(server.address()).unwrap();
    let (at, state) = (LogicalRuntimeId::new("rt:1"), input(1, InputLifecycleState::Queued, 0));
    wait_for(store.persist_input_state(&at, &state)).unwrap();
    assert_eq!(wait_for(store.load_input_states(&at)).unwrap().len(), 1);
    // Neither its clock nor its network is asked for.
    let bare = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(bare.block_on(store.load_input_states(&at)).unwrap().len(), 1);
    bare.block_on(async move { drop(store) });
}

#[test]
fn a_call_that_is_dropped_goes_on() {
    let server = Server::start();
    let store = RemoteRuntimeStore::connect(server.address()).unwrap();
    let (at, state) = (LogicalRuntimeId::new("rt:1"), input(1, InputLifecycleState::Queued, 0));
    {
        let mut call = pin!(store.persist_input_state(&at, &state));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    let until = Instant::now() + PATIENCE;
    while wait_for(store.load_input_state(&at, &InputId(Uuid::from_u128(1)))).unwrap().is_none() {
        assert!(Instant::now() < until, "it does not");
    }
}
