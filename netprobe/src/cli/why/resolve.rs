//! A name looked up as the pod would: with its own hosts file and resolv.conf, from inside its namespace.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::op::ResponseCode,
    system_conf::parse_resolv_conf,
};

use tokio::time::Instant;

/// Where the pod's files are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// Its resolv.conf.
    pub(super) resolv_conf: PathBuf,
    /// Its hosts file.
    pub(super) hosts: PathBuf,
    /// They are the pod's own, not the node's.
    pub(super) own: bool,
}

impl Files {
    /// Those of a process of the pod; else those that `ip netns exec` would give it; else the node's.
    pub(super) fn of(pids: &[u32], netns: Option<&str>) -> Self {
        let in_process = pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/root/etc")));
        // A process that merely shares the network namespace may have the node's root; its files are then the node's.
        let in_netns = netns.map(|name| Path::new("/etc/netns").join(name));
        let own = in_netns.into_iter().chain(in_process).find(|etc| etc.join("resolv.conf").exists());
        let node = PathBuf::from("/etc");
        let etc = own.clone().unwrap_or_else(|| node.clone());
        let or_node = |name: &str| if etc.join(name).exists() { etc.join(name) } else { node.join(name) };
        Self { resolv_conf: or_node("resolv.conf"), hosts: or_node("hosts"), own: own.is_some() }
    }
}

/// What looking up gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// Addresses; empty where there are none.
    pub(super) addresses: Vec<IpAddr>,
    /// How it went, in words.
    pub(super) text: String,
    /// Name servers were asked.
    pub(super) asked: bool,
}

/// Looks `name` up. Runs in the namespace that the calling thread is in, and blocks.
pub(super) fn resolve(name: &str, files: &Files, timeout: Duration) -> Result<Resolved> {
    let hosts = fs::read_to_string(&files.hosts).unwrap_or_default();
    let addresses = in_hosts(&hosts, name);
    if !addresses.is_empty() {
        let text = format!("{name} is {} ({})", list(&addresses), "its hosts file says so");
        return Ok(Resolved { addresses, text, asked: false });
    }
    let path = files.resolv_conf.display();
    let text = fs::read(&files.resolv_conf).with_context(|| format!("read {path}"))?;
    let (config, mut options) = parse_resolv_conf(text).map_err(|error| anyhow!("{path}: {error}"))?;
    // As glibc does: server after server, in order, each as long as the file says.
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.num_concurrent_reqs = 1;
    options.cache_size = 0;
    let servers: Vec<IpAddr> = config.name_servers().iter().map(|server| server.ip).collect();
    let whose = if files.own { "the pod's" } else { "the node's" };
    let source = format!("{} of {whose} resolv.conf", list(&servers));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let begun = Instant::now();
    let found = runtime.block_on(async {
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder.with_options(options).build()?;
        tokio::time::timeout(timeout, resolver.lookup_ip(name)).await.unwrap_or(Err(NetError::Timeout))
    });
    let took = millis(begun.elapsed());
    Ok(match found {
        Ok(found) => {
            let addresses: Vec<IpAddr> = found.iter().collect();
            let text = format!("{name} is {} ({took}, {source})", list(&addresses));
            Resolved { addresses, text, asked: true }
        }
        Err(error) => Resolved {
            addresses: Vec::new(),
            text: format!("{name} has no address: {} ({took}, {source})", words(&error)),
            asked: true,
        },
    })
}

/// A failed look-up in words.
fn words(error: &NetError) -> String {
    let code = match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => Some(none.response_code),
        NetError::Dns(DnsError::ResponseCode(code)) => Some(*code),
        _ => None,
    };
    match code {
        Some(ResponseCode::NXDomain) => "the name does not exist (NXDOMAIN)".to_owned(),
        Some(ResponseCode::NoError) => "the name has no A or AAAA record".to_owned(),
        Some(ResponseCode::ServFail) => "the server failed (SERVFAIL)".to_owned(),
        Some(other) => format!("the server answered {other}"),
        None if matches!(error, NetError::Timeout) => "no name server answered in time".to_owned(),
        None => error.to_string(),
    }
}

/// Addresses that a hosts file gives a name.
fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let ip: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
    };
    lines.filter_map(entry).collect()
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_gives_all_addresses_of_a_name() {
        let text = "127.0.0.1 localhost\n10.0.0.7 db db.shop # the database\n# 10.0.0.8 db\nfd00::7 DB\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(in_hosts(text, "db"), expected);
        assert_eq!(in_hosts(text, "db."), expected);
        assert_eq!(in_hosts(text, "d"), Vec::<IpAddr>::new());
    }

    #[test]
    fn a_pod_without_a_process_has_the_nodes_files() {
        let files = Files::of(&[], None);
        assert_eq!((files.resolv_conf.to_str(), files.own), (Some("/etc/resolv.conf"), false));
    }
}
