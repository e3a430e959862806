//! The keys of a configuration, read one by one with their defaults. Remembers which keys there are, what each has in
//! the end, and every problem on the way. Pure: files are read through [`Files`].

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::{Origin, Problem, Raw};
use super::{Secret, Setting};

/// How files are read, so that tests need none.
pub(crate) type Files<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Reads keys one by one, keeps what it learned of each, and collects problems instead of stopping.
pub(crate) struct Keys<'a> {
    raw: Raw,
    files: Files<'a>,
    /// Every key that was asked for, with `[]` for the index of a list.
    known: BTreeSet<String>,
    settings: Vec<Setting>,
    problems: Vec<Problem>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(mut raw: Raw, files: Files<'a>) -> Self {
        let problems = std::mem::take(&mut raw.problems);
        Self { raw, files, known: BTreeSet::new(), settings: Vec::new(), problems }
    }

    /// What every key has, or every problem. The keys that nobody asked for are problems too.
    pub(crate) fn finish(mut self) -> Result<Vec<Setting>, Vec<Problem>> {
        self.unknown();
        if self.problems.is_empty() { Ok(self.settings) } else { Err(self.problems) }
    }

    /// A problem of a key whose value is bad is told with the variable or flag that it came from.
    pub(crate) fn problem(&mut self, key: &str, wrong: impl Into<String>, remedy: impl Into<String>) {
        let origin = self.raw.entries.get(key).map(|entry| entry.origin);
        let key = match origin {
            Some(Origin::Environment) => format!("{key} ({})", variable(key)),
            Some(Origin::Flag) => format!("{key} (--set)"),
            _ => key.to_owned(),
        };
        self.problems.push(Problem::new(key, wrong, remedy));
    }

    pub(crate) fn text(&mut self, key: &str, default: Option<&str>) -> Option<String> {
        self.known.insert(template(key));
        let entry = self.raw.entries.get(key);
        let written = entry.and_then(|entry| Some((entry.text.clone()?, entry.origin)));
        let (value, origin) = match written {
            Some((text, origin)) if text != NONE => (Some(text), origin),
            Some((_, origin)) => (None, origin),
            None => (default.map(str::to_owned), Origin::Default),
        };
        let shown = value.clone().unwrap_or_else(|| NONE.to_owned());
        self.settings.push(Setting { key: key.to_owned(), value: shown, origin });
        match value {
            Some(text) if text.trim().is_empty() => {
                self.problem(key, "is empty", "give a value, or remove the key for its default");
                None
            }
            value => value,
        }
    }

    pub(crate) fn required(&mut self, key: &str, remedy: &str) -> Option<String> {
        let value = self.text(key, None);
        if value.is_none() {
            self.problem(key, "is missing", remedy);
        }
        value
    }

    pub(crate) fn number(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(text) = self.text(key, Some(&default.to_string())) else { return default };
        match text.trim().parse::<u64>() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let remedy =
                    format!("give a whole number from {} to {}{}", range.start(), range.end(), unit(key));
                self.problem(key, format!("`{}` does not fit", shorten(&text)), remedy);
                default
            }
        }
    }

    /// The unit is the end of the key: `_ms` or `_s`.
    pub(crate) fn duration(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> Duration {
        let number = self.number(key, default, range);
        if key.ends_with("_ms") { Duration::from_millis(number) } else { Duration::from_secs(number) }
    }

    pub(crate) fn choice<T: Copy + PartialEq>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let default_word = choices.iter().find(|(_, value)| *value == default).map(|(word, _)| *word);
        let Some(text) = self.text(key, default_word) else { return default };
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *value,
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                let remedy = format!("write one of: {}", words.join(", "));
                self.problem(key, format!("`{}` is no choice", shorten(&text)), remedy);
                default
            }
        }
    }

    pub(crate) fn address(&mut self, key: &str, default: Option<&str>) -> Option<SocketAddr> {
        let text = self.text(key, default)?;
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let wrong = format!("`{}` is not IP:PORT", shorten(&text));
                self.problem(key, wrong, "write for example 127.0.0.1:3306, or none");
                // One mistake is one problem: what is checked together goes on with the default.
                default.and_then(|default| default.parse().ok())
            }
        }
    }

    pub(crate) fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key, None).map(PathBuf::from)
    }

    /// A file that must be there and hold PEM text; what is in it is judged where it is used.
    pub(crate) fn pem(&mut self, key: &str) -> Option<PathBuf> {
        let path = self.path(key)?;
        match (self.files)(&path) {
            Ok(bytes) if memchr::memmem::find(&bytes, b"-----BEGIN ").is_some() => {}
            Ok(_) => {
                self.problem(key, format!("{} holds no PEM text", path.display()), "give a PEM file");
            }
            Err(error) => self.unreadable(key, &path, &error),
        }
        Some(path)
    }

    fn unreadable(&mut self, key: &str, path: &Path, error: &dyn Display) {
        let wrong = format!("{} cannot be read ({error})", path.display());
        self.problem(key, wrong, "give the path of a readable file");
    }

    /// A variable of the environment that is no key; None when it is not set.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.raw.environment.get(name).map(String::as_str)
    }

    /// The password that `<prefix>password_file` or `<prefix>password_env` names. A file's last line end is not part
    /// of it.
    pub(crate) fn password(&mut self, prefix: &str) -> Option<Secret> {
        self.password_and_file(prefix).0
    }

    /// With the file it was in, for who looks again whether it has changed.
    pub(crate) fn password_and_file(&mut self, prefix: &str) -> (Option<Secret>, Option<PathBuf>) {
        let file_key = format!("{prefix}password_file");
        let variable_key = format!("{prefix}password_env");
        let file = self.path(&file_key);
        let variable = self.text(&variable_key, None);
        let none = || Some(Secret::new(String::new()));
        let (key, bytes) = match (&file, variable) {
            (Some(_), Some(_)) => {
                self.problem(&file_key, "is given beside password_env", "keep one of them");
                return (None, file);
            }
            (Some(path), None) => match (self.files)(path) {
                Ok(bytes) => (file_key, bytes),
                Err(error) => {
                    self.unreadable(&file_key, path, &error);
                    return (none(), file);
                }
            },
            (None, Some(name)) => match self.raw.environment.get(&name) {
                Some(value) => (variable_key, value.clone().into_bytes()),
                None => {
                    self.problem(&variable_key, format!("variable `{name}` is not set"), "set it");
                    return (none(), file);
                }
            },
            (None, None) => return (None, None),
        };
        let password = super::password(bytes);
        if password.is_none() {
            self.problem(&key, "holds no usable password", "it must be UTF-8 text of 1 to 1024 bytes");
        }
        (password.or_else(none), file)
    }

    /// The words of a list, each with its key: a sequence, or one text with commas.
    pub(crate) fn words(&mut self, list: &str) -> Vec<(String, String)> {
        let text = self.text(list, None);
        let words = text
            .iter()
            .flat_map(|text| text.split(','))
            .map(|word| (list.to_owned(), word.trim().to_owned()));
        let mut words: Vec<_> = words.collect();
        for index in 0..self.items(list, &[]) {
            let key = format!("{list}[{index}]");
            let word = self.text(&key, None);
            words.extend(word.map(|word| (key, word)));
        }
        words
    }

    /// How many items a list has; `fields` are the keys that an item may have.
    pub(crate) fn items(&mut self, list: &str, fields: &[&str]) -> usize {
        self.known.insert(list.to_owned());
        self.known.extend(fields.iter().map(|field| format!("{list}[].{field}")));
        let prefix = format!("{list}[");
        let index = |key: &String| key.strip_prefix(&prefix)?.split(']').next()?.parse::<usize>().ok();
        self.raw.entries.keys().filter_map(index).max().map_or(0, |last| last + 1)
    }

    /// Every key that was written and never asked for.
    fn unknown(&mut self) {
        let unknown: Vec<(String, bool)> = self
            .raw
            .entries
            .iter()
            .map(|(key, entry)| (key.clone(), entry.text.is_some()))
            .filter(|(key, _)| !self.known.contains(&template(key)))
            .collect();
        for (key, has_value) in unknown {
            let section = format!("{}.", template(&key));
            let outer = key.rfind(['.', '[']).map_or("", |end| &key[..end]);
            if self.known.iter().any(|known| known.starts_with(&section)) {
                if has_value {
                    self.problem(&key, "is a section", "write its keys below it, indented");
                }
            } else if key.rsplit('.').next() == Some("password") {
                let remedy = "use password_file or password_env, passwords are not written here";
                self.problem(&key, "is not allowed", remedy);
            } else if self.known.contains(&template(outer)) {
                let wrong = "is below a key that takes one value";
                self.problem(&key, wrong, format!("write `{outer}: VALUE`"));
            } else {
                let remedy = match nearest(&template(&key), &self.known) {
                    Some(known) => format!("did you mean `{known}`?"),
                    None => "remove it; config/readwright.yaml lists all keys".to_owned(),
                };
                self.problem(&key, "is not a known key", remedy);
            }
        }
    }
}

/// `a.list[3].b` as `a.list[].b`.
fn template(key: &str) -> String {
    let mut template = String::with_capacity(key.len());
    let mut inside = false;
    for c in key.chars() {
        inside = c == '[' || (inside && c != ']');
        if !inside || c == '[' {
            template.push(c);
        }
    }
    template
}

/// The known key that `unknown` most likely was meant to be.
fn nearest<'a>(unknown: &str, known: &'a BTreeSet<String>) -> Option<&'a String> {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let word = last(unknown);
    let distance = |candidate: &String| {
        let candidate_word = last(candidate);
        // A key without its unit, or with another one, is the likeliest slip.
        if candidate_word.rsplit_once('_').map(|(stem, _)| stem)
            == Some(word.rsplit_once('_').map_or(word.as_str(), |(stem, _)| stem))
            || candidate_word.rsplit_once('_').map(|(stem, _)| stem) == Some(&word)
        {
            return (0, strsim::damerau_levenshtein(candidate, unknown));
        }
        (strsim::damerau_levenshtein(&candidate_word, &word), strsim::damerau_levenshtein(candidate, unknown))
    };
    let best = known.iter().min_by_key(|candidate| distance(candidate))?;
    (distance(best).0 <= word.len().div_ceil(3)).then_some(best)
}

fn variable(key: &str) -> String {
    format!("READWRIGHT_{}", key.to_ascii_uppercase().replace('.', "__"))
}

fn unit(key: &str) -> &'static str {
    match key.rsplit('_').next() {
        Some("ms") => " (milliseconds)",
        Some("s") => " (seconds)",
        Some("mib") => " (MiB)",
        _ => "",
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The word that turns an optional value off.
const NONE: &str = "none";
