//! What else a cluster does for a pod before it can run: nodes that are there and alive, a node for each pod, a volume
//! with a folder for each claim. Looks at everything again each time it is called, so a lost call does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Binding, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::process::Command;

use super::pod::is_deleted;

pub(super) struct Scheduler {
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) claims: PathBuf,
    /// Name and zone.
    pub(super) nodes: Vec<(String, String)>,
    /// Folders of claims whose size is that of the claim.
    pub(super) limited: Mutex<BTreeSet<PathBuf>>,
}

/// Volumes of this StorageClass hold no more than their claim says, and grow with it. Others hold what this machine does.
const LIMITED: &str = "limited";

impl Scheduler {
    /// Makes the nodes, or says again that they are alive.
    pub(super) async fn keep_nodes(&self) -> Result<(), kube::Error> {
        let api = Api::<Node>::all(self.client.clone());
        for (name, zone) in &self.nodes {
            if api.get_opt(name).await?.is_none() {
                let node = json!({
                    "apiVersion": "v1", "kind": "Node",
                    "metadata": { "name": name, "labels": {
                        "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": zone,
                    }},
                });
                let node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
                api.create(&PostParams::default(), &node).await?;
            }
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let room = json!({ "cpu": "64", "memory": "256Gi", "pods": "110" });
            let status = json!({ "status": {
                "capacity": room, "allocatable": room,
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "KubeletReady",
                    "lastHeartbeatTime": now, "lastTransitionTime": now,
                }],
            }});
            api.patch_status(name, &PatchParams::default(), &Patch::Strategic(status)).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_nodes(&self) {
        for (name, _) in &self.nodes {
            let _ = Api::<Node>::all(self.client.clone()).delete(name, &DeleteParams::default()).await;
        }
    }

    /// Gives every pod without a node one, as far as there is one for it and its claims are bound.
    pub(super) async fn assign(&self, pods: &[Pod]) -> Result<(), kube::Error> {
        let waiting = |pod: &&Pod| node_of(pod).is_none() && !is_deleted(pod);
        if !pods.iter().any(|pod| waiting(&pod)) {
            return Ok(());
        }
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let nodes: Vec<Node> = nodes
            .items
            .into_iter()
            .filter(|node| self.nodes.iter().any(|(name, _)| Some(name) == node.metadata.name.as_ref()))
            .collect();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace)
            .list(&ListParams::default())
            .await?;
        let bound: BTreeSet<String> = claims
            .items
            .into_iter()
            .filter(|claim| claim.metadata.deletion_timestamp.is_none() && phase(claim) == Some("Bound"))
            .filter_map(|claim| claim.metadata.name)
            .collect();
        let mut load: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
        for pod in pods {
            if let Some(node) = node_of(pod) {
                load.entry(node.to_owned()).or_default().push(owner(pod));
            }
        }
        for pod in pods.iter().filter(waiting) {
            if !claims_of(pod).iter().all(|claim| bound.contains(claim)) {
                continue;
            }
            let mut fitting: Vec<&str> = nodes
                .iter()
                .filter(|node| fits(pod, node))
                .filter_map(|node| node.metadata.name.as_deref())
                .collect();
            // Pods of one owner apart from one another, then evenly.
            fitting.sort_by_key(|node| {
                let pods = load.get(*node).map(Vec::as_slice).unwrap_or_default();
                (pods.iter().filter(|other| **other == owner(pod)).count(), pods.len(), (*node).to_owned())
            });
            let Some(node) = fitting.first() else { continue };
            load.entry((*node).to_owned()).or_default().push(owner(pod));
            self.bind(pod, node).await?;
        }
        Ok(())
    }

    async fn bind(&self, pod: &Pod, node: &str) -> Result<(), kube::Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": { "name": name, "uid": pod.metadata.uid },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let binding: Binding = serde_json::from_value(binding).map_err(kube::Error::SerdeError)?;
        let api = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        match api.create_subresource::<_, Value>("binding", name, &PostParams::default(), &binding).await {
            // Deleted, or bound by an earlier call.
            Err(kube::Error::Api(answer)) if answer.code == 404 || answer.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }

    /// Makes a volume with an empty folder for each new claim, and removes those whose claim is gone.
    pub(super) async fn keep_claims(&self) -> Result<(), kube::Error> {
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &self.namespace);
        let claims = api.list(&ListParams::default()).await?.items;
        let known: BTreeMap<&str, &str> = claims
            .iter()
            .filter_map(|claim| Some((claim.metadata.name.as_deref()?, claim.metadata.uid.as_deref()?)))
            .collect();
        for (name, uid) in self.folders() {
            if known.get(name.as_str()) != Some(&uid.as_str()) {
                let volumes = Api::<PersistentVolume>::all(self.client.clone());
                let _ = volumes.delete(&format!("pvc-{uid}"), &DeleteParams::default()).await;
                for ending in ["first.sql", "uid"] {
                    let _ = fs::remove_file(self.claims.join(&name).with_extension(ending));
                }
                let folder = self.claims.join(&name);
                if self.limited.lock().remove(&folder) {
                    unmount(&folder).await;
                }
                let _ = fs::remove_dir_all(folder);
            }
        }
        for claim in &claims {
            match phase(claim) {
                Some("Bound") => self.expand(&api, claim).await?,
                _ => self.provision(&api, claim).await?,
            }
        }
        Ok(())
    }

    /// A claim that asks for more than it has gets it.
    async fn expand(
        &self,
        api: &Api<PersistentVolumeClaim>,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), kube::Error> {
        let (name, wanted) = (claim.metadata.name.as_deref().unwrap_or_default(), request(claim));
        let has = claim.status.as_ref().and_then(|status| status.capacity.clone()).unwrap_or_default();
        if wanted == has {
            return Ok(());
        }
        self.limit(claim, &self.claims.join(name)).await;
        let status = json!({ "status": { "capacity": wanted } });
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.map(drop)
    }

    /// Gives the folder of a claim the size that the claim says, if its class is one that holds no more.
    async fn limit(&self, claim: &PersistentVolumeClaim, folder: &Path) {
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
        let Some(size) = request(claim).remove("storage").filter(|_| class == Some(LIMITED)) else { return };
        let first = self.limited.lock().insert(folder.to_owned());
        // Of the suffixes, `mount` knows these.
        let size = size.0.replace("Mi", "m").replace("Gi", "g");
        let options = if first { format!("size={size}") } else { format!("remount,size={size}") };
        let mut command = Command::new("mount");
        let outcome = command.args(["-t", "tmpfs", "-o", &options, "claim"]).arg(folder).status().await;
        assert!(outcome.is_ok_and(|status| status.success()), "{} cannot be limited", folder.display());
    }

    /// What was mounted here.
    pub(super) async fn remove_limits(&self) {
        let all = std::mem::take(&mut *self.limited.lock());
        for folder in all {
            unmount(&folder).await;
        }
    }

    async fn provision(
        &self,
        api: &Api<PersistentVolumeClaim>,
        claim: &PersistentVolumeClaim,
    ) -> Result<(), kube::Error> {
        let metadata = &claim.metadata;
        let (Some(name), Some(uid), Some(spec)) = (&metadata.name, &metadata.uid, &claim.spec) else {
            return Ok(());
        };
        let folder = self.claims.join(name);
        let made = fs::create_dir_all(&folder).and_then(|()| fs::write(folder.with_extension("uid"), uid));
        made.map_err(|error| kube::Error::Service(Box::new(error)))?;
        self.limit(claim, &folder).await;
        let room = request(claim);
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": { "name": format!("pvc-{uid}") },
            "spec": {
                "capacity": room,
                "accessModes": spec.access_modes,
                "storageClassName": spec.storage_class_name,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": { "path": folder },
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": self.namespace, "name": name, "uid": uid,
                },
            },
        });
        let volume = serde_json::from_value(volume).map_err(kube::Error::SerdeError)?;
        let volumes = Api::<PersistentVolume>::all(self.client.clone());
        match volumes.create(&PostParams::default(), &volume).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            other => other.map(drop)?,
        }
        let parameters = PatchParams::default();
        let bound = json!({
            "metadata": { "annotations": { "pv.kubernetes.io/bind-completed": "yes" } },
            "spec": { "volumeName": format!("pvc-{uid}") },
        });
        api.patch(name, &parameters, &Patch::Merge(bound)).await?;
        let status =
            json!({ "status": { "phase": "Bound", "capacity": room, "accessModes": spec.access_modes } });
        api.patch_status(name, &parameters, &Patch::Merge(status)).await?;
        let status = json!({ "status": { "phase": "Bound" } });
        volumes.patch_status(&format!("pvc-{uid}"), &parameters, &Patch::Merge(status)).await?;
        Ok(())
    }

    /// Names of claims that have a folder, and the claim it was made for.
    fn folders(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(&self.claims).into_iter().flatten().flatten();
        let one = |path: PathBuf| {
            let name = path.file_name()?.to_string_lossy().strip_suffix(".uid")?.to_owned();
            Some((name, fs::read_to_string(&path).ok()?))
        };
        entries.filter_map(|entry| one(entry.path())).collect()
    }
}

pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Processes that still use it have mounts of their own.
async fn unmount(folder: &Path) {
    let _ = Command::new("umount").arg(folder).status().await;
}

fn request(claim: &PersistentVolumeClaim) -> BTreeMap<String, Quantity> {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    resources.and_then(|resources| resources.requests.clone()).unwrap_or_default()
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn owner(pod: &Pod) -> Option<String> {
    pod.metadata.owner_references.as_ref()?.first().map(|owner| owner.uid.clone())
}

fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())).collect()
}

fn fits(pod: &Pod, node: &Node) -> bool {
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let wanted = pod.spec.as_ref().and_then(|spec| spec.node_selector.clone()).unwrap_or_default();
    !cordoned && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}
