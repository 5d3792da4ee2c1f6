//! The agents of a cluster: which nodes have one, and which node a pod is on.

use kube::client::Client;

use super::{
    KubeError, Options,
    api::{Api, Page, escaped},
    config,
    error::Trouble,
};
use crate::{
    enrich::{
        inventory::{convert, object::Object},
        select::{self, SelectError},
    },
    model::inventory::{Inventory, PodEntry},
};

/// Label of the agents' pods (`deploy/`).
const LABEL: &str = "app.kubernetes.io/name=netprobe";
/// Where they are looked for by who may not look everywhere: the namespace of `deploy/`.
const NAMESPACE: &str = "netprobe";
/// Objects asked for at once.
const PAGE: u32 = 500;

/// A netprobe agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Kubernetes namespace of its pod.
    pub namespace: String,
    /// Its pod.
    pub pod: String,
    /// The node it watches.
    pub node: String,
    /// It can be asked: its pod runs and is ready.
    pub is_ready: bool,
}

impl std::fmt::Display for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod)
    }
}

/// Why a pod's node is not known.
#[derive(Debug)]
pub enum WhereError {
    /// The API does not tell.
    Kube(KubeError),
    /// No pod is meant, or several may be.
    Select(SelectError),
}

impl std::fmt::Display for WhereError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kube(error) => error.fmt(f),
            Self::Select(SelectError::NoSuchPod { asked, closest, .. }) if closest.is_empty() => {
                write!(f, "no pod `{}` in the cluster", asked.escape_debug())
            }
            Self::Select(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WhereError {}

/// The API server, for who wants to reach agents through it.
pub struct Gate {
    api: Api,
    /// The namespace that the configuration names.
    own: String,
}

impl Gate {
    /// Finds the API; none where this machine has no configuration for it. Asks nothing yet. To be called in a runtime.
    ///
    /// # Errors
    ///
    /// The configuration is broken.
    pub fn open(options: &Options) -> Result<Option<Self>, KubeError> {
        let Some(found) = config::find(options)? else { return Ok(None) };
        let own = found.config.default_namespace.clone();
        Ok(Some(Self { api: Api::new(found)?, own }))
    }

    /// This machine has a configuration for an API.
    ///
    /// # Errors
    ///
    /// It is broken.
    pub fn is_known(options: &Options) -> Result<bool, KubeError> {
        config::find(options).map(|found| found.is_some())
    }

    pub(super) fn client(&self) -> Client {
        self.api.client()
    }

    /// The same for errors.
    pub(super) fn place(&self) -> &str {
        &self.api.place
    }

    /// The pod of that name.
    ///
    /// # Errors
    ///
    /// The API does not tell, or there is none, or there are several.
    pub async fn pod(&self, namespace: Option<&str>, name: &str) -> Result<PodEntry, WhereError> {
        let exact = format!("fieldSelector=metadata.name%3D{}&", escaped(name));
        let mut inventory = Inventory::default();
        for filter in [exact.as_str(), ""] {
            inventory.pods = self.pods(namespace, filter).await.map_err(WhereError::Kube)?;
            if !inventory.pods.is_empty() {
                break;
            }
        }
        select::pod(&inventory, namespace, name).map_err(WhereError::Select)
    }

    /// Pods of the namespace, or of all; of those that may be seen, where not all may.
    ///
    /// # Errors
    ///
    /// The API does not tell.
    pub async fn pods(&self, namespace: Option<&str>, filter: &str) -> Result<Vec<PodEntry>, KubeError> {
        let objects = self.list_pods(namespace, &self.own, filter).await?;
        Ok(objects.into_iter().filter_map(|object| convert::pod(object).ok().flatten()).collect())
    }

    /// The agents of that namespace, or of all.
    ///
    /// # Errors
    ///
    /// The API does not tell.
    pub async fn agents(&self, namespace: Option<&str>) -> Result<Vec<Agent>, KubeError> {
        let objects = self.list_pods(namespace, NAMESPACE, &format!("labelSelector={}&", escaped(LABEL))).await?;
        Ok(objects.into_iter().filter(|object| !object.spec.node_name.is_empty()).map(agent).collect())
    }

    /// Names of the cluster's nodes; none where this user may not list them.
    ///
    /// # Errors
    ///
    /// The API does not tell.
    pub async fn nodes(&self) -> Result<Option<Vec<String>>, KubeError> {
        match self.list("/api/v1/nodes?").await {
            Ok(objects) => {
                let is_windows =
                    |node: &Object| node.metadata.labels.get("kubernetes.io/os").is_some_and(|os| os == "windows");
                Ok(Some(objects.into_iter().filter(|node| !is_windows(node)).map(|node| node.metadata.name).collect()))
            }
            Err(trouble) if trouble.is_refusal() => Ok(None),
            Err(trouble) => Err(trouble.explain(&self.api.place, "list", "nodes")),
        }
    }

    /// Pods of the namespace; else of all, or of `instead` where not all may be seen.
    async fn list_pods(&self, namespace: Option<&str>, instead: &str, filter: &str) -> Result<Vec<Object>, KubeError> {
        let of = |namespace: &str| format!("/api/v1/namespaces/{}/pods?{filter}", escaped(namespace));
        let path = namespace.map_or_else(|| format!("/api/v1/pods?{filter}"), of);
        let place = &self.api.place;
        match self.list(&path).await {
            Ok(objects) => Ok(objects),
            Err(trouble) if trouble.is_refusal() && namespace.is_none() => {
                // Those of one namespace are better than none; what is missing is told as it was asked.
                self.list(&of(instead)).await.map_err(|_| trouble.explain(place, "list", "pods"))
            }
            Err(trouble) => Err(trouble.explain_in(namespace, place, "list", "pods")),
        }
    }

    async fn list(&self, path: &str) -> Result<Vec<Object>, Trouble> {
        let (mut token, mut all) = (String::new(), Vec::new());
        loop {
            let mut page = format!("{path}limit={PAGE}");
            if !token.is_empty() {
                page.push_str("&continue=");
                page.push_str(&escaped(&token));
            }
            let Page { metadata, items } = self.api.get(&page).await?;
            all.extend(items);
            token = metadata.token;
            if token.is_empty() {
                return Ok(all);
            }
        }
    }
}

fn agent(object: Object) -> Agent {
    let Object { metadata, spec, status, .. } = object;
    let is_ready = status.phase == "Running"
        && metadata.deletion_timestamp.is_none()
        && status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True");
    Agent { namespace: metadata.namespace, pod: metadata.name, node: spec.node_name, is_ready }
}
