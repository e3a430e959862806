//! What `deploy/` holds, as a real API server judges it: every manifest is valid, without a warning, fit for a namespace
//! that enforces the restricted Pod Security Standard; and the service accounts may do what they do, and nothing else.

use crate::scene::{Scene, scenario};

#[test]
fn manifests_are_accepted() {
    scenario("manifests", async |scene| {
        let [enforce, warn] =
            ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
        scene.kubectl(&["label", "namespace", &scene.namespace, &enforce, &warn]).await;
        let dry = ["apply", "--dry-run=server", "--warnings-as-errors"];
        for folder in FOLDERS {
            let said = scene.kubectl(&[&dry[..], &["-k", folder]].concat()).await;
            assert!(!said.is_empty() && !said.contains("clusterrole"), "{folder}: {said}");
        }
        scene.kubectl(&[&dry[..], &["-f", "deploy/base/secret.example.yaml"]].concat()).await;

        // The accounts and their Roles, without the pods.
        for file in ["deploy/base/readwright/rbac.yaml", "deploy/overlays/sidecar/rbac.yaml"] {
            scene.kubectl(&["apply", "-f", file]).await;
        }
        for what in CONTROLLER_MAY {
            can(scene, "readwright", what).await.unwrap_or_else(|why| panic!("may not {what}: {why}"));
        }
        for what in CONTROLLER_DOES {
            ask(scene, "readwright", what).await.unwrap_or_else(|why| panic!("{what}: {why}"));
        }
        for what in CONTROLLER_MAY_NOT {
            assert!(can(scene, "readwright", what).await.is_err(), "may {what}");
        }
        for what in SIDECAR_MAY {
            can(scene, "application", what).await.unwrap_or_else(|why| panic!("may not {what}: {why}"));
        }
        for what in SIDECAR_MAY_NOT {
            assert!(can(scene, "application", what).await.is_err(), "may {what}");
        }
    });
}

/// `kubectl auth can-i`, as a service account. Err is the answer no.
async fn can(scene: &Scene, account: &str, what: &str) -> Result<String, String> {
    ask(scene, account, &format!("auth can-i {what}")).await
}

async fn ask(scene: &Scene, account: &str, what: &str) -> Result<String, String> {
    let name = format!("--as=system:serviceaccount:{}:{account}", scene.namespace);
    let words: Vec<&str> = [&*name].into_iter().chain(what.split(' ')).collect();
    scene.try_kubectl(&words).await
}

const FOLDERS: [&str; 4] =
    ["deploy/base", "deploy/overlays/sidecar", "deploy/overlays/existing", "deploy/monitoring"];

const CONTROLLER_MAY: [&str; 15] = [
    "get services/mysql",
    "list pods",
    "watch pods",
    "list endpointslices.discovery.k8s.io",
    "watch endpointslices.discovery.k8s.io",
    "list persistentvolumeclaims",
    "watch persistentvolumeclaims",
    "create configmaps",
    "update configmaps/readwright",
    "patch configmaps/readwright",
    "create leases.coordination.k8s.io",
    "update leases.coordination.k8s.io/readwright",
    "patch pods/mysql-0",
    "patch pods/mysql-0 --subresource=status",
    "create events.events.k8s.io",
];

/// What `auth can-i` has no words for.
const CONTROLLER_DOES: [&str; 4] = [
    "get configmaps --field-selector=metadata.name=readwright",
    "create configmap readwright --from-literal=record={} --dry-run=server",
    "create -f tests/kubernetes/lease.yaml --dry-run=server",
    "get endpointslices -l kubernetes.io/service-name=mysql",
];

const CONTROLLER_MAY_NOT: [&str; 13] = [
    "get secrets",
    "list configmaps",
    "get configmaps/other",
    "delete pods",
    "create pods --subresource=exec",
    "create pods --subresource=eviction",
    "patch statefulsets.apps",
    "patch events.events.k8s.io",
    "delete persistentvolumeclaims",
    "update leases.coordination.k8s.io/other",
    "create rolebindings.rbac.authorization.k8s.io",
    "list pods --all-namespaces",
    "list nodes",
];

const SIDECAR_MAY: [&str; 2] =
    ["list endpointslices.discovery.k8s.io", "watch endpointslices.discovery.k8s.io"];

const SIDECAR_MAY_NOT: [&str; 5] =
    ["list pods", "get secrets/mysql", "list configmaps", "get services/mysql", "get configmaps/readwright"];
