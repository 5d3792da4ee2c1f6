//! Commands in containers: the `exec` of a pod over a WebSocket, with a channel for each stream
//! (`k8s.io/apimachinery/pkg/util/remotecommand`).

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    process::{self, Child, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use serde_json::{Value, json};
use tungstenite::{
    Message, WebSocket,
    handshake::derive_accept_key,
    protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
};

use super::{
    Api, Shared,
    answer::status,
    http::{Request, reply},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// Version 5 alone: the channel that the next byte names has ended.
const CLOSE: u8 = 255;

/// Makes of a command's words what runs.
type Launch = dyn Fn(&[String]) -> process::Command + Send + Sync;

/// What runs in containers.
#[derive(Default)]
pub(super) struct Containers {
    /// By namespace and pod.
    launch: BTreeMap<(String, String), Arc<Launch>>,
    commands: Vec<Command>,
    /// Versions of the protocol that are not spoken.
    old: bool,
}

impl fmt::Debug for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.launch.keys()).finish()
    }
}

/// A command that was run.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its pod.
    pub pod: String,
    /// Its words.
    pub words: Vec<String>,
    /// The protocol.
    pub protocol: &'static str,
    has_ended: Arc<AtomicBool>,
    connection: Arc<TcpStream>,
}

impl Command {
    /// Its process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    /// Cuts its connection, as a load balancer does that has had enough of it.
    pub fn cut(&self) {
        let _ = self.connection.shutdown(Shutdown::Both);
    }
}

impl Api {
    /// Commands in that pod run as `launch` says.
    pub fn container(
        &self,
        namespace: &str,
        pod: &str,
        launch: impl Fn(&[String]) -> process::Command + Send + Sync + 'static,
    ) {
        let key = (namespace.to_owned(), pod.to_owned());
        self.shared.state().containers.launch.insert(key, Arc::new(launch));
    }

    /// Commands that were run so far.
    #[must_use]
    pub fn commands(&self) -> Vec<Command> {
        self.shared.state().containers.commands.clone()
    }

    /// Speaks version 4 of the protocol alone, as before Kubernetes 1.30.
    pub fn is_old(&self) {
        self.shared.state().containers.old = true;
    }
}

/// Answers a request for `exec`; none where this is another one.
pub(super) fn answer(shared: &Shared, request: &Request, out: &mut TcpStream) -> Option<io::Result<()>> {
    let (namespace, rest) = request.path.strip_prefix("/api/v1/namespaces/")?.split_once("/pods/")?;
    let pod = rest.strip_suffix("/exec")?;
    let refuse =
        |out: &mut TcpStream, code, words: &str| reply(out, code, "", status(code, words).to_string().as_bytes());
    let (launch, old) = {
        let state = shared.state();
        if state.forbidden.iter().any(|forbidden| forbidden == "pods/exec") {
            let words = format!(
                "pods \"{pod}\" is forbidden: User \"tester\" cannot create resource \"pods/exec\" in API group \"\" in \
                 the namespace \"{namespace}\""
            );
            return Some(refuse(out, 403, &words));
        }
        let launch = state.containers.launch.get(&(namespace.to_owned(), pod.to_owned())).cloned();
        (launch, state.containers.old)
    };
    let Some(launch) = launch else { return Some(refuse(out, 404, &format!("pods \"{pod}\" not found"))) };
    let header = |name: &str| request.headers.get(name).map(String::as_str).unwrap_or_default();
    let asked: Vec<&str> = header("sec-websocket-protocol").split(',').map(str::trim).collect();
    let spoken = ["v5.channel.k8s.io", "v4.channel.k8s.io"].into_iter().skip(usize::from(old));
    let Some(protocol) = spoken.into_iter().find(|protocol| asked.contains(protocol)) else {
        return Some(refuse(out, 400, "unable to upgrade: no protocol in common"));
    };
    let accept = derive_accept_key(header("sec-websocket-key").as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    let words = request.options("command");
    Some(out.write_all(head.as_bytes()).and_then(|()| converse(shared, out, (pod, protocol), &words, &*launch)))
}

/// A connection's end that writes.
type Socket = Mutex<WebSocket<TcpStream>>;

fn converse(
    shared: &Shared,
    stream: &TcpStream,
    (pod, protocol): (&str, &'static str),
    words: &[String],
    launch: &Launch,
) -> io::Result<()> {
    let socket = || {
        let config = Some(WebSocketConfig::default());
        Ok::<_, io::Error>(WebSocket::from_raw_socket(stream.try_clone()?, Role::Server, config))
    };
    let out: Socket = Mutex::new(socket()?);
    let mut input = socket()?;
    let mut command = launch(words);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let has_ended = Arc::new(AtomicBool::new(false));
    let connection = Arc::new(stream.try_clone()?);
    let ran =
        Command { pod: pod.to_owned(), words: words.to_vec(), protocol, has_ended: Arc::clone(&has_ended), connection };
    shared.state().containers.commands.push(ran);
    let mut stdin = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(|| {
            let status = serve(&mut child, &out);
            has_ended.store(true, Ordering::SeqCst);
            send(&out, STATUS, verdict(status).to_string().as_bytes());
            let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            let _ = out.lock().unwrap_or_else(PoisonError::into_inner).close(Some(normal));
            let _ = stream.shutdown(Shutdown::Both);
        });
        while let Ok(message) = input.read() {
            match &message.into_data()[..] {
                [STDIN, bytes @ ..] => {
                    let _ = stdin.as_mut().map(|stdin| stdin.write_all(bytes));
                }
                [CLOSE, STDIN] => stdin = None,
                _ => {}
            }
        }
        // Who asked is gone: the command's stdin ends, and nobody reads what it writes.
        stdin = None;
    });
    Ok(())
}

/// Hands on what the command writes, until it ends.
fn serve(child: &mut Child, out: &Socket) -> io::Result<ExitStatus> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let stdout = scope.spawn(move || stdout.map(|from| hand_on(from, STDOUT, out)));
        let stderr = scope.spawn(move || stderr.map(|from| hand_on(from, STDERR, out)));
        let status = child.wait();
        // What could not be handed on stayed open until now, unread.
        let _ = (stdout.join().is_ok(), stderr.join().is_ok());
        status
    })
}

fn hand_on<R: Read>(mut from: R, channel: u8, out: &Socket) -> R {
    let mut buffer = [0; 32 << 10];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || !send(out, channel, &buffer[..length]) {
            break;
        }
    }
    from
}

fn send(out: &Socket, channel: u8, bytes: &[u8]) -> bool {
    let message = [&[channel], bytes].concat();
    out.lock().unwrap_or_else(PoisonError::into_inner).send(Message::binary(message)).is_ok()
}

/// How a command ended, as the kubelet says it.
fn verdict(status: io::Result<ExitStatus>) -> Value {
    match status.map(|status| status.code()) {
        Ok(Some(0)) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => {
            let code = code.unwrap_or(137).to_string();
            let message = format!("command terminated with non-zero exit code: exit status {code}");
            let causes = json!([{"reason": "ExitCode", "message": code}]);
            json!({"metadata": {}, "status": "Failure", "message": message, "reason": "NonZeroExitCode",
                "details": {"causes": causes}})
        }
        Err(error) => {
            json!({"metadata": {}, "status": "Failure", "message": error.to_string(), "reason": "InternalError"})
        }
    }
}
