//! Kernel modules that come and go while netprobe runs.

use std::{fs, path::PathBuf};

use netprobe_tests::{Lab, SERVER};

/// Modules on whose functions a program may be, or that need one of those; the first goes first.
const TABLES: [&str; 6] =
    ["ip6t_REJECT", "ip6table_filter", "ip6table_mangle", "ip6table_nat", "ip6table_raw", "ip6_tables"];

/// The file of a module, where the guest keeps them.
fn file(module: &str) -> Option<PathBuf> {
    let end = format!("-{module}.ko");
    let files = fs::read_dir("/modules").ok()?;
    files.flatten().map(|entry| entry.path()).find(|path| path.to_string_lossy().ends_with(&end))
}

/// Takes the modules out, or says that this kernel cannot.
fn removed(lab: &Lab) -> bool {
    if file("ip6_tables").is_none() {
        println!("not on this kernel: modules that can be taken out and put in");
        return false;
    }
    for module in TABLES {
        lab.on("node").run(&format!("grep -q '^{module} ' /proc/modules || exit 0; rmmod {module}"));
    }
    true
}

fn put_in(lab: &Lab, module: &str) {
    let file = file(module).expect("it was there");
    lab.on("node").run(&format!("insmod {}", file.display()));
}

#[test]
fn a_module_that_is_loaded_after_the_start_is_told() {
    let Some(lab) = Lab::start("a_module_that_is_loaded_after_the_start_is_told") else { return };
    if !removed(&lab) {
        return;
    }
    let probe = lab.trace("web-0");
    put_in(&lab, "ip6_tables");
    probe.says("which table of ip6tables-legacy dropped a packet: module ip6_tables was loaded after the start");
    lab.on("web-0").connects(SERVER);
    probe.settled().silent();
}

#[test]
fn a_module_comes_and_goes_as_before_once_netprobe_has_ended() {
    let Some(lab) = Lab::start("a_module_comes_and_goes_as_before_once_netprobe_has_ended") else { return };
    if !removed(&lab) {
        return;
    }
    put_in(&lab, "ip6_tables");
    assert!(lab.shows("ip6t_do_table"));
    let probe = lab.trace("web-0");
    let refused = lab.on("node").tries("rmmod ip6_tables").expect_err("a program is on its function");
    assert!(refused.contains("in use"), "{refused}");
    lab.on("web-0").connects(SERVER);
    probe.settled().silent();
    lab.on("node").run("rmmod ip6_tables");
    put_in(&lab, "ip6_tables");
    let probe = lab.trace("web-0");
    lab.on("web-0").connects(SERVER);
    probe.settled().silent();
}
