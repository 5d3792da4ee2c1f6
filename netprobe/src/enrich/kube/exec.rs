//! A command in an agent's container, by the API server's `exec`: a WebSocket with a channel for each stream.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::api::{Api, AttachParams, AttachedProcess};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    KubeError,
    agents::{Agent, Gate},
    error::{Trouble, chain},
};

/// The agent's container (`deploy/`).
const CONTAINER: &str = "agent";
/// How long it may take until the command runs.
const START: Duration = Duration::from_secs(30);
/// Bytes of stdout that may wait here before the connection is read on.
const WAITING: usize = 256 << 10;
/// Bytes handed on at once.
const CHUNK: usize = 64 << 10;
/// A longer line of stderr is told in pieces, bytes.
const LINE: usize = 8 << 10;
/// How long its last word may take where its streams have ended.
const LAST_WORD: Duration = Duration::from_secs(2);

/// A command that runs.
pub struct Session(AttachedProcess);

impl Gate {
    /// Runs `words` in the agent's container.
    ///
    /// # Errors
    ///
    /// The API refuses, or nobody answers.
    pub async fn exec(&self, agent: &Agent, words: Vec<String>) -> Result<Session, KubeError> {
        let pods: Api<Pod> = Api::namespaced(self.client(), &agent.namespace);
        let streams = AttachParams {
            container: Some(CONTAINER.to_owned()),
            stdin: true,
            stdout: true,
            stderr: true,
            max_stdout_buf_size: Some(WAITING),
            ..AttachParams::default()
        };
        let begun = timeout(START, pods.exec(&agent.pod, words, &streams)).await;
        let begun = begun.map_err(|_| Trouble::Away(format!("no answer within {} s", START.as_secs())));
        let explain =
            |trouble: Trouble| trouble.explain_in(Some(&agent.namespace), self.place(), missing(&trouble), "pods/exec");
        begun.map_err(explain)?.map(Session).map_err(|error| explain(error.into()))
    }
}

impl Session {
    /// Hands on what the command writes until it ends or nobody takes it; `stop` asks it to end. Gives what went wrong.
    pub async fn run(
        self,
        chunks: mpsc::Sender<Bytes>,
        said: mpsc::Sender<String>,
        stop: oneshot::Receiver<()>,
    ) -> Option<String> {
        let Self(mut process) = self;
        let (Some(stdout), Some(stderr), Some(mut stdin), Some(status)) =
            (process.stdout(), process.stderr(), process.stdin(), process.take_status())
        else {
            return Some("it has no streams".to_owned());
        };
        // Where the connection breaks, kube leaves its pipes open.
        let (broken, is_broken) = watch::channel(false);
        let streams = async { tokio::join!(copy(stdout, chunks, is_broken.clone()), lines(stderr, said, is_broken)) };
        let (mut streams, mut status) = (pin!(streams), pin!(status));
        let stopping = async {
            if stop.await.is_ok() {
                // Its end could not be told by version 4 of the protocol; a byte can.
                let _ = stdin.write_all(b"\n").await;
            }
            std::future::pending::<()>().await;
        };
        let last = tokio::select! {
            _ = &mut streams => timeout(LAST_WORD, status).await.ok().flatten(),
            last = &mut status => {
                let _ = broken.send(last.is_none());
                streams.await;
                last
            }
            () = stopping => None,
        };
        match last {
            Some(status) => words(&status),
            None => match timeout(LAST_WORD, process.join()).await {
                Ok(Err(error)) => Some(format!("the connection broke: {}", chain(&error))),
                _ => Some("the connection ended".to_owned()),
            },
        }
    }
}

/// Hands on what comes; takes no more than it can hand on.
async fn copy(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Bytes>, mut is_broken: watch::Receiver<bool>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            // What has come goes first.
            biased;
            read = from.read(&mut buffer) => read,
            _ = is_broken.wait_for(|is| *is) => return,
        };
        let Some(bytes) = read.ok().and_then(|length| buffer.get(..length)).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        if to.send(Bytes::copy_from_slice(bytes)).await.is_err() {
            return;
        }
    }
}

/// The same by lines.
async fn lines(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<String>, mut is_broken: watch::Receiver<bool>) {
    let mut read = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let length = tokio::select! {
            biased;
            length = from.read(&mut buffer) => length.unwrap_or(0),
            _ = is_broken.wait_for(|is| *is) => 0,
        };
        read.extend_from_slice(&buffer[..length]);
        while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = read.drain(..=end).collect();
            if to.send(String::from_utf8_lossy(&line).trim_end().to_owned()).await.is_err() {
                return;
            }
        }
        if (length == 0 || read.len() > LINE) && !read.is_empty() {
            let rest = String::from_utf8_lossy(&std::mem::take(&mut read)).into_owned();
            if to.send(rest).await.is_err() {
                return;
            }
        }
        if length == 0 {
            return;
        }
    }
}

/// Which verb is refused. Servers before 1.35 ask for `get`, since a WebSocket begins so; later ones for `create` too.
fn missing(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Status { code: 403, message, .. } if message.contains("cannot get resource") => "get",
        _ => "create",
    }
}

/// What a status says, where it is no success.
fn words(status: &Status) -> Option<String> {
    if status.status.as_deref() == Some("Success") {
        return None;
    }
    let causes = status.details.iter().filter_map(|details| details.causes.as_ref()).flatten();
    let code =
        causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode")).find_map(|cause| cause.message.clone());
    Some(match code {
        Some(code) => format!("it ended with exit code {code}"),
        None => status.message.clone().unwrap_or_else(|| "it failed, and nobody says why".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str) -> Status {
        serde_json::from_str(json).expect("a status")
    }

    #[test]
    fn a_status_says_how_the_command_ended() {
        assert_eq!(words(&status(r#"{"status": "Success"}"#)), None);
        let failed = r#"{"status": "Failure", "message": "command terminated", "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": "2"}]}}"#;
        assert_eq!(words(&status(failed)).as_deref(), Some("it ended with exit code 2"));
        let gone = r#"{"status": "Failure", "message": "container not found (\"agent\")"}"#;
        assert_eq!(words(&status(gone)).as_deref(), Some("container not found (\"agent\")"));
    }

    #[test]
    fn a_refusal_names_the_verb_that_is_missing() {
        let refused = |verb: &str| {
            let message =
                format!("pods \"a\" is forbidden: User \"u\" cannot {verb} resource \"pods/exec\" in API group \"\"");
            let trouble = Trouble::Status { code: 403, message, retry_after: None };
            trouble.explain_in(Some("netprobe"), "API server x", missing(&trouble), "pods/exec").to_string()
        };
        assert!(refused("get").contains("user u lacks get on pods/exec in namespace netprobe"));
        assert!(refused("create").contains("user u lacks create on pods/exec in namespace netprobe"));
    }

    #[tokio::test]
    async fn lines_are_whole_and_end_with_the_connection() {
        let (to, mut from) = mpsc::channel(8);
        let (broken, is_broken) = watch::channel(false);
        let (mut writer, reader) = tokio::io::duplex(64);
        let telling = async {
            let _ = writer.write_all(b"one\ntw").await;
            let _ = writer.write_all(b"o\nrest").await;
            let _ = broken.send(true);
            // Kept open, as kube does where the connection breaks.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = lines(reader, to, is_broken) => {}
            () = telling => {}
        }
        let mut said = Vec::new();
        while let Some(line) = from.recv().await {
            said.push(line);
        }
        assert_eq!(said, ["one", "two", "rest"]);
    }
}
