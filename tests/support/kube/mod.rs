//! A real Kubernetes API for tests: etcd, kube-apiserver with RBAC on, and kube-controller-manager, on an address of the
//! caller's choice, with certificates of their own. There are no nodes: see the kubelet beside it. Gone with the process
//! that started it, in whatever way that ends.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::mysqld::free_port;

pub(crate) struct Kube {
    assets: PathBuf,
    folder: PathBuf,
    address: SocketAddr,
    etcd_port: u16,
    client: Client,
    /// The API server and the controllers.
    running: Mutex<Vec<Child>>,
    _etcd: Child,
    /// Kills what is left when its standard input ends, which is when this process is gone.
    _watchdog: Child,
}

impl Kube {
    /// Some five seconds. `assets` is the folder with the programs.
    pub(crate) async fn start(assets: PathBuf, folder: &Path, address: IpAddr) -> Result<Self, String> {
        let folder = folder.join("kube");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let port = || free_port().map_err(|error| format!("no free port: {error}"));
        let (etcd_port, peer_port, api_port) = (port()?, port()?, port()?);
        let address = SocketAddr::from((address, api_port));
        let authority = Authority::make(&folder)?;
        authority.certify(&folder, "server", None, &[address.ip(), Ipv4Addr::LOCALHOST.into()])?;
        for (name, group, user) in [
            ("admin", Some("system:masters"), "admin"),
            ("controllers", None, "system:kube-controller-manager"),
        ] {
            authority.certify(&folder, user, group, &[])?;
            write(&folder.join(format!("{name}.conf")), &kubeconfig(&folder, address, user))?;
        }
        let accounts = KeyPair::generate().map_err(|error| error.to_string())?;
        write(&folder.join("accounts.key"), &accounts.serialize_pem())?;
        write(&folder.join("accounts.pub"), &accounts.public_key_pem())?;

        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "kube-watchdog"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|error| format!("sh: {error}"))?;
        let url = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let etcd = spawn(
            &assets.join("etcd"),
            &folder,
            &[
                format!("--data-dir={}", folder.join("etcd").display()),
                format!("--listen-client-urls={url}"),
                format!("--advertise-client-urls={url}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        let client = client(&folder.join("admin.conf")).await?;
        let kube = Self {
            assets,
            folder,
            address,
            etcd_port,
            client,
            running: Mutex::default(),
            _etcd: etcd,
            _watchdog: watchdog,
        };
        kube.serve().await?;
        Ok(kube)
    }

    /// As an administrator.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// For `kubectl`, as an administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.conf")
    }

    /// What Kubernetes brings; the machine's own where the assets have none.
    pub(crate) fn kubectl(&self) -> PathBuf {
        let built = self.assets.join("kubectl");
        if built.is_file() { built } else { PathBuf::from("kubectl") }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the API server and the controllers, again after [`Self::go_away`], and waits until it is ready.
    pub(crate) async fn serve(&self) -> Result<(), String> {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let child = spawn(
            &self.assets.join("kube-apiserver"),
            &self.folder,
            &[
                format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
                format!("--bind-address={}", self.address.ip()),
                format!("--secure-port={}", self.address.port()),
                format!("--advertise-address={}", Ipv4Addr::new(192, 0, 2, 2)),
                "--endpoint-reconciler-type=none".to_owned(),
                format!("--tls-cert-file={}", at("server.crt")),
                format!("--tls-private-key-file={}", at("server.key")),
                format!("--client-ca-file={}", at("ca.crt")),
                "--authorization-mode=RBAC".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-key-file={}", at("accounts.pub")),
                format!("--service-account-signing-key-file={}", at("accounts.key")),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            ],
        )?;
        self.running.lock().await.push(child);
        let patience = Instant::now() + Duration::from_secs(300);
        loop {
            let ready = hyper::Request::get("/readyz").body(Vec::new()).map_err(|error| error.to_string())?;
            match timeout(Duration::from_secs(5), self.client.request_text(ready)).await {
                Ok(Ok(_)) => break,
                answer if Instant::now() > patience => {
                    return Err(format!("the API server is not ready: {answer:?}; {}", self.complaints()));
                }
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
        let controllers = spawn(
            &self.assets.join("kube-controller-manager"),
            &self.folder,
            &[
                format!("--kubeconfig={}", at("controllers.conf")),
                "--leader-elect=false".to_owned(),
                "--use-service-account-credentials".to_owned(),
                format!("--service-account-private-key-file={}", at("accounts.key")),
                format!("--root-ca-file={}", at("ca.crt")),
                "--secure-port=0".to_owned(),
                "--concurrent-statefulset-syncs=5".to_owned(),
            ],
        )?;
        self.running.lock().await.push(controllers);
        Ok(())
    }

    /// Kills the API server; what it knows stays in etcd. The controllers go, too: they would wait for up to a minute before
    /// they try again, the longer the more often this happens.
    pub(crate) async fn go_away(&self) {
        for mut child in std::mem::take(&mut *self.running.lock().await) {
            let _ = child.kill().await;
        }
    }

    fn complaints(&self) -> String {
        let log = fs::read_to_string(self.folder.join("kube-apiserver.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(3)..].join("\n")
    }
}

/// The folder with the programs: what `scripts/kube-assets` prints. Builds them if need be, which takes minutes. Err says
/// why there are none to be had here.
pub(crate) async fn assets() -> Result<PathBuf, String> {
    let output = Command::new("scripts/kube-assets")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("scripts/kube-assets: {error}"))?;
    match output.status.success() {
        true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
        false => Err("scripts/kube-assets found no kube-apiserver and could not build one".to_owned()),
    }
}

async fn client(kubeconfig: &Path) -> Result<Client, String> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).map_err(|error| error.to_string())?;
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut config = config.map_err(|error| error.to_string())?;
    config.default_retry = false;
    Client::try_from(config).map_err(|error| error.to_string())
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn make(folder: &Path) -> Result<Self, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        parameters.distinguished_name.push(DnType::CommonName, "tests");
        let certificate = parameters.self_signed(&key).map_err(|error| error.to_string())?;
        write(&folder.join("ca.crt"), &certificate.pem())?;
        Ok(Self { issuer: Issuer::new(parameters, key) })
    }

    /// Writes NAME.crt and NAME.key. The name is who it is to the API server, the group what it belongs to.
    fn certify(
        &self,
        folder: &Path,
        name: &str,
        group: Option<&str>,
        addresses: &[IpAddr],
    ) -> Result<(), String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let names = ["localhost", "kubernetes.default.svc", "kubernetes.default"].map(str::to_owned);
        let mut parameters = CertificateParams::new(names).map_err(|error| error.to_string())?;
        parameters.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            parameters.distinguished_name.push(DnType::OrganizationName, group);
        }
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(|error| error.to_string())?;
        write(&folder.join(format!("{name}.crt")), &certificate.pem())?;
        write(&folder.join(format!("{name}.key")), &key.serialize_pem())
    }
}

fn kubeconfig(folder: &Path, address: SocketAddr, user: &str) -> String {
    let folder = folder.display();
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: tests\n\
         clusters: [{{name: tests, cluster: {{server: \"https://{address}\", certificate-authority: \"{folder}/ca.crt\"}}}}]\n\
         users: [{{name: tests, user: {{client-certificate: \"{folder}/{user}.crt\", client-key: \"{folder}/{user}.key\"}}}}]\n\
         contexts: [{{name: tests, context: {{cluster: tests, user: tests}}}}]\n"
    )
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn spawn(program: &Path, folder: &Path, arguments: &[String]) -> Result<Child, String> {
    let complain = |error: std::io::Error| format!("{}: {error}", program.display());
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let log = folder.join(format!("{name}.log"));
    let log = File::options().create(true).append(true).open(log).map_err(complain)?;
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(complain)?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(complain)?;
    if let Some(process) = child.id() {
        // By these files the watchdog knows what it has to end.
        write(&folder.join(format!("{process}.process")), &name)?;
    }
    Ok(child)
}

/// `sh -c WATCHDOG NAME FOLDER`: waits for the end of standard input, then kills the processes that have a file there and
/// still are what it says, and removes the folder.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for file in "$1"/*.process; do
  process=${file##*/} process=${process%.process}
  [ "$(cat "/proc/$process/comm" 2>/dev/null)" != "$(cut -c-15 <"$file")" ] || kill -KILL "$process"
done
rm -rf -- "$1"
"#;
