//! Each reason to refuse bytes, and the error that says so.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::wire::{WireError, decode_entries, decode_membership, decode_message};
use raft_core::{
    Body, Entries, LogId, LogIndex, Membership, MembershipError, Message, NodeId, NotConsecutive, Term,
};

use crate::{commands, id, joint, membership_bytes, message_bytes, nodes};

#[test]
fn each_refusal_says_why() {
    let base = Message {
        from: NodeId::new(1),
        to: NodeId::new(2),
        term: Term::new(3),
        body: Body::RequestVoteReply { granted: true },
    };
    let refusal = |at: usize, value: &[u8]| {
        let mut bytes = message_bytes(&base);
        bytes[at..at + value.len()].copy_from_slice(value);
        decode_message(bytes.into()).unwrap_err()
    };
    assert_eq!(refusal(0, &[2]), WireError::Version(2));
    assert_eq!(refusal(2, &[0]), WireError::Unknown { of: "the kind of message", found: 0 });
    assert_eq!(refusal(2, &[7]), WireError::Unknown { of: "the kind of message", found: 7 });
    assert_eq!(refusal(2, &[1]), WireError::Truncated);
    assert_eq!(refusal(19, &u64::MAX.to_le_bytes()), WireError::Term(u64::MAX));
    assert_eq!(refusal(19, &Term::LIMIT.get().to_le_bytes()), WireError::Term(Term::LIMIT.get()));
    assert_eq!(refusal(27, &[2]), WireError::Unknown { of: "granted", found: 2 });
    let vote = |index: u64| {
        let body = Body::RequestVote { last: LogId::new(Term::ZERO, LogIndex::new(index)) };
        decode_message(message_bytes(&Message { body, ..base.clone() }).into())
    };
    let limit = LogIndex::LIMIT.get();
    assert!(vote(limit - 1).is_ok());
    assert_eq!(vote(limit), Err(WireError::Index(limit)));
    let longer = [message_bytes(&base).as_slice(), &[0]].concat();
    assert_eq!(decode_message(longer.into()), Err(WireError::Trailing { bytes: 1 }));
}

/// A block by hand, so that wrong ones can be made.
fn block(kind: u8, first: LogId, count: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&first.term.get().to_le_bytes());
    out.extend_from_slice(&first.index.get().to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn decode_blocks(blocks: &[Vec<u8>]) -> Result<Entries, WireError> {
    let count = u32::try_from(blocks.len()).unwrap().to_le_bytes().to_vec();
    decode_entries([count, blocks.concat()].concat().into())
}

#[test]
fn impossible_entries_are_refused() {
    const NOOP: u8 = 1;
    const COMMANDS: u8 = 2;
    let limit = LogIndex::LIMIT.get();
    let misfit = |first, count| Err(WireError::Block { first, count });
    let gap = |after, next| Err(WireError::NotConsecutive(NotConsecutive { after, next }));

    assert_eq!(decode_blocks(&[]), Ok(Entries::empty()));
    assert_eq!(decode_blocks(&[block(NOOP, id(1, limit - 1), 1, &[])]), Ok(Entries::noop(id(1, limit - 1))));
    assert_eq!(decode_blocks(&[block(NOOP, id(1, 0), 1, &[])]), Err(WireError::Index(0)));
    assert_eq!(decode_blocks(&[block(NOOP, id(0, 1), 1, &[])]), Err(WireError::Term(0)));
    assert_eq!(decode_blocks(&[block(NOOP, id(1, limit), 1, &[])]), Err(WireError::Index(limit)));
    // Two empty commands, the second at the limit.
    let two = block(COMMANDS, id(1, limit - 1), 2, &[0; 8]);
    assert_eq!(decode_blocks(&[two]), Err(WireError::Index(limit)));
    let kind = WireError::Unknown { of: "the kind of block", found: 4 };
    assert_eq!(decode_blocks(&[block(4, id(1, 1), 1, &[])]), Err(kind));
    assert_eq!(decode_blocks(&[block(NOOP, id(1, 1), 1, b"x")]), misfit(id(1, 1), 1));
    assert_eq!(decode_blocks(&[block(NOOP, id(1, 1), 2, &[])]), misfit(id(1, 1), 2));
    assert_eq!(decode_blocks(&[block(COMMANDS, id(1, 1), 0, &[])]), misfit(id(1, 1), 0));
    // Ends: too few bytes for them, falling, not at the end of the data.
    assert_eq!(decode_blocks(&[block(COMMANDS, id(1, 1), u32::MAX, b"abc")]), misfit(id(1, 1), u32::MAX));
    let packed = |ends: [u32; 2]| {
        let ends = ends.iter().flat_map(|end| end.to_le_bytes());
        decode_blocks(&[block(
            COMMANDS,
            id(1, 1),
            2,
            &b"abc".iter().copied().chain(ends).collect::<Vec<_>>(),
        )])
    };
    assert_eq!(packed([1, 3]), Ok(commands(id(1, 1), [b"a".to_vec(), b"bc".to_vec()])));
    assert_eq!(packed([4, 3]), misfit(id(1, 1), 2));
    assert_eq!(packed([1, 2]), misfit(id(1, 1), 2));
    assert_eq!(packed([1, 4]), misfit(id(1, 1), 2));
    // Each sound alone, but not after one another.
    let pair = |second| decode_blocks(&[block(NOOP, id(5, 7), 1, &[]), block(NOOP, second, 1, &[])]);
    assert_eq!(pair(id(6, 8)).map(|entries| entries.len()), Ok(2));
    assert_eq!(pair(id(5, 9)), gap(id(5, 7), id(5, 9)));
    assert_eq!(pair(id(5, 7)), gap(id(5, 7), id(5, 7)));
    assert_eq!(pair(id(4, 8)), gap(id(5, 7), id(4, 8)));
    // Claims without bytes behind them.
    assert_eq!(decode_entries(Bytes::from_static(&[0xff; 4])), Err(WireError::Truncated));
    let mut huge = block(COMMANDS, id(1, 1), 1, &[]);
    huge[21..25].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(decode_blocks(&[huge]), Err(WireError::Truncated));
}

#[test]
fn impossible_memberships_are_refused() {
    let of = |n: u64| Membership::of_voters([(NodeId::new(n), Bytes::from_static(b"a"))].into());
    let sound = membership_bytes(&joint());
    let voters = |ids: [u64; 2]| {
        let mut bytes = sound.clone();
        bytes[4..12].copy_from_slice(&ids[0].to_le_bytes());
        bytes[12..20].copy_from_slice(&ids[1].to_le_bytes());
        decode_membership(&bytes)
    };
    assert_eq!(voters([1, 4]), Ok(joint()));
    assert_eq!(voters([4, 1]), Err(WireError::Unsorted(NodeId::new(1))), "another order of the same set");
    assert_eq!(voters([4, 4]), Err(WireError::Unsorted(NodeId::new(4))), "twice the same node");
    let stranger = MembershipError::NoAddress(NodeId::new(5));
    assert_eq!(voters([1, 5]), Err(WireError::Membership(stranger)));
    // One broken rule each; `encode_membership` writes down what it is given.
    let broken = |membership: &Membership| decode_membership(&membership_bytes(membership));
    assert_eq!(broken(&Membership::default()), Err(WireError::Membership(MembershipError::NoVoters)));
    let votes = MembershipError::LearnerVotes(NodeId::new(1));
    assert_eq!(broken(&Membership { learners: nodes(&[1]), ..of(1) }), Err(WireError::Membership(votes)));
    let stays = MembershipError::NotOutgoing(NodeId::new(1));
    assert_eq!(
        broken(&Membership { learners_next: nodes(&[1]), ..of(1) }),
        Err(WireError::Membership(stays))
    );
    assert_eq!(decode_membership(&[0xff; 4]), Err(WireError::Truncated));
    // Inside entries it is judged by the same rules, and must fill its block.
    let entry = |body: &[u8]| decode_blocks(&[block(3, id(1, 1), 1, body)]);
    assert_eq!(entry(&sound), Ok(Entries::membership(id(1, 1), Arc::new(joint()))));
    assert_eq!(entry(&[sound.as_slice(), &[0]].concat()), Err(WireError::Trailing { bytes: 1 }));
    assert_eq!(entry(&[]), Err(WireError::Truncated));
}
