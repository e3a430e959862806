//! Follows objects of one kind: a list that is complete or the last complete one, never a part of one. While the API
//! server is away, or a new list is being read, nothing disappears. Troubles are logged once each, with their remedy.

use std::fmt::Debug;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::sleep;

use super::client::{Call, Error};

/// The kind of objects that is followed, in the words of a Role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) resource: &'static str,
    pub(crate) group: &'static str,
    /// What it costs when it may not be read, for people.
    pub(crate) without: &'static str,
}

/// Reads on, and writes down what it reads.
pub(crate) struct Follower<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    kind: Kind,
    writer: Writer<K>,
    standing: watch::Sender<Standing>,
    trouble: Option<Trouble>,
}

/// What has been read.
#[derive(Clone)]
pub(crate) struct Followed<K>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store: Store<K>,
    standing: watch::Receiver<Standing>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    complete: bool,
    forbidden: bool,
    /// Wakes who waits for something new.
    changes: u64,
}

/// As far as one trouble is another one than the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Forbidden(&'static str),
    Other,
}

/// The server ends each watch after this, and the next one goes on from there: a connection that died without a word is
/// noticed this soon.
const WATCH_S: u32 = 60;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same for what is forbidden. Short at first: an API server that has just started forbids all for a moment.
const LONGEST_FORBIDDEN: Duration = Duration::from_secs(30);

impl<K> Follower<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync,
    <K as Lookup>::DynamicType: Eq + Hash + Clone,
{
    pub(crate) fn new(kind: Kind) -> (Self, Followed<K>) {
        let writer = Writer::new(());
        let store = writer.as_reader();
        let (sender, standing) = watch::channel(Standing::default());
        (Self { kind, writer, standing: sender, trouble: None }, Followed { store, standing })
    }

    /// Follows until it is dropped. `slim` drops what nobody reads.
    ///
    /// Cancel safety: what was read stays; following can be begun anew, with another selection too.
    pub(crate) async fn run(
        &mut self,
        api: &Api<K>,
        namespace: &Arc<str>,
        selection: watcher::Config,
        slim: fn(&mut K),
    ) {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut events = pin!(watcher(api.clone(), selection.clone().timeout(WATCH_S)));
            while let Some(event) = events.next().await {
                let error = match event {
                    Ok(event) => {
                        if self.take(event, slim) {
                            pause = FIRST_PAUSE;
                        }
                        continue;
                    }
                    Err(error) => error,
                };
                // The stream broke, or what is to be resumed is too old: the watcher itself knows how to go on.
                let goes_on = match &error {
                    watcher::Error::WatchFailed(_) => true,
                    watcher::Error::WatchError(status) => status.code == 410,
                    _ => false,
                };
                tracing::debug!(resource = self.kind.resource, %error, "watch");
                let forbidden = !goes_on && self.failed(namespace, error);
                let longest = if forbidden { LONGEST_FORBIDDEN } else { LONGEST_PAUSE };
                sleep(jittered(longest.min(pause))).await;
                pause = longest.min(pause * 2);
                if !goes_on {
                    break;
                }
            }
        }
    }

    /// True when the list is complete with it.
    fn take(&mut self, event: Event<K>, slim: fn(&mut K)) -> bool {
        let event = event.modify(slim);
        self.writer.apply_watcher_event(&event);
        if matches!(event, Event::Init | Event::InitApply(_)) {
            return false;
        }
        if self.trouble.take().is_some() {
            tracing::info!(resource = self.kind.resource, "the API server answers again");
        }
        self.standing.send_modify(|standing| {
            *standing = Standing { complete: true, forbidden: false, changes: standing.changes + 1 };
        });
        true
    }

    /// True when it is forbidden.
    fn failed(&mut self, namespace: &Arc<str>, error: watcher::Error) -> bool {
        let call = |verb| Call { verb, resource: self.kind.resource, group: self.kind.group };
        let (verb, error) = match error {
            watcher::Error::InitialListFailed(error) => ("list", Error::of(call("list"), namespace, error)),
            watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
                ("watch", Error::of(call("watch"), namespace, error))
            }
            watcher::Error::WatchError(status) => {
                ("watch", Error::refused(call("watch"), namespace, &status))
            }
            watcher::Error::NoResourceVersion => {
                let message = String::from("its answer has no resourceVersion");
                ("list", Error::Refused { call: call("list"), message, code: 200 })
            }
        };
        self.note(verb, &error);
        error.is_forbidden()
    }

    /// Says what went wrong, if that is news.
    pub(crate) fn note(&mut self, verb: &'static str, error: &Error) {
        let trouble = if error.is_forbidden() { Trouble::Forbidden(verb) } else { Trouble::Other };
        if self.trouble.replace(trouble) == Some(trouble) {
            return;
        }
        let complete = self.standing.borrow().complete;
        match trouble {
            Trouble::Forbidden(_) => tracing::warn!(%error, "{}", self.kind.without),
            Trouble::Other if complete => tracing::warn!(%error, "the last that was read holds"),
            Trouble::Other => tracing::warn!(%error, "nothing has been read yet"),
        }
        let forbidden = error.is_forbidden();
        self.standing.send_if_modified(|standing| {
            let news = standing.forbidden != forbidden;
            standing.forbidden = forbidden;
            news
        });
    }
}

impl<K> Followed<K>
where
    K: Resource<DynamicType = ()> + Lookup<DynamicType = ()> + Clone,
{
    /// The last complete list; None before the first.
    pub(crate) fn list(&self) -> Option<Vec<Arc<K>>> {
        self.standing.borrow().complete.then(|| self.store.state())
    }

    /// It may not be read at the moment: what was read before may be old.
    pub(crate) fn is_forbidden(&self) -> bool {
        self.standing.borrow().forbidden
    }

    /// Waits for something new since the last call; false when nobody follows any more.
    ///
    /// Cancel safety: nothing is lost.
    pub(crate) async fn changed(&mut self) -> bool {
        self.standing.changed().await.is_ok()
    }
}

/// Between a half and the whole, so that a hundred proxies do not come back to the API server at once.
fn jittered(pause: Duration) -> Duration {
    let dice = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    let part = u32::try_from(dice % 512).unwrap_or(0);
    pause / 2 + pause / 2 * part / 512
}
