//! Runs a container as a process of this machine: in its pod's network namespace, in a mount namespace of its own whose
//! root holds this machine's programs (read-only) and the container's volumes at their paths. Mounts are seen by nobody
//! else and end with the process. There is no isolation of processes or of memory, and none is claimed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;

/// A container's root, its user, and what runs in it.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// The network namespace's file.
    pub(super) network: String,
    pub(super) host_name: String,
    /// An empty folder on which the root is mounted.
    pub(super) root: PathBuf,
    pub(super) mounts: Vec<Mount>,
    /// Folders of the image that are writable unless the root is read-only, owned by the user.
    pub(super) folders: Vec<String>,
    pub(super) read_only: bool,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) groups: Vec<u32>,
    pub(super) work: String,
    pub(super) variables: Vec<(String, String)>,
    pub(super) command: Vec<String>,
    pub(super) log: PathBuf,
}

/// A file or folder of this machine, seen at a path of the container.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    pub(super) from: PathBuf,
    pub(super) to: String,
    pub(super) read_only: bool,
}

/// A running container, for running more in it.
#[derive(Clone, Debug)]
pub(super) struct Entered {
    pub(super) process: u32,
    pub(super) user: u32,
    pub(super) group: u32,
    pub(super) variables: Vec<(String, String)>,
}

impl Process {
    pub(super) fn spawn(&self) -> Result<Child, String> {
        let complain = |error: std::io::Error| format!("{}: {error}", self.log.display());
        fs::create_dir_all(&self.root).map_err(complain)?;
        let output = File::options().create(true).append(true).open(&self.log).map_err(complain)?;
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        Command::new("nsenter")
            .arg(format!("--net={}", self.network))
            .args(["unshare", "--mount", "--uts", "--propagation", "private", "--", "sh", "-c"])
            .arg(self.script())
            .args(["container", "chroot"])
            .arg(format!("--userspec={}:{}", self.user, self.group))
            .arg(format!("--groups={}", groups.join(",")))
            .arg(&self.root)
            .args(["env", "-i"])
            .arg(format!("--chdir={}", self.work))
            .args(self.variables.iter().map(|(name, value)| format!("{name}={value}")))
            .args(&self.command)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(complain)?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("nsenter: {error}"))
    }

    /// Builds the root and becomes what its arguments say.
    fn script(&self) -> String {
        let root = quote(&self.root.to_string_lossy());
        let mut lines = vec![
            "set -e".to_owned(),
            format!("echo {} >/proc/sys/kernel/hostname", quote(&self.host_name)),
            format!("mount -t tmpfs -o mode=755 container {root}"),
            format!("cd {root}"),
            "mkdir -p proc dev tmp etc run usr root var; ln -s ../run var/run".to_owned(),
            "chmod 1777 tmp".to_owned(),
            "mount --rbind -o ro /usr usr".to_owned(),
            // Folders of their own on some systems, links into /usr on others.
            "for name in bin sbin lib lib32 lib64; do".to_owned(),
            "  if [ -L /$name ]; then cp -P /$name .; elif [ -d /$name ]; then mkdir $name; mount --rbind -o ro /$name $name; fi"
                .to_owned(),
            "done".to_owned(),
            "mount --rbind /dev dev".to_owned(),
            "mount -t proc proc proc".to_owned(),
            "[ ! -d /etc/ssl ] || { mkdir etc/ssl; mount --bind -o ro /etc/ssl etc/ssl; }".to_owned(),
            format!("printf '%s\\n' {} >etc/passwd", quote(PASSWD)),
            "printf 'root:x:0:\\nmysql:x:999:\\nnonroot:x:65532:\\n' >etc/group".to_owned(),
            "printf 'hosts: files\\n' >etc/nsswitch.conf".to_owned(),
            ": >etc/resolv.conf".to_owned(),
        ];
        for folder in &self.folders {
            let inside = quote(folder.trim_start_matches('/'));
            lines.push(format!("mkdir -p {inside}; chown {}:{} {inside}", self.user, self.group));
        }
        for Mount { from, to, read_only } in &self.mounts {
            let inside = quote(to.trim_start_matches('/'));
            let make = match from.is_dir() {
                true => format!("mkdir -p {inside}"),
                false => format!("mkdir -p $(dirname {inside}); : >{inside}"),
            };
            lines.push(format!("{make}; mount --bind {} {inside}", quote(&from.to_string_lossy())));
            if *read_only {
                lines.push(format!("mount -o remount,bind,ro {inside}"));
            }
        }
        if self.read_only {
            lines.push("mount -o remount,ro .".to_owned());
        }
        lines.push("exec \"$@\"".to_owned());
        lines.join("\n")
    }

    pub(super) fn entered(&self, process: u32) -> Entered {
        Entered { process, user: self.user, group: self.group, variables: self.variables.clone() }
    }
}

impl Entered {
    /// Runs a command to its end. Err is what it printed.
    pub(super) async fn run(&self, command: &[String]) -> Result<(), String> {
        let run = Command::new("nsenter")
            .arg(format!("--target={}", self.process))
            .args(["--mount", "--net", "--uts", "--root", "--"])
            .args(["chroot", &format!("--userspec={}:{}", self.user, self.group), "/", "env", "-i"])
            .args(self.variables.iter().map(|(name, value)| format!("{name}={value}")))
            .args(command)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(Duration::from_secs(60), run).await.map_err(|_| "it does not end".to_owned())?;
        let output = output.map_err(|error| format!("nsenter: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!(
                "{}: {}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout).trim(),
                String::from_utf8_lossy(&output.stderr).trim()
            )),
        }
    }
}

/// Gives a folder and all in it to a user, as the entrypoint of an image does.
pub(super) async fn give(folder: &Path, user: u32, group: u32) -> Result<(), String> {
    let run = Command::new("chown").arg("-R").arg(format!("{user}:{group}")).arg(folder).status();
    match run.await {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("chown {}: {other:?}", folder.display())),
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Those of the images that are known here.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nmysql:x:999:999::/var/lib/mysql:/bin/sh\nnonroot:x:65532:65532::/home/nonroot:/bin/sh";
