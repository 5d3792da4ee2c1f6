//! Why names do not come from Kubernetes, and what to do.

use std::{fmt, io, time::Duration};

use kube::client::UpgradeConnectionError;
use rustls::CertificateError;

/// Why names do not come from Kubernetes. `place` is the API server and where its address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeError {
    /// The configuration cannot be used.
    Config {
        /// Its file, or the API server.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers.
    Away {
        /// API server.
        place: String,
        /// What happened.
        reason: String,
    },
    /// Who answers is not believed to be the API.
    Untrusted {
        /// API server.
        place: String,
        /// What is wrong with its certificate, and what to do.
        reason: String,
    },
    /// The API does not know who asks.
    Unknown {
        /// API server.
        place: String,
    },
    /// Who asks may not do that.
    Forbidden {
        /// API server.
        place: String,
        /// `list` or `watch`.
        verb: &'static str,
        /// `pods`
        resource: &'static str,
        /// Who asks, where the API says so.
        user: Option<String>,
        /// The namespace in which; none is the whole cluster.
        namespace: Option<String>,
    },
    /// The API answers something else.
    Odd {
        /// API server.
        place: String,
        /// What.
        reason: String,
    },
}

impl fmt::Display for KubeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config { place, reason } => write!(f, "cannot use {place}: {reason}"),
            Self::Away { place, reason } => write!(f, "cannot reach the {place}: {reason}"),
            Self::Untrusted { place, reason } => {
                write!(f, "the {place} shows a certificate that is not trusted, so nothing is asked of it: {reason}")
            }
            Self::Unknown { place } => write!(
                f,
                "the {place} does not know who asks (401): the token or the certificate is wrong or has expired; log in \
                 again"
            ),
            Self::Forbidden { place, verb, resource, user, namespace } => {
                let user = user.as_deref().unwrap_or("this one");
                let within = namespace
                    .as_ref()
                    .map_or_else(|| "at the cluster scope".to_owned(), |ns| format!("in namespace {ns}"));
                write!(
                    f,
                    "cannot {verb} {resource}: user {user} lacks {verb} on {resource} {within} ({place}); grant it as \
                     docs/kubernetes.md says"
                )
            }
            Self::Odd { place, reason } => write!(f, "the {place} answers {reason}"),
        }
    }
}

impl std::error::Error for KubeError {}

/// Why one request gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// No connection, or it broke.
    Away(String),
    /// The server's certificate does not hold.
    Untrusted(String),
    /// Credentials cannot be had.
    Credentials(String),
    /// The API says no.
    Status {
        code: u16,
        message: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// What came makes no sense.
    Odd(String),
}

impl Trouble {
    /// The version asked for is no longer known: list again.
    pub(super) const fn is_gone(&self) -> bool {
        matches!(self, Self::Status { code: 410, .. })
    }

    /// Who asks is not known, or may not: it makes no sense to ask again soon.
    pub(super) const fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { code: 403, .. })
    }

    /// When the API wants to be asked again.
    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The same for people, of what was asked in that namespace.
    pub(super) fn explain_in(
        &self,
        within: Option<&str>,
        place: &str,
        verb: &'static str,
        resource: &'static str,
    ) -> KubeError {
        match self.explain(place, verb, resource) {
            KubeError::Forbidden { place, verb, resource, user, .. } => {
                KubeError::Forbidden { place, verb, resource, user, namespace: within.map(str::to_owned) }
            }
            other => other,
        }
    }

    /// The same for people.
    pub(super) fn explain(&self, place: &str, verb: &'static str, resource: &'static str) -> KubeError {
        let place = place.to_owned();
        match self {
            Self::Away(reason) => KubeError::Away { place, reason: reason.clone() },
            Self::Untrusted(reason) => KubeError::Untrusted { place, reason: reason.clone() },
            Self::Credentials(reason) => KubeError::Config { place, reason: reason.clone() },
            Self::Status { code: 401, .. } => KubeError::Unknown { place },
            Self::Status { code: 403, message, .. } => {
                KubeError::Forbidden { place, verb, resource, user: user(message), namespace: None }
            }
            Self::Status { code, message, .. } => {
                KubeError::Odd { place, reason: format!("{code} to {verb} {resource}: {message}") }
            }
            Self::Odd(reason) => KubeError::Odd { place, reason: format!("to {verb} {resource} {reason}") },
        }
    }
}

impl From<kube::Error> for Trouble {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Auth(error) => Self::Credentials(chain(&error)),
            kube::Error::Api(status) => {
                Self::Status { code: status.code, message: status.message.clone(), retry_after: None }
            }
            kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => {
                let message = code.canonical_reason().unwrap_or("no reason is given").to_owned();
                Self::Status { code: code.as_u16(), message, retry_after: None }
            }
            kube::Error::Service(error) => match distrust(&*error) {
                Some(reason) => Self::Untrusted(reason),
                None => Self::Away(chain(&*error)),
            },
            other => Self::Away(chain(&other)),
        }
    }
}

/// Why the server's certificate does not hold, where that is the cause.
fn distrust(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error that wraps another is not told apart from it by `source`.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let tls = inner.map_or_else(|| error.downcast_ref(), |inner| inner.downcast_ref::<rustls::Error>());
        if let Some(rustls::Error::InvalidCertificate(reason)) = tls {
            return Some(format!("{reason}: {}", remedy(reason)));
        }
        next = match inner {
            Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// What to do about a certificate that does not hold.
const fn remedy(reason: &CertificateError) -> &'static str {
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "give the authority that signed it as certificate-authority in the kubeconfig"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "ask by a name that it has, or give that as tls-server-name in the kubeconfig"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "look at this machine's clock, and renew the certificate",
        _ => "it needs another one",
    }
}

/// An error and its causes, each once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let word = error.to_string();
        // hyper's own words name its layers, which tell nobody anything.
        let is_layer = word.starts_with("client error (") || word.starts_with("HyperError: ");
        if !is_layer && !words.iter().any(|known| known.contains(&word)) {
            words.push(word);
        }
        next = error.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

/// `pods is forbidden: User "x" cannot list resource ..` → `x`
fn user(message: &str) -> Option<String> {
    let (name, _) = message.split_once("User \"")?.1.split_once('"')?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_user_the_verb_and_the_resource() {
        let message = "pods is forbidden: User \"system:serviceaccount:a:b\" cannot list resource \"pods\" in API group \"\" at \
                       the cluster scope";
        let trouble = Trouble::Status { code: 403, message: message.to_owned(), retry_after: None };
        let place = "API server http://x (context y of z)";
        assert_eq!(
            trouble.explain(place, "list", "pods").to_string(),
            "cannot list pods: user system:serviceaccount:a:b lacks list on pods at the cluster scope (API server http://x \
             (context y of z)); grant it as docs/kubernetes.md says"
        );
        let trouble = Trouble::Status { code: 403, message: "no".to_owned(), retry_after: None };
        assert!(trouble.explain(place, "list", "pods").to_string().contains("user this one lacks list"));
    }
}
