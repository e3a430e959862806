//! Logs clients in: greeting, TLS, proof of the password, change of user. Keeps nothing of a login but what the session
//! needs. Whether a user may log in is always a server's word; a proof alone never lets anybody in.

use std::future::Future;
use std::io;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::backend::connect::{ConnectError, Credentials, OWN, is_access_denied};
use crate::model::settings::Beginning;
use crate::wire::auth::{
    CryptoError, FAST_AUTH_SUCCESS, FULL_AUTHENTICATION, Nonce, Plugin, REQUEST_PUBLIC_KEY, RsaKey,
    is_empty_answer, is_right,
};
use crate::wire::compress::{Algorithm, ZstdLevel};
use crate::wire::flags::Capabilities;
use crate::wire::handshake::{
    AUTH_MORE_DATA, Answer, Attributes, AuthSwitch, ChangeUser, Greeting, HandshakeResponse, MAX_AUTH_PACKET,
    MAX_PACKET, is_impermissible, is_too_old, parse_ssl_request,
};
use crate::wire::packet::{ErrPacket, Inbox, Packet, WireError, push_packet, write_all};
use crate::wire::response::{self, status};
use crate::wire::stream::{Peer, Stream};
use crate::wire::tls::{Acceptor, TlsError};

use super::reply;
use super::users::{Known, Manner, Users};

/// What all logins share.
pub(crate) struct LoginContext {
    /// None when clients are offered no TLS.
    pub(crate) tls: Option<Acceptor>,
    /// Clients over plain TCP are refused.
    pub(crate) tls_is_needed: bool,
    /// Clients over TCP that show no certificate are refused.
    pub(crate) certificate_is_needed: bool,
    pub(crate) rsa: RsaKey,
    pub(crate) users: Users,
}

/// How we introduce ourselves to one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Introduction<'a> {
    /// Such as `9.7.4-readwright`; drivers choose by it what they dare to do.
    pub(crate) server_version: &'a str,
    /// What the primary offers; we offer no more than that, and no more than [`RELAYED`] and [`COMPRESSION`].
    pub(crate) server_capabilities: Capabilities,
    /// The server's default collation.
    pub(crate) collation: u8,
    /// What the client has to name in KILL.
    pub(crate) connection_id: u32,
}

/// A client that a server would let in. Its OK is written.
#[derive(Debug)]
pub(crate) struct LoggedIn {
    pub(crate) stream: Stream,
    /// What the client asked for and we offered.
    pub(crate) capabilities: Capabilities,
    pub(crate) identity: Claimed,
}

/// As whom and how a client logged in, or changed to.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) schema: Option<Vec<u8>>,
    pub(crate) collation: u16,
    pub(crate) attributes: Attributes,
    /// What the server that was asked gives such a session.
    pub(crate) beginning: Arc<Beginning>,
    /// The last that the client was given, to which its change of user may answer.
    pub(crate) nonce: Nonce,
}

/// Asks a server whether it lets somebody in.
pub(crate) trait Check {
    /// Logs in at a server with exactly these; what a session begins with there.
    fn check(
        &self,
        login: ServerLogin<'_>,
    ) -> impl Future<Output = Result<Arc<Beginning>, CheckError>> + Send;
}

/// One login for a server to judge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLogin<'a> {
    pub(crate) credentials: &'a Arc<Credentials>,
    pub(crate) capabilities: Capabilities,
    pub(crate) collation: u16,
    pub(crate) schema: Option<&'a [u8]>,
    pub(crate) attributes: &'a Attributes,
}

impl ServerLogin<'_> {
    fn manner(&self) -> Manner<'_> {
        Manner { schema: self.schema, collation: self.collation, capabilities: self.capabilities }
    }
}

/// Why a server did not let somebody in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// The server said so, in these words; the client reads them unchanged.
    #[error("{0}")]
    Refused(ErrPacket),
    /// No server could be asked, for this reason.
    #[error("no server could be asked: {0}")]
    Unavailable(String),
}

impl From<ConnectError> for CheckError {
    fn from(error: ConnectError) -> Self {
        match error.server_error() {
            Some(refused) => Self::Refused(refused.clone()),
            None => Self::Unavailable(with_causes(&error)),
        }
    }
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// Why a client is not logged in. It has been told, where it can be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("the client left before it said anything")]
    NothingSaid,
    #[error("the login broke off: {}", with_causes(.0))]
    Broken(WireError),
    #[error("TLS with the client failed: {}", with_causes(.0))]
    Tls(TlsError),
    #[error("refused: {0}")]
    Refused(ErrPacket),
    #[error("no login is possible: {0}")]
    Crypto(CryptoError),
}

impl LoginError {
    /// False for what health checks do all day: connect and close.
    pub(crate) fn is_noteworthy(&self) -> bool {
        !matches!(self, Self::NothingSaid)
    }
}

/// The compressed protocol ends here: towards servers nothing is compressed.
pub(crate) const COMPRESSION: Capabilities = Capabilities::COMPRESS.with(Capabilities::ZSTD);

/// Everything that the relay passes on.
pub(crate) const RELAYED: Capabilities = Capabilities::LONG_PASSWORD
    .with(Capabilities::FOUND_ROWS)
    .with(Capabilities::LONG_FLAG)
    .with(Capabilities::CONNECT_WITH_DB)
    .with(Capabilities::NO_SCHEMA)
    .with(Capabilities::ODBC)
    .with(Capabilities::LOCAL_FILES)
    .with(Capabilities::IGNORE_SPACE)
    .with(Capabilities::PROTOCOL_41)
    .with(Capabilities::INTERACTIVE)
    .with(Capabilities::IGNORE_SIGPIPE)
    .with(Capabilities::TRANSACTIONS)
    .with(Capabilities::RESERVED)
    .with(Capabilities::SECURE_CONNECTION)
    .with(Capabilities::MULTI_STATEMENTS)
    .with(Capabilities::MULTI_RESULTS)
    .with(Capabilities::PS_MULTI_RESULTS)
    .with(Capabilities::PLUGIN_AUTH)
    .with(Capabilities::CONNECT_ATTRS)
    .with(Capabilities::PLUGIN_AUTH_LENENC)
    .with(Capabilities::CAN_HANDLE_EXPIRED_PASSWORDS)
    .with(Capabilities::SESSION_TRACK)
    .with(Capabilities::DEPRECATE_EOF)
    .with(Capabilities::OPTIONAL_RESULTSET_METADATA)
    .with(Capabilities::QUERY_ATTRIBUTES);

/// The connection attribute that says on a server whom a load balancer brought.
const CLIENT_ATTRIBUTE: &str = "_client_address";

/// Greets a client and logs it in. For a client whose user a server confirmed lately this is one write, one receive and
/// one write. The deadline is the caller's.
///
/// Cancel safety: a cancelled call closes the connection.
pub(crate) async fn login(
    mut stream: Stream,
    context: &LoginContext,
    introduction: Introduction<'_>,
    check: &impl Check,
) -> Result<LoggedIn, LoginError> {
    let nonce = Nonce::random().map_err(LoginError::Crypto)?;
    let mut offered = (RELAYED | COMPRESSION) & introduction.server_capabilities;
    if context.tls.is_some() {
        offered |= Capabilities::SSL;
    }
    let greeting = Greeting {
        server_version: introduction.server_version.to_owned(),
        thread_id: introduction.connection_id,
        nonce,
        capabilities: offered,
        collation: introduction.collation,
        status: status::AUTOCOMMIT,
        plugin: Plugin::CachingSha2.name().to_owned(),
    };
    // Until it has said what it can, servers take a client for one of today's.
    let mut talk = Conversation::new(&mut stream, Capabilities::PROTOCOL_41, nonce);
    talk.write(&[&greeting.encode()]).await?;
    let mut packet = match talk.read(MAX_PACKET).await {
        Err(error) if error.is_silence() => Err(LoginError::NothingSaid),
        other => other,
    }?;

    if let (Some(acceptor), Some(_)) = (&context.tls, parse_ssl_request(&packet.payload)) {
        let sequence = talk.sequence;
        talk.finish();
        stream = stream.accept_tls(acceptor).await.map_err(LoginError::Tls)?;
        talk = Conversation::new(&mut stream, Capabilities::PROTOCOL_41, nonce);
        talk.sequence = sequence;
        packet = talk.read(MAX_PACKET).await?;
    }

    let response = talk.understand(&packet.payload).await?;
    talk.capabilities = response.capabilities;
    if context.tls_is_needed && !talk.stream.is_secure() {
        return Err(talk.refuse(insecure_transport()).await);
    }
    // Over a Unix socket there is no TLS to show one in; who may open it is for its folder to say.
    if context.certificate_is_needed && !talk.stream.shows_certificate() && !talk.stream.is_local() {
        return Err(talk.refuse(no_certificate()).await);
    }
    let agreed = response.capabilities & offered;
    let compression = match choose_compression(agreed, response.zstd_level) {
        Ok(compression) => compression,
        Err(error) => return Err(talk.refuse(error).await),
    };
    let capabilities = agreed - OWN;
    let attributes = match talk.stream.brought() {
        Some(client) => response.attributes.with(CLIENT_ATTRIBUTE, client.to_string().as_bytes()),
        None => response.attributes,
    };
    let claim = Claim {
        user: response.user,
        plugin: response.plugin,
        nonce: Some(nonce),
        answer: response.answer,
        capabilities,
        collation: u16::from(response.collation),
        schema: response.schema,
        attributes,
    };
    let identity = talk.admit(context, claim, check).await?;
    talk.finish();
    if let Some(algorithm) = compression {
        stream = stream.compressed(algorithm);
    }
    Ok(LoggedIn { stream, capabilities, identity })
}

/// Serves COM_CHANGE_USER. `packet` is its payload with the first byte; `capabilities` and `collation` are the session's,
/// `nonce` is the last that the client was given. After an error the connection must be closed, as servers do.
///
/// Cancel safety: none; the connection must be closed.
pub(crate) async fn change_user(
    stream: &mut Stream,
    packet: &[u8],
    capabilities: Capabilities,
    collation: u16,
    nonce: Nonce,
    context: &LoginContext,
    check: &impl Check,
) -> Result<Claimed, LoginError> {
    let mut talk = Conversation::new(stream, capabilities, nonce);
    talk.sequence = 1;
    let request = ChangeUser::parse(packet.get(1..).unwrap_or_default(), capabilities);
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            talk.refuse(reply::unknown_command()).await;
            return Err(LoginError::Broken(error));
        }
    };
    let claim = Claim {
        user: request.user,
        plugin: request.plugin,
        // The last one was answered already, so there is a new one; but see `prove_natively`.
        nonce: None,
        answer: request.answer,
        capabilities,
        collation: request.collation.filter(|collation| *collation != 0).unwrap_or(collation),
        schema: request.schema,
        attributes: request.attributes,
    };
    let identity = talk.admit(context, claim, check).await?;
    talk.finish();
    Ok(identity)
}

/// As servers choose: zlib before zstd where the client takes both.
fn choose_compression(agreed: Capabilities, zstd_level: Option<u8>) -> Result<Option<Algorithm>, ErrPacket> {
    if agreed.contains(Capabilities::COMPRESS) {
        return Ok(Some(Algorithm::Zlib));
    }
    if !agreed.contains(Capabilities::ZSTD) {
        return Ok(None);
    }
    let level = zstd_level.and_then(ZstdLevel::new).ok_or_else(wrong_compression_level)?;
    Ok(Some(Algorithm::Zstd(level)))
}

/// Who a client says it is.
struct Claim {
    user: Vec<u8>,
    plugin: Option<Vec<u8>>,
    /// What `answer` answers; None when it answers nothing that counts.
    nonce: Option<Nonce>,
    answer: Answer,
    capabilities: Capabilities,
    collation: u16,
    schema: Option<Vec<u8>>,
    attributes: Attributes,
}

impl Claim {
    fn at_server<'a>(
        &'a self,
        credentials: &'a Arc<Credentials>,
        schema: Option<&'a [u8]>,
    ) -> ServerLogin<'a> {
        ServerLogin {
            credentials,
            capabilities: self.capabilities,
            collation: self.collation,
            schema,
            attributes: &self.attributes,
        }
    }
}

/// What a client proved.
enum Proof {
    /// That it knows the password that is known here. `Plugin` says how.
    Known(Arc<Known>, Plugin),
    /// Nothing, but it says this is its password.
    Password(Zeroizing<Vec<u8>>),
}

/// The exchange with one client, until its OK.
struct Conversation<'a> {
    stream: &'a mut Stream,
    inbox: Inbox,
    /// Number of the packet that comes next, from either side.
    sequence: u8,
    /// What the client said it can; nothing until it did.
    capabilities: Capabilities,
    /// The last that the client was given.
    nonce: Nonce,
}

impl<'a> Conversation<'a> {
    fn new(stream: &'a mut Stream, capabilities: Capabilities, nonce: Nonce) -> Self {
        Self { stream, inbox: Inbox::default(), sequence: 0, capabilities, nonce }
    }

    /// Lets the client in, and says so, or not.
    async fn admit(
        &mut self,
        context: &LoginContext,
        claim: Claim,
        check: &impl Check,
    ) -> Result<Claimed, LoginError> {
        let Ok(user) = str::from_utf8(&claim.user) else {
            return Err(self.refuse(user_is_not_utf8()).await);
        };
        let proof = self.prove(context, user, &claim, check).await?;
        let fast = matches!(&proof, Proof::Known(known, Plugin::CachingSha2)
            if !known.credentials.password().is_empty());
        let credentials = match proof {
            Proof::Known(known, _) => known.credentials.clone(),
            Proof::Password(password) => Arc::new(Credentials::new(user, &password)),
        };
        let login = claim.at_server(&credentials, claim.schema.as_deref());
        let beginning = match confirm(&context.users, login, check).await {
            Ok(beginning) => beginning,
            Err(error) => return Err(self.refuse(wording(error)).await),
        };
        let schema =
            claim.schema.as_deref().filter(|_| claim.capabilities.contains(Capabilities::SESSION_TRACK));
        let ok = response::Ok { status: status::AUTOCOMMIT, ..response::Ok::default() };
        let ok = schema
            .map_or_else(|| response::encode_ok(ok), |schema| response::encode_ok_with_schema(ok, schema));
        if fast {
            self.write(&[&[AUTH_MORE_DATA, FAST_AUTH_SUCCESS], &ok]).await?;
        } else {
            self.write(&[&ok]).await?;
        }
        // The one that is remembered, so that all sessions of a user share it.
        let credentials = match context.users.find(user) {
            Some(known) if known.is_same(&credentials) => Arc::clone(&known.credentials),
            _ => credentials,
        };
        Ok(Claimed {
            credentials,
            schema: claim.schema,
            collation: claim.collation,
            attributes: claim.attributes,
            beginning,
            nonce: self.nonce,
        })
    }

    /// Brings the client to prove that it knows the password, or to tell it.
    async fn prove(
        &mut self,
        context: &LoginContext,
        user: &str,
        claim: &Claim,
        check: &impl Check,
    ) -> Result<Proof, LoginError> {
        let known = context.users.find(user);
        let can_switch = self.capabilities.contains(Capabilities::PLUGIN_AUTH);
        let plugin = match &claim.plugin {
            Some(name) => Plugin::from_name(name),
            None if can_switch => None,
            // Before there were plugins, this was the way.
            None => Some(Plugin::Native),
        };
        if let (Some(Plugin::Native), Some(known)) = (plugin, &known)
            && let Some(proof) = self.prove_natively(context, known, claim, check).await?
        {
            return Ok(proof);
        }
        let (nonce, answer) = match claim.nonce {
            Some(nonce) if plugin == Some(Plugin::CachingSha2) => (nonce, claim.answer.clone()),
            _ if can_switch => self.switch(Plugin::CachingSha2).await?,
            _ if is_empty_answer(&claim.answer.0) => return Ok(Proof::Password(Zeroizing::default())),
            // It cannot tell us its password.
            _ => return Err(self.refuse(cannot_authenticate()).await),
        };
        if let Some(known) = known
            && is_right(Plugin::CachingSha2, known.credentials.password(), &nonce, &answer.0)
        {
            return Ok(Proof::Known(known, Plugin::CachingSha2));
        }
        if is_empty_answer(&answer.0) {
            return Ok(Proof::Password(Zeroizing::default()));
        }
        match self.ask_password(&context.rsa, &nonce).await? {
            Some(password) => Ok(Proof::Password(password)),
            None => Err(self.deny(user).await),
        }
    }

    /// mysql_native_password, whose answers prove a password that is known, and nothing else. None when what is known is
    /// outdated, and the client may be asked in another way.
    async fn prove_natively(
        &mut self,
        context: &LoginContext,
        known: &Arc<Known>,
        claim: &Claim,
        check: &impl Check,
    ) -> Result<Option<Proof>, LoginError> {
        let is_right = |nonce: &Nonce, answer: &Answer| {
            is_right(Plugin::Native, known.credentials.password(), nonce, &answer.0)
        };
        let proof = || Ok(Some(Proof::Known(Arc::clone(known), Plugin::Native)));
        // In a change of user, too: servers give no new nonce for it, and MariaDB's clients read none.
        if is_right(&self.nonce, &claim.answer) {
            return proof();
        }
        // Many clients wait for a nonce that is meant for their plugin before they answer.
        let waits = claim.nonce.is_none() || is_empty_answer(&claim.answer.0);
        let switched = waits && self.capabilities.contains(Capabilities::PLUGIN_AUTH);
        if switched {
            let (nonce, answer) = self.switch(Plugin::Native).await?;
            if is_right(&nonce, &answer) {
                return proof();
            }
        }
        // Either the client is wrong, or we are, because the password was changed past us.
        let checked = ask(&context.users, claim.at_server(&known.credentials, None), check).await;
        match checked {
            Ok(_) => Err(self.deny(&known.credentials.user).await),
            // Many clients stand one switch only; this one is asked in another way when it comes again.
            Err(CheckError::Refused(error)) if is_access_denied(&error) && switched => {
                Err(self.deny(&known.credentials.user).await)
            }
            Err(CheckError::Refused(error)) if is_access_denied(&error) => Ok(None),
            Err(error) => Err(self.refuse(wording(error)).await),
        }
    }

    /// Refuses a wrong password without a server's words.
    async fn deny(&mut self, user: &str) -> LoginError {
        let host = match self.stream.peer() {
            Peer::Tcp(address) => address.ip().to_string(),
            Peer::Unix | Peer::Unknown => "localhost".to_owned(),
        };
        let text = format!("Access denied for user '{user}'@'{host}' (using password: YES)");
        self.refuse(ErrPacket::new(1045, "28000", text)).await
    }

    /// Asks for another plugin's answer to a new nonce.
    async fn switch(&mut self, plugin: Plugin) -> Result<(Nonce, Answer), LoginError> {
        let nonce = Nonce::random().map_err(LoginError::Crypto)?;
        let switch = AuthSwitch { plugin: plugin.name().to_owned(), nonce: Some(nonce), long_nonce: None };
        self.write(&[&switch.encode()]).await?;
        self.nonce = nonce;
        let answer = self.read(MAX_AUTH_PACKET).await?;
        Ok((nonce, Answer::new(answer.payload)))
    }

    /// The full form of caching_sha2_password: the password itself, over a connection that nobody reads along, else under
    /// our RSA key. None when what comes is no password.
    /// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_caching_sha2_authentication_exchanges.html>
    async fn ask_password(
        &mut self,
        rsa: &RsaKey,
        nonce: &Nonce,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, LoginError> {
        self.write(&[&[AUTH_MORE_DATA, FULL_AUTHENTICATION]]).await?;
        let mut sent = Zeroizing::new(self.read(MAX_AUTH_PACKET).await?.payload);
        if self.stream.is_secure() {
            // It ends with a zero byte.
            return Ok((sent.pop() == Some(0)).then_some(sent));
        }
        if *sent == [REQUEST_PUBLIC_KEY] {
            let key = [&[AUTH_MORE_DATA], rsa.public_pem().as_bytes()].concat();
            self.write(&[&key]).await?;
            sent = Zeroizing::new(self.read(MAX_AUTH_PACKET).await?.payload);
        }
        Ok(rsa.decrypt(&sent, nonce))
    }

    async fn understand(&mut self, payload: &[u8]) -> Result<HandshakeResponse, LoginError> {
        if is_too_old(payload) {
            // Who has no PROTOCOL_41 takes no SQLSTATE.
            self.capabilities = Capabilities::NONE;
            return Err(self.refuse(bad_handshake()).await);
        }
        match HandshakeResponse::parse(payload) {
            Ok(response) => Ok(response),
            Err(error) => Err(self.complain(error).await),
        }
    }

    /// The next packet from the client.
    async fn read(&mut self, limit: usize) -> Result<Packet, LoginError> {
        let packet = match self.inbox.packet(self.stream, limit).await {
            Ok(packet) => packet,
            Err(error) => return Err(self.complain(error).await),
        };
        if packet.sequence != self.sequence {
            let error = WireError::OutOfOrder { expected: self.sequence, found: packet.sequence };
            return Err(self.complain(error).await);
        }
        self.sequence = packet.sequence.wrapping_add(1);
        Ok(packet)
    }

    /// Writes all these packets at once.
    async fn write(&mut self, payloads: &[&[u8]]) -> Result<(), LoginError> {
        let mut bytes = Vec::with_capacity(128);
        for payload in payloads {
            self.sequence = push_packet(&mut bytes, self.sequence, payload);
        }
        write_all(self.stream, &bytes).await.map_err(LoginError::Broken)
    }

    /// Tells the client why it is not let in; that it may not read it changes nothing.
    async fn refuse(&mut self, error: ErrPacket) -> LoginError {
        let payload = error.encode(self.capabilities);
        self.write(&[&payload]).await.ok();
        LoginError::Refused(error)
    }

    /// As [`refuse`](Self::refuse), where the client broke the protocol and may still listen.
    async fn complain(&mut self, error: WireError) -> LoginError {
        if let Some(wording) = wording_of_break(&error) {
            self.refuse(wording).await;
        }
        LoginError::Broken(error)
    }

    /// Leaves what the client sent too early to whoever reads next.
    fn finish(self) {
        self.stream.unread(self.inbox.leftover());
    }
}

impl LoginError {
    /// True when the client closed the connection between packets.
    fn is_silence(&self) -> bool {
        match self {
            Self::Broken(WireError::Closed) => true,
            Self::Broken(WireError::Io(error)) => error.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        }
    }
}

/// Has a server's word that this login is right: an earlier one that is still good, or a new one.
async fn confirm(
    users: &Users,
    login: ServerLogin<'_>,
    check: &impl Check,
) -> Result<Arc<Beginning>, CheckError> {
    let known = users.find(&login.credentials.user).filter(|known| known.is_same(login.credentials));
    // A server refuses some character sets, in its own words.
    let confirmed = || {
        let known = known.as_ref().filter(|_| !is_impermissible(login.collation));
        known.and_then(|known| users.confirmed(known, login.manner()))
    };
    if let Some(beginning) = confirmed() {
        return Ok(beginning);
    }
    let _turn = match &known {
        Some(known) => Some(known.turn().await),
        None => None,
    };
    if let Some(beginning) = confirmed() {
        return Ok(beginning);
    }
    ask(users, login, check).await
}

/// Asks a server, and remembers what it says.
pub(super) async fn ask(
    users: &Users,
    login: ServerLogin<'_>,
    check: &impl Check,
) -> Result<Arc<Beginning>, CheckError> {
    let generation = users.generation();
    let checked = check.check(login).await;
    if let Err(CheckError::Refused(error)) = &checked
        && is_access_denied(error)
    {
        users.forget(login.credentials);
    }
    Ok(users.learn(login.credentials, login.manner(), checked?, generation))
}

/// What a client reads when a server does not let it in.
fn wording(error: CheckError) -> ErrPacket {
    match error {
        CheckError::Refused(error) => error,
        CheckError::Unavailable(reason) => {
            reply::unreachable(format!("readwright: no MySQL server could check this login: {reason}"))
        }
    }
}

/// What a client reads that does not keep to the protocol. None when it is gone.
fn wording_of_break(error: &WireError) -> Option<ErrPacket> {
    match error {
        WireError::Oversized { .. } => {
            Some(ErrPacket::new(1153, "08S01", "Got a packet bigger than a login may have"))
        }
        WireError::OutOfOrder { .. } => Some(ErrPacket::new(1156, "08S01", "Got packets out of order")),
        WireError::Malformed(_) => Some(bad_handshake()),
        WireError::Closed | WireError::CutOff | WireError::Io(_) => None,
    }
}

/// ER_HANDSHAKE_ERROR.
fn bad_handshake() -> ErrPacket {
    ErrPacket::new(1043, "08S01", "Bad handshake")
}

/// ER_NOT_SUPPORTED_AUTH_MODE.
fn cannot_authenticate() -> ErrPacket {
    let text = "Client does not support authentication protocol requested by server; consider upgrading MySQL client";
    ErrPacket::new(1251, "08004", text)
}

/// ER_SECURE_TRANSPORT_REQUIRED.
fn insecure_transport() -> ErrPacket {
    let text = "Connections using insecure transport are prohibited while --require_secure_transport=ON.";
    ErrPacket::new(3159, "HY000", text)
}

/// ER_WRONG_COMPRESSION_LEVEL_CLIENT.
fn wrong_compression_level() -> ErrPacket {
    ErrPacket::new(3923, "HY000", "Invalid zstd compression level for algorithm 'zstd'.")
}

fn no_certificate() -> ErrPacket {
    let text = "Access denied: readwright lets in only who shows a certificate (client_tls.mode)";
    ErrPacket::new(1045, "28000", text)
}

fn user_is_not_utf8() -> ErrPacket {
    ErrPacket::new(1045, "28000", "Access denied: the user name is not UTF-8, which readwright needs")
}

#[cfg(test)]
mod tests;
