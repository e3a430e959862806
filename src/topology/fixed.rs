//! Discovery from a written list: nothing to look up, nothing changes.

use std::sync::Arc;

use crate::config::FixedServer;
use crate::model::server::{Endpoint, Role, ServerId};

/// The servers as written. The primary is the one named, else the one with ordinal 0, else the first.
pub(crate) fn endpoints(servers: &[FixedServer], primary: Option<&ServerId>) -> Arc<[Endpoint]> {
    let primary = primary
        .or_else(|| servers.iter().map(|server| &server.id).find(|id| id.ordinal() == Some(0)))
        .or_else(|| servers.first().map(|server| &server.id));
    servers
        .iter()
        .map(|server| Endpoint {
            id: server.id.clone(),
            address: server.address.clone(),
            name: server.address.clone(),
            node: None,
            zone: server.zone.as_deref().map(Arc::from),
            ready: true,
            uid: None,
            terminating: false,
            role: if Some(&server.id) == primary { Role::Primary } else { Role::Replica },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_one_is_the_primary() {
        let check = |names: &[&str], named: Option<&str>, expected: &str| {
            let servers: Vec<FixedServer> = names
                .iter()
                .map(|name| FixedServer {
                    id: ServerId::new(name),
                    address: "db:3306".parse().expect("an address"),
                    zone: None,
                })
                .collect();
            let named = named.map(ServerId::new);
            let endpoints = endpoints(&servers, named.as_ref());
            let primaries: Vec<&str> = endpoints
                .iter()
                .filter(|endpoint| endpoint.role == Role::Primary)
                .map(|endpoint| endpoint.id.as_str())
                .collect();
            assert_eq!(primaries, [expected]);
        };
        check(&["mysql-1", "mysql-0"], None, "mysql-0");
        check(&["mysql-1", "mysql-0"], Some("mysql-1"), "mysql-1");
        check(&["blue", "green"], None, "blue");
    }
}
