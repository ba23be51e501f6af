//! A host of a runtime, to be killed: `host ADDRESS SESSION turns` hangs in its second turn, `host ADDRESS SESSION oauth`
//! begins an OAuth flow and tells its state.

use std::{env, str::FromStr, sync::Arc};

use meerkat_auth_core::oauth_flow::OAuthProviderIdentity;
use meerkat_core::{AuthBindingRef, BindingId, RealmId, types::SessionId};
use meerkat_runtime::{MeerkatMachine, RuntimeStore};
use runtimestore::RemoteRuntimeStore;
use runtimestore_conformance::turns::{Turns, prompt};

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().collect();
    let store: Arc<dyn RuntimeStore> = Arc::new(RemoteRuntimeStore::connect(&arguments[1]).expect("a server"));
    let machine = Arc::new(MeerkatMachine::persistent_without_blobs(Arc::clone(&store)));
    if arguments[3] == "oauth" {
        let target = AuthBindingRef {
            realm: RealmId::parse("dev").expect("a realm"),
            binding: BindingId::parse("default_openai").expect("a binding"),
            profile: None,
        };
        let begun = machine.oauth_flow_authority().start(
            target,
            OAuthProviderIdentity::OpenAiChatGpt,
            "http://127.0.0.1/callback".to_owned(),
            "verifier".to_owned(),
        );
        println!("{}", begun.expect("a flow begins"));
        return;
    }
    let session_id = SessionId(uuid::Uuid::from_str(&arguments[2]).expect("a UUID"));
    let turns = Turns { session_id: session_id.clone(), store, begun: Arc::default(), hangs_in: Some(2) };
    machine.register_session_with_executor(session_id.clone(), Box::new(turns)).await;
    for text in ["first", "second"] {
        let (_, completion) =
            machine.accept_input_with_completion(&session_id, prompt(text)).await.expect("it is accepted");
        completion.expect("it is not done at once").wait().await;
        println!("{text} is done");
    }
}
