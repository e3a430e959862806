use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

const ZSTD_3: Algorithm = Algorithm::Zstd(ZstdLevel(3));

/// COM_QUERY `SELECT` of 60 times `x` as `mysql` 9.7.4 sends it, with zlib and with zstd.
const QUERY: &[u8] = b"\x45\0\0\0\x03SELECT 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'";

fn header(length: usize, sequence: u8, plain: usize) -> Vec<u8> {
    let ([l0, l1, l2, ..], [p0, p1, p2, ..]) = (length.to_le_bytes(), plain.to_le_bytes());
    vec![l0, l1, l2, sequence, p0, p1, p2]
}

fn packed(algorithm: Algorithm, sequence: u8, bytes: &[u8]) -> Vec<u8> {
    PACKER.with_borrow_mut(|packer| packer.pack(algorithm, sequence, bytes).expect("it packs").to_vec())
}

/// What comes out of these bytes, read in pieces of `piece` bytes, and how it ends.
async fn unpack(algorithm: Algorithm, bytes: &[u8], piece: usize) -> (Vec<u8>, io::Result<()>) {
    let (near, mut far) = UnixStream::pair().expect("a socket pair");
    let mut stream = Compressed::new(near, algorithm);
    let send = async move {
        for part in bytes.chunks(1 << 16) {
            if far.write_all(part).await.is_err() {
                return;
            }
        }
    };
    let receive = async move {
        let mut out = Vec::new();
        let mut buffer = vec![0; piece];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return (out, Ok(())),
                Ok(count) => out.extend_from_slice(&buffer[..count]),
                Err(error) => return (out, Err(error)),
            }
        }
    };
    tokio::join!(send, receive).1
}

async fn check_error(algorithm: Algorithm, bytes: &[u8], expected: &str) {
    let (_, end) = unpack(algorithm, bytes, 1000).await;
    let error = end.expect_err("it is not right").to_string();
    assert_eq!(error, expected, "{:?}", &bytes[..bytes.len().min(40)]);
}

#[tokio::test]
async fn packets_of_every_kind() {
    let long: Vec<u8> = (0..300_000u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
    for algorithm in [Algorithm::Zlib, ZSTD_3, Algorithm::Zstd(ZstdLevel(22))] {
        let mut bytes = header(4, 0, 0);
        bytes.extend_from_slice(b"\x01\0\0\0");
        // The next command begins at 0 again; an empty packet says nothing.
        bytes.extend_from_slice(&packed(algorithm, 0, QUERY));
        bytes.extend_from_slice(&header(0, 1, 0));
        for (number, part) in long.chunks(100_000).enumerate() {
            bytes.extend_from_slice(&packed(algorithm, 2 + number as u8, part));
        }
        assert!(bytes.len() < long.len() / 2, "{algorithm:?} compresses: {}", bytes.len());
        for piece in [1, 7, 16 << 10, 1 << 20] {
            let (out, end) = unpack(algorithm, &bytes, piece).await;
            assert!(end.is_ok(), "{algorithm:?} {piece}: {end:?}");
            assert!(out == [b"\x01\0\0\0", QUERY, &long].concat(), "{algorithm:?} {piece}");
        }
    }
}

#[test]
fn what_is_small_or_random_goes_as_it_is() {
    let random: Vec<u8> =
        (0..1000u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    for algorithm in [Algorithm::Zlib, ZSTD_3] {
        let small = packed(algorithm, 7, &[0; 49]);
        assert_eq!(small, [header(49, 7, 0), vec![0; 49]].concat());
        let small = packed(algorithm, 255, &[0; 50]);
        assert!(small.len() < 40 && small[4] == 50, "{small:?}");
        let random = random.iter().fold((Vec::new(), 1u32), |(mut out, state), byte| {
            let state = state.wrapping_mul(1_103_515_245).wrapping_add(12345 + u32::from(*byte));
            out.push((state >> 16) as u8);
            (out, state)
        });
        for _ in 0..2 {
            let packet = packed(algorithm, 0, &random.0);
            assert_eq!(packet, [&header(4000, 0, 0)[..], &random.0].concat());
        }
    }
}

#[tokio::test]
async fn what_a_client_may_not_send() {
    let cut = "unexpected end of file";
    let length = "malformed packet: a compressed packet has another length than it says";
    let garbage = "malformed packet: a compressed packet cannot be decompressed";
    for algorithm in [Algorithm::Zlib, ZSTD_3] {
        let good = packed(algorithm, 0, QUERY);
        let with = |plain: usize| [&header(good.len() - HEADER, 0, plain)[..], &good[HEADER..]].concat();
        check_error(algorithm, &with(QUERY.len() - 1), length).await;
        check_error(algorithm, &with(QUERY.len() + 1), length).await;
        check_error(algorithm, &with(1), length).await;
        check_error(algorithm, &with(0xFF_FFFF), length).await;
        // More behind the end than the packet has.
        let mut more = good.clone();
        more[0] += 3;
        more.extend_from_slice(b"abc");
        check_error(algorithm, &more, length).await;
        // Less: the packet ends in the middle.
        let mut less = good.clone();
        less[0] -= 3;
        less.truncate(good.len() - 3);
        less.extend_from_slice(&header(1, 1, 0));
        check_error(algorithm, &less, length).await;
        check_error(algorithm, &good[..good.len() - 1], cut).await;
        check_error(algorithm, &good[..5], cut).await;
        check_error(algorithm, &[header(5, 0, 100), b"hello".to_vec()].concat(), garbage).await;
        let gap = [good.clone(), header(1, 2, 0)].concat();
        check_error(algorithm, &gap, "packets out of order: number 2 came, 1 was due").await;
    }
    let mut bent = packed(Algorithm::Zlib, 0, QUERY);
    *bent.last_mut().expect("not empty") ^= 1;
    check_error(Algorithm::Zlib, &bent, garbage).await;
    // A zstd frame that wants a window of 128 MiB.
    let frame = b"\x28\xb5\x2f\xfd\x00\x88\x01\0\0";
    check_error(ZSTD_3, &[header(frame.len(), 0, 100), frame.to_vec()].concat(), garbage).await;
}

/// A packet that swells a thousandfold comes out piece by piece; nobody who reads little pays for much.
#[tokio::test]
async fn a_bomb_takes_no_memory() {
    const SIZE: usize = 0xFF_FFFF;
    let mut zlib = Compress::new(Compression::best(), true);
    let mut bomb = Vec::with_capacity(1 << 20);
    zlib.compress_vec(&vec![0; SIZE], &mut bomb, FlushCompress::Finish).expect("it packs");
    let bytes = [header(bomb.len(), 0, SIZE), bomb].concat();
    assert!(bytes.len() < 20_000);
    let (near, mut far) = UnixStream::pair().expect("a socket pair");
    far.write_all(&bytes).await.expect("it fits");
    let mut stream = Compressed::new(near, Algorithm::Zlib);
    let mut buffer = vec![1; 1000];
    stream.read_exact(&mut buffer).await.expect("zeros");
    assert!(buffer.iter().all(|byte| *byte == 0));
    assert!(stream.received.capacity() <= 1 << 16 && stream.outgoing.capacity() == 0);
}

#[tokio::test]
async fn a_writer_waits_for_its_reader() {
    let (near, far) = UnixStream::pair().expect("a socket pair");
    let (mut near, mut far) = (Compressed::new(near, ZSTD_3), Compressed::new(far, ZSTD_3));
    // Hardly to be compressed, and more than a socket holds.
    let data: Vec<u8> =
        (0..2_000_000u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect();
    let send = async {
        near.write_all(&data).await.expect("it is taken");
        near.flush().await.expect("it is taken");
        near.shutdown().await.expect("it is open");
    };
    let mut out = Vec::new();
    let (_, read) = tokio::join!(send, far.read_to_end(&mut out));
    assert_eq!(read.expect("it ends"), data.len());
    assert!(out == data);
}

#[test]
fn levels() {
    assert_eq!(
        [0, 1, 22, 23, 255].map(|level| ZstdLevel::new(level).is_some()),
        [false, true, true, false, false]
    );
}

proptest! {
    /// Whatever comes, there is an end and no panic.
    #[test]
    fn anything(bytes: Vec<u8>, plain in 0usize..300, zlib: bool, piece in 1usize..40) {
        let algorithm = if zlib { Algorithm::Zlib } else { ZSTD_3 };
        let framed = [header(bytes.len(), 0, plain), bytes.clone()].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let _ = unpack(algorithm, &bytes, piece).await;
            let _ = unpack(algorithm, &framed, piece).await;
        });
    }
}
