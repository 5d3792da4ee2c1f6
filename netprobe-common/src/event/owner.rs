//! Whose a flow of the node is.

use crate::flow::FlowKey;

/// The cgroup is that of the socket that sends it, or that receives it.
pub const OWNER_SOCKET: u32 = 1;
/// It is that of the socket that waits at the flow's destination.
pub const OWNER_LISTENER: u32 = 2;
/// It is that of the process that was running when a route was looked up for it.
pub const OWNER_TASK: u32 = 3;

crate::wire! {
    /// A flow of the node belongs to a process of a cgroup that is followed. Comes once, before the first record of it.
    pub struct FlowOwner {
        /// The flow; the process's end is its source.
        pub flow: FlowKey,
        /// Number of the cgroup (version 2): the inode number of its directory.
        pub cgroup: u64,
        /// Namespace inode number.
        pub netns: u32,
        /// `OWNER_*`: how it is known.
        pub how: u32,
    }
}
