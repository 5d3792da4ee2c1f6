//! A running agent.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Deref,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{Lab, binary, wait};

/// Where it answers unless told otherwise.
const AT: &str = "127.0.0.1:9799";

/// Where an agent listens for netprobe on the node.
#[must_use]
pub fn socket(lab: &Lab) -> PathBuf {
    lab.directory().join("run/agent.sock")
}

/// A running agent; killed when dropped.
pub struct Agent<'a> {
    answers: Answers<'a>,
    child: Child,
    socket: PathBuf,
}

/// What the agent of a lab answers.
#[derive(Clone, Copy)]
pub struct Answers<'a>(pub &'a Lab);

impl<'a> Deref for Agent<'a> {
    type Target = Answers<'a>;

    fn deref(&self) -> &Self::Target {
        &self.answers
    }
}

impl<'a> Agent<'a> {
    /// What starts one with the names of the network's inventory and these words.
    #[must_use]
    pub fn command(lab: &Lab, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(["agent", "--no-kube", "--inventory"]).arg(lab.inventory()).args(args);
        Self::completed(lab, command)
    }

    fn completed(lab: &Lab, mut command: Command) -> Command {
        command.arg("--socket").arg(socket(lab));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts one with these words, and returns once it is ready.
    #[must_use]
    pub fn start(lab: &'a Lab, args: &[&str]) -> Self {
        Self::spawn(lab, Self::command(lab, args))
    }

    /// Starts what `command` says, but for the socket.
    pub fn start_as(lab: &'a Lab, command: Command) -> Self {
        Self::spawn(lab, Self::completed(lab, command))
    }

    /// Starts what `command` says, which names the socket as [`socket`] does.
    ///
    /// # Panics
    ///
    /// It does not get ready.
    #[must_use]
    pub fn spawn(lab: &'a Lab, mut command: Command) -> Self {
        let child = lab.on("node").enter(|| command.spawn()).expect("start netprobe");
        let mut agent = Self { answers: Answers(lab), child, socket: socket(lab) };
        let ready = wait(Duration::from_secs(15), || agent.get("/readyz").is_some_and(|answer| answer.0 == 200));
        if !ready {
            let _ = agent.child.kill();
            let mut said = String::new();
            let _ = agent.child.stderr.take().expect("stderr is a pipe").read_to_string(&mut said);
            panic!("the agent was not ready: {said}");
        }
        agent
    }

    /// Asks the socket, and gives what comes, behind its head.
    pub fn stream(&self, path: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("it takes a request");
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).expect("a head");
        }
        stream
    }

    /// The lines of a stream that ends.
    pub fn lines(&self, path: &str) -> Vec<Value> {
        self.stream(path).lines().map(|line| object(&line.expect("a line"))).collect()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    /// Ends it as `kill` does, and gives how long that took.
    pub fn stop(mut self) -> Duration {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        #[allow(clippy::disallowed_methods, reason = "a test waits for a process, in real time")]
        let start = Instant::now();
        assert!(wait(Duration::from_secs(5), || self.child.try_wait().is_ok_and(|status| status.is_some())));
        assert_eq!(self.child.wait().expect("it has ended").code(), Some(0));
        assert!(!self.socket.exists(), "the socket is left");
        start.elapsed()
    }
}

impl Answers<'_> {
    /// Status and body; none where nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n").as_bytes())
    }

    /// A connection to it.
    #[must_use]
    pub fn connect(&self) -> Option<TcpStream> {
        let at: SocketAddr = AT.parse().expect("an address");
        let stream = self.0.on("node").enter(|| TcpStream::connect(at)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Some(stream)
    }

    /// Status and body of what answers these bytes; none where nobody answers.
    #[must_use]
    pub fn ask(&self, request: &[u8]) -> Option<(u16, String)> {
        let mut stream = self.connect()?;
        stream.write_all(request).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }

    /// The sum of the samples whose line begins with `name` and has all these labels.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let (_, text) = self.get("/metrics").expect("it answers");
        let fits = |line: &&str| {
            line.starts_with(name) && labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
        };
        text.lines()
            .filter(fits)
            .map(|line| line.rsplit_once(' ').expect("a value").1.parse::<u64>().expect("whole"))
            .sum()
    }

    /// Packets and bytes that a pod sent by a device.
    pub fn sent(&self, pod: &str, device: &str) -> (u64, u64) {
        let labels = [("pod", pod), ("device", device), ("direction", "out")];
        (self.metric("netprobe_device_packets_total", &labels), self.metric("netprobe_device_bytes_total", &labels))
    }
}

impl Agent<'_> {
    /// Ends it, and gives what it said on stderr.
    pub fn end(mut self) -> String {
        let mut stderr = self.child.stderr.take().expect("stderr is a pipe");
        let _ = self.stop();
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("messages are text");
        said
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line as JSON.
///
/// # Panics
///
/// It is none.
#[must_use]
pub fn object(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"))
}
