//! Data flows one way: a module of netprobe may name only those above it in `lib.rs`.
//!
//! The modules that join the stages ([`JOINERS`]) may name all. `main.rs` and `lib.rs` are no module.

use std::path::{Component, Path};

use anyhow::{Context as _, Result, anyhow, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::source::{self, Source};

/// Modules that bring the stages together. No stage may name one.
const JOINERS: &[&str] = &["record", "pipeline", "cli"];

/// Checks every file of netprobe.
pub(crate) fn run(root: &Path) -> Result<()> {
    let table = source::read(root, "netprobe/src/lib.rs".into())?;
    let order = modules(&table)?;
    let mut wrong = vec![];
    for file in source::rust_files(root, "netprobe/src")? {
        wrong.extend(violations(&file, &order)?);
    }
    if !wrong.is_empty() {
        let stages: Vec<_> = order.iter().filter(|m| !JOINERS.contains(&m.as_str())).cloned().collect();
        bail!("{}\ndata flows {}", wrong.join("\n"), stages.join(" -> "));
    }
    Ok(())
}

/// The modules of the crate, in the order in which `lib.rs` lists them.
fn modules(lib: &Source) -> Result<Vec<String>> {
    let file = syn::parse_file(&lib.text).with_context(|| format!("parse {}", lib.name()))?;
    let modules = file.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) if module.content.is_none() => Some(module.ident.to_string()),
        _ => None,
    });
    Ok(modules.collect())
}

/// What `file` names and must not, one message each.
fn violations(file: &Source, order: &[String]) -> Result<Vec<String>> {
    let path = module_path(&file.path);
    let Some(home) = path.first().filter(|module| order.contains(module)) else { return Ok(vec![]) };
    if JOINERS.contains(&home.as_str()) {
        return Ok(vec![]);
    }
    let tokens: TokenStream = file.text.parse().map_err(|e| anyhow!("{}: {e}", file.name()))?;
    let mut named = vec![];
    collect(tokens, path.len(), &mut named);
    let place = |module: &str| order.iter().position(|other| other == module);
    let mut wrong: Vec<_> = named.into_iter().filter(|(module, _)| place(module) > place(home)).collect();
    wrong.dedup();
    Ok(wrong
        .into_iter()
        .map(|(module, line)| format!("{}:{line}: `{home}` must not use `{module}`", file.name()))
        .collect())
}

/// `netprobe/src/explain/rules/mod.rs` is `explain::rules`.
fn module_path(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix("netprobe/src").unwrap_or(file).with_extension("");
    let mut names: Vec<String> = inside
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    names.pop_if(|last| last == "mod");
    names
}

/// Adds each `crate::x` in `tokens`, however written, with its line: `netprobe::x`, `super::x` from `depth` modules
/// below the crate's root, and each branch of `crate::{x, y}`. Looks into macros; comments are no tokens.
fn collect(tokens: TokenStream, depth: usize, named: &mut Vec<(String, usize)>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token {
            TokenTree::Group(group) => {
                let inline = at >= 2 && is(&tokens[at - 2], "mod") && group.delimiter() == Delimiter::Brace;
                collect(group.stream(), depth + usize::from(inline), named);
            }
            TokenTree::Ident(_) if !follows_path(&tokens[..at]) => {
                if let Some(next) = crate_root(&tokens, at, depth) {
                    branches(&tokens[next..], named);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// If a path from the crate's root begins at `at`: the index of what follows the root and its `::`.
fn crate_root(tokens: &[TokenTree], at: usize, depth: usize) -> Option<usize> {
    if is(&tokens[at], "crate") || is(&tokens[at], "netprobe") {
        return is_path_separator(tokens, at + 1).then_some(at + 3);
    }
    let mut next = if is(&tokens[at], "self") && is_path_separator(tokens, at + 1) { at + 3 } else { at };
    let mut up = 0;
    while tokens.get(next).is_some_and(|token| is(token, "super")) && is_path_separator(tokens, next + 1) {
        up += 1;
        next += 3;
    }
    (up > 0 && up == depth).then_some(next)
}

/// The first names of the path or of the `{..}` that `tokens` begin with.
fn branches(tokens: &[TokenTree], named: &mut Vec<(String, usize)>) {
    match tokens.first() {
        Some(TokenTree::Ident(name)) => named.push((name.to_string(), name.span().start().line)),
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
            let inner: Vec<TokenTree> = group.stream().into_iter().collect();
            for branch in inner.split(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == ',')) {
                branches(branch, named);
            }
        }
        _ => {}
    }
}

fn is(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(name) if name == word)
}

fn is_colon(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(p)) if p.as_char() == ':')
}

fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_colon(tokens.get(at)) && is_colon(tokens.get(at + 1))
}

/// The token before is `::`, so what comes now does not begin a path.
fn follows_path(before: &[TokenTree]) -> bool {
    before.len() >= 2 && is_path_separator(before, before.len() - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str) -> Vec<String> {
        let order = ["model", "probe", "decode", "explain", "render", "record", "cli"].map(String::from);
        violations(&Source { path: path.into(), text: text.into() }, &order).expect("the text is Rust")
    }

    #[test]
    fn names_file_line_and_both_modules() {
        assert_eq!(
            check("netprobe/src/decode/mod.rs", "//! Bytes.\nuse crate::explain::Rule;\n"),
            ["netprobe/src/decode/mod.rs:2: `decode` must not use `explain`"]
        );
    }

    #[test]
    fn speaks_however_the_path_is_written() {
        for text in [
            "use crate::{model::Packet, explain::Rule};",
            "use crate::{explain::{self, Rule}};",
            "fn f() { let x = crate::explain::x(); }",
            "fn f() { println!(\"{}\", crate::explain::x()); }",
            "use super::explain;",
            "use super::{model, explain};",
            "mod tests { use super::super::explain; }",
            "use netprobe::explain;",
            "use crate::record::Frame;",
        ] {
            assert_eq!(check("netprobe/src/decode/mod.rs", text).len(), 1, "{text}");
        }
        assert_eq!(check("netprobe/src/decode/reason.rs", "use super::super::explain;").len(), 1);
    }

    #[test]
    fn stays_silent_on_what_lies_above() {
        for text in [
            "use crate::{model::Packet, probe::catalog};",
            "use crate::decode::reason;",
            "// use crate::explain::Rule;",
            "/// Read by [`crate::explain`].\nfn f() {}",
            "const S: &str = \"crate::explain\";",
            "use other::explain::x;",
            "use other::netprobe::explain;",
            "mod tests { use super::explain; }",
        ] {
            assert!(check("netprobe/src/decode/mod.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn the_model_may_name_nothing_but_itself() {
        assert!(check("netprobe/src/model/flow.rs", "use crate::model::Known;").is_empty());
        assert_eq!(check("netprobe/src/model/flow.rs", "use crate::probe::Probe;").len(), 1);
    }

    #[test]
    fn what_joins_the_stages_may_name_all_of_them() {
        assert!(check("netprobe/src/cli/trace.rs", "use crate::{model, explain, record};").is_empty());
        assert!(check("netprobe/src/main.rs", "use netprobe::cli;").is_empty());
    }

    #[test]
    fn the_order_is_the_one_of_lib_rs() {
        let lib = Source { path: "lib.rs".into(), text: "/// A.\npub mod b;\npub mod a;\nmod c {}\n".into() };
        assert_eq!(modules(&lib).expect("the text is Rust"), ["b", "a"]);
    }
}
