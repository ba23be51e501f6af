//! What the example says of itself.

use meerkat_runtime::{LogicalRuntimeId, RuntimeStore, input_state::InputLifecycleState};
use runtimestore::RemoteRuntimeStore;
use runtimestore_testing::{Program, Server};

const SESSION: &str = "14b07000-0000-4000-8000-000000000003";

fn start(server: &Server, seconds: &str) -> Program {
    Program::start(env!("CARGO_BIN_EXE_runtimestore-example"), &[server.address(), SESSION, seconds])
}

#[tokio::test]
async fn a_turn_that_was_cut_short_is_taken_by_the_next_process() {
    let server = Server::start();
    let mut killed = start(&server, "600");
    assert_eq!(killed.next_line().as_deref(), Some("thinking"));
    drop(killed);

    let mut recovered = start(&server, "0");
    let lines: Vec<String> = std::iter::from_fn(|| recovered.next_line()).collect();
    assert_eq!(lines, ["thinking", "turn 1 is taken", "thinking", "turn 2 is taken"]);
    let store = RemoteRuntimeStore::connect(server.address()).unwrap();
    let runtime_id = LogicalRuntimeId::new(format!("rt:session:{SESSION}"));
    let inputs = store.load_input_states(&runtime_id).await.unwrap();
    let phases: Vec<InputLifecycleState> = inputs.iter().map(|input| input.seed.phase).collect();
    assert_eq!(phases, [InputLifecycleState::Consumed; 2]);
}
