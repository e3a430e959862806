//! `readwright demo`: a real primary and replicas on this machine, for the controller to bring up and for the proxy to
//! stand in front of. Starts and stops the servers, knows their passwords, and shows what happens; controller and proxy
//! are given what they need by the command, which runs them.

mod memory;
#[expect(dead_code, reason = "the integration tests include this module by path and use the rest of it")]
pub(crate) mod mysqld;
pub(crate) mod screen;
pub(crate) mod statements;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

pub(crate) use memory::{Memory, random_uuid};

use crate::config::raw::Problem;
use crate::config::{Config, resolve};
use crate::dba::{AccountPlan, Login};
use crate::model::access::{Account, Secret, ServerTls, TlsMode};
use crate::model::server::{Address, Endpoint, Role, ServerId};
use mysqld::{AfterDeath, Home, Installation, Instance, Server};

#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// None: below the user's data folder.
    pub(crate) folder: Option<PathBuf>,
    /// Forget what was there.
    pub(crate) fresh: bool,
    pub(crate) replicas: u32,
    /// Of the proxy; None: 6033, or another when that is taken.
    pub(crate) port: Option<u16>,
    pub(crate) after: AfterDeath,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Server(#[from] mysqld::Error),
    #[error("cannot {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be read: {source}; start over with --fresh", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{} is not empty and is no folder of the demo; name another with --data", .0.display())]
    NotOurs(PathBuf),
    #[error("there is no folder for data: set HOME, or name one with --data")]
    NoFolder,
    #[error("port {0} cannot be used; choose another with --port")]
    Port(u16, #[source] io::Error),
}

/// The servers, running.
pub(crate) struct Demo {
    home: Home,
    servers: Vec<Instance>,
    memory: Memory,
    port: u16,
    /// Keeps the port for the proxy until that is built.
    reserved: Option<TcpListener>,
}

impl Demo {
    /// Starts all servers, each on what it has from before.
    pub(crate) async fn start(options: &Options) -> Result<Self, Error> {
        let folder = options.folder.clone().or_else(default_folder).ok_or(Error::NoFolder)?;
        check_folder(&folder)?;
        // Before the servers: a mistake here should not cost their start.
        let (port, reserved) = proxy_port(options.port)?;
        let installation = Installation::find().await?;
        let home = Home::open(installation, folder, options.after).await?;
        let folder = home.folder();
        if options.fresh {
            forget(folder)?;
        }
        let memory = match Memory::read(folder)? {
            Some(memory) => memory,
            None => Memory::create(folder)?,
        };
        let content = memory.content();
        let starts = (0..=options.replicas).map(|ordinal| {
            let port = content.ports.get(ordinal as usize).copied().filter(|port| is_free(*port));
            home.start(server(ordinal, port, &content.root))
        });
        let servers = join_all(starts).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut ports: Vec<u16> = servers.iter().map(Instance::port).collect();
        // Servers that do not take part this time keep theirs.
        ports.extend(content.ports.iter().skip(ports.len()));
        memory.set_ports(ports)?;
        Ok(Self { home, servers, memory, port, reserved: Some(reserved) })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.home.folder()
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn endpoints(&self) -> Arc<[Endpoint]> {
        let endpoint = |instance: &Instance| {
            let id = ServerId::new(instance.name());
            let address = Address { host: HOST.into(), port: instance.port() };
            Endpoint {
                role: if id.ordinal() == Some(0) { Role::Primary } else { Role::Replica },
                id,
                name: address.clone(),
                address,
                zone: None,
                node: None,
                ready: true,
                uid: None,
                terminating: false,
            }
        };
        self.servers.iter().map(endpoint).collect()
    }

    /// What the controller is to create.
    pub(crate) fn accounts(&self) -> AccountPlan {
        let content = self.memory.content();
        AccountPlan {
            ours: account(OURS, &content.account),
            replication: account(REPLICATION, &content.replication),
            probes: None,
            application: Some((account(APPLICATION, &content.application), SCHEMA.to_owned())),
        }
    }

    /// The account that new servers have.
    pub(crate) fn root(&self) -> Account {
        account("root", &self.memory.content().root)
    }

    /// How the demo's own sessions log in.
    pub(crate) fn login(&self, account: Account) -> Login {
        Login::new(account, &tls(), Duration::from_secs(600))
    }

    /// The proxy's configuration: what `readwright run` would read from a file. The port is free from now on.
    pub(crate) fn config(&mut self) -> Result<Config, Vec<Problem>> {
        drop(self.reserved.take());
        let servers: String = self
            .servers
            .iter()
            .map(|server| {
                format!("    - {{name: {}, address: \"{HOST}:{}\"}}\n", server.name(), server.port())
            })
            .collect();
        let yaml = format!(
            "listen:\n  address: {HOST}:{}\n\
             topology:\n  kind: fixed\n  servers:\n{servers}\
             account:\n  user: {OURS}\n  password_env: PASSWORD\n\
             admin:\n  http: none\n  sql: none\n",
            self.port
        );
        let environment = BTreeMap::from([("PASSWORD".to_owned(), self.memory.content().account)]);
        resolve::from_yaml(&yaml, environment)
    }

    pub(crate) fn proxy(&self) -> Address {
        Address { host: HOST.into(), port: self.port }
    }

    /// The line that a person pastes to connect.
    pub(crate) fn client_line(&self) -> String {
        let program = match self.home.installation().client("mysql") {
            Ok(path) if on_path("mysql") || path.as_os_str().is_empty() => PathBuf::from("mysql"),
            Ok(path) => path,
            Err(_) => PathBuf::from("mysql"),
        };
        let password = self.memory.content().application;
        format!("{} -h{HOST} -P{} -u{APPLICATION} -p{password} {SCHEMA}", program.display(), self.port)
    }

    #[cfg(test)]
    pub(crate) fn servers(&self) -> &[Instance] {
        &self.servers
    }

    /// Takes a server's disk away: it starts again as a new, empty one, at the same address.
    #[cfg(test)]
    pub(crate) async fn lose(&mut self, ordinal: usize) {
        let lost = self.servers.remove(ordinal);
        let (folder, port) = (lost.folder().to_owned(), lost.port());
        lost.kill().await;
        drop(lost);
        fs::remove_dir_all(folder).expect("removed");
        let number = u32::try_from(ordinal).expect("a few servers");
        let root = self.memory.content().root;
        let started = self.home.start(server(number, Some(port), &root)).await;
        self.servers.insert(ordinal, started.expect("it starts"));
    }

    /// Stops all servers in order. Their data stays.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        // The primary last: replicas that lose their source only log complaints.
        join_all(self.servers.iter().skip(1).map(Instance::stop)).await;
        if let Some(primary) = self.servers.first() {
            primary.stop().await;
        }
        drop(self.servers);
        Ok(self.home.close().await?)
    }
}

const HOST: &str = "127.0.0.1";
const OURS: &str = "readwright";
const REPLICATION: &str = "replication";
const APPLICATION: &str = "app";
const SCHEMA: &str = "demo";
const PROXY_PORT: u16 = 6033;

fn account(user: &str, password: &str) -> Account {
    Account { user: user.to_owned(), password: Secret::new(password.to_owned()) }
}

/// Everything stays on the loopback interface.
pub(crate) fn tls() -> ServerTls {
    ServerTls { mode: TlsMode::Preferred, ca: None, certificate: None }
}

/// All begin alike, read-only; which one becomes the primary is the controller's to say.
fn server(ordinal: u32, port: Option<u16>, root: &str) -> Server {
    Server {
        name: format!("mysql-{ordinal}"),
        id: 100 + ordinal,
        port,
        read_only: true,
        options: Vec::new(),
        // Not in the binary log: a server that writes to it is not blank.
        first_statements: format!(
            "SET SESSION sql_log_bin = 0;\nALTER USER 'root'@'localhost' IDENTIFIED BY '{root}';\n"
        ),
    }
}

fn default_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_DATA_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("readwright/demo"))
}

/// A folder with other things in it is not touched.
fn check_folder(folder: &Path) -> Result<(), Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::File { what: "read", path: folder.to_owned(), source }),
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let ours = names.iter().any(|name| name == memory::FILE || name == "lock");
    if names.is_empty() || ours { Ok(()) } else { Err(Error::NotOurs(folder.to_owned())) }
}

/// Removes the servers' folders and the memory, and nothing else.
fn forget(folder: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { what: "remove", path, source }
    };
    for entry in fs::read_dir(folder).map_err(failed(folder))?.flatten() {
        let name = entry.file_name();
        let is_server = name.to_str().and_then(|name| name.strip_prefix("mysql-")).is_some();
        if is_server {
            fs::remove_dir_all(entry.path()).map_err(failed(&entry.path()))?;
        } else if name == memory::FILE {
            fs::remove_file(entry.path()).map_err(failed(&entry.path()))?;
        }
    }
    Ok(())
}

/// Takes a port for the proxy before the servers are started, which takes seconds.
fn proxy_port(wanted: Option<u16>) -> Result<(u16, TcpListener), Error> {
    let take = |port: u16| {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port)));
        listener.map(|listener| (port, listener)).map_err(|source| Error::Port(port, source))
    };
    match wanted {
        Some(port) => take(port),
        None => take(PROXY_PORT).or_else(|_| {
            let free = mysqld::free_port().map_err(|source| Error::Port(PROXY_PORT, source))?;
            take(free)
        }),
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).is_ok()
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_are_not_ours_are_left_alone() {
        let folder = std::env::temp_dir().join(format!("readwright-folder-{}", std::process::id()));
        assert!(check_folder(&folder).is_ok());
        fs::create_dir_all(folder.join("mysql-0")).expect("made");
        let foreign = check_folder(&folder).is_err();
        fs::write(folder.join(memory::FILE), "{}").expect("written");
        fs::write(folder.join("notes"), "mine").expect("written");
        let ours = check_folder(&folder).is_ok();
        forget(&folder).expect("removed");
        let left: Vec<_> =
            fs::read_dir(&folder).expect("there").flatten().map(|entry| entry.file_name()).collect();
        fs::remove_dir_all(&folder).expect("removed");
        assert!(foreign && ours);
        assert_eq!(left, ["notes"]);
    }
}
