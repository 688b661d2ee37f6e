//! What a message did to a node, as a short name: so that a test can say which branches its schedules have reached.

use raft_core::{
    Action, AdminOutcome, Body, InstallProgress, LogTask, MachineTask, Message, ReadOutcome, Response,
    RoleKind, SnapshotTask, Status, WriteOutcome,
};

/// Every way in which a handler accepts or refuses, and every kind of outcome.
pub(crate) const EXPECTED: &[&str] = &[
    // what every message may be
    "misaddressed",
    "absurd",
    // elections
    "RequestVote granted",
    "RequestVote refused",
    "RequestVote sticky",
    "RequestVote waits for the disk",
    "RequestVote later term",
    "RequestVoteReply taken",
    "RequestVoteReply decided",
    "RequestVoteReply stale",
    "RequestVoteReply later term",
    "PreVote granted",
    "PreVote refused",
    "PreVote sticky",
    "PreVoteReply taken",
    "PreVoteReply decided",
    "PreVoteReply stale",
    "PreVoteReply later term",
    "TimeoutNow campaigned",
    "TimeoutNow stale",
    // replication
    "AppendEntries appended",
    "AppendEntries replaced",
    "AppendEntries acknowledged",
    "AppendEntries conflict",
    "AppendEntries stale",
    "AppendEntries violation",
    "AppendEntries overflowed",
    "AppendEntries later term",
    "AppendEntriesReply committed",
    "AppendEntriesReply taken",
    "AppendEntriesReply violation",
    "AppendEntriesReply stale",
    "AppendEntriesReply absurd",
    "AppendEntriesReply later term",
    // snapshots
    "InstallSnapshot chunk kept",
    "InstallSnapshot wants",
    "InstallSnapshot busy",
    "InstallSnapshot installed",
    "InstallSnapshot stale",
    "InstallSnapshot violation",
    "InstallSnapshot later term",
    "InstallSnapshotReply next chunk",
    "InstallSnapshotReply taken",
    "InstallSnapshotReply stale",
    "InstallSnapshotReply later term",
    // reads
    "ReadIndex vouched",
    "ReadIndex refused",
    "ReadIndex taken",
    "ReadIndex stale",
    "ReadIndexReply served",
    "ReadIndexReply refused",
    "ReadIndexReply stale",
    // outcomes
    "write Committed",
    "write Committed elsewhere",
    "write Superseded",
    "write Busy",
    "write NotLeader",
    "write Unknown",
    "read Busy",
    "read NotLeader",
    "read Unknown",
    "admin Done",
    "admin Transferred",
    "admin Unknown",
    "admin NotLeader",
    "admin ChangeInProgress",
    "admin NoEntryCommitted",
    "admin NoChange",
    "admin NoVoters",
    "admin UnknownNode",
    "admin NamedTwice",
    "admin NothingToCancel",
    "admin Cancelled",
    "admin TimedOut",
    "admin TransferInProgress",
    "admin OtherLeader",
    "admin NoSnapshotNeeded",
    "admin Snapshot",
    "admin NotAVoter",
    "admin NoOtherVoter",
    "admin AlreadyLeader",
    "admin LeaderAlive",
    "admin NotDurable",
    "admin NotPristine",
    "admin NotAMember",
    // what a node does by itself
    "restores",
    "compacts",
    "resets its log",
    "reads its log",
    "forgets a snapshot",
];

/// What a message did: `said` is what came out of the node because of it.
pub(crate) fn of_message(before: &Status, after: &Status, message: &Message, said: &[Action]) -> String {
    let name = message.body.name();
    let (was, is) = (&before.counters, &after.counters);
    let what = if is.misaddressed > was.misaddressed {
        return "misaddressed".to_owned();
    } else if is.absurd > was.absurd {
        if name != "AppendEntriesReply" {
            return "absurd".to_owned();
        }
        "absurd"
    } else if is.violations > was.violations {
        "violation"
    } else if is.overflowed > was.overflowed {
        "overflowed"
    } else if is.sticky > was.sticky {
        "sticky"
    } else if is.stale > was.stale {
        "stale"
    } else if after.term > before.term && message.term > before.term {
        "later term"
    } else {
        effect(before, after, &message.body, said)
    };
    format!("{name} {what}")
}

fn effect(before: &Status, after: &Status, body: &Body, said: &[Action]) -> &'static str {
    let replies = said.iter().filter_map(|action| match action {
        Action::Send(message) => Some(&message.body),
        _ => None,
    });
    let mut replies = replies.peekable();
    match body {
        Body::RequestVote { .. } => {
            match replies.find(|body| matches!(body, Body::RequestVoteReply { .. })) {
                Some(Body::RequestVoteReply { granted: true }) => "granted",
                Some(_) => "refused",
                None => "waits for the disk",
            }
        }
        Body::PreVote { .. } => match replies.find(|body| matches!(body, Body::PreVoteReply { .. })) {
            Some(Body::PreVoteReply { granted: true, .. }) => "granted",
            _ => "refused",
        },
        Body::RequestVoteReply { .. } | Body::PreVoteReply { .. } => {
            if after.role == before.role {
                "taken"
            } else {
                "decided"
            }
        }
        Body::TimeoutNow if after.role == RoleKind::Candidate => "campaigned",
        Body::AppendEntries { .. } => append_effect(before, after, said),
        Body::AppendEntriesReply { .. } if after.commit > before.commit => "committed",
        Body::InstallSnapshot { .. } => install_effect(said),
        Body::InstallSnapshotReply { .. } => {
            let chunk = |body: &Body| matches!(body, Body::InstallSnapshot { data, .. } if !data.is_empty());
            let read = |action: &Action| matches!(action, Action::Snapshot(SnapshotTask::Read { .. }));
            if replies.any(chunk) || said.iter().any(read) { "next chunk" } else { "taken" }
        }
        Body::ReadIndex { .. } => match replies.find(|body| matches!(body, Body::ReadIndexReply { .. })) {
            Some(Body::ReadIndexReply { index: Some(_), .. }) => "vouched",
            Some(_) => "refused",
            None => "taken",
        },
        Body::ReadIndexReply { .. } => {
            let serves = |action: &Action| matches!(action, Action::Machine(MachineTask::Serve(_)));
            let refuses = |action: &Action| matches!(action, Action::Respond(Response::Read { .. }));
            if said.iter().any(serves) {
                "served"
            } else if said.iter().any(refuses) {
                "refused"
            } else {
                "taken"
            }
        }
        Body::AppendEntriesReply { .. } | Body::TimeoutNow => "taken",
    }
}

fn append_effect(before: &Status, after: &Status, said: &[Action]) -> &'static str {
    let conflict = |action: &Action| {
        matches!(action, Action::Send(message)
            if matches!(message.body, Body::AppendEntriesReply { result: Err(_), .. }))
    };
    let replaced = said.iter().any(|action| match action {
        Action::Log(LogTask::Write(write)) => {
            write.entries.first().is_some_and(|first| first.index <= before.last.index)
        }
        _ => false,
    });
    if said.iter().any(conflict) {
        "conflict"
    } else if replaced {
        "replaced"
    } else if after.last > before.last {
        "appended"
    } else {
        "acknowledged"
    }
}

fn install_effect(said: &[Action]) -> &'static str {
    let found = said.iter().find_map(|action| match action {
        Action::Snapshot(SnapshotTask::Write { .. }) => Some("chunk kept"),
        Action::Send(message) => match message.body {
            Body::InstallSnapshotReply { progress, .. } => Some(match progress {
                InstallProgress::Wants(_) => "wants",
                InstallProgress::Busy => "busy",
                InstallProgress::Refused => "refused",
                InstallProgress::Installed(_) => "installed",
            }),
            _ => None,
        },
        _ => None,
    });
    let keeps = said.iter().any(|action| matches!(action, Action::Snapshot(SnapshotTask::Write { .. })));
    if keeps { "chunk kept" } else { found.unwrap_or("taken") }
}

/// What a node did by itself, and the outcomes that it gave.
pub(crate) fn of_action(action: &Action) -> Option<String> {
    let name = match action {
        Action::Respond(Response::Write { outcome, .. }) => match outcome {
            WriteOutcome::Committed { applied_here: false, .. } => "write Committed elsewhere".to_owned(),
            other => format!("write {}", word(other)),
        },
        Action::Respond(Response::Read { outcome, .. }) => read(outcome),
        Action::Respond(Response::Admin { outcome: AdminOutcome::Refused(refusal), .. }) => {
            format!("admin {}", word(refusal))
        }
        Action::Respond(Response::Admin { outcome, .. }) => format!("admin {}", word(outcome)),
        Action::Machine(MachineTask::Restore(_)) => "restores".to_owned(),
        Action::Log(LogTask::Compact { .. }) => "compacts".to_owned(),
        Action::Log(LogTask::Write(write)) if write.reset_to.is_some() => "resets its log".to_owned(),
        Action::ReadLog { .. } => "reads its log".to_owned(),
        Action::Snapshot(SnapshotTask::Forget(_)) => "forgets a snapshot".to_owned(),
        _ => return None,
    };
    Some(name)
}

fn read(outcome: &ReadOutcome) -> String {
    format!("read {}", word(outcome))
}

/// A variant's name.
fn word(value: &impl core::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.chars().take_while(|c| c.is_ascii_alphanumeric()).collect()
}
