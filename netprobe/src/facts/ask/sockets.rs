//! Listening sockets of the calling thread's namespace, by sock_diag.

use std::io;

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use crate::model::{
    flow::Proto,
    sockets::{Listener, Sockets},
};

/// Sockets kept of one namespace. A node of 250 hostNetwork services has a few hundred.
const KEPT: usize = 4_096;

/// Room for one datagram of answers; the kernel fills at most this much for a reader that asks with it.
const BUFFER_BYTES: usize = 64 * 1024;

/// What is asked: TCP sockets that listen, UDP sockets without a peer (the kernel calls them closed).
const ASKED: [(u8, Proto, StateFlags); 2] =
    [(IPPROTO_TCP, Proto::Tcp, StateFlags::LISTEN), (IPPROTO_UDP, Proto::Udp, StateFlags::CLOSE)];

/// Reads them.
pub(in crate::facts) fn read() -> Result<Sockets> {
    let mut found = Sockets::default();
    for family in [AF_INET, AF_INET6] {
        for (number, proto, states) in ASKED {
            let request = request(family, number, states);
            dump(request, &mut |answer| take(&mut found, proto, &answer))
                .with_context(|| format!("list the {proto} sockets (sock_diag)"))?;
        }
    }
    Ok(found)
}

fn request(family: u8, protocol: u8, states: StateFlags) -> SockDiagMessage {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

fn take(found: &mut Sockets, proto: Proto, answer: &InetResponse) {
    let (header, id) = (&answer.header, &answer.header.socket_id);
    if found.listeners.len() >= KEPT {
        found.cut = true;
        return;
    }
    let v6_only = answer.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
    found.listeners.push(Listener {
        proto,
        local: (id.source_address, id.source_port).into(),
        v6_only,
        queued: header.recv_queue,
        limit: header.send_queue,
        ifindex: id.interface_id,
        uid: header.uid,
        cgroup: answer.nlas.iter().find_map(cgroup).unwrap_or(0),
    });
}

/// `INET_DIAG_CGROUP_ID` (`include/uapi/linux/inet_diag.h`, Linux 5.9).
const CGROUP_ID: u16 = 21;

fn cgroup(nla: &Nla) -> Option<u64> {
    let Nla::Other(other) = nla else { return None };
    if other.kind() != CGROUP_ID || other.value_len() != 8 {
        return None;
    }
    let mut bytes = [0; 8];
    other.emit_value(&mut bytes);
    Some(u64::from_ne_bytes(bytes))
}

/// Asks, and gives each answer away.
fn dump(request: SockDiagMessage, each: &mut dyn FnMut(InetResponse)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, request.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        buffer.clear();
        let length = socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            let taken = usize::try_from(message.header.length).map_err(io::Error::other)?.next_multiple_of(4);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => match error.code {
                    None => return Ok(()),
                    Some(_) => return Err(error.to_io()),
                },
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => each(*answer),
                _ => {}
            }
            if taken == 0 {
                break;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_listener_and_its_backlog_are_found() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let udp = UdpSocket::bind("[::1]:0").expect("a free port");
        let (tcp, udp) = (tcp.local_addr().expect("bound"), udp.local_addr().expect("bound"));
        let found = read().expect("sock_diag answers");
        let listener = found.listener(Proto::Tcp, tcp).expect("it listens");
        assert_eq!((listener.local, listener.queued), (tcp, 0));
        assert!(listener.limit > 0, "the backlog");
        assert!(found.listener(Proto::Udp, udp).is_some());
        assert!(found.listener(Proto::Udp, tcp).is_none());
    }
}
