//! Documents as runtimes have them, for the client's tests.
#![allow(dead_code, reason = "each test takes what it needs")]

use bytes::Bytes;
use runtimestore::{
    Client,
    types::{InputState, RunApplyBoundary, RunBoundaryReceipt, WriteOptions},
};
use uuid::Uuid;

pub const RUNTIME: &str = "rt:session:1";

pub fn client(address: &str) -> Client {
    Client::builder(address).build().expect("an address")
}

pub fn session_of(id: Uuid, messages: usize) -> Bytes {
    let messages: Vec<String> = (0..messages)
        .map(|number| {
            format!(r#"{{"role":"user","content":"message {number} of {}"}}"#, Uuid::from_u128(number as u128))
        })
        .collect();
    let at = r#"{"secs_since_epoch":1,"nanos_since_epoch":0}"#;
    format!(r#"{{"id":"{id}","messages":[{}],"created_at":{at},"updated_at":{at}}}"#, messages.join(",")).into()
}

pub fn input(id: u128, state: &str) -> InputState {
    let input_id = Uuid::from_u128(id);
    InputState { input_id, state_json: format!(r#"{{"input_id":"{input_id}","current_state":"{state}"}}"#) }
}

pub fn receipt(run: u128, sequence: u64) -> RunBoundaryReceipt {
    RunBoundaryReceipt {
        run_id: Uuid::from_u128(run),
        boundary: RunApplyBoundary::RunStart,
        contributing_input_ids: vec![Uuid::from_u128(2), Uuid::from_u128(1)],
        conversation_digest: Some("digest".to_owned()),
        message_count: 3,
        sequence,
    }
}

pub fn at_revision(revision: u64) -> WriteOptions {
    WriteOptions { if_revision: Some(revision), ..WriteOptions::default() }
}
