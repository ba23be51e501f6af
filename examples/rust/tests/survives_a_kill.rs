//! What the example says of itself.

use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use meerkat_runtime::{LogicalRuntimeId, RuntimeStore, input_state::InputLifecycleState};
use runtimestore::RemoteRuntimeStore;
use runtimestore_testing::Server;

const SESSION: &str = "14b07000-0000-4000-8000-000000000003";

fn start(server: &Server, seconds: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut example = Command::new(env!("CARGO_BIN_EXE_runtimestore-example"))
        .args([server.address(), SESSION, seconds])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(example.stdout.take().unwrap()).lines();
    (example, lines)
}

#[tokio::test]
async fn a_turn_that_was_cut_short_is_taken_by_the_next_process() {
    let server = Server::start();
    let (mut killed, mut lines) = start(&server, "600");
    assert!(lines.any(|line| line.unwrap() == "thinking"));
    killed.kill().unwrap();
    killed.wait().unwrap();

    let (mut recovered, lines) = start(&server, "0");
    let lines: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(recovered.wait().unwrap().success(), "{lines:?}");
    assert!(lines.iter().any(|line| line.ends_with("is taken")), "{lines:?}");
    let store = RemoteRuntimeStore::connect(server.address()).unwrap();
    let runtime_id = LogicalRuntimeId::new(format!("rt:session:{SESSION}"));
    let inputs = store.load_input_states(&runtime_id).await.unwrap();
    let phases: Vec<InputLifecycleState> = inputs.iter().map(|input| input.seed.phase).collect();
    assert_eq!(phases, [InputLifecycleState::Consumed; 2]);
}
