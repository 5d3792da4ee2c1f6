//! One row per program: its hook, the arguments it reads, what it shows.

use std::collections::BTreeSet;

/// Which commands need a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Every command.
    Always,
    /// Commands that follow packets (`trace`, `why`, `dns`), not those that count drops.
    Following,
    /// Of these the ones that look at every packet; `dns` has classifiers in their place, which let all but port 53 pass.
    EveryPacket,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint.
    Tracepoint,
    /// The beginning of a kernel function (fentry).
    Entry,
    /// The end of a kernel function (fexit), which is of that module where it is not built in.
    Exit(Option<&'static str>),
}

impl Hook {
    /// What it is, in a word.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Tracepoint => "tracepoint",
            Self::Entry | Self::Exit(_) => "function",
        }
    }
}

/// A program and its hook.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Function in the BPF object, and the tracepoint or kernel function it is attached to.
    pub program: &'static str,
    /// What that is.
    pub hook: Hook,
    /// Types of its arguments: of a tracepoint those that the program reads, of a function all.
    pub reads: &'static [&'static str],
    /// First upstream kernel that has what it needs.
    pub since: &'static str,
    /// What it shows; the words after "cannot show".
    pub shows: &'static str,
    /// Who needs it.
    pub need: Need,
}

impl Probe {
    /// Why this program cannot run here, or `None` if it can. `has` is the argument list of the
    /// running kernel's tracepoint or function, if it has it.
    #[must_use]
    pub fn obstacle(&self, has: Option<&[String]>) -> Option<String> {
        let Self { program, hook, reads, since, .. } = self;
        let kind = hook.kind();
        let fits = |args: &[String]| {
            // What a function returns stands behind all of its arguments.
            let whole = matches!(hook, Hook::Tracepoint) || args.len() == reads.len();
            whole && args.len() >= reads.len() && args.iter().zip(*reads).all(|(a, b)| a == b)
        };
        let why = match (has, hook) {
            (Some(args), _) if fits(args) => return None,
            (Some(args), _) => format!("{kind} {program} passes ({})", args.join(", ")),
            (None, Hook::Exit(Some(module))) => {
                return Some(self.cannot(&format!("there is no {kind} {program}; module {module} may not be loaded")));
            }
            (None, _) => format!("there is no {kind} {program}"),
        };
        Some(self.cannot(&format!("{why}; upstream Linux {since} has what it needs")))
    }

    /// What is lost, and why.
    #[must_use]
    pub fn cannot(&self, why: &str) -> String {
        format!("cannot show {}: {why}", self.shows)
    }
}

/// A TC classifier.
#[derive(Clone, Copy, Debug)]
pub struct Classifier {
    /// Function in the BPF object.
    pub program: &'static str,
    /// It is attached at egress; else at ingress.
    pub egress: bool,
    /// What it shows; the words after "cannot show".
    pub shows: &'static str,
}

/// Every classifier of the object, for the commands that live on them.
pub const CLASSIFIERS: [Classifier; 2] = [
    Classifier { program: "netprobe_in", egress: false, shows: "packets, flows and bytes that come in by a device" },
    Classifier { program: "netprobe_out", egress: true, shows: "packets, flows and bytes that leave by a device" },
];

const SKB: &str = "sk_buff*";
const SOCK: &str = "const sock*";
const NEIGH: &str = "neighbour*";
const RULE_ACTION: &[&str] = &["fib_rule*", "flowi*", "int", "fib_lookup_arg*"];
const CLASSIFY: &[&str] = &["sk_buff*", "const tcf_proto*", "tcf_result*"];
const XTABLES: &[&str] = &["void*", "sk_buff*", "const nf_hook_state*"];

/// Modules whose types and functions are read, where they are not built in: those of [`PROBES`].
#[must_use]
pub fn modules() -> BTreeSet<&'static str> {
    let of = |probe: &Probe| if let Hook::Exit(module) = probe.hook { module } else { None };
    PROBES.iter().filter_map(of).collect()
}

/// Every program of the object.
pub const PROBES: &[Probe] = &[
    Probe {
        program: "kfree_skb",
        hook: Hook::Tracepoint,
        reads: &[SKB, "void*"],
        since: "5.17",
        shows: "dropped packets, the reason and the place",
        need: Need::Always,
    },
    Probe {
        program: "netif_receive_skb",
        hook: Hook::Tracepoint,
        reads: &[SKB],
        since: "3.0",
        shows: "packets that come in by a device",
        need: Need::EveryPacket,
    },
    Probe {
        program: "net_dev_queue",
        hook: Hook::Tracepoint,
        reads: &[SKB],
        since: "3.0",
        shows: "packets given to a device's queue",
        need: Need::EveryPacket,
    },
    Probe {
        program: "net_dev_start_xmit",
        hook: Hook::Tracepoint,
        reads: &["const sk_buff*"],
        since: "3.14",
        shows: "packets that leave by a device",
        need: Need::EveryPacket,
    },
    Probe {
        program: "consume_skb",
        hook: Hook::Tracepoint,
        reads: &[SKB],
        since: "3.0",
        shows: "packets that arrived, and connection requests a full queue ignored",
        need: Need::EveryPacket,
    },
    Probe {
        program: "fib_table_lookup",
        hook: Hook::Tracepoint,
        reads: &["u32", "const flowi4*", "const fib_nh_common*", "int"],
        since: "5.5",
        shows: "IPv4 route look-ups: which table, which device",
        need: Need::Following,
    },
    Probe {
        program: "fib6_table_lookup",
        hook: Hook::Tracepoint,
        reads: &["const net*", "const fib6_result*", "fib6_table*", "const flowi6*"],
        since: "5.5",
        shows: "IPv6 route look-ups: which table, which device",
        need: Need::Following,
    },
    Probe {
        program: "tcp_retransmit_skb",
        hook: Hook::Tracepoint,
        reads: &[SOCK, "const sk_buff*"],
        since: "4.16",
        shows: "segments TCP sends again",
        need: Need::Following,
    },
    Probe {
        program: "tcp_send_reset",
        hook: Hook::Tracepoint,
        reads: &[SOCK, "const sk_buff*"],
        since: "4.16",
        shows: "resets sent from here, which tells them from resets that come in",
        need: Need::Following,
    },
    Probe {
        program: "tcp_receive_reset",
        hook: Hook::Tracepoint,
        reads: &["sock*"],
        since: "4.16",
        shows: "resets received",
        need: Need::Following,
    },
    Probe {
        program: "inet_sock_set_state",
        hook: Hook::Tracepoint,
        reads: &[SOCK, "const int", "const int"],
        since: "4.16",
        shows: "the state of TCP sockets and the error a process gets",
        need: Need::Following,
    },
    Probe {
        program: "sock_send_length",
        hook: Hook::Tracepoint,
        reads: &["sock*", "int"],
        since: "6.3",
        shows: "what processes cannot send though no packet is dropped: datagrams too long, refused by a BPF program",
        need: Need::Following,
    },
    Probe {
        program: "neigh_update",
        hook: Hook::Tracepoint,
        reads: &[NEIGH, "const u8*", "u8", "u32", "u32"],
        since: "5.1",
        shows: "changes of neighbour entries (ARP, NDP)",
        need: Need::Following,
    },
    Probe {
        program: "neigh_timer_handler",
        hook: Hook::Tracepoint,
        reads: &[NEIGH, "int"],
        since: "5.1",
        shows: "neighbours that did not answer",
        need: Need::Following,
    },
    Probe {
        program: "neigh_event_send_done",
        hook: Hook::Tracepoint,
        reads: &[NEIGH, "int"],
        since: "5.1",
        shows: "packets that wait for a neighbour",
        need: Need::Following,
    },
    Probe {
        program: "neigh_event_send_dead",
        hook: Hook::Tracepoint,
        reads: &[NEIGH, "int"],
        since: "5.1",
        shows: "packets that met a neighbour entry being removed",
        need: Need::Following,
    },
    Probe {
        program: "icmp_send",
        hook: Hook::Tracepoint,
        reads: &["const sk_buff*", "int", "int"],
        since: "6.10",
        shows: "ICMP errors sent from here, which tells reject from drop",
        need: Need::Following,
    },
    Probe {
        program: "fib4_rule_action",
        hook: Hook::Entry,
        reads: RULE_ACTION,
        since: "5.5",
        shows: "which policy rule led an IPv4 look-up to its table, and the namespace of look-ups that find nothing",
        need: Need::EveryPacket,
    },
    Probe {
        program: "fib6_rule_action",
        hook: Hook::Entry,
        reads: RULE_ACTION,
        since: "5.5",
        shows: "which policy rule led an IPv6 look-up to its table",
        need: Need::EveryPacket,
    },
    Probe {
        program: "rtnetlink_rcv_msg",
        hook: Hook::Entry,
        reads: &["sk_buff*", "nlmsghdr*", "netlink_ext_ack*"],
        since: "5.5",
        shows: "which process changed a route, a rule or a link, also where it ended at once",
        need: Need::Following,
    },
    Probe {
        program: "nf_hook_slow",
        hook: Hook::Exit(None),
        reads: &[SKB, "nf_hook_state*", "const nf_hook_entries*", "unsigned int"],
        since: "5.5",
        shows: "by whom, and between which devices, a netfilter hook dropped a packet",
        need: Need::EveryPacket,
    },
    Probe {
        program: "nft_do_chain",
        hook: Hook::Exit(Some("nf_tables")),
        reads: &["nft_pktinfo*", "void*"],
        since: "5.5",
        shows: "which table and base chain of nftables (also iptables-nft) dropped a packet",
        need: Need::EveryPacket,
    },
    Probe {
        program: "ipt_do_table",
        hook: Hook::Exit(Some("ip_tables")),
        reads: XTABLES,
        since: "5.16",
        shows: "which table of iptables-legacy dropped a packet",
        need: Need::EveryPacket,
    },
    Probe {
        program: "ip6t_do_table",
        hook: Hook::Exit(Some("ip6_tables")),
        reads: XTABLES,
        since: "5.16",
        shows: "which table of ip6tables-legacy dropped a packet",
        need: Need::EveryPacket,
    },
    Probe {
        program: "__nf_conntrack_confirm",
        hook: Hook::Exit(Some("nf_conntrack")),
        reads: &[SKB],
        since: "5.5",
        shows: "packets that conntrack dropped because their connection found no place",
        need: Need::EveryPacket,
    },
    Probe {
        program: "nf_conntrack_tcp_packet",
        hook: Hook::Exit(Some("nf_conntrack")),
        reads: &["nf_conn*", "sk_buff*", "unsigned int", "ip_conntrack_info", "const nf_hook_state*"],
        since: "5.5",
        shows: "why conntrack called a dropped segment INVALID",
        need: Need::EveryPacket,
    },
    Probe {
        program: "nf_nat_setup_info",
        hook: Hook::Exit(Some("nf_nat")),
        reads: &["nf_conn*", "const nf_nat_range2*", "nf_nat_manip_type"],
        since: "4.18",
        shows: "the range from which NAT chose an address",
        need: Need::EveryPacket,
    },
    Probe {
        program: "nf_nat_masquerade_ipv4",
        hook: Hook::Exit(Some("nf_nat")),
        reads: &["sk_buff*", "unsigned int", "const nf_nat_range2*", "const net_device*"],
        since: "5.2",
        shows: "that masquerading chose an address",
        need: Need::EveryPacket,
    },
    Probe {
        program: "nf_nat_masquerade_ipv6",
        hook: Hook::Exit(Some("nf_nat")),
        reads: &["sk_buff*", "const nf_nat_range2*", "const net_device*"],
        since: "5.2",
        shows: "that masquerading chose an IPv6 address",
        need: Need::EveryPacket,
    },
    Probe {
        program: "cls_bpf_classify",
        hook: Hook::Exit(Some("cls_bpf")),
        reads: CLASSIFY,
        since: "4.1",
        shows: "which of several tc filters with BPF programs dropped a packet",
        need: Need::EveryPacket,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn args(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_kernel_that_passes_more_arguments_is_no_obstacle() {
        let probe = &PROBES[0];
        assert_eq!(probe.obstacle(Some(&args(&["sk_buff*", "void*", "skb_drop_reason", "sock*"]))), None);
    }

    #[test]
    fn a_moved_argument_is_told_before_it_is_misread() {
        let text = PROBES[0].obstacle(Some(&args(&["void*", "sk_buff*"]))).expect("the arguments are swapped");
        assert_eq!(
            text,
            "cannot show dropped packets, the reason and the place: tracepoint kfree_skb passes (void*, sk_buff*); \
             upstream Linux 5.17 has what it needs"
        );
    }

    #[test]
    fn what_a_function_returns_is_not_taken_for_an_argument() {
        let row = PROBES.iter().find(|p| p.program == "nft_do_chain").expect("it is there");
        assert_eq!(row.obstacle(Some(&args(&["nft_pktinfo*", "void*"]))), None);
        let text = row.obstacle(Some(&args(&["nft_pktinfo*", "void*", "int"]))).expect("there is one more");
        assert!(text.contains("function nft_do_chain passes (nft_pktinfo*, void*, int)"), "{text}");
    }

    #[test]
    fn a_missing_function_is_told_with_its_module() {
        let row = PROBES.iter().find(|p| p.program == "nft_do_chain").expect("it is there");
        assert!(row.obstacle(None).expect("it is missing").ends_with("module nf_tables may not be loaded"));
    }

    #[test]
    fn a_missing_tracepoint_is_told() {
        assert!(PROBES[0].obstacle(None).expect("it is missing").contains("there is no tracepoint kfree_skb"));
    }
}
