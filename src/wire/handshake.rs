//! The packets of the connection phase, both ways: greeting, TLS request, the client's response, change of user, and what
//! authentication plugins exchange.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>

use std::fmt;

use zeroize::Zeroizing;

use super::auth::{LongNonce, Nonce};
use super::flags::Capabilities;
use super::packet::{EOF, Reader, WireError, push_lenenc, push_lenenc_bytes, push_nul_bytes};

/// The largest packet either side accepts before the login is done. Attributes may have 64 KiB.
pub(crate) const MAX_PACKET: usize = 128 * 1024;
/// The largest answer of a plugin: a password, or the server's key.
pub(crate) const MAX_AUTH_PACKET: usize = 8 * 1024;
/// Servers take no more attributes than this, in bytes.
pub(crate) const MAX_ATTRIBUTES: usize = 64 * 1024;
/// First byte of a packet that carries data of an authentication plugin.
pub(crate) const AUTH_MORE_DATA: u8 = 1;

const PROTOCOL_VERSION: u8 = 10;
const NONCE_HEAD: usize = 8;
const SSL_REQUEST: usize = 32;

/// A server's first packet.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) server_version: String,
    /// What `CONNECTION_ID()` returns, cut to 32 bits.
    pub(crate) thread_id: u32,
    pub(crate) nonce: Nonce,
    pub(crate) capabilities: Capabilities,
    /// The server's default, cut to 8 bits.
    pub(crate) collation: u8,
    pub(crate) status: u16,
    /// Name of the plugin that the nonce is meant for; empty when the server has no plugins.
    pub(crate) plugin: String,
}

impl Greeting {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != PROTOCOL_VERSION {
            return Err(WireError::Malformed("the server does not speak protocol version 10"));
        }
        let server_version = String::from_utf8_lossy(reader.nul_bytes()?).into_owned();
        let thread_id = reader.u32()?;
        let head = reader.bytes(NONCE_HEAD)?;
        reader.u8()?;
        let low = reader.u16()?;
        let collation = reader.u8()?;
        let status = reader.u16()?;
        let high = reader.u16()?;
        let capabilities = Capabilities(u32::from(low) | u32::from(high) << 16);
        let data_length = usize::from(reader.u8()?);
        reader.bytes(10)?;
        let tail = reader.bytes(data_length.saturating_sub(NONCE_HEAD).max(13))?;
        let mut nonce = Nonce([0; Nonce::LENGTH]);
        for (to, from) in nonce.0.iter_mut().zip(head.iter().chain(tail)) {
            *to = *from;
        }
        let plugin = match capabilities.contains(Capabilities::PLUGIN_AUTH) {
            true => String::from_utf8_lossy(reader.nul_or_rest()).into_owned(),
            false => String::new(),
        };
        Ok(Self { server_version, thread_id, nonce, capabilities, collation, status, plugin })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        out.push(PROTOCOL_VERSION);
        push_nul_bytes(&mut out, self.server_version.as_bytes());
        out.extend_from_slice(&self.thread_id.to_le_bytes());
        let (head, tail) = self.nonce.0.split_at(NONCE_HEAD);
        out.extend_from_slice(head);
        out.push(0);
        let [low0, low1, high0, high1] = self.capabilities.0.to_le_bytes();
        out.extend_from_slice(&[low0, low1, self.collation]);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&[high0, high1]);
        out.push(Nonce::LENGTH as u8 + 1);
        out.extend_from_slice(&[0; 10]);
        out.extend_from_slice(tail);
        out.push(0);
        push_nul_bytes(&mut out, self.plugin.as_bytes());
        out
    }
}

/// A client's flags if `payload` asks for TLS. Its real response follows, encrypted.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_ssl_request.html>
pub(crate) fn parse_ssl_request(payload: &[u8]) -> Option<Capabilities> {
    let capabilities = Capabilities(Reader::new(payload).u32().ok()?);
    (payload.len() == SSL_REQUEST && capabilities.contains(Capabilities::SSL)).then_some(capabilities)
}

/// The payload that asks a server for TLS.
pub(crate) fn encode_ssl_request(capabilities: Capabilities, max_packet: u32, collation: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(SSL_REQUEST);
    push_response_head(&mut out, capabilities | Capabilities::SSL, max_packet, collation);
    out
}

fn push_response_head(out: &mut Vec<u8>, capabilities: Capabilities, max_packet: u32, collation: u8) {
    out.extend_from_slice(&capabilities.0.to_le_bytes());
    out.extend_from_slice(&max_packet.to_le_bytes());
    out.push(collation);
    out.extend_from_slice(&[0; 23]);
}

/// A client's answer to the greeting: who it is and what it can do.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_response.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HandshakeResponse {
    pub(crate) capabilities: Capabilities,
    pub(crate) max_packet: u32,
    pub(crate) collation: u8,
    pub(crate) user: Vec<u8>,
    pub(crate) answer: Answer,
    pub(crate) schema: Option<Vec<u8>>,
    /// Name of the plugin that made `answer`; None when the client does not say.
    pub(crate) plugin: Option<Vec<u8>>,
    pub(crate) attributes: Attributes,
    /// With the flag ZSTD.
    pub(crate) zstd_level: Option<u8>,
}

/// What an authentication plugin sent: a proof, or a password in the clear. Never printed, wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer(pub(crate) Zeroizing<Vec<u8>>);

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Answer {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl HandshakeResponse {
    /// Reads the response as the flags in it say. Fails for a client of the protocol before 4.1 (see [`is_too_old`]).
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        let capabilities = Capabilities(reader.u32()?);
        if !capabilities.contains(Capabilities::PROTOCOL_41) {
            return Err(WireError::Malformed("the client speaks a protocol older than 4.1"));
        }
        let max_packet = reader.u32()?;
        let collation = reader.u8()?;
        reader.bytes(23)?;
        let user = reader.nul_bytes()?.to_vec();
        let answer = Answer::new(if capabilities.contains(Capabilities::PLUGIN_AUTH_LENENC) {
            reader.lenenc_bytes()?.to_vec()
        } else if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            let length = usize::from(reader.u8()?);
            reader.bytes(length)?.to_vec()
        } else {
            reader.nul_or_rest().to_vec()
        });
        let schema = match capabilities.contains(Capabilities::CONNECT_WITH_DB) {
            true => some_if_any(reader.nul_or_rest()),
            false => None,
        };
        let (plugin, attributes) = parse_plugin_and_attributes(&mut reader, capabilities)?;
        let zstd_level = match capabilities.contains(Capabilities::ZSTD) {
            true => reader.u8().ok(),
            false => None,
        };
        Ok(Self { capabilities, max_packet, collation, user, answer, schema, plugin, attributes, zstd_level })
    }

    /// The payload, in the form that the flags ask for; fields that have no flag are left out.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let has = |flag| self.capabilities.contains(flag);
        let mut out = Vec::with_capacity(160);
        push_response_head(&mut out, self.capabilities, self.max_packet, self.collation);
        push_nul_bytes(&mut out, &self.user);
        if has(Capabilities::PLUGIN_AUTH_LENENC) {
            push_lenenc_bytes(&mut out, &self.answer.0);
        } else if has(Capabilities::SECURE_CONNECTION) {
            push_short_bytes(&mut out, &self.answer.0);
        } else {
            push_nul_bytes(&mut out, &self.answer.0);
        }
        if has(Capabilities::CONNECT_WITH_DB) {
            push_nul_bytes(&mut out, self.schema.as_deref().unwrap_or_default());
        }
        if has(Capabilities::PLUGIN_AUTH) {
            push_nul_bytes(&mut out, self.plugin.as_deref().unwrap_or_default());
        }
        if has(Capabilities::CONNECT_ATTRS) {
            self.attributes.push(&mut out);
        }
        if has(Capabilities::ZSTD) {
            out.push(self.zstd_level.unwrap_or(3));
        }
        out
    }
}

/// True for the response of a client that speaks the protocol before 4.1 (2 bytes of flags, another layout).
pub(crate) fn is_too_old(payload: &[u8]) -> bool {
    Reader::new(payload)
        .u16()
        .is_ok_and(|low| !Capabilities(u32::from(low)).contains(Capabilities::PROTOCOL_41))
}

/// True for the collations of ucs2, utf16, utf16le and utf32, which a server refuses as a client's.
/// <https://dev.mysql.com/doc/refman/9.7/en/charset-connection.html>
pub(crate) fn is_impermissible(collation: u16) -> bool {
    matches!(collation, 35 | 54..=56 | 60..=62 | 90 | 101..=124 | 128..=151 | 159..=183)
}

/// COM_CHANGE_USER: who the client wants to be from now on.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_change_user.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChangeUser {
    pub(crate) user: Vec<u8>,
    pub(crate) answer: Answer,
    pub(crate) schema: Option<Vec<u8>>,
    /// None when the packet ends before it: the collation stays.
    pub(crate) collation: Option<u16>,
    pub(crate) plugin: Option<Vec<u8>>,
    pub(crate) attributes: Attributes,
}

impl ChangeUser {
    /// Reads the payload without its first byte, with the flags that the client gave at login.
    pub(crate) fn parse(payload: &[u8], capabilities: Capabilities) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        let user = reader.nul_bytes()?.to_vec();
        let answer = Answer::new(if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            let length = usize::from(reader.u8()?);
            reader.bytes(length)?.to_vec()
        } else {
            reader.nul_bytes()?.to_vec()
        });
        let schema = some_if_any(reader.nul_or_rest());
        let collation = reader.u16().ok();
        let (plugin, attributes) = parse_plugin_and_attributes(&mut reader, capabilities)?;
        Ok(Self { user, answer, schema, collation, plugin, attributes })
    }

    /// The payload without its first byte.
    #[cfg(test)]
    pub(crate) fn encode(&self, capabilities: Capabilities) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        push_nul_bytes(&mut out, &self.user);
        if capabilities.contains(Capabilities::SECURE_CONNECTION) {
            push_short_bytes(&mut out, &self.answer.0);
        } else {
            push_nul_bytes(&mut out, &self.answer.0);
        }
        push_nul_bytes(&mut out, self.schema.as_deref().unwrap_or_default());
        let Some(collation) = self.collation else { return out };
        out.extend_from_slice(&collation.to_le_bytes());
        if capabilities.contains(Capabilities::PLUGIN_AUTH) {
            push_nul_bytes(&mut out, self.plugin.as_deref().unwrap_or_default());
        }
        if capabilities.contains(Capabilities::CONNECT_ATTRS) {
            self.attributes.push(&mut out);
        }
        out
    }
}

/// Both may be missing at the end of the packet although the flags announce them; some clients do that.
fn parse_plugin_and_attributes(
    reader: &mut Reader<'_>,
    capabilities: Capabilities,
) -> Result<(Option<Vec<u8>>, Attributes), WireError> {
    let plugin = match capabilities.contains(Capabilities::PLUGIN_AUTH) && !reader.is_empty() {
        true => some_if_any(reader.nul_or_rest()),
        false => None,
    };
    let attributes = match capabilities.contains(Capabilities::CONNECT_ATTRS) && !reader.is_empty() {
        true => Attributes::parse(reader.lenenc_bytes()?)?,
        false => Attributes::default(),
    };
    Ok((plugin, attributes))
}

fn some_if_any(bytes: &[u8]) -> Option<Vec<u8>> {
    (!bytes.is_empty()).then(|| bytes.to_vec())
}

/// A string with one byte of length. One that is longer is cut, which no proof of ours is.
fn push_short_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(usize::from(u8::MAX))];
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

/// What a client says about itself (`_client_name`, `program_name`, ...). Kept as the bytes it sent, at most
/// [`MAX_ATTRIBUTES`], which takes little memory and is cheap to pass on.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Attributes {
    all: Box<[u8]>,
    /// Those that are the application's own: names that begin with `_` are the drivers'.
    /// <https://dev.mysql.com/doc/refman/9.7/en/performance-schema-connection-attribute-tables.html>
    own: Box<[u8]>,
}

impl Attributes {
    /// Reads names and values, each with its length before it, to the end.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_ATTRIBUTES {
            return Err(WireError::Malformed("the connection attributes take more than 64 KiB"));
        }
        let mut reader = Reader::new(bytes);
        let mut own = Vec::new();
        while !reader.is_empty() {
            let (name, value) = (reader.lenenc_bytes()?, reader.lenenc_bytes()?);
            if !name.starts_with(b"_") {
                push_lenenc_bytes(&mut own, name);
                push_lenenc_bytes(&mut own, value);
            }
        }
        Ok(Self { all: bytes.into(), own: own.into() })
    }

    /// True when the application says the same of itself, whatever its driver says (`_pid`, for one).
    pub(crate) fn are_of_same_application(&self, other: &Self) -> bool {
        self.own == other.own
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut reader = Reader::new(&self.all);
        std::iter::from_fn(move || Some((reader.lenenc_bytes().ok()?, reader.lenenc_bytes().ok()?)))
    }

    /// The value of the first attribute of that name.
    #[cfg(test)]
    pub(crate) fn find(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
    }

    /// These attributes and one more; without it where it has no room.
    pub(crate) fn with(&self, name: &str, value: &[u8]) -> Self {
        let mut bytes = self.all.to_vec();
        push_lenenc_bytes(&mut bytes, name.as_bytes());
        push_lenenc_bytes(&mut bytes, value);
        Self::parse(&bytes).unwrap_or_else(|_| self.clone())
    }

    fn push(&self, out: &mut Vec<u8>) {
        push_lenenc(out, self.all.len() as u64);
        out.extend_from_slice(&self.all);
    }
}

impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| {
                (String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned())
            }))
            .finish()
    }
}

/// A server's wish to authenticate with another plugin, and the nonce for it.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_auth_switch_request.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuthSwitch {
    pub(crate) plugin: String,
    /// None when the plugin has none, or one of another length.
    pub(crate) nonce: Option<Nonce>,
    /// What the plugins of MariaDB have instead.
    pub(crate) long_nonce: Option<LongNonce>,
}

impl AuthSwitch {
    pub(crate) fn parse(payload: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(payload);
        if reader.u8()? != EOF {
            return Err(WireError::Malformed("not an authentication switch"));
        }
        let plugin = String::from_utf8_lossy(reader.nul_or_rest()).into_owned();
        let data = reader.rest();
        let long_nonce = data.try_into().ok().map(LongNonce);
        let data = data.strip_suffix(&[0]).filter(|data| data.len() == Nonce::LENGTH).unwrap_or(data);
        Ok(Self { plugin, nonce: data.try_into().ok().map(Nonce), long_nonce })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![EOF];
        push_nul_bytes(&mut out, self.plugin.as_bytes());
        if let Some(nonce) = self.nonce {
            out.extend_from_slice(&nonce.0);
            out.push(0);
        }
        out
    }
}

#[cfg(test)]
mod tests;
