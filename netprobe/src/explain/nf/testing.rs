//! Tables and a packet to test on: `shop/web-0` opens a connection to 10.20.0.4:3306, from vpod1 to eth1.

use std::collections::BTreeMap;

use super::Seen;
use crate::{
    explain::rules::testing::{flow, new_entry},
    model::{
        packet::{Conntrack, TcpFlags},
        ruleset::{Chain, Engine, Ruleset, Table},
    },
};

pub(super) fn seen() -> Seen<'static> {
    let ct: &'static Conntrack = Box::leak(Box::new(new_entry(flow())));
    Seen {
        flow: flow(),
        hook: "forward",
        iif: Some("vpod1"),
        oif: Some("eth1"),
        mark: Some(0),
        flags: TcpFlags(2),
        icmp: None,
        ct: Some(ct),
        facts: None,
    }
}

pub(super) fn table(chains: &[&str]) -> Table {
    Table {
        family: "ip".to_owned(),
        name: "filter".to_owned(),
        engine: Engine::Nft,
        chains: chains.iter().map(|name| ((*name).to_owned(), Chain::default())).collect(),
        sets: BTreeMap::new(),
    }
}

/// What `iptables-save` would have printed.
pub(super) fn ruleset(text: &str) -> Ruleset {
    let mut found = Ruleset::default();
    crate::facts::parse_iptables_save(text, &mut found);
    found
}
