//! What the user says should be so, where the node's own settings do not tell.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::identity::Pod;

/// Expectations of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Expectations {
    /// Those that were given for every followed pod.
    pub all: Standing,
    /// Standing ones, of a file.
    pub standing: Vec<Standing>,
}

/// What should be so for some pods. What is absent is not expected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Standing {
    /// Whose, as `NAMESPACE/NAME`; `*` stands for anything. Empty is every pod.
    pub pods: String,
    /// Only what goes to these networks; empty is everywhere.
    pub to: Vec<IpNet>,
    /// They leave the node by this device.
    pub device: Option<String>,
    /// They leave the node with this source address.
    pub source: Option<Source>,
    /// Addresses that DNS gives them lie in these networks; empty is anywhere.
    pub networks: Vec<IpNet>,
}

/// A source address that packets should leave the node with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Source {
    /// The pod's own: no SNAT.
    Pod,
    /// One of the node's: masqueraded.
    Node,
    /// One of these.
    Net(IpNet),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod => f.write_str("pod"),
            Self::Node => f.write_str("node"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Net(net) => net.fmt(f),
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> Self {
        source.to_string()
    }
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pod" => Ok(Self::Pod),
            "node" => Ok(Self::Node),
            _ => network(text).map(Self::Net).map_err(|_| {
                format!("`{text}` is no source: write pod, node, an address, or a network like 10.0.0.0/24")
            }),
        }
    }
}

/// A network, or a single address.
///
/// # Errors
///
/// What is neither, in words.
pub fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .map(|net| net.trunc())
        .or_else(|_| single())
        .map_err(|_| format!("`{text}` is no network: write it like 10.219.226.0/24"))
}

impl Standing {
    fn is_about(&self, pod: Option<&Pod>, to: IpAddr) -> bool {
        let named = self.pods.is_empty() || pod.is_some_and(|pod| fits(&self.pods, &pod.to_string()));
        named && (self.to.is_empty() || self.to.iter().any(|net| net.contains(&to)))
    }

    /// Nothing is expected.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.device.is_none() && self.source.is_none() && self.networks.is_empty()
    }
}

impl Expectations {
    /// Nothing is expected of anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty() && self.standing.iter().all(Standing::is_empty)
    }

    fn about(&self, pod: Option<&Pod>, to: IpAddr) -> impl Iterator<Item = &Standing> {
        std::iter::once(&self.all).chain(&self.standing).filter(move |s| s.is_about(pod, to))
    }

    /// The device by which that pod's packets to that address should leave, and who says so.
    #[must_use]
    pub fn device(&self, pod: Option<&Pod>, to: IpAddr) -> Option<(&str, String)> {
        self.about(pod, to).find_map(|s| {
            let device = s.device.as_deref()?;
            Some((device, self.origin(s, &format!("--expect-dev {device}"))))
        })
    }

    /// The source with which they should leave, and who says so.
    #[must_use]
    pub fn source(&self, pod: Option<&Pod>, to: IpAddr) -> Option<(Source, String)> {
        self.about(pod, to).find_map(|s| {
            let source = s.source?;
            Some((source, self.origin(s, &format!("--expect-src {source}"))))
        })
    }

    /// The networks in which the addresses should lie that DNS gives that pod, and who says so.
    #[must_use]
    pub fn networks(&self, pod: Option<&Pod>) -> Option<(&[IpNet], String)> {
        let named = |s: &&Standing| s.pods.is_empty() || pod.is_some_and(|pod| fits(&s.pods, &pod.to_string()));
        let all = std::iter::once(&self.all).chain(&self.standing).filter(named);
        all.filter(|s| !s.networks.is_empty()).map(|s| (&*s.networks, self.origin(s, "--expect-net"))).next()
    }

    fn origin(&self, standing: &Standing, option: &str) -> String {
        if std::ptr::eq(standing, &raw const self.all) {
            option.to_owned()
        } else if standing.pods.is_empty() {
            "the file of expectations".to_owned()
        } else {
            format!("the expectation for {}", standing.pods)
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for anything. Without a `/` the pattern is about the name alone.
fn fits(pattern: &str, name: &str) -> bool {
    let name = if pattern.contains('/') { name } else { name.rsplit('/').next().unwrap_or(name) };
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Source as Identity;

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: None,
            identity: Identity::Netns,
            is_ended: false,
        }
    }

    #[test]
    fn patterns_fit_whole_names() {
        assert!(fits("shop/web-*", "shop/web-0") && fits("shop/*", "shop/web-0") && fits("*", "shop/web-0"));
        assert!(fits("web-*", "shop/web-0") && fits("*/web-*-x", "shop/web-1-x"));
        assert!(
            !fits("shop/web", "shop/web-0") && !fits("shop/web-*", "shopping/web-0") && !fits("web-*-y", "web-1-x")
        );
    }

    #[test]
    fn a_standing_expectation_is_about_its_pods_and_networks() {
        let standing = Standing {
            pods: "shop/web-*".to_owned(),
            to: vec!["10.0.0.0/8".parse().expect("a network")],
            device: Some("eth1".to_owned()),
            ..Standing::default()
        };
        let expect = Expectations { standing: vec![standing], ..Expectations::default() };
        let to = |ip: &str| ip.parse().expect("an address");
        let web = pod("shop", "web-0");
        let (device, origin) = expect.device(Some(&web), to("10.1.1.1")).expect("it is about web-0");
        assert_eq!((device, origin.as_str()), ("eth1", "the expectation for shop/web-*"));
        assert_eq!(expect.device(Some(&web), to("192.0.2.1")), None);
        assert_eq!(expect.device(Some(&pod("shop", "db-0")), to("10.1.1.1")), None);
        assert_eq!(expect.device(None, to("10.1.1.1")), None);
    }

    #[test]
    fn sources_are_words_or_networks() {
        assert_eq!("pod".parse(), Ok(Source::Pod));
        assert_eq!("10.0.0.7".parse::<Source>().map(|s| s.to_string()), Ok("10.0.0.7".to_owned()));
        assert!("the moon".parse::<Source>().expect_err("it is none").contains("is no source"));
    }
}
