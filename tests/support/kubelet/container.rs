//! One container for as long as its pod lives: made, started, probed, started again when it ends, and in the end stopped
//! in order. Reports through [`Observed`]; decides nothing about its pod.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodSecurityContext, Probe};
use k8s_openapi::jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::environment::{expand, variables};
use super::image::{Image, Images};
use super::probe::{Prober, Verdict};
use super::process::{Entered, Mount, Process};
use super::status::{Ended, Observed, Seen, State};
use super::volume::Volumes;

/// What a container is to its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Runs to its end, before the others.
    Init,
    /// Is started before the others, and runs beside them.
    Sidecar,
    Main,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Stop {
    No,
    /// In order, and by force at this time.
    By(Instant),
    Now,
}

pub(super) struct Supervisor {
    pub(super) spec: Container,
    pub(super) kind: Kind,
    pub(super) pod: Arc<Pod>,
    pub(super) images: Images,
    pub(super) volumes: Arc<Volumes>,
    pub(super) address: Ipv4Addr,
    /// The network namespace's file.
    pub(super) network: String,
    pub(super) hosts: PathBuf,
    /// The container's own folder.
    pub(super) folder: PathBuf,
    /// What every container of the cluster is told: where the API server is.
    pub(super) cluster: Vec<(String, String)>,
    pub(super) seen: watch::Sender<Observed>,
    pub(super) stop: watch::Receiver<Stop>,
}

/// Why one run came to its end.
enum End {
    Exited(ExitStatus),
    /// It was to be stopped for good.
    Stopped(ExitStatus),
}

impl Supervisor {
    /// Until it is stopped; an init container also until it ends well.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut runs = 0_u32;
        loop {
            let begun = Instant::now();
            let since = Timestamp::now();
            let end = match self.run_once().await {
                Ok(Some(end)) => end,
                Ok(None) => return,
                Err(why) => {
                    self.set(|seen| seen.state = State::Stuck(why));
                    if self.stops_within(Duration::from_secs(1)).await {
                        return;
                    }
                    continue;
                }
            };
            let (End::Exited(status) | End::Stopped(status)) = end;
            let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255);
            let done = self.kind == Kind::Init && code == 0;
            let ended = Ended { code, since, finished: Timestamp::now() };
            self.set(|seen| {
                *seen = Seen {
                    state: State::Ended(ended.clone()),
                    last: seen.last.take(),
                    restarts: seen.restarts,
                    started: false,
                    // As the kubelet says of one that has done its work.
                    ready: done,
                };
            });
            if matches!(end, End::Stopped(_)) || done {
                return;
            }
            // The first time at once; a container that has run for a while starts over.
            runs = if begun.elapsed() > STEADY { 1 } else { runs + 1 };
            if runs > 1 {
                self.set(|seen| seen.state = State::BackingOff);
                if self.stops_within(pause).await {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
            }
            self.set(|seen| {
                seen.last = Some(ended);
                seen.restarts += 1;
            });
        }
    }

    /// None: stopped before it began.
    async fn run_once(&mut self) -> Result<Option<End>, String> {
        if *self.stop.borrow() != Stop::No {
            return Ok(None);
        }
        let (process, image) = self.process().await?;
        let mut child = process.spawn()?;
        let number = child.id().ok_or("it ended at once")?;
        let inside = process.entered(number);
        self.set(|seen| seen.state = State::Running { since: Timestamp::now(), process: number });
        let mut probes = self.probes(&inside, image, &process);
        let mut stop = self.stop.clone();
        let (unhealthy, mut unhealthy_seen) = watch::channel(());
        probes.spawn(self.watch_health(inside.clone(), unhealthy));
        tokio::select! {
            status = child.wait() => Ok(Some(End::Exited(status.map_err(|error| error.to_string())?))),
            () = told(&mut stop, |stop| stop != Stop::No) => {
                let status = self.end(&mut child, &inside).await?;
                Ok(Some(End::Stopped(status)))
            }
            // Its probes say that it does not work: it is ended as for a deletion, and started again.
            Ok(()) = unhealthy_seen.changed() => {
                let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
                let grace = Duration::from_secs(grace.and_then(|grace| u64::try_from(grace).ok()).unwrap_or(30));
                let status = self.end_by(&mut child, &inside, Instant::now() + grace).await?;
                let stopped = *self.stop.borrow() != Stop::No;
                Ok(Some(if stopped { End::Stopped(status) } else { End::Exited(status) }))
            }
        }
    }

    /// The process of the next run, with its mounts and variables as they are now.
    async fn process(&self) -> Result<(Process, Option<Image>), String> {
        let spec = &self.spec;
        std::fs::create_dir_all(&self.folder)
            .map_err(|error| format!("{}: {error}", self.folder.display()))?;
        let reference = spec.image.as_deref().unwrap_or_default();
        let image = Image::of(reference).ok_or_else(|| format!("no image {reference} is known here"))?;
        let sources = self.volumes.sources(&self.pod).await?;
        let address = self.address.to_string();
        let mut all = self.images.variables(image);
        all.push(("HOSTNAME".to_owned(), self.pod.metadata.name.clone().unwrap_or_default()));
        all.extend(self.cluster.iter().cloned());
        let own = variables(&self.pod, spec, &address, &sources)?;
        all.retain(|(name, _)| own.iter().all(|(other, _)| other != name));
        all.extend(own);
        let mut mounts = self.volumes.mounts(&self.pod, spec, &all)?;
        mounts.push(Mount { from: self.hosts.clone(), to: "/etc/hosts".to_owned(), read_only: true });
        let pod_context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.clone());
        let pod_context: PodSecurityContext = pod_context.unwrap_or_default();
        let context = spec.security_context.clone().unwrap_or_default();
        let id = |own: Option<i64>, pods: Option<i64>, default: u32| {
            own.or(pods).and_then(|id| u32::try_from(id).ok()).unwrap_or(default)
        };
        let (user, group) = image.user();
        let fs_group = pod_context.fs_group.and_then(|group| u32::try_from(group).ok());
        let process = Process {
            network: self.network.clone(),
            host_name: self.pod.metadata.name.clone().unwrap_or_default(),
            root: self.folder.join("root"),
            mounts,
            folders: Vec::new(),
            read_only: context.read_only_root_filesystem.unwrap_or(false),
            user: id(context.run_as_user, pod_context.run_as_user, user),
            group: id(context.run_as_group, pod_context.run_as_group, group),
            groups: fs_group.into_iter().collect(),
            work: spec.working_dir.clone().unwrap_or_else(|| "/".to_owned()),
            variables: all.clone(),
            command: Vec::new(),
            log: self.folder.join("log"),
        };
        let words = |words: &Option<Vec<String>>| {
            words.as_ref().map(|words| words.iter().map(|word| expand(word, &all)).collect::<Vec<_>>())
        };
        let (command, arguments) = (words(&spec.command), words(&spec.args).unwrap_or_default());
        let process = self.images.complete(image, process, command, arguments, &self.folder).await?;
        Ok((process, Some(image)))
    }

    /// Tasks that keep `started` and `ready` right while one run lasts.
    fn probes(&self, inside: &Entered, image: Option<Image>, process: &Process) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let prober = |probe: &Probe| {
            let prober =
                Prober { address: self.address, container: self.spec.clone(), inside: inside.clone() };
            (prober, probe.clone())
        };
        let (name, seen) = (self.spec.name.clone(), self.seen.clone());
        let set = move |change: &dyn Fn(&mut Seen)| {
            seen.send_if_modified(|seen| {
                let one = seen.containers.entry(name.clone()).or_default();
                let before = (one.started, one.ready);
                change(one);
                before != (one.started, one.ready)
            });
        };
        let startup = self.spec.startup_probe.as_ref().map(prober);
        let readiness = self.spec.readiness_probe.as_ref().map(prober);
        tasks.spawn(async move {
            if let Some((prober, probe)) = startup {
                prober.watch(&probe, |verdict, _| verdict == Verdict::Success).await;
            }
            set(&|one| one.started = true);
            match readiness {
                None => set(&|one| one.ready = true),
                Some((prober, probe)) => {
                    prober
                        .watch(&probe, |verdict, _| {
                            set(&|one| one.ready = verdict == Verdict::Success);
                            false
                        })
                        .await;
                }
            }
        });
        if image == Some(Image::Mysql)
            && let Some(data) =
                process.mounts.iter().find(|mount| mount.to.trim_end_matches('/') == "/var/lib/mysql")
        {
            let (data, address) = (data.from.clone(), self.address);
            tasks.spawn(async move {
                while !matches!(timeout(LOOK, TcpStream::connect((address, 3306))).await, Ok(Ok(_))) {
                    sleep(LOOK).await;
                }
                Images::started(&data);
            });
        }
        tasks
    }

    /// Says so once when the startup probe or, after it, the liveness probe fails.
    fn watch_health(
        &self,
        inside: Entered,
        unhealthy: watch::Sender<()>,
    ) -> impl Future<Output = ()> + use<> {
        let prober = Prober { address: self.address, container: self.spec.clone(), inside };
        let (startup, liveness) = (self.spec.startup_probe.clone(), self.spec.liveness_probe.clone());
        async move {
            let mut works = true;
            if let Some(probe) = startup {
                prober
                    .watch(&probe, |verdict, _| {
                        works = verdict == Verdict::Success;
                        true
                    })
                    .await;
            }
            if works {
                let Some(probe) = liveness else { return };
                prober.watch(&probe, |verdict, _| verdict == Verdict::Failure).await;
            }
            unhealthy.send_replace(());
        }
    }

    async fn end(&self, child: &mut Child, inside: &Entered) -> Result<ExitStatus, String> {
        let until = match *self.stop.borrow() {
            Stop::By(until) => until,
            Stop::No | Stop::Now => Instant::now(),
        };
        self.end_by(child, inside, until).await
    }

    /// preStop, SIGTERM, and at `until`, or when told to hurry, SIGKILL.
    async fn end_by(
        &self,
        child: &mut Child,
        inside: &Entered,
        until: Instant,
    ) -> Result<ExitStatus, String> {
        let mut stop = self.stop.clone();
        let orderly = async {
            let hook = self.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
            if let Some(hook) = hook {
                tokio::select! {
                    () = pre_stop(hook, inside) => {}
                    // Nothing is left to be stopped.
                    _ = child.wait() => {}
                }
            }
            send(inside.process, Signal::TERM);
            child.wait().await
        };
        let ended = tokio::select! {
            ended = orderly => Some(ended),
            () = sleep_until(until) => None,
            () = told(&mut stop, |stop| stop == Stop::Now) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                let _ = child.start_kill();
                child.wait().await
            }
        };
        ended.map_err(|error| error.to_string())
    }

    /// Waits; true when the container is to be stopped.
    async fn stops_within(&mut self, time: Duration) -> bool {
        timeout(time, told(&mut self.stop, |stop| stop != Stop::No)).await.is_ok()
    }

    fn set(&self, change: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(|seen| change(seen.containers.entry(self.spec.name.clone()).or_default()));
    }
}

/// Also when nobody is left to say so.
async fn told(stop: &mut watch::Receiver<Stop>, wanted: impl Fn(Stop) -> bool) {
    let _ = stop.wait_for(|stop| wanted(*stop)).await;
}

async fn pre_stop(hook: &LifecycleHandler, inside: &Entered) {
    if let Some(action) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or_default())).await;
    }
    if let Some(command) = hook.exec.as_ref().and_then(|exec| exec.command.as_ref()) {
        // What it fails with changes nothing: the container is stopped all the same.
        let _ = inside.run(command).await;
    }
}

pub(super) fn send(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The kubelet's are 10 s, doubled up to 5 min, and forgotten after 10 min; tests have less time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const STEADY: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);
