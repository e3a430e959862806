//! Brings servers up and keeps them right: observe -> plan (pure) -> verify (pure) -> execute, over and over. Remembers
//! next to nothing: what was done is seen in the servers, and a controller that takes over sees the same.

mod acts;
mod copies;
mod execute;
pub(crate) mod lead;
mod observe;
pub(crate) mod passwords;
mod plan;
pub(crate) mod publish;
mod record;
#[cfg(test)]
mod rehearsal;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod story;
mod verify;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

pub(crate) use execute::Tools;
pub(crate) use observe::Logins;
pub(crate) use world::Record;
use world::{Handover, Overwriting};

use crate::config::Diverged;
use crate::dba::CloneState;
use crate::model::claims::Claim;
use crate::model::progress::{Acts, Problem, Progress, Reads, ServerProgress};
use crate::model::server::{Endpoint, ServerId};
use crate::model::wishes::Wishes;
use copies::Copies;
use execute::Job;
use observe::{Look, Observer};
use plan::{Change, Class, Plan, Step};
use world::{Resting, World};

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) tools: Tools,
    /// How often to look.
    pub(crate) interval: Duration,
    /// How long one server may take to answer a look.
    pub(crate) look_deadline: Duration,
    pub(crate) diverged: Diverged,
    /// Claims of the servers' volumes, where there is something that knows them.
    pub(crate) claims: watch::Receiver<Arc<[Claim]>>,
    /// A new random id, should a cluster be made.
    pub(crate) fresh_cluster: Arc<str>,
    /// What is not right beside the plan.
    pub(crate) troubles: watch::Receiver<Vec<Problem>>,
}

/// Where the record is kept.
pub(crate) trait Store: Send {
    /// Durable when it returns. Fails when another controller has written in between.
    fn save(&mut self, record: &Record) -> impl Future<Output = Result<(), SaveError>> + Send;
}

#[derive(Debug, thiserror::Error)]
#[error("the controller's record cannot be saved: {0}")]
pub(crate) struct SaveError(pub(crate) String);

/// Runs until `stop`, or until the record cannot be saved: what the store has is then unknown, and who goes on has to read
/// it again. `record` is what the store last had.
pub(crate) async fn run(
    settings: Settings,
    mut endpoints: watch::Receiver<Arc<[Endpoint]>>,
    mut wishes: watch::Receiver<Wishes>,
    record: Record,
    store: impl Store,
    progress: &watch::Sender<Arc<Progress>>,
    stop: CancellationToken,
) -> Result<(), SaveError> {
    let mut controller = Controller {
        observer: Observer::new(settings.tools.logins.clone(), settings.look_deadline),
        settings,
        record,
        store,
        running: JoinSet::new(),
        busy: BTreeSet::new(),
        attempts: BTreeMap::new(),
        errant_since: BTreeMap::new(),
        copies: Copies::default(),
        acts: Acts::default(),
        primary_before: crate::model::gtid::GtidSet::default(),
        watermark_saved: Instant::now(),
        last_problems: Vec::new(),
        handover: Switchover::default(),
        unsaved: None,
    };
    let mut ticks = interval(controller.settings.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while controller.unsaved.is_none() {
        tokio::select! {
            _ = ticks.tick() => {}
            // A sender that is gone says nothing new.
            Ok(()) = endpoints.changed() => {}
            Ok(()) = wishes.changed() => {}
            () = std::future::ready(()), if controller.handover.changed => {}
            Some(finished) = controller.running.join_next() => {
                if let Ok((step, outcome)) = finished {
                    controller.finished(&step, outcome).await;
                }
            }
            () = stop.cancelled() => break,
        }
        // A look takes its time while somebody does not answer, so all that has ended goes before one.
        while let Some(finished) = controller.running.try_join_next() {
            if let Ok((step, outcome)) = finished {
                controller.finished(&step, outcome).await;
            }
        }
        let known = Arc::clone(&endpoints.borrow_and_update());
        let wanted = wishes.borrow_and_update().clone();
        let round = controller.round(&known, wanted);
        tokio::select! {
            seen = round => {
                progress.send_replace(Arc::new(seen));
            }
            () = stop.cancelled() => break,
        }
    }
    controller.running.shutdown().await;
    controller.unsaved.map_or(Ok(()), Err)
}

struct Controller<S> {
    settings: Settings,
    observer: Observer,
    record: Record,
    store: S,
    running: JoinSet<(Step, Result<(), execute::Error>)>,
    busy: BTreeSet<ServerId>,
    attempts: BTreeMap<ServerId, Attempts>,
    errant_since: BTreeMap<ServerId, Instant>,
    copies: Copies,
    acts: Acts,
    primary_before: crate::model::gtid::GtidSet,
    watermark_saved: Instant,
    last_problems: Vec<Problem>,
    handover: Switchover,
    /// Why the record was not saved.
    unsaved: Option<SaveError>,
}

/// What is remembered of switchovers besides the record; who takes over from us does without.
#[derive(Debug, Default)]
struct Switchover {
    /// The one of the record, and since when we know of it.
    running: Option<(Arc<str>, Instant)>,
    /// Why a step of it failed.
    failed: Option<Arc<str>>,
    /// Until then none begins that nobody asked for.
    rests_until: Option<Instant>,
    /// The wish for one, and since when we know of it.
    wished: Option<(Arc<str>, Instant)>,
    /// The record has just changed: clients wait, so the next look does not.
    changed: bool,
}

/// What was tried on a server since it last served for a while.
#[derive(Debug)]
struct Attempts {
    count: u32,
    /// Those that were copies, and failed.
    failed_copies: u32,
    until: Instant,
    /// Why the last one failed; empty when it did not.
    why: Arc<str>,
}

impl<S: Store> Controller<S> {
    /// One look, one plan, and its steps begun.
    async fn round(&mut self, endpoints: &[Endpoint], wishes: Wishes) -> Progress {
        let named = endpoints.iter().find(|endpoint| endpoint.role == crate::model::server::Role::Primary);
        let primary = self.record.primary.clone().or_else(|| named.map(|endpoint| endpoint.id.clone()));
        let measure = !self.settings.claims.borrow().is_empty();
        let look = self.observer.look(endpoints, primary.as_ref(), measure).await;
        let world = self.world(look, wishes);
        let plan = plan::plan(&world);
        self.remember(&plan);
        let violations = verify::verify(&world, &plan);
        let mut progress = report(&world, &plan);
        progress.problems.extend(self.settings.troubles.borrow().iter().cloned());
        self.handover.changed = false;
        if violations.is_empty() {
            match &plan.change {
                // Whatever else is to be done is seen again in the next look, which follows at once.
                Some(change) => self.change(change).await,
                None => self.begin(&world, &plan).await,
            }
        } else {
            for violation in &violations {
                tracing::error!(%violation, "a plan was refused");
                let words = Arc::from(violation.to_string());
                progress.problems.push(Problem { reason: "PlanRefused", server: None, words });
            }
        }
        for problem in progress.problems.iter().filter(|problem| !self.last_problems.contains(problem)) {
            tracing::warn!(reason = problem.reason, %problem, "controller");
        }
        self.last_problems.clone_from(&progress.problems);
        self.raise_watermark(&world, &plan).await;
        progress.acts = self.acts.clone();
        progress.copied = self.copies.total();
        progress
    }

    fn world(&mut self, look: Look, wishes: Wishes) -> World {
        let now = Instant::now();
        self.copies.look(&look.nodes, now, &mut self.acts);
        let handover = &mut self.handover;
        match &self.record.handover {
            Some(Handover { id, .. }) if handover.running.as_ref().is_none_or(|(ours, _)| ours != id) => {
                (handover.running, handover.failed) = (Some((Arc::clone(id), now)), None);
            }
            Some(_) => {}
            None => (handover.running, handover.failed) = (None, None),
        }
        let wish = wishes.switchover.as_ref().map(|wish| &wish.id);
        if handover.wished.as_ref().map(|(id, _)| id) != wish {
            handover.wished = wish.map(|id| (Arc::clone(id), now));
        }
        let resting = self.attempts.iter().map(|(id, attempts)| {
            let left = attempts.until.saturating_duration_since(now);
            let why = Arc::clone(&attempts.why);
            let Attempts { count, failed_copies, .. } = *attempts;
            (id.clone(), Resting { left, attempts: count, failed_copies, why })
        });
        World {
            record: self.record.clone(),
            nodes: look.nodes,
            primary_after: look.primary_after,
            primary_before: self.primary_before.clone(),
            errant_for: self.errant_since.iter().map(|(id, since)| (id.clone(), now - *since)).collect(),
            stalled_for: self.copies.stalled_for(now),
            going_down: self.copies.going_down(now),
            busy: self.busy.clone(),
            resting: resting.collect(),
            diverged: self.settings.diverged,
            claims: Arc::clone(&self.settings.claims.borrow()),
            sizes: self.observer.sizes(),
            handover_for: handover.running.as_ref().map_or(Duration::ZERO, |(_, since)| now - *since),
            handover_failed: handover.failed.clone(),
            handover_rests: handover.rests_until.is_some_and(|until| now < until),
            wishes,
            wish_for: handover.wished.as_ref().map_or(Duration::ZERO, |(_, since)| now - *since),
            fresh_cluster: Arc::clone(&self.settings.fresh_cluster),
        }
    }

    fn remember(&mut self, plan: &Plan) {
        let now = Instant::now();
        for verdict in &plan.verdicts {
            if verdict.class.serving()
                && self.attempts.get(&verdict.id).is_some_and(|attempts| now > attempts.until + SETTLED)
            {
                self.attempts.remove(&verdict.id);
            }
            match verdict.class {
                Class::Errant => {
                    self.errant_since.entry(verdict.id.clone()).or_insert(now);
                }
                // Says nothing of what it has.
                Class::Unreachable => {}
                _ => {
                    self.errant_since.remove(&verdict.id);
                }
            }
        }
    }

    /// Begins every step; the record is written first where a step relies on it.
    async fn begin(&mut self, world: &World, plan: &Plan) {
        for step in &plan.steps {
            // Ending a copy is beside the step that copies, not after it.
            if !matches!(step, Step::StopCopy { .. }) && !self.busy.insert(step.server().clone()) {
                continue;
            }
            if let Step::Initialise { server, cluster } | Step::Adopt { server, cluster } = step {
                let mut record = self.record.clone();
                record.cluster = Some(Arc::clone(cluster));
                record.primary = Some(server.clone());
                if !self.save(record).await {
                    self.busy.remove(server);
                    return;
                }
            }
            if let Step::Clone { server, .. } = step {
                let mut record = self.record.clone();
                let begun = world.seen(server).map(|seen| Overwriting {
                    uuid: Arc::clone(&seen.probe().uuid),
                    before: seen
                        .survey
                        .clone
                        .as_ref()
                        .map_or_else(|| "".into(), |run| Arc::clone(&run.began)),
                });
                record.overwriting.extend(begun.map(|begun| (server.clone(), begun)));
                if !self.save(record).await {
                    self.busy.remove(server);
                    return;
                }
            }
            let job = match Job::new(step, world) {
                Ok(job) => job,
                Err(error) => {
                    tracing::warn!(%error, "a step could not begin");
                    self.busy.remove(step.server());
                    continue;
                }
            };
            tracing::info!(?step, "controller");
            self.copies.begins(step.server());
            acts::begun(&mut self.acts, step);
            let tools = self.settings.tools.clone();
            self.running.spawn(async move {
                let outcome = job.run(&tools).await;
                (job.step().clone(), outcome)
            });
        }
    }

    /// Writes one step of a switchover down. Each is complete by itself: whoever reads the record next goes on from it.
    async fn change(&mut self, change: &Change) {
        let record = self.record.after(change);
        if let Change::Begin { handover } = change {
            // Both are well: having been repaired a moment ago must not make anybody wait now.
            self.attempts.remove(&handover.from);
            self.attempts.remove(&handover.to);
        }
        if matches!(change, Change::Abandon { .. }) {
            self.handover.rests_until = Some(Instant::now() + FIRST_REST);
        }
        tracing::info!(?change, "controller");
        self.handover.changed = self.save(record).await;
        if self.handover.changed {
            acts::changed(&mut self.acts, change);
        }
    }

    async fn finished(&mut self, step: &Step, outcome: Result<(), execute::Error>) {
        let id = step.server();
        match &outcome {
            Ok(()) => acts::done(&mut self.acts, step),
            Err(error) => acts::failed(&mut self.acts, step, &error.to_string()),
        }
        if matches!((step, &outcome), (Step::Clone { .. }, Ok(()))) {
            self.copies.ended(id, Instant::now());
        }
        if matches!(step, Step::StopCopy { .. }) {
            if let Err(error) = outcome {
                tracing::warn!(?step, %error, "a step failed");
            }
            return;
        }
        self.busy.remove(id);
        if matches!(step, Step::Fence { .. } | Step::AwaitExecuted { .. }) {
            if let Err(error) = outcome {
                tracing::warn!(?step, %error, "a step failed");
                // A replica that did not answer is asked again, until time is up.
                if matches!(step, Step::Fence { .. }) {
                    self.handover.failed = Some(Arc::from(error.to_string()));
                }
            }
            return;
        }
        let why: Arc<str> = match outcome {
            Ok(()) => {
                tracing::info!(?step, "done");
                if matches!(step, Step::Initialise { .. } | Step::Adopt { .. }) {
                    let mut record = self.record.clone();
                    record.bootstrapped = true;
                    self.save(record).await;
                }
                match step {
                    // Whether it helps is seen later: replication that breaks again must not be set up for ever.
                    Step::Follow { .. } | Step::Start { .. } => "".into(),
                    Step::ForbidWrites { .. }
                    | Step::StopReceiving { .. }
                    | Step::StayStopped { .. }
                    | Step::SetServerId { .. } => return,
                    _ => {
                        self.attempts.remove(id);
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(?step, %error, "a step failed");
                Arc::from(error.to_string())
            }
        };
        let (count, failed_copies) =
            self.attempts.get(id).map_or((0, 0), |attempts| (attempts.count, attempts.failed_copies));
        let count = count.saturating_add(1);
        let failed_copies = failed_copies.saturating_add(u32::from(matches!(step, Step::Clone { .. })));
        let pause = FIRST_REST * 2_u32.saturating_pow(count.min(10) - 1);
        let until = Instant::now() + pause.min(LONGEST_REST);
        self.attempts.insert(id.clone(), Attempts { count, failed_copies, until, why });
    }

    /// What the primary has been seen to have only grows; a replica is up to date when it has the last of it.
    async fn raise_watermark(&mut self, world: &World, plan: &Plan) {
        // What was seen is of the primary of before, if the record names another one by now.
        if world.record != self.record {
            return;
        }
        let Some(id) = world.primary() else { return };
        let proven = plan.verdicts.iter().any(|verdict| {
            verdict.id == *id && matches!(verdict.class, Class::Primary | Class::PrimaryFenced)
        });
        let (true, true, Some(seen)) = (proven, world.record.bootstrapped, world.seen(id)) else { return };
        let executed = world.primary_after.as_ref().unwrap_or(&seen.probe().executed);
        self.primary_before.clone_from(executed);
        let mut record = self.record.clone();
        // Complete, or on another disk. Who does not answer says neither.
        let begun = |id: &ServerId| {
            world.node(id).is_none_or(|node| node.seen().is_none() || world.half_overwritten(node))
        };
        record.overwriting.retain(|id, _| begun(id));
        record.watermark.clone_from(executed);
        record.primary_uuid = Some(Arc::clone(&seen.probe().uuid));
        let due = self.watermark_saved.elapsed() >= SAVE_EVERY
            || record.primary_uuid != self.record.primary_uuid
            || record.overwriting != self.record.overwriting;
        if record != self.record && due && self.save(record).await {
            self.watermark_saved = Instant::now();
        }
    }

    async fn save(&mut self, record: Record) -> bool {
        match self.store.save(&record).await {
            Ok(()) => {
                self.record = record;
                true
            }
            Err(error) => {
                self.unsaved = Some(error);
                false
            }
        }
    }
}

/// How often the watermark is written; it proves that data was lost, not which transaction was the last.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// A server that has served for so long is well: what was tried before is forgotten.
const SETTLED: Duration = Duration::from_secs(60);
/// The pause after a step's first failure; it doubles with each that follows.
const FIRST_REST: Duration = Duration::from_secs(2);
const LONGEST_REST: Duration = Duration::from_secs(600);

/// The plan in words.
fn report(world: &World, plan: &Plan) -> Progress {
    let led =
        plan.verdicts.iter().any(|verdict| matches!(verdict.class, Class::Primary | Class::PrimaryFenced));
    let servers = plan.verdicts.iter().map(|verdict| {
        let id = &verdict.id;
        let run = world.seen(id).and_then(|seen| seen.survey.clone.as_ref());
        let mut standing = publish::standing(verdict.class);
        if verdict.class == Class::Errant && plan::believed(world, id) {
            standing.reads = Reads::Refused;
        }
        // Without a primary nothing is written, and what replicas have is the newest there is.
        if verdict.class == Class::Detached && !led {
            standing.reads = Reads::AsBefore;
        }
        ServerProgress {
            id: id.clone(),
            uid: world.node(id).and_then(|node| node.endpoint.uid.clone()),
            state: verdict.class.name(),
            doing: Arc::clone(&verdict.words),
            copy: run.filter(|run| run.state == CloneState::Running).map(copies::progress),
            serving: verdict.class.serving(),
            standing,
        }
    });
    Progress {
        looked: Some(Instant::now()),
        servers: servers.collect(),
        problems: plan.problems.clone(),
        ..Progress::default()
    }
}
