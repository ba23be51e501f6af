//! A proxy between a client and a server that cuts connections and loses answers.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

/// A proxy on a port of its own.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// How many answers are lost yet, each with its connection.
    answers_to_lose: AtomicUsize,
    lost: AtomicUsize,
    /// After how many bytes of answers the connection is cut, once; 0: it is not.
    cut_after_bytes: AtomicUsize,
    sent_bytes: AtomicUsize,
    answered_bytes: AtomicUsize,
    connections: Mutex<Vec<TcpStream>>,
    closed: AtomicBool,
}

impl Proxy {
    /// Listens, and passes on what comes to the server at `target`.
    #[must_use]
    pub fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("our own address").to_string();
        let shared = Arc::new(Shared::default());
        let (target, served) = (target.to_owned(), Arc::clone(&shared));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if served.closed.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(server) = TcpStream::connect(&target) {
                    serve(&served, client, server);
                }
            }
        });
        Self { address, shared }
    }

    /// Tells where it listens: `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cuts the connection at each of the next answers, instead of passing it on.
    pub fn lose_answers(&self, count: usize) {
        self.shared.answers_to_lose.store(count, Ordering::SeqCst);
    }

    /// Cuts the connection once, when so many bytes of answers have been passed on: in the middle of a long one.
    pub fn cut_after(&self, bytes: usize) {
        self.shared.cut_after_bytes.store(bytes, Ordering::SeqCst);
    }

    /// Tells whether that came.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.shared.cut_after_bytes.load(Ordering::SeqCst) == 0
    }

    /// Tells how many answers were lost.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.shared.lost.load(Ordering::SeqCst)
    }

    /// Tells how many bytes came from clients.
    #[must_use]
    pub fn sent_bytes(&self) -> usize {
        self.shared.sent_bytes.load(Ordering::SeqCst)
    }

    /// Tells how many bytes came from the server.
    #[must_use]
    pub fn answered_bytes(&self) -> usize {
        self.shared.answered_bytes.load(Ordering::SeqCst)
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        let mut connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address); // wakes the listener
        self.cut();
    }
}

fn serve(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    let (Ok(client_side), Ok(server_side)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    let (Ok(kept_client), Ok(kept_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    shared.connections.lock().unwrap_or_else(PoisonError::into_inner).extend([kept_client, kept_server]);
    let (sending, answering) = (Arc::clone(shared), Arc::clone(shared));
    thread::spawn(move || {
        pass(client, server_side, |bytes| {
            sending.sent_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
            true
        });
    });
    thread::spawn(move || {
        pass(server, client_side, |bytes| {
            answering.answered_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
            !is_lost(&answering, bytes) && !is_cut(&answering, bytes)
        });
    });
}

/// Whether a piece of the server's side is an answer that is to be lost. Frames without content, such as pings and
/// windows, are no answers.
fn is_lost(shared: &Shared, bytes: &[u8]) -> bool {
    const LONGEST_CONTROL_BYTES: usize = 60;
    if bytes.len() <= LONGEST_CONTROL_BYTES {
        return false;
    }
    let one_less = |left: usize| left.checked_sub(1);
    let is_lost = shared.answers_to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok();
    if is_lost {
        shared.lost.fetch_add(1, Ordering::SeqCst);
    }
    is_lost
}

/// Whether as much as was to be passed on has been.
fn is_cut(shared: &Shared, bytes: &[u8]) -> bool {
    let less = |left: usize| (left > 0).then(|| left.saturating_sub(bytes.len()));
    let before = shared.cut_after_bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    before.is_ok_and(|left| left <= bytes.len())
}

fn pass(mut from: TcpStream, mut to: TcpStream, may_pass: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !may_pass(&buffer[..count]) || to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
