//! Help, completions and manual pages of every verb. Help is compared with `tests/fixtures/help`; see
//! `support/snapshot.rs` for how to renew it.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use crate::support::snapshot;

/// Every verb that is shown, as it is typed, and the program itself.
fn verbs() -> Vec<Vec<String>> {
    fn walk(command: &clap::Command, words: &[String], found: &mut Vec<Vec<String>>) {
        found.push(words.to_vec());
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            walk(verb, &[words, &[verb.get_name().to_owned()]].concat(), found);
        }
    }
    let mut found = Vec::new();
    walk(&attio_bridge::cli::command(), &[], &mut found);
    assert!(found.len() > 6, "only {} verbs were found", found.len());
    found
}

fn shown(words: &[String], more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    let output = command.args(words).args(more).env_clear().stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{words:?} {more:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{words:?} {more:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_of_every_verb_equals_its_fixture() {
    let folder = snapshot::folder("help");
    let mut files = BTreeSet::new();
    let mut changed = Vec::new();
    for words in verbs() {
        let name = [&["attio-bridge".to_owned()], words.as_slice()].concat().join("-") + ".txt";
        changed.extend(snapshot::compare(&folder.join(&name), &shown(&words, &["--help"])));
        files.insert(name);
    }
    for file in fs::read_dir(&folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if files.contains(&name) {
            continue;
        }
        match snapshot::renewing() {
            true => fs::remove_file(folder.join(&name)).unwrap(),
            false => changed.push(format!("{name} is of no verb")),
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

#[test]
fn every_verb_has_a_typed_example() {
    for words in verbs().iter().filter(|words| !words.is_empty()) {
        let help = shown(words, &["--help"]);
        assert!(help.lines().any(|line| line.starts_with("Example")), "{words:?} has no example:\n{help}");
        let examples = help.split("\nExample").skip(1).flat_map(str::lines);
        // In the words of a container's file each word is a text of its own.
        let typed = format!("attio-bridge {}", words.join(" "));
        let listed = format!("\"attio-bridge\", \"{}\"", words.join("\", \""));
        let named = |line: &str| line.contains(&typed) || line.contains(&listed);
        assert!(examples.into_iter().any(named), "{words:?}: no example has `{typed}`:\n{help}");
    }
}

/// The help of a verb for a terminal of so many columns.
fn help_within(columns: &str, words: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attio-bridge"));
    command.args(words).arg("--help").env_clear().env("COLUMNS", columns);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// The indented lines below each line that begins with `Example`.
fn examples(help: &str) -> Vec<Vec<&str>> {
    let blocks = help.split("\nExample").skip(1).map(|block| block.lines().skip(1));
    blocks.map(|lines| lines.take_while(|line| line.starts_with("  ")).collect()).collect()
}

#[test]
fn examples_are_never_wrapped_and_are_shell_commands() {
    for words in verbs() {
        let wide = help_within("200", &words);
        let narrow = help_within("40", &words);
        assert_eq!(examples(&wide), examples(&narrow), "{words:?}");
        for lines in examples(&wide) {
            assert!(!lines.is_empty(), "{words:?}: {wide}");
            for (line, next) in lines.iter().zip(lines.iter().skip(1).chain([&""])) {
                assert!(line.chars().count() <= 76, "{words:?}: {line}");
                let goes_on = next.starts_with("    ");
                assert_eq!(line.ends_with('\\'), goes_on, "{words:?}: {line}\n{next}");
            }
            let checked = Command::new("sh").args(["-n", "-c", &lines.join("\n")]).output().unwrap();
            assert!(checked.status.success(), "{words:?}: {checked:?}");
        }
    }
}

#[test]
fn paragraphs_are_wrapped_once() {
    for words in verbs() {
        let help = help_within("80", &words);
        let after = help.split("\nOptions:\n").nth(1).unwrap_or_default();
        let lines: Vec<_> = after.lines().collect();
        for pair in lines.windows(2) {
            let [line, next] = pair else { continue };
            let is_text = |line: &str| {
                line.starts_with(|c: char| c.is_ascii_alphabetic()) && !line.starts_with("Example")
            };
            if is_text(line) && is_text(next) {
                let first = next.split(' ').next().unwrap();
                assert!(
                    line.chars().count() + 1 + first.chars().count() > 80,
                    "{words:?}: {line:?} could hold {first:?}"
                );
            }
        }
    }
}

#[test]
fn help_fits_its_terminal() {
    for (columns, most) in [("40", 80), ("80", 80), ("90", 90), ("200", 100)] {
        for words in verbs() {
            for line in help_within(columns, &words).lines() {
                // clap does not wrap the synopsis.
                let fits = line.chars().count() <= most || line.starts_with("Usage: ");
                assert!(fits, "{columns} {words:?}: {line}");
            }
        }
    }
}

#[test]
fn help_is_at_most_100_columns_wide() {
    for words in verbs() {
        for line in shown(&words, &["--help"]).lines() {
            assert!(line.chars().count() <= 100, "{words:?}: {line}");
        }
    }
}

#[test]
fn completions_contain_every_verb_and_flag() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let text = shown(&["completions".to_owned()], &[shell]);
        for words in verbs() {
            let missing = words.iter().find(|word| !text.contains(word.as_str()));
            assert_eq!(missing, None, "{shell}");
        }
        assert!(text.contains("admin-listen"), "{shell}: the flags of verbs");
    }
    // A shell that is there reads it without a complaint.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions");
    fs::write(&file, shown(&["completions".to_owned()], &["bash"])).unwrap();
    let script = format!("set -eu; . '{}'; complete -p attio-bridge", file.display());
    let output = Command::new("bash").args(["-c", &script]).output().expect("bash starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn manual_pages_contain_every_verb() {
    let page = shown(&["man".to_owned()], &[]);
    assert!(page.contains(".TH attio-bridge 1"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("man1");
    shown(&["man".to_owned()], &["--to", to.to_str().unwrap()]);
    for words in verbs() {
        let name = [&["attio-bridge".to_owned()], words.as_slice()].concat().join("-");
        if let [verb] = words.as_slice() {
            let escaped = name.replace('-', "\\-");
            assert!(page.contains(&escaped) || page.contains(&name), "the page lists {verb}");
        }
        let own = fs::read_to_string(to.join(format!("{name}.1"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(own.contains(".SH SYNOPSIS"), "{name}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_attio-bridge"))
        .args(["man", "--to", "/dev/null/no-folder"])
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/dev/null/no-folder"));
}
