//! Measures the trait's own SQLite store in process beside the service, in one run, in turns: `make bench-rust`.
//!
//! Three loads: 64 runtimes that commit boundaries of 20 KB at once, one that does, and one that lives 400 turns, each
//! with its whole session and all inputs, as runtimes do it. Compare the two in one run only: the machine is another one
//! the next time.

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use meerkat_core::{
    Session,
    types::{Message, SessionId, UserMessage},
};
use meerkat_runtime::{
    IdempotencyKey, LogicalRuntimeId, RuntimeStore, SessionDelta,
    input_state::{InputLifecycleState, StoredInputState},
    store::SqliteRuntimeStore,
};
use runtimestore::RemoteRuntimeStore;
use runtimestore_conformance::documents::{input, receipt};
use runtimestore_testing::Server;
use uuid::Uuid;

const SESSION_BYTES: usize = 20_000;
const TURN_BYTES: usize = 5_000;
const INPUT_BYTES: usize = 1_000;
const LONG_TURNS: u128 = 400;

#[tokio::main]
async fn main() {
    let rounds = env::args().nth(1).map_or(3, |text| text.parse().expect("a number of rounds"));
    let turns = env::args().nth(2).map_or(LONG_TURNS, |text| text.parse().expect("a number of turns"));
    for round in 1..=rounds {
        for (tasks, commits) in [(64, 20), (1, 300)] {
            for name in ["in process", "service"] {
                let (_kept, store) = fresh(name);
                let measured = commit_boundaries(&store, tasks, commits).await;
                told(round, name, tasks, tasks * u128::from(commits), measured);
            }
        }
        for name in ["in process", "service"] {
            let (_kept, store) = fresh(name);
            let begun = Instant::now();
            live(&store, turns).await;
            println!("round {round}  {name:<10}  {turns} turns  {:.2} s", begun.elapsed().as_secs_f64());
        }
    }
}

/// What a store needs for as long as it is used.
struct Kept {
    _folder: tempfile::TempDir,
    _server: Option<Server>,
}

fn fresh(name: &str) -> (Kept, Arc<dyn RuntimeStore>) {
    let folder = tempfile::tempdir().expect("a folder");
    if name == "service" {
        let server = Server::start();
        let store = RemoteRuntimeStore::connect(server.address()).expect("a server");
        return (Kept { _folder: folder, _server: Some(server) }, Arc::new(store));
    }
    let store = SqliteRuntimeStore::new(folder.path().join("store.db")).expect("a file");
    (Kept { _folder: folder, _server: None }, Arc::new(store))
}

fn session(id: &SessionId, parts: usize, part_bytes: usize) -> Vec<u8> {
    let mut session = Session::with_id(id.clone());
    for part in 0..parts {
        session.push(Message::User(UserMessage::text(text(part, part_bytes))));
    }
    serde_json::to_vec(&session).expect("a session")
}

/// Text that does not repeat itself.
fn text(seed: usize, bytes: usize) -> String {
    const MIXED: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let number = |part: usize| (seed as u128 * 1_000_003 + part as u128 + 1).wrapping_mul(MIXED);
    (0..bytes / 36).map(|part| Uuid::from_u128(number(part)).to_string()).collect()
}

async fn commit_boundaries(
    store: &Arc<dyn RuntimeStore>,
    tasks: u128,
    commits: u64,
) -> (usize, Duration, Vec<Duration>) {
    let begun = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let id = SessionId(Uuid::from_u128(task));
                let runtime_id = LogicalRuntimeId::for_session(&id);
                let mut took = Vec::new();
                for number in 0..commits {
                    let session_snapshot = session(&id, 1, SESSION_BYTES + usize::try_from(number).unwrap_or(0));
                    let delta = Some(SessionDelta { session_snapshot });
                    let states = vec![state(number.into(), InputLifecycleState::Consumed)];
                    let sent = Instant::now();
                    let made = receipt(task, number);
                    let committed = store.atomic_apply(&runtime_id, delta, made, states, Some(id.clone())).await;
                    // Upstream's file answers "database is locked" where many wait for it too long.
                    if committed.is_ok() {
                        took.push(sent.elapsed());
                    }
                }
                took
            })
        })
        .collect();
    let mut took = Vec::new();
    for task in running {
        took.extend(task.await.expect("it ends"));
    }
    took.sort_unstable();
    (took.len(), begun.elapsed(), took)
}

fn state(id: u128, phase: InputLifecycleState) -> StoredInputState {
    let mut state = input(id, phase, 0);
    state.state.idempotency_key = Some(IdempotencyKey::new("x".repeat(INPUT_BYTES)));
    state
}

/// The turns of one runtime: an input, the session loaded, and all of it committed.
async fn live(store: &Arc<dyn RuntimeStore>, turns: u128) {
    let id = SessionId(Uuid::from_u128(1));
    let runtime_id = LogicalRuntimeId::for_session(&id);
    let mut kept = Session::with_id(id.clone());
    let mut inputs = Vec::new();
    for turn in 0..turns {
        store.persist_input_state(&runtime_id, &state(turn, InputLifecycleState::Queued)).await.expect("it commits");
        store.load_session_snapshot(&runtime_id).await.expect("it loads");
        kept.push(Message::User(UserMessage::text(text(inputs.len(), TURN_BYTES))));
        inputs.push(state(turn, InputLifecycleState::Consumed));
        let delta = Some(SessionDelta { session_snapshot: serde_json::to_vec(&kept).expect("a session") });
        store
            .atomic_apply(&runtime_id, delta, receipt(turn, 0), inputs.clone(), Some(id.clone()))
            .await
            .expect("it commits");
    }
}

fn told(round: u32, name: &str, tasks: u128, asked: u128, (commits, whole, took): (usize, Duration, Vec<Duration>)) {
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1000.0;
    #[allow(clippy::cast_precision_loss, reason = "some thousands")]
    let rate = commits as f64 / whole.as_secs_f64();
    let failed = asked - commits as u128;
    println!(
        "round {round}  {name:<10}  {tasks} tasks, 20 KB  {rate:.0} commits/s  p50 {:.1} ms  p99 {:.1} ms  {failed} failed",
        at(50),
        at(99)
    );
}
