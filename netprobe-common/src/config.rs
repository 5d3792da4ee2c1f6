//! What user space tells the programs, frozen in read-only data or kept in small maps.

use crate::limits::{FILTER_CLAUSES, FILTER_TESTS};

/// "This kernel has no such field."
pub const ABSENT: u32 = u32::MAX;

/// Declares the offset table: a field and the path that user space looks up in BTF.
macro_rules! offsets {
    ($( $(#[$meta:meta])* $field:ident = $path:literal ),+ $(,)?) => {
        crate::wire! {
            /// Byte offsets of the running kernel's struct fields; [`ABSENT`] where it has none.
            pub struct Offsets { $( $(#[$meta])* #[doc = concat!("`", $path, "`")] pub $field: u32 ),+ }
        }
        impl Offsets {
            /// A table with nothing in it.
            pub const ABSENT: Self = Self { $( $field: ABSENT ),+ };
            /// Name and BTF path of each field, in order.
            pub const PATHS: &'static [(&'static str, &'static str)] = &[ $( (stringify!($field), $path) ),+ ];
            /// Sets the `index`-th field, in the order of [`Self::PATHS`].
            pub fn set(&mut self, index: usize, value: u32) {
                let fields = [ $( &mut self.$field ),+ ];
                *fields[index] = value;
            }
        }
    };
}

offsets! {
    skb_dev = "sk_buff.dev",
    skb_sk = "sk_buff.sk",
    skb_nfct = "sk_buff._nfct",
    skb_mark = "sk_buff.mark",
    skb_len = "sk_buff.len",
    skb_data_len = "sk_buff.data_len",
    skb_protocol = "sk_buff.protocol",
    skb_network_header = "sk_buff.network_header",
    skb_head = "sk_buff.head",
    skb_end = "sk_buff.end",
    skb_inner_transport = "sk_buff.inner_transport_header",
    shinfo_gso_type = "skb_shared_info.gso_type",
    skb_data = "sk_buff.data",
    skb_iif = "sk_buff.skb_iif",
    skb_hash = "sk_buff.hash",
    dev_net = "net_device.nd_net.net",
    dev_ifindex = "net_device.ifindex",
    net_inum = "net.ns.inum",
    net_fib6_null = "net.ipv6.fib6_null_entry",
    task_nsproxy = "task_struct.nsproxy",
    nsproxy_net = "nsproxy.net_ns",
    sk_net = "sock.__sk_common.skc_net.net",
    sk_family = "sock.__sk_common.skc_family",
    sk_state = "sock.__sk_common.skc_state",
    sk_dport = "sock.__sk_common.skc_dport",
    sk_num = "sock.__sk_common.skc_num",
    sk_daddr = "sock.__sk_common.skc_daddr",
    sk_saddr = "sock.__sk_common.skc_rcv_saddr",
    sk_daddr6 = "sock.__sk_common.skc_v6_daddr",
    sk_saddr6 = "sock.__sk_common.skc_v6_rcv_saddr",
    sk_protocol = "sock.sk_protocol",
    sk_err = "sock.sk_err",
    sk_listener = "sock.__sk_common.skc_listener",
    sk_cgroup = "sock.sk_cgrp_data.cgroup",
    cgroup_kn = "cgroup.kn",
    kernfs_id = "kernfs_node.id",
    inet_sport = "inet_sock.inet_sport",
    icsk_retransmits = "inet_connection_sock.icsk_retransmits",
    ct_orig = "nf_conn.tuplehash[0].tuple",
    ct_reply = "nf_conn.tuplehash[1].tuple",
    ct_status = "nf_conn.status",
    ct_zone = "nf_conn.zone.id",
    ct_net = "nf_conn.ct_net.net",
    ct_tcp_state = "nf_conn.proto.tcp.state",
    ct_tcp_sent = "nf_conn.proto.tcp.seen[0]",
    ct_tcp_answered = "nf_conn.proto.tcp.seen[1]",
    tcp_seen_end = "ip_ct_tcp_state.td_end",
    tcp_seen_max_end = "ip_ct_tcp_state.td_maxend",
    tcp_seen_max_window = "ip_ct_tcp_state.td_maxwin",
    tuple_src = "nf_conntrack_tuple.src.u3",
    tuple_sport = "nf_conntrack_tuple.src.u.all",
    tuple_l3num = "nf_conntrack_tuple.src.l3num",
    tuple_dst = "nf_conntrack_tuple.dst.u3",
    tuple_dport = "nf_conntrack_tuple.dst.u.all",
    tuple_proto = "nf_conntrack_tuple.dst.protonum",
    fl4_oif = "flowi4.__fl_common.flowic_oif",
    fl4_iif = "flowi4.__fl_common.flowic_iif",
    fl4_mark = "flowi4.__fl_common.flowic_mark",
    fl4_proto = "flowi4.__fl_common.flowic_proto",
    fl4_saddr = "flowi4.saddr",
    fl4_daddr = "flowi4.daddr",
    fl4_sport = "flowi4.uli.ports.sport",
    fl4_dport = "flowi4.uli.ports.dport",
    fl6_oif = "flowi6.__fl_common.flowic_oif",
    fl6_iif = "flowi6.__fl_common.flowic_iif",
    fl6_mark = "flowi6.__fl_common.flowic_mark",
    fl6_proto = "flowi6.__fl_common.flowic_proto",
    fl6_saddr = "flowi6.saddr",
    fl6_daddr = "flowi6.daddr",
    fl6_sport = "flowi6.uli.ports.sport",
    fl6_dport = "flowi6.uli.ports.dport",
    nhc_dev = "fib_nh_common.nhc_dev",
    nhc_gw_family = "fib_nh_common.nhc_gw_family",
    nhc_gw = "fib_nh_common.nhc_gw",
    fib6_result_nh = "fib6_result.nh",
    fib6_result_f6i = "fib6_result.f6i",
    fib6_result_type = "fib6_result.fib6_type",
    fib6_nh_common = "fib6_nh.nh_common",
    fib6_table_id = "fib6_table.tb6_id",
    fib_rule_action = "fib_rule.action",
    fib_rule_table = "fib_rule.table",
    fib_rule_pref = "fib_rule.pref",
    fib_rule_net = "fib_rule.fr_net",
    skb_cb = "sk_buff.cb",
    nlmsg_kind = "nlmsghdr.nlmsg_type",
    netlink_port_id = "netlink_skb_parms.portid",
    hook_number = "nf_hook_state.hook",
    hook_family = "nf_hook_state.pf",
    hook_in = "nf_hook_state.in",
    hook_out = "nf_hook_state.out",
    hook_net = "nf_hook_state.net",
    nft_pkt_skb = "nft_pktinfo.skb",
    nft_chain_name = "nft_chain.name",
    nft_chain_table = "nft_chain.table",
    nft_table_name = "nft_table.name",
    nft_table_family = "nft_table.family",
    xt_table_name = "xt_table.name",
    nat_flags = "nf_nat_range2.flags",
    nat_low = "nf_nat_range2.min_addr",
    nat_high = "nf_nat_range2.max_addr",
    nat_low_port = "nf_nat_range2.min_proto",
    nat_high_port = "nf_nat_range2.max_proto",
    tcf_preference = "tcf_proto.prio",
    neigh_dev = "neighbour.dev",
    neigh_state = "neighbour.nud_state",
    neigh_lladdr = "neighbour.ha",
    neigh_key = "neighbour.primary_key",
    neigh_table = "neighbour.tbl",
    neigh_table_family = "neigh_table.family",
}

/// Follow everything in the namespaces we know (`--all`, `drops`), not only chosen pods.
pub const MODE_ALL: u32 = 1;
/// Count drops and send samples of them; nothing else is attached.
pub const MODE_DROPS: u32 = 2;
/// No tracepoints at all: the run lives on TC classifiers.
pub const MODE_TC: u32 = 4;

/// TC classifiers send the beginning of each DNS message that crosses a pod's link.
pub const TC_DNS: u32 = 4;
/// TC classifiers count flows.
pub const TC_FLOWS: u32 = 1;
/// TC classifiers send the packets themselves, and `kfree_skb` what becomes of them.
pub const TC_CAPTURE: u32 = 2;
/// The run is about DNS: packets of port 53 come from TC classifiers, and of the tracepoints only those are attached that do
/// not run for every packet. Look-ups and sockets are held to port 53 too, for which there is no filter.
pub const MODE_DNS: u32 = 8;

/// Functions of the kernel that classifiers call (kfuncs) stand in the object as calls of helpers with numbers that no helper
/// has; user space makes calls of the functions of them where the kernel has these, and elsewhere they are not reached. This is
/// `bpf_cast_to_kern_ctx`.
pub const KERNEL_CTX: u32 = 0x6e70_6378;
/// Likewise `bpf_rdonly_cast`.
pub const READ_AS: u32 = 0x6e70_7261;

crate::wire! {
    /// Everything that is known before the programs are loaded. Frozen, so that the verifier
    /// removes what a kernel lacks and what a command does not ask for.
    pub struct Config {
        /// `MODE_*` bits.
        pub mode: u32,
        /// `kfree_skb` passes a reason as its third argument.
        pub has_drop_reason: u32,
        /// Reasons below this one are no drops (`SKB_NOT_DROPPED_YET`, `SKB_CONSUMED`).
        pub first_drop_reason: u32,
        /// `tcp_send_reset` passes a reason as its third argument.
        pub has_reset_reason: u32,
        /// `consume_skb` passes a location as its second argument.
        pub has_consume_location: u32,
        /// Number of tests in use in `filter`; 0 lets everything pass.
        pub filter_tests: u32,
        /// Number of clauses in use.
        pub filter_clauses: u32,
        /// What the TC classifiers do: `TC_*` bits.
        pub tc: u32,
        /// Most bytes of a packet that a capture sends.
        pub snap: u32,
        /// 1: sockets have cgroups (version 2), and classifiers may ask for them.
        pub has_cgroups: u32,
        /// 1: calls of [`KERNEL_CTX`] were filled in.
        pub kernel_ctx: u32,
        /// Where calls of [`READ_AS`] were filled in, the BTF number of `struct nf_conn`; else 0.
        pub nf_conn: u32,
        /// Byte offsets of this kernel.
        pub offsets: Offsets,
        /// The user's filter.
        pub filter: Filter,
    }

    /// A filter in disjunctive normal form: it passes if any clause holds; a clause holds if all
    /// tests in `need` hold and none in `deny`.
    pub struct Filter {
        /// The tests; test `i` is bit `i` of a clause's words.
        pub tests: [FilterTest; FILTER_TESTS],
        /// The alternatives.
        pub clauses: [FilterClause; FILTER_CLAUSES],
    }

    /// One alternative of a filter.
    pub struct FilterClause {
        /// Tests that must hold, as bits.
        pub need: u32,
        /// Tests that must not hold, as bits.
        pub deny: u32,
    }

    /// One test of a filter. It holds if EtherType, family, protocol, length, flags, ICMP type and code fit, and
    /// the address and the port range fit on one and the same of the sides named.
    pub struct FilterTest {
        /// Address compared under `mask`; all-zero mask fits every address.
        pub address: [u8; 16],
        /// Mask, as bits of the v4-mapped address.
        pub mask: [u8; 16],
        /// Least length, bytes: of the IP packet and an Ethernet header before it.
        pub len_low: u32,
        /// Greatest length; 0..=`u32::MAX` fits every packet.
        pub len_high: u32,
        /// First port, host order.
        pub port_low: u16,
        /// Last port, host order; 0..=65535 fits every packet, also one without ports.
        pub port_high: u16,
        /// EtherType, host order, or 0 for any.
        pub ether_type: u16,
        /// Sides looked at: 1 source, 2 destination, 3 either.
        pub sides: u8,
        /// IP protocol, or 0 for any.
        pub proto: u8,
        /// 4 or 6, or 0 for any.
        pub family: u8,
        /// TCP flags that must be compared (a mask), or 0.
        pub flags_mask: u8,
        /// Value the masked TCP flags must have.
        pub flags_value: u8,
        /// 1 if any masked TCP flag being set suffices (`tcp[tcpflags] & x != 0`).
        pub flags_any: u8,
        /// 1 if `icmp_type` must be compared.
        pub has_icmp_type: u8,
        /// ICMP or ICMPv6 type.
        pub icmp_type: u8,
        /// 1 if `icmp_code` must be compared.
        pub has_icmp_code: u8,
        /// ICMP or ICMPv6 code.
        pub icmp_code: u8,
    }

    /// A slot of the namespace table.
    pub struct NetnsSlot {
        /// Inode number of the network namespace; 0 where the slot is empty.
        pub inum: u32,
        /// `NS_*` bits.
        pub role: u32,
    }

    /// An address that is followed, or belongs to a pod we know.
    pub struct Owner {
        /// Number of its pod, chosen by user space.
        pub owner: u32,
        /// 1 if packets from or to it are followed.
        pub followed: u32,
    }

    /// A socket of the node that waits for somebody: where packets from outside find it.
    #[repr(align(8))]
    pub struct Listening {
        /// Address of the node's, IPv4 as `::ffff:a.b.c.d`.
        pub address: [u8; 16],
        /// Port, host order.
        pub port: u16,
        /// IP protocol number.
        pub proto: u16,
        /// Zero.
        pub _pad: u32,
    }

    /// What the CPU is receiving.
    pub struct Receiving {
        /// Address of the `sk_buff`.
        pub skb: u64,
        /// Namespace inode number.
        pub netns: u32,
        /// Device.
        pub ifindex: u32,
        /// 1 if it is followed.
        pub followed: u32,
        /// Zero.
        pub _pad: u32,
    }

    /// The policy rule that this CPU is following.
    pub struct Ruling {
        /// Address of the `flowi` that was asked; 0 where there is none.
        pub question: u64,
        /// Address of the `struct fib_rule`.
        pub rule: u64,
    }

    /// A kernel function that was called and has not returned, where kprobes see it.
    pub struct Call {
        /// Its first arguments.
        pub arguments: [u64; 4],
    }

    /// Who said last on this CPU that a packet is to be dropped.
    pub struct Judged {
        /// Address of the `sk_buff`, 0 where there is none.
        pub skb: u64,
        /// What `by` kept: the address of the `nft_chain` or `xt_table`, or 0.
        pub object: u64,
        /// `VERDICT_*`.
        pub by: u32,
        /// Zero.
        pub _pad: u32,
    }

    /// The packet that a tc filter dropped last on this CPU.
    pub struct Filtered {
        /// Address of the `sk_buff`, 0 where there is none.
        pub skb: u64,
        /// Address of the filter (`struct tcf_proto`).
        pub filter: u64,
    }

    /// The segment that conntrack called INVALID last on this CPU.
    pub struct Refused {
        /// Address of the `sk_buff`, 0 where there is none.
        pub skb: u64,
        /// Why.
        pub invalid: crate::event::Invalid,
        /// Zero.
        pub _pad: u32,
    }

    /// The followed packet that this CPU dropped last, of which a record was sent.
    pub struct Dropped {
        /// Address of the `sk_buff`, 0 where there is none.
        pub skb: u64,
        /// Its flow then.
        pub flow: crate::flow::FlowKey,
    }

    /// Key of the table "this flow at this place".
    pub struct PlaceKey {
        /// The flow, in the packet's own direction.
        pub flow: crate::flow::FlowKey,
        /// Namespace inode number.
        pub netns: u32,
        /// Device.
        pub ifindex: u32,
        /// `PLACE_*`.
        pub place: u32,
        /// Drop reason, or table and error of a look-up: what else tells two rows apart.
        pub detail: u32,
    }

    /// What was counted, on one CPU.
    pub struct Count {
        /// Packets (or look-ups).
        pub packets: u64,
        /// Bytes, as `skb->len` says.
        pub bytes: u64,
        /// When the last one came, `CLOCK_MONOTONIC` nanoseconds: up to a jiffy early.
        pub last_ns: u64,
        /// When the credit was last raised, `CLOCK_MONOTONIC` nanoseconds.
        pub refill_ns: u64,
        /// `jiffies` when `last_ns` was read.
        pub jiffy: u64,
        /// Records that may still be sent at once.
        pub credit: u32,
        /// Records sent.
        pub sent: u32,
    }

    /// A device at which packets are captured, and what was counted there on one CPU.
    pub struct CapturePlace {
        /// 1 for a way out of the node, which carries others' packets too.
        pub shared: u32,
        /// Zero.
        pub _pad: u32,
        /// Packets that were to be sent.
        pub packets: u64,
        /// Of those, packets that found no room in the ring.
        pub lost: u64,
    }

    /// Key of the drop table.
    pub struct DropKey {
        /// Instruction address that freed the packet.
        pub location: u64,
        /// Namespace inode number.
        pub netns: u32,
        /// Device, or 0 where the packet had none.
        pub ifindex: u32,
        /// Drop reason of this kernel.
        pub reason: u32,
        /// Owner (`Owner::owner`) of the source address, else of the destination, else 0.
        pub owner: u32,
    }
}

/// The namespace netprobe runs in.
pub const NS_NODE: u32 = 1;
/// A namespace with a link into the node.
pub const NS_POD: u32 = 2;
/// Everything in it is followed.
pub const NS_FOLLOWED: u32 = 4;
/// Pods without a namespace of their own are followed in it: by the cgroups of sockets.
pub const NS_SHARED_BY_PODS: u32 = 16;
/// Two namespaces share the slot: ask the hash map.
pub const NS_SHARED: u32 = 8;

/// A device received the packet.
pub const PLACE_RECEIVE: u32 = 1;
/// The packet was given to the device's queueing discipline.
pub const PLACE_QUEUE: u32 = 2;
/// The packet was given to the device's driver: it left.
pub const PLACE_TRANSMIT: u32 = 3;
/// The packet was freed because it had arrived.
pub const PLACE_CONSUME: u32 = 4;
/// The packet was dropped.
pub const PLACE_DROP: u32 = 5;
/// A route was looked up.
pub const PLACE_LOOKUP: u32 = 6;

/// Index of each counter of the per-CPU loss table.
pub mod loss {
    /// Records that found no room in the ring.
    pub const RING_FULL: u32 = 0;
    /// Rows that found no room in the place table.
    pub const PLACES_FULL: u32 = 1;
    /// Rows that found no room in the drop table.
    pub const DROPS_FULL: u32 = 2;
    /// Packets whose headers could not be read.
    pub const UNREADABLE: u32 = 3;
    /// Packets whose flow found no room in the table of counted flows.
    pub const COUNTED_FULL: u32 = 4;
    /// Counters in all.
    pub const KINDS: u32 = 5;
}
