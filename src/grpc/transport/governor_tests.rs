//! Tests the limits on what a client may send on a connection, and when the connection is read.

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.resize(HEAD_BYTES + length as usize, 0xee);
    bytes
}

fn governed() -> GovernedSocket<()> {
    GovernedSocket::new((), &Throttle::new(&UnsentRefusals::default())).0
}

#[test]
fn frame_headers_are_found_in_pieces_of_any_length() {
    let frames = [
        (4, 0, 0, 0),
        (1, 5, 3, 70),
        (0, 1, 3, 16384),
        (8, 0, 0x8000_0005, 4),
    ];
    let bytes = frames.map(|(kind, flags, stream, length)| frame(kind, flags, stream, length));
    let bytes = [vec![0xff; PREFACE_BYTES], bytes.concat()].concat();
    for piece in [1, 2, 9, 10, 100, usize::MAX] {
        let (mut scanner, mut heads) = (Scanner::new(PREFACE_BYTES), Vec::new());
        for piece in bytes.chunks(piece) {
            scanner.scan(piece, |head| heads.push(head));
        }
        let found = heads
            .iter()
            .map(|head| (head.kind, head.flags, head.stream, head.length));
        assert!(found.eq(frames.map(|(kind, flags, stream, length)| (
            kind,
            flags,
            stream & 0x7fff_ffff,
            length
        ))));
        assert!(scanner.is_between_frames());
        scanner.scan(&[0], |_| ());
        assert!(!scanner.is_between_frames());
    }
}

/// Returns the number of these frames that pass before the allowance is used up.
fn passed(frame: &[u8]) -> u64 {
    let mut governed = governed();
    assert!(governed.receive(&[0; PREFACE_BYTES]));
    (0..).take_while(|_| governed.receive(frame)).count() as u64
}

#[test]
fn a_flood_of_any_frame_is_cut_and_calls_of_any_number_pass() {
    for (name, flood, cost) in [
        ("SETTINGS", frame(4, 0, 0, 6), SETTINGS_COST),
        ("PING", frame(6, 0, 0, 8), 1),
        ("WINDOW_UPDATE", frame(8, 0, 0, 4), 1),
        ("PRIORITY", frame(2, 0, 1, 5), 1),
        ("RST_STREAM", frame(3, 0, 1, 4), 1),
        ("unknown", frame(0xfa, 0, 0, 0), 1),
        ("long unknown", frame(0xfa, 0, 0, 16384), 65),
        ("CONTINUATION", frame(9, 0, 1, 0), CONTINUATION_COST),
        ("DATA of one byte", frame(0, 0, 1, 1), 1),
        ("empty DATA", frame(0, 0, 1, 0), 1),
    ] {
        let count = passed(&flood);
        // The allowance grows while the test runs.
        let room = FRAMES_EACH_SECOND * 60;
        assert!(
            (FRAMES_BURST / cost..=(FRAMES_BURST + room) / cost).contains(&count),
            "{name}: {count}"
        );
    }
    let mut governed = governed();
    assert!(governed.receive(&[0; PREFACE_BYTES]));
    for call in 0..100_000 {
        let stream = 2 * call + 1;
        for frame in [
            frame(1, 4, stream, 60),
            frame(0, 1, stream, 100),
            frame(8, 0, 0, 4),
            frame(8, 0, stream, 4),
            frame(6, 0, 0, 8),
            frame(3, 0, stream, 4),
        ] {
            assert!(governed.receive(&frame), "call {call}");
        }
    }
    // A long stream passes: it has an answer for each message, and for each answer the frames that a usual client
    // sends.
    for _ in 0..100_000 {
        assert!(governed.receive(&frame(0, 0, 199_999, 80)));
        governed.send(&frame(0, 0, 199_999, 70));
        for besides in [frame(8, 0, 0, 4), frame(8, 0, 199_999, 4), frame(6, 0, 0, 8)] {
            assert!(governed.receive(&besides));
        }
    }
}

#[test]
fn a_connection_with_many_unsent_refusals_is_not_read_and_other_connections_are() {
    let all = UnsentRefusals::default();
    let [one, other] = [(); 2].map(|()| Throttle::new(&all));
    other.call_admitted();
    let context = Context::from_waker(std::task::Waker::noop());
    let readable = |throttle: &Throttle| throttle.poll_readable(&context);
    let mut unsent: Vec<_> = (0..UNSENT_MAX).map(|_| one.count_unsent()).collect();
    assert!(readable(&one).is_pending());
    assert_eq!(readable(&other), Poll::Ready(false));
    unsent.pop();
    // A few bytes at a time, until one of the connection's calls is admitted again.
    assert_eq!(readable(&one), Poll::Ready(true));
    let crowd: Vec<_> = (0..UNSENT_OF_SERVICE_MAX)
        .map(|_| Throttle::new(&all).count_unsent())
        .collect();
    // Connections without unsent answers are read a few bytes at a time. Connections with unsent answers are not read.
    assert_eq!(readable(&other), Poll::Ready(true));
    assert!(readable(&one).is_pending());
    drop(crowd);
    one.call_admitted();
    assert_eq!(readable(&one), Poll::Ready(false));
    drop(unsent);
    assert_eq!(all.0.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn while_many_refusals_are_unsent_only_the_rest_of_a_frame_and_a_few_headers_are_read() {
    use tokio::io::AsyncReadExt;
    let all = UnsentRefusals::default();
    let _crowd: Vec<_> = (0..UNSENT_OF_SERVICE_MAX)
        .map(|_| Throttle::new(&all).count_unsent())
        .collect();
    let throttle = Throttle::new(&all);
    let bytes = [
        vec![0; PREFACE_BYTES],
        frame(0, 0, 1, 1000),
        frame(1, 4, 1, 60).repeat(100),
    ]
    .concat();
    let (mut governed, _cut_slot) = GovernedSocket::new(bytes.as_slice(), &throttle);
    let mut read = vec![0; 32 << 10];
    for expected in [PREFACE_BYTES + FEW_BYTES, 1000 + HEAD_BYTES] {
        throttle.begin_turn();
        assert_eq!(governed.read(&mut read).await.unwrap(), expected);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut buffer = ReadBuf::new(&mut read);
        assert!(
            Pin::new(&mut governed)
                .poll_read(&mut context, &mut buffer)
                .is_pending()
        );
    }
}

#[test]
fn long_trailers_take_more_from_the_allowance() {
    let mut governed = governed();
    assert!(governed.receive(&[0; PREFACE_BYTES]));
    assert!(governed.receive(&frame(1, 4, 9_999, 60)));
    let trailers = frame(1, 5, 1, 440);
    let count = (0..).take_while(|_| governed.receive(&trailers)).count() as u64;
    assert!(
        count <= (FRAMES_BURST + CALL_CREDIT + FRAMES_EACH_SECOND * 60) / 56,
        "{count}"
    );
}
