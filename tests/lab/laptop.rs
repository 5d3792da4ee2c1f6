//! A machine from which nothing but the API server can be reached, and agents that it reaches through it.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::{
    Api, DemoPod, Lab, Probe,
    api::{
        self, TOKEN, pod,
        tls::{Authority, front},
        write_config,
    },
    binary,
    probe::arguments,
};

/// A machine in the network of a test, without a way to its node but the API server's.
pub struct Laptop<'a> {
    lab: &'a Lab,
    kubeconfig: PathBuf,
}

/// Where a laptop is: it needs no more than a loopback device.
const PLACE: &str = "server";

impl Lab {
    /// An API server that knows of no node yet.
    ///
    /// # Panics
    ///
    /// It cannot listen.
    #[must_use]
    pub fn api_alone(&self) -> Api {
        Api::serve(self.listener("node"))
    }

    fn listener(&self, place: &str) -> TcpListener {
        self.on(place).enter(|| TcpListener::bind(("127.0.0.1", 0))).expect("listen there")
    }

    /// Makes this network's node one of the cluster, called `node`, with its pods in that Kubernetes namespace.
    pub fn joins(&self, api: &Api, node: &str, namespace: &str) {
        api.put("nodes", api::node(node, "172.20.20.2"));
        for DemoPod { name, v4, v6, .. } in netprobe::cli::demo::network::PODS {
            api.put("pods", pod(namespace, name, node, &[v4.to_string(), v6.to_string()]));
        }
    }

    /// An agent on this network's node, as `deploy/` makes it: netprobe/agent-NODE. Commands in its container run here.
    pub fn agent(&self, api: &Api, node: &str) {
        let kubeconfig = api.also_at(self.listener("node"), self.directory());
        let netns = self.on("node").run("ip netns identify").trim().to_owned();
        let (name, home) = (format!("agent-{node}"), self.directory().to_owned());
        put_agent(api, node, "True");
        let own = node.to_owned();
        api.container("netprobe", &name, move |words| {
            let (_, words) = words.split_first().expect("a command has words");
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{netns}")).arg(binary()).args(words);
            command.env("KUBECONFIG", &kubeconfig).env("NODE_NAME", &own).env("HOME", &home);
            command
        });
    }

    /// A laptop that reaches that API server.
    #[must_use]
    pub fn laptop(&self, api: &Api) -> Laptop<'_> {
        Laptop { lab: self, kubeconfig: api.also_at(self.listener(PLACE), self.directory()) }
    }
}

/// The pod of that node's agent.
pub fn put_agent(api: &Api, node: &str, ready: &str) {
    let mut pod = pod("netprobe", &format!("agent-{node}"), node, &[]);
    pod["metadata"]["labels"] = json!({"app.kubernetes.io/name": "netprobe"});
    pod["spec"]["containers"] = json!([{"name": "agent", "image": "none"}]);
    pod["status"]["conditions"] = json!([{"type": "Ready", "status": ready}]);
    api.put("pods", pod);
}

impl Laptop<'_> {
    /// The same, where the API server is behind TLS.
    ///
    /// # Panics
    ///
    /// It cannot listen.
    #[must_use]
    pub fn over_tls(self, api: &Api) -> Self {
        let listener = self.lab.listener(PLACE);
        let address = listener.local_addr().expect("it listens");
        let _plain = api.also_at(listener, self.lab.directory());
        let authority = Authority::new("lab");
        let server = authority.signs("127.0.0.1");
        let secure = self.lab.listener(PLACE);
        let address = self.lab.on(PLACE).enter(|| front(secure, address, &server, None));
        let authority = BASE64_STANDARD.encode(authority.pem());
        let cluster = json!({"server": format!("https://{address}"), "certificate-authority-data": authority});
        let kubeconfig = write_config(self.lab.directory(), "kubeconfig-tls", &cluster, &json!({"token": TOKEN}));
        Self { kubeconfig, ..self }
    }

    fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.lab.directory());
        command.env_remove("SUDO_USER").env_remove("NODE_NAME");
        command
    }

    /// Starts netprobe with these words and JSON, and returns once it watches.
    #[must_use]
    pub fn netprobe(&self, args: &[&str]) -> Probe {
        let mut command = self.command(&binary(), &[]);
        command.args(arguments(self.lab, &[], args));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Probe::run_at(self.lab, PLACE, command)
    }

    /// Runs a program with these words to its end.
    ///
    /// # Panics
    ///
    /// It cannot be run.
    #[must_use]
    pub fn runs(&self, program: impl AsRef<Path>, args: &[&str]) -> Output {
        let mut command = self.command(program.as_ref(), args);
        command.stdin(Stdio::null());
        self.lab.on(PLACE).enter(|| command.output()).expect("run it")
    }

    /// The same, as a user who may do nothing on this machine.
    ///
    /// # Panics
    ///
    /// It cannot be run.
    #[must_use]
    pub fn runs_without_privileges(&self, args: &[&str]) -> Output {
        let program = binary();
        let words = ["--bounding-set=-all", "--inh-caps=-all", "--"];
        let all: Vec<&str> =
            words.into_iter().chain([program.to_str().expect("a plain path")]).chain(args.iter().copied()).collect();
        self.runs("setpriv", &all)
    }
}
