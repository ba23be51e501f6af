//! What a server on a network has: certificates, and a file of who may come in.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::server::{Server, command, root};

/// A server with TLS that lets in who is in its access file.
#[derive(Debug)]
pub struct SecureServer {
    folder: TempDir,
    /// The server itself.
    pub server: Server,
}

impl SecureServer {
    /// Starts one that takes certificates of clients too.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let certificates = folder.path().join("certificates");
        run(Command::new(root().join("scripts/throwaway-ca")).arg(&certificates));
        let access = folder.path().join("access.toml");
        add_token(&access, "mine", "write");
        let text = |path: PathBuf| path.display().to_string();
        let server = Server::start_with(&[
            "--tls-cert",
            &text(certificates.join("server.pem")),
            "--tls-key",
            &text(certificates.join("server.key")),
            "--tls-client-ca",
            &text(certificates.join("ca.pem")),
            "--access-file",
            &text(access),
        ]);
        Self { folder, server }
    }

    /// Tells the path of a file that the CA made, such as `ca.pem`.
    #[must_use]
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.path().join("certificates").join(name)
    }

    /// Lets somebody in, with an access to a realm, and tells the token.
    #[must_use]
    pub fn add_token(&self, realm: &str, access: &str) -> String {
        add_token(&self.folder.path().join("access.toml"), realm, access)
    }
}

fn add_token(file: &Path, realm: &str, access: &str) -> String {
    let mut new = Command::new(command());
    new.args(["token", "new", &format!("{realm}-{access}"), "--realm", realm, "--access", access]);
    run(new.arg("--access-file").arg(file))
}

fn run(command: &mut Command) -> String {
    let done = command.output().expect("a program of the repository");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout)
        .split_whitespace()
        .find(|word| word.starts_with("rst_"))
        .unwrap_or("")
        .to_owned()
}
