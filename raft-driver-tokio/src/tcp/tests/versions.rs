//! Releases that speak different versions.

use super::*;
use crate::tcp::handshake::Range;

fn speaking(protocol: (u16, u16), wire: (u16, u16)) -> Versions {
    let range = |(min, max)| Range { min, max };
    Versions { protocol: range(protocol), wire: range(wire) }
}

/// An older, today's and a newer release, as long as there is a version of today's that they speak.
fn releases() -> [Versions; 3] {
    let Versions { protocol, wire } = Versions::OURS;
    [
        speaking((protocol.min - 1, protocol.max), (wire.min - 1, wire.max)),
        Versions::OURS,
        speaking((protocol.max, protocol.max + 2), (wire.max, wire.max + 1)),
    ]
}

#[tokio::test]
async fn an_old_and_a_new_release_talk() {
    for old in releases() {
        for new in releases() {
            let mut listening = side_speaking(1, config(), old).await;
            let mut connecting = side_speaking(2, config(), new).await;
            connecting.peers(&[(1, listening.address.clone())]);
            let message = append(2, 1, &["understood"]);
            let received = loop {
                // What is sent before there is a connection is dropped.
                connecting.sender.send(message.clone());
                if let Ok(message) =
                    tokio::time::timeout(Duration::from_millis(20), listening.message()).await
                {
                    break message;
                }
            };
            assert_eq!(received, message);
            assert_eq!(((listening.stats)().refused_version, (listening.stats)().malformed), (0, 0));
        }
    }
}

#[tokio::test]
async fn releases_without_a_common_version_refuse_each_other() {
    let Versions { protocol, wire } = Versions::OURS;
    let others = [
        ("a newer protocol", speaking((protocol.max + 1, protocol.max + 9), (wire.min, wire.max))),
        ("an older protocol", speaking((0, protocol.min - 1), (wire.min, wire.max))),
        ("newer messages", speaking((protocol.min, protocol.max), (wire.max + 1, wire.max + 9))),
        ("older messages", speaking((protocol.min, protocol.max), (0, wire.min - 1))),
    ];
    for (what, other) in others {
        for (one, two) in [(Versions::OURS, other), (other, Versions::OURS)] {
            let mut listening = side_speaking(1, config(), one).await;
            let mut connecting = side_speaking(2, config(), two).await;
            connecting.peers(&[(1, listening.address.clone())]);
            let told = (told(&mut connecting).await, told(&mut listening).await);
            assert_eq!(told, ((Refusal::Version, true), (Refusal::Version, false)), "{what}");
            assert_eq!((connecting.stats)().connects, 0, "{what}");
        }
    }
}
