//! Puts the messages of one stream together and checks them. A stream that breaks is read again from the start.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tonic::{Code, metadata::MetadataMap};

use crate::{
    errors::{Error, ErrorReason},
    known::KnownSession,
    types::{
        CommittedReceipt, CorruptInput, InputState, Loaded, LoadedRuntime, ReadableInputStates, RunBoundaryReceipt,
        RuntimeState,
    },
    v1,
};

const REVISION_KEY: &str = "runtimestore-revision";

/// Takes a stream's messages and makes a value of them once it has ended well.
pub(crate) trait Assembler {
    type Message;
    type Value;

    fn add(&mut self, message: Self::Message) -> Result<(), Error>;

    /// Makes the value; `told` is the metadata that came with the stream's end.
    fn finish(self, told: &MetadataMap) -> Result<Self::Value, Error>;
}

fn out_of_place(what: &str) -> Error {
    Error::call_failed(Code::Internal, what)
}

/// Puts the batches of `LoadInputStates` together.
#[derive(Debug, Default)]
pub(crate) struct InputBatches {
    states: Vec<InputState>,
    corrupt: Vec<CorruptInput>,
    revision: Option<u64>,
}

impl Assembler for InputBatches {
    type Message = v1::LoadInputStatesResponse;
    type Value = ReadableInputStates;

    fn add(&mut self, message: Self::Message) -> Result<(), Error> {
        self.revision.get_or_insert(message.revision);
        for stored in message.input_states {
            self.states.push(InputState::from_wire(stored)?);
        }
        let corrupt = message.corrupt_inputs.into_iter();
        self.corrupt.extend(corrupt.map(|one| CorruptInput { input_id: one.input_id, description: one.description }));
        Ok(())
    }

    fn finish(self, _told: &MetadataMap) -> Result<Self::Value, Error> {
        // The first message is always sent: to read its absence as "no inputs" could lose a turn.
        let revision = self.revision.ok_or_else(|| out_of_place("the stream of inputs ended without a message"))?;
        Ok(ReadableInputStates { input_states: self.states, corrupt_inputs: self.corrupt, revision })
    }
}

/// The bytes of a session that arrive in chunks, checked against their description.
#[derive(Debug)]
struct Session {
    info: v1::SessionSnapshotInfo,
    known: Option<KnownSession>,
    chunks: Vec<Bytes>,
    size_bytes: u64,
    digest: Sha256,
}

impl Session {
    fn new(info: v1::SessionSnapshotInfo, known: Option<KnownSession>) -> Self {
        Self { info, known, chunks: Vec::new(), size_bytes: 0, digest: Sha256::new() }
    }

    fn add(&mut self, chunk: Bytes) -> Result<(), Error> {
        self.size_bytes += chunk.len() as u64;
        self.digest.update(&chunk);
        self.chunks.push(chunk);
        if self.size_bytes > self.info.size_bytes {
            return Err(self.corrupt(&format!("more than its {} bytes arrived", self.info.size_bytes)));
        }
        Ok(())
    }

    /// Makes the whole session: of what arrived, or what the caller has where the server says that it is unchanged.
    fn finish(mut self) -> Result<KnownSession, Error> {
        if self.info.unchanged {
            return match self.known {
                Some(known) if known.sha256[..] == self.info.sha256[..] && self.chunks.is_empty() => Ok(known),
                _ => Err(out_of_place("the server told of a snapshot that it is unchanged, and it is not")),
            };
        }
        if self.size_bytes != self.info.size_bytes {
            return Err(self.corrupt(&format!("{} of its {} bytes arrived", self.size_bytes, self.info.size_bytes)));
        }
        let sha256 = self.digest.finalize_reset().into();
        if self.info.sha256 != <[u8; 32]>::as_slice(&sha256) {
            return Err(self.corrupt("the bytes that arrived do not match its SHA-256"));
        }
        // A single chunk is copied too: it is a piece of what was received, which it would keep in memory with it for as
        // long as the session is remembered.
        let body = Bytes::from(self.chunks.concat());
        Ok(KnownSession::of(body, sha256))
    }

    fn corrupt(&self, what: &str) -> Error {
        let session_id = &self.info.session_id;
        let message = format!("the snapshot of session {session_id}: {what}");
        Error::refusal(ErrorReason::StoredValueCorrupt, Code::DataLoss, message)
            .with_metadata("session_id", session_id.as_str())
            .with_metadata("store_error", "read_failed")
    }
}

/// Puts the chunks of `LoadSessionSnapshot` together; `known` is the session whose digest was sent along.
#[derive(Debug)]
pub(crate) struct SessionChunks {
    pub(crate) known: Option<KnownSession>,
    pub(crate) as_of_revision: Option<u64>,
    session: Option<Session>,
}

impl SessionChunks {
    pub(crate) fn new(known: Option<KnownSession>, as_of_revision: Option<u64>) -> Self {
        Self { known, as_of_revision, session: None }
    }
}

impl Assembler for SessionChunks {
    type Message = v1::LoadSessionSnapshotResponse;
    type Value = Loaded<Option<KnownSession>>;

    fn add(&mut self, message: Self::Message) -> Result<(), Error> {
        use v1::load_session_snapshot_response::Part;
        match (message.part, &mut self.session) {
            (Some(Part::Info(info)), None) => {
                if self.as_of_revision.is_some() && info.committed_revision == 0 {
                    let message = "the server keeps no earlier sessions: it is an older one";
                    return Err(Error::call_failed(Code::Unimplemented, message));
                }
                self.session = Some(Session::new(info, self.known.take()));
                Ok(())
            }
            (Some(Part::Chunk(chunk)), Some(session)) => session.add(chunk),
            _ => Err(out_of_place("the stream of the snapshot has a part out of place")),
        }
    }

    fn finish(self, told: &MetadataMap) -> Result<Self::Value, Error> {
        let Some(session) = self.session else {
            let revision = told.get(REVISION_KEY).and_then(|text| text.to_str().ok()?.parse().ok()).unwrap_or(0);
            return Ok(Loaded { value: None, revision });
        };
        let revision = session.info.revision;
        Ok(Loaded { value: Some(session.finish()?), revision })
    }
}

/// Puts the parts of `LoadRuntime` together; `known` is the session whose digest was sent along.
#[derive(Debug)]
pub(crate) struct RuntimeParts {
    known: Option<KnownSession>,
    runtime: Option<v1::RuntimeDescription>,
    inputs: Vec<InputState>,
    receipts: Vec<CommittedReceipt>,
    ops: Option<String>,
    session: Option<Session>,
}

impl RuntimeParts {
    pub(crate) fn new(known: Option<KnownSession>) -> Self {
        Self { known, runtime: None, inputs: Vec::new(), receipts: Vec::new(), ops: None, session: None }
    }
}

impl Assembler for RuntimeParts {
    type Message = v1::LoadRuntimeResponse;
    type Value = (LoadedRuntime, Option<KnownSession>);

    fn add(&mut self, message: Self::Message) -> Result<(), Error> {
        use v1::load_runtime_response::Part;
        match (message.part, &mut self.session) {
            (Some(Part::Runtime(runtime)), _) => self.runtime = Some(runtime),
            (Some(Part::Inputs(inputs)), _) => {
                for stored in inputs.input_states {
                    self.inputs.push(InputState::from_wire(stored)?);
                }
            }
            (Some(Part::Receipts(receipts)), _) => {
                for found in receipts.receipts {
                    let receipt = found.receipt.ok_or_else(|| out_of_place("a receipt without a receipt"))?;
                    self.receipts.push(CommittedReceipt {
                        receipt: RunBoundaryReceipt::from_wire(receipt)?,
                        committed_revision: found.committed_revision,
                    });
                }
            }
            (Some(Part::Ops(ops)), _) => self.ops = Some(ops.snapshot_json),
            (Some(Part::Session(info)), None) => self.session = Some(Session::new(info, self.known.take())),
            (Some(Part::SessionChunk(chunk)), Some(session)) => session.add(chunk)?,
            _ => return Err(out_of_place("the stream of the runtime has a part out of place")),
        }
        Ok(())
    }

    fn finish(self, _told: &MetadataMap) -> Result<Self::Value, Error> {
        // It is always sent: to read its absence as "nothing there" could lose a turn.
        let told =
            self.runtime.ok_or_else(|| out_of_place("the stream of the runtime ended without its description"))?;
        let session = self.session.map(Session::finish).transpose()?;
        let loaded = LoadedRuntime {
            revision: told.revision,
            state: told.state.map(RuntimeState::from_wire).transpose()?,
            input_states: self.inputs,
            receipts: self.receipts,
            ops_snapshot: self.ops,
            session_snapshot: session.as_ref().map(|session| session.body.clone()),
        };
        Ok((loaded, session))
    }
}

#[cfg(test)]
mod tests;
