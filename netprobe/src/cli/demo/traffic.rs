//! Connections and listeners inside namespaces.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::namespace::Namespace;

/// How long an answer may take once the connection stands.
const ANSWER: Duration = Duration::from_secs(2);
/// How often a listener looks whether it is to end.
const TICK: Duration = Duration::from_millis(5);

/// Connects to `to` from inside `from`, says a word and waits for it to come back. The outer error
/// is ours, the inner one is what the connection came to.
///
/// # Errors
///
/// The namespace cannot be entered.
pub fn connect(from: &Namespace, to: SocketAddr, timeout: Duration) -> Result<io::Result<()>> {
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, timeout)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"word")?;
        stream.read_exact(&mut [0; 4])
    })
}

/// Sends one datagram from inside `from`, and waits at most `timeout` for the answer.
///
/// # Errors
///
/// The namespace cannot be entered.
pub fn datagram(from: &Namespace, to: SocketAddr, timeout: Duration) -> Result<io::Result<()>> {
    from.enter(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.connect(to)?;
        socket.send(b"word")?;
        socket.recv(&mut [0; 4]).map(drop)
    })
}

/// What a connection came to, in the words that programs use.
#[must_use]
pub fn word(result: &io::Result<()>) -> String {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut, WouldBlock};
    match result {
        Ok(()) => "connected, answered".to_owned(),
        Err(error) => match error.kind() {
            TimedOut | WouldBlock => "timed out".to_owned(),
            ConnectionRefused => "connection refused".to_owned(),
            HostUnreachable => "host unreachable".to_owned(),
            NetworkUnreachable => "network unreachable".to_owned(),
            _ => error.to_string(),
        },
    }
}

/// Listens at a port, TCP and UDP, IPv4 and IPv6, and sends back what it gets; ends when dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts to listen inside `namespace`.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered, or the port is taken.
    pub fn start(namespace: &Namespace, port: u16) -> Result<Self> {
        let (tcp, udp) = namespace
            .enter(|| {
                let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                let (tcp, udp) = (TcpListener::bind(any)?, UdpSocket::bind(any)?);
                tcp.set_nonblocking(true)?;
                udp.set_nonblocking(true)?;
                io::Result::Ok((tcp, udp))
            })?
            .with_context(|| format!("listen on port {port} in {}", namespace.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&tcp, &udp, &ended));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::warn!("a listener of the network panicked");
        }
    }
}

/// One connection at a time is enough here.
fn serve(tcp: &TcpListener, udp: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = tcp.accept() {
            // A client that goes away early is no failure of ours.
            let _ = answer(stream);
        } else if let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], peer);
        } else {
            thread::sleep(TICK);
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut buffer = [0; 2048];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}
