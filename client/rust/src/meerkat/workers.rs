//! The threads on which a store's connections live.

use std::{future::Future, sync::mpsc};

use meerkat_runtime::store::RuntimeStoreError;
use tokio::runtime::{Builder, Handle, Runtime};
use tonic::Code;

use crate::errors::Error;

/// How many there are: encoding and decoding are all that they do.
const WORKERS: usize = 2;

/// The runtime in which the connections live. Dropping it waits for nothing, as it must not inside of another one.
pub(super) struct Workers {
    handle: Handle,
    /// Taken when this is dropped.
    runtime: Option<Runtime>,
}

impl Workers {
    pub(super) fn start() -> Result<Self, RuntimeStoreError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(WORKERS).thread_name("runtimestore").enable_all().build();
        let runtime = runtime.map_err(|error| RuntimeStoreError::Internal(format!("no threads: {error}")))?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs a call there, and waits for it as tasks do.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        self.handle.spawn(call).await.unwrap_or_else(|error| Err(Error::call_failed(Code::Internal, error.to_string())))
    }

    /// Runs a call there, and holds this thread until it has ended: whatever runtime the thread is of, it is not asked.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (told, ended) = mpsc::sync_channel(1);
        self.handle.spawn(async move { told.send(call.await) });
        ended.recv().unwrap_or_else(|_| Err(Error::call_failed(Code::Internal, "the call ended without an answer")))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
