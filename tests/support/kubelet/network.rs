//! A bridge on this machine with an address of a private range, and a network namespace per pod on it, so that every pod
//! has an address and all ports of its own, as in a cluster. Touches no link and no namespace that it did not make; a
//! watchdog process removes them, and what runs in them, when this process is gone in whatever way.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

/// The bridge, and the folder in which everything of its pods lives.
pub(crate) struct Network {
    /// The bridge's name, and what every namespace's name begins with.
    name: String,
    number: u8,
    folder: PathBuf,
    /// Last octets that no pod has; the one that has been free for longest is the next.
    free: Mutex<std::collections::VecDeque<u8>>,
    watchdog: Mutex<Child>,
}

/// A pod's network namespace. Goes with what runs in it when dropped.
pub(crate) struct PodNetwork {
    network: Arc<Network>,
    /// The namespace's name, and its link's on the bridge.
    name: String,
    octet: u8,
}

impl Network {
    /// Err says why namespaces cannot be had here. `folder` is made, and removed in the end.
    pub(crate) fn make(folder: &Path) -> Result<Arc<Self>, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("network namespaces need root".to_owned());
        }
        let taken = run("ip", &["-4", "route", "show"])?;
        let number = (0..=250_u8)
            .filter(|number| !taken.contains(&format!("10.233.{number}.")))
            // Making it is what claims the number: of two processes only one succeeds.
            .find(|number| run("ip", &["link", "add", &bridge(*number), "type", "bridge"]).is_ok())
            .ok_or("no bridge can be made: `ip link add NAME type bridge` fails")?;
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "kubelet-watchdog", &bridge(number)])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        let network = Arc::new(Self {
            name: bridge(number),
            number,
            folder: folder.to_owned(),
            free: Mutex::new((2..=250).collect()),
            watchdog: Mutex::new(watchdog),
        });
        // Routes of a bridge without a carrier are known, too.
        run("ip", &["addr", "add", &format!("{}/24", network.gateway()), "dev", &network.name])?;
        run("ip", &["link", "set", &network.name, "up"])?;
        // Proves that namespaces can be made and entered.
        let pod = network.join()?;
        run("nsenter", &[&format!("--net={}", pod.path()), "unshare", "--mount", "true"])?;
        Ok(network)
    }

    /// The bridge's own address: where pods reach what listens on this machine.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 233, self.number, 1)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A new namespace on the bridge.
    pub(super) fn join(self: &Arc<Self>) -> Result<PodNetwork, String> {
        let octet = self.free.lock().pop_front().ok_or("all addresses are taken")?;
        let pod = PodNetwork { network: Arc::clone(self), name: format!("{}p{octet}", self.name), octet };
        let (name, address) = (pod.name.as_str(), format!("{}/24", pod.address()));
        run("ip", &["netns", "add", name])?;
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name])?;
        run("ip", &["link", "set", name, "master", &self.name, "up"])?;
        run("ip", &["-n", name, "addr", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        Ok(pod)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let watchdog = self.watchdog.get_mut();
        drop(watchdog.stdin.take());
        let _ = watchdog.wait();
    }
}

impl PodNetwork {
    pub(super) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 233, self.network.number, self.octet)
    }

    /// The file by which the namespace is entered.
    pub(super) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Takes the link down or up again: packets vanish, nobody is told.
    pub(super) fn link(&self, up: bool) -> Result<(), String> {
        run("ip", &["link", "set", &self.name, if up { "up" } else { "down" }]).map(drop)
    }
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        for process in run("ip", &["netns", "pids", &self.name]).unwrap_or_default().split_whitespace() {
            let _ = run("kill", &["-KILL", process]);
        }
        let _ = run("ip", &["link", "del", &self.name]);
        let _ = run("ip", &["netns", "del", &self.name]);
        self.network.free.lock().push_back(self.octet);
    }
}

fn bridge(number: u8) -> String {
    format!("rwtest{number}")
}

/// Runs a program of the system to its end, which comes at once. Ok is what it printed.
fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} {}: {}", arguments.join(" "), why.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `sh -c WATCHDOG NAME BRIDGE FOLDER`: waits for the end of standard input, then kills what runs in the bridge's
/// namespaces and removes them, the bridge, and the folder.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for round in 1 2 3; do
  for space in $(ip netns list | sed 's/ .*//' | grep "^$1p[0-9]*$"); do
    for process in $(ip netns pids "$space"); do kill -KILL "$process" 2>/dev/null; done
    ip link del "$space" 2>/dev/null
    ip netns del "$space"
  done
done
ip link del "$1"
rm -rf -- "$2"
"#;
