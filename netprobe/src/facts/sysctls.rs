//! Settings that decide a packet's fate.
//!
//! A device's come with its link message (`IFLA_AF_SPEC` carries the whole `ipv4_devconf` and `ipv6_devconf`), so
//! 250 veths cost no file reads. The others are read from /proc/sys/net, which shows the settings of
//! the reading thread's namespace.

use std::{collections::BTreeMap, fs, io, path::Path};

use netlink_packet_core::{NlaBuffer, NlasIterator};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, Inet6DevConf, InetDevConf, LinkAttribute, LinkMessage,
};

use super::netlink::Requests;
use crate::model::facts::NamespaceKind;

/// Settings by their name in dots.
pub(super) type Sysctls = BTreeMap<String, String>;

/// A setting of an IPv4 device: its file's name and where the link message has it.
type V4 = (&'static str, fn(&InetDevConf) -> i32);

/// The same for IPv6.
type V6 = (&'static str, fn(&Inet6DevConf) -> i32);

/// `net.ipv4.conf.DEVICE.*`; read for `all` and `default` as well.
const V4_DEVICE: &[V4] = &[
    ("accept_local", |c| c.accept_local),
    ("arp_ignore", |c| c.arp_ignore),
    ("forwarding", |c| c.forwarding),
    ("ignore_routes_with_linkdown", |c| c.ignore_routes_with_linkdown),
    ("proxy_arp", |c| c.proxy_arp),
    ("route_localnet", |c| c.route_localnet),
    ("rp_filter", |c| c.rp_filter),
    ("src_valid_mark", |c| c.src_vmark),
];

/// `net.ipv6.conf.DEVICE.*`; read for `all` as well.
const V6_DEVICE: &[V6] = &[
    ("disable_ipv6", |c| c.disable_ipv6),
    ("forwarding", |c| c.forwarding),
    ("ignore_routes_with_linkdown", |c| c.ignore_routes_with_linkdown),
    ("proxy_ndp", |c| c.proxy_ndp),
];

/// Settings of a whole namespace. Those the kernel does not have (a module that is not loaded) are left out.
const NAMESPACE: &[&str] = &[
    "net.core.somaxconn",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_timeout_established",
];

/// Settings read in the node's namespace alone: the kernel has one of each, or packets between pods meet them there.
const NODE: &[&str] = &[
    "net.bridge.bridge-nf-call-ip6tables",
    "net.bridge.bridge-nf-call-iptables",
    "net.core.netdev_max_backlog",
    "net.ipv4.neigh.default.gc_thresh3",
];

/// Settings that move all the time. They are kept, and a change of one is no news.
pub(super) fn is_counter(name: &str) -> bool {
    name.ends_with("_count")
}

/// The settings of the calling thread's namespace, but for its devices'.
///
/// A pod's are fewer: it gets no new devices, so `default` decides nothing there, and the files are most of what
/// reading a pod costs.
pub(super) fn of_this_namespace(kind: NamespaceKind) -> Sysctls {
    let (shared, devices): (_, &[&str]) = match kind {
        NamespaceKind::Node => (NODE, &["all", "default"]),
        NamespaceKind::Pod => (&[][..], &["all"]),
    };
    let names = NAMESPACE.iter().chain(shared).map(|name| (*name).to_owned());
    let v4 = devices.iter().flat_map(|d| V4_DEVICE.iter().map(move |(n, _)| v4_name(d, n)));
    let v6 = V6_DEVICE.iter().map(|(n, _)| v6_name("all", n));
    names.chain(v4).chain(v6).filter_map(|name| read(&name).map(|value| (name, value))).collect()
}

fn v4_name(device: &str, setting: &str) -> String {
    format!("net.ipv4.conf.{device}.{setting}")
}

fn v6_name(device: &str, setting: &str) -> String {
    format!("net.ipv6.conf.{device}.{setting}")
}

fn read(name: &str) -> Option<String> {
    // None of these names holds a device, so every dot is a slash.
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    let text = fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The settings of the device a link message is about.
pub(super) fn of_device(device: &str, message: &LinkMessage, into: &mut Sysctls) {
    let specs = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(specs) => Some(specs),
        _ => None,
    });
    for spec in specs.flatten() {
        match spec {
            AfSpecUnspec::Inet(values) => {
                for value in values {
                    let AfSpecInet::DevConf(conf) = value else { continue };
                    into.extend(V4_DEVICE.iter().map(|(n, get)| (v4_name(device, n), get(conf).to_string())));
                }
            }
            AfSpecUnspec::Inet6(values) => {
                for value in values {
                    let AfSpecInet6::DevConf(conf) = value else { continue };
                    into.extend(V6_DEVICE.iter().map(|(n, get)| (v6_name(device, n), get(conf).to_string())));
                }
            }
            _ => {}
        }
    }
}

/// Whether a setting belongs to that device.
pub(super) fn is_of_device(name: &str, device: &str) -> bool {
    renamed(name, device, device).is_some()
}

/// The name of a device's setting after the device got another name; `None` if it is not that device's.
pub(super) fn renamed(name: &str, old: &str, new: &str) -> Option<String> {
    ["net.ipv4.conf.", "net.ipv6.conf."].into_iter().find_map(|family| {
        let setting = name.strip_prefix(family)?.strip_prefix(old)?.strip_prefix('.')?;
        // `eth0.100.rp_filter` is eth0.100's, not eth0's.
        (!setting.contains('.')).then(|| format!("{family}{new}.{setting}"))
    })
}

/// The settings of `all` that the kernel tells by netlink: forwarding, `rp_filter`, proxying, `ignore_routes_with_linkdown`.
///
/// Finding a file under /proc/sys/net takes time in proportion to the namespaces that have looked it up before
/// (`proc_sys_compare`): on a node with 250 pods the files would cost 250 ms, and this costs 3.
pub(super) fn told_of_all(requests: &mut Requests) -> io::Result<Sysctls> {
    let mut settings = Sysctls::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut payload = vec![u8::try_from(family).unwrap_or_default(), 0, 0, 0];
        // One attribute: eight bytes long, NETCONFA_IFINDEX.
        payload.extend([8_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
        payload.extend(IFINDEX_ALL.to_ne_bytes());
        match requests.get_as(GETNETCONF, &payload, |frame| netconf(frame.payload, |_| None)) {
            Ok(told) => settings.extend(told.into_iter().flatten()),
            // A kernel without IPv6.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(settings)
}

/// `RTM_GETNETCONF`.
const GETNETCONF: u16 = 82;

/// `RTM_NEWNETCONF` (`include/uapi/linux/rtnetlink.h`), which the library does not know.
pub(super) const NEWNETCONF: u16 = 80;

/// Bytes of `struct netconfmsg`, padded.
const NETCONF_HEADER_BYTES: usize = 4;

/// `NETCONFA_IFINDEX_ALL`, `NETCONFA_IFINDEX_DEFAULT` (`include/uapi/linux/netconf.h`).
const IFINDEX_ALL: i32 = -1;
const IFINDEX_DEFAULT: i32 = -2;

/// What a netconf message says: settings by name, without the new value's neighbours.
///
/// `device` names an interface index. `payload` starts at `struct netconfmsg`.
pub(super) fn netconf(payload: &[u8], device: impl Fn(u32) -> Option<String>) -> Option<Sysctls> {
    let v6 = match i32::from(*payload.first()?) {
        libc::AF_INET => false,
        libc::AF_INET6 => true,
        _ => return None,
    };
    let mut name = None;
    let mut values = vec![];
    for attribute in NlasIterator::new(payload.get(NETCONF_HEADER_BYTES..)?) {
        let attribute: NlaBuffer<&[u8]> = attribute.ok()?;
        let value = i32::from_ne_bytes(attribute.value().try_into().ok()?);
        match (attribute.kind(), value) {
            (1, IFINDEX_ALL) => name = Some("all".to_owned()),
            (1, IFINDEX_DEFAULT) => name = Some("default".to_owned()),
            (1, index) => name = device(u32::try_from(index).ok()?),
            (2, _) => values.push(("forwarding", value)),
            (3, _) => values.push(("rp_filter", value)),
            (5, _) => values.push((if v6 { "proxy_ndp" } else { "proxy_arp" }, value)),
            (6, _) => values.push(("ignore_routes_with_linkdown", value)),
            _ => {}
        }
    }
    let (name, full) = (name?, if v6 { v6_name } else { v4_name });
    let mut settings: Sysctls = values.iter().map(|(n, v)| (full(&name, n), v.to_string())).collect();
    // The same variable under its older name (net/ipv4/devinet.c).
    if let Some(value) = settings.get("net.ipv4.conf.all.forwarding").cloned() {
        settings.insert("net.ipv4.ip_forward".to_owned(), value);
    }
    Some(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn netconf_message(family: i32, ifindex: i32, attribute: (u16, i32)) -> Vec<u8> {
        let mut payload = vec![u8::try_from(family).unwrap(), 0, 0, 0];
        for (kind, value) in [(1, ifindex), attribute] {
            payload.extend(8u16.to_ne_bytes());
            payload.extend(kind.to_ne_bytes());
            payload.extend(value.to_ne_bytes());
        }
        payload
    }

    #[test]
    fn forwarding_of_all_devices_is_ip_forward_too() {
        let settings = netconf(&netconf_message(libc::AF_INET, IFINDEX_ALL, (2, 0)), |_| None).unwrap();
        assert_eq!(settings["net.ipv4.ip_forward"], "0");
        assert_eq!(settings["net.ipv4.conf.all.forwarding"], "0");
        let settings = netconf(&netconf_message(libc::AF_INET6, IFINDEX_ALL, (2, 1)), |_| None).unwrap();
        assert_eq!(settings, Sysctls::from([("net.ipv6.conf.all.forwarding".to_owned(), "1".to_owned())]));
    }

    #[test]
    fn a_devices_setting_is_named_after_it() {
        let name = |index| (index == 7).then(|| "eth0.100".to_owned());
        let settings = netconf(&netconf_message(libc::AF_INET, 7, (3, 1)), name).unwrap();
        assert_eq!(settings, Sysctls::from([("net.ipv4.conf.eth0.100.rp_filter".to_owned(), "1".to_owned())]));
        assert_eq!(netconf(&netconf_message(libc::AF_INET, 8, (3, 1)), name), None);
    }

    #[test]
    fn a_vlans_setting_is_not_its_parents() {
        assert!(is_of_device("net.ipv4.conf.eth0.rp_filter", "eth0"));
        assert!(!is_of_device("net.ipv4.conf.eth0.100.rp_filter", "eth0"));
        assert!(is_of_device("net.ipv6.conf.eth0.100.forwarding", "eth0.100"));
    }

    #[test]
    fn what_the_kernel_tells_of_all_devices_is_what_the_files_say() {
        let told = told_of_all(&mut Requests::open().unwrap()).unwrap();
        assert!(
            told.contains_key("net.ipv4.ip_forward") && told.contains_key("net.ipv4.conf.all.rp_filter"),
            "{told:?}"
        );
        for (name, value) in told {
            assert_eq!(read(&name), Some(value), "{name}");
        }
    }

    #[test]
    fn what_a_link_message_says_is_what_the_files_say() {
        // The loopback is there in every namespace, and this one's settings are readable without privileges.
        let lo = read("net.ipv4.conf.lo.rp_filter");
        let mut requests = Requests::open().unwrap();
        let (_, settings) = super::super::read::links(&mut requests).unwrap();
        assert_eq!(settings.get("net.ipv4.conf.lo.rp_filter"), lo.as_ref());
        for (setting, _) in V4_DEVICE {
            assert_eq!(settings.get(&v4_name("lo", setting)), read(&v4_name("lo", setting)).as_ref(), "{setting}");
        }
        for (setting, _) in V6_DEVICE.iter().filter(|_| Path::new("/proc/sys/net/ipv6").exists()) {
            assert_eq!(settings.get(&v6_name("lo", setting)), read(&v6_name("lo", setting)).as_ref(), "{setting}");
        }
    }
}
