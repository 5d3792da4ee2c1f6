//! Kubernetes' name of this node.

use std::collections::BTreeSet;

use super::{Part, api::Api, api::escaped};
use crate::enrich::inventory::object::Object;

/// The name as asked, else that of the node whose name or host name is ours, else our host name.
pub(super) async fn name(api: &Api, asked: Option<String>) -> String {
    if let Some(name) = asked {
        return name;
    }
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    // The kubelet takes the host name in lower case.
    let host = host.to_lowercase();
    if api
        .get::<Object>(&format!("/api/v1/nodes/{}", escaped(&host)))
        .await
        .is_ok_and(|node| node.metadata.name == host)
    {
        return host;
    }
    match alike(api, &host).await {
        Some(name) => name,
        None => {
            log::info!("no node of the cluster is called {}: give --node-name", host.escape_debug());
            host
        }
    }
}

/// The only node that is called so by its host name, or by the first label of its name.
async fn alike(api: &Api, host: &str) -> Option<String> {
    let (mut token, mut found) = (String::new(), BTreeSet::new());
    loop {
        let page = api.page(Part::Nodes, "", &token).await.ok()?;
        found.extend(page.items.into_iter().filter(|node| is_called(node, host)).map(|node| node.metadata.name));
        token = page.metadata.token;
        if token.is_empty() || found.len() > 1 {
            break;
        }
    }
    found.pop_first().filter(|_| found.is_empty())
}

fn is_called(node: &Object, host: &str) -> bool {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let named = node.status.addresses.iter().filter(|a| a.kind == "Hostname").map(|a| a.address.to_lowercase());
    named.chain([node.metadata.name.clone()]).any(|name| name == host || short(&name) == short(host))
}
