//! An agent counts, answers, and goes on, whatever its readers do.

use std::{
    fs,
    io::{BufRead as _, Write as _},
    net::{SocketAddr, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use netprobe_tests::{
    Agent, Answers, DemoPod, LATE_POD, Lab, SERVER, WEB_0,
    agent::{object, socket},
    binary, patiently, wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    capture::attached,
    flows::{SINK, is_exact, send},
};

/// How long a reading of the counts may take to be seen.
const READ: Duration = Duration::from_secs(5);

/// What a netprobe that did not start said: one line, and perhaps one that says what to do.
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("netprobe: ") && said.lines().count() <= 2, "{said}");
    said
}

#[test]
fn what_is_sent_is_counted_by_pod_and_device() {
    let Some(lab) = Lab::start("what_is_sent_is_counted_by_pod_and_device") else { return };
    let to = SocketAddr::new(SERVER.ip(), SINK);
    for (flows, own) in [("uplinks", false), ("all", true)] {
        let agent = Agent::start(&lab, &["--flows", flows]);
        assert_eq!(agent.sent("web-0", "eth1"), (0, 0));
        send(&lab, to, ("server", to));
        assert!(wait(READ, || agent.sent("web-0", "eth1").0 >= 4_000), "{:?}", agent.sent("web-0", "eth1"));
        is_exact(agent.sent("web-0", "eth1"), false);
        assert_eq!(agent.sent("web-0", WEB_0.device).0 >= 4_000, own, "{flows}");
        let lines = agent.lines("/v1/flows");
        assert_eq!((lines.len(), &lines[0]["kind"]), (1, &"flows".into()));
        let line = lines[0]["flows"].as_array().expect("a list").iter().find(|line| line["port"] == SINK);
        let line = line.unwrap_or_else(|| panic!("{:#}", lines[0]));
        assert_eq!((&line["out"]["packets"], &line["devices"][0]), (&4_000.into(), &"eth1".into()), "{line:#}");
        assert!(agent.stop() < Duration::from_secs(1));
    }
}

#[test]
fn counters_of_a_pod_and_its_heir_never_go_down_and_a_dead_pods_series_go() {
    let name = "counters_of_a_pod_and_its_heir_never_go_down_and_a_dead_pods_series_go";
    let Some(mut lab) = Lab::start(name) else { return };
    lab.add_pod(LATE_POD);
    let to = SocketAddr::new(SERVER.ip(), SINK);
    let datagrams = |lab: &Lab, n: usize| {
        let _sink = lab.on("server").enter(|| UdpSocket::bind(to)).expect("receive in the network");
        lab.on(LATE_POD.name).enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket in the pod");
            (0..n).for_each(|_| {
                socket.send_to(b"x", to).expect("send");
            });
        });
    };
    // It outlives changes of the lab, so it is not borrowed.
    let mut child = lab.on("node").enter(|| Agent::command(&lab, &["--keep", "5s"]).spawn()).expect("start netprobe");
    let count = |lab: &Lab, child: &mut Child| {
        let agent = Answers(lab);
        assert!(child.try_wait().expect("ask").is_none(), "the agent has ended");
        agent.get("/metrics").is_some().then(|| agent.sent(LATE_POD.name, "eth1").0)
    };
    assert!(wait(Duration::from_secs(15), || Answers(&lab).get("/readyz").is_some_and(|answer| answer.0 == 200)));
    thread::sleep(Duration::from_secs(1));
    datagrams(&lab, 100);
    assert!(wait(READ, || count(&lab, &mut child).is_some_and(|n| n >= 100)));
    lab.remove_pod(LATE_POD.name);
    thread::sleep(Duration::from_millis(1_500));
    let kept = count(&lab, &mut child).expect("it answers");
    assert!((100..110).contains(&kept), "{kept}");
    // Its heir, of the same name.
    lab.add_pod(DemoPod { device: "vlate1", ..LATE_POD });
    thread::sleep(Duration::from_secs(2));
    datagrams(&lab, 50);
    let mut before = kept;
    let grown = wait(Duration::from_secs(15), || {
        let now = count(&lab, &mut child).expect("it answers");
        assert!(now >= before, "{before} and then {now}");
        before = now;
        thread::sleep(Duration::from_millis(500));
        // Until the first pod is forgotten.
        false
    });
    assert!(!grown && (150..170).contains(&before), "{before}");
    lab.remove_pod(LATE_POD.name);
    assert!(wait(Duration::from_secs(25), || {
        thread::sleep(Duration::from_secs(1));
        count(&lab, &mut child) == Some(0)
    }));
    kill(Pid::from_raw(child.id().try_into().expect("a pid")), Signal::SIGTERM).expect("it runs");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn drops_and_their_finding_are_counted_and_streamed() {
    let Some(lab) = Lab::start("drops_and_their_finding_are_counted_and_streamed") else { return };
    lab.on("node").nft("table ip t { chain c { type filter hook forward priority 0; tcp dport 3306 drop; }\n}");
    let agent = Agent::start(&lab, &[]);
    let mut findings = agent.stream("/v1/findings?watch=1");
    lab.on("web-0").cannot_connect(SERVER);
    let mut line = String::new();
    findings.read_line(&mut line).expect("a finding");
    let finding = object(&line);
    assert_eq!((&finding["kind"], &finding["rule"]), (&"finding".into(), &"netfilter-drop".into()), "{finding:#}");
    let who = [("namespace", "shop"), ("pod", "web-0")];
    let rule = [("rule", "netfilter-drop"), ("namespace", "shop"), ("pod", "web-0")];
    assert!(wait(READ, || agent.metric("netprobe_findings_total", &rule) == 1));
    // The SYN, and the one sent again after a second.
    let dropped = [&who[..], &[("reason", "NETFILTER_DROP"), ("at", "node")]].concat();
    assert!(wait(READ, || agent.metric("netprobe_dropped_packets_total", &dropped) == 2));
    // They are told again to who comes later, and nobody else has any.
    let told = agent.lines("/v1/findings");
    assert!(told.iter().all(|told| told["id"] == finding["id"]) && told.len() == 1, "{told:#?}");
    assert_eq!(agent.metric("netprobe_findings_total", &[]), 1);
    let drops = agent.lines("/v1/drops");
    assert_eq!((drops.len(), &drops[0]["kind"]), (1, &"drops".into()), "{drops:#?}");
    assert_eq!(agent.metric("netprobe_lost_total", &[]), 0);
    assert_eq!(agent.metric("netprobe_hook_attached", &[("hook", "kfree_skb")]), 1);
    // Of the node's three ways out.
    assert!(agent.metric("netprobe_classifier_devices", &[("state", "attached")]) >= 2);
    agent.stop();
}

#[test]
fn one_at_many_devices_ends_at_once_and_leaves_nothing() {
    let Some(lab) = Lab::start("one_at_many_devices_ends_at_once_and_leaves_nothing") else { return };
    // Each is a way out of the node. To take the programs off the hundred takes the kernel two seconds.
    lab.on("node").run("for i in $(seq 50); do ip link add many$i type veth peer name way$i; done");
    let programs = || ["many1", "way1", "way25", "many50", "eth1"].map(|device| attached(&lab, "node", device));
    let agent = Agent::start(&lab, &["--flows", "all"]);
    assert!(agent.metric("netprobe_classifier_devices", &[("state", "attached")]) > 100);
    assert_eq!(programs(), [2; 5]);
    let has_links = lab.on("node").run("tc filter show dev many1 ingress").is_empty();
    let took = agent.stop();
    assert!(!has_links || took < patiently(Duration::from_millis(500)), "{took:?}");
    assert!(wait(Duration::from_secs(10), || programs() == [0; 5]), "{:?}", programs());
}

#[test]
fn the_metrics_are_what_prometheus_reads() {
    let Some(lab) = Lab::start("the_metrics_are_what_prometheus_reads") else { return };
    let agent = Agent::start(&lab, &[]);
    lab.on("web-0").connects(SERVER);
    thread::sleep(Duration::from_secs(2));
    let (status, text) = agent.get("/metrics").expect("it answers");
    assert_eq!(status, 200);
    let open = "GET /metrics HTTP/1.1\r\nHost: agent\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n";
    let (_, open) = agent.ask(open.as_bytes()).expect("it answers");
    assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"), "{open}");
    // `cargo xtask test` takes it out of Debian's package, and says where.
    let promtool = std::env::var_os("PROMTOOL").unwrap_or_else(|| "promtool".into());
    let child = Command::new(&promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{}: {error}", promtool.display());
            println!("not held against promtool: there is none");
            return;
        }
    };
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let said = child.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&said.stderr).into_owned() + &String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success() && words.is_empty(), "{words}\n{text}");
}

#[test]
fn health_and_wrong_requests_are_answered() {
    let Some(lab) = Lab::start("health_and_wrong_requests_are_answered") else { return };
    let agent = Agent::start(&lab, &["--flows", "off"]);
    assert_eq!(agent.get("/healthz"), Some((200, "ok\n".to_owned())));
    assert_eq!(agent.get("/readyz"), Some((200, "ok\n".to_owned())));
    for (path, status) in [("/", 404), ("/v1/findings", 404), ("/v1/status", 404), ("/metrics/../..", 404)] {
        assert_eq!(agent.get(path).map(|answer| answer.0), Some(status), "{path}");
    }
    assert_eq!(agent.ask(b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").map(|a| a.0), Some(405));
    assert_eq!(agent.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc garbage \r\n\r\n").map(|a| a.0), Some(400));
    let long = [&b"GET /metrics HTTP/1.1\r\nX: "[..], &vec![b'x'; 1 << 20]].concat();
    let status = agent.ask(&long).map(|answer| answer.0);
    // It may close before it has read what it refuses.
    assert!(status.is_none_or(|status| status == 431 || status == 400), "{status:?}");
    // Connections that say nothing: those that find no room are closed, the others after five seconds.
    let silent: Vec<_> = (0..40).map(|_| agent.connect().expect("it listens")).collect();
    assert!(wait(Duration::from_secs(9), || agent.get("/healthz").is_some_and(|answer| answer.0 == 200)));
    drop(silent);
    assert!(agent.metric("netprobe_connections_refused_total", &[("listener", "http")]) >= 24);
    let status = agent.lines("/v1/status");
    assert_eq!((&status[0]["kind"], &status[0]["ready"]), (&"status".into(), &true.into()), "{status:#?}");
    assert!(agent.stop() < Duration::from_secs(1));
}

#[test]
fn a_second_agent_is_refused_and_one_after_kill_nine_is_not() {
    let Some(lab) = Lab::start("a_second_agent_is_refused_and_one_after_kill_nine_is_not") else { return };
    let agent = Agent::start(&lab, &[]);
    let mode = |path: &str| fs::metadata(lab.directory().join(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/agent.sock")), (0o700, 0o600));
    let second = |args: &[&str]| {
        let output = lab.on("node").enter(|| Agent::command(&lab, args).output()).expect("run netprobe");
        refused(&output)
    };
    let said = second(&["--listen", "127.0.0.1:9798"]);
    assert!(said.contains("another agent serves"), "{said}");
    let said = second(&[]);
    assert!(said.contains("listen at 127.0.0.1:9799") && said.contains("in use"), "{said}");
    assert_eq!(agent.get("/healthz").map(|answer| answer.0), Some(200));
    kill(agent.pid(), Signal::SIGKILL).expect("it runs");
    drop(agent);
    assert!(lab.directory().join("run/agent.sock").exists(), "a test that sees no stale socket proves nothing");
    let again = Agent::start(&lab, &[]);
    assert_eq!(again.lines("/v1/status")[0]["kind"], "status");
    again.stop();
}

#[test]
fn it_gives_up_what_it_has_no_use_for() {
    const CAP_SYS_MODULE: u64 = 1 << 16;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    let Some(lab) = Lab::start("it_gives_up_what_it_has_no_use_for") else { return };
    let status = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = |status: &str, key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells").trim();
        u64::from_str_radix(line, 16).expect("a number")
    };
    let agent = Agent::start(&lab, &[]);
    let told = status(&agent.pid().to_string());
    assert_ne!(line(&status("self"), "CapEff:") & CAP_SYS_MODULE, 0, "who has nothing gives up nothing");
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(line(&told, set) & (CAP_SYS_MODULE | CAP_SYS_ADMIN), CAP_SYS_ADMIN, "{told}");
    }
    assert_eq!(line(&told, "NoNewPrivs:"), 1);
    // All its threads have what the first one has.
    for task in fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("it runs") {
        let told = status(&format!("{}/task/{}", agent.pid(), task.expect("a thread").file_name().display()));
        assert_eq!(line(&told, "CapEff:") & CAP_SYS_MODULE, 0, "{told}");
    }
    assert!(agent.stop() < Duration::from_secs(1));
}

#[test]
fn a_reader_that_does_not_read_is_cut_off() {
    let Some(lab) = Lab::start("a_reader_that_does_not_read_is_cut_off") else { return };
    let agent = Agent::start(&lab, &[]);
    // Many peers make a large table.
    lab.on("web-0").enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket in the pod");
        for port in 10_000..12_000 {
            drop(socket.send_to(b"x", SocketAddr::new(SERVER.ip(), port)));
        }
    });
    let slow = UnixStream::connect(socket(&lab)).expect("it listens");
    (&slow).write_all(b"GET /v1/flows?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n").expect("it takes a request");
    assert!(wait(Duration::from_secs(60), || {
        assert_eq!(agent.get("/healthz").map(|answer| answer.0), Some(200));
        thread::sleep(Duration::from_millis(500));
        agent.metric("netprobe_streams_cut_total", &[]) == 1
    }));
    // Another is served meanwhile, and the run goes on.
    let mut fast = agent.stream("/v1/drops?watch=1");
    for _ in 0..2 {
        let mut line = String::new();
        fast.read_line(&mut line).expect("a table");
        assert_eq!(object(&line)["kind"], "drops");
    }
    agent.stop();
}

#[test]
fn what_cannot_be_had_is_one_line() {
    let Some(lab) = Lab::start("what_cannot_be_had_is_one_line") else { return };
    let file = lab.directory().join("file");
    fs::write(&file, "mine").expect("a file");
    let (file, below) = (file.display().to_string(), format!("{}/agent.sock", file.display()));
    for (args, words) in [
        (&["--socket", &file][..], "is no socket"),
        (&["--socket", &below], "make the folder"),
        (&["--listen", "192.0.2.1:9799"], "listen at 192.0.2.1:9799"),
        (&["--listen", "nowhere"], "write ADDR:PORT"),
        (&["--flows", "some"], "uplinks"),
        (&["--pod", "web-0"], "agent watches every pod"),
        (&["--btf", "/nowhere"], "/nowhere"),
    ] {
        let mut command = Command::new(binary());
        command.args(["agent", "--no-kube"]).stdin(Stdio::null());
        if !args.contains(&"--socket") {
            command.arg("--socket").arg(lab.directory().join("agent.sock"));
        }
        let output = lab.on("node").enter(|| command.args(args).output()).expect("run netprobe");
        let said = refused(&output);
        assert!(said.contains(words), "{args:?}: {said}");
    }
    assert_eq!(fs::read_to_string(&file).expect("it is there"), "mine");
}
