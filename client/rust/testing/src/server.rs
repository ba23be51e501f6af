//! Real servers, each a process of its own that ends with the test.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long a server may take until it serves, on a machine that has other things to do.
const START: Duration = Duration::from_mins(2);

/// The root of the repository, as Cargo says where it runs what it runs: one folder of builds may serve many checkouts,
/// and what was built in another one knows the path of that.
#[must_use]
pub fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env::current_dir().unwrap(), PathBuf::from);
    package.ancestors().find(|folder| folder.join("proto").is_dir()).expect("a folder of the repository").into()
}

/// The command that serves: `$RUNTIMESTORE_COMMAND`, else the one of `make setup`.
pub(crate) fn command() -> PathBuf {
    env::var_os("RUNTIMESTORE_COMMAND").map_or_else(|| root().join(".venv/bin/runtimestore"), PathBuf::from)
}

/// A server that can be killed, and started again on the same store and port.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    database_url: String,
    arguments: Vec<String>,
    address: String,
    process: Option<Child>,
}

impl Server {
    /// Starts a server on a fresh file of its own.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server on a fresh file of its own, with more arguments.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database_url = format!("sqlite:///{}/store.db", folder.path().display());
        Self::start_in(folder, database_url, arguments)
    }

    /// Starts a server on a database, which is given its schema first.
    #[must_use]
    pub fn start_on(database_url: &str) -> Self {
        let migrated = Command::new(command()).args(["migrate", "--database-url", database_url]).output();
        let migrated = migrated.expect("the server's command: run `make setup`, or set RUNTIMESTORE_COMMAND");
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), database_url.to_owned(), &[])
    }

    /// Starts a server on a fresh file of its own, at an address.
    #[must_use]
    pub fn start_at(address: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let database_url = format!("sqlite:///{}/store.db", folder.path().display());
        let mut server =
            Self { folder, database_url, arguments: Vec::new(), address: address.to_owned(), process: None };
        server.restart();
        server
    }

    fn start_in(folder: TempDir, database_url: String, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { folder, database_url, arguments, address: "127.0.0.1:0".to_owned(), process: None };
        server.restart();
        server
    }

    /// Tells where it serves: `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Tells the folder of its store and log, which ends with it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills the process, as a machine that loses its power does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own process");
            process.wait().expect("our own process");
        }
    }

    /// Serves again, at the same address.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "it serves still");
        let log_path = self.folder.path().join("log");
        let log = fs::File::create(&log_path).expect("a log");
        let process = Command::new(command())
            .args(["serve", "--metrics-listen", "", "--database-url", &self.database_url, "--listen", &self.address])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the server's command: run `make setup`, or set RUNTIMESTORE_COMMAND");
        self.process = Some(process);
        let until = Instant::now() + START;
        loop {
            let told = fs::read_to_string(&log_path).expect("the log");
            let rest = told.split_once("address=").map(|(_, rest)| rest);
            if let Some((address, _)) = rest.and_then(|rest| rest.split_once(char::is_whitespace)) {
                address.clone_into(&mut self.address);
                return;
            }
            let ended = self.process.as_mut().and_then(|process| process.try_wait().expect("our own process"));
            assert!(ended.is_none() && Instant::now() < until, "the server does not serve: {told}");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Postgres server of the test's own, by the repository's script; it ends when its standard input does.
#[derive(Debug)]
pub struct Postgres {
    process: Child,
    input: Option<ChildStdin>,
    url: String,
}

const POSTGRES: &str = "
import sys
from scripts.postgres_server import PostgresServer
with PostgresServer() as server:
    print(server.url, flush=True)
    sys.stdin.read()
";

impl Postgres {
    /// Starts one; `None` where the machine has no Postgres.
    #[must_use]
    pub fn start() -> Option<Self> {
        let mut process = Command::new(command().with_file_name("python"))
            .args(["-c", POSTGRES])
            .current_dir(root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let input = process.stdin.take();
        let mut url = String::new();
        BufReader::new(process.stdout.take()?).read_line(&mut url).ok()?;
        let url = url.trim().to_owned();
        let started = Self { process, input, url };
        (!started.url.is_empty()).then_some(started)
    }

    /// Tells the URL of its database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}
