//! `[dedup.redis]`: which servers, from one URL.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use secrecy::{ExposeSecret, SecretString};

/// The forms of the URL, for messages.
const FORMS: &str = "redis://user:password@host:6379/0, rediss:// for TLS, redis-cluster://host:6379,host:6379, or \
                     redis-sentinel://host:26379,host:26379/MASTER";
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A URL taken apart.
pub(super) enum Address {
    One(ConnectionInfo),
    Cluster(Vec<ConnectionInfo>),
    Sentinel { sentinels: Vec<ConnectionAddr>, master: String, login: RedisConnectionInfo, tls: bool },
}

impl Address {
    /// The error never repeats a part of the URL: it may be the password.
    pub(super) fn parse(url: &SecretString) -> Result<Self, String> {
        let text = url.expose_secret();
        let (scheme, rest) = text.split_once("://").ok_or_else(|| format!("expects a URL: {FORMS}"))?;
        let scheme = scheme.replace('+', "-").replace("valkeys", "rediss").replace("valkey", "redis");
        let (base, kind) = scheme.split_once('-').unwrap_or((&scheme, ""));
        let tls = match base {
            "redis" => false,
            "rediss" => true,
            _ => return Err(format!("expects a URL of one of these forms: {FORMS}")),
        };
        if rest.contains(['#', '?']) {
            return Err("takes no options after ? or #; percent-encode these characters in a password".into());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) =
            authority.rsplit_once('@').map_or(("", authority), |(login, hosts)| (login, hosts));
        let hosts: Vec<&str> = hosts.split(',').collect();
        let server = |host: &&str, database: &str| {
            let login = if login.is_empty() { String::new() } else { format!("{login}@") };
            let url = format!("{base}://{login}{host}/{database}");
            let parsed = url.as_str().into_connection_info();
            parsed.map_err(|_| format!("expects hosts with ports, and the number of a database: {FORMS}"))
        };
        match (kind, &hosts[..]) {
            ("", [host]) => Ok(Self::One(server(host, path)?)),
            ("", _) => {
                Err(format!("names several servers: say whether they are a cluster or sentinels: {FORMS}"))
            }
            ("cluster", hosts) if path.is_empty() => {
                hosts.iter().map(|host| server(host, "")).collect::<Result<_, _>>().map(Self::Cluster)
            }
            ("cluster", _) => Err("a cluster has no databases: leave out the path".into()),
            ("sentinel", hosts) => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(format!("needs the name of the master that the sentinels watch: {FORMS}"));
                }
                let login = server(&"unused", database)?.redis_settings().clone();
                let sentinels =
                    hosts.iter().map(|host| Ok(with_port(host, server(host, "")?.addr().clone())));
                let sentinels = sentinels.collect::<Result<_, String>>()?;
                Ok(Self::Sentinel { sentinels, master: master.into(), login, tls })
            }
            _ => Err(format!("expects a URL of one of these forms: {FORMS}")),
        }
    }
}

/// The address with the port of sentinels, if the text names none.
fn with_port(text: &str, address: ConnectionAddr) -> ConnectionAddr {
    let named = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    match address {
        ConnectionAddr::Tcp(host, PORT) if !named => ConnectionAddr::Tcp(host, SENTINEL_PORT),
        ConnectionAddr::TcpTls { host, port: PORT, insecure, tls_params } if !named => {
            ConnectionAddr::TcpTls { host, port: SENTINEL_PORT, insecure, tls_params }
        }
        address => address,
    }
}

impl fmt::Display for Address {
    /// The servers, without the login.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |addresses: Vec<String>| addresses.join(",");
        match self {
            Self::One(info) => info.addr().fmt(f),
            Self::Cluster(nodes) => {
                write!(f, "cluster {}", list(nodes.iter().map(|node| node.addr().to_string()).collect()))
            }
            Self::Sentinel { sentinels, master, .. } => {
                write!(
                    f,
                    "{master} of sentinels {}",
                    list(sentinels.iter().map(ToString::to_string).collect())
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(url: &str) -> Result<String, String> {
        Address::parse(&url.into()).map(|address| address.to_string())
    }

    #[test]
    fn every_form_names_its_servers() {
        let table = [
            ("redis://cache:6380/2", "cache:6380"),
            ("rediss://user:p%40ss@cache", "cache:6379"),
            ("valkey://cache", "cache:6379"),
            ("redis://:pass@[::1]:6380", "::1:6380"),
            ("redis-cluster://a:7000,b:7001,c", "cluster a:7000,b:7001,c:6379"),
            ("rediss+cluster://user:pass@a,b", "cluster a:6379,b:6379"),
            ("redis-sentinel://:pass@a,b:26380/main", "main of sentinels a:26379,b:26380"),
            ("redis+sentinel://a/main/1", "main of sentinels a:26379"),
        ];
        for (url, expected) in table {
            assert_eq!(shown(url).as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let wrong = [
            "cache:6379",
            "http://cache",
            "redis://hunter2@a,b",
            "redis://:hunter2@cache/x",
            "rediss://:hunter2@cache/#insecure",
            "redis-cluster://:hunter2@a/1",
            "redis-sentinel://:hunter2@a",
            "redis-nothing://:hunter2@a",
        ];
        for url in wrong {
            let message = shown(url).expect_err(url);
            assert!(!message.contains("hunter2"), "{url}: {message}");
        }
    }
}
