//! The layers of the code, read from its imports: they go one way, and every exception has its reason here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Top modules from the outside in; each may use those of the lines below it.
const LAYERS: [&[&str]; 8] = [
    &["main"],
    &["cli"],
    &["try_out"],
    &["app", "config", "consumer", "contract", "explain"],
    &["state"],
    &["http", "bus", "store", "attio", "fake_attio"],
    &["pipeline"],
    &["delivery", "cloudevent", "catalog", "signing"],
];

/// Used by every layer; they use only each other.
const LEAVES: [&str; 10] = [
    "files",
    "http_client",
    "metrics",
    "named_enum",
    "open_files",
    "printable",
    "shutdown",
    "supervise",
    "traces",
    "version",
];

/// Edges inside a layer.
const EXCEPTIONS: [(&str, &str); 2] = [
    // The composition root owns the checked configuration and takes it apart.
    ("app", "config"),
    // Its error at the start, and the client of NATS.
    ("store", "bus"),
];

/// What stages of the pipeline take from each other: values alone, never work.
const VALUES: [(&str, &str); 11] = [
    ("filter", "parse::Event"),
    ("normalize", "parse::Event"),
    // The slugs file.
    ("filter", "slugs::Slugs"),
    ("filter", "slugs::ids"),
    ("normalize", "slugs::Slugs"),
    ("dedup", "identify::DedupKey"),
    // A publish handle settles an in-flight entry.
    ("dedup", "publish::AckCallback"),
    ("dedup", "publish::PublishResult"),
    ("store", "identify::DedupKey"),
    ("store", "publish::BoxFuture"),
    // A route gives the destination of a message.
    ("route", "publish::Destination"),
];

/// Files of the pipeline that join the stages.
const JOINS: [&str; 4] = ["mod", "claim", "enqueue", "outcome"];

/// What an adapter may use.
const OF_ADAPTERS: [&str; 7] =
    ["files", "http_client", "bus", "cloudevent", "metrics", "pipeline::publish", "supervise"];

/// One source file: its path below `src`, and its code without comments and tests.
struct File {
    path: PathBuf,
    code: String,
}

impl File {
    /// The module at the top that it belongs to.
    fn top(&self) -> String {
        let first = self.path.components().next().unwrap().as_os_str().to_str().unwrap();
        first.trim_end_matches(".rs").to_owned()
    }

    fn stem(&self) -> &str {
        self.path.file_stem().unwrap().to_str().unwrap()
    }

    /// The paths after `crate::`, groups expanded: `pipeline::publish::Bus`.
    fn uses(&self) -> BTreeSet<String> {
        let mut code = self.code.replace("attio_bridge::", "crate::");
        let module = self.module();
        for levels in (1..=module.len()).rev() {
            let parent: String =
                module[..module.len() - levels].iter().map(|name| format!("{name}::")).collect();
            code = code.replace(&"super::".repeat(levels), &format!("crate::{parent}"));
        }
        code.split("crate::").skip(1).flat_map(paths).collect()
    }

    /// The names of its module, from the root: `["bus", "kafka"]` of `bus/kafka/mod.rs`.
    fn module(&self) -> Vec<String> {
        let path = self.path.with_extension("");
        let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
        names.filter(|name| name != "mod").collect()
    }

    /// The files among these that it imports from: by `crate::`, by `super::`, and its own children by name.
    fn imports<'a>(&self, files: &'a [File]) -> BTreeSet<&'a Path> {
        let mut uses = self.uses();
        let module = self.module();
        for child in files.iter().map(File::module).filter(|child| child.starts_with(&module)) {
            let Some(name) = child.get(module.len()) else { continue };
            let own = |code: &str| !code.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let separator = format!("{name}::");
            let mut parts = self.code.split(&separator);
            let mut before = parts.next().unwrap();
            for after in parts {
                if own(before) {
                    let path = |item| format!("{}::{name}::{item}", module.join("::"));
                    uses.extend(paths(after).into_iter().map(path));
                }
                before = after;
            }
        }
        let file = |path: &String| {
            let names: Vec<&str> = path.split("::").collect();
            let holds = |file: &&File| {
                let module = file.module();
                module.len() <= names.len()
                    && module.iter().zip(&names).all(|(of_file, name)| of_file == name)
            };
            files.iter().filter(holds).max_by_key(|file| file.module().len())
        };
        let found = uses.iter().filter_map(file).map(|file| file.path.as_path());
        found.filter(|path| *path != self.path).collect()
    }
}

/// The paths that a text begins with: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn paths(text: &str) -> Vec<String> {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    let (stem, rest) = text.split_at(end);
    let Some(group) = rest.strip_prefix('{') else { return vec![stem.trim_end_matches(':').to_owned()] };
    let (mut depth, mut items) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(String::new()),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                items.last_mut().unwrap().push(c);
            }
        }
    }
    let items = items.iter().map(|item| item.trim()).filter(|item| !item.is_empty());
    items.flat_map(paths).map(|path| format!("{stem}{path}").replace("::self", "")).collect()
}

/// Without comments, and without what follows `#[cfg(test)]`: the tests are at the end of a file.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines = text.lines().map(|line| if line.trim_start().starts_with("//") { "" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every source file but the map and what is compiled for tests alone.
fn sources() -> Vec<File> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_name().is_some_and(|name| name != "tests.rs")
            {
                files.push(path);
            }
        }
    }
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&src, &mut files);
    files.sort();
    let file = |path: PathBuf| File {
        code: code(&fs::read_to_string(&path).unwrap()),
        path: path.strip_prefix(&src).unwrap().to_owned(),
    };
    files.into_iter().map(file).filter(|file| file.path != Path::new("lib.rs")).collect()
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("{module} is in no layer: the design must give it one"))
}

fn may_use(from: &str, to: &str) -> bool {
    if from == to || LEAVES.contains(&to) {
        return true;
    }
    !LEAVES.contains(&from) && (layer(from) < layer(to) || EXCEPTIONS.contains(&(from, to)))
}

#[test]
fn imports_are_taken_apart() {
    let table = [
        ("a;", vec!["a"]),
        ("a::b::C;", vec!["a::b::C"]),
        ("{a, b::C};", vec!["a", "b::C"]),
        ("a::{self, B, c::{D, E}};", vec!["a", "a::B", "a::c::D", "a::c::E"]),
        ("a::f(x)", vec!["a::f"]),
    ];
    for (text, expected) in table {
        assert_eq!(paths(text), expected, "{text}");
    }
}

#[test]
fn layers_go_one_way() {
    let mut edges = 0;
    for file in sources() {
        for path in file.uses() {
            let (from, to) = (file.top(), path.split("::").next().unwrap().to_owned());
            assert!(may_use(&from, &to), "{}: {from} may not use {path}", file.path.display());
            edges += 1;
        }
    }
    assert!(edges > 60, "only {edges} imports were found");
}

#[test]
fn stages_import_only_values_from_each_other() {
    let mut taken = BTreeSet::new();
    for file in sources().iter().filter(|file| file.top() == "pipeline") {
        let stage = file.path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
        let stage = stage.trim_end_matches(".rs");
        let uses = file.uses();
        let of_stages = uses.iter().filter_map(|path| path.strip_prefix("pipeline::"));
        let others = of_stages.filter(|path| path.split("::").next() != Some(stage));
        if !JOINS.contains(&stage) {
            taken.extend(others.map(|other| (stage.to_owned(), other.to_owned())));
        }
    }
    let values = VALUES.map(|(stage, value)| (stage.to_owned(), value.to_owned()));
    assert_eq!(taken, BTreeSet::from(values));
}

/// Where files still import each other in a circle. This list may only shrink.
const KNOWN_CIRCLES: [&str; 3] = ["bus/mod.rs", "bus/nats/", "bus/setup/"];

#[test]
fn files_of_a_folder_import_each_other_in_no_circle() {
    for top in ["bus", "store", "pipeline", "fake_attio", "try_out"] {
        let files: Vec<File> = sources().into_iter().filter(|file| file.top() == top).collect();
        let mut reached: BTreeMap<&Path, BTreeSet<&Path>> =
            files.iter().map(|file| (file.path.as_path(), file.imports(&files))).collect();
        let edges: usize = reached.values().map(BTreeSet::len).sum();
        assert!(edges >= files.len() / 2, "only {edges} imports were found in {top}");
        loop {
            let before: usize = reached.values().map(BTreeSet::len).sum();
            for (file, direct) in reached.clone() {
                let further = direct.iter().flat_map(|next| reached[next].clone()).collect::<BTreeSet<_>>();
                reached.get_mut(file).unwrap().extend(further);
            }
            if reached.values().map(BTreeSet::len).sum::<usize>() == before {
                break;
            }
        }
        let circular = reached.iter().filter(|(file, reached)| reached.contains(*file));
        let circular: Vec<String> = circular.map(|(file, _)| file.display().to_string()).collect();
        let new: Vec<&String> = circular
            .iter()
            .filter(|file| !KNOWN_CIRCLES.iter().any(|known| file.starts_with(known)))
            .collect();
        assert!(new.is_empty(), "in a circle: {new:#?}");
    }
}

#[test]
fn buses_import_only_the_port_and_leaves() {
    for file in sources().iter().filter(|file| file.top() == "bus") {
        for path in file.uses() {
            let known =
                OF_ADAPTERS.iter().any(|known| path == *known || path.starts_with(&format!("{known}::")));
            assert!(known, "{}: {path}", file.path.display());
        }
    }
}

#[test]
fn verified_deliveries_are_made_in_two_places_only() {
    let makers = [(".verified(", "pipeline/verify.rs"), ("::out_of_quarantine(", "consumer/replay.rs")];
    for (call, maker) in makers {
        let callers = sources().into_iter().filter(|file| file.code.contains(call));
        let callers: Vec<_> = callers.map(|file| file.path.display().to_string()).collect();
        assert_eq!(callers, [maker], "{call}");
    }
}

#[test]
fn only_upper_layers_read_clock_and_environment() {
    for file in sources() {
        let outer = layer_or_leaf(&file) <= layer("app");
        let clock = ["now_utc()", "SystemTime::now"].iter().any(|reading| file.code.contains(reading));
        // Time enters a delivery once, as its `received_at`, and a read of an entity once, as its beginning.
        // librdkafka takes the end of a token's life as wall time.
        let tellers =
            ["http/receive.rs", "attio/entities/reader.rs", "bus/kafka/tokens/token.rs"].map(Path::new);
        // The fake Attio stands in for a server with a clock of its own.
        let may_tell_time = outer || file.top() == "fake_attio" || tellers.contains(&&*file.path);
        assert!(!clock || may_tell_time, "{} reads the wall clock", file.path.display());
        // What AWS's crates read by themselves.
        let outer = outer || file.path == Path::new("bus/kafka/tokens/aws.rs");
        let environment = ["env::var", "env::vars"].iter().any(|reading| file.code.contains(reading));
        assert!(!environment || outer, "{} reads the environment", file.path.display());
    }
}

fn layer_or_leaf(file: &File) -> usize {
    let top = file.top();
    if LEAVES.contains(&&*top) { LAYERS.len() } else { layer(&top) }
}

#[test]
fn nothing_unwraps() {
    for file in sources() {
        for (at, line) in file.code.lines().enumerate() {
            assert!(!line.contains(".unwrap()"), "{}:{}", file.path.display(), at + 1);
        }
    }
}

#[test]
fn no_file_is_longer_than_400_lines_without_its_tests() {
    for file in sources() {
        let lines = file.code.lines().count();
        assert!(lines <= 400, "{}: {lines}", file.path.display());
    }
}

#[test]
fn a_file_is_named_once() {
    // A folder's `mod.rs` and a file beside it of the same name would be two homes for one thing.
    let all: Vec<File> = sources();
    for file in all.iter().filter(|file| file.stem() == "mod") {
        let beside = file.path.parent().unwrap().with_extension("rs");
        assert!(!all.iter().any(|other| other.path == beside), "{}", beside.display());
    }
}
