//! The names of a cluster: a hosts file that every pod has, with the pods that a headless Service gives a name to. Written
//! in place, because it is mounted as a file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

pub(super) struct Names {
    path: PathBuf,
    known: Mutex<BTreeMap<Ipv4Addr, String>>,
}

impl Names {
    pub(super) fn open(path: PathBuf) -> Result<Self, String> {
        let names = Self { path, known: Mutex::default() };
        File::create(&names.path).map_err(|error| format!("{}: {error}", names.path.display()))?;
        names.write();
        Ok(names)
    }

    pub(super) fn file(&self) -> &Path {
        &self.path
    }

    /// `mysql-0.mysql` and its longer forms, and the pod's own name.
    pub(super) fn add(&self, pod: &Pod, address: Ipv4Addr) {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let host = spec.hostname.unwrap_or_else(|| name.clone());
        let mut words = vec![];
        if let Some(domain) = spec.subdomain {
            let short = format!("{host}.{domain}");
            words.push(format!(
                "{short}.{namespace}.svc.cluster.local {short} {short}.{namespace} {short}.{namespace}.svc"
            ));
        }
        words.push(name);
        self.known.lock().insert(address, words.join(" "));
        self.write();
    }

    pub(super) fn remove(&self, address: Ipv4Addr) {
        self.known.lock().remove(&address);
        self.write();
    }

    fn write(&self) {
        let known = self.known.lock();
        let mut text = "127.0.0.1 localhost\n".to_owned();
        known.iter().for_each(|(address, words)| text.push_str(&format!("{address} {words}\n")));
        // One write, then the rest cut off: a reader between the two sees whole lines, some of them twice.
        let write = || -> std::io::Result<()> {
            let mut file = File::options().write(true).open(&self.path)?;
            let length = file.metadata()?.len();
            let rest = usize::try_from(length).unwrap_or(0).saturating_sub(text.len());
            file.write_all(format!("{text}{}", "\n".repeat(rest)).as_bytes())?;
            file.seek(SeekFrom::Start(0))?;
            file.set_len(u64::try_from(text.len()).unwrap_or(length))
        };
        if let Err(error) = write() {
            eprintln!("kubelet: {}: {error}", self.path.display());
        }
    }
}
