//! A client that sends the bytes it is given and says what came back, without an opinion: no retries, no state, no
//! conversion. For what mysql_async cannot send (bytes that are no UTF-8, single commands) or hides.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>

use std::io::{self, ErrorKind};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::cluster::Account;

/// A logged-in connection to a server or to a proxy.
pub(crate) struct Client {
    stream: TcpStream,
    /// The id the greeting gave it.
    pub(crate) id: u32,
}

/// All that an answer said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// One for each statement that succeeded; one without columns has no rows.
    pub(crate) results: Vec<Rows>,
    /// Code and message of the error that ended the answer.
    pub(crate) error: Option<(u16, String)>,
    /// Of the last OK packet.
    pub(crate) status: u16,
    pub(crate) warnings: u16,
    pub(crate) last_insert_id: u64,
}

/// Texts of the text protocol, whole packets of the binary one. None is NULL.
pub(crate) type Rows = Vec<Vec<Option<Vec<u8>>>>;

/// A statement prepared by COM_STMT_PREPARE.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared {
    pub(crate) id: u32,
    pub(crate) parameters: u16,
}

/// Of [`Outcome::status`].
pub(crate) const IN_TRANSACTION: u16 = 0x0001;
const MORE_RESULTS: u16 = 0x0008;

/// LONG_PASSWORD, LONG_FLAG, PROTOCOL_41, TRANSACTIONS, SECURE_CONNECTION, MULTI_STATEMENTS, MULTI_RESULTS,
/// PS_MULTI_RESULTS, PLUGIN_AUTH, DEPRECATE_EOF.
const CAPABILITIES: u32 =
    1 | 1 << 2 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 16 | 1 << 17 | 1 << 18 | 1 << 19 | 1 << 24;
const CONNECT_WITH_DB: u32 = 1 << 3;
const UTF8MB4: u8 = 255;
const COM_QUERY: u8 = 3;
const COM_STMT_PREPARE: u8 = 0x16;
const COM_STMT_EXECUTE: u8 = 0x17;
const DEADLINE: Duration = Duration::from_secs(20);

impl Client {
    /// Logs in with caching_sha2_password over TCP, without TLS.
    pub(crate) async fn connect(port: u16, account: Account, schema: Option<&str>) -> io::Result<Self> {
        timeout(DEADLINE, Self::log_in(port, account, schema)).await.map_err(|_| late())?
    }

    async fn log_in(port: u16, account: Account, schema: Option<&str>) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, id: 0 };
        let (_, greeting) = client.read().await?;
        if greeting.first() == Some(&0xff) {
            return Err(refused(&greeting));
        }
        let version = 1 + greeting[1..].iter().position(|&byte| byte == 0).ok_or_else(malformed)? + 1;
        client.id = u32::from_le_bytes(array(&greeting[version..])?);
        let mut nonce = greeting[version + 4..version + 12].to_vec();
        nonce.extend_from_slice(&greeting[version + 31..version + 43]);

        let mut response = (CAPABILITIES | schema.map_or(0, |_| CONNECT_WITH_DB)).to_le_bytes().to_vec();
        response.extend_from_slice(&(1u32 << 24).to_le_bytes());
        response.push(UTF8MB4);
        response.extend_from_slice(&[0; 23]);
        response.extend_from_slice(account.user.as_bytes());
        response.push(0);
        let proof = proof(account.password, &nonce);
        response.push(u8::try_from(proof.len()).map_err(|_| malformed())?);
        response.extend_from_slice(&proof);
        if let Some(schema) = schema {
            response.extend_from_slice(schema.as_bytes());
            response.push(0);
        }
        response.extend_from_slice(b"caching_sha2_password\0");
        client.write(1, &response).await?;
        loop {
            let (sequence, packet) = client.read().await?;
            let sequence = sequence.wrapping_add(1);
            match packet.as_slice() {
                [0, ..] => return Ok(client),
                [0xff, ..] => return Err(refused(&packet)),
                // AuthSwitchRequest: the plugin's name, the nonce, a zero.
                [0xfe, rest @ ..] => {
                    let name = rest.iter().position(|&byte| byte == 0).ok_or_else(malformed)?;
                    nonce = rest[name + 1..].strip_suffix(&[0]).unwrap_or(&rest[name + 1..]).to_vec();
                    client.write(sequence, &self::proof(account.password, &nonce)).await?;
                }
                [1, 3] => {}
                // The password itself, under the server's key.
                [1, 4] => client.write(sequence, &[2]).await?,
                [1, pem @ ..] => client.write(sequence, &encrypt(account.password, &nonce, pem)?).await?,
                _ => return Err(malformed()),
            }
        }
    }

    /// Sends COM_QUERY with these bytes. An error is the connection's, not the statement's.
    pub(crate) async fn query(&mut self, sql: impl AsRef<[u8]>) -> io::Result<Outcome> {
        self.command(COM_QUERY, sql.as_ref()).await
    }

    /// Sends any command whose answer is OK, an error or result sets of texts.
    pub(crate) async fn command(&mut self, command: u8, payload: &[u8]) -> io::Result<Outcome> {
        self.send(command, payload).await?;
        timeout(DEADLINE, self.answer(false)).await.map_err(|_| late())?
    }

    /// The inner error is the server's.
    pub(crate) async fn prepare(&mut self, sql: impl AsRef<[u8]>) -> io::Result<Result<Prepared, Outcome>> {
        self.send(COM_STMT_PREPARE, sql.as_ref()).await?;
        let (_, packet) = self.read().await?;
        if packet.first() == Some(&0xff) {
            return Ok(Err(Outcome { error: Some(read_error(&packet)), ..Outcome::default() }));
        }
        let id = u32::from_le_bytes(array(&packet[1..])?);
        let columns = u16::from_le_bytes(array(&packet[5..])?);
        let parameters = u16::from_le_bytes(array(&packet[7..])?);
        for _ in 0..u32::from(columns) + u32::from(parameters) {
            self.read().await?;
        }
        Ok(Ok(Prepared { id, parameters }))
    }

    /// Executes without a cursor; all parameters are numbers.
    pub(crate) async fn execute(&mut self, statement: Prepared, parameters: &[i64]) -> io::Result<Outcome> {
        assert_eq!(parameters.len(), usize::from(statement.parameters));
        let mut payload = statement.id.to_le_bytes().to_vec();
        payload.extend_from_slice(&[0, 1, 0, 0, 0]);
        if !parameters.is_empty() {
            payload.extend(std::iter::repeat_n(0, parameters.len().div_ceil(8)));
            payload.push(1);
            payload.extend(parameters.iter().flat_map(|_| [8, 0]));
            payload.extend(parameters.iter().flat_map(|number| number.to_le_bytes()));
        }
        self.send(COM_STMT_EXECUTE, &payload).await?;
        timeout(DEADLINE, self.answer(true)).await.map_err(|_| late())?
    }

    /// Sends a command and reads no answer.
    pub(crate) async fn send(&mut self, command: u8, payload: &[u8]) -> io::Result<()> {
        let mut whole = vec![command];
        whole.extend_from_slice(payload);
        self.write(0, &whole).await
    }

    async fn answer(&mut self, binary: bool) -> io::Result<Outcome> {
        let mut outcome = Outcome::default();
        loop {
            let (_, head) = self.read().await?;
            let mut rows = Rows::new();
            let last = match head.first() {
                Some(0) => head,
                Some(0xff) => {
                    outcome.error = Some(read_error(&head));
                    return Ok(outcome);
                }
                _ => {
                    let (columns, _) = length(&head).ok_or_else(malformed)?;
                    for _ in 0..columns {
                        self.read().await?;
                    }
                    loop {
                        let (_, packet) = self.read().await?;
                        match packet.first() {
                            Some(0xff) => {
                                outcome.error = Some(read_error(&packet));
                                return Ok(outcome);
                            }
                            // A row whose first text has 16 MB begins like this too, in a longer packet.
                            Some(0xfe) if packet.len() < 0xff_ffff => break packet,
                            _ if binary => rows.push(vec![Some(packet)]),
                            _ => rows.push(read_row(&packet, columns).ok_or_else(malformed)?),
                        }
                    }
                }
            };
            outcome.results.push(rows);
            let mut rest = &last[1..];
            let mut number = || -> io::Result<u64> {
                let (number, size) = length(rest).ok_or_else(malformed)?;
                rest = &rest[size..];
                Ok(number)
            };
            let (_affected, insert_id) = (number()?, number()?);
            outcome.last_insert_id = insert_id;
            outcome.status = u16::from_le_bytes(array(rest)?);
            outcome.warnings = u16::from_le_bytes(array(&rest[2..])?);
            if outcome.status & MORE_RESULTS == 0 {
                return Ok(outcome);
            }
        }
    }

    /// One packet of less than 16 MB: its sequence number and its payload.
    async fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let read = async {
            let mut header = [0; 4];
            self.stream.read_exact(&mut header).await?;
            let [l0, l1, l2, sequence] = header;
            let mut payload = vec![0; u32::from_le_bytes([l0, l1, l2, 0]) as usize];
            self.stream.read_exact(&mut payload).await?;
            Ok((sequence, payload))
        };
        timeout(DEADLINE, read).await.map_err(|_| late())?
    }

    async fn write(&mut self, sequence: u8, payload: &[u8]) -> io::Result<()> {
        let size = u32::try_from(payload.len()).map_err(|_| malformed())?.to_le_bytes();
        let mut packet = vec![size[0], size[1], size[2], sequence];
        packet.extend_from_slice(payload);
        self.stream.write_all(&packet).await
    }
}

impl Outcome {
    pub(crate) fn code(&self) -> Option<u16> {
        self.error.as_ref().map(|(code, _)| *code)
    }

    /// The first column of the first row of the last result, as text.
    pub(crate) fn first(&self) -> Option<String> {
        let value = self.results.last()?.first()?.first()?.as_ref()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Rows of each result.
    pub(crate) fn counts(&self) -> Vec<usize> {
        self.results.iter().map(Vec::len).collect()
    }
}

/// SHA256(password) XOR SHA256(SHA256(SHA256(password)), nonce).
fn proof(password: &str, nonce: &[u8]) -> Vec<u8> {
    let once = digest(&SHA256, password.as_bytes());
    let twice = digest(&SHA256, once.as_ref());
    let mask = digest(&SHA256, &[twice.as_ref(), nonce].concat());
    once.as_ref().iter().zip(mask.as_ref()).map(|(a, b)| a ^ b).collect()
}

fn encrypt(password: &str, nonce: &[u8], pem: &[u8]) -> io::Result<Vec<u8>> {
    let plain = password.bytes().chain([0]).zip(nonce.iter().cycle()).map(|(a, b)| a ^ b);
    let key = pem::parse(pem).map_err(io::Error::other)?;
    let key = PublicEncryptingKey::from_der(key.contents()).map_err(io::Error::other)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(io::Error::other)?;
    let mut encrypted = vec![0; key.ciphertext_size()];
    key.encrypt(&OAEP_SHA1_MGF1SHA1, &plain.collect::<Vec<u8>>(), &mut encrypted, None)
        .map_err(io::Error::other)?;
    Ok(encrypted)
}

/// A length-encoded number and the bytes it takes.
fn length(bytes: &[u8]) -> Option<(u64, usize)> {
    let size = match bytes.first()? {
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        &small => return Some((u64::from(small), 1)),
    };
    let mut number = [0; 8];
    number[..size].copy_from_slice(bytes.get(1..=size)?);
    Some((u64::from_le_bytes(number), 1 + size))
}

fn read_row(packet: &[u8], columns: u64) -> Option<Vec<Option<Vec<u8>>>> {
    let mut row = Vec::new();
    let mut rest = packet;
    for _ in 0..columns {
        if let Some(after) = rest.strip_prefix(&[0xfb]) {
            row.push(None);
            rest = after;
        } else {
            let (length, size) = length(rest)?;
            let end = size.checked_add(usize::try_from(length).ok()?)?;
            row.push(Some(rest.get(size..end)?.to_vec()));
            rest = &rest[end..];
        }
    }
    Some(row)
}

/// The code and the message of an ERR packet.
fn read_error(packet: &[u8]) -> (u16, String) {
    let code = packet.get(1..3).map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
    let text = packet.get(3..).unwrap_or_default();
    let text = if text.first() == Some(&b'#') { text.get(6..).unwrap_or_default() } else { text };
    (code, String::from_utf8_lossy(text).into_owned())
}

fn refused(packet: &[u8]) -> io::Error {
    let (code, text) = read_error(packet);
    io::Error::other(format!("{code} {text}"))
}

fn array<const SIZE: usize>(bytes: &[u8]) -> io::Result<[u8; SIZE]> {
    bytes.get(..SIZE).and_then(|bytes| bytes.try_into().ok()).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "a packet that cannot be understood")
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in time")
}
