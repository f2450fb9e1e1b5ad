//! Recordings keep what was said, and name transactions by their begin.

use quickcheck::QuickCheck;
use xenstore::wire::{MessageType, frame};

use super::*;
use crate::rng::Rng;

#[test]
fn what_is_encoded_is_decoded() {
    fn property(seed: u64) -> bool {
        let mut rng = Rng::new(seed);
        let talks = (0..rng.below(4))
            .map(|_| {
                (0..rng.below(20))
                    .map(|_| Said {
                        pause_us: rng.next_u64() as u32 >> rng.below(32),
                        due: rng.below(5) as u32,
                        kind: rng.below(30) as u32,
                        tx: *rng.pick(&[TxOf::None, TxOf::Start(3), TxOf::Raw(u32::MAX)]),
                        payload: vec![b'x'; rng.below(300)],
                    })
                    .collect()
            })
            .collect();
        let mix = Mix::new("some tool", talks);
        let bytes = mix.encode();
        let cut = rng.below(bytes.len());
        Mix::decode(&bytes) == Ok(mix) && Mix::decode(&bytes[..cut]).is_err()
    }
    QuickCheck::new().quickcheck(property as fn(u64) -> bool);
}

#[test]
fn any_bytes_are_refused_or_read() {
    fn property(bytes: Vec<u8>) {
        let _ = Mix::decode(&bytes);
        let _ = Mix::decode(&[b"rvmmmix1", &bytes[..]].concat());
    }
    QuickCheck::new().tests(2000).quickcheck(property as fn(Vec<u8>));
}

#[test]
fn transactions_are_named_by_their_begin() {
    let mut recorder = Recorder::new(100);
    recorder.opened(7, 1000);
    let mut up = Vec::new();
    frame(MessageType::TransactionStart, 1, 0, b"\0", &mut up);
    recorder.said(7, &up, 1500);
    let mut down = Vec::new();
    frame(MessageType::WatchEvent, 0, 0, b"/a\0t\0", &mut down);
    frame(MessageType::TransactionStart, 1, 0, b"42\0", &mut down);
    // In pieces.
    recorder.heard(7, &down[..20]);
    recorder.heard(7, &down[20..]);
    let mut up = Vec::new();
    frame(MessageType::Read, 2, 42, b"/a\0", &mut up);
    frame(MessageType::Read, 3, 9, b"/a\0", &mut up);
    recorder.said(7, &up[..5], 1600);
    recorder.said(7, &up[5..], 1700);
    let mix = recorder.finish("x");
    let [talk] = mix.talks() else { panic!("one connection") };
    let brief: Vec<_> = talk.iter().map(|said| (said.pause_us, said.due, said.tx)).collect();
    assert_eq!(brief, [(500, 0, TxOf::None), (200, 0, TxOf::Start(0)), (0, 1, TxOf::Raw(9))]);
}

#[test]
fn the_committed_recordings_are_small_and_sound() {
    let mixes = Mix::committed();
    let bytes: usize = mixes.iter().map(|mix| mix.encode().len()).sum();
    assert!(bytes < 300 * 1024, "{bytes}");
    for mix in &mixes {
        assert!(!mix.is_empty(), "{}", mix.name());
    }
    assert!(mixes.len() >= 4, "tools, test-xenstore, pyxs and load");
}
