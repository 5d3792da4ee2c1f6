//! Kubernetes Events of pods: what `kubectl describe pod` shows.
//!
//! An [`Events`] is a thread of its own with a connection of its own. Who hands it a [`Notice`] waits for nobody: what finds
//! no room is counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

mod ledger;
mod object;

use ledger::{Due, Ledger};

use super::{
    KubeError, Options,
    api::{Api, escaped},
    config,
    error::Trouble,
    wait::Wait,
};
use crate::probe::host;

/// Notices that may wait for the thread.
const QUEUE: usize = 256;
/// How often it is looked whether something is due, while there is something to tell.
const TICK: Duration = Duration::from_millis(500);
/// When to ask again for what is forbidden: somebody may grant it.
const FORBIDDEN: Duration = Duration::from_secs(120);

/// News of a finding about a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// The finding's id.
    pub id: String,
    /// The rule's id.
    pub rule: &'static str,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
    /// The finding's sentence.
    pub claim: String,
    /// How often it was seen.
    pub count: u64,
    /// When first, RFC 3339 with microseconds.
    pub first: String,
    /// When last, likewise.
    pub last: String,
}

/// What became of notices.
#[derive(Debug, Default)]
pub struct Counts {
    created: AtomicU64,
    updated: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    /// Each result by its name.
    #[must_use]
    pub fn read(&self) -> [(&'static str, u64); 4] {
        let Self { created, updated, failed, dropped } = self;
        [("created", created), ("updated", updated), ("failed", failed), ("dropped", dropped)]
            .map(|(result, count)| (result, count.load(Relaxed)))
    }
}

/// How Events are written.
pub struct Setup {
    /// Who writes, as users know it.
    pub node: String,
    /// How often an Event is changed at most.
    pub every: Duration,
    /// Also where the API is known by a kubeconfig alone.
    pub is_asked: bool,
    /// Takes what is to be said to people, once.
    pub say: fn(&str),
}

/// A running writer of Events. It ends when it is dropped.
pub struct Events {
    notices: mpsc::Sender<Notice>,
    counts: Arc<Counts>,
    /// Its end stops the thread.
    _stop: oneshot::Sender<()>,
}

impl Events {
    /// Finds the API and begins to write; none where there is none, or where it is a user's own and this was not asked for.
    /// Does not wait for the API.
    ///
    /// # Errors
    ///
    /// The configuration is broken, or there is no thread left.
    pub fn start(options: &Options, setup: Setup, counts: &Arc<Counts>) -> Result<Option<Self>, KubeError> {
        let Some(found) = config::find(options)?.filter(|found| found.is_pods_own || setup.is_asked) else {
            return Ok(None);
        };
        let place = found.place.to_string();
        let (notices, queue) = mpsc::channel(QUEUE);
        let (stop, stopped) = oneshot::channel();
        let of_thread = Arc::clone(counts);
        let work = move || {
            // Without a runtime the queue closes, and notices are counted as dropped.
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                // The source of names says why there is none.
                let Ok(api) = Api::new(found) else { return };
                let every_ns = u64::try_from(setup.every.as_nanos()).unwrap_or(u64::MAX);
                let ledger = Ledger::new(every_ns);
                let writer = Writer { api, setup, counts: of_thread, ledger, wait: Wait::default(), has_said: false };
                tokio::select! {
                    () = writer.run(queue) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        };
        let spawned = thread::Builder::new().name("events".to_owned()).spawn(work);
        spawned.map_err(|error| KubeError::Config { place, reason: error.to_string() })?;
        Ok(Some(Self { notices, counts: Arc::clone(counts), _stop: stop }))
    }

    /// Hands a notice over. Never waits.
    pub fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }
}

struct Writer {
    api: Api,
    setup: Setup,
    counts: Arc<Counts>,
    ledger: Ledger,
    wait: Wait,
    has_said: bool,
}

impl Writer {
    async fn run(mut self, mut queue: mpsc::Receiver<Notice>) {
        loop {
            let next =
                if self.ledger.is_pending() { timeout(TICK, queue.recv()).await } else { Ok(queue.recv().await) };
            match next {
                Ok(Some(notice)) => self.take(notice),
                Ok(None) => return,
                Err(_) => {}
            }
            while let Ok(notice) = queue.try_recv() {
                self.take(notice);
            }
            while let Some(due) = self.ledger.due(host::mono_ns()) {
                if let Err(trouble) = self.write(&due).await {
                    self.counts.failed.fetch_add(1, Relaxed);
                    let pause = self.failed(&due, &trouble);
                    sleep(pause).await;
                }
            }
        }
    }

    fn take(&mut self, notice: Notice) {
        if !self.ledger.take(notice) {
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    async fn write(&mut self, due: &Due) -> Result<(), Trouble> {
        let notice = &due.notice;
        let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", escaped(&notice.namespace));
        let (name, count) = match &due.name {
            None => {
                let name = object::name(notice, host::mono_ns());
                self.api.create(&path, &object::created(notice, &self.setup.node, &name)).await?;
                (name, &self.counts.created)
            }
            Some(name) => {
                self.api.patch(&format!("{path}/{}", escaped(name)), &object::changed(notice)).await?;
                (name.clone(), &self.counts.updated)
            }
        };
        count.fetch_add(1, Relaxed);
        self.ledger.told(due, name, host::mono_ns());
        self.wait.reset();
        Ok(())
    }

    /// What becomes of an Event that could not be written. Returns how long to leave the API alone.
    fn failed(&mut self, due: &Due, trouble: &Trouble) -> Duration {
        log::debug!("event of {} {}: {trouble:?}", due.notice.rule, due.notice.id);
        match trouble {
            Trouble::Status { code: 404, .. } if due.name.is_some() => self.ledger.gone(due),
            // 403 as well, but no right would help: the namespace is going.
            Trouble::Status { code: 403, message, .. } if message.contains("is being terminated") => {
                self.ledger.give_up(due);
            }
            Trouble::Status { code: 403, .. } => {
                let verb = if due.name.is_some() { "patch" } else { "create" };
                if !self.has_said {
                    self.has_said = true;
                    let error = trouble.explain(&self.api.place, verb, "events");
                    (self.setup.say)(&format!("{error}; until then findings are no Events (--no-events: nor tried)"));
                }
                return FORBIDDEN;
            }
            Trouble::Status { code: 401 | 408 | 429, .. } => {}
            // It would be refused again and again.
            Trouble::Status { code: 400..500, .. } => self.ledger.give_up(due),
            _ => {}
        }
        self.wait.next(trouble.retry_after())
    }
}
