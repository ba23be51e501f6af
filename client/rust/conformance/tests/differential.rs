//! The crate beside upstream's own SQLite store: the same random operations, each result compared, while the server is
//! killed and comes back, answers are lost on their way, and two handles make each other's memory old. `SEED=` repeats
//! the operations of a run.
//!
//! Accepted differences, which the operations here do not make but for the tests that name them:
//!
//! * a sequence above `i64::MAX` is kept whole, where upstream's file clamps it;
//! * a session document whose envelope is bad is always refused, in places where upstream's file lets it pass, and a
//!   message of an unknown role passes, where upstream's file refuses it: the service knows envelopes, not messages;
//! * inputs come by `input_id` ascending, as upstream's file has them, but upstream's memory has not;
//! * a document over a limit of the server's, and a runtime id over 512 bytes, is `WriteFailed`.

use std::{fmt::Debug, time::Duration};

use meerkat_core::{
    lifecycle::{InputId, RunId},
    types::SessionId,
};
use meerkat_runtime::{
    LogicalRuntimeId, RuntimeStore, RuntimeStoreError, SessionDelta,
    input_state::{InputLifecycleState, StoredInputState},
    ops_lifecycle::PersistedOpsSnapshot,
    store::{MachineLifecycleCommit, SqliteRuntimeStore},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use runtimestore::{Client, RemoteRuntimeStore};
use runtimestore_conformance::{
    documents::{input, ops_snapshots, receipt, session_of},
    lifecycle,
};
use runtimestore_testing::{Postgres, Proxy, Server};
use serde_json::Value;
use uuid::Uuid;

const OPERATIONS: u32 = 250;
/// How often the server is killed on the way.
const KILLED_EVERY: u32 = 60;
/// Of how many operations one's answer is lost, about.
const LOST_EACH: u32 = 8;
/// How long an operation may take, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_mins(5);
const RUNTIMES: u32 = 3;
const INPUTS: u128 = 8;
const RUNS: u128 = 4;
const SEQUENCES: u64 = 3;

const PHASES: [InputLifecycleState; 4] = [
    InputLifecycleState::Accepted,
    InputLifecycleState::Queued,
    InputLifecycleState::Staged,
    InputLifecycleState::Consumed,
];

/// Makes a result comparable: a value as JSON, whose maps have no order, an error by its variant and what is in it but
/// the message.
fn told<T: Debug>(result: Result<T, RuntimeStoreError>, value: impl Fn(&T) -> Value) -> Value {
    match result {
        Ok(found) => value(&found),
        Err(RuntimeStoreError::WriteFailed(_)) => "WriteFailed".into(),
        Err(RuntimeStoreError::ReadFailed(_)) => "ReadFailed".into(),
        Err(error @ RuntimeStoreError::SessionKeyMismatch { .. }) => format!("{error:?}").into(),
        Err(error) => panic!("neither store should answer {error:?}"),
    }
}

fn json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("upstream's own type")
}

struct Both {
    /// Two handles, of which each step takes one: what one remembers the other has made old.
    ours: [RemoteRuntimeStore; 2],
    turn: usize,
    theirs: SqliteRuntimeStore,
    lifecycle: Vec<MachineLifecycleCommit>,
    ops: Vec<PersistedOpsSnapshot>,
    session_ids: Vec<SessionId>,
    messages: usize,
}

macro_rules! same {
    ($both:expr, $value:expr, $method:ident($($argument:expr),*)) => {{
        let ours = told($both.ours().$method($($argument),*).await, $value);
        let theirs = told($both.theirs.$method($($argument),*).await, $value);
        assert_eq!(ours, theirs, stringify!($method));
        ours
    }};
}

impl Both {
    fn ours(&self) -> &RemoteRuntimeStore {
        &self.ours[self.turn % self.ours.len()]
    }

    async fn step(&mut self, random: &mut StdRng) {
        self.turn = random.random_range(0..self.ours.len());
        let runtime_id = LogicalRuntimeId::new(format!("rt:{}", random.random_range(0..RUNTIMES)));
        let at = &runtime_id;
        let session_id = self.session_ids[random.random_range(0..self.session_ids.len())].clone();
        let (run, sequence) = (random.random_range(0..RUNS), random.random_range(0..SEQUENCES));
        match random.random_range(0..12) {
            0 => {
                let delta = SessionDelta { session_snapshot: self.grown(random, &session_id) };
                same!(self, json, commit_session_snapshot(at, delta.clone()));
            }
            1..=3 => {
                let delta = random.random_bool(0.8).then(|| self.grown(random, &session_id));
                let delta = delta.map(|session_snapshot| SessionDelta { session_snapshot });
                let key = match random.random_range(0..10) {
                    0 => None,
                    1 => Some(SessionId(Uuid::from_u128(99))),
                    _ => Some(session_id),
                };
                let inputs = some_inputs(random);
                let made = receipt(run, sequence);
                same!(self, json, atomic_apply(at, delta.clone(), made.clone(), inputs.clone(), key.clone()));
            }
            4 => {
                let state = some_input(random);
                same!(self, json, persist_input_state(at, &state));
            }
            5 => {
                let commit = self.lifecycle[random.random_range(0..self.lifecycle.len())];
                let inputs = some_inputs(random);
                same!(self, json, commit_machine_lifecycle(at, commit, &inputs));
            }
            6 => {
                let snapshot = self.ops[random.random_range(0..self.ops.len())].clone();
                same!(self, json, persist_ops_lifecycle(at, &snapshot));
            }
            7 => self.oauth(random),
            _ => self.loads(at, run, sequence).await,
        }
    }

    async fn loads(&self, at: &LogicalRuntimeId, run: u128, sequence: u64) {
        same!(self, json, load_input_states(at));
        same!(self, json, load_boundary_receipt(at, &RunId(Uuid::from_u128(run)), sequence));
        same!(self, json, load_session_snapshot(at));
        same!(self, json, load_input_state(at, &InputId(Uuid::from_u128(run))));
        same!(self, json, load_runtime_state(at));
        same!(self, json, load_ops_lifecycle(at));
    }

    fn oauth(&self, random: &mut StdRng) {
        let stores: [&dyn RuntimeStore; 2] = [self.ours(), &self.theirs];
        let (what, letter) = (random.random_range(0..3), random.random_range(b'a'..=b'z'));
        let results = stores.map(|store| match what {
            0 => told(store.persist_auth_oauth_flow_snapshot(&[letter]), json),
            1 => told(
                store.update_auth_oauth_flow_snapshot(&mut |current| {
                    let mut next = current.unwrap_or_default().to_vec();
                    next.push(letter);
                    if letter == b'q' {
                        Err(RuntimeStoreError::WriteFailed("the closure's own".into()))
                    } else {
                        Ok(next)
                    }
                }),
                json,
            ),
            _ => Value::Null,
        });
        assert_eq!(results[0], results[1]);
        let loaded = stores.map(|store| told(store.load_auth_oauth_flow_snapshot(), json));
        assert_eq!(loaded[0], loaded[1]);
    }

    /// The session some messages longer, or cut, as compaction leaves it; now and then what is no session.
    fn grown(&mut self, random: &mut StdRng, id: &SessionId) -> Vec<u8> {
        self.messages = if random.random_bool(0.1) { 1 } else { self.messages + random.random_range(0..4) };
        if random.random_bool(0.05) { b"{}".to_vec() } else { session_of(id, self.messages) }
    }
}

fn some_input(random: &mut StdRng) -> StoredInputState {
    let phase = PHASES[random.random_range(0..PHASES.len())];
    input(random.random_range(0..INPUTS), phase, random.random_range(0..3))
}

fn some_inputs(random: &mut StdRng) -> Vec<StoredInputState> {
    (0..random.random_range(0..6)).map(|_| some_input(random)).collect()
}

async fn both_stores_agree(mut server: Server) {
    let folder = tempfile::tempdir().unwrap();
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let proxy = Proxy::start(server.address());
    let handle = || {
        let settings = Client::builder(proxy.address()).timeout(PATIENCE);
        RemoteRuntimeStore::connect_with(settings).unwrap()
    };
    let mut both = Both {
        ours: [handle(), handle()],
        turn: 0,
        theirs: SqliteRuntimeStore::new(folder.path().join("theirs.db")).unwrap(),
        lifecycle: lifecycle::commits().await,
        ops: ops_snapshots(),
        session_ids: (0..2).map(|id| SessionId(Uuid::from_u128(1000 + id))).collect(),
        messages: 0,
    };
    for number in 1..=OPERATIONS {
        if random.random_range(0..LOST_EACH) == 0 {
            proxy.lose_answers(1);
        }
        if number % KILLED_EVERY == 0 {
            // While the operation is on its way.
            let back = tokio::task::spawn_blocking(move || {
                server.kill();
                server.restart();
                server
            });
            both.step(&mut random).await;
            server = back.await.unwrap();
        } else {
            both.step(&mut random).await;
        }
    }
    proxy.lose_answers(0);
    for turn in 0..both.ours.len() {
        both.turn = turn;
        for runtime in 0..RUNTIMES {
            both.loads(&LogicalRuntimeId::new(format!("rt:{runtime}")), 0, 0).await;
        }
    }
    assert!(proxy.lost() > 0, "no answer was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite_each_result_is_the_one_of_upstreams_own_store() {
    both_stores_agree(Server::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_each_result_is_the_one_of_upstreams_own_store() {
    let Some(postgres) = Postgres::start() else {
        eprintln!("skipped: no Postgres here");
        return;
    };
    both_stores_agree(Server::start_on(postgres.url())).await;
}

#[tokio::test]
async fn every_sequence_is_kept_whole() {
    let server = Server::start();
    let store = RemoteRuntimeStore::connect(server.address()).unwrap();
    let at = LogicalRuntimeId::new("rt:1");
    for sequence in [0, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
        store.atomic_apply(&at, None, receipt(1, sequence), vec![], None).await.unwrap();
        let found = store.load_boundary_receipt(&at, &RunId(Uuid::from_u128(1)), sequence).await.unwrap();
        assert_eq!(found, Some(receipt(1, sequence)));
    }
}

#[tokio::test]
async fn over_a_limit_a_write_failed_and_the_message_says_the_cure() {
    let limits = [("document", "10000"), ("session-snapshot", "50000"), ("message", "100000")];
    let flags = limits.map(|(what, bytes)| [format!("--max-{what}-bytes"), bytes.to_owned()]);
    let flags: Vec<&str> = flags.iter().flatten().map(String::as_str).collect();
    let server = Server::start_with(&flags);
    let store = RemoteRuntimeStore::connect(server.address()).unwrap();
    let at = LogicalRuntimeId::new("rt:1");
    let mut long = input(1, InputLifecycleState::Queued, 0);
    long.state.idempotency_key = Some(meerkat_runtime::IdempotencyKey::new("x".repeat(20_000)));
    let refused = store.persist_input_state(&at, &long).await.unwrap_err();
    let RuntimeStoreError::WriteFailed(message) = &refused else { panic!("{refused:?}") };
    assert!(message.contains("at most") && message.contains("max"), "{message}");

    let sends_little = Client::builder(server.address()).max_message_bytes(40_000);
    let sends_little = RemoteRuntimeStore::connect_with(sends_little).unwrap();
    let session_id = SessionId(Uuid::from_u128(1));
    for (store, bytes, cure) in [
        (&store, 60_000, "max_session_snapshot_bytes"),
        (&store, 200_000, "--max-message-bytes"),
        (&sends_little, 45_000, "max_message_bytes of the client"),
    ] {
        let document =
            (1..100_000).map(|messages| session_of(&session_id, messages * 50)).find(|made| made.len() > bytes);
        let delta = SessionDelta { session_snapshot: document.unwrap() };
        let refused = store.commit_session_snapshot(&at, delta).await.unwrap_err();
        let RuntimeStoreError::WriteFailed(message) = &refused else { panic!("{cure}: {refused:?}") };
        assert!(message.contains(cure), "{cure}: {message}");
    }

    let far = LogicalRuntimeId::new("x".repeat(600));
    let refused = store.persist_input_state(&far, &input(1, InputLifecycleState::Queued, 0)).await.unwrap_err();
    assert!(matches!(&refused, RuntimeStoreError::WriteFailed(message) if message.contains("512")), "{refused:?}");
}

#[test]
fn connecting_to_no_server_fails_and_says_so() {
    let settings = runtimestore::Client::builder("127.0.0.1:1").timeout(std::time::Duration::from_millis(200));
    let refused = RemoteRuntimeStore::connect_with(settings).unwrap_err();
    assert!(matches!(&refused, RuntimeStoreError::ReadFailed(message) if message.contains("refused")), "{refused:?}");
}

#[tokio::test]
async fn who_was_superseded_is_told_that_its_write_failed() {
    let server = Server::start();
    let stores = [(); 2].map(|()| RemoteRuntimeStore::connect(server.address()).unwrap());
    let at = LogicalRuntimeId::new("rt:1");
    assert_eq!(stores[0].acquire_runtime(&at, "old").await.unwrap(), 1);
    assert_eq!(stores[1].acquire_runtime(&at, "new").await.unwrap(), 2);
    let state = input(1, InputLifecycleState::Queued, 0);
    let refused = stores[0].persist_input_state(&at, &state).await.unwrap_err();
    assert!(matches!(&refused, RuntimeStoreError::WriteFailed(message) if message.contains("FENCED")), "{refused:?}");
    stores[1].persist_input_state(&at, &state).await.unwrap();
}
