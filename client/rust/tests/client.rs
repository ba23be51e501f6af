//! The client against a real server: each method, each kind of refusal.

mod support;

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use runtimestore::{
    Client, ErrorReason, Pem, Tls,
    errors::StoreError,
    types::{RequestId, RuntimeState, WriteOptions},
};
use runtimestore_testing::Server;
use support::{RUNTIME, at_revision, client, input, receipt, session_of};
use tonic::Code;
use uuid::Uuid;

#[tokio::test]
async fn what_was_written_is_loaded_byte_for_byte() {
    let server = Server::start();
    let store = client(server.address());
    let session_id = Uuid::new_v4();
    let session = session_of(session_id, 30);
    assert_eq!(store.load_session_snapshot(RUNTIME).await.unwrap().value, None);
    assert_eq!(store.load_runtime_state(RUNTIME).await.unwrap().value, None);
    assert_eq!(store.load_input_states(RUNTIME).await.unwrap().value, []);

    let options = WriteOptions::default();
    store.commit_session_snapshot(RUNTIME, session_of(session_id, 1), options).await.unwrap();
    store.persist_input_state(RUNTIME, input(1, "queued"), options).await.unwrap();
    let updates = [input(1, "consumed"), input(2, "consumed")];
    let committed = store
        .atomic_apply(RUNTIME, Some(session.clone()), receipt(7, u64::MAX), &updates, Some(session_id), options)
        .await
        .unwrap();
    assert_eq!((committed.revision, committed.replayed), (3, false));
    store.commit_machine_lifecycle(RUNTIME, RuntimeState::Attached, &updates, options).await.unwrap();
    let ops = format!(r#"{{"epoch_id":"{session_id}"}}"#);
    store.persist_ops_lifecycle(RUNTIME, ops.clone(), options).await.unwrap();

    for store in [store, client(server.address())] {
        assert_eq!(store.load_session_snapshot(RUNTIME).await.unwrap().value, Some(session.clone()));
        assert_eq!(store.load_input_states(RUNTIME).await.unwrap().value, updates);
        assert_eq!(store.load_readable_input_states(RUNTIME).await.unwrap().input_states, updates);
        let loaded = store.load_input_state(RUNTIME, Uuid::from_u128(2)).await.unwrap();
        assert_eq!((loaded.value, loaded.revision), (Some(updates[1].clone()), 5));
        let found = store.load_boundary_receipt(RUNTIME, Uuid::from_u128(7), u64::MAX).await.unwrap().value.unwrap();
        assert_eq!((found.receipt, found.committed_revision), (receipt(7, u64::MAX), Some(3)));
        assert_eq!(store.load_boundary_receipt(RUNTIME, Uuid::from_u128(7), 0).await.unwrap().value, None);
        assert_eq!(store.load_runtime_state(RUNTIME).await.unwrap().value, Some(RuntimeState::Attached));
        assert_eq!(store.load_ops_lifecycle(RUNTIME).await.unwrap().value, Some(ops.clone()));
        assert_eq!(store.load_session_snapshot_as_of(RUNTIME, 1).await.unwrap().value, Some(session_of(session_id, 1)));
        let whole = store.load_runtime(RUNTIME).await.unwrap();
        assert_eq!((whole.revision, whole.state), (5, Some(RuntimeState::Attached)));
        assert_eq!((&whole.input_states[..], whole.ops_snapshot), (&updates[..], Some(ops.clone())));
        assert_eq!(whole.session_snapshot, Some(session.clone()));
        let versions = store.list_session_versions(RUNTIME, 1, "").await.unwrap();
        assert_eq!(versions.versions[0].run_id, Some(Uuid::from_u128(7)));
        let older = store.list_session_versions(RUNTIME, 1, &versions.next_page_token).await.unwrap();
        assert_eq!((older.versions[0].revision, older.versions[0].run_id), (1, None));
        assert_eq!(store.get_server_info().await.unwrap().engine, "sqlite");
    }
}

#[tokio::test]
async fn a_session_of_many_chunks_arrives_whole() {
    let server = Server::start();
    let session = session_of(Uuid::new_v4(), 60_000);
    assert!(session.len() > 4 << 20);
    client(server.address()).commit_session_snapshot(RUNTIME, session.clone(), WriteOptions::default()).await.unwrap();
    let loaded = client(server.address()).load_session_snapshot(RUNTIME).await.unwrap();
    assert_eq!(loaded.value, Some(session));
}

#[tokio::test]
async fn each_refusal_tells_its_reason_and_its_parts() {
    let server = Server::start();
    let store = client(server.address());
    let options = WriteOptions::default();
    let session_id = Uuid::new_v4();
    store.atomic_apply(RUNTIME, None, receipt(1, 0), &[], None, options).await.unwrap();

    let twice = store.atomic_apply(RUNTIME, None, receipt(1, 0), &[], None, options).await.unwrap_err();
    assert_eq!(twice.reason(), Some(ErrorReason::BoundaryReceiptExists));
    assert_eq!((twice.store_error(), twice.number("sequence")), (Some(StoreError::WriteFailed), Some(0)));
    assert!(twice.request_id().is_some());

    let late = store.persist_input_state(RUNTIME, input(1, "queued"), at_revision(0)).await.unwrap_err();
    assert_eq!(late.reason(), Some(ErrorReason::RevisionMismatch));
    assert_eq!(late.number("current_revision"), Some(1));

    let session = session_of(session_id, 1);
    let other = Uuid::new_v4();
    let key = store.atomic_apply(RUNTIME, Some(session), receipt(2, 0), &[], Some(other), options).await.unwrap_err();
    assert_eq!(key.reason(), Some(ErrorReason::SessionKeyMismatch));
    let (expected, actual) = (other.to_string(), session_id.to_string());
    assert_eq!((key.text("expected"), key.text("actual")), (Some(&expected[..]), Some(&actual[..])));

    let bad = store.commit_session_snapshot(RUNTIME, "{}", options).await.unwrap_err();
    assert_eq!((bad.reason(), bad.code()), (Some(ErrorReason::SessionSnapshotInvalid), Code::InvalidArgument));
    assert!(!bad.violations().is_empty());

    let long = store.load_runtime_state(&"x".repeat(513)).await.unwrap_err();
    assert_eq!(long.reason(), Some(ErrorReason::InvalidRequest));
    assert!(long.to_string().contains("512 bytes"), "{long}");

    let kept = store.load_session_snapshot_as_of(RUNTIME, 99).await;
    assert!(kept.is_ok_and(|loaded| loaded.value.is_none()));
}

#[tokio::test]
async fn a_repeat_with_its_request_id_is_answered_as_the_first_time() {
    let server = Server::start();
    let store = client(server.address());
    let options = WriteOptions { request_id: RequestId::Given(Uuid::new_v4()), ..WriteOptions::default() };
    let first = store.persist_input_state(RUNTIME, input(1, "queued"), options).await.unwrap();
    store.persist_input_state(RUNTIME, input(1, "consumed"), WriteOptions::default()).await.unwrap();
    let again = store.persist_input_state(RUNTIME, input(1, "queued"), options).await.unwrap();
    assert_eq!((again.revision, again.replayed), (first.revision, true));
    let loaded = store.load_input_state(RUNTIME, Uuid::from_u128(1)).await.unwrap();
    assert_eq!(loaded.value, Some(input(1, "consumed")));
    let reused = store.persist_input_state(RUNTIME, input(1, "other"), options).await.unwrap_err();
    assert_eq!(reused.reason(), Some(ErrorReason::RequestIdReused));
}

#[tokio::test]
async fn two_who_update_the_oauth_snapshot_lose_nothing_of_each_other() {
    let server = Server::start();
    let stores = [client(server.address()), client(server.address())];
    let key = stores[0].auth_authority_key().await.unwrap().unwrap();
    assert!(key.starts_with("runtimestore:"), "{key}");
    let add = |store: Client, letter: u8| async move {
        for _ in 0..20 {
            let made = store
                .update_auth_oauth_flow_snapshot(|current| {
                    let mut next = current.unwrap_or_default().to_vec();
                    next.push(letter);
                    Ok::<_, runtimestore::Error>(next)
                })
                .await;
            made.unwrap();
        }
    };
    let [one, other] = stores.clone();
    tokio::join!(add(one, b'a'), add(other, b'b'));
    let found = stores[0].load_auth_oauth_flow_snapshot().await.unwrap();
    let bytes = found.snapshot_json.unwrap();
    assert_eq!((bytes.len(), found.version), (40, 40));
    assert_eq!(bytes.split(|&letter| letter == b'a').count(), 21);

    let refused: Result<_, String> =
        stores[0].update_auth_oauth_flow_snapshot(|_| Err(Failed("no".to_owned()))).await.map_err(|failed| failed.0);
    assert_eq!(refused.unwrap_err(), "no");
    assert_eq!(stores[0].load_auth_oauth_flow_snapshot().await.unwrap().version, 40);
    let replaced = stores[0].replace_auth_oauth_flow_snapshot(3, "x", RequestId::Chosen).await.unwrap_err();
    assert_eq!(replaced.reason(), Some(ErrorReason::OauthFlowSnapshotChanged));
    let written = stores[0].persist_auth_oauth_flow_snapshot(Bytes::from("y"), RequestId::Chosen).await.unwrap();
    assert_eq!(written.version, 41);
}

struct Failed(String);

impl From<runtimestore::Error> for Failed {
    fn from(error: runtimestore::Error) -> Self {
        Self(error.to_string())
    }
}

#[tokio::test]
async fn who_was_superseded_writes_no_more() {
    let server = Server::start();
    let (old, new) = (client(server.address()), client(server.address()));
    let options = WriteOptions::default();
    assert_eq!(old.acquire_runtime(RUNTIME, "old", RequestId::Chosen).await.unwrap().fence, 1);
    old.persist_input_state(RUNTIME, input(1, "queued"), options).await.unwrap();
    let acquired = new.acquire_runtime(RUNTIME, "new", RequestId::Chosen).await.unwrap();
    assert_eq!((acquired.fence, acquired.previous_owner.as_deref()), (2, Some("old")));
    let held_back = old.persist_input_state(RUNTIME, input(1, "staged"), options).await.unwrap_err();
    assert_eq!(held_back.reason(), Some(ErrorReason::Fenced));
    assert_eq!(held_back.text("owner"), Some("new"));
    new.persist_input_state(RUNTIME, input(1, "staged"), options).await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_at(&format!("unix:{}/store.sock", folder.path().display()));
    let store = client(server.address());
    store.persist_input_state(RUNTIME, input(1, "queued"), WriteOptions::default()).await.unwrap();
    assert_eq!(store.load_input_states(RUNTIME).await.unwrap().value, [input(1, "queued")]);
}

#[tokio::test]
async fn realms_see_nothing_of_each_other() {
    let server = Server::start();
    let one = Client::builder(server.address()).realm("one").build().unwrap();
    one.persist_input_state(RUNTIME, input(1, "queued"), WriteOptions::default()).await.unwrap();
    assert_eq!(client(server.address()).load_input_states(RUNTIME).await.unwrap().value, []);
    assert_eq!(one.load_input_states(RUNTIME).await.unwrap().value.len(), 1);
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_before_anything_is_sent() {
    for address in ["store", "store:0", "a:1,b:2", "::1:50051", "", "http://store"] {
        let refused = Client::builder(address).build().unwrap_err();
        assert!(refused.message().contains("HOST:PORT"), "{address}: {refused}");
    }
    let both = Client::builder("unix:/run/store.sock").tls(Tls::default()).build().unwrap_err();
    assert!(both.message().contains("Unix socket"), "{both}");
    let afar = Client::builder("10.0.0.7:50051").token("rst_secret").build().unwrap_err();
    assert!(afar.message().contains("TLS") && !afar.message().contains("secret"));
    let plain = Client::builder("https://10.0.0.7:50051").build().unwrap_err();
    assert!(plain.message().contains("give tls"), "{plain}");
    let malformed = Client::builder("127.0.0.1:1").token("rst_secret\n").build().unwrap_err();
    assert!(malformed.message().contains("end of line") && !malformed.message().contains("secret"));
}

#[test]
fn a_call_outside_of_a_runtime_is_refused_and_does_not_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = runtime.block_on(async { client("127.0.0.1:50051") });
    let mut call = pin!(store.get_server_info());
    let Poll::Ready(refused) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it waits");
    };
    assert!(refused.unwrap_err().message().contains("Tokio"));
}

#[tokio::test]
async fn nothing_that_is_shown_shows_a_secret_or_a_document() {
    let server = Server::start();
    let secret = || b"-----BEGIN PRIVATE KEY-----\nsecret".to_vec();
    let tls = Tls { identity: Some((secret().into(), secret().into())), ..Tls::default() };
    let settings = Client::builder(server.address()).token("rst_secret").tls(tls.clone());
    let store = Client::builder(server.address()).token("rst_secret").build().unwrap();
    store.persist_input_state(RUNTIME, input(1, "secret"), WriteOptions::default()).await.unwrap();
    store.persist_auth_oauth_flow_snapshot("secret", RequestId::Chosen).await.unwrap();
    let oauth = store.load_auth_oauth_flow_snapshot().await.unwrap();
    for shown in [format!("{settings:?}"), format!("{tls:?}"), format!("{store:?}"), format!("{oauth:?}")] {
        assert!(!shown.contains("secret") && !shown.contains(&format!("{:?}", b"secret")), "{shown}");
    }
    // The text of a key is taken for the path of a file: nothing of it is quoted.
    let text = String::from_utf8(secret()).unwrap();
    let identity = Some((Pem::from(text.as_str()), Pem::from(text.as_str())));
    let refused = Client::builder(server.address()).tls(Tls { identity, ..Tls::default() }).build().unwrap_err();
    assert!(!format!("{refused:?}").contains("secret"), "{refused:?}");
    assert_eq!(refused.message().contains("give its bytes"), cfg!(feature = "tls"));
}

#[test]
fn outside_of_a_runtime_no_client_is_built_and_nothing_panics() {
    let refused = Client::builder("127.0.0.1:50051").build().unwrap_err();
    assert!(refused.message().contains("Tokio"), "{refused}");
}
