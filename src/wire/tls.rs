//! TLS on both sides, and the only place that knows rustls: the certificate clients see, and how much of a server's
//! certificate is checked.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::aws_lc_rs::digest::{SHA256, digest};
use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// TLS over any other stream.
pub(super) type TlsStream<S> = tokio_rustls::TlsStream<S>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} holds no usable PEM: {1}")]
    Pem(PathBuf, String),
    #[error("the certificate {0} and its key cannot be used")]
    Certificate(PathBuf, #[source] rustls::Error),
    #[error("making a self-signed certificate failed")]
    SelfSigned(#[source] rcgen::Error),
    #[error("setting up TLS failed")]
    Setup(#[source] rustls::Error),
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("`{0}` is no host name that a certificate could have")]
    HostName(String),
}

/// The server's side of TLS, towards clients. Clones share the certificate, and take a new one together.
#[derive(Clone)]
pub(crate) struct Acceptor {
    config: Arc<ArcSwap<ServerConfig>>,
    /// None for a certificate of our own making.
    files: Option<Arc<Files>>,
}

/// A certificate chain and its key, as PEM.
#[derive(Clone, Debug)]
pub(crate) struct PemFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// All that an [`Acceptor`] reads.
struct Files {
    own: PemFiles,
    client_ca: Option<PathBuf>,
}

/// How often certificate files are looked at: soon enough for one that is renewed days before its end.
const LOOK: Duration = Duration::from_secs(30);

impl Acceptor {
    /// With the certificate chain and key in two PEM files. With a `client_ca` a certificate that a client shows must be
    /// signed by it; whether a client must show one is the login's to say.
    pub(crate) fn from_files(own: PemFiles, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let files = Files { own, client_ca: client_ca.map(Path::to_owned) };
        let config = files.load()?;
        Ok(Self { config: Arc::new(ArcSwap::from_pointee(config)), files: Some(Arc::new(files)) })
    }

    /// With a certificate made now, for this process only, as mysqld does when it has none. Encrypts, proves nothing.
    pub(crate) fn self_signed(client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let key = rcgen::KeyPair::generate().map_err(TlsError::SelfSigned)?;
        let mut parameters =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).map_err(TlsError::SelfSigned)?;
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "Readwright self-signed certificate");
        let certificate = parameters.self_signed(&key).map_err(TlsError::SelfSigned)?;
        let key_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let clients = client_ca.map(client_verifier).transpose()?;
        let config =
            server_config(vec![certificate.der().clone()], key_der, clients).map_err(TlsError::Setup)?;
        Ok(Self { config: Arc::new(ArcSwap::from_pointee(config)), files: None })
    }

    /// Takes the client's handshake. The deadline is the caller's.
    pub(super) async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let stream = acceptor.accept(stream).await.map_err(TlsError::Handshake)?;
        Ok(stream.into())
    }

    /// Until `stop`: takes new certificate files as they come, for the handshakes from then on. Files that cannot be used
    /// change nothing. Reads files, so it has no place on a thread that serves clients.
    pub(crate) async fn follow_files(self, stop: CancellationToken) {
        let Some(files) = self.files else { return stop.cancelled().await };
        let mut seen = files.fingerprint();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = files.fingerprint();
            if now == seen {
                continue;
            }
            seen = now;
            match files.load() {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    tracing::info!(file = %files.own.certificate.display(), "clients see a new certificate");
                }
                Err(error) => tracing::warn!(%error, "a new certificate cannot be used; the old one stays"),
            }
        }
    }
}

impl Files {
    fn load(&self) -> Result<ServerConfig, TlsError> {
        let (chain, key) = self.own.read()?;
        let clients = self.client_ca.as_deref().map(client_verifier).transpose()?;
        server_config(chain, key, clients).map_err(|e| TlsError::Certificate(self.own.certificate.clone(), e))
    }

    /// Differs when what is in the files differs; a missing file is a difference, too.
    fn fingerprint(&self) -> [Option<Vec<u8>>; 3] {
        [Some(&self.own.certificate), Some(&self.own.key), self.client_ca.as_ref()].map(|path| {
            let bytes = Zeroizing::new(std::fs::read(path?).ok()?);
            Some(digest(&SHA256, &bytes).as_ref().to_vec())
        })
    }
}

impl PemFiles {
    pub(crate) fn new(certificate: &Path, key: &Path) -> Self {
        Self { certificate: certificate.to_owned(), key: key.to_owned() }
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = read_certificates(&self.certificate)?;
        let pem = Zeroizing::new(read(&self.key)?);
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|e| TlsError::Pem(self.key.clone(), e.to_string()))?;
        Ok((chain, key))
    }
}

/// Lets clients in that show no certificate: what they are told is for the login to say.
fn client_verifier(ca: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(read_roots(ca)?);
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Pem(ca.to_owned(), error.to_string()))
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_single_cert(chain, key)?;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// How much of a server's certificate is checked, as MySQL's `--ssl-mode` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verify {
    /// Nothing (PREFERRED, REQUIRED): keeps eavesdroppers out, not impostors.
    Nothing,
    /// That the CA signed it (VERIFY_CA).
    Chain,
    /// That the CA signed it for this host (VERIFY_IDENTITY).
    ChainAndName,
}

/// The client's side of TLS, towards servers. Resumes sessions.
#[derive(Clone)]
pub(crate) struct Initiator {
    connector: TlsConnector,
    verify: Verify,
}

impl Initiator {
    /// `ca` is a PEM file of the certificates that are trusted; it is read whenever it is given, and needed for every
    /// `verify` but [`Verify::Nothing`]. `own` is shown to servers that ask for it.
    pub(crate) fn new(verify: Verify, ca: Option<&Path>, own: Option<&PemFiles>) -> Result<Self, TlsError> {
        let roots = ca.map(read_roots).transpose()?.unwrap_or_else(RootCertStore::empty);
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let lenient = |roots| Arc::new(LenientVerifier { roots, provider: provider() });
        let builder = match verify {
            Verify::ChainAndName => builder.with_root_certificates(roots),
            Verify::Chain => builder.dangerous().with_custom_certificate_verifier(lenient(Some(roots))),
            Verify::Nothing => builder.dangerous().with_custom_certificate_verifier(lenient(None)),
        };
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let (chain, key) = files.read()?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|e| TlsError::Certificate(files.certificate.clone(), e))?
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), verify })
    }

    /// Starts the handshake as the client of `host` (a name or an IP address). The deadline is the caller's.
    pub(super) async fn connect<S>(&self, stream: S, host: &str) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            // The name is not looked at, so any that is well-formed will do.
            Err(_) if self.verify != Verify::ChainAndName => {
                ServerName::try_from("mysql").expect("`mysql` is a host name")
            }
            Err(_) => return Err(TlsError::HostName(host.to_owned())),
        };
        let stream = self.connector.connect(name, stream).await.map_err(TlsError::Handshake)?;
        Ok(stream.into())
    }
}

/// Checks the chain if there are roots, and never the name. That the server holds the certificate's key is always checked.
#[derive(Debug)]
struct LenientVerifier {
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for LenientVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(end_entity)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Acceptor")
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Initiator({:?})", self.verify)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|e| TlsError::Read(path.to_owned(), e))
}

fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|e| TlsError::Certificate(path.to_owned(), e))?;
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(TlsError::Pem(path.to_owned(), "there is no certificate in it".to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::Pem(path.to_owned(), error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::HandshakeKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    /// A CA and a certificate of it for `mysql-0.mysql`, as files.
    struct TestFiles {
        folder: PathBuf,
        ca: PathBuf,
        certificate: PathBuf,
        key: PathBuf,
    }

    impl TestFiles {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("readwright-tls-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            let mut parameters = CertificateParams::new(Vec::new()).expect("no names");
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let ca = CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key"));
            let ca = ca.expect("a CA");
            let key = KeyPair::generate().expect("a key");
            let parameters = CertificateParams::new(vec!["mysql-0.mysql".to_owned()]).expect("a name");
            let certificate = parameters.signed_by(&key, &ca).expect("a certificate");
            let write = |name: &str, text: String| {
                let path = folder.join(name);
                std::fs::write(&path, text).expect("written");
                path
            };
            Self {
                ca: write("ca.pem", ca.pem()),
                certificate: write("certificate.pem", certificate.pem()),
                key: write("key.pem", key.serialize_pem()),
                folder,
            }
        }
    }

    impl TestFiles {
        fn own(&self) -> PemFiles {
            PemFiles::new(&self.certificate, &self.key)
        }

        fn acceptor(&self, client_ca: Option<&Path>) -> Result<Acceptor, TlsError> {
            Acceptor::from_files(self.own(), client_ca)
        }
    }

    impl Drop for TestFiles {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.folder).ok();
        }
    }

    /// One handshake and a byte each way; how the client's side sees it.
    async fn shake(
        acceptor: &Acceptor,
        initiator: &Initiator,
        host: &str,
    ) -> Result<Option<HandshakeKind>, TlsError> {
        let (near, far) = UnixStream::pair().expect("a socket pair");
        let server = async {
            let mut stream = acceptor.accept(far).await?;
            stream.write_all(b"x").await.map_err(TlsError::Handshake)?;
            stream.flush().await.map_err(TlsError::Handshake)
        };
        let client = async {
            let mut stream = initiator.connect(near, host).await?;
            assert_eq!(stream.read_u8().await.expect("a byte"), b'x');
            Ok(stream.get_ref().1.handshake_kind())
        };
        let (_, client) = Box::pin(async { tokio::join!(server, client) }).await;
        client
    }

    #[tokio::test]
    async fn what_is_checked() {
        let ours = TestFiles::new("ours");
        let theirs = TestFiles::new("theirs");
        let signed = ours.acceptor(None).expect("usable");
        let self_signed = Acceptor::self_signed(None).expect("a certificate");
        let (right, wrong) = ("mysql-0.mysql", "mysql-1.mysql");
        let cases = [
            (Verify::Nothing, None, right, &signed, true),
            (Verify::Nothing, None, wrong, &self_signed, true),
            (Verify::Nothing, None, "no name at all", &self_signed, true),
            (Verify::Nothing, Some(&theirs), right, &signed, true),
            (Verify::Chain, Some(&ours), right, &signed, true),
            (Verify::Chain, Some(&ours), wrong, &signed, true),
            (Verify::Chain, Some(&theirs), right, &signed, false),
            (Verify::Chain, Some(&ours), right, &self_signed, false),
            (Verify::Chain, None, right, &signed, false),
            (Verify::ChainAndName, Some(&ours), right, &signed, true),
            (Verify::ChainAndName, Some(&ours), wrong, &signed, false),
            (Verify::ChainAndName, Some(&ours), "127.0.0.1", &signed, false),
            (Verify::ChainAndName, Some(&ours), "no name at all", &signed, false),
            (Verify::ChainAndName, Some(&theirs), right, &signed, false),
            (Verify::ChainAndName, None, right, &signed, false),
        ];
        for (verify, ca, host, acceptor, good) in cases {
            let ca = ca.map(|files| files.ca.as_path());
            let initiator = Initiator::new(verify, ca, None).expect("usable");
            let outcome = shake(acceptor, &initiator, host).await;
            assert_eq!(outcome.is_ok(), good, "{verify:?} {ca:?} {host} {outcome:?}");
        }
    }

    #[tokio::test]
    async fn certificates_of_clients() {
        let ours = TestFiles::new("clients-ours");
        let theirs = TestFiles::new("clients-theirs");
        for acceptor in [ours.acceptor(Some(&ours.ca)), Acceptor::self_signed(Some(&ours.ca))] {
            let acceptor = acceptor.expect("usable");
            // Who shows none is let in: the login refuses where one is needed. A ticket keeps what was shown.
            for (own, expected) in
                [(None, Some(false)), (Some(ours.own()), Some(true)), (Some(theirs.own()), None)]
            {
                let initiator = Initiator::new(Verify::Nothing, None, own.as_ref()).expect("usable");
                for _ in 0..2 {
                    let (near, far) = UnixStream::pair().expect("a socket pair");
                    let server = async {
                        let mut stream = acceptor.accept(far).await?;
                        stream.write_all(b"x").await.map_err(TlsError::Handshake)?;
                        stream.flush().await.map_err(TlsError::Handshake)?;
                        Ok::<_, TlsError>(stream.get_ref().1.peer_certificates().is_some())
                    };
                    let client = async {
                        let mut stream = initiator.connect(near, "mysql").await.ok()?;
                        stream.read_u8().await.ok()
                    };
                    let (shown, read) = Box::pin(async { tokio::join!(server, client) }).await;
                    assert_eq!(shown.ok(), expected, "{own:?}");
                    assert_eq!(read.is_some(), expected.is_some(), "{own:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn sessions_are_resumed() {
        let acceptor = Acceptor::self_signed(None).expect("a certificate");
        let initiator = Initiator::new(Verify::Nothing, None, None).expect("usable");
        let mut kinds = Vec::new();
        for _ in 0..3 {
            kinds.push(shake(&acceptor, &initiator, "mysql-0.mysql").await.expect("a handshake"));
        }
        assert_eq!(kinds[0], Some(HandshakeKind::Full));
        assert_eq!(kinds[1..], [Some(HandshakeKind::Resumed); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_certificate_is_taken() {
        let (old, new) = (TestFiles::new("old"), TestFiles::new("new"));
        let acceptor = old.acceptor(None).expect("usable");
        let files = acceptor.files.as_ref().expect("from files");
        assert_eq!(files.fingerprint(), files.fingerprint());
        let stop = CancellationToken::new();
        let following = acceptor.clone().follow_files(stop.clone());
        let test = async {
            let seen_with = |ca: &TestFiles| {
                let initiator = Initiator::new(Verify::Chain, Some(&ca.ca), None).expect("usable");
                let acceptor = acceptor.clone();
                async move { shake(&acceptor, &initiator, "mysql-0.mysql").await.is_ok() }
            };
            tokio::time::sleep(LOOK * 2).await;
            assert!(seen_with(&old).await, "nothing changed");
            std::fs::write(&old.certificate, "half of it").expect("written");
            tokio::time::sleep(LOOK * 2).await;
            assert!(seen_with(&old).await, "what cannot be used changes nothing");
            std::fs::copy(&new.certificate, &old.certificate).expect("copied");
            std::fs::copy(&new.key, &old.key).expect("copied");
            tokio::time::sleep(LOOK * 2).await;
            assert!(seen_with(&new).await && !seen_with(&old).await, "the new one is seen");
            stop.cancel();
        };
        tokio::join!(following, Box::pin(test));
    }

    #[test]
    fn files_that_cannot_be_used() {
        let files = TestFiles::new("bad");
        let nothing = files.folder.join("nothing.pem");
        std::fs::write(&nothing, "no PEM").expect("written");
        let missing = files.folder.join("missing.pem");
        let other = TestFiles::new("other");
        let acceptor = |certificate: &Path, key: &Path| {
            Acceptor::from_files(PemFiles::new(certificate, key), None).err()
        };
        let client_ca = |ca: &Path| files.acceptor(Some(ca)).err();
        let own = |key: &Path| {
            Initiator::new(Verify::Nothing, None, Some(&PemFiles::new(&files.certificate, key))).err()
        };
        let initiator = |ca: &Path| Initiator::new(Verify::Chain, Some(ca), None).err();
        let cases = [
            (acceptor(&missing, &files.key), "cannot read "),
            (acceptor(&files.certificate, &missing), "cannot read "),
            (acceptor(&nothing, &files.key), "there is no certificate in it"),
            (acceptor(&files.certificate, &nothing), "holds no usable PEM"),
            (acceptor(&files.certificate, &other.key), "and its key cannot be used"),
            (initiator(&missing), "cannot read "),
            (initiator(&nothing), "there is no certificate in it"),
            (client_ca(&missing), "cannot read "),
            (client_ca(&nothing), "there is no certificate in it"),
            (own(&missing), "cannot read "),
            (own(&other.key), "and its key cannot be used"),
        ];
        for (error, expected) in cases {
            let error = error.expect(expected);
            assert!(error.to_string().contains(expected), "{error} {:?}", error.source());
        }
    }
}
