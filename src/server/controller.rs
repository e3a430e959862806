//! Starts what the embedded controller is made of: the election, and the controller itself while this process leads.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Kubernetes;
use crate::admin;
use crate::config::Config;
use crate::controller::lead::Lead;
use crate::controller::publish::{Publisher, Sources};
use crate::controller::{Logins, Settings, Tools};
use crate::dba::AccountPlan;
use crate::demo::random_uuid;
use crate::k8s::lease;
use crate::model::access::Account;
use crate::model::leadership::{Leadership, Mandate};
use crate::model::progress::Progress;
use crate::model::server::Endpoint;
use crate::model::topology::Topology;

/// Where the controller tells what it does; made before anything runs, so that whoever listens can be built.
pub(super) struct Outputs {
    progress: watch::Sender<Arc<Progress>>,
    leadership: watch::Sender<Leadership>,
}

/// One statement of a step; CLONE has no end.
const STATEMENT: Duration = Duration::from_secs(30);

impl Outputs {
    pub(super) fn new() -> (Self, admin::Controller) {
        let (progress, seen) = watch::channel(Arc::default());
        let (leadership, known) = watch::channel(Leadership::default());
        (Self { progress, leadership }, admin::Controller { progress: seen, leadership: known })
    }
}

/// Runs until `stop`; then the controller ends first, and the lease is given back.
pub(super) fn start(
    config: &Config,
    (outputs, kubernetes, endpoints, topology): (
        Outputs,
        Kubernetes,
        watch::Receiver<Arc<[Endpoint]>>,
        watch::Receiver<Arc<Topology>>,
    ),
    (control, tasks): (&Handle, &TaskTracker),
    stop: CancellationToken,
) {
    let Outputs { progress, leadership } = outputs;
    let Kubernetes { access, wishes, pods } = kubernetes;
    let me: Arc<str> = Arc::from(format!("{}_{}", config.controller.pod, &random_uuid()[..8]));
    let publisher = Publisher {
        access: access.clone(),
        instance: Arc::from(config.controller.pod.as_str()),
        max_lag: config.routing.max_lag,
        sources: Sources {
            progress: progress.subscribe(),
            leadership: leadership.subscribe(),
            pods,
            topology,
        },
    };
    tasks.spawn_on(publisher.run(stop.clone()), control);
    let lead = Lead {
        access: access.clone(),
        state: config.controller.state.clone(),
        me: Arc::clone(&me),
        settings: settings(config),
        endpoints,
        wishes,
        leadership: leadership.subscribe(),
        progress,
    };
    let resign = CancellationToken::new();
    let electing = lease::run(access, config.controller.lease.clone(), me, leadership, resign.clone());
    tasks.spawn_on(electing, control);
    tasks.spawn_on(
        async move {
            let _resigns = resign.drop_guard();
            lead.run(stop).await;
        },
        control,
    );
}

fn settings(config: &Config) -> Settings {
    let controller = &config.controller;
    let logins = Logins {
        ours: controller.account.account.clone(),
        installation: Some(controller.installation.account.clone()),
        tls: config.server_tls.clone(),
        mandate: Mandate::Unlimited,
    };
    let accounts = AccountPlan {
        ours: controller.account.account.clone(),
        replication: controller.replication.account.clone(),
        probes: probes(config),
        application: None,
    };
    Settings {
        tools: Tools { logins, accounts, deadline: STATEMENT },
        interval: controller.interval,
        look_deadline: config.monitor.timeout,
        diverged: controller.diverged,
        fresh_cluster: Arc::from(random_uuid()),
    }
}

/// The account for probes is the controller's to create when it has a password, and is nobody else's.
fn probes(config: &Config) -> Option<Account> {
    let controller = &config.controller;
    let others = [&controller.installation, &controller.account, &controller.replication];
    let taken = others.iter().any(|other| other.account.user == config.account.user);
    (!taken && !config.account.password.reveal().is_empty()).then(|| config.account.clone())
}
