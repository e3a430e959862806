//! The header of the PROXY protocol, versions 1 and 2, by which a load balancer tells whom it brings. Believed of those
//! only who are listed: anybody can write one.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use tokio::io::AsyncReadExt;

use super::stream::Stream;

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// What health checks do all day: connect and close.
    #[error("the connection was closed before it said anything")]
    Nothing,
    #[error("the connection broke in its PROXY header")]
    Io(#[source] io::Error),
    #[error("it does not begin with a PROXY header, which connections from there must")]
    Malformed,
}

const VERSION_1: &[u8] = b"PROXY ";
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, and the length of what follows.
const VERSION_2_HEAD: usize = 16;

/// Reads the header that a connection begins with; the address of the client that it names, if it names one: a
/// connection of the load balancer's own has none. What comes behind it stays to be read.
///
/// Cancel safety: a cancelled call closes the connection.
pub(crate) async fn read_header(stream: &mut Stream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut bytes = Vec::new();
    loop {
        if let Some((client, length)) = parse(&bytes).ok_or(HeaderError::Malformed)? {
            stream.unread(&bytes[length..]);
            return Ok(client);
        }
        match stream.read_buf(&mut bytes).await.map_err(HeaderError::Io)? {
            0 if bytes.is_empty() => return Err(HeaderError::Nothing),
            0 => return Err(HeaderError::Io(io::ErrorKind::UnexpectedEof.into())),
            _ => {}
        }
    }
}

/// The client and the header's length; the inner None when more must come, the outer for what is no header. A header has
/// at most 65,551 bytes, by its own form.
fn parse(bytes: &[u8]) -> Option<Option<(Option<SocketAddr>, usize)>> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if !begins(VERSION_1) && !begins(VERSION_2) {
        return None;
    }
    match ProxyHeader::parse(bytes, ParseConfig { include_tlvs: false, ..ParseConfig::default() }) {
        Ok((header, length)) => {
            let client = header.proxied_address().filter(|address| address.protocol == Protocol::Stream);
            Some(Some((client.map(|address| address.source), length)))
        }
        Err(Error::BufferTooShort) if !is_whole(bytes) => Some(None),
        Err(_) => None,
    }
}

/// All is there that a header of version 2 says it has: more will not make it better.
fn is_whole(bytes: &[u8]) -> bool {
    match bytes.get(VERSION_2_HEAD - 2..VERSION_2_HEAD) {
        Some(&[high, low]) if bytes.starts_with(VERSION_2) => {
            bytes.len() >= VERSION_2_HEAD + usize::from(u16::from_be_bytes([high, low]))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Signature, these bytes and their count where the length stands.
    fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [VERSION_2, &[command, family], &length, body].concat()
    }

    #[test]
    fn headers() {
        let ipv4 = b"\xC0\xA8\0\x01\x7F\0\0\x01\x9C\x40\x0C\xEA";
        let mut ipv6 = [0; 36];
        (ipv6[15], ipv6[31], ipv6[33], ipv6[35]) = (1, 2, 7, 8);
        let with_tlv = [&ipv4[..], b"\x03\0\x04abcd\x04\0\0"].concat();
        let check = |bytes: &[u8], expected: Option<Option<&str>>| {
            let client =
                expected.map(|client| client.map(|client| client.parse::<SocketAddr>().expect("an address")));
            // Whatever follows is not looked at, and before the end nothing is sure.
            let all = [bytes, b"PROXY"].concat();
            assert_eq!(parse(&all), client.map(|client| Some((client, bytes.len()))), "{bytes:?}");
            for cut in 0..bytes.len() {
                if expected.is_some() {
                    assert_eq!(parse(&bytes[..cut]), Some(None), "{cut} of {bytes:?}");
                }
            }
        };
        check(b"PROXY TCP4 192.168.0.1 127.0.0.1 40000 3306\r\n", Some(Some("192.168.0.1:40000")));
        check(b"PROXY TCP6 ::1 ::2 7 8\r\n", Some(Some("[::1]:7")));
        check(
            b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Some(Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535")),
        );
        check(b"PROXY UNKNOWN\r\n", Some(None));
        check(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Some(None));
        check(&version_2(0x21, 0x11, ipv4), Some(Some("192.168.0.1:40000")));
        check(&version_2(0x21, 0x11, &with_tlv), Some(Some("192.168.0.1:40000")));
        check(&version_2(0x21, 0x21, &ipv6), Some(Some("[::1]:7")));
        // The load balancer's own: a health check.
        check(&version_2(0x20, 0x00, b""), Some(None));
        check(&version_2(0x20, 0x11, ipv4), Some(None));
        check(&version_2(0x21, 0x12, ipv4), Some(None));
        check(&version_2(0x21, 0x31, &[b'/'; 216]), Some(None));
        check(&[b"PROXY TCP4 192.168.0.1 127.0.0.1 40000 3306\n", &[b' '; 70][..]].concat(), None);
        check(b"PROXY TCP4 192.168.0 127.0.0.1 40000 3306\r\n", None);
        check(b"PROXY TCP4 ::1 ::2 40000 3306\r\n", None);
        check(b"PROXY TCP4 192.168.0.1 127.0.0.1 400000 3306\r\n", None);
        check(b"PROXY  TCP4 192.168.0.1 127.0.0.1 40000 3306\r\n", None);
        check(b"proxy UNKNOWN\r\n", None);
        check(&[b"PROXY UNKNOWN ", &[b'x'; 120][..]].concat(), None);
        check(&version_2(0x11, 0x11, ipv4), None);
        check(&version_2(0x22, 0x11, ipv4), None);
        check(&version_2(0x21, 0x11, &ipv4[..8]), None);
        check(&version_2(0x21, 0x21, ipv4), None);
        // A login packet, and an HTTP request.
        check(b"\x20\0\0\x01\x85\xa6\xff\x01", None);
        check(b"GET / HTTP/1.1\r\n", None);
    }

    proptest! {
        #[test]
        fn anything(bytes: Vec<u8>, command: u8, family: u8) {
            parse(&bytes);
            parse(&[VERSION_1, &bytes].concat());
            parse(&version_2(command, family, &bytes));
        }
    }
}
