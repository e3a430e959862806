//! TLS on both sides, and the only place that knows rustls: the certificate clients see, and how much of a server's
//! certificate is checked.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::stream::Stream;

/// TLS over any other stream.
pub(super) type TlsStream = tokio_rustls::TlsStream<Stream>;

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

/// The server's side of TLS, towards clients.
#[derive(Clone)]
pub(crate) struct Acceptor(TlsAcceptor);

impl Acceptor {
    /// With the certificate chain and key in two PEM files.
    pub(crate) fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read_certificates(certificate)?;
        let pem = read(key)?;
        let key_der =
            PrivateKeyDer::from_pem_slice(&pem).map_err(|e| TlsError::Pem(key.to_owned(), e.to_string()))?;
        Self::new(chain, key_der).map_err(|e| TlsError::Certificate(certificate.to_owned(), e))
    }

    /// With a certificate made now, for this process only, as mysqld does when it has none. Encrypts, proves nothing.
    pub(crate) fn self_signed() -> Result<Self, TlsError> {
        let key = rcgen::KeyPair::generate().map_err(TlsError::SelfSigned)?;
        let mut parameters =
            rcgen::CertificateParams::new(vec!["localhost".to_owned()]).map_err(TlsError::SelfSigned)?;
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "Readwright self-signed certificate");
        let certificate = parameters.self_signed(&key).map_err(TlsError::SelfSigned)?;
        let key_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Self::new(vec![certificate.der().clone()], key_der).map_err(TlsError::Setup)
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Self(TlsAcceptor::from(Arc::new(config))))
    }

    /// Takes the client's handshake. The deadline is the caller's.
    pub(crate) async fn accept(&self, stream: Stream) -> Result<Stream, TlsError> {
        let stream = self.0.accept(stream).await.map_err(TlsError::Handshake)?;
        Ok(Stream::tls(stream.into()))
    }
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
    /// `verify` but [`Verify::Nothing`].
    pub(crate) fn new(verify: Verify, ca: Option<&Path>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = ca {
            for certificate in read_certificates(path)? {
                roots.add(certificate).map_err(|e| TlsError::Certificate(path.to_owned(), e))?;
            }
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?;
        let config = match verify {
            Verify::ChainAndName => builder.with_root_certificates(roots).with_no_client_auth(),
            Verify::Chain => custom(builder, LenientVerifier { roots: Some(roots), provider: provider() }),
            Verify::Nothing => custom(builder, LenientVerifier { roots: None, provider: provider() }),
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), verify })
    }

    /// Starts the handshake as the client of `host` (a name or an IP address). The deadline is the caller's.
    pub(crate) async fn connect(&self, stream: Stream, host: &str) -> Result<Stream, TlsError> {
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            // The name is not looked at, so any that is well-formed will do.
            Err(_) if self.verify != Verify::ChainAndName => {
                ServerName::try_from("mysql").expect("`mysql` is a host name")
            }
            Err(_) => return Err(TlsError::HostName(host.to_owned())),
        };
        let stream = self.connector.connect(name, stream).await.map_err(TlsError::Handshake)?;
        Ok(Stream::tls(stream.into()))
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>;

fn custom(builder: Builder, verifier: LenientVerifier) -> ClientConfig {
    builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
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
