//! Connections to Redis, and requests of many commands over one.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, Pipeline, RedisError, TlsCertificates,
    TlsMode, Value,
};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::address::Address;
use crate::bus::StartError;
use crate::store::backend::by;
use crate::store::options::RedisOptions;

/// One attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Any request, whatever the caller waits for.
const LONGEST: Duration = Duration::from_secs(10);

/// Deletes the key of a claim if the claim is still its owner's.
pub(super) const RELEASE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// Writes a key if its value is still the one that was read.
pub(super) const REPLACE: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) return 1 end return 0";

/// A client without a connection.
pub(super) enum Target {
    One(Client),
    Cluster(ClusterClient),
    /// Asks the sentinels for the master at each connection.
    Sentinel(Mutex<SentinelClient>),
}

impl Target {
    /// Contacts no server.
    pub(super) fn new(options: &RedisOptions) -> Result<Self, StartError> {
        let refuse = |reason: String| StartError::Setting { key: "dedup.redis.url".into(), reason };
        let of_client = |error: RedisError| refuse(reason(error).to_string());
        let address = Address::parse(&options.url).map_err(refuse)?;
        let certificates = certificates(options)?;
        Ok(match address {
            Address::One(info) => Self::One(match info.addr() {
                ConnectionAddr::TcpTls { .. } => {
                    Client::build_with_tls(info, certificates).map_err(of_client)?
                }
                _ => Client::open(info).map_err(of_client)?,
            }),
            Address::Cluster(nodes) => {
                // Every claim is read back, and its deadline is the bridge's: nothing is to be repeated.
                let tls = nodes.iter().any(|node| matches!(node.addr(), ConnectionAddr::TcpTls { .. }));
                let mut builder =
                    ClusterClient::builder(nodes).retries(1).connection_timeout(CONNECT_TIMEOUT);
                if tls {
                    // With certificates the client uses TLS whatever the addresses say.
                    builder = builder.certs(certificates);
                }
                Self::Cluster(builder.build().map_err(of_client)?)
            }
            Address::Sentinel { sentinels, master, login, tls } => {
                let mut builder = SentinelClientBuilder::new(sentinels, master, SentinelServerType::Master)
                    .map_err(of_client)?
                    .set_client_to_redis_db(login.db());
                if let Some(username) = login.username() {
                    builder = builder.set_client_to_redis_username(username);
                }
                if let Some(password) = login.password() {
                    builder = builder.set_client_to_redis_password(password);
                }
                if tls {
                    builder = builder
                        .set_client_to_redis_tls_mode(TlsMode::Secure)
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
                Self::Sentinel(Mutex::new(builder.build().map_err(of_client)?))
            }
        })
    }

    pub(super) async fn connect(&self) -> Result<Links, RedisError> {
        // The deadline of each request is the caller's.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None);
        let one = |connection| {
            let link = Link::One(connection);
            Links { claims: link.clone(), probes: link }
        };
        Ok(match self {
            Self::One(client) => one(client.get_multiplexed_async_connection_with_config(&config).await?),
            Self::Cluster(client) => {
                let (claims, probes) =
                    try_join(client.get_async_connection(), client.get_async_connection()).await?;
                Links { claims: Link::Cluster(claims), probes: Link::Cluster(probes) }
            }
            Self::Sentinel(client) => {
                one(client.lock().await.get_async_connection_with_config(&config).await?)
            }
        })
    }
}

fn certificates(options: &RedisOptions) -> Result<TlsCertificates, StartError> {
    let read = |key: &'static str, path: &Path| {
        fs::read(path).map_err(|source| StartError::File { key, path: path.into(), source })
    };
    let ca = options.ca_file.as_deref().map(|path| read("dedup.redis.ca_file", path)).transpose()?;
    let client_tls = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read("dedup.redis.cert_file", cert)?,
            client_key: read("dedup.redis.key_file", key)?,
        }),
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert: ca })
}

/// Connections to the same servers. The client of a cluster lets every request of a connection wait while it looks for a
/// node that does not answer, and probes ask such a node again and again: claims of the ids on other nodes are not to wait
/// for that.
#[derive(Clone)]
pub(super) struct Links {
    /// Also for settlements.
    pub(super) claims: Link,
    /// Also for the register, which is read with each probe.
    pub(super) probes: Link,
}

/// A connection. Cheap to clone.
#[derive(Clone)]
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Link {
    /// Sends so many commands for each item, all at once; returns the replies to each item, or why there are none by the
    /// deadline. A reply may be an error of the server.
    pub(super) async fn send<T>(
        &self,
        items: &[T],
        commands: usize,
        deadline: Instant,
        add: impl Fn(&T, &mut Pipeline),
    ) -> Vec<Result<Vec<Value>, Arc<str>>> {
        match self {
            Self::One(_) => {
                let mut pipeline = Pipeline::with_capacity(items.len() * commands);
                items.iter().for_each(|item| add(item, &mut pipeline));
                match by(deadline, self.send_all(&pipeline)).await {
                    Ok(replies) => replies.chunks(commands).map(|replies| Ok(replies.to_vec())).collect(),
                    Err(reason) => items.iter().map(|_| Err(Arc::clone(&reason))).collect(),
                }
            }
            // The keys of one item are on one node, those of others on others: one request each.
            Self::Cluster(_) => {
                let requests = items.iter().map(|item| {
                    let mut pipeline = Pipeline::with_capacity(commands);
                    add(item, &mut pipeline);
                    by(deadline, async move { self.send_all(&pipeline).await })
                });
                join_all(requests).await
            }
        }
    }

    /// Sends commands whose keys are on one node; returns a reply to each.
    pub(super) async fn send_all(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Arc<str>> {
        let replies = match self.clone() {
            Self::One(mut connection) => connection.send_packed_commands(pipeline, 0, pipeline.len()).await,
            Self::Cluster(mut connection) => {
                connection.req_packed_commands(pipeline, 0, pipeline.len()).await
            }
        };
        replies.map_err(reason)
    }

    /// Sends one command; the caller has a deadline of its own.
    pub(super) async fn command(&self, words: &[&str]) -> Result<Value, Arc<str>> {
        let add = |words: &&[&str], pipeline: &mut Pipeline| {
            pipeline.cmd(words[0]).arg(&words[1..]);
        };
        let replies = self.send(&[words], 1, Instant::now() + LONGEST, add).await.pop();
        let reply = replies.and_then(|replies| replies.map(|mut replies| replies.pop()).transpose());
        reply.unwrap_or_else(|| Err("no answer".into()))
    }
}

/// An error of the client or the server, without what it was asked for.
pub(super) fn reason(error: RedisError) -> Arc<str> {
    error.to_string().into()
}
