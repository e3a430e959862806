//! Which MySQL is run: finds the machine's own or fetches one, knows where its files are, and keeps a data folder of it
//! as a template, because making one takes seconds and copying it does not.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::Error;

/// A MySQL whose programs can be run.
#[derive(Clone, Debug)]
pub(crate) struct Installation {
    pub(super) mysqld: PathBuf,
    /// An unpacked tree: mysqld has to be told where its files are. None for a mysqld installed where it was built for.
    tree: Option<PathBuf>,
    version: Version,
    /// As mysqld prints it, for people and for the template's name.
    version_text: String,
}

/// Major, minor, patch.
pub(crate) type Version = (u16, u16, u16);

impl Installation {
    /// The MySQL of this machine, or one fetched into the cache folder (some seconds, its progress on standard error).
    pub(crate) async fn find() -> Result<Self, Error> {
        let shell = PathBuf::from("bash");
        let output = Command::new(&shell)
            .args(["-c", FETCH, "mysql-tree"])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|source| Error::Run { program: shell, source })?;
        if !output.status.success() {
            return Err(Error::Missing("fetching one failed as said above".to_owned()));
        }
        match String::from_utf8_lossy(&output.stdout).trim() {
            "system" => Self::at(on_path("mysqld")?, None).await,
            tree => Self::at(Path::new(tree).join("bin/mysqld"), Some(PathBuf::from(tree))).await,
        }
    }

    async fn at(mysqld: PathBuf, tree: Option<PathBuf>) -> Result<Self, Error> {
        let run = Command::new(&mysqld).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(Duration::from_secs(30), run)
            .await
            .map_err(|_| Error::Missing(format!("{} --version does not end", mysqld.display())))?
            .map_err(|source| Error::Run { program: mysqld.clone(), source })?;
        let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match parse_version(&printed) {
            Some((version, text)) if version >= OLDEST => {
                Ok(Self { mysqld, tree, version, version_text: text.to_owned() })
            }
            _ => Err(Error::Unfit { program: mysqld, found: printed }),
        }
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The path of one of MySQL's client programs (`mysql`, `mysqldump`, ...), for running it or for showing it to a person.
    pub(crate) fn client(&self, program: &str) -> Result<PathBuf, Error> {
        match &self.tree {
            Some(tree) => Ok(tree.join("bin").join(program)),
            None => on_path(program),
        }
    }

    /// Options that say where this installation's own files are.
    pub(crate) fn locations(&self) -> Vec<String> {
        let Some(tree) = &self.tree else { return Vec::new() };
        let at = |option: &str, below: &str| format!("{option}=\"{}\"", tree.join(below).display());
        vec![
            at("basedir", "usr"),
            at("lc_messages_dir", "usr/share/mysql"),
            at("character_sets_dir", "usr/share/mysql/charsets"),
            at("plugin_dir", "usr/lib/mysql/plugin"),
        ]
    }

    /// A data folder as `--initialize-insecure` leaves it, made once for this version and kept in the cache folder.
    pub(crate) async fn template(&self) -> Result<PathBuf, Error> {
        let cache = cache_folder()?;
        fs::create_dir_all(&cache).map_err(file("create", &cache))?;
        let template = cache.join(format!("data-{}", self.version_text));
        let lock_path = cache.join(format!("data-{}.lock", self.version_text));
        let lock = File::create(&lock_path).map_err(file("create", &lock_path))?;
        // Another process may be making it: that takes seconds.
        let patience = Instant::now() + Duration::from_secs(300);
        while lock.try_lock().is_err() {
            if Instant::now() > patience {
                return Err(Error::Busy(lock_path));
            }
            sleep(Duration::from_millis(100)).await;
        }
        if template.is_dir() {
            return Ok(template);
        }
        let making = cache.join(format!("data-{}.making", self.version_text));
        remove_folder(&making)?;
        fs::create_dir_all(&making).map_err(file("create", &making))?;
        let options = making.join("my.cnf");
        let data = making.join("data");
        let mut lines = self.locations();
        lines.extend([format!("datadir=\"{}\"", data.display()), "user=root".to_owned()]);
        lines.extend(SMALL.iter().map(|line| (*line).to_owned()));
        write_options(&options, &lines)?;
        let run = Command::new(&self.mysqld)
            .arg(format!("--defaults-file={}", options.display()))
            .arg("--initialize-insecure")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(Duration::from_secs(180), run)
            .await
            .map_err(|_| Error::Initialise("mysqld --initialize-insecure does not end".to_owned()))?
            .map_err(|source| Error::Run { program: self.mysqld.clone(), source })?;
        if !output.status.success() {
            return Err(Error::Initialise(complaints(&String::from_utf8_lossy(&output.stderr))));
        }
        // Every server makes an identity of its own at its first start.
        let identity = data.join("auto.cnf");
        fs::remove_file(&identity).map_err(file("remove", &identity))?;
        fs::rename(&data, &template).map_err(file("rename", &data))?;
        remove_folder(&making)?;
        Ok(template)
    }
}

fn on_path(program: &str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::Missing(format!("{program} is not on PATH")))
}

/// Where `scripts/mysql-tree` keeps its trees, too.
fn cache_folder() -> Result<PathBuf, Error> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("READWRIGHT_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("readwright")))
        .or_else(|| set("HOME").map(|folder| folder.join(".cache/readwright")))
        .ok_or_else(|| Error::Missing("neither HOME nor READWRIGHT_CACHE is set".to_owned()))
}

/// `/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))` -> ((9, 7, 4), "9.7.4-2"). None for MariaDB.
fn parse_version(printed: &str) -> Option<(Version, &str)> {
    let mut words = printed.split_whitespace().skip_while(|word| *word != "Ver").skip(1);
    let text = words.next()?;
    if printed.contains("MariaDB") {
        return None;
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').map_or(text, |end| &text[..end]);
    let mut numbers = digits.split('.').map(str::parse::<u16>);
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((version, text))
}

/// The lines of a log that say what went wrong; its last lines when none does.
pub(super) fn complaints(log: &str) -> String {
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("[ERROR]")).take(8).collect();
    if !errors.is_empty() {
        return errors.join("\n");
    }
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

pub(super) fn write_options(path: &Path, lines: &[String]) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        let mut options = File::create(path)?;
        writeln!(options, "[mysqld]")?;
        lines.iter().try_for_each(|line| writeln!(options, "{line}"))
    };
    write().map_err(file("write", path))
}

pub(super) fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

pub(super) fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", folder)(error)),
        _ => Ok(()),
    }
}

pub(super) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// The first version with CLONE.
pub(super) const OLDEST: Version = (8, 0, 17);
/// Several servers share a small machine. Also used for making the template, whose files must fit.
pub(super) const SMALL: &[&str] = &[
    "innodb_buffer_pool_size=96M",
    "innodb_log_buffer_size=4M",
    "innodb_use_native_aio=OFF",
    "innodb_buffer_pool_dump_at_shutdown=OFF",
    "innodb_buffer_pool_load_at_startup=OFF",
    "table_open_cache=400",
    "loose_mysqlx=OFF",
];

/// Prints a folder or `system`.
const FETCH: &str = include_str!("../../../scripts/mysql-tree");

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_read_from_what_mysqld_prints() {
        let check = |printed: &str, expected: Option<(super::Version, &str)>| {
            assert_eq!(super::parse_version(printed), expected)
        };
        check("/usr/sbin/mysqld  Ver 9.7.4-2 for Linux on x86_64 ((Debian))", Some(((9, 7, 4), "9.7.4-2")));
        check("mysqld  Ver 8.0.36-0ubuntu0.22.04.1 for Linux", Some(((8, 0, 36), "8.0.36-0ubuntu0.22.04.1")));
        check(
            "mysqld  Ver 26.7.0 for Linux on aarch64 (MySQL Community Server - GPL)",
            Some(((26, 7, 0), "26.7.0")),
        );
        check("mysqld  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu", None);
        check("mysqld: error while loading shared libraries", None);
        check("", None);
    }
}
