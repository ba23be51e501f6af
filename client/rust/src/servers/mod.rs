//! Knows the servers of a store, and chooses the one of a call's next attempt: the next one of those that answer.
//!
//! A server that did not answer gets no more calls until it has answered a question of the client's own: whether it is
//! healthy, which any server tells anybody. So no call waits for a server that hangs, or for a machine that is gone,
//! while others answer. Where there is one server only it gets all calls, and is asked nothing.
//!
//! A name is looked up before the first call, and again a while after one of its servers did not answer: those that it
//! stands for then are its servers.

mod channels;
mod health;
mod home;
mod names;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub(crate) use channels::{channel_to, endpoint_of};
use health::is_there;
use home::{home_ended, watch};
pub(crate) use names::Names;
use tokio::{
    runtime::Handle,
    sync::{Notify, OnceCell, oneshot},
    time::sleep,
};
use tonic::transport::{Channel, Endpoint};

use crate::{errors::Result, retry::RetryPolicy};

/// When a server that did not answer is asked again.
const ASKED_AGAIN: RetryPolicy = RetryPolicy {
    max_attempts: None,
    initial_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(5),
    backoff_multiplier: 2.0,
};
/// How long after a server did not answer its name is looked up again; who puts another in its place needs a moment.
const LOOKED_UP_AFTER: Duration = Duration::from_secs(1);
/// How long after a name was not found it is looked up again, where others answer meanwhile.
const NOT_FOUND_AFTER: Duration = Duration::from_secs(10);

/// What one address stands for.
#[derive(Debug)]
pub(crate) enum Place {
    /// One server, always.
    Fixed(Channel),
    /// Those that a name stands for.
    Named {
        /// The name.
        host: String,
        /// The port of all of them.
        port: u16,
        /// How they are spoken to.
        endpoint: Box<Endpoint>,
    },
}

/// A server: the place that it belongs to, and which one of that place it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ServerId {
    place: usize,
    at: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody knows yet.
    Untried,
    /// It answered last.
    Answers,
    /// It did not.
    Silent,
}

#[derive(Debug)]
struct Server {
    id: ServerId,
    channel: Channel,
    standing: Standing,
    /// Whether it is being asked.
    is_asked: bool,
}

impl Server {
    fn new(id: ServerId, channel: Channel) -> Self {
        Self { id, channel, standing: Standing::Untried, is_asked: false }
    }
}

/// The servers of one store.
#[derive(Debug)]
pub(crate) struct Servers {
    shared: Arc<Shared>,
    /// Ends with this.
    _watch: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    places: Vec<Place>,
    names: Names,
    /// Where connections live. The caller of a call may be in another runtime, which ends before this one.
    runtime: Handle,
    /// It did.
    has_ended: AtomicBool,
    known: Mutex<Known>,
    first_look: OnceCell<()>,
    next: AtomicUsize,
    /// Somebody's standing changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    servers: Vec<Server>,
    /// The places whose name is being looked up again.
    looked_up: Vec<usize>,
}

impl Servers {
    pub(crate) fn new(places: Vec<Place>, names: Names, runtime: Handle) -> Self {
        let fixed = places.iter().enumerate().filter_map(|(place, what)| match what {
            Place::Fixed(channel) => Some(Server::new(ServerId { place, at: None }, channel.clone())),
            Place::Named { .. } => None,
        });
        let known = Mutex::new(Known { servers: fixed.collect(), looked_up: Vec::new() });
        let (has_ended, first_look) = (AtomicBool::new(false), OnceCell::new());
        let (next, changed) = (AtomicUsize::new(0), Notify::new());
        let shared = Arc::new(Shared { places, names, runtime, has_ended, known, first_look, next, changed });
        let watch = watch(&shared);
        Self { shared, _watch: watch }
    }

    /// Counts the servers that are known.
    pub(crate) fn count(&self) -> usize {
        self.shared.lock().servers.len()
    }

    /// Takes the next server that answers; where none is known to, one that did not.
    ///
    /// # Errors
    ///
    /// No server is known, since no name can be looked up; or the runtime of the connections has ended.
    pub(crate) async fn take(&self) -> Result<(ServerId, Channel)> {
        loop {
            let changed = self.shared.changed.notified();
            if self.shared.has_ended.load(Ordering::SeqCst) {
                return Err(home_ended());
            }
            self.shared.first_look.get_or_try_init(|| self.shared.look_up_all()).await?;
            if let Some(taken) = self.shared.choose() {
                return Ok(taken);
            }
            changed.await;
        }
    }

    /// Tells whether a server answered, be it by a refusal.
    pub(crate) fn answered(&self, id: ServerId, answered: bool) {
        let mut known = self.shared.lock();
        let several = known.servers.len() > 1;
        let Some(server) = known.servers.iter_mut().find(|server| server.id == id) else {
            return;
        };
        server.standing = if answered { Standing::Answers } else { Standing::Silent };
        if !answered {
            if several {
                self.shared.ask(server);
            }
            self.shared.look_up_again(&mut known, id.place, LOOKED_UP_AFTER);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses a server; `None` where it is not known yet whether any answers.
    fn choose(&self) -> Option<(ServerId, Channel)> {
        let known = self.lock();
        let answering = || known.servers.iter().filter(|server| server.standing == Standing::Answers);
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let count = answering().count();
        let chosen = if count > 0 {
            answering().nth(next % count)
        } else if known.servers.len() > 1 && known.servers.iter().any(|server| server.standing == Standing::Untried) {
            None
        } else {
            known.servers.get(next % known.servers.len().max(1))
        };
        chosen.map(|server| (server.id, server.channel.clone()))
    }

    /// Looks all names up for the first time.
    async fn look_up_all(self: &Arc<Self>) -> Result<()> {
        let mut failed = None;
        for place in 0..self.places.len() {
            if let Err(error) = self.look_up(place).await {
                failed = Some((place, error));
            }
        }
        let mut known = self.lock();
        match failed {
            Some((_, error)) if known.servers.is_empty() => return Err(error),
            Some((place, _)) => self.look_up_again(&mut known, place, NOT_FOUND_AFTER),
            None => {}
        }
        self.ask_untried(&mut known);
        Ok(())
    }

    /// Looks a name up: those that it stands for now are its servers, and those that stay keep their connections.
    async fn look_up(&self, place: usize) -> Result<()> {
        let Place::Named { host, port, endpoint } = &self.places[place] else {
            return Ok(());
        };
        let found = self.names.look_up(&self.runtime, host, *port).await?;
        let _here = self.runtime.enter();
        let mut known = self.lock();
        known.servers.retain(|server| server.id.place != place || server.id.at.is_some_and(|at| found.contains(&at)));
        for at in found {
            let id = ServerId { place, at: Some(at) };
            if !known.servers.iter().any(|server| server.id == id) {
                known.servers.push(Server::new(id, channel_to(endpoint, at)));
            }
        }
        Ok(())
    }

    /// Looks the name of a place up again after a while, unless that is under way.
    fn look_up_again(self: &Arc<Self>, known: &mut Known, place: usize, after: Duration) {
        if matches!(self.places[place], Place::Fixed(_)) || known.looked_up.contains(&place) {
            return;
        }
        known.looked_up.push(place);
        let shared = Arc::downgrade(self);
        self.runtime.spawn(async move {
            sleep(after).await;
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let found = shared.look_up(place).await;
            let mut known = shared.lock();
            known.looked_up.retain(|&other| other != place);
            if found.is_err() {
                shared.look_up_again(&mut known, place, NOT_FOUND_AFTER);
            }
            shared.ask_untried(&mut known);
            // Those who wait for a server that is gone choose again.
            shared.changed.notify_waiters();
        });
    }

    /// Asks those servers of several of which nobody knows whether they answer.
    fn ask_untried(self: &Arc<Self>, known: &mut Known) {
        if known.servers.len() > 1 {
            for server in known.servers.iter_mut().filter(|server| server.standing != Standing::Answers) {
                self.ask(server);
            }
        }
    }

    /// Asks a server until it answers, or is none of the servers any more.
    fn ask(self: &Arc<Self>, server: &mut Server) {
        if std::mem::replace(&mut server.is_asked, true) {
            return;
        }
        let (shared, id, channel) = (Arc::downgrade(self), server.id, server.channel.clone());
        self.runtime.spawn(async move {
            for attempts in 1.. {
                let answered = is_there(channel.clone()).await;
                let is_asked_on = shared.upgrade().is_some_and(|shared| shared.was_asked(id, answered));
                if !is_asked_on {
                    return;
                }
                sleep(ASKED_AGAIN.pause(attempts)).await;
            }
        });
    }

    /// Notes what a server that was asked did, and tells whether it is asked again.
    fn was_asked(self: &Arc<Self>, id: ServerId, answered: bool) -> bool {
        let mut known = self.lock();
        let several = known.servers.len() > 1;
        let Some(server) = known.servers.iter_mut().find(|server| server.id == id) else {
            return false;
        };
        server.standing = if answered { Standing::Answers } else { Standing::Silent };
        server.is_asked = !answered && several;
        let is_asked_on = server.is_asked;
        if !answered {
            self.look_up_again(&mut known, id.place, LOOKED_UP_AFTER);
        }
        self.changed.notify_waiters();
        is_asked_on
    }
}
