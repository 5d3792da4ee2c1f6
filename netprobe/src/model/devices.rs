//! What is attached to a namespace's devices and cgroups, and the state of its queues, bridges and
//! overlays: read only when a drop points there.

use std::fmt;

use serde::{Deserialize, Serialize};

/// All of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Devices {
    /// tc filters and TCX (or netkit) programs.
    pub filters: Vec<Filter>,
    /// XDP programs.
    pub xdp: Vec<Xdp>,
    /// Queueing disciplines.
    pub qdiscs: Vec<Qdisc>,
    /// Ports of bridges.
    pub ports: Vec<Port>,
    /// Forwarding entries of bridges and overlays.
    pub fdb: Vec<Forwarding>,
    /// Programs on cgroups, of the whole host.
    pub cgroups: Vec<CgroupProgram>,
}

/// A BPF program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Id, as `bpftool prog` shows it.
    pub id: u32,
    /// Name, at most 15 bytes; empty where it has none.
    pub name: String,
}

impl fmt::Display for Program {
    /// `program tc_drop3306 (id 57)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() {
            write!(f, "program {}", self.id)
        } else {
            write!(f, "program {} (id {})", self.name, self.id)
        }
    }
}

/// A tc filter, or a program in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Device.
    pub ifindex: u32,
    /// At its egress (else ingress).
    pub egress: bool,
    /// Kind: `bpf`, `matchall`, `flower`, `u32`, ...; `tcx` and `netkit` where there is no filter.
    pub kind: String,
    /// Preference: lower is asked first.
    pub preference: u16,
    /// Its program, where it is one.
    pub program: Option<Program>,
    /// Its actions, in order.
    pub actions: Vec<Action>,
}

/// An action of a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Kind: `gact`, `police`, `mirred`, `bpf`, ...
    pub kind: String,
    /// Packets it dropped.
    pub drops: u64,
}

impl fmt::Display for Filter {
    /// `program tc_drop3306 (id 57)`, `filter matchall pref 10 (police)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(program) = &self.program {
            return program.fmt(f);
        }
        write!(f, "filter {} pref {}", self.kind, self.preference)?;
        if self.actions.is_empty() {
            return Ok(());
        }
        let kinds: Vec<&str> = self.actions.iter().map(|a| a.kind.as_str()).collect();
        write!(f, " ({})", kinds.join(", "))
    }
}

/// An XDP program on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xdp {
    /// Device.
    pub ifindex: u32,
    /// `native`, `generic` or `offloaded`.
    pub mode: String,
    /// The program.
    pub program: Program,
}

/// A queueing discipline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qdisc {
    /// Device.
    pub ifindex: u32,
    /// Kind: `tbf`, `fq_codel`, ...
    pub kind: String,
    /// Handle, its upper half: 7 is shown as `7:`.
    pub handle: u16,
    /// It is the device's root.
    pub root: bool,
    /// Packets dropped so far.
    pub drops: u64,
    /// How often it was over its limit.
    pub overlimits: u64,
    /// Bytes waiting.
    pub backlog: u64,
    /// Packets waiting.
    pub waiting: u64,
}

impl fmt::Display for Qdisc {
    /// `tbf 7:`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.handle == 0 { f.write_str(&self.kind) } else { write!(f, "{} {:x}:", self.kind, self.handle) }
    }
}

/// A bridge's port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Device.
    pub ifindex: u32,
    /// Spanning tree's state: `disabled`, `listening`, `learning`, `forwarding`, `blocking`.
    pub state: String,
    /// Frames may go back where they came from.
    pub hairpin: bool,
    /// It talks to no other isolated port.
    pub isolated: bool,
}

/// A forwarding entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forwarding {
    /// Device it is of: a port, or an overlay's device.
    pub ifindex: u32,
    /// Link-layer address.
    pub mac: String,
    /// Where an overlay sends it.
    pub remote: Option<std::net::IpAddr>,
}

/// A program on a cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupProgram {
    /// Path of the cgroup under the mount point: `/kubepods.slice/...`, `/` for the root.
    pub path: String,
    /// `ingress`, `egress`, `connect4`, `connect6`, `sendmsg4`, `sendmsg6`.
    pub hook: String,
    /// The program.
    pub program: Program,
    /// A process of the namespace asked is in that cgroup or below.
    pub here: bool,
}

impl Devices {
    /// Filters and programs of a device in one direction.
    pub fn filters_of(&self, ifindex: u32, egress: bool) -> impl Iterator<Item = &Filter> {
        self.filters.iter().filter(move |f| f.ifindex == ifindex && f.egress == egress)
    }

    /// Settings of a bridge's port.
    #[must_use]
    pub fn port(&self, ifindex: u32) -> Option<&Port> {
        self.ports.iter().find(|p| p.ifindex == ifindex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_named_by_its_program_or_by_what_it_does() {
        let program = Some(Program { id: 57, name: "tc_drop3306".to_owned() });
        let filter = Filter { kind: "bpf".to_owned(), program, ..Filter::default() };
        assert_eq!(filter.to_string(), "program tc_drop3306 (id 57)");
        let police = Action { kind: "police".to_owned(), drops: 4 };
        let filter = Filter { kind: "matchall".to_owned(), preference: 10, actions: vec![police], ..Filter::default() };
        assert_eq!(filter.to_string(), "filter matchall pref 10 (police)");
    }
}
