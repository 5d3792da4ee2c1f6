//! The Kubernetes API as the source of the inventory; the only place that knows the `kube` crate.
//!
//! A [`Source`] is a thread of its own: it lists and watches this node's pods first, then, for the names of peers, the
//! cluster's pods, services, endpoint slices and nodes. What changes comes out as [`Message`]s, which nobody must wait
//! for: packets go on whatever the API does.

use std::{
    fmt,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use crate::model::inventory::Change;

pub mod agents;
mod api;
mod config;
mod error;
pub mod events;
mod exec;
mod follow;
mod node;
mod survey;
mod table;
mod wait;

pub use error::KubeError;
pub use exec::Session;
pub use survey::{Line, survey};

/// Messages that may wait: with pages of 500 objects that is the largest cluster's index twice.
const MESSAGES: usize = 512;

/// How the API is found.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// This file, whatever else there is.
    pub kubeconfig: Option<PathBuf>,
    /// This context of the file.
    pub context: Option<String>,
    /// Kubernetes' name of this node; looked up by the host name without it.
    pub node_name: Option<String>,
}

/// What is read of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Pods of this node.
    Near,
    /// Pods of other nodes.
    Far,
    /// Services.
    Services,
    /// Endpoint slices.
    Slices,
    /// Nodes.
    Nodes,
}

impl Part {
    /// Every part, in the order in which they are read.
    pub const ALL: [Self; 5] = [Self::Near, Self::Far, Self::Services, Self::Slices, Self::Nodes];

    /// As RBAC calls it.
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Near | Self::Far => "pods",
            Self::Services => "services",
            Self::Slices => "endpointslices",
            Self::Nodes => "nodes",
        }
    }

    /// Its API group; empty is the core.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Slices => "discovery.k8s.io",
            _ => "",
        }
    }
}

/// What a source says.
#[derive(Debug)]
pub enum Message {
    /// Kubernetes' name of this node.
    Node(String),
    /// The cluster changed.
    Changes(Part, Vec<Change>),
    /// That part is known as it is now.
    Listed(Part),
    /// That part cannot be had now; it is tried again.
    Failed(Part, KubeError),
    /// Names have been going stale since then, `CLOCK_MONOTONIC` nanoseconds; none: they are current again.
    Stale(Option<u64>, String),
}

/// A running source of the inventory. It ends when it is dropped.
pub struct Source {
    messages: Receiver<Message>,
    place: config::Place,
    /// Its end stops the thread.
    _stop: tokio::sync::oneshot::Sender<()>,
}

impl Source {
    /// Finds the API and begins to read; none where this machine has no configuration for it. Does not wait for the API.
    ///
    /// # Errors
    ///
    /// The configuration is broken.
    pub fn start(options: &Options) -> Result<Option<Self>, KubeError> {
        let Some(found) = config::find(options)? else { return Ok(None) };
        let place = found.place.clone();
        let (sender, messages) = sync_channel(MESSAGES);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let node_name = options.node_name.clone();
        let work = move || {
            // Without a runtime the channel closes, which says the same.
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let out = Out(sender);
                tokio::select! {
                    () = follow::run(found, node_name, &out) => {}
                    _ = stopped => {}
                }
            });
            // A credential plugin may still run.
            runtime.shutdown_background();
        };
        let spawned = thread::Builder::new().name("kube".to_owned()).spawn(work);
        spawned.map_err(|error| KubeError::Config { place: place.to_string(), reason: error.to_string() })?;
        Ok(Some(Self { messages, place, _stop: stop }))
    }

    /// Which API, by which configuration: for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.to_string()
    }

    /// The next message, waited for at most that long.
    ///
    /// # Errors
    ///
    /// [`Quiet`], where there is none.
    pub fn wait(&self, limit: Duration) -> Result<Message, Quiet> {
        self.messages.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => Quiet::Now,
            RecvTimeoutError::Disconnected => Quiet::ForEver,
        })
    }

    /// The next message, if it is there.
    ///
    /// # Errors
    ///
    /// [`Quiet`], where there is none.
    pub fn poll(&self) -> Result<Message, Quiet> {
        self.messages.try_recv().map_err(|error| match error {
            TryRecvError::Empty => Quiet::Now,
            TryRecvError::Disconnected => Quiet::ForEver,
        })
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({})", self.place)
    }
}

/// Why there is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// There is none yet.
    Now,
    /// The source has ended.
    ForEver,
}

/// How long a full channel is left alone.
const FULL: Duration = Duration::from_millis(20);

/// Where messages go.
struct Out(SyncSender<Message>);

impl Out {
    /// Hands a message over; waits, without holding up the other watches, while there is no room.
    async fn send(&self, mut message: Message) {
        while let Err(TrySendError::Full(back)) = self.0.try_send(message) {
            message = back;
            tokio::time::sleep(FULL).await;
        }
    }
}
