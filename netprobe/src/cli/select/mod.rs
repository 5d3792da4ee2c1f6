//! Whose packets.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;

use crate::enrich::kube::Options;

mod labels;

pub use labels::LabelSelector;

/// Whose packets, and where names come from.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Whose packets")]
pub struct Select {
    /// This pod: its name, or the start of it where only one pod fits
    #[arg(long, value_name = "[NS/]NAME", value_parser = NonEmptyStringValueParser::new(), group = "whose")]
    pub pod: Option<String>,

    /// The pods of this Kubernetes namespace; with --pod the namespace of that pod
    #[arg(short = 'n', long, value_name = "NS", value_parser = NonEmptyStringValueParser::new())]
    pub namespace: Option<String>,

    /// The pods with these labels (app=web,tier!=cache,env in (a,b))
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with_all = ["netns", "pid", "container", "all"])]
    pub selector: Option<LabelSelector>,

    /// What runs in this network namespace: a name in /run/netns, or a path
    #[arg(long, value_name = "NAME|PATH", value_parser = NonEmptyStringValueParser::new(), group = "whose", conflicts_with = "namespace")]
    pub netns: Option<String>,

    /// What shares this process's network namespace
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), group = "whose", conflicts_with = "namespace")]
    pub pid: Option<u32>,

    /// What shares this container's network namespace: its id, or the start of it
    #[arg(long, value_name = "ID", value_parser = NonEmptyStringValueParser::new(), group = "whose", conflicts_with = "namespace")]
    pub container: Option<String>,

    /// Every pod of this node, and the node itself
    #[arg(long, group = "whose", conflicts_with = "namespace")]
    pub all: bool,

    /// Names from this file: what `kubectl get pods,services,endpointslices,nodes,networkpolicies
    /// -A -o json` prints
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kubeconfig", "context"])]
    pub inventory: Option<PathBuf>,

    /// Where names come from otherwise.
    #[command(flatten)]
    pub kube: Kube,
}

/// Which Kubernetes API names come from.
#[derive(Debug, Default, clap::Args)]
pub struct Kube {
    /// Do not ask Kubernetes for names
    #[arg(long)]
    pub no_kube: bool,

    /// Names from the API server of this file; without it that of the pod we run in, of KUBECONFIG, or of
    /// ~/.kube/config, also of who called sudo
    #[arg(long, value_name = "FILE", conflicts_with = "no_kube")]
    pub kubeconfig: Option<PathBuf>,

    /// Use this context of the kubeconfig
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), conflicts_with = "no_kube")]
    pub context: Option<String>,
}

impl Kube {
    /// The same for the source of names; `node_name` is what the user calls this node.
    #[must_use]
    pub fn options(&self, node_name: Option<&str>) -> Options {
        let Self { no_kube: _, kubeconfig, context } = self;
        Options { kubeconfig: kubeconfig.clone(), context: context.clone(), node_name: node_name.map(str::to_owned) }
    }
}

/// Whose packets, as one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every pod of the node, and the node itself.
    All,
    /// Pods: those that fit all that is given.
    Pods {
        /// Kubernetes namespace.
        namespace: Option<String>,
        /// Name, or the start of it where only one fits.
        name: Option<String>,
        /// Labels.
        labels: Option<LabelSelector>,
    },
    /// A network namespace: a name in /run/netns, or a path.
    Netns(String),
    /// The network namespace of a process.
    Pid(u32),
    /// The network namespace of a container: its id, or the start of it.
    Container(String),
}

impl Select {
    /// Whose packets; `None` where nobody is named.
    ///
    /// # Errors
    ///
    /// `--pod` and `-n` name two namespaces, or a half of `NS/NAME` is empty.
    pub fn target(&self) -> anyhow::Result<Option<Target>> {
        if let Some(name) = &self.pod {
            return self.one_pod(name).map(Some);
        }
        if self.namespace.is_some() || self.selector.is_some() {
            let (namespace, labels) = (self.namespace.clone(), self.selector.clone());
            return Ok(Some(Target::Pods { namespace, name: None, labels }));
        }
        let netns = self.netns.clone().map(Target::Netns);
        let other = netns.or(self.pid.map(Target::Pid)).or_else(|| self.container.clone().map(Target::Container));
        Ok(other.or(self.all.then_some(Target::All)))
    }

    /// The same for a command that must know whose.
    ///
    /// # Errors
    ///
    /// As [`target`](Self::target), or nobody is named.
    pub fn required(&self) -> anyhow::Result<Target> {
        self.target()?.ok_or_else(|| anyhow::anyhow!("nobody to follow: name a pod with --pod [NS/]NAME, or --all"))
    }

    fn one_pod(&self, text: &str) -> anyhow::Result<Target> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if name.is_empty() || namespace.is_some_and(str::is_empty) || name.contains('/') {
            anyhow::bail!("`{text}` is no pod: write NAMESPACE/NAME, or NAME");
        }
        match (namespace, self.namespace.as_deref()) {
            (Some(one), Some(other)) if one != other => {
                anyhow::bail!("--pod {text} and -n {other} name two namespaces: leave one out")
            }
            (one, other) => Ok(Target::Pods {
                namespace: one.or(other).map(str::to_owned),
                name: Some(name.to_owned()),
                labels: self.selector.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(pod: &str, namespace: Option<&str>) -> Select {
        Select { pod: Some(pod.to_owned()), namespace: namespace.map(str::to_owned), ..Select::default() }
    }

    fn pod(namespace: Option<&str>, name: &str) -> Option<Target> {
        Some(Target::Pods { namespace: namespace.map(str::to_owned), name: Some(name.to_owned()), labels: None })
    }

    #[test]
    fn a_pod_may_carry_its_namespace_or_have_it_beside() {
        assert_eq!(select("shop/web-0", None).target().expect("right"), pod(Some("shop"), "web-0"));
        assert_eq!(select("web-0", Some("shop")).target().expect("right"), pod(Some("shop"), "web-0"));
        assert_eq!(select("web-0", None).target().expect("right"), pod(None, "web-0"));
    }

    #[test]
    fn two_namespaces_and_half_a_name_are_errors() {
        for (name, namespace) in [("shop/web-0", Some("default")), ("shop/", None), ("/web", None), ("a/b/c", None)] {
            assert!(select(name, namespace).target().is_err(), "{name}");
        }
    }

    #[test]
    fn trace_must_know_whom_to_follow() {
        let error = Select::default().required().expect_err("nobody is named");
        assert_eq!(error.to_string(), "nobody to follow: name a pod with --pod [NS/]NAME, or --all");
    }
}
