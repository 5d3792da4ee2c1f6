//! Which Kubernetes service a packet is addressed to: from the cluster, and where that is not known from the rules that
//! kube-proxy made.

use std::net::{IpAddr, SocketAddr};

use super::{Case, nf::Words};
use crate::model::{
    flow::{Flow, Proto},
    inventory::Service,
    ruleset::{RuleLine, Ruleset, Table},
};

/// A service as a packet addresses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Addressed {
    /// `default/web`.
    pub(super) name: String,
    /// Addressed by the node's port, not by the cluster's address.
    pub(super) by_node: bool,
    /// Ready endpoints; `None` where the cluster is not known.
    pub(super) ready: Option<Vec<IpAddr>>,
    /// Ready endpoints on this node.
    pub(super) ready_here: Option<usize>,
    /// Only endpoints of this node are used for this way in.
    pub(super) local_only: Option<bool>,
    /// The service has no such port; those that it has.
    pub(super) other_ports: Vec<String>,
}

/// The service of a flow's destination.
pub(super) fn addressed(case: &Case<'_>, flow: &Flow) -> Option<Addressed> {
    let proto = match flow.proto {
        Proto::Tcp => "TCP",
        Proto::Udp => "UDP",
        Proto::Other(132) => "SCTP",
        _ => return None,
    };
    let (ip, port) = (flow.dst.ip(), flow.dst.port());
    let services = &case.inventory.services;
    if let Some(service) = services.iter().find(|service| service.cluster_ips.contains(&ip)) {
        let has = service.ports.iter().any(|p| p.port == port && p.protocol == proto);
        let ports = service.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol)).collect();
        return Some(of(case, service, false, if has { Vec::new() } else { ports }));
    }
    let on_node =
        case.facts.node().is_some_and(|n| n.owns(ip)) || case.inventory.nodes.iter().any(|(_, ips)| ips.contains(&ip));
    let by_port =
        |service: &&Service| service.ports.iter().any(|p| p.node_port == port && port != 0 && p.protocol == proto);
    services.iter().find(by_port).filter(|_| on_node).map(|service| of(case, service, true, Vec::new()))
}

fn of(case: &Case<'_>, service: &Service, by_node: bool, other_ports: Vec<String>) -> Addressed {
    let ready: Vec<_> = service.endpoints.iter().filter(|endpoint| endpoint.ready).collect();
    let here = |ip: &IpAddr| {
        let owns = |facts: &crate::model::facts::NamespaceFacts| facts.owns(*ip);
        case.facts.namespaces.values().any(owns)
    };
    Addressed {
        name: format!("{}/{}", service.namespace, service.name),
        by_node,
        ready_here: Some(
            ready.iter().filter(|e| e.node.as_deref() == Some(case.host.node.as_str()) || here(&e.ip)).count(),
        ),
        ready: Some(ready.iter().map(|endpoint| endpoint.ip).collect()),
        local_only: Some(if by_node { service.external_local } else { service.internal_local }),
        other_ports,
    }
}

/// The same from kube-proxy's own rules: they name the service in their comments and chains.
pub(super) fn by_rules(ruleset: &Ruleset, flow: &Flow, node_owns: bool) -> Option<Addressed> {
    let name = ruleset.tables.iter().find_map(|table| match table.name.as_str() {
        "kube-proxy" => in_maps(table, flow, node_owns),
        "nat" | "filter" => in_chains(table, flow, node_owns),
        _ => None,
    })?;
    Some(Addressed {
        name,
        by_node: node_owns,
        ready: None,
        ready_here: None,
        local_only: None,
        other_ports: Vec::new(),
    })
}

/// `-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web:http cluster IP" -m tcp --dport 80 ...`
fn in_chains(table: &Table, flow: &Flow, node_owns: bool) -> Option<String> {
    let chains: &[&str] = if node_owns { &["KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES"] } else { &["KUBE-SERVICES"] };
    let is_it = |rule: &&RuleLine| {
        let after = |option: &str| {
            let mut words = Words::of(&rule.text).skip_while(|word| *word != option);
            words.nth(1)
        };
        let to = after("-d").map(|net| net.split('/').next().unwrap_or(net).parse::<IpAddr>());
        after("--dport").and_then(|port| port.parse().ok()) == Some(flow.dst.port())
            && after("-p") == Some(&flow.proto.to_string())
            && to.map_or(node_owns, |ip| ip == Ok(flow.dst.ip()))
    };
    let rule = chains.iter().filter_map(|name| table.chains.get(*name)).flat_map(|c| &c.rules).find(is_it)?;
    named(rule.comment.as_deref()?)
}

/// `10.96.0.10 . tcp . 80 : goto service-2QRHZV4L-default/web/tcp/http`,
/// `10.96.0.11 . tcp . 80 comment "default/web2" : goto reject-chain`
fn in_maps(table: &Table, flow: &Flow, node_owns: bool) -> Option<String> {
    let (ip, proto, port) = (flow.dst.ip(), flow.proto, flow.dst.port());
    let keys = [format!("{ip} . {proto} . {port} "), format!("{proto} . {port} ")];
    let element = table
        .sets
        .values()
        .flatten()
        .find(|element| element.starts_with(&keys[0]) || (node_owns && element.starts_with(&keys[1])))?;
    if let Some((_, comment)) = element.split_once("comment \"") {
        return named(comment.split('"').next()?);
    }
    let chain = element.rsplit(' ').next()?;
    let (_, rest) = chain.split_once('-').and_then(|(_, rest)| rest.split_once('-'))?;
    let mut parts = rest.split('/');
    Some(format!("{}/{}", parts.next()?, parts.next()?))
}

/// `default/web:http cluster IP` is `default/web`.
pub(super) fn named(comment: &str) -> Option<String> {
    let word = comment.split([' ', ':']).next()?;
    word.contains('/').then(|| word.to_owned())
}

impl Addressed {
    /// In words: `service default/web (10.96.0.10:80)`.
    pub(super) fn words(&self, at: SocketAddr) -> String {
        let how = if self.by_node { "NodePort " } else { "" };
        format!("service {} ({how}{at})", self.name)
    }

    /// The cluster says that nothing is behind it.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.as_ref().is_some_and(Vec::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(to: &str) -> Flow {
        let parse = |text: &str| text.parse().expect("an address");
        Flow { proto: Proto::Tcp, src: parse("10.9.0.29:41000"), dst: parse(to) }
    }

    #[test]
    fn the_rules_of_kube_proxy_name_a_service() {
        let mut found = Ruleset::default();
        let text = "\
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment \"default/web:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-1
-A KUBE-NODEPORTS -p tcp -m comment --comment \"default/web:http\" -m tcp --dport 30080 -j KUBE-EXT-1
COMMIT
";
        crate::facts::parse_iptables_save(text, &mut found);
        let name = |to: &str, node_owns: bool| by_rules(&found, &flow(to), node_owns).map(|a| a.name);
        assert_eq!(name("10.96.0.10:80", false).as_deref(), Some("default/web"));
        assert_eq!(name("10.32.0.10:30080", true).as_deref(), Some("default/web"));
        assert_eq!(name("10.96.0.10:81", false), None);
    }

    #[test]
    fn the_maps_of_kube_proxy_name_a_service() {
        let mut table = crate::model::ruleset::Table {
            family: "ip".to_owned(),
            name: "kube-proxy".to_owned(),
            engine: crate::model::ruleset::Engine::Nft,
            chains: std::collections::BTreeMap::new(),
            sets: std::collections::BTreeMap::new(),
        };
        let elements = [
            "10.96.0.10 . tcp . 80 : goto service-2QRHZV4L-default/web/tcp/http",
            "10.96.0.11 . tcp . 80 comment \"shop/db:sql\" : goto reject-chain",
        ];
        table.sets.insert("service-ips".to_owned(), elements.map(str::to_owned).to_vec());
        assert_eq!(in_maps(&table, &flow("10.96.0.10:80"), false).as_deref(), Some("default/web"));
        assert_eq!(in_maps(&table, &flow("10.96.0.11:80"), false).as_deref(), Some("shop/db"));
    }
}
