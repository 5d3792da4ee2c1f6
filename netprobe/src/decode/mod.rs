//! `Record` → `Packet`: bytes to host types, this kernel's numbers to names.
//!
//! Past this stage nobody sees a byte order, an instruction address or an enum number.

pub mod counted;
mod dns;
mod frame;
mod head;
mod role;
mod verdict;

use std::sync::Arc;

use netprobe_common::{
    event::{self, Event, Malformed, NEIGH_FAILED_TIMER, NEIGH_SEND, NEIGH_SEND_DEAD, Neighbour},
    flow::FlowKey,
};

use crate::model::{
    facts::HostFacts,
    flow::{Flow, Proto, address},
    nat::{NatBy, NatChoice},
    packet::{Carried, Packet, What},
    symbols::Symbols,
};

/// `NUD_FAILED` (`include/uapi/linux/neighbour.h`).
const NUD_FAILED: u32 = 0x20;

pub use frame::is_of_flow;

/// A five-tuple, `None` where the packet is no IP.
#[must_use]
pub fn flow(key: &FlowKey) -> Option<Flow> {
    head::flow(key)
}

/// Turns records into packets.
pub struct Decoder {
    host: HostFacts,
    symbols: Symbols,
    interned: hashbrown::HashSet<Arc<str>>,
}

impl Decoder {
    /// With the names of one kernel.
    #[must_use]
    pub fn new(host: HostFacts, symbols: Symbols) -> Self {
        Self { host, symbols, interned: hashbrown::HashSet::new() }
    }

    /// The kernel it speaks for.
    #[must_use]
    pub const fn host(&self) -> &HostFacts {
        &self.host
    }

    /// The kernel's functions.
    pub const fn symbols(&mut self) -> &mut Symbols {
        &mut self.symbols
    }

    /// Decodes one record.
    ///
    /// # Errors
    ///
    /// When the bytes are no record of this layout.
    pub fn packet(&mut self, bytes: &[u8]) -> Result<Packet, Malformed> {
        let (header, event) = event::parse(bytes)?;
        let (netns, ifindex, what) = self.what(&event);
        Ok(Packet { mono_ns: header.mono_ns, cpu: header.cpu, pid: header.pid, netns, ifindex, what })
    }

    /// The kernel's name of a drop reason.
    pub fn reason(&mut self, number: u32) -> Arc<str> {
        let name = self.host.drop_reasons.get(&number).cloned().unwrap_or_else(|| format!("reason {number}"));
        self.intern(&name)
    }

    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.interned.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(text);
        self.interned.insert(Arc::clone(&new));
        new
    }

    fn what(&mut self, event: &Event) -> (u32, u32, What) {
        match event {
            Event::SkbDrop(e) => {
                let what = What::Dropped {
                    head: head::head(&e.head),
                    ct: head::conntrack(&e.ct),
                    reason: self.reason(e.reason),
                    site: self.symbols.name(e.location),
                    stack: self.callers(&e.stack, e.stack_len),
                    filter: u16::try_from(e.filter).ok().filter(|preference| *preference != 0),
                    seen: e.seen,
                    carried: head::flow(&e.carried).map(|flow| Carried { flow, vni: e.vni }),
                };
                (e.head.netns, e.head.ifindex, what)
            }
            Event::Hop(e) => {
                let what = What::Hop {
                    place: head::place(e.place),
                    head: head::head(&e.head),
                    ct: head::conntrack(&e.ct),
                    inner: (e.has_inner != 0).then(|| head::flow(&e.inner)).flatten(),
                    seen: e.seen,
                };
                (e.head.netns, e.head.ifindex, what)
            }
            Event::RouteLookup(e) => self.lookup(e),
            Event::NetlinkRequest(e) => {
                (e.netns, 0, What::Request { port_id: e.port_id, comm: self.intern(&head::text(&e.comm)) })
            }
            Event::FlowOwner(e) => (e.netns, 0, owned(e)),
            Event::Verdict(e) => self.verdict(e),
            Event::NatChoice(e) => (e.netns, e.out_ifindex, nat(e)),
            Event::TcpRetransmit(e) => {
                let (flow, state) = (head::any_flow(&e.socket.flow), head::tcp_state(e.socket.state));
                (e.socket.netns, 0, What::Retransmit { flow, state, timeouts: e.timeouts })
            }
            Event::TcpReset(e) => (e.socket.netns, 0, self.reset(e)),
            Event::SocketState(e) => (e.socket.netns, 0, self.state(e)),
            Event::SendError(e) => {
                let comm = self.intern(&head::text(&e.comm));
                let what = What::SendError { flow: head::any_flow(&e.socket.flow), err: e.err, comm };
                (e.socket.netns, 0, what)
            }
            Event::DnsHead(e) => (e.netns, e.ifindex, dns_head(e)),
            Event::Neighbour(e) => (e.netns, e.ifindex, neighbour(e)),
            Event::IcmpSend(e) => {
                let what = What::IcmpSent {
                    head: head::head(&e.head),
                    ct: head::conntrack(&e.ct),
                    icmp: (e.icmp_type as u8, e.icmp_code as u8),
                    stack: self.callers(&e.stack, e.stack_len),
                };
                (e.head.netns, e.head.ifindex, what)
            }
        }
    }

    fn verdict(&mut self, e: &event::Verdict) -> (u32, u32, What) {
        let what = What::Verdict {
            flow: head::any_flow(&e.flow),
            skb: e.skb,
            hook: verdict::hook(e.family, e.hook),
            out_ifindex: e.out_ifindex,
            judge: verdict::judge(e, |text| self.intern(text)),
            invalid: verdict::invalid(&e.invalid),
        };
        (e.netns, if e.in_ifindex == 0 { e.out_ifindex } else { e.in_ifindex }, what)
    }

    fn state(&mut self, e: &event::SocketState) -> What {
        What::State {
            flow: head::any_flow(&e.socket.flow),
            old: head::tcp_state(e.old),
            new: head::tcp_state(e.new),
            err: e.err,
            comm: self.intern(&head::text(&e.comm)),
        }
    }

    fn reset(&mut self, e: &event::TcpReset) -> What {
        let sent = e.direction == 1;
        // The kernel gives a reason only for those it sends.
        let reason = self.host.reset_reasons.get(&e.reason).filter(|_| sent).cloned().unwrap_or_default();
        What::Reset {
            flow: head::any_flow(&e.socket.flow),
            sent,
            socket: e.has_socket != 0,
            reason: self.intern(&reason),
            state: head::tcp_state(e.socket.state),
        }
    }

    fn lookup(&mut self, e: &event::RouteLookup) -> (u32, u32, What) {
        let stack = self.callers(&e.stack, e.stack_len);
        // A miss has no namespace of its own: it happened where the packet is that is being
        // received, or else where the task is.
        let receiving = if stack.is_empty() { e.in_ifindex > 1 } else { role::is_receiving(&stack) };
        let netns = match (e.netns, receiving) {
            (0, true) => e.netns_receive,
            (0, false) => e.netns_task,
            (exact, _) => exact,
        };
        let flow: Flow = head::any_flow(&e.flow);
        let what = What::Lookup {
            flow,
            skb: e.skb,
            table: e.table,
            err: e.err,
            in_ifindex: e.in_ifindex,
            out_ifindex: e.out_ifindex,
            gateway: (e.gateway != [0; 16]).then(|| address(e.gateway)),
            mark: e.mark,
            role: role::role(&stack, e.in_ifindex),
            inferred: e.netns == 0,
            rule: (e.has_rule != 0).then_some(e.rule),
        };
        (netns, e.out_ifindex, what)
    }

    /// Names of the callers, innermost first, without the tracing machinery itself.
    fn callers<const N: usize>(&mut self, stack: &[u64; N], len: u32) -> Vec<Arc<str>> {
        let used = stack.iter().take(len as usize).filter(|address| **address != 0);
        let names: Vec<Arc<str>> = used.map(|address| self.symbols.name(*address)).collect();
        let own = names.iter().rposition(|name| role::is_tracing(name)).map_or(0, |at| at + 1);
        names.into_iter().skip(own).collect()
    }
}

fn nat(e: &event::NatChoice) -> What {
    What::Nat(NatChoice {
        original: head::any_flow(&e.original),
        translated: head::any_flow(&e.reply).reversed(),
        by: match e.by {
            event::NAT_MASQUERADE => NatBy::Masquerade,
            event::NAT_DESTINATION => NatBy::Destination,
            _ => NatBy::Source,
        },
        addresses: (e.low != [0; 16]).then(|| (address(e.low), address(e.high))),
        ports: (e.low_port != 0).then_some((e.low_port, e.high_port)),
        out_ifindex: e.out_ifindex,
    })
}

fn owned(e: &event::FlowOwner) -> What {
    What::Owned { flow: head::any_flow(&e.flow), cgroup: e.cgroup, by_task: e.how == event::OWNER_TASK }
}

fn dns_head(e: &event::DnsHead) -> What {
    let flow = head::any_flow(&e.flow);
    let kept = e.data.get(..e.kept as usize).unwrap_or(&e.data);
    // Over TCP the message's length stands before it.
    let bytes = if flow.proto == Proto::Tcp { kept.get(2..).unwrap_or_default() } else { kept };
    What::Dns { flow, place: head::place(e.place), message: dns::message(bytes), seen: u64::from(e.seen) }
}

fn neighbour(e: &Neighbour) -> What {
    let failed = match e.what {
        NEIGH_FAILED_TIMER => e.state & NUD_FAILED != 0,
        NEIGH_SEND_DEAD => true,
        _ => e.new_state & NUD_FAILED != 0,
    };
    What::Neighbour {
        ip: address(e.address),
        mac: head::mac(&e.lladdr),
        new_mac: (e.new_lladdr != [0; 8]).then(|| head::mac(&e.new_lladdr)),
        failed,
        waiting: e.what == NEIGH_SEND,
    }
}
