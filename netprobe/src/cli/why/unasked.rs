//! BPF programs on the pod's cgroups decide about connections of its own processes, and not about one that netprobe makes.

use std::collections::BTreeSet;

use crate::model::{devices::CgroupProgram, flow::Proto};

/// Programs that may refuse such a connection before there is a packet, as the end of a sentence; empty without any.
pub(super) fn words(programs: &[CgroupProgram], proto: Proto, v6: bool) -> String {
    let hooks: &[&str] = match (proto, v6) {
        (Proto::Tcp, false) => &["connect4"],
        (Proto::Tcp, true) => &["connect6"],
        (_, false) => &["connect4", "sendmsg4"],
        (_, true) => &["connect6", "sendmsg6"],
    };
    let named: BTreeSet<String> = programs
        .iter()
        .filter(|p| hooks.contains(&p.hook.as_str()))
        .map(|p| format!("{} ({}) on the cgroup {}", p.program, p.hook, p.path))
        .collect();
    if named.is_empty() {
        return String::new();
    }
    let named: Vec<String> = named.into_iter().take(3).collect();
    format!(
        "; but the pod's own processes ask {}, which can refuse them (EPERM) before there is a packet",
        named.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::devices::Program;

    fn attached(hook: &str) -> CgroupProgram {
        let program = Program { id: 57, name: "deny".to_owned() };
        CgroupProgram { path: "/kubepods/pod1".to_owned(), hook: hook.to_owned(), program, here: true }
    }

    #[test]
    fn a_program_that_is_asked_by_connect_is_named() {
        let programs = [attached("connect4"), attached("egress")];
        assert_eq!(
            words(&programs, Proto::Tcp, false),
            "; but the pod's own processes ask program deny (id 57) (connect4) on the cgroup /kubepods/pod1, which can refuse \
             them (EPERM) before there is a packet"
        );
    }

    #[test]
    fn a_program_of_another_family_or_call_is_not() {
        assert_eq!(words(&[attached("connect4")], Proto::Tcp, true), "");
        assert_eq!(words(&[attached("sendmsg4")], Proto::Tcp, false), "");
        assert!(words(&[attached("sendmsg4")], Proto::Udp, false).contains("(sendmsg4)"));
    }
}
