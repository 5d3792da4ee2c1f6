//! Neighbour (ARP and NDP) entries.

/// `neigh_update`: state or link-layer address is about to change.
pub const NEIGH_UPDATE: u32 = 1;
/// `neigh_timer_handler`: an entry's timer ran.
pub const NEIGH_FAILED_TIMER: u32 = 2;
/// `neigh_event_send_done`: a packet waits for resolution.
pub const NEIGH_SEND: u32 = 3;
/// `neigh_event_send_dead`: a packet met a dead entry.
pub const NEIGH_SEND_DEAD: u32 = 4;

crate::wire! {
    /// A neighbour entry changed, or a packet waits for it.
    ///
    /// Sources: `neigh:neigh_update` (n, lladdr, new, flags, nlmsg_pid), `neigh:neigh_timer_handler`
    /// (n, err), `neigh:neigh_event_send_done` (n, rc), `neigh:neigh_event_send_dead` (n, rc).
    pub struct Neighbour {
        /// The neighbour's address, v4-mapped.
        pub address: [u8; 16],
        /// Link-layer address in the entry, zero-padded to eight bytes.
        pub lladdr: [u8; 8],
        /// Link-layer address it is about to get (`neigh_update`), or zero.
        pub new_lladdr: [u8; 8],
        /// Namespace inode number.
        pub netns: u32,
        /// Device.
        pub ifindex: u32,
        /// `NEIGH_*` of this module: which tracepoint.
        pub what: u32,
        /// `NUD_*` bits in the entry.
        pub state: u32,
        /// `NUD_*` bits it is about to get (`neigh_update`), or 0.
        pub new_state: u32,
        /// Result the tracepoint passes, or 0.
        pub result: i32,
        /// 4 or 6.
        pub family: u32,
        /// Netlink port id of who asked for it (`neigh_update`), 0 for the kernel itself.
        pub port_id: u32,
    }
}
