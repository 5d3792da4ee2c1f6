//! Whoever reads our output goes away.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    time::Duration,
};

use netprobe_tests::{Lab, SERVER, binary, wait};

fn story(lab: &Lab, format: &str) {
    let (ready, inventory) = (lab.directory().join("ready"), lab.inventory());
    let mut command = Command::new(binary());
    command.args(["trace", "--pod", "shop/web-0", "--no-kube", "-o", format, "--inventory"]).arg(inventory);
    command.arg("--ready-file").arg(&ready).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = lab.on("node").enter(|| command.spawn()).expect("start netprobe");
    assert!(wait(Duration::from_secs(15), || ready.exists()), "netprobe was not ready");
    lab.on("web-0").connects(SERVER);
    let mut output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
    output.read_line(&mut String::new()).expect("a line");
    drop(output);
    let ended = wait(Duration::from_secs(5), || {
        lab.on("web-0").connects(SERVER);
        child.try_wait().expect("our own child").is_some()
    });
    if !ended {
        child.kill().expect("it runs");
    }
    let status = child.wait().expect("it has ended");
    let mut words = String::new();
    child.stderr.take().expect("stderr is a pipe").read_to_string(&mut words).expect("messages are text");
    assert!(ended, "{format}: netprobe went on without a reader");
    assert_eq!((status.code(), words.as_str()), (Some(0), ""), "{format}");
}

#[test]
fn a_closed_pipe_ends_text_quietly() {
    let Some(lab) = Lab::start("a_closed_pipe_ends_text_quietly") else { return };
    story(&lab, "text");
}

#[test]
fn a_closed_pipe_ends_json_quietly() {
    let Some(lab) = Lab::start("a_closed_pipe_ends_json_quietly") else { return };
    story(&lab, "json");
}
