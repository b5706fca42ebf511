//! Redis as it is run: a cluster, sentinels, users, TLS; and what `check --connect` says of a server.

use parking_lot::Mutex;

use crate::support::bridge::Bridge;
use crate::support::certificates::Certificates;
use crate::support::ports::free_ports;
use crate::support::program::{Variables, lent, run, variables};
use crate::support::redis::{Kind, Redis, Servers, Watched, cluster, cluster_url, cluster_with_replica};
use crate::support::replicas::{Replicas, count, event, until};
use crate::support::shared_store::SharedStore;
use crate::support::wait::eventually;

const ACCEPTED: (u16, &str) = (200, "accepted");
const DUPLICATE: (u16, &str) = (200, "duplicate");
const DEADLINE: (&str, &str) = ("ATTIO_BRIDGE__DEDUP__STORE_TIMEOUT", "500ms");

/// The servers of a cluster or of sentinels that are tried.
fn every_kind(made: &Certificates) -> [Servers<'_>; 3] {
    [Servers::Of(Kind::Redis), Servers::Of(Kind::Valkey), Servers::WithTls(made)]
}

/// The variables of a client of servers with TLS, which trusts this authority.
fn trusting(made: &Certificates, authority: &str) -> Variables {
    let file = |name: &str| made.path(name).to_str().unwrap().to_owned();
    let named = [
        ("DEDUP__REDIS__CA_FILE", file(authority)),
        ("DEDUP__REDIS__CERT_FILE", file("client.pem")),
        ("DEDUP__REDIS__KEY_FILE", file("client.key")),
    ];
    variables(&named.each_ref().map(|(name, value)| (*name, &**value)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_shared_whatever_node_an_id_is_on() {
    let made = Certificates::make();
    let client = trusting(&made, "ca.pem");
    for servers in every_kind(&made) {
        let nodes = cluster(servers);
        let replicas =
            Replicas::start(SharedStore::At(cluster_url(servers, &nodes)), 2, &lent(&client)).await;
        let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
        for id in 0..60 {
            assert_eq!(first.answer(&event(&format!("id-{id}"))).await, ACCEPTED);
        }
        until(first, "committed", 60.0).await;
        for id in 0..60 {
            assert_eq!(second.answer(&event(&format!("id-{id}"))).await, DUPLICATE);
        }
        for node in &nodes {
            assert!(node.run::<u64>(&["DBSIZE"]) > 5, "the ids are on every node");
        }
    }
}

/// Sends new ids, 60 at a time, until none of 60 waited for a node in vain; returns their names. A claim fails when the
/// machine is slow, too, and each range of slots of a dead node once.
async fn sixty_without_a_failure(bridge: &Bridge) -> Vec<String> {
    for round in 0..20 {
        let failed = count(bridge, "failed").await;
        let ids: Vec<_> = (0..60).map(|id| format!("round-{round}-{id}")).collect();
        for id in &ids {
            assert_eq!(bridge.answer(&event(id)).await, ACCEPTED);
        }
        if count(bridge, "failed").await == failed {
            return ids;
        }
    }
    panic!("claims fail, 1,200 ids after the death of a node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_of_a_cluster_leaves_the_ids_on_the_others_shared() {
    let servers = Servers::Of(Kind::Valkey);
    let nodes = cluster(servers);
    for node in &nodes {
        node.run::<()>(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let replicas = Replicas::start(SharedStore::At(cluster_url(servers, &nodes)), 2, &[]).await;
    let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
    nodes[2].kill();
    let ids = sixty_without_a_failure(first).await;
    let claimed = count(first, "claimed").await;
    // What was published without a claim, as a node was slow to answer, is committed too.
    eventually("what was claimed is committed", || async { count(first, "committed").await >= claimed })
        .await;
    assert_eq!(first.metric("dedup_store_up", &[]).await, 0.0, "not all are shared");
    let mut known = 0_u32;
    for id in &ids {
        let answer = second.answer(&event(id)).await;
        assert!([ACCEPTED, DUPLICATE].contains(&answer), "{answer:?}");
        known += u32::from(answer == DUPLICATE);
    }
    assert!(
        (20..60).contains(&known),
        "{known} of 60 were known to the other replica: two nodes of three are alive"
    );
    nodes[2].restart();
    for bridge in [first, second] {
        bridge.until("dedup_store_up", &[], 1.0).await;
    }
    // What was acknowledged meanwhile is committed.
    until(
        first,
        "committed",
        count(first, "claimed").await + count(first, "failed").await + count(first, "skipped").await,
    )
    .await;
    until(second, "committed", f64::from(60 - known)).await;
    let third = replicas.another(&[]).await;
    for id in &ids {
        assert_eq!(third.answer(&event(id)).await, DUPLICATE, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_that_hangs_is_left_for_the_one_that_takes_over() {
    for servers in [Kind::Redis, Kind::Valkey].map(Servers::Of) {
        let nodes = cluster_with_replica(servers);
        let store = SharedStore::At(cluster_url(servers, &nodes[..3]));
        let replicas = Replicas::start(store, 3, &[DEADLINE]).await;
        let load = replicas.under_load(async || {
            nodes[2].pause();
            eventually("the replica is the master", || async { is_master(&nodes[3]) }).await;
        });
        println!("{:?}: copies of an event, and how many have so many: {:?}", servers.kind(), load.await);
        assert!(nodes[3].run::<u64>(&["DBSIZE"]) > 5, "it has the ids of the one that hangs");
    }
}

fn is_master(server: &Redis) -> bool {
    // A sentinel ends the connections of a server that it promotes.
    server.try_run::<String>(&["INFO", "replication"]).is_ok_and(|text| text.contains("role:master"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_under_load_loses_no_event_and_doubles_only_those_that_it_met() {
    for servers in [Kind::Redis, Kind::Valkey].map(Servers::Of) {
        let watched = Watched::start(servers);
        let replicas = Replicas::start(SharedStore::At(watched.url.clone()), 3, &[DEADLINE]).await;
        let load = replicas.under_load(async || {
            watched.master.kill();
            eventually("the replica is the master", || async { is_master(&watched.replica) }).await;
        });
        println!("{:?}: copies of an event, and how many have so many: {:?}", servers.kind(), load.await);
    }
}

/// How far a server's copy of the data goes.
fn written(server: &Redis) -> Option<String> {
    let replication = server.run::<String>(&["INFO", "replication"]);
    let offset = |name| replication.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    offset("slave_repl_offset:").or_else(|| offset("master_repl_offset:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_that_sentinels_name_is_followed_through_a_failover() {
    let made = Certificates::make();
    let client = trusting(&made, "ca.pem");
    for servers in every_kind(&made) {
        let watched = Watched::start(servers);
        let replicas = Replicas::start(SharedStore::At(watched.url.clone()), 1, &lent(&client)).await;
        let first = &replicas.bridges[0];
        // It publishes nothing that it could not ask for.
        let refuse = [&lent(&client)[..], &[("ATTIO_BRIDGE__DEDUP__ON_STORE_FAILURE", "refuse")]].concat();
        let second = replicas.another(&refuse).await;
        for id in 0..20 {
            assert_eq!(first.answer(&event(&format!("id-{id}"))).await, ACCEPTED);
        }
        until(first, "committed", 20.0).await;
        // Replication is asynchronous: what has not arrived before the failover is forgotten.
        eventually("the replica has it", || async { written(&watched.replica) == written(&watched.master) })
            .await;
        watched.master.kill();
        assert_eq!(first.answer(&event("meanwhile")).await, ACCEPTED);
        eventually("the replica is the master", || async { is_master(&watched.replica) }).await;
        until(first, "committed", 21.0).await;
        for id in (0..20).map(|id| format!("id-{id}")).chain(["meanwhile".into()]) {
            let answer = Mutex::new(ACCEPTED);
            eventually("the other replica can ask", || async {
                let (status, reason) = second.answer(&event(&id)).await;
                *answer.lock() = (status, reason);
                status == 200
            })
            .await;
            assert_eq!(answer.into_inner(), DUPLICATE, "{id}");
        }
    }
}

/// `check --connect` with this URL: its exit code, and its table.
fn check(url: &str, more: &[(String, String)]) -> (i32, String) {
    let own = [("BUS__TYPE", "stdout"), ("DEDUP__STORE", "redis"), ("DEDUP__REDIS__URL", url)];
    let output = run(&["check", "--connect"], &[&variables(&own)[..], more].concat());
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text.into_owned())
}

#[test]
fn check_says_what_a_server_is_and_what_it_lacks() {
    let redis = Redis::with(Kind::Redis, &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let (code, text) = check(&redis.url(), &[]);
    assert_eq!(code, 0, "{text}");
    for found in
        ["redis 7", "may claim, commit and release", "allkeys-lru", "needs 1492 MiB", "forgets every id"]
    {
        assert!(text.contains(found), "{found}: {text}");
    }
    redis.run::<()>(&[
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">hunter2",
        "~attio-bridge:*",
        "+get",
        "+set",
        "+info",
    ]);
    let login = |user: &str| format!("redis://{user}@127.0.0.1:{}", redis.port());
    let (code, text) = check(&login("reader:hunter2"), &[]);
    assert!(code == 0 && text.contains("EVAL is refused"), "{text}");
    let (code, text) = check(&login("reader:wrong"), &[]);
    assert!(
        code == 3 && text.contains("Password authentication failed") && !text.contains("hunter2"),
        "{text}"
    );
    redis.run::<()>(&["ACL", "SETUSER", "reader", "-set"]);
    let (code, text) = check(&login("reader:hunter2"), &[]);
    assert!(code == 3 && text.contains("SET is refused"), "{text}");
    redis.kill();
    let (code, text) = check(&redis.url(), &[]);
    assert!(code == 3 && text.contains("dedup store"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_tls_a_certificate_and_a_user_is_shared() {
    let (made, [port]) = (Certificates::make(), free_ports::<1>());
    let file = |name: &str| made.path(name).to_str().unwrap().to_owned();
    let (port, cert, key, ca) = (port.to_string(), file("server.pem"), file("server.key"), file("ca.pem"));
    let files = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
    let redis =
        Redis::with(Kind::Redis, &[&["--tls-port", &port, "--tls-auth-clients", "yes"], &files[..]].concat());
    let rights = ["+get", "+set", "+eval", "+info"];
    let user = ["ACL", "SETUSER", "bridge", "on", ">p@ss", "~attio-bridge:*"];
    redis.run::<()>(&[&user, &rights[..]].concat());
    let url = format!("rediss://bridge:p%40ss@localhost:{port}");
    let (client, other_client) = (trusting(&made, "ca.pem"), trusting(&made, "other-ca.pem"));
    let (code, text) = check(&url, &client);
    assert!(code == 0 && text.contains("may claim, commit and release"), "{text}");
    let (code, text) = check(&url, &other_client);
    assert!(code == 3 && text.contains("certificate"), "{text}");
    let replicas = Replicas::start(SharedStore::At(url), 2, &lent(&client)).await;
    let [first, second] = &replicas.bridges[..] else { panic!("two replicas") };
    assert_eq!(first.answer(&event("one")).await, ACCEPTED);
    until(first, "committed", 1.0).await;
    assert_eq!(second.answer(&event("one")).await, DUPLICATE);
}
