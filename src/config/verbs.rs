//! What single verbs read of the configuration: whoever runs them need not have the secrets of the bridge.

use super::section::Section;
use super::{Input, LogOptions, Problem, Problems, read_some, sections};
use crate::attio::Options;
use crate::pipeline::route::{self, Routes};
use crate::{bus, shutdown, state as states};

/// What the verbs of `state` need.
#[derive(Debug)]
pub struct State {
    pub options: states::Options,
    pub attio: Options,
    pub route: route::Options,
    pub bus: bus::Options,
    pub shutdown: shutdown::Options,
    pub log: LogOptions,
    pub warnings: Vec<Problem>,
}

/// Reads the sections that `state` uses: it verifies no signature, and needs no secret of a source.
pub fn state(input: &Input) -> Result<State, Problems> {
    let (mut tree, diagnostics) = read_some(input)?;
    let used = ["state", "attio", "route", "bus", "kafka", "nats", "shutdown", "log"];
    tree.retain(|name, _| used.contains(&&**name));
    let mut root = Section::root(&diagnostics, tree);
    let route = sections::route::route(&mut root.section("route")).options;
    let options = sections::state::state(&mut root.section("state"), &Routes::new(&route));
    let attio = sections::attio::options(&mut root.section("attio"));
    let shutdown = sections::http::Shutdown::read(&mut root.section("shutdown"));
    let log = sections::Log::read(&mut root.section("log"));
    // [nats] may be there for the dedup store, which is not read.
    let bus = sections::bus(&mut root, None).0;
    if matches!(bus.kind, bus::Kind::Stdout) {
        diagnostics
            .refuse("bus.type", "stdout keeps nothing that could be followed; set it to kafka or nats");
    }
    drop(root);
    diagnostics.finish().result(|found| State {
        options,
        attio,
        route,
        bus,
        shutdown,
        log,
        warnings: found.warnings,
    })
}

/// What `contract` needs.
#[derive(Debug)]
pub struct Contract {
    pub route: route::Options,
    pub base_url: Option<String>,
    pub bus: Option<bus::Options>,
    pub warnings: Vec<Problem>,
}

/// Reads `[contract]` and `[route]`, with a bus also the sections of the buses: whoever reads the contract need not have
/// the secrets of the bridge.
pub fn contract(input: &Input, with_bus: bool) -> Result<Contract, Problems> {
    let (mut tree, diagnostics) = read_some(input)?;
    let of_bus = if with_bus { ["bus", "kafka", "nats"].as_slice() } else { &[] };
    tree.retain(|name, _| ["contract", "route"].contains(&&**name) || of_bus.contains(&&**name));
    let mut root = Section::root(&diagnostics, tree);
    let route = sections::route::route(&mut root.section("route")).options;
    let base_url = sections::contract::base_url(&mut root.section("contract"));
    let bus = with_bus.then(|| sections::bus(&mut root, None).0);
    drop(root);
    diagnostics.finish().result(|found| Contract { route, base_url, bus, warnings: found.warnings })
}
