//! Lists and watches, and what becomes of them when the API is slow, wrong or away.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use serde::{Deserialize, de::IgnoredAny};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Message, Out, Part,
    api::{Api, Lines, PageMeta, Status},
    config::Found,
    error::Trouble,
    node,
    table::Table,
    wait::{Wait, fraction},
};
use crate::{enrich::inventory::object::Object, probe::host};

/// A watch that ends sooner was cut, nanoseconds.
const BRIEF_NS: u64 = 5_000_000_000;
/// How long a watch may be silent: the API sends a bookmark each minute.
const SILENT: Duration = Duration::from_secs(100);
/// How long the API is asked to keep a watch open, seconds; each asks for up to as much again.
const WATCH_S: u64 = 240;
/// When to ask again for what is forbidden: somebody may grant it.
const FORBIDDEN: Duration = Duration::from_secs(120);
/// Objects of one kind that are taken; Kubernetes itself knows 150,000 pods in a cluster.
const OBJECTS_MAX: usize = 300_000;

/// Reads the cluster until the future is dropped.
pub(super) async fn run(found: Found, asked: Option<String>, out: &Out) {
    let api = match Api::new(found) {
        Ok(api) => api,
        Err(error) => return out.send(Message::Failed(Part::Near, error)).await,
    };
    let node = node::name(&api, asked).await;
    out.send(Message::Node(node.clone())).await;
    let (open, gate) = watch::channel(false);
    let follow = Follow {
        api,
        node,
        out,
        open,
        table: RefCell::default(),
        contacts: RefCell::default(),
        stale: RefCell::default(),
    };
    let after = |part| {
        let (mut gate, follow) = (gate.clone(), &follow);
        async move {
            // This node's pods first: they are what a run waits for. A closed gate is never seen: it closes with us.
            let _ = gate.wait_for(|open| *open).await;
            follow.part(part).await;
        }
    };
    tokio::join!(
        follow.part(Part::Near),
        after(Part::Far),
        after(Part::Services),
        after(Part::Slices),
        after(Part::Nodes)
    );
}

struct Follow<'a> {
    api: Api,
    node: String,
    out: &'a Out,
    /// Says when the other parts may begin.
    open: watch::Sender<bool>,
    table: RefCell<Table>,
    /// When a part was heard of last, `CLOCK_MONOTONIC` nanoseconds; absent: never.
    contacts: RefCell<BTreeMap<Part, u64>>,
    /// Parts that are known and no longer told of.
    stale: RefCell<BTreeSet<Part>>,
}

/// The beginning of a line of a watch.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "object")]
    _object: IgnoredAny,
}

#[derive(Deserialize)]
struct Of<T> {
    object: T,
}

/// A bookmark's object.
#[derive(Deserialize)]
struct Marked {
    metadata: PageMeta,
}

impl Follow<'_> {
    /// Follows one part for ever.
    async fn part(&self, part: Part) {
        let (mut wait, mut version) = (Wait::default(), None);
        loop {
            let begun_ns = host::mono_ns();
            let was_watch = version.is_some();
            let result = match version.as_mut() {
                None => self.list(part).await.map(|new| version = Some(new)),
                Some(version) => self.watch(part, version).await,
            };
            let pause = match result {
                Ok(()) if !was_watch || host::mono_ns().saturating_sub(begun_ns) >= BRIEF_NS => {
                    wait.reset();
                    continue;
                }
                // Cut, or ended at once: no harm is done yet, but it must not become a storm.
                Ok(()) => wait.next(None),
                Err(trouble) => {
                    if needs_list(&trouble) {
                        version = None;
                    }
                    self.failed(part, &trouble, was_watch, wait.failures()).await;
                    let refused = (trouble.is_refusal() && part != Part::Near).then_some(FORBIDDEN);
                    wait.next(trouble.retry_after().max(refused))
                }
            };
            self.open.send_replace(true);
            sleep(pause).await;
        }
    }

    /// Reads all of a part. Gives the version that it is of.
    async fn list(&self, part: Part) -> Result<String, Trouble> {
        let (mut token, mut seen) = (String::new(), HashSet::new());
        loop {
            let page = self.api.page(part, &self.node, &token).await?;
            if seen.len() + page.items.len() > OBJECTS_MAX {
                return Err(Trouble::Odd(format!("more than {OBJECTS_MAX} objects")));
            }
            for object in page.items {
                match self.table.borrow_mut().put(part, object) {
                    Ok(uid) => drop(seen.insert(uid)),
                    Err(reason) => log::debug!("{}: {reason}", part.resource()),
                }
            }
            token = page.metadata.token;
            if !token.is_empty() {
                self.tell(part).await;
                continue;
            }
            self.table.borrow_mut().listed(part, &seen);
            self.tell(part).await;
            self.out.send(Message::Listed(part)).await;
            self.open.send_replace(true);
            self.well(part).await;
            return Ok(page.metadata.resource_version);
        }
    }

    /// Watches a part until the watch ends; `version` goes on with it.
    async fn watch(&self, part: Part, version: &mut String) -> Result<(), Trouble> {
        let seconds = WATCH_S + (WATCH_S as f64 * fraction()) as u64;
        let mut lines = self.api.watch(part, &self.node, version, seconds).await?;
        self.well(part).await;
        while let Some(line) = next(&mut lines).await? {
            self.contacts.borrow_mut().insert(part, host::mono_ns());
            self.line(part, &line, version)?;
            self.tell(part).await;
        }
        Ok(())
    }

    /// Takes one line of a watch in.
    fn line(&self, part: Part, line: &[u8], version: &mut String) -> Result<(), Trouble> {
        let odd = |error: serde_json::Error| Trouble::Odd(format!("no JSON as expected: {error}"));
        let Kind { kind, .. } = serde_json::from_slice(line).map_err(odd)?;
        match kind.as_str() {
            "ADDED" | "MODIFIED" | "DELETED" => {
                let Of { object } = serde_json::from_slice::<Of<Object>>(line).map_err(odd)?;
                let new = object.metadata.resource_version.clone();
                let mut table = self.table.borrow_mut();
                let taken = match kind.as_str() {
                    "DELETED" => table.gone(part, &object),
                    _ => table.put(part, object).map(drop),
                };
                if let Err(reason) = taken {
                    log::debug!("{}: {reason}", part.resource());
                }
                set(version, new);
            }
            "BOOKMARK" => {
                set(version, serde_json::from_slice::<Of<Marked>>(line).map_err(odd)?.object.metadata.resource_version)
            }
            "ERROR" => {
                let Of { object: Status { code, message } } = serde_json::from_slice(line).map_err(odd)?;
                return Err(Trouble::Status { code, message, retry_after: None });
            }
            other => return Err(Trouble::Odd(format!("an event of type {}", other.escape_debug()))),
        }
        Ok(())
    }

    /// Sends what changed.
    async fn tell(&self, part: Part) {
        let changes = self.table.borrow_mut().take_changes();
        if !changes.is_empty() {
            self.out.send(Message::Changes(part, changes)).await;
        }
    }

    /// The API answered: the part is told of again.
    async fn well(&self, part: Part) {
        self.contacts.borrow_mut().insert(part, host::mono_ns());
        let is_well = {
            let mut stale = self.stale.borrow_mut();
            stale.remove(&part) && stale.is_empty()
        };
        if is_well {
            self.out.send(Message::Stale(None, self.api.place.clone())).await;
        }
    }

    /// Something failed, for the so many-th time in a row.
    async fn failed(&self, part: Part, trouble: &Trouble, was_watch: bool, failures: u32) {
        log::debug!("{} {part:?}: {trouble:?}", if was_watch { "watch" } else { "list" });
        let error = trouble.explain(&self.api.place, if was_watch { "watch" } else { "list" }, part.resource());
        let contact = self.contacts.borrow().get(&part).copied();
        match contact {
            // It answers, and is listed anew at once.
            Some(_) if trouble.is_gone() => {}
            None if failures == 0 => self.out.send(Message::Failed(part, error)).await,
            // Once or twice is nothing: watches are cut, versions are forgotten, servers are restarted.
            Some(since_ns) if failures > 1 => {
                let is_news = {
                    let mut stale = self.stale.borrow_mut();
                    let was_well = stale.is_empty();
                    stale.insert(part) && was_well
                };
                if is_news {
                    self.out.send(Message::Stale(Some(since_ns), error.to_string())).await;
                }
            }
            _ => {}
        }
    }
}

async fn next(lines: &mut Lines) -> Result<Option<bytes::Bytes>, Trouble> {
    match timeout(SILENT, lines.next()).await {
        Ok(line) => line,
        // Asked again: whether it is there shows then.
        Err(_) => Ok(None),
    }
}

/// A version is only ever replaced by another.
fn set(version: &mut String, new: String) {
    if !new.is_empty() {
        *version = new;
    }
}

/// The version that was known is of no use any more.
fn needs_list(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Odd(_) => true,
        Trouble::Status { code: 401 | 403 | 429, .. }
        | Trouble::Away(_)
        | Trouble::Untrusted(_)
        | Trouble::Credentials(_) => false,
        Trouble::Status { code, .. } => *code < 500 || trouble.is_gone(),
    }
}
