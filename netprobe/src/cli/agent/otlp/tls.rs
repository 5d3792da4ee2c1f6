//! TLS to the collector: by whose word its certificate is believed, and what is said of one that is not.

use std::{
    fs::File,
    io::{self, Read as _},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustls::{
    CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Variables of OpenTelemetry's that name files (its specification, "OpenTelemetry Protocol Exporter").
const AUTHORITIES: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
const KEY: &str = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
/// All authorities of a distribution are a fifth of this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What it takes to speak TLS to one collector.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// To `host`, with the files that the environment names. They are read now and never again.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is none of the kind, and no authority to be had.
    pub(super) fn new(host: &str, said: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let name =
            ServerName::try_from(host.to_owned()).context("no certificate can have the OTLP collector's name")?;
        let client = match (said(CERTIFICATE), said(KEY)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!("{CERTIFICATE} and {KEY} go together: set both or none"),
        };
        let roots = match said(AUTHORITIES) {
            Some(path) => named(&path)?,
            None => of_system()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS has no version to speak")?
            .with_root_certificates(roots);
        let mut config = match client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let pem = read(KEY, &key)?;
                let secret = PrivateKeyDer::from_pem_slice(&pem);
                let secret = secret.with_context(|| format!("{KEY}: {key} is no private key in PEM"))?;
                let chain = certificates(CERTIFICATE, &certificate)?;
                let config = config.with_client_auth_cert(chain, secret);
                config.with_context(|| format!("{CERTIFICATE} and {KEY} do not belong together"))?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Begins to speak TLS, once the certificate is believed.
    ///
    /// # Errors
    ///
    /// For people: why not, and what to do.
    pub(super) async fn begin(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await.map_err(|error| anyhow!(reason(&error)))
    }
}

/// A file of the environment's, as far as it is one.
fn read(variable: &str, path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut read = || {
        // A pipe would be waited for, a device would never end.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("no regular file"));
        }
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)
    };
    read().with_context(|| format!("{variable}: cannot read {path}"))?;
    ensure!(bytes.len() as u64 <= FILE_BYTES_MAX, "{variable}: {path} has more than {FILE_BYTES_MAX} bytes");
    Ok(bytes)
}

/// The certificates of a file; one at least.
fn certificates(variable: &str, path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(variable, path)?).collect();
    let all = all.with_context(|| format!("{variable}: {path} is no PEM"))?;
    ensure!(!all.is_empty(), "{variable}: there is no certificate in {path} (PEM: -----BEGIN CERTIFICATE-----)");
    Ok(all)
}

/// The authorities of a file, and no others.
fn named(path: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(AUTHORITIES, path)? {
        roots.add(certificate).with_context(|| format!("{AUTHORITIES}: a certificate in {path} is none"))?;
    }
    Ok(roots)
}

/// Those of the system: of `SSL_CERT_FILE` and `SSL_CERT_DIR`, or where distributions keep them.
fn of_system() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A bundle may hold old ones that cannot be used: the others still can.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        bail!(
            "there are no certificates of authorities to know the OTLP collector by{why}: name a file of them (PEM) in \
             {AUTHORITIES}, or all of the system's in SSL_CERT_FILE"
        );
    }
    Ok(roots)
}

/// Why there is no TLS, and what to do.
fn reason(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(reason)) => {
            format!("its certificate is not trusted: {reason}: {}", remedy(reason))
        }
        Some(rustls::Error::InvalidMessage(_)) => "it does not speak TLS there: http:// may be meant".to_owned(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closes the connection where TLS should begin: http:// may be meant".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What to do about a certificate that does not hold.
fn remedy(reason: &CertificateError) -> String {
    match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("name a file with the certificate of who signed it in {AUTHORITIES}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "give the endpoint by a name that it has".to_owned()
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "look at the node's clock, and renew the certificate".to_owned()
        }
        _ => "it needs another one".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn refused(variables: &[(&str, &str)]) -> String {
        let said = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        match Tls::new("collector", said) {
            Ok(_) => panic!("{variables:?} is taken"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_file_that_cannot_be_is_named_with_its_variable() {
        let folder = std::env::temp_dir().join(format!("netprobe-otlp-tls-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder of ours");
        let file = |name: &str, text: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, text).expect("a file of ours");
            path.display().to_string()
        };
        let pem = |inside: &str| format!("-----BEGIN CERTIFICATE-----\n{inside}\n-----END CERTIFICATE-----\n");
        let (empty, other) = (file("empty", b""), file("other", pem("?").as_bytes()));
        let (none, large) = (file("none", pem("AAAA").as_bytes()), file("large", &vec![b' '; (1 << 20) + 1]));
        for (path, words) in [
            ("/nowhere", "cannot read /nowhere: No such file"),
            ("/dev/zero", "cannot read /dev/zero: no regular file"),
            ("/tmp", "no regular file"),
            (&empty, "there is no certificate in"),
            (&other, "is no PEM"),
            (&none, "is none"),
            (&large, "has more than 1048576 bytes"),
        ] {
            let said = refused(&[(AUTHORITIES, path)]);
            assert!(said.starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE: ") && said.contains(words), "{path}: {said}");
        }
        fs::remove_dir_all(&folder).expect("it was there");
    }

    #[test]
    fn half_a_client_certificate_is_refused() {
        for variable in [CERTIFICATE, KEY] {
            let said = refused(&[(variable, "/x")]);
            assert!(said.contains("set both or none"), "{said}");
        }
    }
}
