//! Sockets of one namespace.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::flow::Proto;

/// Sockets that wait for somebody: TCP listeners, UDP sockets without a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// Each, by protocol and address.
    pub listeners: Vec<Listener>,
    /// There were more than are kept.
    pub cut: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// TCP or UDP.
    pub proto: Proto,
    /// Where it is bound; the unspecified address is every one.
    pub local: SocketAddr,
    /// An IPv6 socket that takes no IPv4 (`IPV6_V6ONLY`).
    pub v6_only: bool,
    /// TCP: connections that wait to be accepted. UDP: bytes that wait to be read.
    pub queued: u32,
    /// TCP: how many may wait (the backlog). UDP: 0.
    pub limit: u32,
    /// Device it is bound to, or 0.
    pub ifindex: u32,
    /// User id of its owner.
    pub uid: u32,
    /// Number of its cgroup (version 2), 0 where the kernel does not tell.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cgroup: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Listener {
    /// Whether a packet to `to` finds it, going by addresses alone.
    #[must_use]
    pub fn takes(&self, proto: Proto, to: SocketAddr) -> bool {
        let everyone = self.local.ip().is_unspecified();
        let family = self.local.is_ipv6() == to.is_ipv6() || (self.local.is_ipv6() && everyone && !self.v6_only);
        self.proto == proto && self.local.port() == to.port() && family && (everyone || self.local.ip() == to.ip())
    }
}

impl Sockets {
    /// The listener that a packet to `to` finds: the most particular one.
    #[must_use]
    pub fn listener(&self, proto: Proto, to: SocketAddr) -> Option<&Listener> {
        self.listeners.iter().filter(|l| l.takes(proto, to)).min_by_key(|l| l.local.ip().is_unspecified())
    }

    /// Those of a protocol on that port, whatever address they are bound to.
    pub fn on_port(&self, proto: Proto, port: u16) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().filter(move |l| l.proto == proto && l.local.port() == port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(local: &str, v6_only: bool) -> Listener {
        let local = local.parse().expect("an address");
        Listener { proto: Proto::Tcp, local, v6_only, queued: 0, limit: 128, ifindex: 0, uid: 0, cgroup: 0 }
    }

    fn takes(local: &str, v6_only: bool, to: &str) -> bool {
        listener(local, v6_only).takes(Proto::Tcp, to.parse().expect("an address"))
    }

    #[test]
    fn a_socket_on_every_address_takes_both_families_unless_it_says_no() {
        assert!(takes("[::]:80", false, "10.0.0.1:80"));
        assert!(!takes("[::]:80", true, "10.0.0.1:80"));
        assert!(!takes("0.0.0.0:80", false, "[fd00::1]:80"));
    }

    #[test]
    fn a_socket_on_loopback_takes_nothing_from_outside() {
        assert!(takes("127.0.0.1:80", false, "127.0.0.1:80"));
        assert!(!takes("127.0.0.1:80", false, "10.0.0.1:80"));
        assert!(!takes("10.0.0.1:81", false, "10.0.0.1:80"));
    }
}
