//! Which agents are to be asked, and what each of them.

use anyhow::Result;

use super::{There, tell, words};
use crate::{
    cli::live::Request,
    enrich::kube::agents::{Agent, Gate},
    model::inventory::PodEntry,
};

/// How to get an agent.
const INSTALL: &str = "install it with `helm install netprobe deploy/helm/netprobe -n netprobe --create-namespace` or \
                       `kubectl apply -f deploy/netprobe.yaml`";

/// Nodes watched at once: each brings what its agent knows of the cluster, which is megabytes in a large one.
const NODES_MAX: usize = 100;

/// What is asked of one agent.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) agent: Agent,
    /// The command, as its container runs it.
    pub(super) words: Vec<String>,
}

impl Asked {
    /// Finds agents for all nodes that are meant, says which it takes, and of which nodes there is none: those nodes come
    /// second.
    pub(super) async fn find(gate: &Gate, there: There, request: &Request<'_>) -> Result<(Vec<Self>, Vec<String>)> {
        let place = request.place.and_then(|place| place.agent_namespace.as_deref());
        let mut pod = None;
        let nodes = match &there {
            There::Nodes(nodes) => Some(unique(nodes.clone())),
            There::AllNodes => gate.nodes().await?,
            There::Pod { namespace, name } => {
                let meant = gate.pod(namespace.as_deref(), name).await?;
                let node = node_of(&meant)?;
                pod = Some(meant);
                Some(vec![node])
            }
            There::Pods { namespace, name, labels } => {
                let pods = gate.pods(namespace.as_deref(), "").await?;
                let fits = |pod: &&PodEntry| {
                    name.as_ref().is_none_or(|name| pod.name == *name)
                        && labels.as_ref().is_none_or(|labels| labels.matches(&pod.labels))
                };
                let nodes: Vec<_> = pods.iter().filter(fits).map(|pod| pod.node.clone()).collect();
                let nodes = unique(nodes.into_iter().filter(|node| !node.is_empty()).collect());
                if nodes.is_empty() {
                    anyhow::bail!("no pod of the cluster fits the namespace and the labels");
                }
                Some(nodes)
            }
        };
        let agents = gate.agents(place).await?;
        let nodes = nodes.unwrap_or_else(|| {
            tell("this user may not list nodes: those without an agent are not told");
            unique(agents.iter().map(|agent| agent.node.clone()).collect())
        });
        if nodes.is_empty() {
            anyhow::bail!("no node has a netprobe agent: {INSTALL}");
        }
        if nodes.len() > NODES_MAX {
            anyhow::bail!(
                "{} nodes are meant, and {NODES_MAX} can be watched at once: name some with --node",
                nodes.len()
            );
        }
        let title = pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
        let words = words::of_this_process(title.as_deref())?;
        let (mut asked, mut unseen) = (Vec::new(), Vec::new());
        for node in nodes {
            match best(&agents, &node) {
                Ok(agent) => asked.push(Self { agent, words: words.clone() }),
                Err(why) => {
                    let whose = title.as_ref().map(|pod| format!("pod {pod} is on node {node}: ")).unwrap_or_default();
                    tell(&format!("{whose}{why}"));
                    unseen.push(node);
                }
            }
        }
        announce(&asked, title.as_deref(), &there);
        Ok((asked, unseen))
    }
}

fn unique(mut nodes: Vec<String>) -> Vec<String> {
    nodes.sort();
    nodes.dedup();
    nodes
}

fn node_of(pod: &PodEntry) -> Result<String> {
    let title = || format!("{}/{}", pod.namespace, pod.name);
    if pod.node.is_empty() {
        anyhow::bail!("pod {} is on no node yet: wait until it is scheduled", title());
    }
    Ok(pod.node.clone())
}

/// The agent of that node that can be asked; else why there is none.
fn best(agents: &[Agent], node: &str) -> std::result::Result<Agent, String> {
    let mut here = agents.iter().filter(|agent| agent.node == node);
    match here.clone().find(|agent| agent.is_ready).or_else(|| here.next()) {
        Some(agent) if agent.is_ready => Ok(agent.clone()),
        Some(agent) => {
            Err(format!("the netprobe agent of node {node}, {agent}, is not ready: see `kubectl describe pod`"))
        }
        None => Err(format!("there is no netprobe agent on node {node}: {INSTALL}")),
    }
}

/// Says once who is asked.
fn announce(asked: &[Asked], pod: Option<&str>, there: &There) {
    match (asked, pod) {
        ([], _) => {}
        ([one], Some(pod)) => tell(&format!("pod {pod} is on node {}: asking its agent {}", one.agent.node, one.agent)),
        ([one], None) => tell(&format!("asking the agent of node {}, {}", one.agent.node, one.agent)),
        (several, _) if matches!(there, There::AllNodes) => {
            tell(&format!("asking the agents of {} nodes", several.len()))
        }
        (several, _) => {
            let nodes: Vec<&str> = several.iter().map(|asked| asked.agent.node.as_str()).collect();
            tell(&format!("asking the agents of nodes {}", nodes.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(pod: &str, node: &str, is_ready: bool) -> Agent {
        Agent { namespace: "netprobe".to_owned(), pod: pod.to_owned(), node: node.to_owned(), is_ready }
    }

    #[test]
    fn an_agent_that_is_ready_goes_before_one_that_is_going() {
        let agents = [agent("old", "n1", false), agent("new", "n1", true), agent("other", "n2", true)];
        assert_eq!(best(&agents, "n1").map(|agent| agent.pod), Ok("new".to_owned()));
        let why = best(&agents[..1], "n1").expect_err("it is not ready");
        assert!(why.contains("netprobe/old") && why.contains("is not ready"), "{why}");
    }

    #[test]
    fn a_node_without_an_agent_says_how_to_get_one() {
        let why = best(&[agent("a", "n1", true)], "n3").expect_err("there is none");
        assert!(why.starts_with("there is no netprobe agent on node n3: install it with `helm install"), "{why}");
    }
}
