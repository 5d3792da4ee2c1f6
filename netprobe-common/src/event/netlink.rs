//! Who changes the network's configuration.

crate::wire! {
    /// A process asked rtnetlink for a change; the notification of it carries the same port id. The header's pid is the
    /// process.
    ///
    /// Source: the beginning of `rtnetlink_rcv_msg` (`net/core/rtnetlink.c`), which runs in the sender's own call.
    pub struct NetlinkRequest {
        /// Namespace of the socket.
        pub netns: u32,
        /// Port id of the socket.
        pub port_id: u32,
        /// `RTM_*` type of the message.
        pub kind: u32,
        /// Zero.
        pub _pad: u32,
        /// Name of the current task (`comm`), NUL-padded.
        pub comm: [u8; 16],
    }
}
