//! Makes the recordings that `replay` compares with golden output, by breaking real networks.
//!
//! ```text
//! cargo run --package netprobe-tests --example record      (as root)
//! UPDATE_GOLDEN=1 cargo test --package netprobe-tests --test replay
//! ```
//! `STORY=a,b` makes only these. Another run has other times and ports, so all golden files change: make them again only where
//! the format, the records or the facts have changed, and read what became of the findings.

use std::{env, error::Error, fs, path::Path, thread, time::Duration};

use netprobe::{
    facts::FactsEvent,
    model::facts::NamespaceFacts,
    record::{Frame, Reader, Writer},
};
use netprobe_tests::{Lab, SERVER, SERVER6, WEB_1, closed};
use nix::sched::{CloneFlags, unshare};

/// The node's name in the recordings, whatever this machine is called.
const NODE: &str = "node-1";
/// Largest recording that is kept.
const BYTES_MAX: u64 = 300_000;
/// How long to record after the traffic: a neighbour is given up after three seconds.
const SETTLE: Duration = Duration::from_millis(2500);

/// A network broken one way.
struct Story {
    name: &'static str,
    /// What is broken before the pod is watched.
    before: fn(&Lab),
    /// What happens while it is watched.
    watched: fn(&Lab),
}

const fn broken(name: &'static str, before: fn(&Lab)) -> Story {
    Story { name, before, watched: fails }
}

/// web-0 asks the server in vain.
fn fails(lab: &Lab) {
    let _ = lab.on("web-0").cannot_connect(SERVER);
}

fn node(lab: &Lab, line: &str) {
    lab.on("node").run(line);
}

fn guard(lab: &Lab, verdict: &str) {
    let hook = "type filter hook forward priority 0";
    let rule = format!("ip saddr 10.61.7.10 tcp dport 3306 counter {verdict}");
    lab.on("node").nft(&format!("table inet site {{\n chain guard {{\n {hook}\n {rule}\n }}\n}}\n"));
}

const STORIES: &[Story] = &[
    Story {
        name: "wrong-nic",
        before: |_| {},
        watched: |lab| {
            lab.on("web-0").connects(SERVER);
            node(lab, "ip route del default table 2");
            fails(lab);
        },
    },
    Story {
        name: "wrong-nic-ipv6",
        before: |lab| node(lab, "ip -6 route flush table 2"),
        watched: |lab| drop(lab.on("web-0").cannot_connect(SERVER6)),
    },
    broken("rule-missing", |lab| node(lab, "ip rule del pref 1536 from 10.61.7.10")),
    broken("blackhole", |lab| node(lab, "ip route add blackhole 172.20.40.5 table 2")),
    broken("no-route", |lab| drop(lab.on("web-0").run("ip route del default"))),
    broken("rp-filter", |lab| {
        lab.on("router").run("ip route replace 10.61.7.0/24 via 172.20.10.2");
        lab.on("node").set("ipv4/conf/eth0/rp_filter", "1");
    }),
    broken("forwarding-off", |lab| lab.on("node").set("ipv4/ip_forward", "0")),
    broken("neighbour", |lab| drop(lab.on("router").run("ip -4 addr flush dev n1"))),
    broken("netfilter-drop", |lab| guard(lab, "drop")),
    broken("netfilter-reject", |lab| guard(lab, "reject")),
    broken("no-reply", |lab| drop(lab.on("router").run("ip rule add pref 90 iif n1 from 10.61.7.10 blackhole"))),
    Story {
        name: "port-closed",
        before: |_| {},
        watched: |lab| drop(lab.on("web-0").cannot_connect(closed(WEB_1.v4))),
    },
    Story {
        name: "healthy",
        before: |_| {},
        watched: |lab| {
            lab.on("web-0").connects(SERVER);
            lab.on("web-0").exchanges(SERVER6);
        },
    },
];

fn record(story: &Story, fixtures: &Path) {
    let lab = Lab::start(story.name).expect("recording needs root");
    (story.before)(&lab);
    let kept = lab.directory().join("run.npr");
    let probe = lab.netprobe(&["trace", "--pod", "shop/web-0", "--record", kept.to_str().expect("a plain path")]);
    (story.watched)(&lab);
    thread::sleep(SETTLE);
    drop(probe.stop());
    let folder = fixtures.join(story.name);
    fs::create_dir_all(&folder).expect("make the fixture's folder");
    let bytes = keep(&kept, &folder.join("run.npr")).expect("keep the recording");
    println!("{}: {bytes} bytes", story.name);
    assert!(bytes <= BYTES_MAX, "{}: {bytes} bytes are too many to keep", story.name);
}

/// Copies a recording without what is only this machine's: cgroups, and the names and processes of
/// namespaces.
fn keep(from: &Path, to: &Path) -> Result<u64, Box<dyn Error>> {
    let reader = Reader::open(from)?;
    let mut writer = Writer::create(to, reader.header())?;
    for frame in reader {
        match frame? {
            Frame::Header(_) => {}
            Frame::End => break,
            Frame::NodeFacts(mut facts) => {
                facts.namespaces.values_mut().for_each(forget);
                writer.write(&Frame::NodeFacts(facts))?;
            }
            Frame::FactsEvent(json) => {
                let mut event: FactsEvent = serde_json::from_slice(&json)?;
                if let FactsEvent::Namespace(namespace) = &mut event {
                    forget(namespace);
                }
                writer.write(&Frame::FactsEvent(serde_json::to_vec(&event)?.into()))?;
            }
            frame => writer.write(&frame)?,
        }
    }
    writer.finish()?;
    Ok(fs::metadata(to)?.len())
}

fn forget(namespace: &mut NamespaceFacts) {
    (namespace.cgroup, namespace.name) = (None, None);
    namespace.pids.clear();
}

fn main() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let only = env::var("STORY").ok();
    let is_wanted = |story: &&Story| only.as_deref().is_none_or(|names| names.split(',').any(|n| n == story.name));
    // A host name of our own, for this thread and what it starts.
    unshare(CloneFlags::CLONE_NEWUTS).expect("recording needs root");
    nix::unistd::sethostname(NODE).expect("the name is ours to set");
    let mut wanted = STORIES.iter().filter(is_wanted).peekable();
    assert!(wanted.peek().is_some(), "no story {only:?}");
    for story in wanted {
        record(story, &fixtures);
    }
}
