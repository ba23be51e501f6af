//! The client when servers die and answers are lost.

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use runtimestore::{
    Client, ErrorReason, RetryPolicy, Token,
    types::{RequestId, RuntimeState, WriteOptions},
};
use runtimestore_testing::{Proxy, Server};
use support::{RUNTIME, at_revision, client, input, receipt, session_of};
use tonic::Code;
use uuid::Uuid;

#[tokio::test]
async fn a_write_whose_answer_is_lost_lands_once() {
    let server = Server::start();
    let proxy = Proxy::start(server.address());
    let store = client(proxy.address());
    store.get_server_info().await.unwrap();
    let mut replayed = 0;
    for run in 0..20 {
        proxy.lose_answers(1);
        let options = WriteOptions::default();
        let commit = store.atomic_apply(RUNTIME, None, receipt(run, 0), &[input(run, "consumed")], None, options).await;
        let commit = commit.unwrap();
        assert_eq!(u128::from(commit.revision), run + 1);
        replayed += u32::from(commit.replayed);
    }
    assert!(proxy.lost() > 0 && replayed > 0, "{} answers were lost, {replayed} writes replayed", proxy.lost());
}

#[tokio::test]
async fn without_a_request_id_a_write_in_doubt_is_not_repeated() {
    let server = Server::start();
    let proxy = Proxy::start(server.address());
    let store = client(proxy.address());
    store.get_server_info().await.unwrap();
    proxy.lose_answers(1);
    let options = WriteOptions { request_id: RequestId::None, ..WriteOptions::default() };
    let failed = store.persist_input_state(RUNTIME, input(1, "queued"), options).await.unwrap_err();
    assert_eq!((failed.reason(), failed.request_id()), (None, None));
    assert_eq!(proxy.lost(), 1);
}

#[tokio::test]
async fn calls_outlast_a_server_that_is_killed_and_comes_back() {
    let mut server = Server::start();
    let store = client(server.address());
    store.persist_input_state(RUNTIME, input(1, "queued"), WriteOptions::default()).await.unwrap();
    server.kill();
    let writing = tokio::spawn({
        let store = store.with_timeout(Duration::from_mins(5));
        async move { store.persist_input_state(RUNTIME, input(2, "queued"), WriteOptions::default()).await }
    });
    tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .map(|server| async move {
        assert_eq!(writing.await.unwrap().unwrap().revision, 2);
        drop(server);
    })
    .unwrap()
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_as_such() {
    let mut server = Server::start();
    server.kill();
    let retry = RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() };
    let store = Client::builder(server.address()).retry(retry).build().unwrap();
    let failed = store.get_server_info().await.unwrap_err();
    assert_eq!((failed.reason(), failed.code()), (None, Code::Unavailable));
    assert!(failed.message().contains("refused"), "{failed}");
}

#[tokio::test]
async fn an_earlier_attempt_in_doubt_is_not_hidden_by_what_the_last_one_says() {
    let mut server = Server::start();
    let proxy = Proxy::start(server.address());
    let retry = RetryPolicy { max_attempts: Some(3), ..RetryPolicy::default() };
    let store = Client::builder(proxy.address()).retry(retry).build().unwrap();
    store.get_server_info().await.unwrap();
    // Two answers are lost, and the third attempt is refused for what it is.
    proxy.lose_answers(2);
    let failed = store.commit_session_snapshot(RUNTIME, "{}", WriteOptions::default()).await.unwrap_err();
    assert_eq!(failed.reason(), Some(ErrorReason::CommitOutcomeUnknown));
    assert_eq!(failed.text("last_reason"), Some("SESSION_SNAPSHOT_INVALID"));
    assert!(failed.request_id().is_some());
    server.kill();
}

#[tokio::test]
async fn a_connection_that_breaks_each_time_is_tried_for_as_long_as_there_is_time() {
    let server = Server::start();
    let proxy = Proxy::start(server.address());
    let at_once = RetryPolicy { max_backoff: Duration::ZERO, ..RetryPolicy::default() };
    let store = Client::builder(proxy.address()).retry(at_once).timeout(Duration::from_mins(5)).build().unwrap();
    store.get_server_info().await.unwrap();
    proxy.lose_answers(30);
    store.atomic_apply(RUNTIME, None, receipt(1, 0), &[], None, WriteOptions::default()).await.unwrap();
    assert_eq!(proxy.lost(), 30);
}

#[tokio::test]
async fn what_is_refused_after_nothing_was_sent_is_no_doubt() {
    let mut server = Server::start();
    let store = client(server.address()).with_timeout(Duration::from_mins(5));
    server.kill();
    let refused = tokio::spawn(async move {
        store.commit_session_snapshot(RUNTIME, "{}", WriteOptions::default()).await.unwrap_err()
    });
    let back = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let _server = back.await.unwrap();
    assert_eq!(refused.await.unwrap().reason(), Some(ErrorReason::SessionSnapshotInvalid));
}

#[tokio::test]
async fn a_token_is_asked_for_before_each_attempt() {
    let server = Server::start();
    let proxy = Proxy::start(server.address());
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let token = Token::Asked(Arc::new(move || format!("rst_{}", counting.fetch_add(1, Ordering::SeqCst))));
    let store = Client::builder(proxy.address()).token(token).build().unwrap();
    store.get_server_info().await.unwrap();
    proxy.lose_answers(2);
    store.get_server_info().await.unwrap();
    assert_eq!((proxy.lost(), asked.load(Ordering::SeqCst)), (2, 4));
}

#[tokio::test]
async fn a_stream_that_breaks_in_the_middle_is_read_again_from_the_start() {
    let server = Server::start();
    let proxy = Proxy::start(server.address());
    let session = session_of(Uuid::new_v4(), 60_000);
    let inputs: Vec<_> = (0..2000).map(|id| input(id, "consumed")).collect();
    let options = WriteOptions::default();
    client(server.address())
        .atomic_apply(RUNTIME, Some(session.clone()), receipt(1, 0), &inputs, None, options)
        .await
        .unwrap();

    let store = client(proxy.address());
    proxy.cut_after(session.len() / 2);
    assert_eq!(store.load_session_snapshot(RUNTIME).await.unwrap().value, Some(session.clone()));
    assert!(proxy.was_cut());
    proxy.cut_after(50_000);
    assert_eq!(store.load_input_states(RUNTIME).await.unwrap().value, inputs);
    assert!(proxy.was_cut());
    let store = client(proxy.address());
    proxy.cut_after(session.len());
    let loaded = store.load_runtime(RUNTIME).await.unwrap();
    assert_eq!((loaded.session_snapshot, loaded.input_states), (Some(session), inputs));
    assert!(proxy.was_cut());
}

#[tokio::test]
async fn a_call_ends_with_its_deadline() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let store = Client::builder(address).timeout(Duration::from_millis(300)).build().unwrap();
    let failed = store.persist_input_state(RUNTIME, input(1, "queued"), WriteOptions::default()).await.unwrap_err();
    assert_eq!(failed.code(), Code::DeadlineExceeded);
    assert!(failed.request_id().is_some());
}

#[tokio::test]
async fn of_several_addresses_those_that_answer_are_taken() {
    let server = Server::start();
    let mut dead = Server::start();
    dead.kill();
    let store = Client::builder(dead.address()).also_at(server.address()).build().unwrap();
    for number in 0..20 {
        store.persist_input_state(RUNTIME, input(number, "queued"), WriteOptions::default()).await.unwrap();
    }
    assert_eq!(client(server.address()).load_input_states(RUNTIME).await.unwrap().value.len(), 20);
}

#[tokio::test]
async fn what_the_store_has_is_not_sent_again_and_what_it_has_not_any_more_is() {
    let server = Server::start();
    let counting = Proxy::start(server.address());
    let (store, other) = (client(counting.address()), client(server.address()));
    let options = WriteOptions::default();
    let session_id = Uuid::new_v4();
    let inputs: Vec<_> = (0..200).map(|id| input(id, "consumed")).collect();
    let session = |messages| session_of(session_id, messages);

    store.atomic_apply(RUNTIME, Some(session(3000)), receipt(0, 0), &inputs, None, options).await.unwrap();
    let whole = counting.sent_bytes();
    store.atomic_apply(RUNTIME, Some(session(3001)), receipt(0, 1), &inputs, None, options).await.unwrap();
    let short = counting.sent_bytes() - whole;
    assert!(short * 20 < whole, "{whole} bytes for all, {short} for what changed");

    // Somebody else writes meanwhile: the short forms rest on what is not there any more.
    other.commit_session_snapshot(RUNTIME, session(1), options).await.unwrap();
    other.persist_input_state(RUNTIME, input(5, "abandoned"), options).await.unwrap();
    let committed =
        store.atomic_apply(RUNTIME, Some(session(3002)), receipt(0, 2), &inputs, None, options).await.unwrap();
    assert_eq!((committed.revision, committed.replayed), (5, false));
    assert_eq!(other.load_session_snapshot(RUNTIME).await.unwrap().value, Some(session(3002)));
    assert_eq!(other.load_input_states(RUNTIME).await.unwrap().value, inputs);

    let before = counting.answered_bytes();
    assert_eq!(store.load_session_snapshot(RUNTIME).await.unwrap().value, Some(session(3002)));
    assert!(counting.answered_bytes() - before < 1000, "the session came again");
}

#[tokio::test]
async fn a_revision_that_is_asked_for_is_compared_whichever_form_is_sent() {
    let server = Server::start();
    let (store, other) = (client(server.address()), client(server.address()));
    let inputs: Vec<_> = (0..50).map(|id| input(id, "queued")).collect();
    let changed: Vec<_> = std::iter::once(input(0, "consumed")).chain(inputs[1..].iter().cloned()).collect();
    let commit = async |inputs: &[_], options| {
        store.commit_machine_lifecycle(RUNTIME, RuntimeState::Idle, inputs, options).await
    };
    assert_eq!(commit(&inputs, at_revision(0)).await.unwrap().revision, 1);
    // Some of the inputs stand for all of them, at the revision that is asked for.
    assert_eq!(commit(&changed, at_revision(1)).await.unwrap().revision, 2);
    for stale in [0, 1, 3] {
        let refused = commit(&inputs, at_revision(stale)).await.unwrap_err();
        assert_eq!(refused.reason(), Some(ErrorReason::RevisionMismatch));
        assert_eq!((refused.number("if_revision"), refused.number("current_revision")), (Some(stale), Some(2)));
    }
    // Somebody else writes: what was asked for is refused, and what was not lands as a whole.
    other.persist_input_state(RUNTIME, input(7, "abandoned"), WriteOptions::default()).await.unwrap();
    assert_eq!(commit(&changed, at_revision(2)).await.unwrap_err().number("if_revision"), Some(2));
    assert_eq!(commit(&changed, WriteOptions::default()).await.unwrap().revision, 4);
    assert_eq!(other.load_input_states(RUNTIME).await.unwrap().value, changed);
}

#[tokio::test]
async fn a_key_of_another_session_is_told_first_whichever_form_is_sent() {
    let server = Server::start();
    let (store, other) = (client(server.address()), client(server.address()));
    let (session_id, options) = (Uuid::new_v4(), WriteOptions::default());
    let session = |messages| Some(session_of(session_id, messages));
    store.atomic_apply(RUNTIME, session(30), receipt(1, 0), &[], Some(session_id), options).await.unwrap();
    // What the edits are made of is not there any more.
    other.commit_session_snapshot(RUNTIME, session_of(session_id, 1), options).await.unwrap();
    let key = Some(Uuid::new_v4());
    let refused = store.atomic_apply(RUNTIME, session(31), receipt(1, 0), &[], key, options).await.unwrap_err();
    assert_eq!(refused.reason(), Some(ErrorReason::SessionKeyMismatch));
}
