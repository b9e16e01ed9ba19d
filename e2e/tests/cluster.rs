//! Protects the machine that a cluster is made on: what `up` makes, `down` removes, and both may be repeated.
#![allow(clippy::unwrap_used, reason = "a panic is how a test reports")]

use std::{env, fs, process::Command};

use millrace_e2e::{cluster::Cluster, machine::cache};

fn output(command: &str, arguments: &[&str]) -> String {
    String::from_utf8(Command::new(command).args(arguments).output().unwrap().stdout).unwrap()
}

/// What is left of a cluster of local processes.
fn leftovers(state: &str) -> Vec<String> {
    let mut left = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(state) {
            left.push(format!("process {}", process.path().display()));
        }
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    left.extend(mounts.lines().filter(|mount| mount.contains(state)).map(|mount| format!("mount {mount}")));
    for (what, listed) in [
        ("namespace", output("ip", &["netns", "list"])),
        ("interface", output("ip", &["-brief", "link"])),
        ("route", output("ip", &["route"])),
    ] {
        let ours = |line: &&str| line.contains("millrace") || line.starts_with("cni-") || line.contains("10.245.");
        left.extend(listed.lines().filter(ours).map(|line| format!("{what} {line}")));
    }
    left
}

#[test]
fn a_cluster_comes_twice_and_goes_twice_and_leaves_nothing_behind() {
    let cluster = Cluster::with_operator();
    let run = |script: &str| {
        let run = cluster.run_script(script, []);
        assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    };
    run("deploy/cluster/up");
    assert!(cluster.get("kube-system", &["deployment", "coredns"]).is_some(), "it is still the same cluster");

    run("deploy/cluster/down");
    run("deploy/cluster/down");

    match cluster.provider.as_str() {
        "local" => assert_eq!(leftovers("/millrace/cluster/"), Vec::<String>::new()),
        "kind" => {
            // kind itself is asked, because it knows which engine its nodes are in.
            let kind = cache().join("bin/kind");
            let name = env::var("KIND_CLUSTER_NAME").unwrap_or_else(|_| "millrace".to_owned());
            assert_eq!(output(kind.to_str().unwrap(), &["get", "nodes", "--name", &name]), "");
        }
        _ => assert!(
            cluster.get("default", &["serviceaccount", "default"]).is_some(),
            "a cluster of others is left alone"
        ),
    }
}
