//! The login of the admin port: one account, caching_sha2_password (or the older mysql_native_password for a client that
//! begins with it), TLS when the client asks. The password is known here, so no full authentication is ever needed.

use std::time::Duration;

use super::Door;
use crate::admin::command;
use crate::wire::auth::{self, CryptoError, Nonce, Plugin};
use crate::wire::flags::Capabilities;
use crate::wire::handshake::{
    self, AUTH_MORE_DATA, AuthSwitch, Greeting, HandshakeResponse, MAX_AUTH_PACKET, MAX_PACKET,
};
use crate::wire::packet::{self, ErrPacket, WireError};
use crate::wire::response;
use crate::wire::stream::Stream;
use crate::wire::tls::TlsError;

/// A connection that has logged in.
pub(super) struct Entered {
    pub(super) stream: Stream,
    /// What both sides agreed on.
    pub(super) capabilities: Capabilities,
}

/// Why nobody came in.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoginError {
    #[error("{0}")]
    Wire(#[source] WireError),
    #[error("{0}")]
    Tls(#[source] TlsError),
    #[error("{0}")]
    Crypto(#[source] CryptoError),
    #[error("a client without protocol 4.1")]
    TooOld,
    #[error("wrong user or password")]
    Denied,
}

/// Greets, and gives the connection back once the password was right. The deadline is the caller's.
pub(super) async fn login(mut stream: Stream, door: &Door) -> Result<Entered, LoginError> {
    let nonce = Nonce::random().map_err(LoginError::Crypto)?;
    let offered = if door.tls.is_some() { OFFERED | Capabilities::SSL } else { OFFERED };
    let greeting = Greeting {
        server_version: command::server_version(),
        thread_id: 0,
        nonce,
        capabilities: offered,
        collation: UTF8MB4,
        status: AUTOCOMMIT,
        plugin: Plugin::CachingSha2.name().to_owned(),
    };
    packet::write_packet(&mut stream, 0, &greeting.encode()).await.map_err(LoginError::Wire)?;
    let mut packet = packet::read_packet(&mut stream, MAX_PACKET).await.map_err(LoginError::Wire)?;
    if let Some(acceptor) = &door.tls
        && handshake::parse_ssl_request(&packet.payload).is_some()
    {
        stream = stream.accept_tls(acceptor).await.map_err(LoginError::Tls)?;
        packet = packet::read_packet(&mut stream, MAX_PACKET).await.map_err(LoginError::Wire)?;
    }
    if handshake::is_too_old(&packet.payload) {
        return Err(LoginError::TooOld);
    }
    let response = HandshakeResponse::parse(&packet.payload).map_err(LoginError::Wire)?;
    let capabilities = response.capabilities & offered;
    let (sequence, right) = prove(&mut stream, door, &nonce, &response, packet.sequence).await?;
    if right {
        let ok = response::Ok { affected_rows: 0, last_insert_id: 0, status: AUTOCOMMIT, warnings: 0 };
        packet::write_packet(&mut stream, sequence, &response::encode_ok(ok))
            .await
            .map_err(LoginError::Wire)?;
        return Ok(Entered { stream, capabilities });
    }
    // Guessing should be slow, and a wrong user look like a wrong password.
    tokio::time::sleep(AFTER_WRONG_PASSWORD).await;
    let user = String::from_utf8_lossy(&response.user);
    let message = format!("Access denied for user '{user}'@'{}' to the admin port", stream.peer());
    let denied = ErrPacket::new(ACCESS_DENIED, "28000", message).encode(capabilities);
    packet::write_packet(&mut stream, sequence, &denied).await.map_err(LoginError::Wire)?;
    Err(LoginError::Denied)
}

/// True when the client has shown that it knows the password; with the number of the next packet.
async fn prove(
    stream: &mut Stream,
    door: &Door,
    nonce: &Nonce,
    response: &HandshakeResponse,
    sequence: u8,
) -> Result<(u8, bool), LoginError> {
    let is_right = |plugin, answer: &[u8]| {
        response.user == door.account.user.as_bytes()
            && auth::is_right(plugin, door.account.password.reveal().as_bytes(), nonce, answer)
    };
    let plugin = response.plugin.as_deref().and_then(Plugin::from_name);
    match plugin {
        Some(Plugin::Native) => {
            return Ok((sequence.wrapping_add(1), is_right(Plugin::Native, &response.answer.0)));
        }
        Some(Plugin::CachingSha2) => {
            let right = is_right(Plugin::CachingSha2, &response.answer.0);
            return finish(stream, sequence.wrapping_add(1), right).await;
        }
        _ => {}
    }
    let switch =
        AuthSwitch { plugin: Plugin::CachingSha2.name().into(), nonce: Some(*nonce), long_nonce: None };
    packet::write_packet(stream, sequence.wrapping_add(1), &switch.encode())
        .await
        .map_err(LoginError::Wire)?;
    let answer = packet::read_packet(stream, MAX_AUTH_PACKET).await.map_err(LoginError::Wire)?;
    let right = is_right(Plugin::CachingSha2, &answer.payload);
    finish(stream, answer.sequence.wrapping_add(1), right).await
}

/// caching_sha2_password says that the answer was right before the OK packet says that the login is done.
async fn finish(stream: &mut Stream, sequence: u8, right: bool) -> Result<(u8, bool), LoginError> {
    if !right {
        return Ok((sequence, false));
    }
    let more = [AUTH_MORE_DATA, auth::FAST_AUTH_SUCCESS];
    let next = packet::write_packet(stream, sequence, &more).await.map_err(LoginError::Wire)?;
    Ok((next, true))
}

/// What the answers of `opensrv-mysql` can be, and no more.
const OFFERED: Capabilities = Capabilities::LONG_PASSWORD
    .with(Capabilities::LONG_FLAG)
    .with(Capabilities::CONNECT_WITH_DB)
    .with(Capabilities::PROTOCOL_41)
    .with(Capabilities::TRANSACTIONS)
    .with(Capabilities::SECURE_CONNECTION)
    .with(Capabilities::PLUGIN_AUTH)
    .with(Capabilities::PLUGIN_AUTH_LENENC)
    .with(Capabilities::CONNECT_ATTRS)
    .with(Capabilities::DEPRECATE_EOF);
/// utf8mb4_general_ci.
const UTF8MB4: u8 = 45;
/// SERVER_STATUS_AUTOCOMMIT.
const AUTOCOMMIT: u16 = 2;
const ACCESS_DENIED: u16 = 1045;
const AFTER_WRONG_PASSWORD: Duration = Duration::from_millis(500);
