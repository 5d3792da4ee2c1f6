//! Pods as a node makes them: a network by the CNI's bridge plugin, a container by containerd and runc.

use std::{
    env, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use netprobe::cli::demo::namespace::Namespace;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{Agent, Api, Lab, On, Probe, agent::socket, api, binary, probe::arguments, wait};

/// The names of the pods, of namespace `shop`.
pub const CONTAINERS: [&str; 3] = ["cart-0", "cart-1", "cart-2"];
/// What netprobe is allowed in its container: what the chart gives without `privileged`.
const CAPABILITIES: [&str; 9] =
    ["BPF", "NET_ADMIN", "NET_BROADCAST", "NET_RAW", "PERFMON", "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE", "SYSLOG"];
/// Where Debian's containernetworking-plugins lie.
const PLUGINS: &str = "/usr/lib/cni";
/// How long containerd may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pod's network and the id of its container.
struct Pod {
    name: &'static str,
    ip: Ipv4Addr,
    namespace: Namespace,
    id: String,
}

/// A node's containers; gone when dropped.
pub struct Containers<'a> {
    lab: &'a Lab,
    api: Api,
    daemon: Child,
    directory: PathBuf,
    /// Below every cgroup hierarchy.
    cgroup: String,
    pods: Vec<Pod>,
}

impl<'a> Containers<'a> {
    /// Starts containerd on the lab's node, with three pods, which an API server names. None where there is no containerd;
    /// in CI that is a failure, but for guests, which have no packages.
    #[must_use]
    pub fn start(lab: &'a Lab) -> Option<Self> {
        let is_there =
            ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/lib/cni/bridge"].map(|file| Path::new(file).exists());
        if is_there != [true; 3] {
            let is_guest = !Path::new("/var/lib/dpkg").exists();
            assert!(is_guest || env::var_os("CI").is_none(), "containerd, runc and the CNI plugins are needed");
            println!("not on this kernel: its guest has no containerd, runc and CNI plugins");
            return None;
        }
        let directory = lab.directory().join("containerd");
        let cgroup = lab.directory().file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        fs::create_dir_all(&directory).expect("make a directory");
        let [root, state, socket] = ["root", "state", "containerd.sock"].map(|name| directory.join(name));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = {:?}\n",
            directory.join("ttrpc.sock")
        );
        let file = directory.join("config.toml");
        fs::write(&file, config).expect("write the configuration");
        let log = fs::File::create(directory.join("log")).expect("make a log");
        let mut command = Command::new("containerd");
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let daemon = lab.on("node").enter(|| command.spawn()).expect("start containerd");
        let mut new = Self { lab, api: lab.api(), daemon, directory, cgroup, pods: Vec::new() };
        assert!(
            wait(PATIENCE, || new.ctr().arg("version").output().is_ok_and(|o| o.status.success())),
            "{}",
            new.log()
        );
        CONTAINERS.into_iter().for_each(|name| new.add(name));
        Some(new)
    }

    /// A pod's namespace.
    #[must_use]
    pub fn on(&self, name: &str) -> On<'_> {
        On(&self.pod(name).namespace)
    }

    /// A pod's address.
    #[must_use]
    pub fn ip(&self, name: &str) -> Ipv4Addr {
        self.pod(name).ip
    }

    /// Starts netprobe in a container, as the DaemonSet does, and returns once it is attached.
    #[must_use]
    pub fn netprobe(&self, args: &[&str]) -> Probe {
        let config = self.api.kubeconfig(self.lab.directory());
        let names = ["--kubeconfig".as_ref(), config.as_os_str()];
        let words = arguments(self.lab, &names, args);
        let words: Vec<&str> = words.iter().map(|word| word.to_str().expect("text")).collect();
        Probe::run(self.lab, self.container("netprobe", &words))
    }

    /// Starts an agent in a container named `netprobe`, and returns once it is ready.
    #[must_use]
    pub fn agent(&self, args: &[&str]) -> Agent<'a> {
        let config = self.api.kubeconfig(self.lab.directory());
        let socket = socket(self.lab);
        let [config, socket] = [&config, &socket].map(|path| path.to_str().expect("text"));
        let words = ["agent", "--kubeconfig", config, "--socket", socket];
        Agent::spawn(self.lab, self.container("netprobe", &[&words, args].concat()))
    }

    /// What runs netprobe in a container of that name, with these words and no others.
    fn container(&self, name: &str, args: &[&str]) -> Command {
        let spec = self.directory.join(format!("{name}.json"));
        fs::write(&spec, self.spec(name, args).to_string()).expect("write the container's configuration");
        let mut command = self.ctr();
        command.args(["run", "--rm", "--config"]).arg(spec).arg(name);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Kills a container's process, as nobody can prevent.
    pub fn kill(&self, name: &str) {
        let killed = self.ctr().args(["task", "kill", "--signal", "SIGKILL", name]).status();
        assert!(killed.is_ok_and(|status| status.success()), "no container {name}: {}", self.log());
    }

    fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|pod| pod.name == name).expect("there is such a pod")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.directory.join("containerd.sock")).args(["--namespace", "k8s.io"]);
        command
    }

    /// Makes a pod: the CNI gives it an address, and a container sleeps in its namespace.
    fn add(&mut self, name: &'static str) {
        let network = self.directory.parent().and_then(|lab| lab.file_name()?.to_str()).expect("a name");
        let namespace = Namespace::create(&format!("{network}-{name}")).expect("make a namespace");
        let id = format!("{:0>64x}", self.pods.len() + 1);
        let ip = self.cni(&namespace, &id);
        self.lab.on("node").run(&format!("ip rule add pref 1536 from {ip} lookup 2"));
        let root = self.directory.join("rootfs");
        for below in ["proc", "dev", "sys", "run", "bin"] {
            fs::create_dir_all(root.join(below)).expect("make a root");
        }
        copy(Path::new("/bin/sleep"), &root, "sleep");
        let uid = format!("0c7b3a5e-91f4-4f6a-8f83-2f60f5a1c9d{}", self.pods.len());
        let here = api::host_name();
        let mut object = api::pod("shop", name, &here, &[ip.to_string()]);
        object["metadata"]["uid"] = uid.clone().into();
        self.api.put("pods", object);
        let mut command = self.ctr();
        command.args(["run", "--detach", "--rootfs", "--with-ns"]);
        command.arg(format!("network:/run/netns/{}", namespace.name()));
        command.arg("--cgroup").arg(format!("/{}/kubepods/burstable/pod{uid}/{id}", self.cgroup));
        let run = command.arg(root).args([&id, "/bin/sleep", "1000000"]).output().expect("run ctr");
        assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stderr), self.log());
        self.pods.push(Pod { name, ip, namespace, id });
    }

    /// Asks the bridge plugin for a network, as a runtime does; returns the address.
    fn cni(&self, namespace: &Namespace, id: &str) -> Ipv4Addr {
        let network = json!({
            "cniVersion": "0.4.0", "name": "pods", "type": "bridge", "bridge": "cni0", "isGateway": true,
            "ipam": {
                "type": "host-local", "dataDir": self.directory.join("ipam"),
                "ranges": [[{"subnet": "10.61.7.128/25"}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        let line = format!(
            "CNI_COMMAND=ADD CNI_CONTAINERID={id} CNI_NETNS=/run/netns/{} CNI_IFNAME=eth0 CNI_PATH={PLUGINS} {PLUGINS}/bridge \
             <<'END'\n{network}\nEND\n",
            namespace.name()
        );
        let result: Value = serde_json::from_str(&self.lab.on("node").run(&line)).expect("the plugin writes JSON");
        let address = result["ips"][0]["address"].as_str().and_then(|net| net.split('/').next()?.parse().ok());
        address.expect("the plugin tells the address")
    }

    /// A container of the node's own network that sees the host's processes, as the DaemonSet's (OCI runtime
    /// specification).
    fn spec(&self, name: &str, args: &[&str]) -> Value {
        let root = self.directory.join("image");
        copy(&binary(), &root, "netprobe");
        let printed = Command::new("ctr").args(["oci", "spec"]).output().expect("run ctr");
        let mut spec: Value = serde_json::from_slice(&printed.stdout).expect("it writes JSON");
        let words: Vec<&str> = ["/bin/netprobe"].into_iter().chain(args.iter().copied()).collect();
        let capabilities: Vec<String> = CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
        let process = &mut spec["process"];
        process["args"] = words.into();
        process["env"] = json!(["PATH=/bin"]);
        for set in ["bounding", "effective", "permitted"] {
            process["capabilities"][set] = capabilities.clone().into();
        }
        spec["root"] = json!({"path": root, "readonly": false});
        let node = self.lab.on("node");
        let linux = &mut spec["linux"];
        linux["namespaces"] = json!([
            {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
            {"type": "network", "path": format!("/run/netns/{}", node.0.name())},
        ]);
        linux["cgroupsPath"] = format!("/{}/kubepods/besteffort/{name}", self.cgroup).into();
        linux["resources"] = json!({});
        let mounts = spec["mounts"].as_array_mut().expect("a list");
        mounts.retain(|mount| mount["destination"] != "/run");
        let shared =
            |path: &Path| json!({"destination": path, "type": "bind", "source": path, "options": ["rbind", "rslave"]});
        mounts.extend([shared(Path::new("/run/netns")), shared(self.lab.directory())]);
        spec["hostname"] = api::host_name().into();
        spec
    }
}

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        let names: Vec<String> = self.pods.iter().map(|pod| pod.id.clone()).chain(["netprobe".to_owned()]).collect();
        for name in names {
            // What has ended already is not there.
            let _ = self.ctr().args(["task", "delete", "--force", &name]).output();
            let _ = self.ctr().args(["container", "delete", &name]).output();
        }
        let _ = kill(Pid::from_raw(self.daemon.id().try_into().expect("a pid")), Signal::SIGTERM);
        if !wait(PATIENCE, || self.daemon.try_wait().is_ok_and(|status| status.is_some())) {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            remove_cgroup(&folder.join(&self.cgroup));
        }
    }
}

/// Removes a cgroup with those below it, if nobody is in them.
fn remove_cgroup(folder: &Path) {
    let below = fs::read_dir(folder).into_iter().flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).for_each(|entry| remove_cgroup(&entry.path()));
    let _ = fs::remove_dir(folder);
}

/// Copies a program, and the libraries it is linked with, to a root directory, where it has that name.
fn copy(program: &Path, root: &Path, name: &str) {
    let listed = Command::new("ldd").arg(program).output().expect("run ldd");
    let listed = String::from_utf8_lossy(&listed.stdout);
    let libraries = listed.split_whitespace().filter_map(|word| Some((Path::new(word), word.strip_prefix('/')?)));
    let program = (program, root.join("bin").join(name));
    let all = libraries.map(|(file, below)| (file, root.join(below))).chain([program]);
    for (from, to) in all.filter(|(_, to)| !to.exists()) {
        fs::create_dir_all(to.parent().expect("it has one")).expect("make its directory");
        fs::copy(from, to).expect("copy it");
    }
}
