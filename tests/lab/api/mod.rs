//! A small API server: it lists and watches what a test puts into it, and fails as it is told to.
//!
//! It speaks as much of HTTP/1.1 and of Kubernetes as netprobe and `kubectl get` need: field selectors on the node's
//! name, pages, versions, bookmarks, 410 for versions that were forgotten.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

mod answer;
mod events;
mod exec;
pub(crate) mod http;
pub mod tls;

pub use exec::Command;
use exec::Containers;

/// The token that the API takes.
pub const TOKEN: &str = "let-me-in";

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is refused: code, `Retry-After` in seconds.
    Code(u16, Option<u64>),
    /// What comes is no JSON.
    Garbage,
    /// It takes so long.
    Slow(Duration),
    /// A watch ends as soon as it has begun.
    Cut,
}

/// An event of a watch.
#[derive(Clone, Debug)]
struct Event {
    version: u64,
    kind: &'static str,
    object: Value,
    /// The object as it was before, for selectors.
    before: Option<Value>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// Events of versions up to this one are forgotten.
    forgotten: u64,
    /// By resource, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    events: BTreeMap<String, Vec<Event>>,
    /// What goes wrong with requests whose line has these words, and how often yet.
    faults: Vec<(String, Fault, usize)>,
    /// Lines of all requests.
    requests: Vec<String>,
    /// Raised to end all watches.
    cuts: u64,
    /// Resources of which `list` and `watch` are refused.
    forbidden: Vec<String>,
    open: Vec<TcpStream>,
    containers: Containers,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
    is_away: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running API server; it ends with the test.
pub struct Api {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Api {
    /// Serves at `listener`.
    ///
    /// # Panics
    ///
    /// The listener has no address.
    #[must_use]
    pub fn serve(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("it listens");
        let shared = Arc::new(Shared::default());
        shared.state().version = 100;
        let api = Self { shared, address };
        api.listen(listener);
        api
    }

    fn listen(&self, listener: TcpListener) {
        let of_thread = Arc::clone(&self.shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if of_thread.is_away.load(Ordering::SeqCst) {
                    continue;
                }
                if let Ok(copy) = stream.try_clone() {
                    of_thread.state().open.push(copy);
                }
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || answer::converse(&shared, stream));
            }
        });
    }

    /// Serves at this address too, as from another network; writes a kubeconfig for who is there.
    ///
    /// # Panics
    ///
    /// The listener has no address, or the file cannot be written.
    #[must_use]
    pub fn also_at(&self, listener: TcpListener, directory: &Path) -> PathBuf {
        let address = listener.local_addr().expect("it listens");
        self.listen(listener);
        let cluster = json!({"server": format!("http://{address}")});
        write_config(directory, &format!("kubeconfig-{}", address.port()), &cluster, &json!({"token": TOKEN}))
    }

    /// Where it listens, without TLS.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes a kubeconfig with the context `lab`.
    ///
    /// # Panics
    ///
    /// The file cannot be written.
    #[must_use]
    pub fn kubeconfig(&self, directory: &Path) -> PathBuf {
        self.kubeconfig_with(directory, TOKEN)
    }

    /// The same with another token.
    ///
    /// # Panics
    ///
    /// The file cannot be written.
    #[must_use]
    pub fn kubeconfig_with(&self, directory: &Path, token: &str) -> PathBuf {
        let cluster = json!({"server": format!("http://{}", self.address)});
        write_config(directory, &format!("kubeconfig-{token}"), &cluster, &json!({"token": token}))
    }

    /// Puts an object of `resource` (`pods`) there, or another in its place. It gets a version, and a UID if it has none.
    ///
    /// # Panics
    ///
    /// It has no name.
    pub fn put(&self, resource: &str, mut object: Value) {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        let name = object["metadata"]["name"].as_str().expect("an object has a name").to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("00000000-0000-4000-8000-{version:012}").into();
        }
        let before = state.objects.insert((resource.to_owned(), namespace, name), object.clone());
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        state.events.entry(resource.to_owned()).or_default().push(Event { version, kind, object, before });
        self.shared.news.notify_all();
    }

    /// Takes an object away.
    ///
    /// # Panics
    ///
    /// It is not there.
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) {
        let mut state = self.shared.state();
        state.version += 1;
        let version = state.version;
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = state.objects.remove(&key).expect("it is there");
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let before = Some(object.clone());
        state.events.entry(resource.to_owned()).or_default().push(Event { version, kind: "DELETED", object, before });
        self.shared.news.notify_all();
    }

    /// All objects of `resource`, as they are now.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.shared.state();
        state.objects.iter().filter(|((of, ..), _)| of == resource).map(|(_, object)| object.clone()).collect()
    }

    /// The next `times` requests with `words` in their line go wrong.
    pub fn fault(&self, words: &str, fault: Fault, times: usize) {
        self.shared.state().faults.push((words.to_owned(), fault, times));
    }

    /// Nobody may list or watch this resource.
    pub fn forbid(&self, resource: &str) {
        self.shared.state().forbidden.push(resource.to_owned());
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.shared.state().cuts += 1;
        self.shared.news.notify_all();
    }

    /// Forgets all events: who asks from an older version is told 410.
    pub fn forget(&self) {
        let mut state = self.shared.state();
        state.version += 1;
        state.forgotten = state.version;
        state.events.clear();
    }

    /// Breaks all connections, and new ones too, until [`come_back`](Self::come_back).
    pub fn go_away(&self) {
        self.shared.is_away.store(true, Ordering::SeqCst);
        for stream in self.shared.state().open.drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        self.cut();
    }

    /// Answers again.
    pub fn come_back(&self) {
        self.shared.is_away.store(false, Ordering::SeqCst);
    }

    /// How many requests had all of these words in their line.
    #[must_use]
    pub fn requests(&self, words: &[&str]) -> usize {
        self.shared.state().requests.iter().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }
}

/// Writes a kubeconfig whose context `lab` is this cluster and this user.
///
/// # Panics
///
/// The file cannot be written.
#[must_use]
pub fn write_config(directory: &Path, name: &str, cluster: &Value, user: &Value) -> PathBuf {
    let path = directory.join(name);
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "tester", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "tester"}}],
    });
    fs::write(&path, config.to_string()).expect("write the kubeconfig");
    path
}

/// A pod that runs on `node`.
#[must_use]
pub fn pod(namespace: &str, name: &str, node: &str, ips: &[String]) -> Value {
    let listed: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
        "status": {"phase": "Running", "podIP": ips.first(), "podIPs": listed},
    })
}

/// A node.
#[must_use]
pub fn node(name: &str, ip: &str) -> Value {
    let addresses = json!([{"type": "InternalIP", "address": ip}, {"type": "Hostname", "address": name}]);
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": addresses}})
}

/// This machine's host name, as the kubelet takes it.
///
/// # Panics
///
/// It has none.
#[must_use]
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").expect("the machine has a name").trim().to_lowercase()
}
