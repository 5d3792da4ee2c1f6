//! The Kubernetes API over TLS: who is believed, and what is said of who is not.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Command, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use netprobe_tests::{
    Api, Lab,
    api::{
        TOKEN,
        tls::{Authority, Identity, front},
        write_config,
    },
    binary,
};
use serde_json::{Value, json};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Listens on the node with TLS, in front of `api`.
fn listen(lab: &Lab, api: &Api, ip: IpAddr, server: &Identity, clients: Option<&Authority>) -> SocketAddr {
    let work = || front(TcpListener::bind((ip, 0)).expect("listen on the node"), api.address(), server, clients);
    lab.on("node").enter(work)
}

/// Exit code, and what was said on stderr; `program` runs netprobe with a pod that only the API knows by name.
fn trace(lab: &Lab, mut program: Command, config: Option<&Path>) -> (Option<i32>, String) {
    program.args(["trace", "--pod", "shop/web-0", "--for", "300ms", "-o", "json"]);
    if let Some(config) = config {
        program.arg("--kubeconfig").arg(config);
    }
    program.env_remove("KUBECONFIG").env_remove("SUDO_USER").env("HOME", lab.directory()).stdin(Stdio::null());
    let output = lab.on("node").enter(|| program.output()).expect("run netprobe");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn works(lab: &Lab, config: &Path) {
    assert_eq!(trace(lab, Command::new(binary()), Some(config)), (Some(0), String::new()));
}

/// It says these words in one line, and exits with 2.
fn is_refused(lab: &Lab, config: &Path, words: &[&str]) {
    let (code, said) = trace(lab, Command::new(binary()), Some(config));
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` is not in: {said}");
    }
}

fn cluster(address: SocketAddr, authority: &Authority) -> Value {
    json!({
        "server": format!("https://{address}"),
        "certificate-authority-data": BASE64_STANDARD.encode(authority.pem()),
    })
}

/// Writes `text` beside the lab's other files.
fn file(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.directory().join(name);
    fs::write(&path, text).expect("write a file");
    path.display().to_string()
}

#[test]
fn a_token_goes_to_a_server_that_the_authority_vouches_for() {
    let Some(lab) = Lab::start("a_token_goes_to_a_server_that_the_authority_vouches_for") else { return };
    let (api, authority) = (lab.api(), Authority::new("the lab's"));
    for ip in [HERE, IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = listen(&lab, &api, ip, &authority.signs(&ip.to_string()), None);
        let cluster = cluster(address, &authority);
        works(&lab, &write_config(lab.directory(), "good", &cluster, &json!({"token": TOKEN})));
        let other = write_config(lab.directory(), "other", &cluster, &json!({"token": "of-yesterday"}));
        is_refused(&lab, &other, &["401", &format!("https://{address}"), "log in again"]);
    }
}

#[test]
fn a_client_certificate_says_who_asks() {
    let Some(lab) = Lab::start("a_client_certificate_says_who_asks") else { return };
    let (api, authority) = (lab.api(), Authority::new("the lab's"));
    let address = listen(&lab, &api, HERE, &authority.signs(&HERE.to_string()), Some(&authority));
    let cluster = json!({
        "server": format!("https://{address}"),
        "certificate-authority": file(&lab, "ca.crt", &authority.pem()),
    });
    let tester = authority.signs("tester");
    let user = json!({
        "client-certificate": file(&lab, "tester.crt", &tester.certificate()),
        "client-key": file(&lab, "tester.key", &tester.key()),
    });
    works(&lab, &write_config(lab.directory(), "good", &cluster, &user));
    let nobody = write_config(lab.directory(), "nobody", &cluster, &json!({}));
    is_refused(&lab, &nobody, &["cannot reach the API server", &format!("https://{address}"), "CertificateRequired"]);
}

#[test]
fn a_server_whose_certificate_is_wrong_learns_no_token() {
    let Some(lab) = Lab::start("a_server_whose_certificate_is_wrong_learns_no_token") else { return };
    let (api, authority, other) = (lab.api(), Authority::new("the lab's"), Authority::new("another"));
    let user = json!({"token": TOKEN});
    let foreign = listen(&lab, &api, HERE, &other.signs(&HERE.to_string()), None);
    let config = write_config(lab.directory(), "foreign", &cluster(foreign, &authority), &user);
    is_refused(
        &lab,
        &config,
        &[&format!("https://{foreign}"), "UnknownIssuer", "certificate-authority", "context lab of", "--inventory"],
    );
    let renamed = listen(&lab, &api, HERE, &authority.signs("10.0.0.1"), None);
    let config = write_config(lab.directory(), "renamed", &cluster(renamed, &authority), &user);
    is_refused(&lab, &config, &[&format!("https://{renamed}"), "not valid for name", "tls-server-name"]);
    assert_eq!(api.requests(&[""]), 0, "nothing is asked of who is not trusted");
}

/// netprobe as it runs in a pod, with a service account of an API that listens with TLS. What takes the account's place goes
/// with [`leave_pod`].
pub(super) fn in_pod(lab: &Lab, api: &Api) -> Command {
    let authority = Authority::new("the lab's");
    let address = listen(lab, api, HERE, &authority.signs(&HERE.to_string()), None);
    let (token, ca) = (file(lab, "token", TOKEN), file(lab, "ca.crt", &authority.pem()));
    // In a mount namespace of its own: no other process sees the account.
    let mut program = Command::new("unshare");
    let script = "mkdir -p /run/secrets && mount -t tmpfs none /run/secrets || exit 99
        at=/run/secrets/kubernetes.io/serviceaccount
        mkdir -p $at && cp \"$1\" $at/token && cp \"$2\" $at/ca.crt && echo -n shop >$at/namespace || exit 99
        shift 2
        exec \"$@\"";
    program.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", &token, &ca]).arg(binary());
    program.env("KUBERNETES_SERVICE_HOST", HERE.to_string());
    program.env("KUBERNETES_SERVICE_PORT", address.port().to_string());
    program
}

/// Removes the empty folder; not where somebody else has something there.
pub(super) fn leave_pod() {
    let _ = fs::remove_dir("/run/secrets");
}

#[test]
fn a_pod_asks_with_its_service_account() {
    let Some(lab) = Lab::start("a_pod_asks_with_its_service_account") else { return };
    let api = lab.api();
    let ended = trace(&lab, in_pod(&lab, &api), None);
    leave_pod();
    assert_eq!(ended, (Some(0), String::new()));
    assert!(api.requests(&["/api/v1/pods"]) > 0);
}
