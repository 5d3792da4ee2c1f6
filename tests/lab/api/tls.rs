//! TLS in front of an API server, and who signs its certificates.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener as Listener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer},
        server::WebPkiClientVerifier,
    },
};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate and its key.
pub struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Identity {
    /// The certificate as PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.certificate.pem()
    }

    /// The key as PEM.
    #[must_use]
    pub fn key(&self) -> String {
        self.key.serialize_pem()
    }
}

impl Authority {
    /// One of that name that nobody knows yet.
    ///
    /// # Panics
    ///
    /// There is no key to be had.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        let certificate = params.self_signed(&key).expect("it signs itself");
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Its certificate as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for this address, or for this user.
    ///
    /// # Panics
    ///
    /// There is no key to be had.
    #[must_use]
    pub fn signs(&self, whom: &str) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([whom.to_owned()]).expect("a name");
        params.distinguished_name = named(whom);
        Identity { certificate: params.signed_by(&key, &self.issuer).expect("it signs"), key }
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

/// Speaks TLS at `listener` and hands on to `to`, in the network namespace of the calling thread, as long as the test
/// runs. Where an authority of `clients` is given, clients need its certificate.
///
/// # Panics
///
/// The certificate is none.
#[must_use]
pub fn front(listener: TcpListener, to: SocketAddr, server: &Identity, clients: Option<&Authority>) -> SocketAddr {
    let address = listener.local_addr().expect("it listens");
    let acceptor = TlsAcceptor::from(Arc::new(config(server, clients)));
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(listener, to, acceptor)).expect("it listens");
    });
    address
}

fn config(server: &Identity, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("ring has them all");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate.der().clone()).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("one root is enough"))
        }
    };
    let chain: Vec<CertificateDer<'static>> = vec![server.certificate.der().clone()];
    let key = PrivateKeyDer::try_from(server.key.serialize_der()).expect("a key");
    builder.with_single_cert(chain, key).expect("they belong together")
}

async fn serve(listener: TcpListener, to: SocketAddr, acceptor: TlsAcceptor) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Listener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who does not get through the handshake was to be refused.
            let Ok(mut client) = acceptor.accept(stream).await else { return };
            let Ok(mut server) = TcpStream::connect(to).await else { return };
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
