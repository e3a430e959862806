//! Clients that break the protocol read what a server would say, and are cut off where a server would do so.

use super::support::cluster::{APP, Cluster};
use super::support::raw::{Raw, Refusal, USUAL, flag, refusal};
use super::{proxy, run};

/// What is answered to these bytes with a packet of this number, and whether the connection ends with it.
async fn told(raw: &mut Raw, bytes: &[u8], number: u8) -> (Refusal, bool) {
    raw.send_bytes(bytes).await.expect("it is taken");
    match number {
        0 => raw.no_command(),
        _ => raw.next_command(),
    }
    let packet = raw.packet().await;
    assert_eq!(packet[0], 0xFF, "{bytes:?}: {packet:?}");
    let refused = refusal(&packet);
    raw.next_command();
    let ended = raw.send_bytes(b"\x01\0\0\0\x0E").await.is_err() || raw.try_packet().await.is_err();
    (refused, ended)
}

#[test]
fn what_no_client_should_send() {
    run(async {
        let (cluster, proxy) = (Cluster::shared().await, proxy().await);
        let direct = cluster.server(0).port();
        let cases: &[(&str, &[u8], u8)] = &[
            ("a number that is not due", b"\x01\0\0\x01\x0E", 0),
            ("the same, of a query", b"\x09\0\0\x07\x03SELECT 1", 0),
            ("an empty packet", b"\0\0\0\0", 1),
            ("COM_SLEEP", b"\x01\0\0\0\0", 1),
            ("COM_TABLE_DUMP", b"\x01\0\0\0\x13", 1),
            ("COM_CONNECT_OUT", b"\x01\0\0\0\x14", 1),
            ("nobody's command", b"\x01\0\0\0\xFF", 1),
            ("a change of user without a user", b"\x05\0\0\0\x11root", 1),
            ("EXECUTE without its id", b"\x03\0\0\0\x17\x01\0", 1),
            ("EXECUTE of nothing", b"\x0A\0\0\0\x17\x63\0\0\0\0\x01\0\0\0", 1),
            ("SEND_LONG_DATA without its parameter", b"\x05\0\0\0\x18\x01\0\0\0", 1),
            ("CLOSE without its id", b"\x02\0\0\0\x19\x01", 1),
            ("RESET without its id", b"\x02\0\0\0\x1A\x01", 1),
            ("RESET of nothing", b"\x05\0\0\0\x1A\x63\0\0\0", 1),
            ("FETCH without its count", b"\x05\0\0\0\x1C\x01\0\0\0", 1),
            ("FETCH of nothing", b"\x09\0\0\0\x1C\x63\0\0\0\x01\0\0\0", 1),
            ("KILL of oneself", b"\x15\0\0\0\x03KILL CONNECTION_ID()", 1),
        ];
        for (what, bytes, number) in cases {
            let mut raw =
                [Raw::connect(direct, APP, USUAL).await, Raw::connect(proxy.port(), APP, USUAL).await];
            let [expected, said] = &mut raw;
            let expected = told(expected, bytes, *number).await;
            assert_eq!(told(said, bytes, *number).await, expected, "{what}");
        }
        // An attribute without its value.
        let attributes = USUAL | flag::QUERY_ATTRIBUTES;
        let mut raw =
            [Raw::connect(direct, APP, attributes).await, Raw::connect(proxy.port(), APP, attributes).await];
        let [expected, said] = &mut raw;
        let bytes = b"\x02\0\0\0\x03\x05";
        let expected = told(expected, bytes, 1).await;
        assert_eq!(told(said, bytes, 1).await, expected);
    });
}

/// A frame that continues another and has the wrong number: the server ends its connection, so ours with the client ends.
#[test]
fn frames_out_of_order() {
    run(async {
        let mut raw = Raw::connect(proxy().await.port(), APP, USUAL).await;
        let mut bytes = vec![0xFF, 0xFF, 0xFF, 0, 3];
        bytes.extend_from_slice(b"SELECT ");
        bytes.resize(4 + 0xFF_FFFF, b' ');
        bytes.extend_from_slice(b"\x01\0\0\x051");
        raw.send_bytes(&bytes).await.expect("it is taken");
        raw.next_command();
        assert_eq!(refusal(&raw.packet().await).code, 1156);
        assert!(raw.is_ended().await);
    });
}
