//! Inside a guest: the first process, and the one that runs the stories.

use std::{
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, killpg},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, sethostname},
};

use super::{
    image::{CASES, MODULES, NETPROBE, PLAN, XTASK},
    report::{Event, Outcome, Plan, Story},
};
use crate::bench::clock;

/// What is mounted where: type, place. All that a node has and netprobe or a story reads.
const MOUNTS: &[(&str, &str)] = &[
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("tracefs", "/sys/kernel/tracing"),
    ("debugfs", "/sys/kernel/debug"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];
/// The serial line that `qemu` reads.
const LINE: &str = "/dev/ttyS1";
/// How a story says that its kernel cannot have it.
const NOT_HERE: &str = "not on this kernel: ";
/// How much of the begin and of the end of what a story printed is reported, bytes.
const SAID: usize = 4000;

/// As the first process: makes this a machine, has the stories run, and ends the machine. Else: runs the stories.
pub(crate) fn run() -> Result<()> {
    if process::id() != 1 {
        return stories();
    }
    if let Err(error) = begin() {
        eprintln!("guest: {error:#}");
    }
    // The host takes an end without a last word for what it is.
    reboot(RebootMode::RB_AUTOBOOT).context("end the machine")?;
    Ok(())
}

fn begin() -> Result<()> {
    for (kind, place) in MOUNTS {
        mount(Some(*kind), *place, Some(*kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {kind} on {place}"))?;
    }
    sethostname("guest").context("name the machine")?;
    for module in sorted(Path::new(MODULES))? {
        load(&module);
    }
    let child = Command::new(XTASK).arg("guest").env_clear().env("PATH", "/bin").spawn().context("run the stories")?;
    let child = Pid::from_raw(child.id().try_into().context("a process id")?);
    // Whatever loses its parent is ours, and stays until we ask for it.
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, 0)) if pid == child => return Ok(()),
            Ok(ended) if ended.pid() == Some(child) => bail!("the stories ended with {ended:?}"),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Loads a module; one that refuses is told, and what needs it will say so.
fn load(path: &Path) {
    const NO_PARAMETERS: &CStr = c"";
    let loaded = File::open(path)
        .map_err(anyhow::Error::from)
        .and_then(|file| Ok(finit_module(file, NO_PARAMETERS, ModuleInitFlags::empty())?));
    if let Err(error) = loaded {
        eprintln!("guest: {}: {error:#}", path.display());
    }
}

fn stories() -> Result<()> {
    let mut line = OpenOptions::new().write(true).open(LINE).with_context(|| format!("open {LINE}"))?;
    let mut tell = |event: &Event| -> Result<()> {
        let mut text = serde_json::to_vec(event).context("write an event")?;
        text.push(b'\n');
        line.write_all(&text).context("report")
    };
    let plan = fs::read_to_string(PLAN).with_context(|| format!("read {PLAN}"))?;
    let plan: Plan = serde_json::from_str(&plan).with_context(|| format!("parse {PLAN}"))?;
    loopback()?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    tell(&Event::Up { release: release.trim().to_owned(), seconds: uptime() })?;
    for story in &plan.stories {
        tell(&Event::Begin { story: story.clone() })?;
        let told = tell_story(story, &plan)?;
        tell(&Event::End { story: story.clone(), told })?;
    }
    tell(&Event::Done)
}

fn loopback() -> Result<()> {
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("run ip")?;
    if !status.success() {
        bail!("the guest's loopback does not come up");
    }
    Ok(())
}

/// Since the kernel began, seconds.
fn uptime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default()
}

fn tell_story(story: &str, plan: &Plan) -> Result<Story> {
    let output = Path::new("/tmp/said");
    let file = File::create(output).context("make the file of what a story prints")?;
    let mut command = Command::new(CASES);
    command.args(["--exact", story, "--test-threads=1", "--nocapture"]);
    command.env("NETPROBE_BIN", NETPROBE).env("NETPROBE_PATIENCE", plan.patience.to_string()).env("CI", "true");
    command.stdin(Stdio::null()).stdout(file.try_clone().context("a second handle")?).stderr(file).process_group(0);
    let before = uptime();
    let mut child = command.spawn().with_context(|| format!("run {CASES}"))?;
    let ended = clock::wait(Duration::from_secs(plan.limit_seconds), || child.try_wait().ok().flatten());
    end_group(&mut child);
    let said = fs::read(output).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).into_owned();
    let not_here = said.lines().find_map(|line| line.trim().strip_prefix(NOT_HERE));
    let (outcome, said) = match (ended, not_here) {
        (None, _) => (Outcome::Late, ends(&said)),
        (Some(status), Some(why)) if status.success() => (Outcome::NotHere, why.to_owned()),
        // A name that fits no story makes a run of none, which is a success of nothing.
        (Some(status), None) if status.success() && said.contains("1 passed") => (Outcome::Passed, String::new()),
        _ => (Outcome::Failed, ends(&said)),
    };
    Ok(Story { outcome, seconds: uptime() - before, said })
}

/// Ends the story and what it left in its group.
fn end_group(child: &mut Child) {
    if let Ok(group) = child.id().try_into() {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
}

/// The begin and the end, [`SAID`] bytes each.
fn ends(text: &str) -> String {
    if text.len() <= 2 * SAID {
        return text.to_owned();
    }
    let (head, tail) = (text.floor_char_boundary(SAID), text.ceil_char_boundary(text.len() - SAID));
    format!("{}\n[..]\n{}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_both_ends_of_a_long_text() {
        assert_eq!(ends("short"), "short");
        let long = format!("panicked{}FAILED", "é".repeat(2 * SAID));
        let kept = ends(&long);
        assert!(kept.starts_with("panicked") && kept.ends_with("FAILED") && kept.len() < 2 * SAID + 20);
    }
}
