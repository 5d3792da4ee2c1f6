//! A running netprobe.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{Finding, Lab, Run, patiently, wait};

/// How long attaching may take.
const READY: Duration = Duration::from_secs(15);
/// How long a finding may take after its traffic.
const FINDING: Duration = Duration::from_secs(8);
/// How long to listen on for a finding that is not due.
const SETTLE: Duration = Duration::from_millis(800);
/// How long ending may take.
const END: Duration = Duration::from_secs(5);

/// The program under test: `NETPROBE_BIN`, else the one that cargo built, release before debug.
///
/// # Panics
///
/// There is none.
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = env::var_os("NETPROBE_BIN") {
        return path.into();
    }
    let own = env::current_exe().expect("a test has a file");
    // target/debug/deps/cases-0123
    let target = own.ancestors().nth(3).expect("cargo puts tests below its target directory");
    let built = ["release", "debug"].map(|profile| target.join(profile).join("netprobe"));
    let found = built.into_iter().find(|path| path.is_file());
    found.expect("no netprobe beside the tests: run `cargo build -p netprobe`, or set NETPROBE_BIN")
}

/// The words of a netprobe that is waited for until it is attached, with JSON, and names from where the words `names` say.
pub(crate) fn arguments(lab: &Lab, names: &[&OsStr], args: &[&str]) -> Vec<OsString> {
    let args = args.iter().copied().chain(["-o", "json"]).map(OsString::from);
    let ready = ["--ready-file".into(), ready_file(lab).into_os_string()];
    args.chain(names.iter().map(OsString::from)).chain(ready).collect()
}

fn ready_file(lab: &Lab) -> PathBuf {
    lab.directory().join("ready")
}

/// A running netprobe; killed when dropped.
pub struct Probe {
    child: Child,
    objects: Arc<Mutex<Vec<Value>>>,
    /// What it said on stderr.
    said: Arc<Mutex<String>>,
    readers: Option<(JoinHandle<()>, JoinHandle<()>)>,
}

impl Probe {
    /// Starts netprobe with names from the inventory file of the network.
    pub(crate) fn start(lab: &Lab, environment: &[(&str, &str)], args: &[&str]) -> Self {
        let inventory = lab.inventory();
        Self::start_named(
            lab,
            environment,
            &["--no-kube".as_ref(), "--inventory".as_ref(), inventory.as_os_str()],
            args,
        )
    }

    /// Starts netprobe with names from where the words `names` say.
    pub(crate) fn start_named(lab: &Lab, environment: &[(&str, &str)], names: &[&OsStr], args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments(lab, names, args));
        command.envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::run(lab, command)
    }

    /// Starts what `command` says on the node; its words are those of [`arguments`].
    pub(crate) fn run(lab: &Lab, command: Command) -> Self {
        Self::run_at(lab, "node", command)
    }

    /// The same in that namespace of the network.
    pub(crate) fn run_at(lab: &Lab, place: &str, mut command: Command) -> Self {
        let ready = ready_file(lab);
        // From an earlier probe of the same test.
        let _ = fs::remove_file(&ready);
        let mut child = lab.on(place).enter(|| command.spawn()).expect("start netprobe");
        let objects = Arc::new(Mutex::new(Vec::new()));
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let said = Arc::new(Mutex::new(String::new()));
        let (into, words) = (Arc::clone(&objects), Arc::clone(&said));
        let out = thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.expect("output is text");
                let object = serde_json::from_str(&line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
                into.lock().unwrap_or_else(PoisonError::into_inner).push(object);
            }
        });
        let err = thread::spawn(move || {
            for line in stderr.lines() {
                let line = line.expect("messages are text");
                let mut text = words.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&line);
                text.push('\n');
            }
        });
        let mut probe = Self { child, objects, said, readers: Some((out, err)) };
        let alive = wait(READY, || ready.exists() || probe.ended());
        assert!(alive && ready.exists(), "{command:?} was not ready: {}", probe.words());
        probe
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Ends it whatever it does, and returns what it said on stderr.
    fn words(&mut self) -> String {
        let _ = self.child.kill();
        if let Some((_, err)) = self.readers.take() {
            let _ = err.join();
        }
        self.said()
    }

    /// What it said on stderr so far.
    #[must_use]
    pub fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has said `words` on stderr.
    ///
    /// # Panics
    ///
    /// It does not in time.
    pub fn says(&self, words: &str) {
        let has_said = wait(FINDING, || self.said().contains(words));
        assert!(has_said, "`{words}` is not in: {}", self.said());
    }

    /// Waits until something that it wrote passes `test`.
    ///
    /// # Panics
    ///
    /// Nothing does in time.
    pub fn shows(&self, what: &str, test: impl Fn(&Value) -> bool) {
        let has_shown = wait(FINDING, || self.objects().iter().any(&test));
        assert!(has_shown, "{what}: nothing of that in {:#?}", self.objects());
    }

    /// Everything written so far.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a finding of `rule`.
    ///
    /// # Panics
    ///
    /// There is none in time.
    #[must_use]
    pub fn finding(&self, rule: &str) -> Finding {
        let mut found = None;
        wait(FINDING, || {
            found = self.objects().into_iter().rev().filter_map(Finding::of).find(|finding| finding.rule() == rule);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no finding {rule} within {FINDING:?}, but {}", self.summary()))
    }

    /// What was written, in few words but for the findings.
    fn summary(&self) -> String {
        let objects = self.objects();
        let findings: Vec<_> = objects.iter().cloned().filter_map(Finding::of).collect();
        format!("{} objects and these findings: {findings:#?}", objects.len())
    }

    /// Waits for a finding of `rule`, ends netprobe, and returns the finding, which must be the only one.
    #[must_use]
    pub fn one(self, rule: &str) -> Finding {
        let _ = self.finding(rule);
        self.settled().one(rule)
    }

    /// Listens on for a while, then ends netprobe.
    #[must_use]
    pub fn settled(self) -> Run {
        thread::sleep(patiently(SETTLE));
        self.stop()
    }

    /// Ends netprobe as `kill` does, and returns all it wrote.
    ///
    /// # Panics
    ///
    /// It does not end in time, or not well.
    #[must_use]
    pub fn stop(self) -> Run {
        kill(self.pid(), Signal::SIGTERM).expect("it runs");
        self.wait()
    }

    /// Waits until netprobe has ended by itself or by a signal that it heeds, and returns all it wrote.
    ///
    /// # Panics
    ///
    /// It does not end in time, or not well.
    #[must_use]
    pub fn wait(self) -> Run {
        self.wait_for(0)
    }

    /// The same with that exit code.
    ///
    /// # Panics
    ///
    /// It does not end in time, or with another one.
    #[must_use]
    pub fn wait_for(mut self, code: i32) -> Run {
        assert!(wait(END, || self.ended()), "netprobe did not end within {END:?}");
        let status = self.child.wait().expect("it has ended");
        let (out, err) = self.readers.take().expect("it was not stopped before");
        err.join().expect("stderr was read");
        let stderr = self.said();
        assert_eq!(status.code(), Some(code), "netprobe ended badly: {stderr}");
        out.join().expect("every line is JSON");
        Run { objects: self.objects(), stderr }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run of `netprobe why`, over.
#[derive(Debug)]
pub struct Why {
    /// Its exit code.
    pub code: i32,
    /// All it wrote.
    pub run: Run,
}

impl Why {
    pub(crate) fn of(lab: &Lab, pod: &str, args: &[&str]) -> Self {
        let mut command = Command::new(binary());
        command.args(["why", "--pod", &format!("shop/{pod}")]).args(args).args([
            "-o",
            "json",
            "--no-kube",
            "--inventory",
        ]);
        command.arg(lab.inventory()).stdin(Stdio::null());
        let output = lab.on("node").enter(|| command.output()).expect("run netprobe");
        let text = String::from_utf8(output.stdout).expect("output is text");
        let object = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().expect("it ended by itself");
        Self { code, run: Run { objects: text.lines().map(object).collect(), stderr } }
    }

    fn verdict(&self) -> &Value {
        let last = self.run.objects.last().filter(|object| object["kind"] == "verdict");
        last.unwrap_or_else(|| panic!("no verdict in {self:#?}"))
    }

    /// How it ended: `fine`, `finding`, `unknown`.
    #[must_use]
    pub fn outcome(&self) -> &str {
        self.verdict()["outcome"].as_str().expect("a word")
    }

    /// Its sentence.
    #[must_use]
    pub fn claim(&self) -> &str {
        self.verdict()["claim"].as_str().expect("a sentence")
    }

    /// That part of the way worked, and its text has `words`.
    ///
    /// # Panics
    ///
    /// It is not told, or did not work.
    pub fn passed(&self, part: &str, words: &str) {
        let way = self.verdict()["way"].as_array().expect("a list");
        let told = way.iter().any(|p| {
            p["part"] == part && p["ok"] == true && p["text"].as_str().is_some_and(|text| text.contains(words))
        });
        assert!(told, "nothing of part {part} says `{words}` in {:#}", self.verdict());
    }
}
