//! Real records, and how to spoil them.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use bytes::Bytes;
use netprobe::{
    decode::Decoder,
    explain::Expectations,
    model::{
        facts::{HostFacts, NamespaceFacts, NodeFacts},
        inventory::Inventory,
        symbols::Symbols,
    },
    pipeline::Pipeline,
    record::{Frame, Reader},
    render::{Clock, Format, Render, Setup},
};
use netprobe_common::event::Header;
use proptest::prelude::*;

/// Bytes of a record before its payload.
pub(crate) const HEAD: usize = size_of::<Header>();

/// What the recordings of the stories hold.
#[derive(Default)]
pub(crate) struct Material {
    pub(crate) host: HostFacts,
    pub(crate) node: NodeFacts,
    pub(crate) inventory: Inventory,
    pub(crate) symbols: Vec<(u64, String)>,
    pub(crate) records: Vec<Bytes>,
    pub(crate) facts: Vec<Bytes>,
    pub(crate) drops: Vec<serde_json::Value>,
}

/// The first one tells what the node is like; the others are moved there.
const STORIES: [&str; 8] = [
    "wrong-nic",
    "wrong-nic-ipv6",
    "healthy",
    "netfilter-reject",
    "port-closed",
    "no-route",
    "neighbour",
    "forwarding-off",
];

/// Of all stories.
pub(crate) static REAL: LazyLock<Material> = LazyLock::new(|| {
    let mut all = Material::default();
    for story in STORIES {
        let reader = Reader::open(&recording(story)).expect("a recording");
        let mut numbers = BTreeMap::new();
        for frame in reader {
            match frame.expect("a whole recording") {
                Frame::HostFacts(host) => all.host = *host,
                Frame::NodeFacts(node) => {
                    if all.node.namespaces.is_empty() {
                        all.node = *node;
                    } else {
                        numbers = same_namespaces(&node, &all.node);
                    }
                }
                Frame::Inventory(inventory) => all.inventory = *inventory,
                Frame::Symbol(symbol) => all.symbols.push((symbol.address, symbol.name)),
                Frame::Record(record) => all.records.push(renumbered(&record, &numbers)),
                Frame::FactsEvent(event) => all.facts.push(event),
                Frame::Counts(counts) => all.drops.push(counts),
                _ => {}
            }
        }
    }
    all
});

/// Which namespace of one node is which of the other: those with the same addresses.
fn same_namespaces(old: &NodeFacts, new: &NodeFacts) -> BTreeMap<[u8; 4], [u8; 4]> {
    let addresses = |facts: &NodeFacts| -> BTreeMap<String, u32> {
        let global = |ns: &NamespaceFacts| -> Vec<String> {
            ns.addresses
                .iter()
                .map(|a| a.net.to_string())
                .filter(|a| a.starts_with("172") || a.contains("/32"))
                .collect()
        };
        facts.namespaces.values().map(|ns| (global(ns).join(" "), ns.inum)).collect()
    };
    let new = addresses(new);
    let pairs = addresses(old).into_iter().filter_map(|(key, inum)| Some((inum, *new.get(&key)?)));
    pairs.map(|(old, new)| (old.to_ne_bytes(), new.to_ne_bytes())).collect()
}

fn renumbered(record: &[u8], numbers: &BTreeMap<[u8; 4], [u8; 4]>) -> Bytes {
    let words = record.chunks(4).flat_map(|word| word.first_chunk().and_then(|w| numbers.get(w)).map_or(word, |w| w));
    words.copied().collect()
}

/// A story's recording.
pub(crate) fn recording(story: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "fixtures", story, "run.npr"].iter().collect()
}

/// A decoder that knows the recordings' kernel.
pub(crate) fn decoder() -> Decoder {
    let mut symbols = Symbols::default();
    for (address, name) in &REAL.symbols {
        symbols.learn(*address, name);
    }
    Decoder::new(REAL.host.clone(), symbols)
}

/// A pipeline on the recordings' node.
pub(crate) fn pipeline(now_ns: u64) -> Pipeline {
    Pipeline::new(decoder(), REAL.node.clone(), REAL.inventory.clone(), Expectations::default(), now_ns)
}

/// What was written.
#[derive(Clone, Default)]
pub(crate) struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    pub(crate) fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("output is text")
    }

    pub(crate) fn renderer(&self, format: Format) -> Box<dyn Render> {
        let setup = Setup { clock: Clock::new(&REAL.host), columns: 80, lines: None, colour: false };
        format.renderer(Box::new(self.clone()), setup)
    }
}

impl io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A real record.
pub(crate) fn real() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(&*REAL.records).prop_map(|record| record.to_vec())
}

/// A real record in which some words are those of other records, and some bits are flipped.
pub(crate) fn spoiled() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec((any::<prop::sample::Index>(), real()), 0..6);
    let bits = prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..4);
    (real(), words, bits).prop_map(|(mut record, words, bits)| {
        for (at, from) in words {
            // Aligned words of records of the same kind are the same field.
            let at = at.index(record.len() / 4) * 4;
            if let Some(word) = from.get(at..at + 4) {
                record[at..at + 4].copy_from_slice(word);
            }
        }
        for (at, bit) in bits {
            let at = at.index(record.len());
            record[at] ^= 1 << bit;
        }
        record
    })
}

/// `record`, but as seen at that time.
pub(crate) fn at_time(mut record: Vec<u8>, mono_ns: u64) -> Vec<u8> {
    record[8..16].copy_from_slice(&mono_ns.to_ne_bytes());
    record
}
