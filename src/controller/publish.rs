//! What should stand in Kubernetes of the controller's word on the servers: at each pod a label and a condition, and
//! Events of what changes. Pure: time is given, nothing is sent. What stands already is seen at the pods themselves, so a
//! controller that takes over goes on from there.

mod send;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::plan::Class;
use crate::k8s::events::{Kind, Subject};
use crate::model::pod::{Condition, Owner, Pod};
use crate::model::progress::{Part, Progress, Reads, ServerProgress, Standing, Tone};
use crate::model::server::ServerId;

pub(crate) use send::{Publisher, Sources};

/// What follows from a server's state for those who use it.
pub(super) fn standing(class: Class) -> Standing {
    let (part, reads, alarm) = match class {
        Class::Primary => (Part::Primary, Reads::Admitted, None),
        // It starts again, or hands over: while nothing else is there, what it has is the best there is.
        Class::PrimaryFenced => (Part::Primary, Reads::AsBefore, Some(A_WHILE)),
        Class::Serving => (Part::Replica, Reads::Admitted, None),
        Class::CatchingUp => (Part::Replica, Reads::WhileFresh, None),
        // All replicas are, for a moment, when another server has become the primary.
        Class::Detached => (Part::Replica, Reads::WhileFresh, Some(A_WHILE)),
        Class::Broken => (Part::Replica, Reads::WhileFresh, Some(A_MOMENT)),
        Class::BehindPurge => (Part::Replica, Reads::Refused, Some(A_MOMENT)),
        Class::Errant => (Part::Replica, Reads::WhileFresh, Some(A_MOMENT)),
        Class::Unreachable => (Part::AsBefore, Reads::AsBefore, Some(A_WHILE)),
        // It may be the primary, and take writes.
        Class::Unmanageable => (Part::AsBefore, Reads::AsBefore, Some(A_MOMENT)),
        Class::Blank | Class::Cloning => (Part::Neither, Reads::Refused, None),
        Class::CloneBroken => (Part::Neither, Reads::Refused, Some(A_MOMENT)),
        Class::Foreign | Class::Unmarked | Class::DuplicateUuid | Class::PrimaryLost => {
            (Part::Neither, Reads::Refused, Some(Duration::ZERO))
        }
    };
    Standing { part, reads, alarm }
}

const A_MOMENT: Duration = Duration::from_secs(5);
/// A restart takes less.
const A_WHILE: Duration = Duration::from_secs(30);

/// What is looked at together.
pub(super) struct View<'a> {
    pub(super) progress: &'a Progress,
    pub(super) pods: &'a [Pod],
    /// How old a replica's data may be, where that is known.
    pub(super) lag: &'a dyn Fn(&ServerId) -> Option<Duration>,
    /// How old it may be for reads to go there.
    pub(super) max_lag: Duration,
    pub(super) now: Instant,
}

/// What is to be sent; empty when all stands as it should.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) roles: Vec<SetRole>,
    pub(super) conditions: Vec<SetServing>,
    pub(super) events: Vec<Told>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct SetRole {
    pub(super) id: ServerId,
    pub(super) uid: Arc<str>,
    pub(super) role: Option<&'static str>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct SetServing {
    pub(super) id: ServerId,
    pub(super) uid: Arc<str>,
    pub(super) condition: Condition,
    /// It did not stand like this before, whatever the words.
    pub(super) turned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) subject: Subject,
    pub(super) tone: Tone,
    pub(super) reason: Arc<str>,
    pub(super) note: Arc<str>,
}

/// What is remembered from one view to the next. Who begins without it repeats at most what is wrong right now.
#[derive(Debug, Default)]
pub(super) struct Memory {
    servers: BTreeMap<ServerId, Past>,
    /// The last act that was told.
    acts: u64,
    /// By the uid of what it is about, and the reason.
    told: BTreeMap<(Arc<str>, &'static str), Telling>,
    owner: Option<Owner>,
}

/// One pod.
#[derive(Debug)]
struct Past {
    uid: Arc<str>,
    state: &'static str,
    /// Since when it has been in this state.
    since: Instant,
    /// When its data was last known to be of then.
    well: Instant,
    /// Since when it has been fresh enough to come back.
    fresh: Option<Instant>,
    /// What was last sent, which may not be seen at the pod yet.
    sent: Option<(Condition, Instant)>,
    role_sent: Option<Instant>,
}

/// Something wrong that Events tell of.
#[derive(Debug)]
struct Telling {
    words: Arc<str>,
    told: Instant,
    /// When it was last wrong.
    seen: Instant,
}

pub(super) const PRIMARY: &str = "primary";
pub(super) const REPLICA: &str = "replica";

/// A replica that was taken out comes back only when it has been fresh for so long, or is up to date: one that has only
/// just reached its source does not know how far it is behind.
const FRESH: Duration = Duration::from_secs(10);
/// How soon other words are sent for the same state of the condition, and how soon when only their numbers differ.
const WORDS: Duration = Duration::from_secs(10);
const NUMBERS: Duration = Duration::from_secs(60);
/// What was sent is expected to be seen at the pod by then; else it is sent again.
const SEEN: Duration = Duration::from_secs(2);
/// What was wrong again within this is not told again, nor are new particulars.
const AGAIN: Duration = Duration::from_secs(60);

/// What is to be sent after this view.
pub(super) fn publish(memory: &mut Memory, view: &View<'_>) -> Due {
    let mut due = Due::default();
    if let Some(owner) = view.pods.iter().find_map(|pod| pod.owner.as_ref()) {
        memory.owner = Some(owner.clone());
    }
    if view.progress.looked.is_none() {
        // This process does not act: another one does and tells, or something keeps this one from it.
        match view.progress.problems.is_empty() {
            true => *memory = Memory::default(),
            false => memory.problems(view, &mut due),
        }
        return due;
    }
    memory.servers.retain(|id, past| view.pods.iter().any(|pod| pod.id == *id && pod.uid == past.uid));
    for pod in view.pods {
        match view.server(pod) {
            Some(server) => {
                memory.note(pod, server, view);
                memory.condition(pod, server, view, &mut due);
            }
            None if pod.serving.is_none() => due.conditions.push(SetServing {
                id: pod.id.clone(),
                uid: Arc::clone(&pod.uid),
                condition: Condition { truth: false, reason: "New".into(), message: NEW.into() },
                turned: true,
            }),
            None => {}
        }
    }
    memory.roles(view, &mut due);
    memory.alarms(view, &mut due);
    memory.problems(view, &mut due);
    memory.acts(view, &mut due);
    due
}

const NEW: &str = "the controller has not seen its MySQL yet";

impl View<'_> {
    /// What was seen of this very pod.
    fn server(&self, pod: &Pod) -> Option<&ServerProgress> {
        self.progress
            .servers
            .iter()
            .find(|server| server.id == pod.id && server.uid.as_ref().is_none_or(|uid| *uid == pod.uid))
    }

    fn pod(&self, id: &ServerId) -> Option<&Pod> {
        self.pods.iter().find(|pod| pod.id == *id)
    }
}

impl Memory {
    /// Notes since when the server has been as it is.
    fn note(&mut self, pod: &Pod, server: &ServerProgress, view: &View<'_>) {
        let past = self.servers.entry(pod.id.clone()).or_insert_with(|| {
            let stands =
                pod.serving.as_ref().is_some_and(|stands| !stands.truth && *stands.reason == *server.state);
            if stands {
                // An earlier controller has told of it.
                let telling = Telling { words: Arc::clone(&server.doing), told: view.now, seen: view.now };
                self.told.insert((Arc::clone(&pod.uid), server.state), telling);
            }
            Past {
                uid: Arc::clone(&pod.uid),
                state: server.state,
                since: view.now,
                well: view.now,
                fresh: None,
                sent: None,
                role_sent: None,
            }
        });
        if past.state != server.state {
            (past.state, past.since) = (server.state, view.now);
        }
        if server.standing.reads == Reads::Admitted || server.standing.part == Part::Primary {
            past.well = view.now;
        }
        let fresh = (view.lag)(&pod.id).is_some_and(|lag| lag <= view.max_lag / 2);
        past.fresh = past.fresh.filter(|_| fresh).or_else(|| fresh.then_some(view.now));
    }

    /// The readiness gate. Leaving is at once, coming back is slow.
    fn condition(&mut self, pod: &Pod, server: &ServerProgress, view: &View<'_>, due: &mut Due) {
        let Some(past) = self.servers.get_mut(&pod.id) else { return };
        let stands = pod.serving.as_ref().is_some_and(|condition| condition.truth);
        let truth = match server.standing.reads {
            Reads::Admitted => true,
            Reads::Refused => false,
            Reads::AsBefore => stands,
            Reads::WhileFresh if stands => match (view.lag)(&pod.id) {
                Some(lag) => lag <= view.max_lag,
                None => view.now - past.well <= view.max_lag,
            },
            Reads::WhileFresh => past.fresh.is_some_and(|since| view.now - since >= FRESH),
        };
        // What holds for the time being says nothing new; what is wrong is told by an Event.
        if truth && stands && server.standing.reads != Reads::Admitted {
            return;
        }
        let condition = Condition { truth, reason: server.state.into(), message: server.words().into() };
        let turned = pod.serving.as_ref().is_none_or(|before| before.truth != truth);
        let pause = |last: &Condition| match last {
            last if last.truth != truth => Duration::ZERO,
            last if turned || *last == condition => SEEN,
            last if last.reason == condition.reason && alike(&last.message, &condition.message) => NUMBERS,
            _ => WORDS,
        };
        let waits = past.sent.as_ref().is_some_and(|(last, at)| view.now - *at < pause(last));
        if waits || pod.serving.as_ref() == Some(&condition) {
            return;
        }
        let told = past.sent.as_ref().is_some_and(|(last, _)| last.truth == truth);
        if turned && !told && (truth || stands) {
            let tone = if truth { Tone::Normal } else { Tone::Warning };
            let effect = if truth { "reads may go to it" } else { "reads go to it no more" };
            let note = format!("{effect}: {}", condition.message);
            let reason = if truth { "ServesReads" } else { "ServesNoReads" };
            due.events.push(Told { subject: subject(pod), tone, reason: reason.into(), note: note.into() });
        }
        past.sent = Some((condition.clone(), view.now));
        let (id, uid) = (pod.id.clone(), Arc::clone(&pod.uid));
        due.conditions.push(SetServing { id, uid, condition, turned });
    }

    /// Invariant: nobody is called the primary before nobody else is: whoever asks for the primary never finds two.
    fn roles(&mut self, view: &View<'_>, due: &mut Due) {
        let proven = view.progress.servers.iter().find(|server| server.standing.part == Part::Primary);
        let called = |pod: &Pod| pod.role.as_deref() == Some(PRIMARY);
        for pod in view.pods {
            let part = view.server(pod).map_or(Part::AsBefore, |server| server.standing.part);
            let role = match part {
                Part::Primary if view.pods.iter().any(|other| other.uid != pod.uid && called(other)) => {
                    continue;
                }
                Part::Primary => Some(PRIMARY),
                Part::Replica => Some(REPLICA),
                Part::Neither => None,
                Part::AsBefore if called(pod) && proven.is_some_and(|proven| proven.id != pod.id) => None,
                Part::AsBefore => continue,
            };
            let past = self.servers.get_mut(&pod.id);
            let sent = past.as_ref().and_then(|past| past.role_sent);
            if pod.role.as_deref() == role || sent.is_some_and(|at| view.now - at < SEEN) {
                continue;
            }
            if let Some(past) = past {
                past.role_sent = Some(view.now);
            }
            due.roles.push(SetRole { id: pod.id.clone(), uid: Arc::clone(&pod.uid), role });
        }
    }

    /// States that last, and that people should know of. What the planner calls a problem is told as that.
    fn alarms(&mut self, view: &View<'_>, due: &mut Due) {
        for pod in view.pods {
            let Some(server) = view.server(pod) else { continue };
            let Some(past) = self.servers.get(&pod.id) else { continue };
            let lasts = server.standing.alarm.is_some_and(|patience| view.now - past.since >= patience);
            let called =
                view.progress.problems.iter().any(|problem| problem.server.as_ref() == Some(&pod.id));
            if !lasts || called {
                continue;
            }
            if self.news(&pod.uid, server.state, &server.doing, view.now) {
                let (reason, note) = (server.state.into(), Arc::clone(&server.doing));
                due.events.push(Told { subject: subject(pod), tone: Tone::Warning, reason, note });
            }
        }
    }

    fn problems(&mut self, view: &View<'_>, due: &mut Due) {
        for problem in &view.progress.problems {
            let pod = problem.server.as_ref().and_then(|id| view.pod(id));
            let Some(subject) = self.about(pod) else { continue };
            if self.news(&subject.uid, problem.reason, &problem.words, view.now) {
                let (reason, note) = (problem.reason.into(), Arc::clone(&problem.words));
                due.events.push(Told { subject, tone: Tone::Warning, reason, note });
            }
        }
        self.told.retain(|_, telling| view.now - telling.seen <= AGAIN);
    }

    fn acts(&mut self, view: &View<'_>, due: &mut Due) {
        let newest = view.progress.acts.iter().next_back().map_or(0, |act| act.number);
        if newest < self.acts {
            // Those of another controller of this process: it has begun to count anew.
            self.acts = 0;
        }
        for act in view.progress.acts.iter().filter(|act| act.number > self.acts) {
            let pod = act.server.as_ref().and_then(|id| view.pod(id));
            let Some(subject) = self.about(pod) else { continue };
            let (reason, note) = (act.reason.into(), Arc::clone(&act.words));
            due.events.push(Told { subject, tone: act.tone, reason, note });
        }
        self.acts = newest;
    }

    /// The pod, else the StatefulSet.
    fn about(&self, pod: Option<&Pod>) -> Option<Subject> {
        pod.map(subject).or_else(|| {
            let Owner { name, uid } = self.owner.clone()?;
            Some(Subject { kind: Kind::StatefulSet, name, uid })
        })
    }

    /// Whether this is to be told, and not for the time being.
    fn news(&mut self, uid: &Arc<str>, reason: &'static str, words: &Arc<str>, now: Instant) -> bool {
        let key = (Arc::clone(uid), reason);
        let Some(telling) = self.told.get_mut(&key) else {
            self.told.insert(key, Telling { words: Arc::clone(words), told: now, seen: now });
            return true;
        };
        telling.seen = now;
        let news = !alike(&telling.words, words) && now - telling.told >= AGAIN;
        if news {
            (telling.words, telling.told) = (Arc::clone(words), now);
        }
        news
    }
}

fn subject(pod: &Pod) -> Subject {
    Subject { kind: Kind::Pod, name: pod.id.as_str().into(), uid: Arc::clone(&pod.uid) }
}

/// The same but for numbers.
fn alike(one: &str, other: &str) -> bool {
    let text = |words: &str| words.bytes().filter(|byte| !byte.is_ascii_digit()).collect::<Vec<_>>();
    text(one) == text(other)
}

#[cfg(test)]
mod tests;
