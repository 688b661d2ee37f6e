//! Each reason to refuse bytes, and the error that says so.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::wire::{WireError, decode_entries, decode_membership, decode_message, decode_snapshot_meta};
use raft_core::{
    Body, Entries, InstallProgress, LogId, LogIndex, Membership, MembershipError, Message, NodeId,
    NotConsecutive, QuestionId, SnapshotMeta, SnapshotMetaError, Target, Term, TermRun,
};

use crate::{commands, id, joint, membership_bytes, message_bytes, meta, meta_bytes, nodes, run};

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
    assert_eq!(refusal(0, &[1]), WireError::Version(1), "from before the first release");
    assert_eq!(refusal(0, &[4]), WireError::Version(4));
    assert_eq!(refusal(2, &[0]), WireError::Unknown { of: "the kind of message", found: 0 });
    assert_eq!(refusal(2, &[12]), WireError::Unknown { of: "the kind of message", found: 12 });
    assert_eq!(refusal(2, &[1]), WireError::Truncated);
    assert_eq!(refusal(19, &u64::MAX.to_le_bytes()), WireError::Term(u64::MAX));
    assert_eq!(refusal(19, &Term::LIMIT.get().to_le_bytes()), WireError::Term(Term::LIMIT.get()));
    assert_eq!(refusal(27, &[2]), WireError::Unknown { of: "granted", found: 2 });
    let vote = |index: u64| {
        let body = Body::RequestVote { last: LogId::new(Term::ZERO, LogIndex::new(index)), transfer: false };
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
    let nowhere = Membership { intent: Some(Target::default()), ..of(1) };
    assert_eq!(broken(&nowhere), Err(WireError::Membership(MembershipError::NoVoters)));
    assert_eq!(decode_membership(&[0xff; 4]), Err(WireError::Truncated));
    // Inside entries it is judged by the same rules, and must fill its block.
    let entry = |body: &[u8]| decode_blocks(&[block(3, id(1, 1), 1, body)]);
    assert_eq!(entry(&sound), Ok(Entries::membership(id(1, 1), Arc::new(joint()))));
    assert_eq!(entry(&[sound.as_slice(), &[0]].concat()), Err(WireError::Trailing { bytes: 1 }));
    assert_eq!(entry(&[]), Err(WireError::Truncated));
}

#[test]
fn impossible_snapshots_are_refused() {
    // `encode_snapshot_meta` writes down what it is given.
    let broken = |change: &dyn Fn(&mut SnapshotMeta)| {
        let mut meta = meta();
        change(&mut meta);
        decode_snapshot_meta(&meta_bytes(&meta))
    };
    let refused = |error: SnapshotMetaError| Err(WireError::Snapshot(error));
    assert_eq!(broken(&|_| {}), Ok(meta()));
    assert!(broken(&|meta| meta.terms = [].into()).is_ok(), "nothing need be known of earlier terms");
    assert_eq!(broken(&|meta| meta.id.last = id(2, 0)), refused(SnapshotMetaError::Index(LogIndex::ZERO)));
    assert_eq!(broken(&|meta| meta.id.last = id(0, 9)), refused(SnapshotMetaError::Term(Term::ZERO)));
    let limit = LogIndex::LIMIT.get();
    assert_eq!(broken(&|meta| meta.id.last = id(2, limit)), Err(WireError::Index(limit)));
    for outside in [0, 10] {
        let index = LogIndex::new(outside);
        let error = SnapshotMetaError::MembershipIndex(index);
        assert_eq!(broken(&|meta| meta.membership_index = index), refused(error));
    }
    let of_nobody = |meta: &mut SnapshotMeta| meta.membership = Arc::new(Membership::default());
    assert_eq!(broken(&of_nobody), Err(WireError::Membership(MembershipError::NoVoters)));
    let terms = |runs: &[TermRun]| broken(&|meta| meta.terms = runs.into());
    let misfit = refused(SnapshotMetaError::Terms(id(2, 9)));
    assert_eq!(terms(&[run(1, 4)]), misfit, "it ends in an earlier term");
    assert_eq!(terms(&[run(2, 10)]), misfit, "its last term begins behind it");
    assert_eq!(terms(&[run(1, 4), run(1, 5), run(2, 6)]), misfit, "a term twice");
    assert_eq!(terms(&[run(1, 6), run(2, 6)]), misfit, "an empty run");
    assert_eq!(terms(&[run(1, 0), run(2, 6)]), misfit, "before the log");
    assert_eq!(terms(&[run(0, 1), run(2, 6)]), misfit, "before the first term");
    // A claim of too many runs is not even looked at.
    let mut many = meta_bytes(&meta());
    many[56..60].copy_from_slice(&65u32.to_le_bytes());
    assert_eq!(decode_snapshot_meta(&many), misfit);
    assert_eq!(
        decode_snapshot_meta(&[meta_bytes(&meta()).as_slice(), &[0]].concat()),
        Err(WireError::Trailing { bytes: 1 })
    );
}

#[test]
fn impossible_parts_of_new_kinds_are_refused() {
    let message = |body| Message { from: NodeId::new(1), to: NodeId::new(2), term: Term::new(3), body };
    let refusal = |body: Body, at: usize, value: &[u8]| {
        let mut bytes = message_bytes(&message(body));
        let at = 27 + at;
        bytes[at..at + value.len()].copy_from_slice(value);
        decode_message(bytes.into()).unwrap_err()
    };
    let unknown = |of| WireError::Unknown { of, found: 3 };
    let limit = LogIndex::LIMIT.get();
    let vote = Body::RequestVote { last: id(1, 1), transfer: false };
    assert_eq!(refusal(vote, 16, &[3]), unknown("transfer"));

    let data = Bytes::from_static(b"abc");
    let chunk = Body::InstallSnapshot { meta: Arc::new(meta()), offset: 0, data, done: false, round: 1 };
    assert_eq!(refusal(chunk.clone(), 8, &[3]), unknown("done"));
    assert_eq!(
        refusal(chunk.clone(), 17, &u32::MAX.to_le_bytes()),
        WireError::Truncated,
        "a length without bytes"
    );
    let early = WireError::Snapshot(SnapshotMetaError::Term(Term::ZERO));
    assert_eq!(refusal(chunk, 24, &[0]), early, "what is known of the snapshot is judged as elsewhere");

    let installed = InstallProgress::Installed(LogIndex::new(1));
    let reply = Body::InstallSnapshotReply { id: meta().id, progress: installed, round: 1 };
    let unknown_progress = WireError::Unknown { of: "progress", found: 4 };
    assert_eq!(refusal(reply.clone(), 40, &[4]), unknown_progress);
    assert_eq!(refusal(reply.clone(), 40, &[1]), WireError::Trailing { bytes: 8 }, "busy says nothing more");
    assert_eq!(refusal(reply, 41, &limit.to_le_bytes()), WireError::Index(limit));

    let id = QuestionId { incarnation: 1, seq: 2 };
    let answer = Body::ReadIndexReply { id, index: Some(LogIndex::new(4)) };
    assert_eq!(refusal(answer.clone(), 16, &[3]), unknown("answered"));
    assert_eq!(refusal(answer.clone(), 16, &[0]), WireError::Trailing { bytes: 8 });
    assert_eq!(refusal(answer, 17, &limit.to_le_bytes()), WireError::Index(limit));
    let longer = [message_bytes(&message(Body::TimeoutNow)).as_slice(), &[0]].concat();
    assert_eq!(decode_message(longer.into()), Err(WireError::Trailing { bytes: 1 }));
}
