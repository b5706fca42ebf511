//! The three commands of an example's README: install, start something to consume, consume.

use std::fs;

use super::consumer::{install, program_in};
use super::inbox::Inbox;
use super::languages::Language;
use crate::support::nats::Server;
use crate::support::program::{Program, Variables};
use crate::support::wait::{eventually_blocking, eventually_some};
use crate::support::watched::Watched;

/// The port that `dev` prints.
const ADDRESS: &str = "127.0.0.1:PORT";

/// The commands, without their comments.
pub fn commands(language: &Language) -> [String; 3] {
    let readme = fs::read_to_string(language.source().join("README.md")).expect("the README can be read");
    let block = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("\n```").next());
    let line = |line: &str| line.split("  #").next().unwrap_or(line).trim().to_owned();
    let lines: Vec<_> = block.expect("it has commands").lines().map(line).collect();
    lines.try_into().unwrap_or_else(|lines| panic!("{}: three commands, not {lines:?}", language.name))
}

/// Runs them in a copy of the example's folder.
pub fn runs(language: &Language) {
    let [_, dev, consume] = commands(language);
    let folder = install(language);
    let mut arguments = vec!["dev", "--json", "--listen", "127.0.0.1:0", "--rate", "5"];
    let server = (dev == "attio-bridge dev --bus nats://127.0.0.1:4222").then(Server::start);
    let url = server.as_ref().map(Server::url);
    match &url {
        Some(url) => arguments.extend(["--bus", url]),
        None => assert_eq!(dev, "attio-bridge dev"),
    }
    let mut dev = Program::start(&arguments, &Variables::new());
    let first = dev.line();
    let data = tempfile::tempdir().expect("a folder");
    let database = data.path().join("inbox.db");
    let mut command = program_in(&folder, &database);
    let consume = match &url {
        Some(url) => {
            command.arg(format!("NATS_URL={url}"));
            consume
        }
        None => {
            assert!(consume.contains(ADDRESS), "{consume}");
            consume.replace(ADDRESS, first["kafka"].as_str().expect("it says where its broker is"))
        }
    };
    command.args(["sh", "-c", &format!("exec env {consume}")]);
    let mut consumer = Watched::start(&command, data.path());
    let said = || fs::read_to_string(data.path().join("output.log")).unwrap_or_default();
    let mut inbox = Inbox::open(&database);
    eventually_blocking("it has handled some events", || {
        assert!(consumer.ended().is_none(), "it ended: {}", said());
        inbox.count() > 10
    });
    consumer.signal("TERM");
    let status = eventually_some("it ends", || consumer.ended());
    assert!(status.success(), "{status}: {}", said());
    consumer.kill();
    dev.signal("TERM");
    let (code, said) = dev.end();
    assert_eq!(code, Some(0), "{said}");
}
