//! One connection, made from inside the pod's namespace.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use crate::model::flow::{Flow, Proto};

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Connected, or answered.
    Answered,
    /// The system refused, or the other end did.
    Failed(i32),
    /// Nothing came.
    Silent,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) end: End,
    pub(super) took: Duration,
}

/// A query for the root's name servers: any DNS server answers it, if only with a refusal (RFC 1035, 4.1).
const DNS_QUERY: [u8; 17] = [0x6e, 0x70, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// What is sent to any other UDP port.
const UDP_PAYLOAD: &[u8] = b"netprobe";

/// A socket that has begun.
pub(super) struct Attempt {
    socket: Socket,
    proto: Proto,
    to: SocketAddr,
    begun: Instant,
    /// The first system call's failure.
    failed: Option<io::Error>,
    /// As the kernel sends it; its source port is 0 where it has none yet.
    pub(super) flow: Flow,
}

impl Attempt {
    /// Begins, in the namespace that the calling thread is in, and from that port where it is not 0.
    pub(super) fn begin(proto: Proto, to: SocketAddr, port: u16) -> io::Result<Self> {
        let domain = Domain::for_address(to);
        let (kind, protocol) = match proto {
            Proto::Tcp => (Type::STREAM, Protocol::TCP),
            Proto::Udp => (Type::DGRAM, Protocol::UDP),
            _ if to.is_ipv4() => (Type::RAW, Protocol::ICMPV4),
            _ => (Type::RAW, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        if port != 0 {
            // The reservation stands as long as the run.
            socket.set_reuse_port(true)?;
            socket.bind(&SocketAddr::new(unspecified(to), port).into())?;
        }
        let begun = Instant::now();
        let mut attempt = Self { socket, proto, to, begun, failed: None, flow: Flow { proto, src: to, dst: to } };
        let connected = attempt.socket.connect(&to.into());
        let started = match connected {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            Ok(()) => attempt.send(),
            Err(error) => Err(error),
        };
        attempt.failed = started.err();
        attempt.flow = attempt.flow();
        Ok(attempt)
    }

    fn flow(&self) -> Flow {
        let local = self.socket.local_addr().ok().and_then(|local| local.as_socket());
        let src = local.unwrap_or_else(|| (unspecified(self.to), 0).into());
        if self.proto.is_icmp() {
            let id = identifier();
            return Flow { proto: self.proto, src: (src.ip(), id).into(), dst: (self.to.ip(), id).into() };
        }
        Flow { proto: self.proto, src, dst: self.to }
    }

    /// What asks for an answer. TCP's handshake does by itself.
    fn send(&mut self) -> io::Result<()> {
        let sent = match self.proto {
            Proto::Tcp => return Ok(()),
            Proto::Udp if self.to.port() == 53 => self.socket.write(&DNS_QUERY),
            Proto::Udp => self.socket.write(UDP_PAYLOAD),
            _ => self.socket.write(&echo_request(self.to.is_ipv4())),
        };
        sent.map(drop)
    }

    /// Waits for the end.
    pub(super) fn finish(mut self, timeout: Duration) -> Done {
        let end = self.wait(timeout);
        Done { end, took: self.begun.elapsed() }
    }

    fn wait(&mut self, timeout: Duration) -> End {
        if let Some(error) = self.failed.take() {
            return End::Failed(error.raw_os_error().unwrap_or(libc::EIO));
        }
        let wanted = if self.proto == Proto::Tcp { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        loop {
            let left = timeout.saturating_sub(self.begun.elapsed());
            let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), wanted)];
            let left = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, left) {
                Ok(0) => return End::Silent,
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return End::Failed(error as i32),
            }
            match self.socket.take_error() {
                Ok(Some(error)) | Err(error) => return End::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
                Ok(None) => {}
            }
            if self.proto == Proto::Tcp || self.is_answer() {
                return End::Answered;
            }
        }
    }

    /// A raw socket hears every ICMP message; ours is the echo reply with our identifier.
    fn is_answer(&mut self) -> bool {
        let mut buffer = [0; 2048];
        let Ok(length) = self.socket.read(&mut buffer) else { return false };
        if !self.proto.is_icmp() {
            return true;
        }
        // IPv4's raw sockets give the IP header too; its length is in units of four bytes.
        let start = if self.to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let Some(message) = buffer.get(start..length) else { return false };
        let reply = if self.to.is_ipv4() { 0 } else { 129 };
        message.first() == Some(&reply) && message.get(4..6) == Some(&identifier().to_be_bytes())
    }
}

/// "Any address" of that one's family.
fn unspecified(of: SocketAddr) -> IpAddr {
    if of.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// A local port that stays free for a connection as long as the reservation lives.
pub(super) struct Reserved {
    _socket: Socket,
    pub(super) port: u16,
}

impl Reserved {
    /// Reserves one for either family, in the namespace that the calling thread is in.
    pub(super) fn new(proto: Proto) -> io::Result<Self> {
        let kind = if proto == Proto::Tcp { Type::STREAM } else { Type::DGRAM };
        let any: SocketAddr = (Ipv6Addr::UNSPECIFIED, 0).into();
        let with = |domain, any: SocketAddr| {
            let socket = Socket::new(domain, kind, None)?;
            socket.set_reuse_port(true)?;
            socket.bind(&any.into())?;
            io::Result::Ok(socket)
        };
        // A node may have no IPv6.
        let socket = with(Domain::IPV6, any).or_else(|_| with(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, 0).into()))?;
        let port = socket.local_addr()?.as_socket().map_or(0, |local| local.port());
        Ok(Self { _socket: socket, port })
    }
}

/// The echo identifier of this process.
fn identifier() -> u16 {
    (std::process::id() & 0xffff) as u16
}

/// An echo request with our identifier (RFC 792, RFC 4443). ICMPv6's checksum is the kernel's work.
fn echo_request(v4: bool) -> [u8; 16] {
    let mut message = [0; 16];
    message[0] = if v4 { 8 } else { 128 };
    message[4..6].copy_from_slice(&identifier().to_be_bytes());
    message[7] = 1;
    message[8..].copy_from_slice(b"netprobe");
    if v4 {
        let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    #[test]
    fn a_listener_answers_and_a_closed_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let to = listener.local_addr().expect("bound");
        let attempt = Attempt::begin(Proto::Tcp, to, 0).expect("a socket");
        assert_eq!((attempt.flow.dst, attempt.flow.src.port() != 0), (to, true));
        assert_eq!(attempt.finish(WAIT).end, End::Answered);
        drop(listener);
        let done = Attempt::begin(Proto::Tcp, to, 0).expect("a socket").finish(WAIT);
        assert_eq!(done.end, End::Failed(libc::ECONNREFUSED));
    }

    #[test]
    fn udp_that_nobody_answers_is_silent() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let to = server.local_addr().expect("bound");
        let done = Attempt::begin(Proto::Udp, to, 0).expect("a socket").finish(Duration::from_millis(50));
        assert_eq!(done.end, End::Silent);
    }

    #[test]
    fn an_echo_request_has_a_right_checksum() {
        let sum: u32 = echo_request(true).chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
