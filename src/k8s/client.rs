//! Access to the API server: where it is, as whom we speak to it, and how long anything may take. Every failure says
//! whose fault it is and what to do. Tries nothing again: who waits for an answer knows whether it is still wanted.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::config::{InClusterError, KubeConfigOptions, KubeconfigError};
use kube::{Api, Client, Config, Resource};
use tokio::time::timeout;

/// The API server, seen from one namespace. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    /// For what has one answer: the socket itself gives up when the server is silent.
    requests: Client,
    /// For what streams for minutes; a silent stream is the watcher's to notice.
    watches: Client,
    namespace: Arc<str>,
}

/// How long one request may take, from the name lookup to the last byte.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// How long the API server may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

impl Access {
    /// Finds the API server: by `KUBECONFIG` when it is set, in a pod by its service account, else by the file that
    /// kubectl uses. Without a namespace it is the pod's own, or the context's.
    ///
    /// # Errors
    /// When nothing says where the API server is, or what says so cannot be read. Asks the server nothing.
    pub(crate) async fn find(namespace: Option<&str>) -> Result<Self, AccessError> {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let config = if !set("KUBECONFIG") && set("KUBERNETES_SERVICE_HOST") {
            Config::incluster_env().map_err(AccessError::ServiceAccount)?
        } else {
            let options = KubeConfigOptions::default();
            Config::from_kubeconfig(&options).await.map_err(|error| match error {
                KubeconfigError::FindPath | KubeconfigError::ReadConfig(..) if !set("KUBECONFIG") => {
                    AccessError::Nowhere
                }
                error => AccessError::Kubeconfig(error),
            })?
        };
        Self::with(config, namespace)
    }

    /// # Errors
    /// When the configuration cannot be used, for example a certificate in it.
    pub(crate) fn with(mut config: Config, namespace: Option<&str>) -> Result<Self, AccessError> {
        // By default a request is tried up to 15 times, up to 1000 seconds apart: an answer of then is about a world of
        // now no longer.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(DEADLINE);
        let namespace = Arc::from(namespace.unwrap_or(&config.default_namespace));
        let watches = Client::try_from(config.clone()).map_err(AccessError::Client)?;
        config.read_timeout = Some(DEADLINE);
        config.reset_reader_on_write = true;
        let requests = Client::try_from(config).map_err(AccessError::Client)?;
        Ok(Self { requests, watches, namespace })
    }

    pub(crate) fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// For what is asked and answered; each call belongs into [`Access::ask`].
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.requests.clone(), &self.namespace)
    }

    /// For watchers, and nothing else: no answer has a deadline here.
    pub(crate) fn watched<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.watches.clone(), &self.namespace)
    }

    /// Waits for an answer until [`DEADLINE`], and says of a failure what was being done.
    ///
    /// # Errors
    /// As [`Error`] says. Whether a request that was too slow has had its effect is not known.
    pub(crate) async fn ask<T>(
        &self,
        call: Call,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        self.ask_within(DEADLINE, call, answer).await
    }

    /// As [`Access::ask`], with less patience.
    ///
    /// # Errors
    /// The same.
    pub(crate) async fn ask_within<T>(
        &self,
        patience: Duration,
        call: Call,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Error> {
        match timeout(patience, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Error::of(call, &self.namespace, error)),
            Err(_) => Err(Error::Slow { call, patience }),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({})", self.namespace)
    }
}

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("nothing says where the API server is; run in a pod with a service account, or set KUBECONFIG")]
    Nowhere,
    #[error("the pod's service account cannot be used: {}", chain(.0))]
    ServiceAccount(#[source] InClusterError),
    #[error("{} cannot be used: {}", kubeconfig().display(), chain(.0))]
    Kubeconfig(#[source] KubeconfigError),
    #[error("no client can be made of the Kubernetes configuration: {}", chain(.0))]
    Client(#[source] kube::Error),
}

/// What is done to which resource, in the words of a Role: `patch` `pods/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static str,
    /// The API group; empty for the core's.
    pub(crate) group: &'static str,
}

impl Call {
    pub(crate) const fn core(verb: &'static str, resource: &'static str) -> Self {
        Self { verb, resource, group: "" }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "no permission to {call} in namespace {namespace}: a Role must grant this account the verb `{}` on \
         `{}` of apiGroup \"{}\"", .call.verb, .call.resource, .call.group
    )]
    Forbidden { call: Call, namespace: Arc<str> },
    #[error(
        "{call}: the API server does not know this account (401): its token is missing, expired or revoked"
    )]
    Unknown { call: Call },
    #[error("{call}: there is none")]
    Missing { call: Call },
    #[error("{call}: somebody else has changed it in the meantime")]
    Conflict { call: Call },
    #[error("{call}: the API server refused: {message} ({code})")]
    Refused { call: Call, message: String, code: u16 },
    #[error("{call}: the API server cannot be reached: {}", chain(.source))]
    Unreachable { call: Call, source: kube::Error },
    #[error("{call}: the API server has not answered within {} s", .patience.as_secs())]
    Slow { call: Call, patience: Duration },
}

impl Error {
    pub(crate) fn of(call: Call, namespace: &Arc<str>, error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::refused(call, namespace, &status),
            source => Self::Unreachable { call, source },
        }
    }

    pub(crate) fn refused(call: Call, namespace: &Arc<str>, status: &kube::core::Status) -> Self {
        match status.code {
            401 => Self::Unknown { call },
            403 if !status.message.contains("exceeded quota") => {
                Self::Forbidden { call, namespace: Arc::clone(namespace) }
            }
            404 => Self::Missing { call },
            409 => Self::Conflict { call },
            // A patch that names a uid is of another object of this name.
            422 if status.message.contains("metadata.uid") => Self::Conflict { call },
            code => Self::Refused { call, message: status.message.clone(), code },
        }
    }

    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }

    /// What was read is not the newest; reading it again may help.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// What was asked makes no sense to the server: asking the same again does not help.
    pub(crate) fn is_invalid(&self) -> bool {
        matches!(self, Self::Refused { code: 400..=428, .. })
    }

    /// A person must grant something first.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }
}

/// An error with its causes: the outermost seldom says what happened.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many texts hold their cause's already.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

fn kubeconfig() -> PathBuf {
    std::env::var_os("KUBECONFIG").map_or_else(|| PathBuf::from("~/.kube/config"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16, message: &str) -> Error {
        let status = Status::failure(message, "").with_code(code);
        let call = Call { verb: "list", resource: "endpointslices", group: "discovery.k8s.io" };
        Error::of(call, &Arc::from("shop"), kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_says_whose_fault_it_is() {
        let check = |code: u16, message: &str, expected: &str| {
            let told = refused(code, message).to_string();
            assert!(told.contains(expected), "{code}: {told}");
        };
        check(
            403,
            "endpointslices.discovery.k8s.io is forbidden: User \"x\" cannot list",
            "no permission to list endpointslices.discovery.k8s.io in namespace shop: a Role must grant this account the \
             verb `list` on `endpointslices` of apiGroup \"discovery.k8s.io\"",
        );
        check(403, "pods is forbidden: exceeded quota: q", "exceeded quota: q (403)");
        check(401, "Unauthorized", "token is missing, expired or revoked");
        check(404, "not found", "there is none");
        check(409, "the object has been modified", "somebody else has changed it");
        check(422, "metadata.uid: Invalid value: \"u\": field is immutable", "somebody else has changed it");
        check(422, "metadata.name: Invalid value", "metadata.name: Invalid value (422)");
        assert!(
            refused(403, "").is_forbidden()
                && refused(404, "").is_missing()
                && refused(409, "").is_conflict()
        );
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unreachable() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        let config = Config::new(format!("http://{address}").parse().expect("a URI"));
        let access = Access::with(config, Some("shop")).expect("usable");
        let pods = access.api::<k8s_openapi::api::core::v1::Pod>();
        let error = access.ask(Call::core("get", "pods"), pods.get("x")).await.expect_err("nobody is there");
        let told = error.to_string();
        assert!(told.starts_with("get pods: the API server cannot be reached: "), "{told}");
        assert!(told.contains("refused"), "{told}");
        assert!(access.watched::<k8s_openapi::api::core::v1::Pod>().namespace() == Some("shop"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_silent_is_slow() {
        let config = Config::new("http://127.0.0.1:1".parse().expect("a URI"));
        let access = Access::with(config, None).expect("usable");
        let error = access
            .ask::<()>(Call::core("get", "pods"), std::future::pending())
            .await
            .expect_err("no answer ever comes");
        assert_eq!(error.to_string(), "get pods: the API server has not answered within 10 s");
    }
}
