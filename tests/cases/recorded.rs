//! A run and the replay of its recording say the same, byte for byte.

use std::{
    fs::{self, File},
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use netprobe_tests::{Lab, SERVER, WEB_0, WEB_1, binary, closed, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Runs netprobe on the node while `traffic` flows; gives what it printed and what a replay prints.
fn both(lab: &Lab, args: &[&str], format: &str, traffic: impl FnOnce(&Lab)) -> [String; 2] {
    let [printed, kept, ready] = ["printed", "run.npr", "recording"].map(|name| lab.directory().join(name));
    let mut command = Command::new(binary());
    command.args(args).args(["-o", format, "--color", "never", "--no-kube", "--inventory"]).arg(lab.inventory());
    command.arg("--record").arg(&kept).arg("--ready-file").arg(&ready).env("COLUMNS", "90").stdin(Stdio::null());
    command.stdout(File::create(&printed).expect("make the file"));
    let mut child = lab.on("node").enter(|| command.spawn()).expect("start netprobe");
    assert!(wait(Duration::from_secs(15), || ready.exists()), "netprobe {args:?} is not ready");
    traffic(lab);
    end(&mut child);
    let mut command = Command::new(binary());
    command.args(["replay", "-o", format, "--color", "never"]).arg(&kept).env("COLUMNS", "90");
    let replay = command.output().expect("run netprobe");
    assert_eq!(String::from_utf8_lossy(&replay.stderr), "");
    [fs::read(&printed).expect("it printed"), replay.stdout].map(|bytes| String::from_utf8(bytes).expect("text"))
}

fn end(child: &mut Child) {
    std::thread::sleep(Duration::from_millis(1500));
    let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("it runs");
    assert!(child.wait().expect("it ends").success());
}

fn same([run, replay]: &[String; 2]) {
    for (number, (a, b)) in run.lines().zip(replay.lines()).enumerate() {
        assert_eq!(a, b, "line {}: run, then replay", number + 1);
    }
    assert_eq!(run.lines().count(), replay.lines().count(), "run:\n{run}\nreplay:\n{replay}");
}

fn breaks(lab: &Lab) {
    lab.on("web-0").connects(SERVER);
    lab.on("node").run("ip route del default table 2");
    drop(lab.on("web-0").cannot_connect(SERVER));
    drop(lab.on("web-0").cannot_connect(closed(WEB_1.v4)));
}

#[test]
fn a_replay_says_in_json_what_the_run_said() {
    let Some(lab) = Lab::start("a_replay_says_in_json_what_the_run_said") else { return };
    let both = both(&lab, &["trace", "--pod", "shop/web-0"], "json", breaks);
    assert!(both[0].contains("\"wrong-egress\"") && both[0].contains("\"port-closed\""), "{}", both[0]);
    same(&both);
}

#[test]
fn a_replay_says_in_words_what_the_run_said() {
    let Some(lab) = Lab::start("a_replay_says_in_words_what_the_run_said") else { return };
    same(&both(&lab, &["trace", "--all"], "text", breaks));
}

#[test]
fn a_replay_shows_the_drops_that_the_run_showed() {
    let Some(lab) = Lab::start("a_replay_shows_the_drops_that_the_run_showed") else { return };
    let both = both(&lab, &["drops", "--all"], "json", breaks);
    assert!(both[0].contains("NO_SOCKET"), "{}", both[0]);
    same(&both);
}

#[test]
fn a_replay_shows_the_queries_that_the_run_showed() {
    let Some(lab) = Lab::start("a_replay_shows_the_queries_that_the_run_showed") else { return };
    // Nobody listens on port 53 of the server outside: an error comes back, and no answer.
    let asks = |lab: &Lab| {
        lab.on("web-0").enter(|| {
            let socket = UdpSocket::bind((WEB_0.v4, 0)).expect("a socket");
            let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03api\x04test\0\0\x01\0\x01";
            socket.send_to(query, SocketAddr::new(SERVER.ip(), 53)).expect("send the question");
        });
    };
    let lines = both(&lab, &["dns"], "json", asks);
    assert!(lines[0].contains("\"api.test\""), "{}", lines[0]);
    same(&lines);
    same(&both(&lab, &["dns", "--watch"], "text", asks));
}
