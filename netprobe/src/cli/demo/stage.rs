//! Plays one demo: network, `netprobe trace` on it, traffic, finding, and away with it all.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    Options,
    daemon::Daemon,
    namespace::Namespace,
    network::{KUBE_NAMESPACE, Network, PODS, SERVER_V4},
    scenes::{DAEMON, PORT, Scene, Step},
    traffic::{Echo, connect, word},
};

/// How long `trace` may take to attach.
const READY: Duration = Duration::from_secs(15);
/// How long a finding may take after the traffic: what waits for a timeout of the kernel's needs 3 s.
const FINDING: Duration = Duration::from_secs(8);
/// How long to listen on for a better cause, or for a finding where none is due.
const SETTLE: Duration = Duration::from_millis(700);
/// How often the conditions above are looked at.
const TICK: Duration = Duration::from_millis(10);

/// Plays `scene`.
pub(super) fn play(scene: &Scene, options: Options, prefix: &str, interrupted: &AtomicBool) -> Result<()> {
    let stage = Stage { options, interrupted };
    stage.say("demo", &format!("{}: {}", scene.name, scene.sentence));
    let pods: Vec<_> = PODS.iter().map(|pod| pod.name).collect();
    stage.say("network", &format!("pods {} of {KUBE_NAMESPACE} on a node with eth0 and eth1;", pods.join(", ")));
    stage.say("", &format!("table 2 sends them by eth1; a server {SERVER_V4} outside"));
    let network = Network::build(prefix).context("build the demo's network")?;
    let _listeners = [Echo::start(network.on("server")?, PORT)?, Echo::start(network.on("web-1")?, PORT)?];
    let mut daemons = Vec::new();
    if !scene.sound_first {
        stage.break_it(scene, &network, &mut daemons)?;
    }
    let mut trace = stage.trace(scene, &network)?;
    if scene.sound_first {
        stage.traffic(scene, &network)?;
        stage.break_it(scene, &network, &mut daemons)?;
    }
    stage.traffic(scene, &network)?;
    let found = stage.until_found(&trace)?;
    trace.stop()?;
    drop(daemons);
    drop(network);
    stage.say("demo", "the network is gone again");
    match scene.expect {
        Some(rule) if !found => {
            bail!("no finding `{rule}` within {} s: this demo failed; please report it", FINDING.as_secs())
        }
        _ => Ok(()),
    }
}

struct Stage<'a> {
    options: Options,
    interrupted: &'a AtomicBool,
}

impl Stage<'_> {
    /// What goes on, apart from what trace prints; on stderr where stdout is for a program.
    fn say(&self, what: &str, text: &str) {
        let line = format!("== {what:8} {text}\n");
        // A closed terminal must not keep us from cleaning up.
        let _ = if self.options.json {
            io::stderr().write_all(line.as_bytes())
        } else {
            io::stdout().write_all(line.as_bytes())
        };
    }

    fn wait(&self, limit: Duration, mut until: impl FnMut() -> Result<bool>) -> Result<bool> {
        #[allow(clippy::disallowed_methods, reason = "waits for a process, not for packets")]
        let now = Instant::now;
        let start = now();
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("interrupted: the demo's network is gone again");
            }
            if until()? {
                return Ok(true);
            }
            if now() - start >= limit {
                return Ok(false);
            }
            thread::sleep(TICK);
        }
    }

    fn break_it(&self, scene: &Scene, network: &Network, daemons: &mut Vec<Daemon>) -> Result<()> {
        for step in scene.steps {
            match *step {
                Step::Ip(on, line) => {
                    self.say("break", &format!("{on}: ip {line}"));
                    network.on(on)?.ip(line)?;
                }
                Step::Daemon(on, line) => {
                    let daemon = Daemon::start(network.on(on)?, network.directory(), line)?;
                    let pid = daemon.pid();
                    self.say("break", &format!("{on}: ip {line}  (done by {DAEMON}, pid {pid})"));
                    daemons.push(daemon);
                }
                Step::Set(on, setting, value) => {
                    self.say("break", &format!("{on}: sysctl net.{}={value}", setting.replace('/', ".")));
                    network.on(on)?.set(setting, value)?;
                }
                Step::Nft(on, text) => {
                    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    self.say("break", &format!("{on}: nft '{one_line}'"));
                    network.on(on)?.run("nft", &["-f", "-"], Some(text))?;
                }
            }
        }
        Ok(())
    }

    fn traffic(&self, scene: &Scene, network: &Network) -> Result<()> {
        let from = PODS[0].name;
        let result = connect(network.on(from)?, scene.to, Duration::from_millis(scene.patience_ms))?;
        self.say("traffic", &format!("{KUBE_NAMESPACE}/{from} connects to {}: {}", scene.to, word(&result)));
        Ok(())
    }

    fn trace(&self, scene: &Scene, network: &Network) -> Result<Trace> {
        let ready = network.directory().join("ready");
        let pod = format!("{KUBE_NAMESPACE}/{}", PODS[0].name);
        let inventory = network.inventory()?;
        let format = if self.options.json { "json" } else { "text" };
        let colour = if self.options.colour { "always" } else { "never" };
        let mut command = Command::new(own_path()?);
        // A limit, should this process be killed meanwhile.
        command.args(["trace", "--pod", &pod, "--no-kube", "-o", format, "--color", colour, "--for", "60s"]);
        command.arg("--inventory").arg(inventory).arg("--ready-file").arg(&ready);
        self.say("trace", &format!("on the node: netprobe trace --pod {pod}"));
        let mut trace = Trace::start(network.on("node")?, &mut command, scene.expect)?;
        let is_ready = self.wait(READY, || {
            if let Some(status) = trace.child.try_wait().context("wait for netprobe trace")? {
                bail!("netprobe trace ended before it was ready ({status}): see its message above");
            }
            Ok(ready.exists())
        })?;
        if is_ready { Ok(trace) } else { bail!("netprobe trace was not ready within {} s", READY.as_secs()) }
    }

    /// Whether the finding came; a closed stdout ends the wait too.
    fn until_found(&self, trace: &Trace) -> Result<bool> {
        let found = || trace.found.load(Ordering::Relaxed);
        if trace.rule.is_some() {
            self.wait(FINDING, || Ok(found() || trace.is_unread()))?;
        }
        self.wait(SETTLE, || Ok(trace.is_unread()))?;
        Ok(found())
    }
}

/// Our own program; where its file was replaced meanwhile, still this one.
fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("find our own program")
}

/// A running `netprobe trace`, whose output we pass on.
struct Trace {
    child: Child,
    reader: Option<JoinHandle<io::Result<()>>>,
    found: Arc<AtomicBool>,
    rule: Option<&'static str>,
}

impl Trace {
    fn start(node: &Namespace, command: &mut Command, rule: Option<&'static str>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = node.enter(|| command.spawn())?.context("start netprobe trace")?;
        let output = child.stdout.take().context("the output of netprobe trace is not ours")?;
        let found = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&found);
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let mut line = line?;
                line.push(b'\n');
                io::stdout().write_all(&line)?;
                if rule.is_some_and(|rule| String::from_utf8_lossy(&line).contains(rule)) {
                    seen.store(true, Ordering::Relaxed);
                }
            }
            Ok(())
        });
        Ok(Self { child, reader: Some(reader), found, rule })
    }

    /// Nobody reads its output any more: it has ended, or our own stdout is closed.
    fn is_unread(&self) -> bool {
        self.reader.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it as Ctrl-C does, and waits until its last line is out.
    fn stop(&mut self) -> Result<()> {
        terminate(&self.child);
        let status = self.child.wait().context("wait for netprobe trace")?;
        match self.reader.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => return Err(error).context("show what netprobe trace prints"),
            Some(Err(_)) => bail!("the output of netprobe trace could not be read"),
            Some(Ok(Ok(()))) | None => {}
        }
        if status.success() { Ok(()) } else { bail!("netprobe trace ended with {status}") }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.reader.is_some() {
            terminate(&self.child);
            let _ = self.child.wait();
        }
    }
}

fn terminate(child: &Child) {
    // Not there any more is what we want.
    let _ = i32::try_from(child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
}
