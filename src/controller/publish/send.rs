//! Sends what [`super::publish`] says, one request after another. A verb that is missing in the Role is told once, with its
//! remedy, and hinders nothing else; what could not be sent is seen again in the next view.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Due, Memory, Told, View, publish};
use crate::k8s::client::{Access, Error};
use crate::k8s::{events, pods};
use crate::model::leadership::Leadership;
use crate::model::pod::Pod;
use crate::model::progress::{Progress, Tone};
use crate::model::server::ServerId;
use crate::model::topology::Topology;

/// What is published from.
pub(crate) struct Sources {
    /// Empty where this process does not act.
    pub(crate) progress: watch::Receiver<Arc<Progress>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// As they stand, by discovery.
    pub(crate) pods: watch::Receiver<Arc<[Pod]>>,
    /// How old the replicas' data is.
    pub(crate) topology: watch::Receiver<Arc<Topology>>,
}

pub(crate) struct Publisher {
    pub(crate) access: Access,
    /// This process, for Events.
    pub(crate) instance: Arc<str>,
    /// How old data may be for reads to go there.
    pub(crate) max_lag: Duration,
    pub(crate) sources: Sources,
}

/// After a failure that concerns all requests.
const PAUSE: Duration = Duration::from_secs(2);

impl Publisher {
    /// Publishes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut memory = Memory::default();
        let mut outbox = Outbox::new(self.sources.leadership.clone());
        let publishing = async {
            loop {
                if self.pass(&mut memory, &mut outbox).await.is_err() {
                    sleep(PAUSE).await;
                }
                let changed = tokio::select! {
                    changed = self.sources.progress.changed() => changed,
                    changed = self.sources.pods.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = publishing => stop.cancelled().await,
            () = stop.cancelled() => {}
        }
    }

    /// What is due in one view.
    fn due(&mut self, memory: &mut Memory) -> Due {
        let progress = Arc::clone(&self.sources.progress.borrow_and_update());
        let pods = Arc::clone(&self.sources.pods.borrow_and_update());
        let topology = Arc::clone(&self.sources.topology.borrow());
        let lag = |id: &ServerId| topology.server(id)?.health.lag();
        let (max_lag, now) = (self.max_lag, Instant::now());
        publish(memory, &View { progress: &progress, pods: &pods, lag: &lag, max_lag, now })
    }

    /// Sends what is due.
    async fn pass(&mut self, memory: &mut Memory, outbox: &mut Outbox) -> Result<(), Away> {
        let due = self.due(memory);
        outbox.events.extend(due.events);
        // Requests are large as futures, and hardly ever made.
        for one in due.roles {
            let sending = Box::pin(pods::set_role(&self.access, &one.id, &one.uid, one.role));
            outbox.send(pods::LABEL.resource, sending).await?;
        }
        for one in due.conditions {
            let sending = pods::set_serving(&self.access, &one.id, &one.uid, &one.condition, one.turned);
            let sending = Box::pin(sending);
            outbox.send(pods::STATUS.resource, sending).await?;
        }
        if let (Some(error), Some(subject)) = (outbox.refusal.take(), memory.about(None)) {
            let (reason, note) = ("MissingPermission".into(), error.to_string().into());
            outbox.events.push_back(Told { subject, tone: Tone::Warning, reason, note });
        }
        let surplus = outbox.events.len().saturating_sub(MOST);
        outbox.events.drain(..surplus);
        while let Some(told) = outbox.events.front() {
            let Told { subject, tone, reason, note } = told.clone();
            let sending =
                Box::pin(events::write(&self.access, &self.instance, &subject, tone, &reason, &note));
            outbox.send(events::CREATE.resource, sending).await?;
            outbox.events.pop_front();
        }
        Ok(())
    }
}

/// The API server cannot be asked at the moment.
struct Away;

struct Outbox {
    leadership: watch::Receiver<Leadership>,
    /// Not sent yet.
    events: VecDeque<Told>,
    /// Resources that the API server refuses, mostly because the Role does not grant them, and when to try them again.
    refused: BTreeMap<&'static str, Instant>,
    /// A verb that turned out to be missing.
    refusal: Option<Error>,
    /// The API server is known to be away.
    away: bool,
}

/// Of Events, while the API server is away; the oldest are dropped.
const MOST: usize = 64;
/// How soon what was refused is tried again.
const REFUSED: Duration = Duration::from_secs(60);

impl Outbox {
    fn new(leadership: watch::Receiver<Leadership>) -> Self {
        let (events, refused) = (VecDeque::new(), BTreeMap::new());
        Self { leadership, events, refused, refusal: None, away: false }
    }

    /// Sends one request, unless it is known to be refused. What concerns one object alone is no reason to stop.
    async fn send(
        &mut self,
        resource: &'static str,
        sending: impl Future<Output = Result<(), Error>>,
    ) -> Result<(), Away> {
        // Another one may act by now, and tells what it sees.
        if !self.leadership.borrow().leads() {
            return Ok(());
        }
        if self.refused.get(resource).is_some_and(|until| Instant::now() < *until) {
            return Ok(());
        }
        let error = match sending.await {
            Ok(()) => {
                if std::mem::take(&mut self.away) | self.refused.remove(resource).is_some() {
                    tracing::info!(resource, "what the controller tells Kubernetes is taken again");
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if error.is_forbidden() || error.is_invalid() {
            if self.refused.insert(resource, Instant::now() + REFUSED).is_none() {
                tracing::warn!(%error, "the controller goes on without telling this");
                self.refusal = Some(error).filter(Error::is_forbidden);
            }
            return Ok(());
        }
        // The pod has gone, or is another one by now.
        if error.is_missing() || error.is_conflict() {
            tracing::debug!(%error, "not told");
            return Ok(());
        }
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(%error, "what the controller does is not told Kubernetes; it goes on all the same");
        }
        Err(Away)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;

    use super::*;
    use crate::controller::plan::Class;
    use crate::controller::publish::standing;
    use crate::model::pod::Owner;
    use crate::model::progress::ServerProgress;

    /// An API server that answers each path with a code, and notes what it was asked.
    #[derive(Clone, Default)]
    struct Api {
        asked: Arc<Mutex<Vec<(String, Value)>>>,
        /// The end of a path, and its code.
        refuses: Arc<Mutex<Option<(&'static str, u16)>>>,
    }

    impl Api {
        async fn serve(self, listener: TcpListener) {
            let mut visitors = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let api = self.clone();
                visitors.spawn(async move { api.visit(stream).await.unwrap_or_default() });
            }
        }

        async fn visit(self, stream: TcpStream) -> std::io::Result<()> {
            let mut stream = BufReader::new(stream);
            loop {
                let (mut asked, mut length) = (String::new(), 0);
                stream.read_line(&mut asked).await?;
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).await? <= 2 {
                        break;
                    }
                    if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = bytes.trim().parse().expect("a number");
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await?;
                let mut words = asked.split([' ', '?']);
                let asked = format!("{} {}", words.next().unwrap_or(""), words.next().unwrap_or(""));
                let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                let code = match *self.refuses.lock() {
                    Some((path, code)) if asked.ends_with(path) => code,
                    _ => 200,
                };
                let answer = match code {
                    200 if body["kind"] == "Event" => body.clone(),
                    200 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mysql-0"}}),
                    _ => {
                        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "no", "code": code})
                    }
                };
                self.asked.lock().push((asked, body));
                let answer = answer.to_string();
                let head = format!(
                    "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    answer.len()
                );
                stream.write_all((head + &answer).as_bytes()).await?;
            }
        }

        /// What was asked since the last time: the path's end, and the reason in it.
        fn asked(&self) -> Vec<String> {
            let asked = std::mem::take(&mut *self.asked.lock());
            let short = |(path, body): (String, Value)| {
                let reason = body["reason"].as_str().unwrap_or_default();
                format!("{} {reason}", path.rsplit("/shop/").next().unwrap_or_default()).trim_end().to_owned()
            };
            asked.into_iter().map(short).collect()
        }
    }

    /// The primary of a new pod, as it is told to an API server.
    async fn stage(play: impl AsyncFnOnce(&Api, &mut Publisher)) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let config = kube::Config::new(format!("http://{address}").parse().expect("a URI"));
        let id = ServerId::new("mysql-0");
        let server = ServerProgress {
            id: id.clone(),
            uid: Some("u".into()),
            state: Class::Primary.name(),
            doing: "takes writes".into(),
            copy: None,
            serving: true,
            standing: standing(Class::Primary),
        };
        let seen = Progress { looked: Some(Instant::now()), servers: vec![server], ..Progress::default() };
        let owner = Some(Owner { name: "mysql".into(), uid: "s".into() });
        let pod = Pod { id, uid: "u".into(), role: None, serving: None, owner };
        let (_progress, progress) = watch::channel(Arc::new(seen));
        let (_pods, pods) = watch::channel(Arc::from([pod]));
        let (_topology, topology) = watch::channel(Arc::default());
        let until = Some(Instant::now() + Duration::from_secs(100));
        let (_leadership, leadership) = watch::channel(Leadership { until, ..Leadership::default() });
        let mut publisher = Publisher {
            access: Access::with(config, Some("shop")).expect("usable"),
            instance: "readwright-0".into(),
            max_lag: Duration::from_secs(5),
            sources: Sources { progress, leadership, pods, topology },
        };
        let api = Api::default();
        tokio::select! {
            () = api.clone().serve(listener) => {}
            () = play(&api, &mut publisher) => {}
        }
    }

    fn outbox(publisher: &Publisher) -> Outbox {
        Outbox::new(publisher.sources.leadership.clone())
    }

    #[tokio::test]
    async fn a_verb_that_is_missing_is_told_once_and_hinders_nothing() {
        stage(async |api, publisher| {
            let (mut memory, mut outbox) = (Memory::default(), outbox(publisher));
            *api.refuses.lock() = Some(("/status", 403));
            assert!(publisher.pass(&mut memory, &mut outbox).await.is_ok());
            let told =
                ["pods/mysql-0", "pods/mysql-0/status", "events ServesReads", "events MissingPermission"];
            assert_eq!(api.asked(), told);
            // Nor is it asked for at every look.
            assert!(publisher.pass(&mut Memory::default(), &mut outbox).await.is_ok());
            assert_eq!(api.asked(), ["pods/mysql-0", "events ServesReads"]);
        })
        .await;
    }

    #[tokio::test]
    async fn events_wait_for_an_api_server_that_is_away() {
        stage(async |api, publisher| {
            let (mut memory, mut outbox) = (Memory::default(), outbox(publisher));
            *api.refuses.lock() = Some(("/events", 503));
            assert!(publisher.pass(&mut memory, &mut outbox).await.is_err());
            assert_eq!(api.asked(), ["pods/mysql-0", "pods/mysql-0/status", "events ServesReads"]);
            *api.refuses.lock() = None;
            assert!(publisher.pass(&mut memory, &mut outbox).await.is_ok());
            assert_eq!(api.asked(), ["events ServesReads"]);
            assert!(publisher.pass(&mut memory, &mut outbox).await.is_ok());
            assert!(api.asked().is_empty());
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_sent_names_the_pod_by_its_uid() {
        stage(async |api, publisher| {
            let (mut memory, mut outbox) = (Memory::default(), outbox(publisher));
            assert!(publisher.pass(&mut memory, &mut outbox).await.is_ok());
            let asked = std::mem::take(&mut *api.asked.lock());
            let bodies: Vec<&Value> = asked.iter().map(|(_, body)| body).collect();
            let [role, serving, event] = bodies[..] else { panic!("{bodies:?}") };
            assert_eq!(
                *role,
                json!({"metadata": {"uid": "u", "labels": {"readwright.dev/role": "primary"}}})
            );
            assert_eq!(serving["metadata"]["uid"], "u");
            let condition = &serving["status"]["conditions"][0];
            assert_eq!(
                (&condition["status"], &condition["reason"], &condition["message"]),
                (&json!("True"), &json!("Primary"), &json!("takes writes"))
            );
            assert_eq!(
                (&event["regarding"]["uid"], &event["reportingInstance"], &event["type"]),
                (&json!("u"), &json!("readwright-0"), &json!("Normal"))
            );
        })
        .await;
    }
}
