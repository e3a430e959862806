//! Packets captured from MySQL 9.7.4 and from drivers, and arbitrary bytes.

use proptest::prelude::*;

use super::*;
use crate::wire::auth::{Plugin, is_right};

/// Of `mysqld` 9.7.4, with its frame header.
const GREETING: &str = "4b0000000a392e372e342d320056000000573327207617204e00ffffff0200ffdf1500000000000000000000\
     537f3c381f117958300a5e5d0063616368696e675f736861325f70617373776f726400";

/// Answers to that greeting of user `ann` with the password `secret`: client, packet, flags, collation, schema, plugin,
/// one attribute, zstd level.
const RESPONSES: &[Captured] = &[
    Captured {
        client: "mysql 9.7.4 --ssl-mode=DISABLED shop",
        packet: "d30000018da2bf1900000001ff0000000000000000000000000000000000000000000000616e6e002015a7665f\
             96219bda5b015158ef89bda4322768ca72b7787411741a16e72ba16e73686f700063616368696e675f736861325f\
             70617373776f72640072045f706964053133373632095f706c6174666f726d067838365f3634035f6f73054c696e\
             75780c5f636c69656e745f6e616d65086c69626d7973716c076f735f7573657204726f6f740f5f636c69656e745f\
             76657273696f6e05392e372e340c70726f6772616d5f6e616d65056d7973716c",
        flags: 0x19bf_a28d,
        collation: 255,
        schema: Some("shop"),
        plugin: Some(Plugin::CachingSha2),
        attribute: Some(("program_name", "mysql")),
        zstd_level: None,
    },
    Captured {
        client: "mysql 9.7.4 --compression-algorithms=zstd --zstd-compression-level=7",
        packet: "cf00000185a2bf1d00000001ff0000000000000000000000000000000000000000000000616e6e002015a7665f\
             96219bda5b015158ef89bda4322768ca72b7787411741a16e72ba16e63616368696e675f736861325f7061737377\
             6f72640072045f706964053133373739095f706c6174666f726d067838365f3634035f6f73054c696e75780c5f63\
             6c69656e745f6e616d65086c69626d7973716c076f735f7573657204726f6f740f5f636c69656e745f7665727369\
             6f6e05392e372e340c70726f6772616d5f6e616d65056d7973716c07",
        flags: 0x1dbf_a285,
        collation: 255,
        schema: None,
        plugin: Some(Plugin::CachingSha2),
        attribute: Some(("_client_version", "9.7.4")),
        zstd_level: Some(7),
    },
    Captured {
        client: "PyMySQL 1.2.4",
        packet: "970000010da23a00ffffff002d0000000000000000000000000000000000000000000000616e6e002015a7665f\
             96219bda5b015158ef89bda4322768ca72b7787411741a16e72ba16e73686f700063616368696e675f736861325f\
             70617373776f726400360c5f636c69656e745f6e616d650770796d7973716c0f5f636c69656e745f76657273696f\
             6e05312e322e34045f706964053133373634",
        flags: 0x003a_a20d,
        collation: 45,
        schema: Some("shop"),
        plugin: Some(Plugin::CachingSha2),
        attribute: Some(("_client_name", "pymysql")),
        zstd_level: None,
    },
    Captured {
        client: "mysql for Node.js, which knows no plugins",
        packet: "3a000001cff3060000000000210000000000000000000000000000000000000000000000616e6e00141a2eab9d\
             90f1c561eb089046db309bb409f9eeff00",
        flags: 0x0006_f3cf,
        collation: 33,
        schema: None,
        plugin: None,
        attribute: None,
        zstd_level: None,
    },
    Captured {
        client: "mysql2 3.24.5 for Node.js",
        packet: "8e000001cff3ba1800000000e00000000000000000000000000000000000000000000000616e6e002015a7665f\
             96219bda5b015158ef89bda4322768ca72b7787411741a16e72ba16e0063616368696e675f736861325f70617373\
             776f726400310c5f636c69656e745f6e616d650c4e6f64652d4d7953514c2d320f5f636c69656e745f7665727369\
             6f6e06332e32342e35",
        flags: 0x18ba_f3cf,
        collation: 224,
        schema: None,
        plugin: Some(Plugin::CachingSha2),
        attribute: Some(("_client_name", "Node-MySQL-2")),
        zstd_level: None,
    },
];

struct Captured {
    client: &'static str,
    packet: &'static str,
    flags: u32,
    collation: u8,
    schema: Option<&'static str>,
    plugin: Option<Plugin>,
    attribute: Option<(&'static str, &'static str)>,
    zstd_level: Option<u8>,
}

/// The payload of a packet in hexadecimal.
fn payload(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
    (8..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn a_captured_greeting() {
    let captured = payload(GREETING);
    let greeting = Greeting::parse(&captured).expect("a greeting");
    assert_eq!(greeting.server_version, "9.7.4-2");
    assert_eq!(greeting.thread_id, 0x56);
    assert_eq!(greeting.capabilities, Capabilities(0xdfff_ffff));
    assert_eq!((greeting.collation, greeting.status), (255, 2));
    assert_eq!(greeting.plugin, "caching_sha2_password");
    assert_eq!(greeting.encode(), captured, "we greet byte for byte as the server does");
}

#[test]
fn captured_responses() {
    let nonce = Greeting::parse(&payload(GREETING)).expect("a greeting").nonce;
    for case in RESPONSES {
        let captured = payload(case.packet);
        let response = HandshakeResponse::parse(&captured).expect(case.client);
        assert_eq!(response.capabilities, Capabilities(case.flags), "{}", case.client);
        assert_eq!(response.collation, case.collation, "{}", case.client);
        assert_eq!(response.user, b"ann", "{}", case.client);
        assert_eq!(response.schema.as_deref(), case.schema.map(str::as_bytes), "{}", case.client);
        assert_eq!(response.plugin.as_deref(), case.plugin.map(|plugin| plugin.name().as_bytes()));
        if let Some((name, value)) = case.attribute {
            assert_eq!(response.attributes.find(name), Some(value.as_bytes()), "{}", case.client);
        }
        assert_eq!(response.zstd_level, case.zstd_level, "{}", case.client);
        let plugin = case.plugin.unwrap_or(Plugin::Native);
        assert!(is_right(plugin, b"secret", &nonce, &response.answer.0), "{}", case.client);
        assert!(!is_too_old(&captured) && parse_ssl_request(&captured).is_none(), "{}", case.client);
        assert_eq!(response.encode(), captured, "{}", case.client);
        // Cut anywhere, it is an error or a shorter response, and never a panic.
        for end in 0..captured.len() {
            HandshakeResponse::parse(&captured[..end]).ok();
        }
    }
}

#[test]
fn a_captured_tls_request() {
    let captured = payload("2000000185aabf1900000001ff0000000000000000000000000000000000000000000000");
    let capabilities = parse_ssl_request(&captured).expect("a request for TLS");
    assert_eq!(capabilities, Capabilities(0x19bf_aa85));
    assert_eq!(encode_ssl_request(capabilities, 1 << 24, 255), captured);
}

#[test]
fn what_clients_leave_out() {
    let full = HandshakeResponse {
        capabilities: Capabilities::PROTOCOL_41
            | Capabilities::CONNECT_WITH_DB
            | Capabilities::PLUGIN_AUTH
            | Capabilities::CONNECT_ATTRS,
        max_packet: 0,
        collation: 8,
        user: b"ann".to_vec(),
        answer: Answer::new(b"pass".to_vec()),
        schema: Some(b"shop".to_vec()),
        plugin: Some(b"x".to_vec()),
        attributes: Attributes::default(),
        zstd_level: None,
    };
    let bytes = full.encode();
    assert_eq!(HandshakeResponse::parse(&bytes).expect("whole"), full, "an answer that a zero byte ends");
    // Without attributes, without the zero byte of the plugin, without the plugin, without the schema's zero byte.
    for (cut, plugin) in [(1, Some("x")), (2, Some("x")), (3, None), (4, None)] {
        let response = HandshakeResponse::parse(&bytes[..bytes.len() - cut]).expect("cut at the end");
        assert_eq!(response.plugin.as_deref(), plugin.map(str::as_bytes), "{cut}");
        assert_eq!(response.schema.as_deref(), Some(&b"shop"[..]), "{cut}");
    }
    assert!(HandshakeResponse::parse(&bytes[..30]).is_err());
}

#[test]
fn attributes() {
    let attributes = Attributes::default().with("a", b"1").with("b", b"").with("a", b"2");
    let all: Vec<_> = attributes.iter().collect();
    assert_eq!(all, [(&b"a"[..], &b"1"[..]), (b"b", b""), (b"a", b"2")]);
    assert_eq!(attributes.find("a"), Some(&b"1"[..]));
    assert_eq!(attributes.find("c"), None);
    assert_eq!(format!("{attributes:?}"), r#"{"a": "1", "b": "", "a": "2"}"#);
    assert_eq!(attributes.with("big", &vec![0; MAX_ATTRIBUTES]), attributes, "there is no room for it");
    assert!(Attributes::parse(&vec![0; MAX_ATTRIBUTES]).is_ok());
    assert!(Attributes::parse(&vec![0; MAX_ATTRIBUTES + 2]).is_err());
    for cut in [&b"\x01"[..], b"\x01a", b"\x01a\x02b", b"\xfb\x00", b"\xff"] {
        assert!(Attributes::parse(cut).is_err(), "{cut:?}");
    }
}

#[test]
fn switches() {
    let nonce = Nonce(*b"abcdefghijklmnopqrst");
    let switch =
        AuthSwitch { plugin: "mysql_native_password".to_owned(), nonce: Some(nonce), long_nonce: None };
    let bytes = switch.encode();
    assert_eq!(bytes, b"\xfemysql_native_password\0abcdefghijklmnopqrst\0");
    assert_eq!(AuthSwitch::parse(&bytes).expect("ours"), switch);
    let without_end = &bytes[..bytes.len() - 1];
    assert_eq!(AuthSwitch::parse(without_end).expect("some servers'"), switch);
    let old = AuthSwitch::parse(b"\xfe").expect("the plugin from before there were plugins");
    assert_eq!(old, AuthSwitch { plugin: String::new(), nonce: None, long_nonce: None });
    let mariadb =
        AuthSwitch::parse(b"\xfeclient_ed25519\0abcdefghijklmnopqrstuvwxyzABCDE\0").expect("MariaDB's");
    assert_eq!(mariadb.long_nonce, Some(LongNonce(*b"abcdefghijklmnopqrstuvwxyzABCDE\0")));
    assert!(AuthSwitch::parse(b"").is_err());
    assert!(AuthSwitch::parse(b"\0").is_err());
}

fn any_change() -> impl Strategy<Value = (ChangeUser, u32)> {
    let text = || proptest::collection::vec(1u8..=255, 1..30);
    let option = |text| proptest::option::of(text);
    let collation = proptest::option::of(1u16..400);
    (
        text(),
        proptest::collection::vec(1u8..=255, 0..255),
        option(text()),
        collation,
        option(text()),
        any::<u32>(),
    )
        .prop_map(|(user, answer, schema, collation, plugin, flags)| {
            let answer = Answer::new(answer);
            let attributes = Attributes::default().with("name", b"value");
            (ChangeUser { user, answer, schema, collation, plugin, attributes }, flags)
        })
}

proptest! {
    #[test]
    fn changes_of_user((change, flags) in any_change()) {
        let capabilities = Capabilities(flags);
        let bytes = change.encode(capabilities);
        let read = ChangeUser::parse(&bytes, capabilities).expect("our own");
        prop_assert_eq!(&read.user, &change.user);
        prop_assert_eq!(&read.answer, &change.answer);
        prop_assert_eq!(&read.schema, &change.schema);
        prop_assert_eq!(read.collation, change.collation);
        if change.collation.is_some() && capabilities.contains(Capabilities::PLUGIN_AUTH) {
            prop_assert_eq!(&read.plugin, &change.plugin);
        }
        prop_assert_eq!(&read.encode(capabilities), &bytes);
        for end in 0..bytes.len() {
            ChangeUser::parse(&bytes[..end], capabilities).ok();
        }
    }

    /// Arbitrary bytes are an error or a packet; what was read once is written and read again the same.
    #[test]
    fn anything_at_all(bytes: Vec<u8>, flags: u32) {
        Greeting::parse(&bytes).ok();
        parse_ssl_request(&bytes);
        is_too_old(&bytes);
        AuthSwitch::parse(&bytes).ok();
        Attributes::parse(&bytes).ok();
        ChangeUser::parse(&bytes, Capabilities(flags)).ok();
        HandshakeResponse::parse(&bytes).ok();
    }

    /// As above, past the fixed part, where the interesting fields are.
    #[test]
    fn anything_after_the_head(flags: u32, tail: Vec<u8>) {
        let capabilities = Capabilities(flags) | Capabilities::PROTOCOL_41;
        let mut bytes = Vec::new();
        push_response_head(&mut bytes, capabilities, 0, 8);
        bytes.extend_from_slice(&tail);
        if let Ok(response) = HandshakeResponse::parse(&bytes) {
            let again = HandshakeResponse::parse(&response.encode()).expect("our own");
            prop_assert_eq!(again.user, response.user);
            prop_assert_eq!(again.attributes, response.attributes);
        }
        let mut greeting = vec![PROTOCOL_VERSION];
        greeting.extend_from_slice(b"8.0.17\0");
        greeting.extend_from_slice(&tail);
        Greeting::parse(&greeting).ok();
    }
}
