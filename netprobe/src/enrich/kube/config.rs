//! Which API server: that of the pod we run in, or that of a kubeconfig.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::{KubeError, Options, error::chain};

/// Where a pod finds the token of its service account.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// An API server, and how we know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// `https://10.96.0.1`
    pub(super) server: String,
    /// `context x of /root/.kube/config`, `this pod's service account`
    pub(super) known_by: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "API server {} ({})", self.server, self.known_by)
    }
}

/// A configuration that can be used.
pub(super) struct Found {
    pub(super) config: Config,
    pub(super) place: Place,
    /// It is that of the pod we run in.
    pub(super) is_pods_own: bool,
}

/// Finds the API; none where nothing here tells of one.
pub(super) fn find(options: &Options) -> Result<Option<Found>, KubeError> {
    let is_asked = options.kubeconfig.is_some() || options.context.is_some();
    if !is_asked && env::var_os("KUBERNETES_SERVICE_HOST").is_some() && Path::new(TOKEN).exists() {
        return in_cluster().map(Some);
    }
    let files = match &options.kubeconfig {
        Some(file) => vec![file.clone()],
        None => files()?,
    };
    let Some(all) = files.iter().map(|file| file.display().to_string()).reduce(|all, file| format!("{all}:{file}"))
    else {
        return match &options.context {
            Some(context) => Err(KubeError::Config {
                place: format!("context {context}"),
                reason: "there is no kubeconfig; give one with --kubeconfig FILE".to_owned(),
            }),
            None => Ok(None),
        };
    };
    let broken = |reason: String| KubeError::Config { place: all.clone(), reason };
    let read = files.iter().try_fold(Kubeconfig::default(), |merged, file| merged.merge(Kubeconfig::read_from(file)?));
    let read = read.map_err(|error| broken(words(&error)))?;
    let context = options.context.clone().or_else(|| read.current_context.clone()).filter(|name| !name.is_empty());
    // What `kubectl config unset current-context`, or a cluster that was deleted, leaves behind.
    let Some(context) = context else {
        return if is_asked {
            Err(broken("it names no current context: add --context NAME".to_owned()))
        } else {
            Ok(None)
        };
    };
    let names: Vec<&str> = read.contexts.iter().map(|context| context.name.as_str()).collect();
    if !names.contains(&context.as_str()) {
        let others = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(broken(format!("it has no context {context}; it has {others}")));
    }
    let chosen = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let config = now(Config::from_custom_kubeconfig(read, &chosen)).map_err(|error| broken(words(&error)))?;
    let place = Place { server: address(&config), known_by: format!("context {context} of {all}") };
    Ok(Some(Found { config: patient(config), place, is_pods_own: false }))
}

fn in_cluster() -> Result<Found, KubeError> {
    let known_by = "this pod's service account".to_owned();
    let config =
        Config::incluster().map_err(|error| KubeError::Config { place: known_by.clone(), reason: chain(&error) })?;
    let place = Place { server: address(&config), known_by };
    Ok(Found { config: patient(config), place, is_pods_own: true })
}

/// Connecting may not take for ever, and asking again is ours to decide.
fn patient(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT);
    config.default_retry = false;
    config
}

fn address(config: &Config) -> String {
    config.cluster_url.to_string().trim_end_matches('/').to_owned()
}

/// The kubeconfigs there are: those of KUBECONFIG, else that of this user, else that of who called sudo.
fn files() -> Result<Vec<PathBuf>, KubeError> {
    if let Some(list) = env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        // As kubectl has it, some may be missing; who names none that is there has mistyped it.
        let files: Vec<PathBuf> = env::split_paths(&list).filter(|path| path.is_file()).collect();
        if files.is_empty() {
            let place = list.to_string_lossy().into_owned();
            let reason = "the variable KUBECONFIG names it, and there is no such file".to_owned();
            return Err(KubeError::Config { place, reason });
        }
        return Ok(files);
    }
    let own = env::var_os("HOME").map(PathBuf::from);
    let callers = env::var("SUDO_USER").ok().and_then(|name| nix::unistd::User::from_name(&name).ok()?);
    let homes = own.into_iter().chain(callers.map(|user| user.dir));
    Ok(homes.map(|home| home.join(".kube/config")).find(|path| path.is_file()).into_iter().collect())
}

/// The future does nothing that waits: it reads files.
fn now<T>(future: impl Future<Output = Result<T, KubeconfigError>>) -> Result<T, KubeconfigError> {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
    }
}

/// In one line: the parser of YAML shows the lines around an error.
fn words(error: &KubeconfigError) -> String {
    if let KubeconfigError::ReadConfig(error, _) = error {
        return error.to_string();
    }
    let said = chain(error);
    let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned();
    format!("it is no kubeconfig: {first}")
}
