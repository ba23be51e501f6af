//! Makes the crate's generated code from the proto files: `cargo run -p runtimestore-codegen`.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

const PROTOS: [&str; 3] = [
    "runtimestore/v1/error_reason.proto",
    "runtimestore/v1/runtime_store.proto",
    "runtimestore/v1/runtime_store_admin.proto",
];
const MADE: &str = "v1.rs";

fn main() -> Result<(), Box<dyn Error>> {
    generate(&here().join("../src"))
}

/// The folder of this package, as Cargo says where it runs this: what was built in another checkout is run here, too.
fn here() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").expect("set by Cargo: `cargo run -p runtimestore-codegen`").into()
}

/// Writes the code into a folder.
fn generate(folder: &Path) -> Result<(), Box<dyn Error>> {
    let files = protox::compile(PROTOS, [here().join("../../../proto")])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .bytes(".")
        .out_dir(folder)
        .compile_fds(files)?;
    fs::rename(folder.join("runtimestore.v1.rs"), folder.join(MADE))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_what_the_proto_files_make() {
        let folder = tempfile::tempdir().unwrap();
        generate(folder.path()).unwrap();
        let committed = fs::read_to_string(here().join("../src").join(MADE)).unwrap();
        let made = fs::read_to_string(folder.path().join(MADE)).unwrap();
        assert!(committed == made, "run `cargo run -p runtimestore-codegen` in client/rust and commit what it makes");
    }
}
