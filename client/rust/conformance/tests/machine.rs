//! A real runtime lives on the service: upstream's own `MeerkatMachine`, as a user runs it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use meerkat_auth_core::oauth_flow::OAuthProviderIdentity;
use meerkat_core::{AuthBindingRef, BindingId, RealmId, Session, types::SessionId};
use meerkat_runtime::{
    LogicalRuntimeId, MeerkatMachine, RuntimeDriverError, RuntimeState, RuntimeStore, SessionServiceRuntimeExt,
    input_state::InputLifecycleState, traits::RuntimeControlPlane,
};
use runtimestore::RemoteRuntimeStore;
use runtimestore_conformance::turns::{Turns, prompt};
use runtimestore_testing::{Postgres, Program, Server};

fn store_at(server: &Server) -> Arc<dyn RuntimeStore> {
    Arc::new(RemoteRuntimeStore::connect(server.address()).expect("the server answers"))
}

fn host(server: &Server, session_id: &SessionId, what: &str) -> Program {
    Program::start(env!("CARGO_BIN_EXE_host"), &[server.address(), &session_id.to_string(), what])
}

/// A host dies in the middle of a turn; another one recovers the runtime, takes that turn again, and ends it well.
async fn a_runtime_survives_its_host(server: &mut Server) {
    let session_id = SessionId::new();
    let runtime_id = LogicalRuntimeId::for_session(&session_id);
    let mut host = host(server, &session_id, "turns");
    assert_eq!(host.next_line().as_deref(), Some("first is done"));
    assert_eq!(host.next_line().as_deref(), Some("in turn 2"));
    drop(host);
    server.kill();
    server.restart();

    let store = store_at(server);
    let phases = |inputs: Vec<meerkat_runtime::input_state::StoredInputState>| {
        let mut phases: Vec<InputLifecycleState> = inputs.iter().map(|input| input.seed.phase).collect();
        phases.sort_by_key(|phase| format!("{phase:?}"));
        phases
    };
    let before = phases(store.load_input_states(&runtime_id).await.unwrap());
    assert_eq!(before.len(), 2);
    assert!(before.contains(&InputLifecycleState::Consumed), "{before:?}");

    let machine = Arc::new(MeerkatMachine::persistent_without_blobs(Arc::clone(&store)));
    let begun = Arc::default();
    let turns =
        Turns { session_id: session_id.clone(), store: Arc::clone(&store), begun: Arc::clone(&begun), hangs_in: None };
    machine.register_session_with_executor(session_id.clone(), Box::new(turns)).await;
    // Upstream's machine may let an input lie that comes in the moment in which a recovered turn ends, with its own store
    // in process as well: `src/bin/late_input.rs` counts them.
    for _ in 0..600 {
        if machine.list_active_inputs(&session_id).await.unwrap().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (_, completion) = machine.accept_input_with_completion(&session_id, prompt("third")).await.unwrap();
    let taken = completion.expect("a turn to wait for").wait();
    tokio::time::timeout(Duration::from_mins(2), taken).await.unwrap();
    let after = phases(store.load_input_states(&runtime_id).await.unwrap());
    assert_eq!(after, [InputLifecycleState::Consumed; 3], "the interrupted turn was taken again");
    assert!(begun.load(Ordering::SeqCst) >= 1);
    let session = store.load_session_snapshot(&runtime_id).await.unwrap().unwrap();
    let session: Session = serde_json::from_slice(&session).unwrap();
    assert_eq!(session.id(), &session_id);
    assert!(session.messages().len() >= 2);

    machine.retire_runtime(&session_id).await.unwrap();
    assert_eq!(store.load_runtime_state(&runtime_id).await.unwrap(), Some(RuntimeState::Retired));
    machine.stop_runtime_executor(&session_id, "enough").await.unwrap();
    machine.unregister_session(&session_id).await;
    drop(machine);

    let machine = Arc::new(MeerkatMachine::persistent_without_blobs(store_at(server)));
    machine.register_session(session_id.clone()).await;
    machine.destroy(&runtime_id).await.unwrap();
    drop(machine);

    let machine = Arc::new(MeerkatMachine::persistent_without_blobs(store_at(server)));
    machine.register_session(session_id.clone()).await;
    assert_eq!(store.load_runtime_state(&runtime_id).await.unwrap(), Some(RuntimeState::Destroyed));
    let refused = machine.accept_input(&session_id, prompt("too late")).await.unwrap_err();
    assert!(matches!(refused, RuntimeDriverError::Destroyed | RuntimeDriverError::NotReady { .. }), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_on_sqlite_survives_its_host_and_its_server() {
    a_runtime_survives_its_host(&mut Server::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_on_postgres_survives_its_host_and_its_server() {
    let Some(postgres) = Postgres::start() else {
        eprintln!("skipped: no Postgres here");
        return;
    };
    a_runtime_survives_its_host(&mut Server::start_on(postgres.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oauth_flow_that_one_process_began_another_one_consumes_once() {
    let server = Server::start();
    let flow = host(&server, &SessionId::new(), "oauth").next_line().unwrap();
    let target = AuthBindingRef {
        realm: RealmId::parse("dev").unwrap(),
        binding: BindingId::parse("default_openai").unwrap(),
        profile: None,
    };
    let redirect_uri = "http://127.0.0.1/callback";
    let provider = OAuthProviderIdentity::OpenAiChatGpt;
    // Two handles of the realm are one authority: upstream goes by the key.
    let (one, other) = (store_at(&server), store_at(&server));
    assert_eq!(one.auth_authority_key(), other.auth_authority_key());
    assert!(one.auth_authority_key().unwrap().starts_with("runtimestore:"));
    let machines = [one, other].map(MeerkatMachine::persistent_without_blobs);
    let found = machines[0].oauth_flow_authority().consume(&flow, &target, provider, redirect_uri).unwrap();
    assert_eq!(found.pkce_verifier, "verifier");
    assert!(machines[1].oauth_flow_authority().consume(&flow, &target, provider, redirect_uri).is_err());
}
