//! Discovery over DNS: a headless Service's SRV records name its pods; else `mysql-0.SERVICE`, `mysql-1.SERVICE`, ... are
//! asked for one after another. Ordinal 0 is the primary. A lookup that fails changes nothing: the last answer is kept.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::model::server::{Address, Endpoint, Role, ServerId};

/// What to look for.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The headless Service's name, as this machine's resolver knows it.
    pub(crate) service: String,
    pub(crate) port: u16,
    pub(crate) refresh: Duration,
    pub(crate) hosts: Hosts,
}

/// How a server is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// By the IP address that was found: connecting looks nothing up, and a pod that moved is noticed.
    Addresses,
    /// By name, for certificates that are checked against it.
    Names,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the resolver's configuration cannot be read: {0}")]
    Configuration(String),
    #[error("looking up {0} failed: {1}")]
    Lookup(String, String),
    #[error("looking up {0} took too long")]
    Late(String),
    #[error(
        "{service} has no SRV records, and {first} has no address: is it a headless Service of a StatefulSet?"
    )]
    Nothing { service: String, first: String },
}

pub(crate) struct Finder {
    resolver: TokioResolver,
    settings: Settings,
}

/// One round of lookups ends within this.
const DEADLINE: Duration = Duration::from_secs(10);
/// At most so many servers are asked for by ordinal.
const MOST: u32 = 64;
/// Pods may be missing in between (a node is down), but not more than so many in a row.
const GAP: u32 = 2;

impl Finder {
    /// Uses the machine's own resolver configuration.
    pub(crate) fn new(settings: Settings) -> Result<Self, Error> {
        let mut builder =
            TokioResolver::builder_tokio().map_err(|error| Error::Configuration(error.to_string()))?;
        // `refresh` says how old an answer may be.
        builder.options_mut().cache_size = 0;
        let resolver = builder.build().map_err(|error| Error::Configuration(error.to_string()))?;
        Ok(Self { resolver, settings })
    }

    /// Looks everything up once.
    pub(crate) async fn find(&self) -> Result<Arc<[Endpoint]>, Error> {
        let service = &self.settings.service;
        timeout(DEADLINE, self.look_up()).await.map_err(|_| Error::Late(service.clone()))?
    }

    /// Looks everything up every `refresh`, until `stop`.
    pub(crate) async fn run(self, endpoints: watch::Sender<Arc<[Endpoint]>>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            tokio::select! {
                () = sleep(self.settings.refresh) => {}
                () = stop.cancelled() => return,
            }
            match self.find().await {
                Ok(found) => {
                    if failing {
                        tracing::info!(service = self.settings.service, "discovery works again");
                    }
                    failing = false;
                    endpoints.send_if_modified(|known| {
                        let changed = *known != found;
                        if changed {
                            *known = found;
                        }
                        changed
                    });
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "discovery failed; the last answer is kept");
                    }
                    failing = true;
                }
            }
        }
    }

    async fn look_up(&self) -> Result<Arc<[Endpoint]>, Error> {
        let Settings { service, port, .. } = &self.settings;
        // Pods of a StatefulSet have a name of their own in the Service's domain; others are no members.
        let mut found = Vec::new();
        for name in [format!("_mysql._tcp.{service}"), service.clone()] {
            for (host, port) in self.services(&name).await? {
                let id = ServerId::new(host.split('.').next().unwrap_or(&host));
                if id.ordinal().is_some() && !found.iter().any(|(known, _, _)| *known == id) {
                    found.push((id, host, port));
                }
            }
            if !found.is_empty() {
                return self.endpoints(found).await;
            }
        }
        let set = service.split('.').next().unwrap_or(service);
        let mut missing = 0;
        for ordinal in 0..MOST {
            let id = ServerId::new(&format!("{set}-{ordinal}"));
            let host = format!("{id}.{service}");
            if self.address(&host).await?.is_some() {
                missing = 0;
                found.push((id, host, *port));
            } else {
                missing += 1;
                if missing > GAP {
                    break;
                }
            }
        }
        if found.is_empty() {
            return Err(Error::Nothing { service: service.clone(), first: format!("{set}-0.{service}") });
        }
        self.endpoints(found).await
    }

    async fn endpoints(&self, found: Vec<(ServerId, String, u16)>) -> Result<Arc<[Endpoint]>, Error> {
        let mut endpoints = Vec::with_capacity(found.len());
        for (id, name, port) in found {
            let host = match self.settings.hosts {
                Hosts::Names => Some(name.clone()),
                Hosts::Addresses => self.address(&name).await?,
            };
            // A name without an address belongs to a pod that is just going or coming.
            let Some(host) = host else { continue };
            endpoints.push(Endpoint {
                role: if id.ordinal() == Some(0) { Role::Primary } else { Role::Replica },
                id,
                address: Address { host: Arc::from(host), port },
                name: Address { host: Arc::from(name), port },
                zone: None,
                node: None,
                ready: true,
                uid: None,
                terminating: false,
            });
        }
        endpoints.sort_by_key(|endpoint: &Endpoint| endpoint.id.ordinal());
        Ok(Arc::from(endpoints))
    }

    /// Hosts and ports of a name's SRV records; none when there are none.
    async fn services(&self, name: &str) -> Result<Vec<(String, u16)>, Error> {
        let Some(lookup) = answer(name, self.resolver.lookup(name, RecordType::SRV).await)? else {
            return Ok(Vec::new());
        };
        let mut services: Vec<(String, u16)> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(service) => {
                    Some((service.target.to_utf8().trim_end_matches('.').to_owned(), service.port))
                }
                _ => None,
            })
            .collect();
        services.sort();
        Ok(services)
    }

    /// The first address of a name, in a stable order; None when it has none.
    async fn address(&self, name: &str) -> Result<Option<String>, Error> {
        let Some(lookup) = answer(name, self.resolver.lookup_ip(name).await)? else { return Ok(None) };
        Ok(lookup.iter().min().map(|address| address.to_string()))
    }
}

/// That a name or record does not exist is an answer; anything else is a failure.
fn answer<T>(name: &str, outcome: Result<T, NetError>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(lookup) => Ok(Some(lookup)),
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Ok(None),
        Err(error) => Err(Error::Lookup(name.to_owned(), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use hickory_resolver::net::runtime::TokioRuntimeProvider;
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, SRV};
    use hickory_resolver::proto::rr::{Name, Record};
    use tokio::net::UdpSocket;

    use super::*;

    /// Name and data; a name that is `broken` answers SERVFAIL, any other unknown one NXDOMAIN.
    type Zone = &'static [(&'static str, Entry)];

    #[derive(Clone, Copy)]
    enum Entry {
        Address(u8),
        Service(&'static str, u16),
        Broken,
    }

    /// Answers from `zone` for as long as the test runs.
    async fn serve(socket: UdpSocket, zone: Zone) {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.expect("a socket of the test");
            let query = Message::from_vec(&buffer[..length]).expect("a query of the resolver");
            let asked = query.queries.first().expect("one question").clone();
            let name = asked.name().to_utf8();
            let mut response = query.into_response();
            let entries: Vec<Entry> =
                zone.iter().filter(|(key, _)| name == format!("{key}.")).map(|(_, entry)| *entry).collect();
            response.metadata.response_code = match entries.first() {
                None => ResponseCode::NXDomain,
                Some(Entry::Broken) => ResponseCode::ServFail,
                Some(_) => ResponseCode::NoError,
            };
            for entry in entries {
                let data = match entry {
                    Entry::Address(last) => RData::A(A(Ipv4Addr::new(127, 0, 0, last))),
                    Entry::Service(target, port) => {
                        RData::SRV(SRV::new(0, 0, port, Name::from_utf8(target).expect("a name")))
                    }
                    Entry::Broken => continue,
                };
                if data.record_type() == asked.query_type() {
                    response.add_answer(Record::from_rdata(asked.name().clone(), 5, data));
                }
            }
            let bytes = response.to_vec().expect("a small message");
            socket.send_to(&bytes, client).await.expect("a socket of the test");
        }
    }

    /// What is found, each server as `id=host:port`, the primary with a star; or the error.
    async fn check(zone: Zone, hosts: Hosts, expected: &str) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let port = socket.local_addr().expect("bound").port();
        let mut server = NameServerConfig::udp(IpAddr::from([127, 0, 0, 1]));
        server.connections[0].port = port;
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        builder.options_mut().attempts = 1;
        let settings =
            Settings { service: "mysql.db".to_owned(), port: 3306, refresh: Duration::from_secs(1), hosts };
        let finder = Finder { resolver: builder.build().expect("a resolver"), settings };
        let found = tokio::select! {
            found = finder.find() => found,
            () = serve(socket, zone) => unreachable!("it serves for ever"),
        };
        let found = match found {
            Err(error) => error.to_string(),
            Ok(found) => {
                let text = |endpoint: &Endpoint| {
                    let star = if endpoint.role == Role::Primary { "*" } else { "" };
                    format!("{}={}{star}", endpoint.id, endpoint.address)
                };
                found.iter().map(text).collect::<Vec<_>>().join(" ")
            }
        };
        assert!(found.starts_with(expected), "found `{found}`, not `{expected}`");
    }

    #[tokio::test]
    async fn srv_records_name_the_pods() {
        use Entry::{Address, Service};
        const ZONE: Zone = &[
            ("_mysql._tcp.mysql.db", Service("mysql-1.mysql.db.", 3307)),
            ("_mysql._tcp.mysql.db", Service("mysql-0.mysql.db.", 3306)),
            ("_mysql._tcp.mysql.db", Service("mysql-2.mysql.db.", 3306)),
            ("mysql-0.mysql.db", Address(10)),
            ("mysql-1.mysql.db", Address(11)),
        ];
        check(ZONE, Hosts::Addresses, "mysql-0=127.0.0.10:3306* mysql-1=127.0.0.11:3307").await;
        let names = "mysql-0=mysql-0.mysql.db:3306* mysql-1=mysql-1.mysql.db:3307 mysql-2=";
        check(ZONE, Hosts::Names, names).await;
    }

    #[tokio::test]
    async fn without_srv_records_ordinals_are_asked_for() {
        use Entry::Address;
        const ZONE: Zone = &[
            ("mysql.db", Address(10)),
            ("mysql-0.mysql.db", Address(10)),
            ("mysql-2.mysql.db", Address(13)),
            ("mysql-2.mysql.db", Address(12)),
        ];
        check(ZONE, Hosts::Addresses, "mysql-0=127.0.0.10:3306* mysql-2=127.0.0.12:3306").await;
    }

    #[tokio::test]
    async fn failures_are_no_answers() {
        check(&[], Hosts::Addresses, "mysql.db has no SRV records, and mysql-0.mysql.db has no address")
            .await;
        const BROKEN: Zone = &[("mysql-0.mysql.db", Entry::Address(10)), ("mysql-1.mysql.db", Entry::Broken)];
        check(BROKEN, Hosts::Addresses, "looking up mysql-1.mysql.db failed").await;
    }
}
