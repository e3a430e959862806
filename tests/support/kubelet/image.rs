//! The images that the kubelet knows, as programs of this machine: `mysql` with what its entrypoint does to an empty data
//! folder, and `readwright`, the program under test. Any other image is one that cannot be pulled.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::process::Command;

use super::process::{Mount, Process, give};
use crate::mysqld::Installation;

/// What is needed to run images.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    installation: Installation,
    /// Where it was unpacked; none when the system has it installed.
    tree: Option<PathBuf>,
    /// An empty data folder, ready to be copied.
    template: PathBuf,
    readwright: PathBuf,
    /// Further options of every mysqld that is started from now on.
    options: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    Mysql,
    Readwright,
}

impl Image {
    /// By the name, whatever the registry and the tag.
    pub(super) fn of(reference: &str) -> Option<Self> {
        let name = reference.rsplit('/').next()?;
        match name.split([':', '@']).next()? {
            "mysql" => Some(Self::Mysql),
            "readwright" => Some(Self::Readwright),
            _ => None,
        }
    }

    /// Who runs in it when the manifest does not say: user and group.
    pub(super) fn user(self) -> (u32, u32) {
        match self {
            // The entrypoint changes to it.
            Self::Mysql => (999, 999),
            Self::Readwright => (65_532, 65_532),
        }
    }
}

impl Images {
    pub(crate) async fn find(readwright: &Path) -> Result<Self, String> {
        let installation = Installation::find().await.map_err(|error| error.to_string())?;
        let template = installation.template().await.map_err(|error| error.to_string())?;
        let mysqld = installation.client("mysqld").map_err(|error| error.to_string())?;
        let tree = mysqld.parent().and_then(Path::parent).map(Path::to_owned);
        let tree = tree.filter(|_| !installation.locations().is_empty());
        Ok(Self { installation, tree, template, readwright: readwright.to_owned(), options: Arc::default() })
    }

    /// The same for another kubelet.
    pub(super) fn another(&self) -> Self {
        Self { options: Arc::default(), ..self.clone() }
    }

    pub(super) fn set_options(&self, options: &[&str]) {
        *self.options.lock() = options.iter().map(|&option| option.to_owned()).collect();
    }

    /// What the image itself brings: its variables, which the manifest's come after.
    pub(super) fn variables(&self, image: Image) -> Vec<(String, String)> {
        let path = match (image, &self.tree) {
            (Image::Mysql, Some(tree)) => format!("{}/bin:{PATH}", tree.display()),
            (Image::Mysql, None) => PATH.to_owned(),
            (Image::Readwright, _) => format!("/:{PATH}"),
        };
        vec![("PATH".to_owned(), path)]
    }

    /// Completes a process that has the manifest's part: `command` and `arguments` are the manifest's, expanded. Fills an
    /// empty data folder as the image's entrypoint does. `folder` is the container's own.
    pub(super) async fn complete(
        &self,
        image: Image,
        mut process: Process,
        command: Option<Vec<String>>,
        arguments: Vec<String>,
        folder: &Path,
    ) -> Result<Process, String> {
        match image {
            Image::Readwright => {
                process.mounts.insert(
                    0,
                    Mount { from: self.readwright.clone(), to: READWRIGHT.to_owned(), read_only: true },
                );
                process.command = command.unwrap_or_else(|| vec![READWRIGHT.to_owned()]);
                process.command.extend(arguments);
            }
            Image::Mysql => self.mysql(&mut process, command, arguments, folder).await?,
        }
        Ok(process)
    }

    async fn mysql(
        &self,
        process: &mut Process,
        command: Option<Vec<String>>,
        arguments: Vec<String>,
        folder: &Path,
    ) -> Result<(), String> {
        if let Some(tree) = &self.tree {
            let to = tree.to_string_lossy().into_owned();
            process.mounts.insert(0, Mount { from: tree.clone(), to, read_only: true });
        }
        let options = folder.join("my.cnf");
        let mut lines = vec!["[mysqld]".to_owned()];
        lines.extend(self.installation.locations());
        lines.push(MY_CNF.to_owned());
        fs::write(&options, lines.join("\n")).map_err(|error| error.to_string())?;
        process.mounts.insert(0, Mount { from: options, to: "/etc/my.cnf".to_owned(), read_only: true });
        let made = ["/var/lib/mysql", "/var/lib/mysql-files", "/var/run/mysqld", "/etc/mysql/conf.d"];
        process.folders.extend(made.map(str::to_owned));
        if let Some(command) = command.filter(|command| command.first().is_some_and(|word| word != "mysqld"))
        {
            process.command = command;
            process.command.extend(arguments);
            return Ok(());
        }
        // `--defaults-file` has to be the first argument; it is where the image's mysqld would look.
        process.command = vec!["mysqld".to_owned(), "--defaults-file=/etc/my.cnf".to_owned()];
        process.command.extend(arguments.into_iter().skip_while(|argument| argument == "mysqld"));
        // Several servers share a small machine.
        process.command.extend(SMALL.map(str::to_owned));
        process.command.extend(self.options.lock().iter().cloned());
        let data = process.mounts.iter().find(|mount| mount.to.trim_end_matches('/') == "/var/lib/mysql");
        let data = data.ok_or("mysql: no volume is mounted at /var/lib/mysql")?.from.clone();
        if let Some(first) = self.first_start(&data, process).await? {
            let to = "/docker-entrypoint-first.sql".to_owned();
            process.command.push(format!("--init-file={to}"));
            process.mounts.push(Mount { from: first, to, read_only: true });
        }
        Ok(())
    }

    /// What the entrypoint of the official image does: an empty folder is initialised, root gets its password, and nothing
    /// of that is in the binary log. The server runs the statements before it accepts connections, so nobody meets a server
    /// without a password, as with the image's temporary server. Some: the folder is new, or the first start did not end well.
    async fn first_start(&self, data: &Path, process: &Process) -> Result<Option<PathBuf>, String> {
        let statements = data.with_extension("first.sql");
        if data.join("mysql").is_dir() && !statements.exists() {
            return Ok(None);
        }
        let variable = |name: &str| -> Result<Option<String>, String> {
            let find = |name: &str| {
                process.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value)
            };
            Ok(find(name).cloned())
        };
        let password = match variable("MYSQL_ROOT_PASSWORD")? {
            Some(password) if !password.is_empty() => password,
            _ => match variable("MYSQL_ROOT_PASSWORD_FILE")? {
                Some(file) => self.read_mounted(process, &file)?,
                None if variable("MYSQL_ALLOW_EMPTY_PASSWORD")?.is_some_and(|value| !value.is_empty()) => {
                    String::new()
                }
                None => {
                    return Err("Database is uninitialized and password option is not specified".to_owned());
                }
            },
        };
        let host = variable("MYSQL_ROOT_HOST")?.unwrap_or_else(|| "%".to_owned());
        if !data.join("mysql").is_dir() {
            let run = Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .arg(self.template.join("."))
                .arg(data)
                .status();
            match run.await {
                Ok(status) if status.success() => {}
                other => return Err(format!("cannot copy {}: {other:?}", self.template.display())),
            }
            // As `--initialize` does: a server of its own makes its own keys. The identity is not in the template.
            for entry in fs::read_dir(data).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|kind| kind == "pem") {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        give(data, process.user, process.group).await?;
        let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
        let mut lines = vec![
            "SET @@SESSION.SQL_LOG_BIN=0;".to_owned(),
            format!("ALTER USER 'root'@'localhost' IDENTIFIED BY '{quoted}';"),
            "GRANT ALL ON *.* TO 'root'@'localhost' WITH GRANT OPTION;".to_owned(),
        ];
        if host != "localhost" {
            lines.push(format!("CREATE USER IF NOT EXISTS 'root'@'{host}' IDENTIFIED BY '{quoted}';"));
            lines.push(format!("GRANT ALL ON *.* TO 'root'@'{host}' WITH GRANT OPTION;"));
        }
        lines.push("DROP DATABASE IF EXISTS test;".to_owned());
        lines.push(String::new());
        fs::write(&statements, lines.join("\n")).map_err(|error| error.to_string())?;
        Ok(Some(statements))
    }

    /// A file of the container, through its mounts.
    fn read_mounted(&self, process: &Process, path: &str) -> Result<String, String> {
        let host = process.mounts.iter().find_map(|mount| {
            let below = path.strip_prefix(mount.to.trim_end_matches('/'))?;
            Some(mount.from.join(below.trim_start_matches('/')))
        });
        let host = host.ok_or_else(|| format!("{path} is on no volume"))?;
        fs::read_to_string(&host)
            .map(|text| text.trim_end_matches('\n').to_owned())
            .map_err(|error| format!("{path}: {error}"))
    }

    /// The server accepts connections: its first start has ended well.
    pub(super) fn started(data: &Path) {
        let _ = fs::remove_file(data.with_extension("first.sql"));
    }
}

/// Where the image has the program.
const READWRIGHT: &str = "/readwright";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As in the official image.
const MY_CNF: &str = "\
host-cache-size=0
skip-name-resolve
datadir=/var/lib/mysql
socket=/var/run/mysqld/mysqld.sock
secure-file-priv=/var/lib/mysql-files
user=mysql
pid-file=/var/run/mysqld/mysqld.pid
[client]
socket=/var/run/mysqld/mysqld.sock
!includedir /etc/mysql/conf.d/
";
const SMALL: [&str; 6] = [
    "--innodb-buffer-pool-size=96M",
    "--innodb-log-buffer-size=4M",
    "--innodb-use-native-aio=OFF",
    "--innodb-buffer-pool-dump-at-shutdown=OFF",
    "--innodb-buffer-pool-load-at-startup=OFF",
    "--loose-mysqlx=OFF",
];
