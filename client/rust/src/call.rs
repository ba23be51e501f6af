//! The one path of every call: attempts under one deadline and one request id, failures by their reason.

use std::future::Future;

use tokio::{
    runtime::Handle,
    time::{sleep, timeout_at},
};
use tonic::{Code, Request, Response, Status, Streaming, transport::Channel};

use crate::{
    credentials::Token,
    errors::{Error, Result},
    forms::{Forms, RuntimeWrite},
    retry::{Attempts, Deadline, Kind, RetryPolicy},
    servers::Servers,
    streams::Assembler,
    v1::{
        self, runtime_store_admin_client::RuntimeStoreAdminClient as Admin,
        runtime_store_client::RuntimeStoreClient as Store,
    },
};

/// A message that asks for one answer.
pub(crate) trait Unary: prost::Message + Clone + 'static {
    type Answer: Send;

    fn send(
        self_: Request<Self>,
        channel: Channel,
        max_message_bytes: usize,
    ) -> impl Future<Output = std::result::Result<Response<Self::Answer>, Status>> + Send;
}

/// A message that asks for a stream.
pub(crate) trait Streamed: prost::Message + Clone + 'static {
    type Part: Send;

    fn send(
        self_: Request<Self>,
        channel: Channel,
        max_message_bytes: usize,
    ) -> impl Future<Output = std::result::Result<Response<Streaming<Self::Part>>, Status>> + Send;
}

macro_rules! methods {
    ($($service:ident.$method:ident($request:ident) -> $answer:ident;)*) => {$(
        impl Unary for v1::$request {
            type Answer = v1::$answer;

            async fn send(
                request: Request<Self>,
                channel: Channel,
                max_message_bytes: usize,
            ) -> std::result::Result<Response<Self::Answer>, Status> {
                limited!($service, channel, max_message_bytes).$method(request).await
            }
        }
    )*};
    ($($service:ident.$method:ident($request:ident) -> stream $answer:ident;)*) => {$(
        impl Streamed for v1::$request {
            type Part = v1::$answer;

            async fn send(
                request: Request<Self>,
                channel: Channel,
                max_message_bytes: usize,
            ) -> std::result::Result<Response<Streaming<Self::Part>>, Status> {
                limited!($service, channel, max_message_bytes).$method(request).await
            }
        }
    )*};
}

macro_rules! limited {
    ($service:ident, $channel:expr, $bytes:expr) => {
        $service::new($channel).max_decoding_message_size($bytes).max_encoding_message_size($bytes)
    };
}

methods! {
    Store.auth_authority_key(AuthAuthorityKeyRequest) -> AuthAuthorityKeyResponse;
    Store.persist_auth_o_auth_flow_snapshot(PersistAuthOAuthFlowSnapshotRequest) -> PersistAuthOAuthFlowSnapshotResponse;
    Store.load_auth_o_auth_flow_snapshot(LoadAuthOAuthFlowSnapshotRequest) -> LoadAuthOAuthFlowSnapshotResponse;
    Store.update_auth_o_auth_flow_snapshot(UpdateAuthOAuthFlowSnapshotRequest) -> UpdateAuthOAuthFlowSnapshotResponse;
    Store.commit_session_snapshot(CommitSessionSnapshotRequest) -> CommitSessionSnapshotResponse;
    Store.atomic_apply(AtomicApplyRequest) -> AtomicApplyResponse;
    Store.load_boundary_receipt(LoadBoundaryReceiptRequest) -> LoadBoundaryReceiptResponse;
    Store.persist_input_state(PersistInputStateRequest) -> PersistInputStateResponse;
    Store.load_input_state(LoadInputStateRequest) -> LoadInputStateResponse;
    Store.load_runtime_state(LoadRuntimeStateRequest) -> LoadRuntimeStateResponse;
    Store.commit_machine_lifecycle(CommitMachineLifecycleRequest) -> CommitMachineLifecycleResponse;
    Store.persist_ops_lifecycle(PersistOpsLifecycleRequest) -> PersistOpsLifecycleResponse;
    Store.load_ops_lifecycle(LoadOpsLifecycleRequest) -> LoadOpsLifecycleResponse;
    Admin.list_session_versions(ListSessionVersionsRequest) -> ListSessionVersionsResponse;
    Admin.acquire_runtime(AcquireRuntimeRequest) -> AcquireRuntimeResponse;
    Admin.get_server_info(GetServerInfoRequest) -> GetServerInfoResponse;
}

methods! {
    Store.load_input_states(LoadInputStatesRequest) -> stream LoadInputStatesResponse;
    Store.load_session_snapshot(LoadSessionSnapshotRequest) -> stream LoadSessionSnapshotResponse;
    Admin.load_runtime(LoadRuntimeRequest) -> stream LoadRuntimeResponse;
}

/// Sends calls: to the next server that answers, again where that is safe.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) servers: Servers,
    pub(crate) token: Option<Token>,
    pub(crate) retry: RetryPolicy,
    pub(crate) max_message_bytes: usize,
}

/// What is sent in each attempt of a call, and what its answer is.
trait Attempt {
    type Value;

    fn run(
        &mut self,
        caller: &Caller,
        channel: Channel,
        deadline: Deadline,
    ) -> impl Future<Output = Result<Self::Value>> + Send;

    /// Whether another form of the request, which was refused, is sent now, without a pause.
    fn instead(&mut self, error: &Error) -> bool;
}

impl Caller {
    /// Asks for one answer.
    pub(crate) async fn unary<Q: Unary>(&self, request: Q, kind: Kind, deadline: Deadline) -> Result<Q::Answer> {
        self.call(UnaryCall(request), kind, deadline).await
    }

    /// Writes to a runtime, in the short form first.
    pub(crate) async fn write<W: Unary + RuntimeWrite>(
        &self,
        forms: &mut Forms<'_, W>,
        deadline: Deadline,
    ) -> Result<W::Answer> {
        let kind = Kind::Write { request_id: forms.request.request_id().to_owned() };
        self.call(WriteCall(forms), kind, deadline).await
    }

    /// Reads a stream to its end.
    pub(crate) async fn stream<Q: Streamed, A: Assembler<Message = Q::Part> + Send>(
        &self,
        request: Q,
        new_assembler: impl Fn() -> A + Send + Sync,
        deadline: Deadline,
    ) -> Result<A::Value> {
        self.call(StreamCall { request, new_assembler }, Kind::Load, deadline).await
    }

    async fn call<A: Attempt>(&self, mut attempt: A, kind: Kind, deadline: Deadline) -> Result<A::Value> {
        // Waiting would panic.
        if Handle::try_current().is_err() {
            return Err(Error::invalid_argument("a call is awaited within a Tokio runtime: it waits by its clock"));
        }
        let mut attempts = Attempts::new(self.retry, deadline, kind);
        let mut not_reached = 0;
        loop {
            attempts.begin()?;
            let error = match self.attempt(&mut attempt, deadline).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if attempt.instead(&error) {
                continue;
            }
            // Nothing was sent, so the next server is tried at once, and each once.
            if error.is_not_connected() && not_reached + 1 < self.servers.count() {
                not_reached += 1;
                attempts.not_made();
                continue;
            }
            not_reached = 0;
            sleep(attempts.failed(error)?).await;
        }
    }

    /// Sends one attempt to the next server, and notes whether that answered.
    async fn attempt<A: Attempt>(&self, attempt: &mut A, deadline: Deadline) -> Result<A::Value> {
        let (server, channel) = match timeout_at(deadline.at, self.servers.take()).await {
            Ok(taken) => taken?,
            Err(_) => return Err(deadline.exceeded_unsent()),
        };
        let ended = match timeout_at(deadline.at, attempt.run(self, channel, deadline)).await {
            // The transport and the server go by the same deadline, and may be the first to see it pass.
            Ok(Err(error)) if is_deadline(&error, deadline) => Err(deadline.exceeded()),
            Ok(ended) => ended,
            Err(_) => Err(deadline.exceeded()),
        };
        if let Some(answered) = ended.as_ref().map_or_else(Error::is_answer, |_| Some(true)) {
            self.servers.answered(server, answered);
        }
        ended
    }

    fn request<Q: prost::Message>(&self, message: Q, deadline: Deadline) -> Result<Request<Q>> {
        // The transport would reset the stream, as if something had gone wrong on its way, and be asked again.
        let (bytes, most) = (message.encoded_len(), self.max_message_bytes);
        if bytes > most {
            let message = format!("the request is {bytes} bytes; at most {most} are sent");
            return Err(Error::never_sent(Code::OutOfRange, message));
        }
        let mut request = Request::new(message);
        request.set_timeout(deadline.left());
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.metadata()?);
        }
        Ok(request)
    }
}

/// Whether an attempt ended since the call's time is up.
fn is_deadline(error: &Error, deadline: Deadline) -> bool {
    error.reason().is_none()
        && match error.code() {
            Code::DeadlineExceeded => true,
            Code::Cancelled | Code::Unknown => deadline.left().is_zero(),
            _ => false,
        }
}

struct UnaryCall<Q>(Q);

impl<Q: Unary> Attempt for UnaryCall<Q> {
    type Value = Q::Answer;

    async fn run(&mut self, caller: &Caller, channel: Channel, deadline: Deadline) -> Result<Q::Answer> {
        let request = caller.request(self.0.clone(), deadline)?;
        Ok(Q::send(request, channel, caller.max_message_bytes).await?.into_inner())
    }

    fn instead(&mut self, _error: &Error) -> bool {
        false
    }
}

struct WriteCall<'a, 'b, W>(&'a mut Forms<'b, W>);

impl<W: Unary + RuntimeWrite> Attempt for WriteCall<'_, '_, W> {
    type Value = W::Answer;

    async fn run(&mut self, caller: &Caller, channel: Channel, deadline: Deadline) -> Result<W::Answer> {
        let request = caller.request(self.0.request.clone(), deadline)?;
        Ok(W::send(request, channel, caller.max_message_bytes).await?.into_inner())
    }

    fn instead(&mut self, error: &Error) -> bool {
        self.0.instead(error)
    }
}

struct StreamCall<Q, N> {
    request: Q,
    new_assembler: N,
}

impl<Q, A, N> Attempt for StreamCall<Q, N>
where
    Q: Streamed,
    A: Assembler<Message = Q::Part> + Send,
    N: Fn() -> A + Send + Sync,
{
    type Value = A::Value;

    async fn run(&mut self, caller: &Caller, channel: Channel, deadline: Deadline) -> Result<A::Value> {
        let request = caller.request(self.request.clone(), deadline)?;
        let response = Q::send(request, channel, caller.max_message_bytes).await?;
        // Of a stream without a message the end may come with the beginning.
        let (mut told, mut stream, _) = response.into_parts();
        let mut assembler = (self.new_assembler)();
        while let Some(message) = stream.message().await? {
            assembler.add(message)?;
        }
        if let Some(trailers) = stream.trailers().await? {
            told = trailers;
        }
        assembler.finish(&told)
    }

    fn instead(&mut self, _error: &Error) -> bool {
        false
    }
}
