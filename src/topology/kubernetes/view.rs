//! What pods and EndpointSlices say of the servers. Pure: objects in, endpoints out.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodCondition, Service};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};

use super::Settings;
use crate::model::claims::Claim;
use crate::model::server::{Address, Endpoint, Role, ServerId};
use crate::topology::dns::Hosts;

/// The objects as they were last read.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Those that the Service selects; None where pods may not be read.
    pub(super) pods: Option<Vec<Arc<Pod>>>,
    /// Those of both Services.
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    /// The record can be read, so whoever is not appointed there is not the primary, whatever a Service says.
    pub(super) record: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// By ordinal.
    pub(super) endpoints: Vec<Endpoint>,
    /// What people should know.
    pub(super) notices: Vec<String>,
}

/// One server, as far as one kind of object knows it.
#[derive(Clone, Debug)]
struct Member {
    uid: Option<Arc<str>>,
    host: Arc<str>,
    port: Option<u16>,
    ready: bool,
    terminating: bool,
    zone: Option<Arc<str>>,
    node: Option<Arc<str>>,
}

pub(super) fn view(objects: &Objects, settings: &Settings) -> View {
    let mut notices = Vec::new();
    let sliced = slice_members(&objects.slices, &settings.service);
    let port = sliced.values().find_map(|member| member.port);
    let members = match &objects.pods {
        Some(pods) => pod_members(pods, &sliced),
        None => sliced,
    };
    let primary = primary(objects, settings, &members, &mut notices);
    let mut endpoints: Vec<Endpoint> = members
        .into_iter()
        .map(|(id, member)| {
            let port = member.port.or(port).unwrap_or(settings.port);
            let name = Address { host: format!("{id}.{}", settings.service).into(), port };
            Endpoint {
                address: match settings.hosts {
                    Hosts::Addresses => Address { host: member.host, port },
                    Hosts::Names => name.clone(),
                },
                name,
                zone: member.zone,
                node: member.node,
                ready: member.ready && !member.terminating,
                terminating: member.terminating,
                role: if primary.as_ref() == Some(&id) { Role::Primary } else { Role::Replica },
                uid: member.uid,
                id,
            }
        })
        .collect();
    endpoints.sort_by_key(|endpoint| (endpoint.id.ordinal(), endpoint.id.clone()));
    View { endpoints, notices }
}

/// Whom discovery takes for the primary where no record appoints one.
fn primary(
    objects: &Objects,
    settings: &Settings,
    members: &BTreeMap<ServerId, Member>,
    notices: &mut Vec<String>,
) -> Option<ServerId> {
    let by_service = settings.primary_service.as_deref().filter(|service| {
        // No slice at all: there is no such Service.
        !objects.record && objects.slices.iter().any(|slice| is_of(slice, service))
    });
    let candidates: Vec<ServerId> = match by_service {
        Some(service) => slice_members(&objects.slices, service).into_keys().collect(),
        None => members.keys().filter(|id| id.ordinal() == Some(0)).cloned().collect(),
    };
    let names = candidates.iter().map(ServerId::as_str).collect::<Vec<_>>().join(", ");
    match (&candidates[..], by_service) {
        ([one], _) => return Some(one.clone()),
        ([], None) => {}
        // Before anybody was promoted, or between two: a guess could be the old one.
        ([], Some(service)) => {
            notices.push(format!("Service {service} selects no pod: no server is taken for the primary"));
        }
        (_, Some(service)) => notices.push(format!(
            "Service {service} selects {names}: no server is taken for the primary until it selects one alone"
        )),
        (_, None) => notices.push(format!(
            "Service {} selects pods of several StatefulSets ({names}): no server is taken for the primary; have \
             its selector select one of them",
            settings.service
        )),
    }
    None
}

/// Pods that have an address. They know of their end and of a new address before any slice does.
fn pod_members(pods: &[Arc<Pod>], sliced: &BTreeMap<ServerId, Member>) -> BTreeMap<ServerId, Member> {
    let member = |pod: &Arc<Pod>| {
        let id = member_id(pod.metadata.name.as_deref()?)?;
        let status = pod.status.as_ref()?;
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let host = status.pod_ip.as_deref().filter(|ip| !ip.is_empty())?;
        let is_ready = |condition: &PodCondition| condition.type_ == "Ready" && condition.status == "True";
        let slice = sliced.get(&id);
        let member = Member {
            uid: pod.metadata.uid.as_deref().map(Arc::from),
            host: Arc::from(host),
            port: slice.and_then(|slice| slice.port),
            ready: status.conditions.as_ref().is_some_and(|all| all.iter().any(is_ready)),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            zone: slice.and_then(|slice| slice.zone.clone()),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).map(Arc::from),
        };
        Some((id, member))
    };
    pods.iter().filter_map(member).collect()
}

/// A Service may have several slices, and an endpoint may be in two of them while it moves from one to the other; with
/// two IP families it is in one of each.
fn slice_members(slices: &[Arc<EndpointSlice>], service: &str) -> BTreeMap<ServerId, Member> {
    let mut members: BTreeMap<ServerId, Member> = BTreeMap::new();
    // The worst one wins: not a pod that goes when there is one that stays, nor one that is not ready.
    let rank = |member: &Member| {
        (member.terminating, !member.ready, member.host.contains(':'), Arc::clone(&member.host))
    };
    for slice in slices.iter().filter(|slice| is_of(slice, service)) {
        let port = port(slice);
        for endpoint in &slice.endpoints {
            let Some((id, member)) = slice_member(endpoint, port) else { continue };
            let better = members.get(&id).is_none_or(|known| rank(&member) < rank(known));
            if better {
                members.insert(id, member);
            }
        }
    }
    members
}

fn slice_member(endpoint: &SliceEndpoint, port: Option<u16>) -> Option<(ServerId, Member)> {
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let name = pod.and_then(|pod| pod.name.as_deref()).or(endpoint.hostname.as_deref())?;
    let conditions = endpoint.conditions.as_ref();
    // `ready` is always true where the Service publishes addresses that are not ready; None means true.
    let said = conditions.and_then(|conditions| conditions.serving.or(conditions.ready));
    let member = Member {
        uid: pod.and_then(|pod| pod.uid.as_deref()).map(Arc::from),
        host: Arc::from(endpoint.addresses.first()?.as_str()),
        port,
        ready: said.unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        zone: endpoint.zone.as_deref().map(Arc::from),
        node: endpoint.node_name.as_deref().map(Arc::from),
    };
    Some((member_id(name)?, member))
}

/// Only pods of a StatefulSet have an ordinal; others that the Service selects are no members.
fn member_id(name: &str) -> Option<ServerId> {
    Some(ServerId::new(name)).filter(|id| id.ordinal().is_some())
}

fn is_of(slice: &EndpointSlice, service: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let named = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
    named.is_some_and(|name| name == service) && slice.address_type != "FQDN"
}

/// The port called `mysql`, else the only one.
fn port(slice: &EndpointSlice) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let mysql = ports.iter().find(|port| port.name.as_deref() == Some("mysql"));
    let port = mysql.or(ports.first().filter(|_| ports.len() == 1))?;
    port.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// Claims that have a volume, or had one: where there has never been one, no data can be.
pub(super) fn claims(claims: &[Arc<PersistentVolumeClaim>]) -> Vec<Claim> {
    let claim = |claim: &Arc<PersistentVolumeClaim>| {
        let status = claim.status.as_ref().filter(|status| status.phase.as_deref() != Some("Pending"))?;
        let capacity = status.capacity.as_ref().and_then(|capacity| capacity.get("storage"));
        let capacity = capacity.and_then(|storage| bytes(&storage.0));
        Some(Claim { name: Arc::from(claim.metadata.name.as_deref()?), capacity })
    };
    let mut claims: Vec<Claim> = claims.iter().filter_map(claim).collect();
    claims.sort_by(|one, other| one.name.cmp(&other.name));
    claims
}

/// A quantity of bytes, rounded down. `<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>`
fn bytes(quantity: &str) -> Option<u64> {
    let suffix = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(suffix);
    let exponent = |suffix: &str| suffix.strip_prefix(['e', 'E'])?.parse().ok();
    let unit = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1000_u64.pow(2),
        "G" => 1000_u64.pow(3),
        "T" => 1000_u64.pow(4),
        "P" => 1000_u64.pow(5),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        other => 10_u64.checked_pow(exponent(other)?)?,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A Service's selector as pods are asked for; None for a Service without one, whose pods nobody but its slices knows.
pub(super) fn label_selector(service: &Service) -> Option<String> {
    let selector = service.spec.as_ref()?.selector.as_ref()?;
    let pairs: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    (!pairs.is_empty()).then(|| pairs.join(","))
}

#[cfg(test)]
mod tests;
