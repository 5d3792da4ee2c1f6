//! Serves the API of a cluster of any size, for measurements.
//!
//! ```text
//! cargo run --package netprobe-tests --example cluster -- PODS FOLDER
//! ```
//! PODS is a file, a pod a line: node, namespace, name, address. The kubeconfig is written into FOLDER, and its path to
//! stdout once the API answers; it serves until it is killed.

use std::{collections::BTreeSet, env, error::Error, fs, net::TcpListener, path::Path, thread};

use netprobe_tests::api::{Api, node, pod};
use serde_json::{Value, json};

/// Pods behind one service.
const BEHIND: usize = 10;
/// Bytes that a pod of a real cluster has in fields that name nobody (managedFields, env, volumes, conditions).
const BALLAST: usize = 4000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let (Some(pods), Some(folder)) = (words.next(), words.next()) else {
        return Err("say the file of the pods and the folder of the kubeconfig".into());
    };
    let api = Api::serve(TcpListener::bind("127.0.0.1:0")?);
    fill(&api, &fs::read_to_string(pods)?)?;
    println!("{}", api.kubeconfig(Path::new(&folder)).display());
    loop {
        thread::park();
    }
}

fn fill(api: &Api, pods: &str) -> Result<(), Box<dyn Error>> {
    let mut rows = vec![];
    for line in pods.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [node, namespace, name, ip] = words[..] else {
            return Err(format!("`{line}` is not node, namespace, name and address").into());
        };
        rows.push((node, namespace, name, ip));
    }
    let nodes: BTreeSet<&str> = rows.iter().map(|row| row.0).collect();
    for (number, name) in nodes.into_iter().enumerate() {
        api.put("nodes", node(name, &format!("10.250.{}.{}", number / 250, number % 250 + 1)));
    }
    for (node, namespace, name, ip) in &rows {
        let mut pod = pod(namespace, name, node, &[(*ip).to_owned()]);
        pod["metadata"]["annotations"] = json!({"example.com/ballast": "x".repeat(BALLAST)});
        api.put("pods", pod);
    }
    for (number, behind) in rows.chunks(BEHIND).enumerate() {
        let (_, namespace, ..) = behind[0];
        let (name, port) = (format!("service-{number}"), json!([{"name": "http", "port": 80, "protocol": "TCP"}]));
        let ip = format!("10.96.{}.{}", number / 250, number % 250 + 1);
        let ends: Vec<Value> = behind
            .iter()
            .map(|(_, namespace, name, ip)| {
                let pod = json!({"kind": "Pod", "namespace": namespace, "name": name});
                json!({"addresses": [ip], "conditions": {"ready": true}, "targetRef": pod})
            })
            .collect();
        let labels = json!({"kubernetes.io/service-name": &name});
        api.put(
            "services",
            json!({"metadata": {"namespace": namespace, "name": &name}, "spec": {"clusterIP": &ip, "clusterIPs": [&ip], "ports": &port}}),
        );
        api.put(
            "endpointslices",
            json!({
                "metadata": {"namespace": namespace, "name": &name, "labels": labels},
                "addressType": "IPv4", "ports": &port, "endpoints": ends,
            }),
        );
    }
    Ok(())
}
