//! The binary as a process: started, waited for, killed; a server asked to end.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// Nothing here takes longer; whatever does is stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}

/// A process that runs. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    words: String,
    output: JoinHandle<String>,
    errors: JoinHandle<String>,
}

/// A process that has ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The arguments.
    pub(crate) words: String,
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Ended {
    /// What it said on standard output; it must have ended well.
    pub(crate) fn good(self) -> String {
        let Self { words, status, output, errors } = self;
        assert!(status.success(), "`starmere {words}` ended with {status}\n{errors}");
        output
    }
}

fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_starmere"));
    command.arg("--project").arg(root).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn collect(stream: Option<impl AsyncRead + Unpin + Send + 'static>) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What a killed process leaves unread is of no interest.
            let _ = stream.read_to_end(&mut bytes).await;
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Running {
    pub(crate) fn start(root: &Path, arguments: &[&str]) -> Self {
        let mut child = command(root, arguments).spawn().expect("the binary can be started");
        let (output, errors) = (collect(child.stdout.take()), collect(child.stderr.take()));
        Self { child, words: arguments.join(" "), output, errors }
    }

    /// Waits so long for its end; whether it still runs.
    pub(crate) async fn outlives(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.child.wait()).await.is_err()
    }

    /// Kills it, if it has not ended, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Ended {
        // It may have ended just now.
        let _ = self.child.start_kill();
        self.end().await
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Ended {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status =
            ended.unwrap_or_else(|_| panic!("`starmere {}` does not end", self.words)).expect("a child has a status");
        let output = self.output.await.expect("standard output is read");
        let errors = self.errors.await.expect("standard error is read");
        Ended { words: self.words, status, output, errors }
    }
}

/// `starmere serve`, or `up`, listening.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where it listens for HTTP.
    pub(crate) address: String,
    /// What it has said on standard error since it listens, and who reads it.
    said: Arc<Mutex<String>>,
    errors: JoinHandle<()>,
}

impl Server {
    /// Starts the server and waits until it listens.
    pub(crate) async fn start(root: &Path) -> Self {
        Self::start_as(root, "serve").await
    }

    /// The same, by this command.
    pub(crate) async fn start_as(root: &Path, word: &str) -> Self {
        Self::start_with(root, &[word]).await
    }

    /// The same, with these arguments.
    pub(crate) async fn start_with(root: &Path, arguments: &[&str]) -> Self {
        let mut child = command(root, arguments).stdout(Stdio::null()).spawn().expect("the binary can be started");
        let mut lines = BufReader::new(child.stderr.take().expect("standard error is piped")).lines();
        let mut said = String::new();
        let listening = async {
            while let Some(line) = lines.next_line().await.expect("standard error is read") {
                if let Some(address) = line.strip_prefix("http        http://") {
                    return address.to_owned();
                }
                said.push_str(&line);
                said.push('\n');
            }
            panic!("the server ended before it listened\n{said}");
        };
        let address = tokio::time::timeout(PATIENCE, listening).await.expect("a server that starts listens");
        let said = Arc::new(Mutex::new(String::new()));
        let (mut lines, kept) = (lines.into_inner(), said.clone());
        let errors = tokio::spawn(async move {
            let mut line = Vec::new();
            // What a killed process leaves unread is of no interest.
            while lines.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
                kept.lock().expect("nobody panics with it").push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        Self { child, address, said, errors }
    }

    /// What it has said on standard error since it listens.
    pub(crate) fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Waits until it has said this so often.
    pub(crate) async fn says(&self, words: &str, times: usize) {
        until(words, async || self.said().matches(words).count() >= times).await;
    }

    /// Tells it to end.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Sends it this signal, as `kill` calls it.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().expect("the server runs").to_string();
        let told = std::process::Command::new("kill").args([signal, &id]).status().expect("`kill` can be run");
        assert!(told.success(), "`kill` ended with {told}");
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(mut self) {
        tokio::time::timeout(PATIENCE, self.child.kill()).await.expect("a killed server is gone").expect("it ran");
    }

    /// Waits until it has ended, after it was told to, which must be in good order; what it said.
    pub(crate) async fn end(mut self) -> String {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("a server that is told to ends");
        let status = ended.expect("a child has a status");
        (&mut self.errors).await.expect("standard error is read");
        assert_eq!(status.code(), Some(0), "the server ended with {status}\n{}", self.said());
        self.said()
    }
}
