//! Programs that tell what they do, a line at a time.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// How long a program may say nothing, on a machine that has other things to do.
const SILENT: Duration = Duration::from_mins(2);

/// A running program. It is killed when it is dropped.
#[derive(Debug)]
pub struct Program {
    process: Child,
    lines: Receiver<String>,
}

impl Program {
    /// Starts one.
    #[must_use]
    pub fn start(path: &str, arguments: &[&str]) -> Self {
        let started = Command::new(path).args(arguments).stdout(Stdio::piped()).spawn();
        let mut process = started.expect("a program of the workspace");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        let (told, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));
        Self { process, lines }
    }

    /// Waits for its next line; `None` where it has ended.
    pub fn next_line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(SILENT) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("the program hangs"),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
