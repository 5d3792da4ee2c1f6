//! Networks in namespaces, and netprobe run on them.
//!
//! ```ignore
//! let Some(lab) = Lab::start("a_dropped_packet") else { return };
//! lab.on("node").nft("table ip t { chain c { type filter hook forward priority 0; drop; } }");
//! let probe = lab.trace("web-0");
//! lab.on("web-0").cannot_connect(SERVER);
//! let finding = probe.one("netfilter-drop");
//! assert_eq!(finding.text("/at/device"), "vweb0");
//! ```
#![forbid(unsafe_code)]

use std::{
    env, io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use netprobe::cli::demo::{
    namespace::{Namespace, sweep},
    network::{Network, PODS, SERVER_V4, SERVER_V6},
    traffic::{Echo, connect, datagram, word},
};

pub mod agent;
pub mod api;
pub mod collector;
pub mod containers;
pub mod findings;
pub mod host_pod;
pub mod laptop;
pub mod probe;

pub use agent::{Agent, Answers};
pub use api::Api;
pub use collector::Collector;
pub use containers::Containers;
pub use findings::{Finding, Run};
pub use host_pod::HostPod;
pub use laptop::Laptop;
pub use netprobe::cli::demo::network::{DemoPod, LATE_POD};
pub use probe::{Probe, Why, binary};

/// How names of the tests' namespaces begin.
const PREFIX: &str = "nptest";
/// The port that the server, the node and every pod answer on, TCP and UDP.
pub const PORT: u16 = 3306;
/// The server outside.
pub const SERVER: SocketAddr = SocketAddr::new(SERVER_V4, PORT);
/// The server outside.
pub const SERVER6: SocketAddr = SocketAddr::new(SERVER_V6, PORT);
/// The pod that most stories are about.
pub const WEB_0: DemoPod = PODS[0];
/// Its neighbour.
pub const WEB_1: DemoPod = PODS[1];

/// How long a connection may take that is to succeed, or to be refused.
const SOON: Duration = Duration::from_secs(5);
/// How long a connection is tried that goes nowhere: the kernel sends the SYN again after 1 s.
const IN_VAIN: Duration = Duration::from_millis(1500);
/// The same where nobody answers for a neighbour: the kernel gives up after 3 s.
const NO_NEIGHBOUR: Duration = Duration::from_millis(3800);

/// The network of one test; gone when dropped.
pub struct Lab {
    network: Network,
    _listeners: Vec<Echo>,
}

impl Lab {
    /// Builds the network, or says that the test `name` is skipped: it needs root, and in CI that is a failure.
    #[must_use]
    pub fn start(name: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            assert!(env::var_os("CI").is_none(), "{name} needs root");
            println!("skipped: {name} needs root");
            return None;
        }
        sweep(PREFIX);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Network::build(&format!("{PREFIX}{}-{number}-", std::process::id())).expect("build the network");
        let listening = ["server", "node"].into_iter().chain(PODS.iter().map(|p| p.name));
        let listeners = listening.map(|name| Echo::start(network.on(name).expect("it is there"), PORT)).collect();
        let listeners = listeners_or_panic(listeners);
        Some(Self { network, _listeners: listeners })
    }

    /// A namespace: `node`, `router`, `server`, or a pod's name.
    #[must_use]
    pub fn on(&self, name: &str) -> On<'_> {
        On(self.network.on(name).expect("the network has it"))
    }

    /// Makes one more pod, as a CNI does.
    pub fn add_pod(&mut self, pod: DemoPod) {
        self.network.add_pod(pod).expect("make the pod");
    }

    /// Takes a pod away, as a CNI does. Nobody may listen there.
    pub fn remove_pod(&mut self, name: &str) {
        self.network.remove_pod(name).expect("take the pod away");
    }

    /// A directory for files of this test; gone with the network.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.network.directory()
    }

    /// The inventory file of this network.
    #[must_use]
    pub fn inventory(&self) -> PathBuf {
        self.network.inventory().expect("write the inventory")
    }

    /// Whether a program of netprobe's runs on this kernel, as `netprobe check` says. A story tells the same cause
    /// without it, with less detail.
    #[must_use]
    pub fn shows(&self, hook: &str) -> bool {
        let output = self.on("node").enter(|| Command::new(binary()).args(["check", "-o", "json"]).output());
        let report: serde_json::Value =
            serde_json::from_slice(&output.expect("run netprobe").stdout).expect("it writes JSON");
        let hooks = report["hooks"].as_array().expect("a list");
        let row = hooks.iter().find(|row| row["what"] == hook).expect("netprobe knows the hook");
        row["ok"] == true
    }

    /// Starts `netprobe trace` of a pod on the node, and returns once it is attached.
    #[must_use]
    pub fn trace(&self, pod: &str) -> Probe {
        self.netprobe(&["trace", "--pod", &format!("shop/{pod}")])
    }

    /// The same with kprobes in place of fentry. `None` where the kernel has none.
    #[must_use]
    pub fn trace_by_kprobes(&self, pod: &str) -> Option<Probe> {
        if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
            println!("not on this kernel: kprobes");
            return None;
        }
        let pod = format!("shop/{pod}");
        Some(self.netprobe_with(&[("NETPROBE_FUNCTIONS", "kprobe")], &["trace", "--pod", &pod]))
    }

    /// Starts netprobe on the node with these words, JSON and this network's inventory, and returns once it is attached.
    #[must_use]
    pub fn netprobe(&self, args: &[&str]) -> Probe {
        self.netprobe_with(&[], args)
    }

    /// The same, with these variables in its environment.
    #[must_use]
    pub fn netprobe_with(&self, environment: &[(&str, &str)], args: &[&str]) -> Probe {
        Probe::start(self, environment, args)
    }

    /// The same, with names from this API server.
    #[must_use]
    pub fn netprobe_kube(&self, api: &Api, args: &[&str]) -> Probe {
        let config = api.kubeconfig(self.directory());
        Probe::start_named(self, &[], &["--kubeconfig".as_ref(), config.as_os_str()], args)
    }

    /// An API server on the node that tells of the network's pods: all run on this node.
    ///
    /// # Panics
    ///
    /// It cannot listen.
    #[must_use]
    pub fn api(&self) -> Api {
        let listener = self.on("node").enter(|| TcpListener::bind(("127.0.0.1", 0))).expect("listen on the node");
        let api = Api::serve(listener);
        let here = api::host_name();
        api.put("nodes", api::node(&here, "172.20.20.2"));
        for DemoPod { name, v4, v6, .. } in PODS {
            api.put("pods", api::pod("shop", name, &here, &[v4.to_string(), v6.to_string()]));
        }
        api
    }

    /// Runs `netprobe why` about a connection of the pod, to its end.
    #[must_use]
    pub fn why(&self, pod: &str, args: &[&str]) -> Why {
        Why::of(self, pod, args)
    }

    /// Watches the pod while `traffic` flows, and returns the one finding, which must be of `rule`.
    #[must_use]
    pub fn finding(&self, pod: &str, rule: &str, traffic: impl FnOnce(&Self)) -> Finding {
        let probe = self.trace(pod);
        traffic(self);
        probe.one(rule)
    }
}

fn listeners_or_panic(listeners: Result<Vec<Echo>, impl std::fmt::Debug>) -> Vec<Echo> {
    listeners.expect("listen in the network")
}

/// Does things inside one namespace; what fails is the test's failure.
#[derive(Clone, Copy)]
pub struct On<'a>(&'a Namespace);

impl On<'_> {
    /// Runs `line` in a shell and returns what it printed.
    pub fn run(self, line: &str) -> String {
        self.0.run("sh", &["-c", line], None).expect("the command works")
    }

    /// Runs `line` in a shell, to its first command that fails, and returns what went wrong.
    ///
    /// # Errors
    ///
    /// A command fails, with its words.
    pub fn tries(self, line: &str) -> Result<(), String> {
        self.0.run("sh", &["-ec", line], None).map(drop).map_err(|error| format!("{error:#}"))
    }

    /// What `ip netns` calls it.
    #[must_use]
    pub fn name(self) -> String {
        self.0.name().to_owned()
    }

    /// Runs `nft -f -` with this text.
    pub fn nft(self, text: &str) {
        self.0.run("nft", &["-f", "-"], Some(text)).expect("nft takes the text");
    }

    /// Writes a setting, named in slashes: `ipv4/ip_forward`.
    pub fn set(self, setting: &str, value: &str) {
        self.0.set(setting, value).expect("the setting is there");
    }

    /// Connects and gets an answer, or fails the test.
    pub fn connects(self, to: SocketAddr) {
        let result = connect(self.0, to, patiently(SOON)).expect("enter the namespace");
        assert!(result.is_ok(), "{} cannot connect to {to}: {}", self.0.name(), word(&result));
    }

    /// Sends a datagram and gets an answer, or fails the test.
    pub fn exchanges(self, to: SocketAddr) {
        let result = datagram(self.0, to, patiently(SOON)).expect("enter the namespace");
        assert!(result.is_ok(), "{} gets no answer from {to}: {}", self.0.name(), word(&result));
    }

    /// Tries to connect and returns what it came to; fails the test if that is a connection.
    pub fn cannot_connect(self, to: SocketAddr) -> io::Error {
        self.fails(to, IN_VAIN)
    }

    /// The same, for as long as the kernel looks for a neighbour.
    pub fn finds_no_neighbour(self, to: SocketAddr) -> io::Error {
        self.fails(to, NO_NEIGHBOUR)
    }

    fn fails(self, to: SocketAddr, timeout: Duration) -> io::Error {
        let result = connect(self.0, to, timeout).expect("enter the namespace");
        result.expect_err("the network is broken, so this must not connect")
    }

    /// Does `work` on a thread inside the namespace.
    pub fn enter<R: Send>(self, work: impl FnOnce() -> R + Send) -> R {
        self.0.enter(work).expect("enter the namespace")
    }
}

/// `ip`, at a port where nobody listens.
#[must_use]
pub fn closed(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), 9999)
}

/// `ip`, at the port where everybody answers.
#[must_use]
pub fn open(ip: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(ip.into(), PORT)
}

/// `time`, so many times as `NETPROBE_PATIENCE` says: what netprobe and the tools have to do takes longer on a slow
/// machine. What the kernel does by its own clock does not, and what a story claims does not either.
///
/// # Panics
///
/// The variable is no number.
#[must_use]
pub fn patiently(time: Duration) -> Duration {
    let patience = env::var("NETPROBE_PATIENCE").map_or(1, |word| word.parse().expect("NETPROBE_PATIENCE is a number"));
    time * patience
}

/// Waits until `until` holds, at most `limit` (as a slow machine needs it: [`patiently`]); returns whether it does.
pub fn wait(limit: Duration, mut until: impl FnMut() -> bool) -> bool {
    #[allow(clippy::disallowed_methods, reason = "a test waits for a process, in real time")]
    let now = Instant::now;
    let start = now();
    loop {
        if until() {
            return true;
        }
        if now() - start >= patiently(limit) {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
