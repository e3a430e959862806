//! What the demo must know again at its next start, in one file that only its owner can read: passwords, ports, and the
//! controller's record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Error;

#[derive(Clone, Debug)]
pub(crate) struct Memory {
    path: PathBuf,
    content: Arc<Mutex<Content>>,
}

/// Passwords are random; they protect servers that listen on the loopback interface only.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Content {
    pub(super) root: String,
    pub(super) account: String,
    pub(super) replication: String,
    pub(super) application: String,
    /// Of the servers, by ordinal.
    pub(super) ports: Vec<u16>,
    /// As the controller wrote it; None before it wrote anything.
    pub(super) record: Option<String>,
}

impl Memory {
    /// Reads the file in this folder; None when there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { what: "read", path, source }),
        };
        let content =
            serde_json::from_str(&text).map_err(|source| Error::Damaged { path: path.clone(), source })?;
        Ok(Some(Self { path, content: Arc::new(Mutex::new(content)) }))
    }

    /// Makes a new file, with new passwords.
    pub(super) fn create(folder: &Path) -> Result<Self, Error> {
        let content = Content {
            root: random_text(),
            account: random_text(),
            replication: random_text(),
            application: random_text(),
            ports: Vec::new(),
            record: None,
        };
        let memory = Self { path: folder.join(FILE), content: Arc::new(Mutex::new(content)) };
        memory.write()?;
        Ok(memory)
    }

    pub(super) fn content(&self) -> Content {
        self.content.lock().clone()
    }

    pub(super) fn set_ports(&self, ports: Vec<u16>) -> Result<(), Error> {
        self.content.lock().ports = ports;
        self.write()
    }

    /// What the controller last wrote.
    pub(crate) fn record(&self) -> Option<String> {
        self.content.lock().record.clone()
    }

    /// Durable when it returns.
    pub(crate) fn set_record(&self, record: String) -> Result<(), Error> {
        self.content.lock().record = Some(record);
        self.write()
    }

    fn write(&self) -> Result<(), Error> {
        let content = self.content.lock().clone();
        let text = serde_json::to_string_pretty(&content).expect("texts and numbers only");
        let making = self.path.with_extension("making");
        let write = || -> io::Result<()> {
            let mut file: File =
                OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&making)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&making, &self.path)
        };
        write().map_err(|source| Error::File { what: "write", path: self.path.clone(), source })
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("ports", &self.ports).finish_non_exhaustive()
    }
}

/// 64 random bits in hexadecimal: nothing that a shell or an option file would read in its own way.
fn random_text() -> String {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random UUID (version 4), for a new cluster.
pub(crate) fn random_uuid() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    for at in [20, 16, 12, 8] {
        text.insert(at, '-');
    }
    text
}

/// Also what a folder of the demo's is known by.
pub(super) const FILE: &str = "demo.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_form() {
        let uuid = random_uuid();
        let dashes: Vec<usize> = uuid.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!((uuid.len(), dashes), (36, vec![8, 13, 18, 23]), "{uuid}");
        assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
    }

    #[test]
    fn what_was_written_is_read_again() {
        let folder = std::env::temp_dir().join(format!("readwright-memory-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let nothing = Memory::read(&folder).expect("readable").is_none();
        let memory = Memory::create(&folder).expect("written");
        memory.set_ports(vec![1, 2]).expect("written");
        memory.set_record("{}".to_owned()).expect("written");
        let again = Memory::read(&folder).expect("readable").expect("there");
        fs::write(folder.join(FILE), "{").expect("written");
        let damaged = Memory::read(&folder).is_err();
        fs::remove_dir_all(&folder).expect("removed");
        assert!(nothing && damaged);
        assert_eq!(again.content().application, memory.content().application);
        assert_eq!((again.content().ports, again.record()), (vec![1, 2], Some("{}".to_owned())));
    }
}
