//! How far a replica is behind, from its replication timestamps. Pure. `Seconds_Behind_Source` is not asked: it is zero
//! or NULL when the receiver is down, and it counts whole seconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::dba::{Channel, Micros, Probe, ThreadError, ThreadState};
use crate::model::health::Replication;

/// How far each server's clock is ahead of ours, in microseconds, by server uuid. Timestamps travel with transactions,
/// so a replica's lag compares its own clock with its source's.
#[derive(Debug, Default)]
pub(super) struct Clocks(HashMap<Arc<str>, i64>);

impl Clocks {
    /// Notes the clock of a server that answered; `ours` is our clock at the middle of the exchange.
    pub(super) fn note(&mut self, uuid: &Arc<str>, theirs: Micros, ours: Micros) {
        self.0.insert(Arc::clone(uuid), difference(theirs, ours));
    }

    /// What a replica's clock shows more than its source's; zero while either is unknown.
    fn skew(&self, replica: &str, source: &str) -> i64 {
        match (self.0.get(replica), self.0.get(source)) {
            (Some(replica), Some(source)) => replica.saturating_sub(*source),
            _ => 0,
        }
    }
}

/// What the probe says of the server's replication.
pub(super) fn replication(probe: &Probe, clocks: &Clocks) -> Replication {
    let Some(channel) = &probe.channel else { return Replication::None };
    if let Some(why) = stopped(channel) {
        let (receiver, applier) = (&channel.receiver, &channel.applier);
        let failed = receiver.error.as_ref().is_some_and(|error| !error.is_of_absence())
            || !applier.running && applier.error.is_some();
        return match !failed && receiver.state != ThreadState::On && applied_all(channel, probe) {
            true => Replication::Paused(why.into()),
            false => Replication::Stopped(why.into()),
        };
    }
    let skew = clocks.skew(&probe.uuid, &channel.receiver.source_uuid);
    Replication::Running { lag: lag(channel, probe, skew), silence: silence(channel, probe.clock) }
}

fn stopped(channel: &Channel) -> Option<String> {
    let because = |error: &Option<ThreadError>| match error {
        Some(error) => format!(": error {}: {}", error.code, error.message),
        None => String::new(),
    };
    let receiver = &channel.receiver;
    if !channel.applier.running {
        return Some(format!("the applier is stopped{}", because(&channel.applier.error)));
    }
    match receiver.state {
        ThreadState::Off => Some(format!("the receiver is stopped{}", because(&receiver.error))),
        ThreadState::Connecting if receiver.heard.is_none() => Some(format!(
            "the receiver has not reached {}:{}{}",
            channel.host,
            channel.port,
            because(&receiver.error)
        )),
        ThreadState::Connecting | ThreadState::On => None,
    }
}

/// The age of the oldest change that is received and not applied.
fn lag(channel: &Channel, probe: &Probe, skew: i64) -> Duration {
    let (receiver, applier) = (&channel.receiver, &channel.applier);
    // Between two transactions nothing is being applied for a moment; the newest received one is then the best guess.
    match applier.applying.or(receiver.queued) {
        Some(oldest) if !applied_all(channel, probe) => {
            let now = i128::from(probe.clock) - i128::from(skew);
            micros(now - i128::from(oldest))
        }
        _ => Duration::ZERO,
    }
}

fn applied_all(channel: &Channel, probe: &Probe) -> bool {
    let (receiver, applier) = (&channel.receiver, &channel.applier);
    if probe.gtid_mode {
        receiver.applied_all
    } else {
        applier.applying.is_none() && applier.applied >= receiver.queued
    }
}

/// How long the source has been silent past what its heartbeats promise.
fn silence(channel: &Channel, clock: Micros) -> Duration {
    let Some(heard) = channel.receiver.heard else { return Duration::ZERO };
    let quiet = micros(i128::from(clock) - i128::from(heard));
    let heartbeat = channel.receiver.heartbeat;
    let expected = heartbeat * 2 + Duration::from_secs(1);
    match channel.receiver.state {
        ThreadState::On if heartbeat.is_zero() || quiet <= expected => Duration::ZERO,
        _ => quiet,
    }
}

fn micros(difference: i128) -> Duration {
    Duration::from_micros(u64::try_from(difference.max(0)).unwrap_or(u64::MAX))
}

fn difference(theirs: Micros, ours: Micros) -> i64 {
    let difference = i128::from(theirs) - i128::from(ours);
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dba::{Applier, Receiver};
    use crate::model::gtid::GtidSet;
    use crate::model::version::Version;

    const SECOND: Micros = 1_000_000;
    const NOW: Micros = 1_000 * SECOND;

    /// A replica that has applied all it received, and heard its source half a second ago.
    fn probe() -> Probe {
        Probe {
            version: Version::mysql(9, 7, 4),
            uuid: Arc::from("replica"),
            server_id: 2,
            read_only: true,
            super_read_only: true,
            gtid_mode: true,
            sessions: crate::model::health::SessionDefaults::default(),
            executed: GtidSet::default(),
            purged: GtidSet::default(),
            clock: NOW,
            channels: 1,
            cluster: None,
            channel: Some(Channel {
                host: Arc::from("mysql-0"),
                port: 3306,
                auto_position: true,
                receiver: Receiver {
                    state: ThreadState::On,
                    error: None,
                    source_uuid: Arc::from("source"),
                    heard: Some(NOW - SECOND / 2),
                    heartbeat: Duration::from_secs(2),
                    queued: Some(NOW - 100 * SECOND),
                    applied_all: true,
                },
                applier: Applier {
                    running: true,
                    error: None,
                    applying: None,
                    applied: Some(NOW - 100 * SECOND),
                },
            }),
        }
    }

    fn running(lag: f64, silence: f64) -> Replication {
        Replication::Running { lag: Duration::from_secs_f64(lag), silence: Duration::from_secs_f64(silence) }
    }

    fn check(name: &str, change: impl FnOnce(&mut Probe, &mut Channel), expected: &Replication) {
        let mut probe = probe();
        let mut channel = probe.channel.take().expect("made with one");
        change(&mut probe, &mut channel);
        probe.channel = Some(channel);
        assert_eq!(replication(&probe, &Clocks::default()), *expected, "{name}");
    }

    #[test]
    fn lag_and_silence() {
        check("idle for long is not behind", |_, _| (), &running(0.0, 0.0));
        check(
            "the oldest that is being applied counts",
            |_, c| {
                c.receiver.applied_all = false;
                c.receiver.queued = Some(NOW);
                c.applier.applying = Some(NOW - 3 * SECOND);
            },
            &running(3.0, 0.0),
        );
        check(
            "received, and no worker has begun",
            |_, c| {
                c.receiver.applied_all = false;
                c.receiver.queued = Some(NOW - SECOND);
            },
            &running(1.0, 0.0),
        );
        check(
            "a source whose clock is ahead gives no negative lag",
            |_, c| {
                c.receiver.applied_all = false;
                c.receiver.queued = Some(NOW + SECOND);
            },
            &running(0.0, 0.0),
        );
        check(
            "without GTIDs the timestamps tell",
            |p, c| {
                p.gtid_mode = false;
                c.receiver.queued = Some(NOW - SECOND);
                c.applier.applied = Some(NOW - 2 * SECOND);
            },
            &running(1.0, 0.0),
        );
        check(
            "without GTIDs, all applied",
            |p, c| {
                p.gtid_mode = false;
                c.receiver.applied_all = false;
            },
            &running(0.0, 0.0),
        );
        check("two heartbeats missed", |_, c| c.receiver.heard = Some(NOW - 6 * SECOND), &running(0.0, 6.0));
        check(
            "one heartbeat late is no silence",
            |_, c| c.receiver.heard = Some(NOW - 3 * SECOND),
            &running(0.0, 0.0),
        );
        check(
            "a receiver that reconnects hears nothing",
            |_, c| c.receiver.state = ThreadState::Connecting,
            &running(0.0, 0.5),
        );
    }

    #[test]
    fn threads_that_do_not_run() {
        let error = |code| Some(ThreadError { code, message: Arc::from("why") });
        let stopped = |why: &str| Replication::Stopped(Arc::from(why));
        check("applier", |_, c| c.applier.running = false, &stopped("the applier is stopped"));
        check(
            "applier with an error",
            |_, c| {
                c.applier.running = false;
                c.applier.error = error(1062);
            },
            &stopped("the applier is stopped: error 1062: why"),
        );
        check(
            "receiver",
            |_, c| {
                c.receiver.state = ThreadState::Off;
                c.receiver.error = error(13114);
            },
            &stopped("the receiver is stopped: error 13114: why"),
        );
        check(
            "receiver that was told to stop",
            |_, c| c.receiver.state = ThreadState::Off,
            &Replication::Paused("the receiver is stopped".into()),
        );
        check(
            "receiver that was told to stop while its source was away",
            |_, c| {
                c.receiver.state = ThreadState::Off;
                c.receiver.error = Some(ThreadError { code: 2003, message: "why".into() });
            },
            &Replication::Paused("the receiver is stopped: error 2003: why".into()),
        );
        check(
            "receiver that a source in offline mode has sent away",
            |_, c| {
                c.receiver.state = ThreadState::Off;
                c.receiver.error = error(3032);
            },
            &Replication::Paused("the receiver is stopped: error 3032: why".into()),
        );
        check(
            "one that has something left to apply",
            |_, c| {
                c.receiver.state = ThreadState::Off;
                c.receiver.applied_all = false;
            },
            &stopped("the receiver is stopped"),
        );
        check(
            "receiver that never got through",
            |_, c| {
                c.receiver.state = ThreadState::Connecting;
                c.receiver.heard = None;
            },
            &Replication::Paused("the receiver has not reached mysql-0:3306".into()),
        );
        check(
            "receiver that is not let in",
            |_, c| {
                c.receiver.state = ThreadState::Connecting;
                (c.receiver.heard, c.receiver.error) = (None, error(1045));
            },
            &stopped("the receiver has not reached mysql-0:3306: error 1045: why"),
        );
        check(
            "both were told to stop",
            |_, c| (c.receiver.state, c.applier.running) = (ThreadState::Off, false),
            &Replication::Paused("the applier is stopped".into()),
        );
    }

    #[test]
    fn clocks_that_differ_are_taken_out() {
        let mut probe = probe();
        let channel = probe.channel.as_mut().expect("made with one");
        channel.receiver.applied_all = false;
        // The source's clock is five seconds behind ours, the replica's one ahead.
        channel.receiver.queued = Some(NOW - 7 * SECOND);
        let mut clocks = Clocks::default();
        clocks.note(&Arc::from("replica"), NOW, NOW - SECOND);
        clocks.note(&Arc::from("source"), NOW - 6 * SECOND, NOW - SECOND);
        assert_eq!(replication(&probe, &clocks), running(1.0, 0.0));
    }
}
