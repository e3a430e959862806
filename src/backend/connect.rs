//! Opens a connection to a server and logs in as a user. Chooses no server, keeps no connection, retries nothing.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use crate::config::{ServerTls, TlsMode};
use crate::model::server::Address;
use crate::model::version::Version;
use crate::wire::auth::{
    CryptoError, FAST_AUTH_SUCCESS, FULL_AUTHENTICATION, Nonce, Plugin, REQUEST_PUBLIC_KEY,
    REQUEST_PUBLIC_KEY_SHA256, answer_caching_sha2, answer_ed25519, answer_native, answer_parsec,
    encrypt_password,
};
use crate::wire::flags::Capabilities;
use crate::wire::handshake::{
    AUTH_MORE_DATA, Answer, Attributes, AuthSwitch, Greeting, HandshakeResponse, MAX_PACKET,
    encode_ssl_request,
};
use crate::wire::packet::{EOF, ERR, ErrPacket, Inbox, OK, Packet, WireError, write_packet};
use crate::wire::stream::{Stream, tune};
use crate::wire::tls::{Initiator, PemFiles, TlsError, Verify};

/// A user and what proves it. Never printed, wiped when dropped.
pub(crate) struct Credentials {
    pub(crate) user: Arc<str>,
    password: Zeroizing<Box<[u8]>>,
}

impl Credentials {
    pub(crate) fn new(user: impl Into<Arc<str>>, password: &[u8]) -> Self {
        Self { user: user.into(), password: Zeroizing::new(password.into()) }
    }

    /// The password in the clear, which servers need; any bytes, as the client typed them.
    pub(crate) fn password(&self) -> &[u8] {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:<secret>", self.user)
    }
}

/// What a connection to a server shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// A host that begins with `/` is the path of a Unix socket.
    pub(crate) address: &'a Address,
    pub(crate) credentials: &'a Credentials,
    /// The client's flags that change bytes; [`ALWAYS`] is added, and those that are about the connection itself (TLS,
    /// compression, schema) are decided here.
    pub(crate) capabilities: Capabilities,
    /// The handshake has room for ids up to 255. All above are of utf8mb4, and its default collation is used for them.
    pub(crate) collation: u16,
    pub(crate) schema: Option<&'a [u8]>,
    pub(crate) attributes: &'a Attributes,
}

/// A server connection that is logged in and idle.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) stream: Stream,
    /// Asked for and offered: what the bytes on this connection look like.
    pub(crate) capabilities: Capabilities,
    /// What KILL takes.
    pub(crate) thread_id: u32,
    /// None when the server's is none that we can read.
    pub(crate) version: Option<Version>,
}

/// Flags of every connection to a server, whatever the client has.
pub(crate) const ALWAYS: Capabilities = Capabilities::PROTOCOL_41
    .with(Capabilities::SECURE_CONNECTION)
    .with(Capabilities::PLUGIN_AUTH)
    .with(Capabilities::PLUGIN_AUTH_LENENC)
    .with(Capabilities::CONNECT_ATTRS)
    .with(Capabilities::TRANSACTIONS)
    .with(Capabilities::SESSION_TRACK);

/// Flags that are about one connection and never passed from one to another.
pub(crate) const OWN: Capabilities = Capabilities::SSL
    .with(Capabilities::SSL_VERIFY_SERVER_CERT)
    .with(Capabilities::COMPRESS)
    .with(Capabilities::ZSTD)
    .with(Capabilities::CONNECT_WITH_DB)
    .with(Capabilities::REMEMBER_OPTIONS)
    .with(Capabilities::CAPABILITY_EXTENSION)
    .with(Capabilities::MULTI_FACTOR);

/// Flags that no server does anything with once a session has begun.
const WITHOUT_EFFECT: Capabilities = Capabilities::LONG_PASSWORD
    .with(Capabilities::ODBC)
    .with(Capabilities::IGNORE_SIGPIPE)
    .with(Capabilities::RESERVED)
    .with(Capabilities::CAN_HANDLE_EXPIRED_PASSWORDS);

/// What of a client's flags makes a connection for it another one than for clients without. Drivers differ in the rest,
/// and share connections all the same.
pub(crate) fn what_matters(capabilities: Capabilities) -> Capabilities {
    capabilities - OWN - ALWAYS - WITHOUT_EFFECT
}

/// Without these no login is possible that we know; every server since 5.5 has them.
const NEEDED: Capabilities =
    Capabilities::PROTOCOL_41.with(Capabilities::SECURE_CONNECTION).with(Capabilities::PLUGIN_AUTH);

/// The largest packet that we tell a server we accept; the largest there is.
const MAX_RESULT_PACKET: u32 = 1 << 30;
/// No login takes more packets than this.
const MAX_STEPS: usize = 8;
/// The connection attribute that says on a server who brings this client, and its value.
const PROXY_ATTRIBUTE: &str = "_proxy";
const PROXY_NAME: &[u8] = concat!("readwright ", env!("CARGO_PKG_VERSION")).as_bytes();
/// `utf8mb4_0900_ai_ci`.
const UTF8MB4: u8 = 255;

/// Why there is no connection, or why one that was just made is of no use. Which server it was the caller knows.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("the server did not let us in in time")]
    TimedOut,
    #[error("cannot connect")]
    Unreachable(#[source] io::Error),
    #[error("the server broke off the login")]
    Broken(#[source] WireError),
    #[error("the server does not keep to the protocol: {0}")]
    Protocol(&'static str),
    #[error("the server refused: {0}")]
    Refused(ErrPacket),
    #[error("another server answers there: its server_uuid is {found}, not {expected}")]
    OtherServer { expected: Arc<str>, found: Arc<str> },
    #[error("TLS failed")]
    Tls(#[source] TlsError),
    #[error("the server offers no TLS, which `server_tls.mode` demands")]
    NoTls,
    #[error("the server offers no login that is known here (MySQL 5.7 or later is needed)")]
    TooOld,
    #[error("the server wants the authentication plugin `{0}`, which is not known here")]
    UnknownPlugin(String),
    #[error("the server wants the password in the clear, and it is sent over TLS only")]
    Insecure,
    #[error("the password could not be encrypted")]
    Crypto(#[source] CryptoError),
}

impl ConnectError {
    pub(crate) fn timed_out() -> Self {
        Self::TimedOut
    }

    pub(crate) fn io(error: io::Error) -> Self {
        Self::Broken(WireError::Io(error))
    }

    pub(crate) fn wire(error: WireError) -> Self {
        Self::Broken(error)
    }

    pub(crate) fn protocol(what: &'static str) -> Self {
        Self::Protocol(what)
    }

    pub(crate) fn refused(error: ErrPacket) -> Self {
        Self::Refused(error)
    }

    /// True when the server says that this user may not log in with this password: what was known of it is worthless.
    pub(crate) fn is_access_denied(&self) -> bool {
        self.server_error().is_some_and(is_access_denied)
    }

    /// ER_MUST_CHANGE_PASSWORD: the server has let the user in, to change the password and for nothing else.
    /// <https://dev.mysql.com/doc/refman/9.7/en/expired-password-handling.html>
    pub(crate) fn is_expired_password(&self) -> bool {
        self.server_error().is_some_and(|error| error.code == 1820)
    }

    /// True when another server may well accept the same login.
    pub(crate) fn retry_elsewhere(&self) -> bool {
        match self {
            Self::Refused(error) => BUSY_OR_CLOSED.contains(&error.code),
            Self::UnknownPlugin(_) | Self::Insecure | Self::Crypto(_) => false,
            Self::TimedOut
            | Self::Unreachable(_)
            | Self::Broken(_)
            | Self::Protocol(_)
            | Self::OtherServer { .. }
            | Self::Tls(_)
            | Self::NoTls
            | Self::TooOld => true,
        }
    }

    /// What the server itself said, if it said something; clients get it unchanged.
    pub(crate) fn server_error(&self) -> Option<&ErrPacket> {
        match self {
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}

/// True when a server's refusal is about this user and this password, not about the server.
pub(crate) fn is_access_denied(error: &ErrPacket) -> bool {
    ACCESS_DENIED.contains(&error.code)
}

/// ER_CON_COUNT_ERROR, ER_TOO_MANY_USER_CONNECTIONS, ER_USER_LIMIT_REACHED: the server, or the account there, has as many
/// connections as it may.
pub(crate) fn is_limit(error: &ErrPacket) -> bool {
    matches!(error.code, 1040 | 1203 | 1226)
}

/// ER_ACCESS_DENIED_ERROR, ER_ACCESS_DENIED_NO_PASSWORD_ERROR, ER_MUST_CHANGE_PASSWORD_LOGIN, ER_ACCOUNT_HAS_BEEN_LOCKED,
/// ER_USER_ACCESS_DENIED_FOR_USER_ACCOUNT_BLOCKED_BY_PASSWORD_LOCK.
/// <https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html>
const ACCESS_DENIED: [u16; 5] = [1045, 1698, 1862, 3118, 3955];

/// ER_CON_COUNT_ERROR, ER_SERVER_SHUTDOWN, ER_HOST_IS_BLOCKED, ER_HOST_NOT_PRIVILEGED, ER_TOO_MANY_USER_CONNECTIONS,
/// ER_USER_LIMIT_REACHED, ER_SERVER_OFFLINE_MODE.
const BUSY_OR_CLOSED: [u16; 7] = [1040, 1053, 1129, 1130, 1203, 1226, 3032];

/// Logs in to servers. One for the whole process, so that TLS sessions are resumed.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    /// None when TLS is disabled.
    tls: Option<Initiator>,
    tls_is_needed: bool,
    timeout: Duration,
}

impl Connector {
    /// `timeout` is for a whole login, from the name's lookup to the server's OK.
    ///
    /// # Errors
    /// When the CA's file cannot be read or used.
    pub(crate) fn new(tls: &ServerTls, timeout: Duration) -> Result<Self, TlsError> {
        let own = tls.certificate.as_ref().map(|files| PemFiles::new(&files.certificate, &files.key));
        let initiator = |verify| Initiator::new(verify, tls.ca.as_deref(), own.as_ref()).map(Some);
        let (initiator, tls_is_needed) = match tls.mode {
            TlsMode::Disabled => (None, false),
            TlsMode::Preferred => (initiator(Verify::Nothing)?, false),
            TlsMode::Required => (initiator(Verify::Nothing)?, true),
            TlsMode::VerifyCa => (initiator(Verify::Chain)?, true),
            TlsMode::VerifyIdentity => (initiator(Verify::ChainAndName)?, true),
        };
        Ok(Self { tls: initiator, tls_is_needed, timeout })
    }

    /// What a whole login may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects and logs in.
    ///
    /// Cancel safety: a cancelled call closes its connection.
    pub(crate) async fn connect(&self, request: Request<'_>) -> Result<Connected, ConnectError> {
        let attempt = Box::pin(async { self.log_in(open(request.address).await?, request).await });
        tokio::time::timeout(self.timeout, attempt).await.unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn log_in(&self, stream: Stream, request: Request<'_>) -> Result<Connected, ConnectError> {
        let mut login = Login { stream, inbox: Inbox::default(), sequence: 0 };
        let packet = login.read().await?;
        let greeting = Greeting::parse(&packet.payload).map_err(ConnectError::Broken)?;
        if !greeting.capabilities.contains(NEEDED) {
            return Err(ConnectError::TooOld);
        }
        let capabilities = ((request.capabilities - OWN) | ALWAYS) & greeting.capabilities;
        let collation = u8::try_from(request.collation).unwrap_or(UTF8MB4);
        let mut flags = capabilities;
        if request.schema.is_some() {
            flags |= Capabilities::CONNECT_WITH_DB;
        }
        if let Some(initiator) = self.tls_for(&login.stream, &greeting)? {
            flags |= Capabilities::SSL;
            login.write(&encode_ssl_request(flags, MAX_RESULT_PACKET, collation)).await?;
            login = login.encrypt(initiator, &request.address.host).await?;
        }

        let password = request.credentials.password();
        // A plugin that we do not know makes no difference yet: the server says which one the user has.
        let plugin = Plugin::from_name(greeting.plugin.as_bytes()).unwrap_or(Plugin::CachingSha2);
        let response = HandshakeResponse {
            capabilities: flags,
            max_packet: MAX_RESULT_PACKET,
            collation,
            user: request.credentials.user.as_bytes().to_vec(),
            answer: login.first_answer(plugin, password, &greeting.nonce)?,
            schema: request.schema.map(<[u8]>::to_vec),
            plugin: Some(plugin.name().as_bytes().to_vec()),
            attributes: request.attributes.with(PROXY_ATTRIBUTE, PROXY_NAME),
            zstd_level: None,
        };
        login.write(&Zeroizing::new(response.encode())).await?;
        login.authenticate(plugin, greeting.nonce, password).await?;
        let version = Version::parse(&greeting.server_version);
        Ok(Connected { stream: login.finish(), capabilities, thread_id: greeting.thread_id, version })
    }

    /// What to start TLS with, if it shall be started. A Unix socket needs none: nobody can listen in on it.
    fn tls_for(&self, stream: &Stream, greeting: &Greeting) -> Result<Option<&Initiator>, ConnectError> {
        match &self.tls {
            Some(initiator) if !stream.is_secure() => {
                match (greeting.capabilities.contains(Capabilities::SSL), self.tls_is_needed) {
                    (true, _) => Ok(Some(initiator)),
                    (false, true) => Err(ConnectError::NoTls),
                    (false, false) => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }
}

async fn open(address: &Address) -> Result<Stream, ConnectError> {
    if address.host.starts_with('/') {
        let socket = UnixStream::connect(&*address.host).await;
        return socket.map(Stream::unix).map_err(ConnectError::Unreachable);
    }
    let socket = TcpStream::connect((&*address.host, address.port)).await;
    let socket = socket.map_err(ConnectError::Unreachable)?;
    tune(&socket).map_err(ConnectError::Unreachable)?;
    Ok(Stream::tcp(socket))
}

/// A login under way.
struct Login {
    stream: Stream,
    inbox: Inbox,
    /// Number of the packet that comes next, from either side.
    sequence: u8,
}

impl Login {
    /// The next packet; an ERR packet is an error.
    async fn read(&mut self) -> Result<Packet, ConnectError> {
        let packet = self.inbox.packet(&mut self.stream, MAX_PACKET).await.map_err(ConnectError::Broken)?;
        // Before the check of numbers: a server that has no room for us says so with any number.
        if packet.payload.first() == Some(&ERR) {
            return Err(match ErrPacket::parse(&packet.payload) {
                Some(error) => ConnectError::Refused(error),
                None => ConnectError::Protocol("an ERR packet without a code"),
            });
        }
        if packet.sequence != self.sequence {
            let error = WireError::OutOfOrder { expected: self.sequence, found: packet.sequence };
            return Err(ConnectError::Broken(error));
        }
        self.sequence = packet.sequence.wrapping_add(1);
        Ok(packet)
    }

    async fn write(&mut self, payload: &[u8]) -> Result<(), ConnectError> {
        let written = write_packet(&mut self.stream, self.sequence, payload).await;
        self.sequence = written.map_err(ConnectError::Broken)?;
        Ok(())
    }

    async fn encrypt(self, initiator: &Initiator, host: &str) -> Result<Self, ConnectError> {
        // Bytes from before TLS must not be read as if they had come encrypted.
        if !self.inbox.leftover().is_empty() {
            return Err(ConnectError::Protocol("it spoke out of turn before TLS"));
        }
        let stream = self.stream.start_tls(initiator, host).await.map_err(ConnectError::Tls)?;
        Ok(Self { stream, ..self })
    }

    /// Follows the server through its plugins until OK.
    async fn authenticate(
        &mut self,
        plugin: Plugin,
        nonce: Nonce,
        password: &[u8],
    ) -> Result<(), ConnectError> {
        let (mut plugin, mut nonce, mut long_nonce) = (plugin, nonce, None);
        for _ in 0..MAX_STEPS {
            let packet = self.read().await?;
            match packet.payload.split_first() {
                Some((&OK, _)) => return Ok(()),
                Some((&EOF, _)) => {
                    let switch = AuthSwitch::parse(&packet.payload).map_err(ConnectError::Broken)?;
                    plugin = Plugin::from_name(switch.plugin.as_bytes())
                        .ok_or(ConnectError::UnknownPlugin(switch.plugin))?;
                    nonce = switch.nonce.unwrap_or(nonce);
                    long_nonce = switch.long_nonce;
                    let answer = match long_nonce {
                        Some(nonce) if plugin == Plugin::Ed25519 => {
                            Answer::new(answer_ed25519(password, &nonce))
                        }
                        _ => self.first_answer(plugin, password, &nonce)?,
                    };
                    self.write(&answer.0).await?;
                }
                Some((&AUTH_MORE_DATA, salt)) if plugin == Plugin::Parsec => {
                    let nonce = long_nonce.ok_or(ConnectError::Protocol("parsec without a nonce"))?;
                    let answer = answer_parsec(password, &nonce, salt).map_err(ConnectError::Crypto)?;
                    self.write(&answer).await?;
                }
                Some((&AUTH_MORE_DATA, data)) => self.more(plugin, data, password, &nonce).await?,
                _ => return Err(ConnectError::Protocol("it sent what does not belong into a login")),
            }
        }
        Err(ConnectError::Protocol("its login has no end"))
    }

    /// What a plugin says first.
    fn first_answer(&self, plugin: Plugin, password: &[u8], nonce: &Nonce) -> Result<Answer, ConnectError> {
        match plugin {
            Plugin::CachingSha2 if password.is_empty() => Ok(Answer::new(vec![0])),
            Plugin::CachingSha2 => Ok(Answer::new(answer_caching_sha2(password, nonce))),
            Plugin::Native => Ok(Answer::new(answer_native(password, nonce))),
            Plugin::Sha256 | Plugin::Clear if self.stream.is_tls() => Ok(Answer(with_nul(password))),
            Plugin::Sha256 if password.is_empty() => Ok(Answer::new(vec![0])),
            Plugin::Sha256 => Ok(Answer::new(vec![REQUEST_PUBLIC_KEY_SHA256])),
            Plugin::Clear => Err(ConnectError::Insecure),
            // It asks with a salt, when it has heard that we are here.
            Plugin::Parsec => Ok(Answer::default()),
            Plugin::Ed25519 => Err(ConnectError::Protocol("ed25519 without a nonce")),
        }
    }

    /// What a plugin says to data from the server.
    async fn more(
        &mut self,
        plugin: Plugin,
        data: &[u8],
        password: &[u8],
        nonce: &Nonce,
    ) -> Result<(), ConnectError> {
        match (plugin, data) {
            (Plugin::CachingSha2, [FAST_AUTH_SUCCESS]) => Ok(()),
            (Plugin::CachingSha2, [FULL_AUTHENTICATION]) if self.stream.is_secure() => {
                self.write(&with_nul(password)).await
            }
            (Plugin::CachingSha2, [FULL_AUTHENTICATION]) => self.write(&[REQUEST_PUBLIC_KEY]).await,
            (Plugin::CachingSha2 | Plugin::Sha256, key) => {
                let sent = encrypt_password(key, password, nonce).map_err(ConnectError::Crypto)?;
                self.write(&sent).await
            }
            _ => Err(ConnectError::Protocol("this plugin has no more to say")),
        }
    }

    fn finish(self) -> Stream {
        let mut stream = self.stream;
        stream.unread(self.inbox.leftover());
        stream
    }
}

fn with_nul(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(password.len() + 1));
    bytes.extend_from_slice(password);
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::wire::packet::push_packet;

    /// What a server sends, packet by packet with the right numbers, and what becomes of the login.
    async fn against(packets: &[&[u8]], tail: &[u8], tls: bool) -> Result<Connected, ConnectError> {
        let mode = if tls { TlsMode::Required } else { TlsMode::Disabled };
        let connector =
            Connector::new(&ServerTls { mode, ca: None, certificate: None }, Duration::from_secs(60))
                .expect("no CA");
        let (near, far) = if tls {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let connect = TcpStream::connect(listener.local_addr().expect("bound"));
            let (near, far) = tokio::join!(connect, listener.accept());
            (Stream::tcp(near.expect("connected")), Stream::tcp(far.expect("accepted").0))
        } else {
            let (near, far) = UnixStream::pair().expect("a socket pair");
            (Stream::unix(near), Stream::unix(far))
        };
        let server = async move {
            let mut far = far;
            let mut bytes = Vec::new();
            for (number, packet) in packets.iter().enumerate() {
                // The client's packets have the numbers between.
                push_packet(&mut bytes, 2 * number as u8, packet);
            }
            bytes.extend_from_slice(tail);
            far.write_all(&bytes).await.ok();
            far.shutdown().await.ok();
            let mut sink = Vec::new();
            far.read_to_end(&mut sink).await.ok();
            std::future::pending::<()>().await;
        };
        let credentials = Credentials::new("ann", b"secret");
        let attributes = Attributes::default();
        let request = Request {
            address: &Address { host: "localhost".into(), port: 1 },
            credentials: &credentials,
            capabilities: Capabilities::NONE,
            collation: 255,
            schema: None,
            attributes: &attributes,
        };
        let client = async move { connector.log_in(near, request).await };
        let both = async {
            tokio::select! {
                outcome = client => outcome,
                () = server => unreachable!("it waits until the client has ended"),
            }
        };
        Box::pin(both).await
    }

    fn greeting(capabilities: Capabilities, plugin: &str) -> Vec<u8> {
        let (server_version, plugin) = ("8.4.0".to_owned(), plugin.to_owned());
        let nonce = Nonce([7; Nonce::LENGTH]);
        Greeting { server_version, thread_id: 9, nonce, capabilities, collation: 255, status: 2, plugin }
            .encode()
    }

    const ALL: Capabilities = Capabilities(u32::MAX);
    const OKAY: &[u8] = b"\0\0\0\x02\0\0\0";

    #[tokio::test]
    async fn servers_of_every_kind() {
        let sha2 = greeting(ALL, "caching_sha2_password");
        let native = greeting(ALL, "mysql_native_password");
        let exotic = greeting(ALL, "authentication_ldap_sasl_client");
        let old = greeting(ALL.without(Capabilities::PLUGIN_AUTH), "");
        let no_tls = greeting(ALL.without(Capabilities::SSL), "caching_sha2_password");
        let cases: &[(&[&[u8]], bool, &str)] = &[
            (&[&sha2, OKAY], false, ""),
            (&[&native, OKAY], false, ""),
            (&[&exotic, OKAY], false, ""),
            (&[&sha2, b"\xfemysql_native_password\0abcdefghijklmnopqrst\0", OKAY], false, ""),
            (&[&sha2, b"\x01\x04", OKAY], false, ""),
            (&[b"\xff\x10\x04Too many connections"], false, "the server refused: ERROR 1040"),
            (&[b"\xff\x6a\x04Host is not allowed"], false, "the server refused: ERROR 1130"),
            (&[b"\xff"], false, "the server does not keep to the protocol: an ERR packet without a code"),
            (&[&sha2, b"\xff\x15\x04#28000no"], false, "the server refused: ERROR 1045 (28000): no"),
            (&[&old], false, "the server offers no login that is known here"),
            (&[&no_tls], true, "the server offers no TLS"),
            (
                &[&sha2, b"unencrypted"],
                true,
                "the server does not keep to the protocol: it spoke out of turn",
            ),
            (&[&sha2, b"\xfedialog\0x"], false, "the server wants the authentication plugin `dialog`"),
            (&[&sha2, b"\xfeclient_ed25519\0abcdefghijklmnopqrstuvwxyzABCDEF", OKAY], false, ""),
            (
                &[&sha2, b"\xfeclient_ed25519\0short"],
                false,
                "the server does not keep to the protocol: ed25519",
            ),
            (
                &[&sha2, b"\xfeparsec\0abcdefghijklmnopqrstuvwxyzABCDEF", b"\x01P\0abcdefghijklmnopqr", OKAY],
                false,
                "",
            ),
            (
                &[&sha2, b"\xfeparsec\0abcdefghijklmnopqrstuvwxyzABCDEF", b"\x01P\x0babc"],
                false,
                "the password could",
            ),
            (
                &[&sha2, b"\xfeparsec\0short", b"\x01P\0abc"],
                false,
                "the server does not keep to the protocol: parsec",
            ),
            (&[&sha2, b"\xfe"], false, "the server wants the authentication plugin ``"),
            (&[&sha2, b"\xfemysql_clear_password\0"], false, "the server wants the password in the clear"),
            (&[&sha2, b"\x01no key"], false, "the password could not be encrypted"),
            (&[&native, b"\x01\x04"], false, "the server does not keep to the protocol: this plugin"),
            (&[&sha2, b"SELECT"], false, "the server does not keep to the protocol: it sent what"),
            (&[&sha2, b""], false, "the server does not keep to the protocol: it sent what"),
            (&[&sha2], false, "the server broke off the login"),
            (&[], false, "the server broke off the login"),
            (&[b"\x09old"], false, "the server broke off the login"),
        ];
        for (packets, tls, expected) in cases {
            match against(packets, b"", *tls).await {
                Ok(connected) => {
                    assert_eq!(*expected, "", "{packets:?}");
                    assert_eq!((connected.thread_id, connected.capabilities), (9, ALWAYS));
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(!expected.is_empty() && error.starts_with(expected), "{packets:?}: {error}");
                }
            }
        }
        let mut early = against(&[&sha2, OKAY], b"early", false).await.expect("a login").stream;
        let mut bytes = [0; 5];
        early.read_exact(&mut bytes).await.expect("what came early is not lost");
        assert_eq!(&bytes, b"early");
    }

    #[tokio::test]
    async fn no_login_without_end() {
        let sha2 = greeting(ALL, "caching_sha2_password");
        let switch = b"\xfemysql_native_password\0abcdefghijklmnopqrst\0";
        let mut packets = vec![sha2.as_slice()];
        packets.extend([switch.as_slice(); 50]);
        let error = against(&packets, b"", false).await.expect_err("it never ends").to_string();
        assert_eq!(error, "the server does not keep to the protocol: its login has no end");
    }

    proptest! {
        /// Whatever a server sends, at once or after a good greeting, the login ends and nothing panics.
        #[test]
        fn servers_that_send_anything(packets: Vec<Vec<u8>>, tail: Vec<u8>, polite: bool) {
            let greeting = greeting(ALL, "caching_sha2_password");
            let greeting = polite.then_some(greeting.as_slice());
            let packets: Vec<&[u8]> = greeting.into_iter().chain(packets.iter().map(Vec::as_slice)).take(20).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let login = against(&packets, &tail, false);
                tokio::time::timeout(Duration::from_secs(60), login).await.expect("an end").ok();
            });
        }
    }
}
