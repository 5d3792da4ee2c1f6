//! One row per program: its hook, the arguments it reads, what it shows.

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

/// A program and its hook.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Function in the BPF object, and the tracepoint it is attached to.
    pub program: &'static str,
    /// Types of the tracepoint's arguments, as far as the program reads them.
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
    /// running kernel's tracepoint, if it has the tracepoint.
    #[must_use]
    pub fn obstacle(&self, has: Option<&[String]>) -> Option<String> {
        let Self { program, reads, since, shows, .. } = self;
        let why = match has {
            Some(args) if args.len() >= reads.len() && args.iter().zip(*reads).all(|(a, b)| a == b) => return None,
            Some(args) => format!("tracepoint {program} passes ({})", args.join(", ")),
            None => format!("there is no tracepoint {program}"),
        };
        Some(format!("cannot show {shows}: {why}; upstream Linux {since} has what it needs"))
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

/// Every program of the object.
pub const PROBES: &[Probe] = &[
    Probe {
        program: "kfree_skb",
        reads: &[SKB, "void*"],
        since: "5.17",
        shows: "dropped packets, the reason and the place",
        need: Need::Always,
    },
    Probe {
        program: "netif_receive_skb",
        reads: &[SKB],
        since: "3.0",
        shows: "packets that come in by a device",
        need: Need::EveryPacket,
    },
    Probe {
        program: "net_dev_queue",
        reads: &[SKB],
        since: "3.0",
        shows: "packets given to a device's queue",
        need: Need::EveryPacket,
    },
    Probe {
        program: "net_dev_start_xmit",
        reads: &["const sk_buff*"],
        since: "3.14",
        shows: "packets that leave by a device",
        need: Need::EveryPacket,
    },
    Probe {
        program: "consume_skb",
        reads: &[SKB],
        since: "3.0",
        shows: "packets that arrived, and connection requests a full queue ignored",
        need: Need::EveryPacket,
    },
    Probe {
        program: "fib_table_lookup",
        reads: &["u32", "const flowi4*", "const fib_nh_common*", "int"],
        since: "5.5",
        shows: "IPv4 route look-ups: which table, which device",
        need: Need::Following,
    },
    Probe {
        program: "fib6_table_lookup",
        reads: &["const net*", "const fib6_result*", "fib6_table*", "const flowi6*"],
        since: "5.5",
        shows: "IPv6 route look-ups: which table, which device",
        need: Need::Following,
    },
    Probe {
        program: "tcp_retransmit_skb",
        reads: &[SOCK, "const sk_buff*"],
        since: "4.16",
        shows: "segments TCP sends again",
        need: Need::Following,
    },
    Probe {
        program: "tcp_send_reset",
        reads: &[SOCK, "const sk_buff*"],
        since: "4.16",
        shows: "resets sent from here, which tells them from resets that come in",
        need: Need::Following,
    },
    Probe {
        program: "tcp_receive_reset",
        reads: &["sock*"],
        since: "4.16",
        shows: "resets received",
        need: Need::Following,
    },
    Probe {
        program: "inet_sock_set_state",
        reads: &[SOCK, "const int", "const int"],
        since: "4.16",
        shows: "the state of TCP sockets and the error a process gets",
        need: Need::Following,
    },
    Probe {
        program: "sock_send_length",
        reads: &["sock*", "int"],
        since: "6.3",
        shows: "what processes cannot send though no packet is dropped: datagrams too long, refused by a BPF program",
        need: Need::Following,
    },
    Probe {
        program: "neigh_update",
        reads: &[NEIGH, "const u8*", "u8", "u32", "u32"],
        since: "5.1",
        shows: "changes of neighbour entries (ARP, NDP)",
        need: Need::Following,
    },
    Probe {
        program: "neigh_timer_handler",
        reads: &[NEIGH, "int"],
        since: "5.1",
        shows: "neighbours that did not answer",
        need: Need::Following,
    },
    Probe {
        program: "neigh_event_send_done",
        reads: &[NEIGH, "int"],
        since: "5.1",
        shows: "packets that wait for a neighbour",
        need: Need::Following,
    },
    Probe {
        program: "neigh_event_send_dead",
        reads: &[NEIGH, "int"],
        since: "5.1",
        shows: "packets that met a neighbour entry being removed",
        need: Need::Following,
    },
    Probe {
        program: "icmp_send",
        reads: &["const sk_buff*", "int", "int"],
        since: "6.10",
        shows: "ICMP errors sent from here, which tells reject from drop",
        need: Need::Following,
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
    fn a_missing_tracepoint_is_told() {
        assert!(PROBES[0].obstacle(None).expect("it is missing").contains("there is no tracepoint kfree_skb"));
    }
}
