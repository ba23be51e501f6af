//! Counts the inputs that lie, accepted and never run, where they come while a recovered turn ends.
//!
//! ```sh
//! cargo run --release -p runtimestore-conformance --bin late_input -- 150 | tail -1           # upstream's own store
//! cargo run --release -p runtimestore-conformance --bin late_input -- 150 ADDRESS | tail -1   # a server
//! ```
//!
//! Each time a runtime is left in the middle of a turn, recovered, and given one more input after some random
//! milliseconds, in which the recovered turn is begun, runs or ends. Some lie with either store, more where the machine
//! has other things to do, so it is no matter of the store.

use std::{
    env,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use meerkat_core::types::SessionId;
use meerkat_runtime::{
    LogicalRuntimeId, MeerkatMachine, RuntimeStore, input_state::InputLifecycleState, store::SqliteRuntimeStore,
};
use runtimestore::RemoteRuntimeStore;
use runtimestore_conformance::turns::{Turns, prompt};
use tokio::time::{sleep, timeout};

/// The longest time between the recovery and the next input.
const LATEST: Duration = Duration::from_millis(40);
/// A turn that has not come by then does not come.
const NEVER_RUNS: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() {
    let mut arguments = env::args().skip(1);
    let tries: u32 = arguments.next().expect("a number of tries").parse().expect("a number");
    let address = arguments.next();
    let folder = tempfile::tempdir().expect("a folder");
    let store: Arc<dyn RuntimeStore> = match &address {
        Some(address) => Arc::new(RemoteRuntimeStore::connect(address).expect("a server")),
        None => Arc::new(SqliteRuntimeStore::new(folder.path().join("store.db")).expect("a file")),
    };
    let mut lay = 0;
    for number in 1..=tries {
        if let Some(phases) = lies(&store).await {
            lay += 1;
            println!("try {number}: {phases:?}");
        }
    }
    println!("{lay} of {tries} inputs lay, with {}", address.as_deref().unwrap_or("upstream's own store"));
}

/// Whether the input lies: the phases of both then.
async fn lies(store: &Arc<dyn RuntimeStore>) -> Option<Vec<InputLifecycleState>> {
    let session_id = SessionId::new();
    let turns =
        |hangs_in| Turns { session_id: session_id.clone(), store: Arc::clone(store), begun: Arc::default(), hangs_in };
    let left = Arc::new(MeerkatMachine::persistent_without_blobs(Arc::clone(store)));
    let hanging = turns(Some(1));
    let begun = Arc::clone(&hanging.begun);
    left.register_session_with_executor(session_id.clone(), Box::new(hanging)).await;
    left.accept_input_with_completion(&session_id, prompt("first")).await.expect("it is accepted");
    while begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    drop(left);

    let machine = Arc::new(MeerkatMachine::persistent_without_blobs(Arc::clone(store)));
    machine.register_session_with_executor(session_id.clone(), Box::new(turns(None))).await;
    sleep(LATEST.mul_f64(rand::random())).await;
    let accepted = machine.accept_input_with_completion(&session_id, prompt("second")).await.expect("it is accepted");
    let ended = timeout(NEVER_RUNS, accepted.1.expect("a turn to wait for").wait()).await;
    if ended.is_ok() {
        return None;
    }
    let inputs = store.load_input_states(&LogicalRuntimeId::for_session(&session_id)).await.expect("it loads");
    Some(inputs.iter().map(|input| input.seed.phase).collect())
}
