//! What TCP says of its sockets.

use crate::flow::FlowKey;

crate::wire! {
    /// A socket's identity.
    pub struct SocketView {
        /// Local address and port as source, remote as destination.
        pub flow: FlowKey,
        /// Namespace inode number.
        pub netns: u32,
        /// `TCP_*` state of `include/net/tcp_states.h`.
        pub state: u32,
    }

    /// TCP sent a segment again.
    ///
    /// Source: `tcp:tcp_retransmit_skb` (sk, skb[, err]).
    pub struct TcpRetransmit {
        /// The sender.
        pub socket: SocketView,
        /// Bytes of the segment (`skb->len`).
        pub len: u32,
        /// Time-outs in a row so far (`icsk_retransmits`): 0 where it is an early guess (a probe, duplicate
        /// acknowledgements), and where the kernel has no such field.
        pub timeouts: u32,
    }

    /// TCP sent or received a reset.
    ///
    /// Sources: `tcp:tcp_send_reset` (sk, skb[, reason]), `tcp:tcp_receive_reset` (sk).
    pub struct TcpReset {
        /// The end that sends or receives it: its address as source. Without a socket, the
        /// refused packet's flow turned round.
        pub socket: SocketView,
        /// 1 sent, 2 received.
        pub direction: u32,
        /// 1 if a socket was there.
        pub has_socket: u32,
        /// `enum sk_rst_reason` of the running kernel, 0 where it has none.
        pub reason: u32,
        /// Zero.
        pub _pad: u32,
    }

    /// A process could not send: the system call failed, and there may be no packet.
    ///
    /// Source: `sock:sock_send_length` (sk, ret, flags), Linux 6.3.
    pub struct SendError {
        /// The socket, of any protocol. A UDP socket without a peer has no destination.
        pub socket: SocketView,
        /// What the process got, a positive errno.
        pub err: u32,
        /// Zero.
        pub _pad: u32,
        /// Name of the current task (`comm`), NUL-padded.
        pub comm: [u8; 16],
    }

    /// A TCP socket changed its state.
    ///
    /// Source: `sock:inet_sock_set_state` (sk, oldstate, newstate).
    pub struct SocketState {
        /// The socket; its `state` is the old one.
        pub socket: SocketView,
        /// State before.
        pub old: u32,
        /// State after.
        pub new: u32,
        /// `sk_err`, a positive errno, or 0.
        pub err: u32,
        /// Zero.
        pub _pad: u32,
        /// Name of the current task (`comm`), NUL-padded; of who was interrupted in a softirq.
        pub comm: [u8; 16],
    }
}
