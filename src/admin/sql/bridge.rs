//! Between a client that has logged in and `opensrv-mysql`, which knows only its own, weaker login: plays that login to
//! the library, then hands on the client's commands, only those that the library answers rightly.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use opensrv_mysql::AsyncMysqlIntermediary;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};

use super::login::Entered;
use super::shim::{REFUSED, Shim};
use crate::admin::Source;
use crate::wire::flags::Capabilities;
use crate::wire::handshake::{Answer, Attributes, HandshakeResponse};
use crate::wire::packet::{self, WireError};
use crate::wire::stream::Stream;

/// Why a conversation ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum BridgeError {
    #[error("the client: {0}")]
    Client(#[source] WireError),
    #[error("the client took no answer: {0}")]
    Write(#[source] io::Error),
    #[error("answering failed: {0}")]
    Library(#[source] io::Error),
    #[error("the library's greeting: {0}")]
    Greeting(#[source] WireError),
}

/// Answers until the client leaves.
pub(super) async fn run(entered: Entered, source: Arc<Source>) -> Result<(), BridgeError> {
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (their_reader, their_writer) = tokio::io::split(theirs);
    let library = AsyncMysqlIntermediary::run_on(Shim::new(source), their_reader, their_writer);
    let conversation = async {
        let (mut answers, mut commands) = tokio::io::split(ours);
        introduce(&mut answers, &mut commands, entered.capabilities).await.map_err(BridgeError::Greeting)?;
        let (from_client, to_client) = tokio::io::split(entered.stream);
        tokio::select! {
            ended = hand_on(from_client, commands) => ended,
            ended = give_back(answers, to_client) => ended,
        }
    };
    tokio::pin!(library, conversation);
    tokio::select! {
        ended = &mut conversation => ended,
        ended = &mut library => {
            // What was answered last may still be in the pipe; the library's end of it is closed now.
            let _ = tokio::time::timeout(WRITE, conversation).await;
            ended.map_err(BridgeError::Library)
        }
    }
}

/// The library's own login, with what the client and we have agreed on.
async fn introduce(
    answers: &mut ReadHalf<DuplexStream>,
    commands: &mut WriteHalf<DuplexStream>,
    capabilities: Capabilities,
) -> Result<(), WireError> {
    packet::read_packet(answers, MAX_COMMAND).await?;
    let response = HandshakeResponse {
        capabilities: capabilities
            - Capabilities::SSL
            - Capabilities::CONNECT_WITH_DB
            - Capabilities::CONNECT_ATTRS,
        max_packet: MAX_COMMAND as u32,
        collation: 45,
        user: b"admin".to_vec(),
        answer: Answer::new(vec![0]),
        schema: None,
        plugin: Some(b"mysql_native_password".to_vec()),
        attributes: Attributes::default(),
        zstd_level: None,
    };
    packet::write_packet(commands, 1, &response.encode()).await?;
    packet::read_packet(answers, MAX_COMMAND).await?;
    Ok(())
}

async fn hand_on(
    mut client: ReadHalf<Stream>,
    mut commands: WriteHalf<DuplexStream>,
) -> Result<(), BridgeError> {
    loop {
        let next = packet::read_packet(&mut client, MAX_COMMAND);
        // A client that is silent for so long is gone.
        let Ok(next) = tokio::time::timeout(IDLE, next).await else { return Ok(()) };
        let command = match next {
            Ok(command) => command,
            Err(WireError::Closed) => return Ok(()),
            Err(error) => return Err(BridgeError::Client(error)),
        };
        let payload = match command.payload.split_first() {
            Some((&QUIT, _)) => return Ok(()),
            Some((&QUERY, text)) if std::str::from_utf8(text).is_ok() => command.payload,
            Some((&QUERY, _)) => refused("the text is not UTF-8"),
            Some((&(INIT_DB | PING), _)) => command.payload,
            // The library would answer OK, or close the connection.
            Some((&other, _)) => refused(&format!("command 0x{other:02x} is not served on the admin port")),
            None => refused("an empty packet is no command"),
        };
        packet::write_packet(&mut commands, command.sequence, &payload).await.map_err(BridgeError::Client)?;
    }
}

/// A query that the shim answers with this text as an error.
fn refused(why: &str) -> Vec<u8> {
    format!("{}{REFUSED}{why}", char::from(QUERY)).into_bytes()
}

async fn give_back(
    mut answers: ReadHalf<DuplexStream>,
    mut client: WriteHalf<Stream>,
) -> Result<(), BridgeError> {
    let mut buffer = vec![0; PIPE];
    loop {
        let count = answers.read(&mut buffer).await.map_err(BridgeError::Library)?;
        if count == 0 {
            return Ok(());
        }
        let write = async {
            client.write_all(&buffer[..count]).await?;
            client.flush().await
        };
        match tokio::time::timeout(WRITE, write).await {
            Ok(written) => written.map_err(BridgeError::Write)?,
            Err(_) => return Err(BridgeError::Write(io::ErrorKind::TimedOut.into())),
        }
    }
}

const QUIT: u8 = 0x01;
const INIT_DB: u8 = 0x02;
const QUERY: u8 = 0x03;
const PING: u8 = 0x0e;
/// No command of the admin port is longer.
const MAX_COMMAND: usize = 64 * 1024;
const PIPE: usize = 16 * 1024;
const IDLE: Duration = Duration::from_secs(3600);
const WRITE: Duration = Duration::from_secs(60);
