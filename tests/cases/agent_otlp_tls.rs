//! An OpenTelemetry collector by HTTPS: whose certificate is believed, and what is said of one that is not.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Command, Stdio},
    thread,
};

use netprobe_tests::{Agent, Collector, Lab, SERVER, WEB_0, api::tls::Authority, collector::Manner, wait};

use super::agent_otlp::{TOLD, breaks, otlp, told_of};

const HERE: &str = "127.0.0.1";

/// An agent that tells `endpoint`, knowing none of the machine's authorities.
fn command(lab: &Lab, endpoint: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Agent::command(lab, &["--flows", "uplinks", "--otlp-every", "1s", "--otlp-endpoint", endpoint]);
    command.env("SSL_CERT_FILE", "/nowhere").env_remove("SSL_CERT_DIR").envs(variables.iter().copied());
    command
}

/// Writes `text` beside the lab's other files.
fn file(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.directory().join(name);
    fs::write(&path, text).expect("write a file");
    path.display().to_string()
}

#[test]
fn findings_and_flows_go_to_a_collector_that_an_authority_vouches_for() {
    let name = "findings_and_flows_go_to_a_collector_that_an_authority_vouches_for";
    let Some(lab) = Lab::start(name) else { return };
    let (authority, of_clients) = (Authority::new("the lab's"), Authority::new("of clients"));
    let server = authority.signs(HERE);
    let ca = file(&lab, "ca.crt", &authority.pem());
    let client = of_clients.signs("agent");
    let (certificate, key) = (file(&lab, "agent.crt", &client.certificate()), file(&lab, "agent.key", &client.key()));
    let by_client: &[(&str, &str)] = &[
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
    ];
    for (variables, clients) in [
        (&[("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.as_str())][..], None),
        (&[("SSL_CERT_FILE", ca.as_str())], None),
        (by_client, Some(&of_clients)),
    ] {
        let collector = Collector::start(&lab, Manner::Well);
        let endpoint = collector.endpoint_by_tls(&lab, &server, clients);
        let agent = Agent::spawn(&lab, command(&lab, &endpoint, variables));
        lab.on("web-1").connects(SERVER);
        let sent = || collector.sum("netprobe.device.packets", "web-1", "eth1", "transmit").is_some();
        assert!(wait(TOLD, sent), "{variables:?}: nothing is told of web-1's packets");
        breaks(&lab, WEB_0, 3306);
        assert!(wait(TOLD, || told_of(&collector, "web-0")), "{variables:?}");
        lab.on("node").run(&format!("ip route del blackhole {} table 2", SERVER.ip()));
        assert_eq!(otlp(&agent, "requests", "failed"), 0, "{variables:?}");
    }
}

/// An HTTP server that takes any first bytes for a bad request.
fn answering(lab: &Lab) -> String {
    let listener = lab.on("node").enter(|| TcpListener::bind((HERE, 0))).expect("listen on the node");
    let at = listener.local_addr().expect("it listens");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    format!("https://{at}")
}

#[test]
fn a_collector_that_is_not_trusted_is_told_nothing_and_told_of_once() {
    let Some(lab) = Lab::start("a_collector_that_is_not_trusted_is_told_nothing_and_told_of_once") else { return };
    let (authority, other) = (Authority::new("the lab's"), Authority::new("another"));
    let ca = file(&lab, "ca.crt", &authority.pem());
    let collector = Collector::start(&lab, Manner::Well);
    // Two that speak no TLS: ours closes the connection, most others answer.
    let closing = collector.endpoint().replace("http://", "https://");
    let answering = answering(&lab);
    for (endpoint, words) in [
        (
            collector.endpoint_by_tls(&lab, &other.signs(HERE), None),
            &["UnknownIssuer", "name a file with the certificate of who signed it in OTEL_EXPORTER_OTLP_CERTIFICATE"][..],
        ),
        (
            collector.endpoint_by_tls(&lab, &authority.signs("collector.example"), None),
            &["collector.example", "give the endpoint by a name that it has"],
        ),
        (collector.endpoint_by_tls(&lab, &authority.signs(HERE), Some(&authority)), &["CertificateRequired"]),
        (closing, &["it closes the connection where TLS should begin: http:// may be meant"]),
        (answering, &["it does not speak TLS there: http:// may be meant"]),
    ] {
        let agent = Agent::spawn(&lab, command(&lab, &endpoint, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", &ca)]));
        breaks(&lab, WEB_0, 3306);
        assert!(wait(TOLD, || otlp(&agent, "requests", "failed") > 1), "{endpoint} {words:?}: it is not tried again");
        let said = agent.end();
        assert_eq!(said.matches(&format!("the OTLP collector {endpoint}: ")).count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "`{word}` is not in: {said}");
        }
    }
    assert!(collector.records().is_empty());
}

#[test]
fn without_any_authority_nothing_is_begun() {
    let Some(lab) = Lab::start("without_any_authority_nothing_is_begun") else { return };
    let empty = file(&lab, "empty", "");
    for (variables, words) in [
        (&[][..], "there are no certificates of authorities to know the OTLP collector by"),
        (
            &[("SSL_CERT_FILE", empty.as_str())],
            "OTEL_EXPORTER_OTLP_CERTIFICATE, or all of the system's in SSL_CERT_FILE",
        ),
        (&[("OTEL_EXPORTER_OTLP_CERTIFICATE", empty.as_str())], "there is no certificate in"),
        (&[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere")], "cannot read /nowhere: No such file"),
        (&[("OTEL_EXPORTER_OTLP_CLIENT_KEY", empty.as_str())], "set both or none"),
    ] {
        let mut command = command(&lab, "https://127.0.0.1:4318", variables);
        let output = command.stdin(Stdio::null()).output().expect("run netprobe");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{variables:?}: {said}");
        assert!(said.contains(words), "{variables:?}: {said}");
    }
}
