//! Startup, readiness and liveness probes: one attempt, and the counting of attempts. What follows from a result is the
//! caller's business.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::process::Entered;

/// A probe of one running container.
pub(super) struct Prober {
    pub(super) address: Ipv4Addr,
    pub(super) container: Container,
    pub(super) inside: Entered,
}

/// Enough attempts in a row said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Success,
    Failure,
}

/// A whole cluster on a machine that is busy with other things answers later than a node of its own would.
const SHORTEST: Duration = Duration::from_secs(5);

impl Prober {
    /// Probes until `verdict` says that it has seen enough. It hears every verdict that is reached, the same one again, too.
    pub(super) async fn watch(&self, probe: &Probe, mut verdict: impl FnMut(Verdict, &str) -> bool) {
        let count = |number: Option<i32>, default: u32| {
            number
                .and_then(|number| u32::try_from(number).ok())
                .filter(|number| *number > 0)
                .unwrap_or(default)
        };
        let seconds = |number, default| Duration::from_secs(u64::from(count(number, default)));
        sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let (mut successes, mut failures) = (0, 0);
        loop {
            let patience = seconds(probe.timeout_seconds, 1).max(SHORTEST);
            let result = match timeout(patience, self.attempt(probe)).await {
                Ok(result) => result,
                Err(_) => Err("no answer in time".to_owned()),
            };
            let enough = match &result {
                Ok(()) => {
                    (successes, failures) = (successes + 1, 0);
                    successes >= count(probe.success_threshold, 1) && verdict(Verdict::Success, "")
                }
                Err(why) => {
                    (successes, failures) = (0, failures + 1);
                    failures >= count(probe.failure_threshold, 3) && verdict(Verdict::Failure, why)
                }
            };
            if enough {
                return;
            }
            sleep(seconds(probe.period_seconds, 10)).await;
        }
    }

    async fn attempt(&self, probe: &Probe) -> Result<(), String> {
        if let Some(ExecAction { command: Some(command) }) = &probe.exec {
            return self.inside.run(command).await;
        }
        if let Some(socket) = &probe.tcp_socket {
            let port = self.port(&socket.port)?;
            return TcpStream::connect((self.address, port))
                .await
                .map(drop)
                .map_err(|error| error.to_string());
        }
        if let Some(get) = &probe.http_get {
            return self.get(get).await;
        }
        Err("a kind of probe that is not known here".to_owned())
    }

    async fn get(&self, get: &HTTPGetAction) -> Result<(), String> {
        let port = self.port(&get.port)?;
        let path = get.path.as_deref().unwrap_or("/");
        let answer = async {
            let mut stream = TcpStream::connect((self.address, port)).await?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
            stream.write_all(request.as_bytes()).await?;
            let mut head = [0; 32];
            let read = stream.read(&mut head).await?;
            std::io::Result::Ok(String::from_utf8_lossy(&head[..read]).into_owned())
        };
        let answer = answer.await.map_err(|error| error.to_string())?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
        match status {
            Some(200..400) => Ok(()),
            _ => Err(format!("GET {path}: {answer}")),
        }
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                ports
                    .into_iter()
                    .find(|port| port.name.as_ref() == Some(name))
                    .map(|port| port.container_port)
            }
        };
        number.and_then(|number| u16::try_from(number).ok()).ok_or_else(|| format!("no port {port:?}"))
    }
}
