//! Prints a page of docs/ that is made from the source: `cargo xtask docs` keeps it in the file.

use std::{env, process::ExitCode};

use netprobe::{
    explain::rules::RULES,
    probe::catalog::{Need, PROBES},
};

fn main() -> ExitCode {
    match env::args().nth(1).as_deref() {
        Some("hooks") => print!("{}", hooks()),
        Some("rules") => print!("{}", rules()),
        _ => {
            eprintln!("usage: docs hooks|rules");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// A table of the catalogue.
fn hooks() -> String {
    let mut page = String::from(
        "# Hooks\n\n\
         BTF tracepoints that netprobe attaches to, and what is lost where a kernel lacks one. `netprobe check` says \
         it of the running kernel.\n\n\
         | tracepoint | shows | arguments read | Linux | needed by |\n\
         |---|---|---|---|---|\n",
    );
    for probe in PROBES {
        let needed_by = match probe.need {
            Need::Always => "every command",
            Need::Following => "commands that follow packets",
        };
        let arguments = probe.reads.join(", ");
        page += &format!("| `{}` | {} | `{arguments}` | {} | {needed_by} |\n", probe.program, probe.shows, probe.since);
    }
    page
}

/// A table of the rules.
fn rules() -> String {
    let mut page = String::from(
        "# Rules\n\n\
         What netprobe can state as a cause, in order of precedence: the first that speaks about a connection has its \
         cause.\n\n\
         | rule | it means |\n\
         |---|---|\n",
    );
    for rule in RULES {
        page += &format!("| [`{id}`](rules/{id}.md) | {} |\n", rule.means, id = rule.id);
    }
    page
}
