//! Prints a page of docs/ that is made from the source: `cargo xtask docs` keeps it in the file.

use std::{collections::BTreeSet, env, fs, process::ExitCode};

use netprobe::{
    explain::rules::RULES,
    probe::catalog::{CLASSIFIERS, Hook, Need, PROBES},
    render::metrics::FAMILIES,
};

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("agent") => print!("{}", agent()),
        Some("hooks") => print!("{}", hooks()),
        Some("rules") => print!("{}", rules()),
        _ => {
            eprintln!("usage: docs agent|hooks|rules");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// What is to be known about programs on functions.
const FUNCTIONS: &str = "\n## Functions\n\n\
    Tracepoints are BTF tracepoints (tp_btf); programs at the beginning and the end of functions are fentry and fexit, \
    or kprobes and kretprobes where the kernel has no fentry (arm64 before Linux 6.4); `NETPROBE_FUNCTIONS=kprobe` has it \
    this way on any kernel. A kernel that takes neither is asked once, at start, and then shows less; nothing else \
    changes. On functions of modules fentry needs CAP_SYS_ADMIN, to get at the module's BTF.\n\n\
    A program on a function of a module holds the module: as long as netprobe follows packets, `rmmod nf_tables` says \
    that the module is in use. A module that is loaded after netprobe has started is told on stderr, and looked at by the \
    next start.\n\n\
    What these programs find out they note on their CPU, two words each; a record is sent only of a packet that is \
    followed and was dropped, of a look-up that is followed, and of a request that changes the network.\n";

/// The agent, with a table of its metrics.
fn agent() -> String {
    let mut page = include_str!("agent.md").to_owned();
    page += "| name | type | labels | what it is |\n|---|---|---|---|\n";
    for family in FAMILIES {
        let kind = if family.is_counter { "counter" } else { "gauge" };
        page += &format!("| `{}` | {kind} | {} | {} |\n", family.full_name(), family.labels.join(", "), family.help);
    }
    page
}

/// A table of the catalogue.
fn hooks() -> String {
    let mut page = String::from(
        "# Hooks\n\n\
         What netprobe attaches to, and what is lost where a kernel lacks it. `netprobe check` says it of the running \
         kernel.\n\n\
         | hook | is | shows | arguments read | Linux | needed by |\n\
         |---|---|---|---|---|---|\n",
    );
    for probe in PROBES {
        let needed_by = match probe.need {
            Need::Always => "every command",
            Need::Following => "commands that follow packets",
            Need::EveryPacket => "commands that follow packets, but `dns`",
        };
        let arguments = probe.reads.join(", ");
        let is = match probe.hook {
            Hook::Tracepoint => "tracepoint".to_owned(),
            Hook::Entry => "beginning of a function".to_owned(),
            Hook::Exit(None) => "end of a function".to_owned(),
            Hook::Exit(Some(module)) => format!("end of a function, also of module {module}"),
        };
        page += &format!(
            "| `{}` | {is} | {} | `{arguments}` | {} | {needed_by} |\n",
            probe.program, probe.shows, probe.since
        );
    }
    page += FUNCTIONS;
    page += "\n## TC classifiers\n\n\
             Attached by `flows`, `nat`, `dns`, `capture` and `agent` (there to the ways out alone, unless told otherwise), to the node's ends of the pods' links (to the pods' own devices where \
             there is no such end) and to the node's ways out, by `capture` to the pods' own devices too. `dns` has them in \
             place of the tracepoints that run for every packet: what is not of port 53 passes before anything of it is \
             copied. They end with `TC_ACT_UNSPEC`, so that they decide nothing.\n\n\
             With TCX (Linux 6.6) links hold them, which go with the process. At ingress ours comes first, so that it sees \
             what arrives, also what another program redirects or drops; at egress last, so that what it sees leaves. \
             To take one off the kernel needs some 10 ms, so where there are more than eight they are left to a process that \
             ends some moments after (`netprobe --heir`, shown as `netprobe-heir`), and netprobe itself ends at once.\n\n\
             Without TCX they are filters of a clsact qdisc, which netprobe adds where there is none. At ingress ours has \
             preference 47, or the next one before the filters that are there; where nothing is free before them it comes \
             after, and netprobe says so: what they drop, redirect or accept for good is not counted. At egress it has \
             the last preference. A filter that somebody adds later without a preference gets the place before ours, and who \
             removes all filters of a device removes ours: netprobe does not notice either. A device with an `ingress` qdisc has no place at egress, and is not counted: that is \
             said too. `NETPROBE_TC=clsact` has it this way on any kernel.\n\n\
             Filters stay when their process is gone. So netprobe has a guardian: a small process of its own (`netprobe \
             --guardian`, shown as `netprobe-guard`), which removes the filters if netprobe dies, also by `kill -9`, and \
             then ends. If both are killed, the next `flows` or `nat` removes what is left on the devices it looks at: \
             each filter is named `netprobe_in` or `netprobe_out` and has its process in its handle, and it is dead if no \
             process of that id holds its program. What comes from another PID namespace cannot be judged and stays. A \
             qdisc is only removed where netprobe added it and no filter is left on it.\n\n\
             | program | at | shows |\n|---|---|---|\n";
    for row in CLASSIFIERS {
        let at = if row.egress { "egress" } else { "ingress" };
        page += &format!("| `{}` | {at} | {} |\n", row.program, row.shows);
    }
    page
}

/// Parts of a rule's page that stand in the table.
const PARTS: [&str; 4] = ["Symptom", "What proves it", "What else it could be", "Fix"];

/// A table of the rules: each one's page, in short.
fn rules() -> String {
    let mut page = String::from(
        "# Rules\n\n\
         What netprobe can state as a cause, in order of precedence: the first that speaks about a connection has its \
         cause. Each has a page.\n\n\
         | rule | it means | symptom | what proves it | what else it could be | fix |\n\
         |---|---|---|---|---|---|\n",
    );
    let mut told = BTreeSet::new();
    // A rule may stand at two places of the order.
    for rule in RULES.iter().filter(|rule| told.insert(rule.id)) {
        let path = format!("{}/../docs/rules/{}.md", env!("CARGO_MANIFEST_DIR"), rule.id);
        let text = fs::read_to_string(path).unwrap_or_default();
        let parts = PARTS.map(|part| part_of(&text, part)).join(" | ");
        page += &format!("| [`{id}`](rules/{id}.md) | {} | {parts} |\n", rule.means, id = rule.id);
    }
    page
}

/// A part of a page as one line.
fn part_of(page: &str, title: &str) -> String {
    let lines = page.lines().skip_while(|line| line.strip_prefix("## ") != Some(title)).skip(1);
    let mut text = String::new();
    let mut fenced = false;
    for line in lines.take_while(|line| !line.starts_with("## ")) {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let line = line.trim();
        let gap = match line.strip_prefix("- ") {
            Some(_) if !text.is_empty() => "<br>",
            None if text.is_empty() || line.is_empty() => "",
            _ => " ",
        };
        let words = line.strip_prefix("- ").unwrap_or(line);
        let words = if fenced { format!("`{words}`") } else { words.to_owned() };
        text += &format!("{gap}{words}");
    }
    text.replace('|', "\\|").replace("](", "](rules/").replace("](rules/http", "](http")
}
