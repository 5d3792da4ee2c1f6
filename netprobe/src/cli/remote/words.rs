//! The command line of this process, as the agent's container is to run it.

use std::{ffi::OsString, path::Path};

use anyhow::{Context as _, Result, bail};
use clap::{Arg, ArgMatches, parser::ValueSource};

/// Options that mean this machine, by their ids: how results are shown and kept, where names come from here, who is asked.
const OWN: [&str; 15] = [
    "agent_namespace",
    "all_nodes",
    "btf",
    "color",
    "context",
    "file",
    "format",
    "inventory",
    "kubeconfig",
    "local",
    "no_kube",
    "node",
    "node_name",
    "ready_file",
    "until_stdin_closes",
];
/// The words go into the line of a request: an API server takes a megabyte of it, what stands before it may take less.
const BYTES_MAX: usize = 24 << 10;

/// The words of this process. `pod` is the one that is meant, where it is one: whole, so that it means no other there.
///
/// # Errors
///
/// A file of expectations cannot be read or is too large.
pub(super) fn of_this_process(pod: Option<&str>) -> Result<Vec<String>> {
    of(std::env::args_os(), pod)
}

fn of(args: impl IntoIterator<Item = OsString>, pod: Option<&str>) -> Result<Vec<String>> {
    let mut cli = crate::cli::command();
    let matches = cli.try_get_matches_from_mut(args)?;
    let Some((name, given)) = matches.subcommand() else { bail!("no command is given") };
    let Some(command) = cli.find_subcommand(name) else { bail!("there is no command {name}") };
    let mut words = ["netprobe", name].map(str::to_owned).to_vec();
    let mut trailing = Vec::new();
    for arg in command.get_arguments().filter(|arg| is_given(given, arg)) {
        let id = arg.get_id().as_str();
        match (id, arg.get_long()) {
            ("pod", _) if pod.is_some() => {}
            ("expect-file", _) => words.extend(expectations(given)?),
            (own, _) if OWN.contains(&own) => {}
            (_, Some(long)) => words.extend(option(given, arg, long)),
            (_, None) => trailing.extend(values(given, id)),
        }
    }
    words.extend(pod.map(|pod| format!("--pod={pod}")));
    words.extend(["--record=-", "--until-stdin-closes"].map(str::to_owned));
    if !trailing.is_empty() {
        words.push("--".to_owned());
        words.append(&mut trailing);
    }
    let bytes: usize = words.iter().map(String::len).sum();
    if bytes > BYTES_MAX {
        bail!(
            "the command has {bytes} bytes, and {BYTES_MAX} fit into a request: shorten the filter or the expectations"
        );
    }
    Ok(words)
}

/// It stands on the command line; what the environment gives is this machine's.
fn is_given(given: &ArgMatches, arg: &Arg) -> bool {
    given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
}

fn option(given: &ArgMatches, arg: &Arg, long: &str) -> Vec<String> {
    if !arg.get_action().takes_values() {
        return vec![format!("--{long}")];
    }
    values(given, arg.get_id().as_str()).into_iter().map(|value| format!("--{long}={value}")).collect()
}

fn values(given: &ArgMatches, id: &str) -> Vec<String> {
    given.get_raw(id).into_iter().flatten().map(|value| value.to_string_lossy().into_owned()).collect()
}

/// The file is here, so its text goes there.
fn expectations(given: &ArgMatches) -> Result<Option<String>> {
    let Some(path) = given.get_raw("expect-file").and_then(|mut paths| paths.next()) else { return Ok(None) };
    let path = Path::new(path);
    let text = std::fs::read_to_string(path).with_context(|| format!("read the expectations {}", path.display()))?;
    Ok(Some(format!("--expect-toml={text}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str, pod: Option<&str>) -> Vec<String> {
        of(line.split(' ').map(OsString::from), pod).expect("it makes sense")
    }

    #[test]
    fn what_means_this_machine_stays_here() {
        let line = "netprobe trace --pod web --kubeconfig /k --context c -o json --record /tmp/x --node-name laptop \
                    --for 10s --until-finding -n shop --color never tcp and port 80";
        assert_eq!(
            words(line, Some("shop/web-0")).join(" "),
            "netprobe trace --namespace=shop --for=10s --until-finding --pod=shop/web-0 --record=- --until-stdin-closes \
             -- tcp and port 80"
        );
    }

    #[test]
    fn options_that_repeat_and_those_of_why_go_along() {
        assert_eq!(
            words("netprobe why --node n1 --pod a/b --to c:80 --expect-net 10.0.0.0/8 --expect-net fd00::/8", None)
                .join(" "),
            "netprobe why --to=c:80 --pod=a/b --expect-net=10.0.0.0/8 --expect-net=fd00::/8 --record=- \
             --until-stdin-closes"
        );
    }

    #[test]
    fn a_file_of_expectations_goes_along_as_text() {
        let path = std::env::temp_dir().join(format!("netprobe-words-{}.toml", std::process::id()));
        std::fs::write(&path, "[[expect]]\npods = \"a\"\ndevice = \"eth1\"\n").expect("a file of ours");
        let words = words(&format!("netprobe drops --all-nodes --expect {}", path.display()), None);
        std::fs::remove_file(path).expect("it was there");
        assert_eq!(words[2], "--expect-toml=[[expect]]\npods = \"a\"\ndevice = \"eth1\"\n");
    }

    #[test]
    fn every_option_that_stays_here_is_one() {
        let cli = crate::cli::command();
        let trace = cli.find_subcommand("trace").expect("there is one");
        for id in OWN {
            assert!(trace.get_arguments().any(|arg| arg.get_id() == id), "{id}");
        }
    }
}
