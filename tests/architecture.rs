//! Holds the layers: a module uses only modules of rows below its own in the table of `src/lib.rs`, and an external crate
//! is used only behind its fence. Reads the sources as text; knows nothing of macros, and needs to know nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A crate, and the modules that may name it.
const FENCES: &[(&str, &[&str])] = &[
    ("opensrv_mysql", &["admin/sql"]),
    ("mysql_async", &["dba"]),
    ("kube", &["k8s", "topology/kubernetes", "controller"]),
    ("k8s_openapi", &["k8s", "topology/kubernetes", "controller"]),
    ("sqlparser", &["sql/parse"]),
    ("metrics", &["telemetry"]),
    ("metrics_exporter_prometheus", &["telemetry"]),
    ("rustls", &["wire/tls"]),
    ("tokio_rustls", &["wire"]),
    ("rcgen", &["wire/tls"]),
    ("mysql_common", &["wire/auth"]),
    ("proxy_header", &["wire/proxied"]),
    ("flate2", &["wire/compress"]),
    ("zstd", &["wire/compress"]),
    ("hickory_resolver", &["topology/dns"]),
    ("hyper", &["admin/http"]),
    ("clap", &["cli"]),
    ("serde_yaml_ng", &["config"]),
];

/// They could become crates of their own: nothing of ours comes in.
const FREE_OF_OURS: &[&str] = &["wire", "demo/mysqld"];

#[test]
fn no_module_looks_up_or_sideways_and_crates_stay_behind_their_fences() {
    let lib = fs::read_to_string("src/lib.rs").expect("tests run in the package's folder");
    let rows = rows(&lib);
    let mut wrong = Vec::new();
    for module in lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")) {
        if !rows.contains_key(module.trim_end_matches(';')) {
            wrong.push(format!("src/lib.rs: {module} has no row in the table"));
        }
    }
    for (path, text) in sources(Path::new("src")) {
        // `src/admin/sql.rs` -> `admin/sql`; the first part names the module of the table.
        let module = path.with_extension("").to_string_lossy().trim_start_matches("src/").to_owned();
        let top = module.split('/').next().unwrap_or_default();
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            let mut complain =
                |what: String| wrong.push(format!("{}:{}: {what}", path.display(), number + 1));
            for used in ours(line) {
                let free = FREE_OF_OURS.iter().any(|free| within(&module, free));
                match (rows.get(top), rows.get(used)) {
                    (_, Some(_)) if free && used != top => complain(format!("{module} must not know {used}")),
                    (Some(own), Some(other)) if used != top && other >= own => {
                        complain(format!("{top} (row {own}) uses {used} (row {other})"));
                    }
                    _ => {}
                }
            }
            for (name, fence) in FENCES {
                if uses(line, name) && !fence.iter().any(|inside| within(&module, inside)) {
                    complain(format!("{name} is used outside {fence:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Lines such as ``//! | 3 | [`routing`] [`backend`] |`` say which row a module is in.
fn rows(lib: &str) -> BTreeMap<String, u32> {
    let row = |line: &str| {
        Some((line.strip_prefix("//! | ")?.split(" |").next()?.parse::<u32>().ok()?, line.to_owned()))
    };
    let names = |(row, line): (u32, String)| -> Vec<(String, u32)> {
        line.split('`').skip(1).step_by(2).map(|name| (name.to_owned(), row)).collect()
    };
    lib.lines().filter_map(row).flat_map(names).collect()
}

#[test]
fn alerts_are_about_metrics_that_are_there() {
    let metrics = fs::read_to_string("src/telemetry/metrics.rs").expect("UTF-8");
    let rules = fs::read_to_string("deploy/monitoring/readwright.rules.yaml").expect("UTF-8");
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: Vec<&str> = words.filter(|word| word.starts_with("readwright_")).collect();
    assert!(names.len() > 5);
    for name in names {
        assert!(metrics.contains(&format!("\"{name}\"")), "{name}");
    }
}

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let entries =
        fs::read_dir(folder).expect("a folder of sources").map(|entry| entry.expect("readable").path());
    let read = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false => vec![(path.clone(), fs::read_to_string(&path).expect("UTF-8"))],
    };
    entries
        .filter(|path| path.is_dir() || path.extension().is_some_and(|kind| kind == "rs"))
        .flat_map(read)
        .collect()
}

/// The modules of ours in `crate::name` and `crate::{name::x, name}` of a line.
fn ours(line: &str) -> impl Iterator<Item = &str> {
    let name = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    line.split("crate::").skip(1).flat_map(move |rest| match rest.strip_prefix('{') {
        Some(group) => group.split(',').map(str::trim_start).map(|item| &item[..name(item)]).collect(),
        None => vec![&rest[..name(rest)]],
    })
}

/// `use name...`, or `name::` that is no part of a longer path. A module of ours may have a crate's name: `metrics`.
fn uses(line: &str, name: &str) -> bool {
    let line = line.trim_start().trim_start_matches("pub(crate) ");
    let import = line.strip_prefix("use ").and_then(|rest| rest.strip_prefix(name));
    let path = name != "metrics"
        && line.split_once(&format!("{name}::")).is_some_and(|(before, _)| {
            !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '`')
        });
    path || import.is_some_and(|rest| rest.starts_with([':', ';', ' ']))
}

fn within(module: &str, folder: &str) -> bool {
    module.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
