//! Starts what the embedded controller is made of: the election, and the controller itself while this process leads.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Kubernetes, passwords};
use crate::admin;
use crate::config::Config;
use crate::controller::lead::{Accounts, Lead};
use crate::controller::publish::{Publisher, Sources};
use crate::controller::{Logins, Settings, Tools};
use crate::dba::AccountPlan;
use crate::demo::random_uuid;
use crate::k8s::lease;
use crate::model::access::{Account, Credential};
use crate::model::claims::Claim;
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

/// What the controller works with.
pub(super) struct Parts {
    pub(super) outputs: Outputs,
    pub(super) kubernetes: Kubernetes,
    pub(super) endpoints: watch::Receiver<Arc<[Endpoint]>>,
    pub(super) topology: watch::Receiver<Arc<Topology>>,
    /// The account of `account`.
    pub(super) probes: watch::Receiver<Credential>,
}

/// Runs until `stop`; then the controller ends first, and the lease is given back.
pub(super) fn start(
    config: &Config,
    parts: Parts,
    (control, tasks): (&Handle, &TaskTracker),
    stop: CancellationToken,
) {
    let Parts { outputs: Outputs { progress, leadership }, kubernetes, endpoints, topology, probes } = parts;
    let Kubernetes { access, wishes, pods, claims } = kubernetes;
    let me: Arc<str> = Arc::from(format!("{}_{}", config.controller.pod, &random_uuid()[..8]));
    let follow = |kept| passwords::follow(kept, (control, tasks), &stop);
    let accounts = Accounts {
        ours: follow(&config.controller.account),
        replication: follow(&config.controller.replication),
        installation: follow(&config.controller.installation),
        probes: creates_probes(config).then_some(probes),
    };
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
        settings: settings(config, claims),
        keep_old: config.controller.keep_old,
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
            Box::pin(lead.run(accounts, stop)).await;
        },
        control,
    );
}

fn settings(config: &Config, claims: watch::Receiver<Arc<[Claim]>>) -> Settings {
    let controller = &config.controller;
    let logins = Logins {
        ours: controller.account.account.clone().into(),
        installation: None,
        tls: config.server_tls.clone(),
        mandate: Mandate::Unlimited,
    };
    let accounts = AccountPlan {
        ours: controller.account.account.clone(),
        replication: controller.replication.account.clone(),
        probes: None,
        application: None,
    };
    Settings {
        tools: Tools { logins, accounts, deadline: STATEMENT, clone_bandwidth: controller.clone_bandwidth },
        interval: controller.interval,
        look_deadline: config.monitor.timeout,
        diverged: controller.diverged,
        claims,
        fresh_cluster: Arc::from(random_uuid()),
        troubles: watch::channel(Vec::new()).1,
    }
}

/// The account for probes is the controller's to create when it has a password, and is nobody else's.
fn creates_probes(config: &Config) -> bool {
    let controller = &config.controller;
    let others = [&controller.installation, &controller.account, &controller.replication];
    let Account { user, password } = &config.account.account;
    !password.reveal().is_empty() && others.iter().all(|other| other.account.user != *user)
}
