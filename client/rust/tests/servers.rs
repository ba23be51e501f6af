//! Several servers of one store: in one name, or at several addresses.

mod support;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use runtimestore::{
    Client, RetryPolicy,
    types::{RequestId, WriteOptions},
};
use runtimestore_testing::Server;
use support::{RUNTIME, client, input};
use tokio::sync::Semaphore;
use tonic::Code;

const NAME: &str = "store.test:50051";
const ONCE: RetryPolicy = RetryPolicy {
    max_attempts: Some(1),
    initial_backoff: Duration::ZERO,
    max_backoff: Duration::ZERO,
    backoff_multiplier: 1.0,
};
/// How long something may take that is waited for, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a name stands for, as a name server would tell it, and how often it told.
#[derive(Clone)]
struct Name {
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    told: Arc<Semaphore>,
}

impl Name {
    fn of(servers: &[&Server]) -> Self {
        let name = Self { servers: Arc::default(), told: Arc::new(Semaphore::new(0)) };
        name.stands_for(servers);
        name
    }

    fn stands_for(&self, servers: &[&Server]) {
        *self.servers.lock().unwrap() = servers.iter().map(|server| server.address().parse().unwrap()).collect();
    }

    fn look_up(&self) -> impl Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static {
        let name = self.clone();
        move |host, port| {
            assert_eq!(format!("{host}:{port}"), NAME);
            let servers = name.servers.lock().unwrap().clone();
            name.told.add_permits(1);
            Ok(servers)
        }
    }

    async fn was_told(&self) {
        self.told.acquire().await.unwrap().forget();
    }
}

async fn write(store: &Client, number: u128) {
    store.persist_input_state(RUNTIME, input(number, "queued"), WriteOptions::default()).await.unwrap();
}

async fn count(server: &Server) -> usize {
    client(server.address()).load_input_states(RUNTIME).await.unwrap().value.len()
}

/// Writes until a server gets what is written. Each has a store of its own here, which tells where a call went.
async fn written_until_some_reach(server: &Server, store: &Client, mut number: u128) {
    let (until, before) = (Instant::now() + PATIENCE, count(server).await);
    while count(server).await == before {
        assert!(Instant::now() < until, "no call reaches the server");
        write(store, number).await;
        number += 1;
    }
}

/// Starts a killed server again, while calls go on.
async fn served_again(mut server: Server) -> Server {
    let started = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    started.await.unwrap()
}

#[tokio::test]
async fn calls_are_spread_over_the_servers_of_a_name_and_follow_it() {
    let (mut one, other, third) = (Server::start(), Server::start(), Server::start());
    let name = Name::of(&[&one, &other]);
    let store = Client::builder(NAME).look_up(name.look_up()).build().unwrap();
    written_until_some_reach(&one, &store, 0).await;
    written_until_some_reach(&other, &store, 0).await;
    let before = (count(&one).await, count(&other).await);
    for number in 100..120 {
        write(&store, number).await;
    }
    assert_eq!((count(&one).await, count(&other).await), (before.0 + 10, before.1 + 10));

    one.kill();
    for number in 200..220 {
        write(&store, number).await;
    }
    assert_eq!(count(&other).await, before.1 + 30);

    let mut one = served_again(one).await;
    written_until_some_reach(&one, &store, 300).await;

    one.kill();
    name.stands_for(&[&third, &other]);
    written_until_some_reach(&third, &store, 400).await;
}

#[tokio::test]
async fn a_server_at_an_address_of_its_own_gets_calls_again_when_it_is_back() {
    let (mut one, other) = (Server::start(), Server::start());
    let store = Client::builder(one.address()).also_at(other.address()).build().unwrap();
    written_until_some_reach(&one, &store, 0).await;
    one.kill();
    for number in 100..120 {
        write(&store, number).await;
    }
    let one = served_again(one).await;
    written_until_some_reach(&one, &store, 200).await;
}

#[tokio::test]
async fn a_server_that_is_replaced_at_another_address_is_found_by_its_name() {
    let (mut old, new) = (Server::start(), Server::start());
    let name = Name::of(&[&old]);
    let store = Client::builder(NAME).look_up(name.look_up()).timeout(PATIENCE).build().unwrap();
    write(&store, 1).await;
    old.kill();
    name.stands_for(&[&new]);
    write(&store, 2).await;
    assert_eq!(count(&new).await, 1);
}

#[tokio::test]
async fn a_name_that_is_not_known_yet_is_waited_for_and_one_that_stays_so_is_told() {
    let server = Server::start();
    let name = Name::of(&[]);
    let builder = || Client::builder(NAME).look_up(name.look_up());
    let refused = builder().retry(ONCE).build().unwrap().get_server_info().await.unwrap_err();
    assert_eq!((refused.reason(), refused.code()), (None, Code::Unavailable));
    assert!(refused.message().contains("store.test cannot be looked up"), "{refused}");
    name.was_told().await;

    let store = builder().timeout(PATIENCE).build().unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move { write(&store, 1).await }
    });
    name.was_told().await;
    name.stands_for(&[&server]);
    writing.await.unwrap();
    assert_eq!(count(&server).await, 1);
}

#[tokio::test]
async fn a_name_is_looked_up_by_the_operating_system_unless_told() {
    let server = Server::start();
    let port = server.address().rsplit_once(':').unwrap().1;
    // Where it is ::1 as well, nobody serves there.
    let store = Client::builder(format!("localhost:{port}")).token("rst_ignored").build().unwrap();
    for number in 0..5 {
        write(&store, number).await;
    }
    assert_eq!(count(&server).await, 5);
}

#[tokio::test]
async fn no_call_is_lost_to_a_server_that_hangs() {
    let server = Server::start();
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = hangs.local_addr().unwrap().to_string();
    let store = Client::builder(hanging).also_at(server.address()).retry(ONCE).build().unwrap();
    for number in 0..20 {
        write(&store, number).await;
    }
}

#[tokio::test]
async fn what_a_client_refuses_by_itself_says_nothing_of_a_server() {
    let servers = [Server::start(), Server::start()];
    let builder = Client::builder(servers[0].address()).also_at(servers[1].address()).retry(ONCE);
    let store = builder.max_message_bytes(10_000).build().unwrap();
    written_until_some_reach(&servers[0], &store, 0).await;
    written_until_some_reach(&servers[1], &store, 100).await;
    let before = (count(&servers[0]).await, count(&servers[1]).await);
    let too_large = "x".repeat(20_000);
    for number in 0..10 {
        let refused = store.persist_ops_lifecycle(RUNTIME, too_large.clone(), WriteOptions::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::OutOfRange);
        write(&store, 200 + 2 * number).await;
        write(&store, 201 + 2 * number).await;
    }
    assert_eq!((count(&servers[0]).await, count(&servers[1]).await), (before.0 + 10, before.1 + 10));
}

#[tokio::test]
async fn where_no_connection_can_be_made_the_call_goes_on_to_the_next_server_and_is_no_repeat() {
    let (mut dead, mut back) = (Server::start(), Server::start());
    dead.kill();
    back.kill();
    let of_both = |_| Client::builder(dead.address()).also_at(back.address()).retry(ONCE).build().unwrap();
    let stores: Vec<Client> = (0..16).map(of_both).collect();
    for store in &stores {
        let refused = store.get_server_info().await.unwrap_err();
        assert!(refused.message().contains("refused"), "{refused}");
    }
    back.restart();
    for (number, store) in (0..).zip(&stores) {
        let options = WriteOptions { request_id: RequestId::None, ..WriteOptions::default() };
        store.persist_input_state(RUNTIME, input(number, "queued"), options).await.unwrap();
    }
    assert_eq!(count(&back).await, 16);
}

#[tokio::test]
async fn a_token_does_not_follow_a_name_to_another_machine() {
    let elsewhere = |_: &str, port| Ok(vec![SocketAddr::from(([127, 0, 0, 1], port)), ([10, 0, 0, 7], port).into()]);
    let store = Client::builder("localhost:50051").look_up(elsewhere).token("rst_secret").build().unwrap();
    let refused = store.get_server_info().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("TLS") && !refused.message().contains("secret"), "{refused}");
}

#[test]
fn connections_outlive_the_runtime_of_a_caller() {
    let servers = [Server::start(), Server::start()];
    let name = Name::of(&[&servers[0], &servers[1]]);
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let home = runtime();
    let store = home.block_on(async { Client::builder(NAME).look_up(name.look_up()).build().unwrap() });
    for number in 0..3 {
        runtime().block_on(write(&store, number));
    }
    assert_eq!(home.block_on(async { count(&servers[0]).await + count(&servers[1]).await }), 3);
}

#[test]
fn a_client_whose_runtime_has_ended_says_so_and_does_not_hang() {
    let server = Server::start();
    let name = Name::of(&[&server]);
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let home = runtime();
    let stores = home.block_on(async {
        let several = Client::builder(server.address()).also_at("127.0.0.1:1").build().unwrap();
        let named = Client::builder(NAME).look_up(name.look_up()).build().unwrap();
        let used = client(server.address());
        write(&used, 1).await;
        [several, named, used]
    });
    drop(home);
    for store in stores {
        let refused = runtime().block_on(store.get_server_info()).unwrap_err();
        assert!(refused.message().contains("in which the client was built has ended"), "{refused:?}");
    }
}
