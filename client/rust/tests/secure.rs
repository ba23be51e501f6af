//! The client with TLS and tokens.
#![cfg(feature = "tls")]

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use runtimestore::{Client, ErrorReason, RetryPolicy, Tls, Token, errors::Error, types::WriteOptions};
use runtimestore_testing::SecureServer;
use support::{RUNTIME, input};

fn tls(server: &SecureServer) -> Tls {
    let identity = (server.certificate("client.pem").into(), server.certificate("client.key").into());
    Tls { ca: Some(server.certificate("ca.pem").into()), identity: Some(identity), server_name: None }
}

#[tokio::test]
async fn who_shows_a_token_over_tls_comes_in_as_far_as_the_token_opens() {
    let secure = SecureServer::start();
    let address = secure.server.address();
    let retry = RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() };
    let builder = |realm: &str| Client::builder(address).realm(realm).tls(tls(&secure)).retry(retry);
    let write =
        async |store: Client| store.persist_input_state(RUNTIME, input(1, "queued"), WriteOptions::default()).await;
    let reason = |refused: Result<_, Error>| refused.map(|_: runtimestore::types::Commit| ()).unwrap_err().reason();

    let (writer, reader) = (secure.add_token("mine", "write"), secure.add_token("mine", "read"));
    write(builder("mine").token(writer.as_str()).build().unwrap()).await.unwrap();
    let nobody = builder("mine").build().unwrap();
    assert_eq!(reason(write(nobody).await), Some(ErrorReason::Unauthenticated));
    let other = builder("other").token(writer.as_str()).build().unwrap();
    assert_eq!(reason(write(other).await), Some(ErrorReason::RealmNotAllowed));
    let only_reads = builder("mine").token(reader).build().unwrap();
    assert_eq!(only_reads.load_input_states(RUNTIME).await.unwrap().value.len(), 1);
    assert_eq!(reason(write(only_reads).await), Some(ErrorReason::AccessNotAllowed));

    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let token = Token::Asked(Arc::new(move || {
        counting.fetch_add(1, Ordering::SeqCst);
        writer.clone()
    }));
    let store = builder("mine").token(token).build().unwrap();
    store.get_server_info().await.unwrap();
    store.get_server_info().await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2, "it is asked before each attempt");

    let shows_none = Tls { identity: None, ..tls(&secure) };
    let stranger = Client::builder(address).tls(shows_none).retry(retry).build().unwrap();
    assert!(stranger.get_server_info().await.unwrap_err().reason().is_none(), "the server wants a certificate");
    let unknown_ca = Client::builder(address).tls(Tls::default()).retry(retry).build().unwrap();
    let refused = unknown_ca.get_server_info().await.unwrap_err();
    assert!(refused.reason().is_none() && refused.message().contains("certificate"), "{refused}");
}

#[tokio::test]
async fn a_server_is_known_by_the_name_that_was_asked_for() {
    let secure = SecureServer::start();
    let at: SocketAddr = secure.server.address().parse().unwrap();
    let token = secure.add_token("mine", "read");
    let retry = RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() };
    let found = |address: String, tls| {
        let builder = Client::builder(address).look_up(move |_, _| Ok(vec![at])).realm("mine").token(token.as_str());
        builder.tls(tls).retry(retry).build().unwrap()
    };
    let named = |name: &str| Tls { server_name: Some(name.to_owned()), ..tls(&secure) };
    // The certificate is for `server`, among others, and for no `elsewhere`.
    found("server:50051".to_owned(), tls(&secure)).get_server_info().await.unwrap();
    found(at.to_string(), named("server")).get_server_info().await.unwrap();
    found("elsewhere:50051".to_owned(), named("server")).get_server_info().await.unwrap();
    for store in [found("elsewhere:50051".to_owned(), tls(&secure)), found(at.to_string(), named("elsewhere"))] {
        let refused = store.get_server_info().await.unwrap_err();
        assert!(refused.reason().is_none() && refused.message().contains("certificate"), "{refused}");
    }
}
