//! A new layout needs a new number.
//!
//! The fingerprint covers what netprobe-common declares with `wire!`, `events!` and the like, and the constants: each
//! as tokens, so that comments, formatting and functions do not count. Sizes of maps (`limits.rs`) count only where a
//! struct's array has that length. `netprobe-common/abi.txt` holds the number and the fingerprint that belongs to it.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Item, ItemConst};

use crate::{
    shell::say,
    source::{self, Source},
};

const RECORD: &str = "netprobe-common/abi.txt";

/// Number and fingerprint of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    number: u32,
    fingerprint: u32,
}

/// Compares the layout with the recorded one; with `accept`, records it.
pub(crate) fn run(root: &Path, accept: bool) -> Result<()> {
    let now = layout(&source::rust_files(root, "netprobe-common/src")?)?;
    let recorded = fs::read_to_string(root.join(RECORD)).ok().map(|text| parse(&text)).transpose()?;
    if recorded == Some(now) {
        return Ok(());
    }
    if let Some(Layout { number, .. }) = recorded.filter(|old| old.number >= now.number) {
        bail!("the layout of netprobe-common changed since ABI {number}; raise ABI in netprobe-common/src/lib.rs");
    }
    if !accept {
        bail!("{RECORD} does not know ABI {} yet; run `cargo xtask abi --accept`", now.number);
    }
    let Layout { number, fingerprint } = now;
    fs::write(root.join(RECORD), format!("{number} {fingerprint:08x}\n")).with_context(|| format!("write {RECORD}"))?;
    say("abi", &format!("recorded layout {fingerprint:08x} as ABI {number}"));
    Ok(())
}

fn parse(text: &str) -> Result<Layout> {
    let (number, fingerprint) = text.trim().split_once(' ').with_context(|| format!("{RECORD}: {text:?}"))?;
    Ok(Layout { number: number.parse()?, fingerprint: u32::from_str_radix(fingerprint, 16)? })
}

fn layout(files: &[Source]) -> Result<Layout> {
    let mut declared = vec![];
    let mut constants = vec![];
    for file in files {
        let parsed = syn::parse_file(&file.text).with_context(|| format!("parse {}", file.name()))?;
        let sizes_only = file.path.ends_with("limits.rs");
        collect(parsed.items, sizes_only, &mut declared, &mut constants);
    }
    let mut words = vec![];
    for tokens in declared {
        flatten(tokens, &mut words);
    }
    let named: BTreeSet<String> = words.iter().cloned().collect();
    let mut number = None;
    for (constant, sizes_only) in constants {
        let name = constant.ident.to_string();
        if name == "ABI" {
            number = constant.expr.to_token_stream().to_string().parse().ok();
        } else if !sizes_only || named.contains(&name) {
            words.push(name);
            flatten(constant.expr.to_token_stream(), &mut words);
        }
    }
    let fingerprint = crc32fast::hash(words.join(" ").as_bytes());
    Ok(Layout { number: number.context("netprobe-common has no constant ABI")?, fingerprint })
}

/// Sorts `items` into what is declared by macros and what is constant, also inside inline modules, but not in tests.
fn collect(
    items: Vec<Item>,
    sizes_only: bool,
    declared: &mut Vec<TokenStream>,
    constants: &mut Vec<(ItemConst, bool)>,
) {
    for item in items {
        match item {
            Item::Macro(call) if call.ident.is_none() => {
                declared.push(call.mac.path.to_token_stream());
                declared.push(call.mac.tokens);
            }
            Item::Const(constant) if constant.ident != "_" => constants.push((constant, sizes_only)),
            Item::Mod(module) if module.ident != "tests" => {
                let inner = module.content.map(|(_, items)| items).unwrap_or_default();
                collect(inner, sizes_only, declared, constants);
            }
            _ => {}
        }
    }
}

/// Adds the words and signs of `tokens`, without `#[doc = ".."]`, which is what comments on items are.
fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(sign) if sign.as_char() == '#' && tokens.peek().is_some_and(is_doc) => drop(tokens.next()),
            TokenTree::Group(group) => {
                words.push(format!("{:?}", group.delimiter()));
                flatten(group.stream(), words);
                words.push("end".into());
            }
            other => words.push(other.to_string()),
        }
    }
}

fn is_doc(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else { return false };
    let first = group.stream().into_iter().next();
    group.delimiter() == Delimiter::Bracket && matches!(first, Some(TokenTree::Ident(name)) if name == "doc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(structs: &str, limits: &str) -> Layout {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        layout(&[source("lib.rs", &format!("pub const ABI: u32 = 3; {structs}")), source("limits.rs", limits)])
            .expect("the text is Rust")
    }

    const DROP: &str = "crate::wire! { /// A drop.\n pub struct Drop { pub at: u64, pub stack: [u64; DEPTH] } }";
    const LIMITS: &str = "pub const DEPTH: usize = 20; pub const ROWS: u32 = 8;";

    #[test]
    fn reads_the_number() {
        assert_eq!(of(DROP, LIMITS).number, 3);
    }

    #[test]
    fn a_comment_a_function_or_the_size_of_a_map_changes_nothing() {
        let before = of(DROP, LIMITS);
        assert_eq!(before, of(&DROP.replace("A drop", "Dropped"), LIMITS));
        assert_eq!(before, of(&format!("// More.\n{DROP} pub fn f() -> u32 {{ 1 }}"), LIMITS));
        assert_eq!(before, of(DROP, &LIMITS.replace('8', "16")));
    }

    #[test]
    fn a_field_an_array_length_or_the_meaning_of_a_number_changes_it() {
        let before = of(DROP, LIMITS);
        assert_ne!(before, of(&DROP.replace("at: u64", "at: i64"), LIMITS));
        assert_ne!(before, of(&DROP.replace("at", "to"), LIMITS));
        assert_ne!(before, of(DROP, &LIMITS.replace("20", "24")));
        let place = |n: u32| of(&format!("{DROP} pub mod m {{ pub const PLACE: u32 = {n}; }}"), LIMITS);
        assert_ne!(place(1), place(2));
    }

    #[test]
    fn the_record_reads_as_it_was_written() {
        assert_eq!(parse("7 00c0ffee\n").expect("well formed"), Layout { number: 7, fingerprint: 0x00c0_ffee });
        assert!(parse("7").is_err());
    }
}
