//! The configuration as written: every key with its text and where it came from, a flag above the environment, the
//! environment above the file. Knows no key by name and judges no value; `resolve` does both. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde_yaml_ng::Value;

/// One thing that is wrong with the configuration: which key, what is wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) key: String,
    pub(crate) wrong: String,
    pub(crate) remedy: String,
}

/// Where a value was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

/// Keys as `section.key` and `section.list[0].key`. What could not be read at all is in `problems`.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// The process environment, for `password_env`.
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) problems: Vec<Problem>,
}

/// What stands at one key. None: nothing (`key:`, `~`, `[]`), which leaves the default.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) text: Option<String>,
    pub(crate) origin: Origin,
}

impl Raw {
    /// Reads the YAML text, then the variables named `READWRIGHT_<SECTION>__<KEY>`, then the `--set KEY=VALUE` flags.
    ///
    /// Variables without two underscores in the name are left alone: Kubernetes puts `READWRIGHT_SERVICE_HOST` and
    /// its like into every pod beside a Service of that name.
    pub(crate) fn read(yaml: &str, environment: BTreeMap<String, String>, flags: &[String]) -> Self {
        let mut raw = Self::default();
        match serde_yaml_ng::from_str::<Value>(yaml) {
            Ok(Value::Mapping(top)) => raw.flatten("", &Value::Mapping(top)),
            Ok(Value::Null) => {}
            Ok(_) => raw.problem("(file)", "is not a mapping", "write sections such as `listen:`"),
            Err(error) => {
                raw.problem("(file)", &format!("is not YAML: {error}"), "mend the file at that place")
            }
        }
        for (name, value) in &environment {
            if let Some(key) =
                name.strip_prefix(PREFIX).filter(|key| key.contains("__") && !key.contains('['))
            {
                raw.put(key.to_ascii_lowercase().replace("__", "."), value, Origin::Environment);
            }
        }
        for flag in flags {
            match flag.split_once('=') {
                Some((key, value)) if !key.contains('[') => {
                    raw.put(key.trim().to_owned(), value, Origin::Flag)
                }
                _ => {
                    raw.problem(flag, "is not KEY=VALUE", "write --set section.key=value; a list as a whole")
                }
            }
        }
        raw.environment = environment;
        raw
    }

    fn flatten(&mut self, at: &str, value: &Value) {
        let text = match value {
            Value::Mapping(mapping) if !mapping.is_empty() => {
                for (key, value) in mapping {
                    match key.as_str() {
                        Some(key) if !key.contains(['.', '[']) => {
                            let separator = if at.is_empty() { "" } else { "." };
                            self.flatten(&format!("{at}{separator}{key}"), value);
                        }
                        _ => self.problem(
                            if at.is_empty() { "(file)" } else { at },
                            "has a key that is not a plain word",
                            "write `section:` and below it, indented, `key: value`",
                        ),
                    }
                }
                return;
            }
            Value::Sequence(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    self.flatten(&format!("{at}[{index}]"), item);
                }
                return;
            }
            Value::Null | Value::Mapping(_) | Value::Sequence(_) => None,
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(value) => Some(value.to_string()),
            Value::String(value) => Some(value.clone()),
            Value::Tagged(_) => {
                self.problem(at, "has a YAML tag", "write a plain value");
                return;
            }
        };
        self.entries.insert(at.to_owned(), Entry { text, origin: Origin::File });
    }

    /// A list of the file gives way as a whole to a list from above it.
    fn put(&mut self, key: String, value: &str, origin: Origin) {
        let items = format!("{key}[");
        self.entries.retain(|other, _| !other.starts_with(&items));
        self.entries.insert(key, Entry { text: Some(value.to_owned()), origin });
    }

    fn problem(&mut self, key: &str, wrong: &str, remedy: &str) {
        self.problems.push(Problem::new(key, wrong, remedy));
    }
}

impl Problem {
    pub(crate) fn new(key: impl Into<String>, wrong: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { key: key.into(), wrong: wrong.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One problem is one line, whatever the values hold.
        let line = format!("{}: {}; {}", self.key, self.wrong, self.remedy);
        f.write_str(&line.replace(|c: char| c.is_control(), " "))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flag => "flag",
        })
    }
}

const PREFIX: &str = "READWRIGHT_";

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(raw: &Raw) -> Vec<(&str, &str, Origin)> {
        let text = |entry: &Entry| entry.text.clone().unwrap_or_default();
        let leak = |entry: &Entry| -> &'static str { text(entry).leak() };
        raw.entries.iter().map(|(key, entry)| (key.as_str(), leak(entry), entry.origin)).collect()
    }

    #[test]
    fn a_flag_is_above_the_environment_is_above_the_file() {
        let environment = [("READWRIGHT_POOL__IDLE_S", "2"), ("READWRIGHT_POOL__WAIT_MS", "20")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let raw =
            Raw::read("pool: {idle_s: 1, wait_ms: 10, linger_ms: 5}", environment, &["pool.idle_s=3".into()]);
        assert_eq!(
            texts(&raw),
            [
                ("pool.idle_s", "3", Origin::Flag),
                ("pool.linger_ms", "5", Origin::File),
                ("pool.wait_ms", "20", Origin::Environment),
            ]
        );
    }

    #[test]
    fn a_list_is_replaced_as_a_whole() {
        let yaml = "topology: {servers: [{name: a}, {name: b}]}";
        let raw = Raw::read(yaml, BTreeMap::new(), &["topology.servers=c=h:1".into()]);
        assert_eq!(texts(&raw), [("topology.servers", "c=h:1", Origin::Flag)]);
    }

    #[test]
    fn variables_of_a_service_are_no_configuration() {
        let variables =
            ["READWRIGHT_SERVICE_HOST", "READWRIGHT_PORT", "READWRIGHT_ADMIN_PORT_6032_TCP", "PATH"];
        let environment = variables.map(|name| (name.to_owned(), "x".to_owned())).into();
        assert!(Raw::read("", environment, &[]).entries.is_empty());
    }

    #[test]
    fn what_cannot_be_read() {
        let check = |yaml: &str, flag: &str, expected: &str| {
            let flags: Vec<String> =
                [flag].iter().filter(|f| !f.is_empty()).map(ToString::to_string).collect();
            let problems = Raw::read(yaml, BTreeMap::new(), &flags).problems;
            assert_eq!(problems.len(), 1, "{yaml}: {problems:?}");
            assert!(problems[0].to_string().contains(expected), "{yaml}: {}", problems[0]);
        };
        check("- a", "", "not a mapping");
        check("a: [", "", "not YAML");
        check("a: 1\na: 2", "", "duplicate");
        check("a.b: 1", "", "plain word");
        check("a: !x 1", "", "tag");
        check("", "pool.idle_s", "not KEY=VALUE");
    }
}
