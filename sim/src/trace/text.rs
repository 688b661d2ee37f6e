//! Records as the protocol lines that people read: `12.345678 n1@2 → n3 AppendEntries …`.

use std::fmt;

use super::said::Ids;
use super::{Record, Request, What};

/// What a node takes in is told no longer than this: the rest is payload.
const EVENT_BYTES_MAX: usize = 100;

/// A record without its time.
struct Line<'a>(&'a Record);

impl Record {
    /// The protocol line, without the time.
    #[must_use]
    pub fn line(&self) -> String {
        Line(self).to_string()
    }
}

/// The protocol line, behind the time in seconds.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Seconds(self.at_ns), Line(self))
    }
}

struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 / 1_000;
        write!(f, "{:>3}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { node, what, state, core, .. } = self.0;
        let n = node.map(|node| format!("n{node}")).unwrap_or_default();
        // With its term, for what the protocol does.
        let at = state.as_ref().map(|state| format!("{n}@{}", state.term)).unwrap_or_else(|| n.clone());
        match what {
            What::Begins { seed, servers, scenario } => {
                write!(f, "---- seed {seed}, {servers} servers ----")?;
                scenario.iter().try_for_each(|line| write!(f, "\n           {line}"))
            }
            What::MajorityHealed { nodes } => {
                f.write_str("---- a majority is healed:")?;
                nodes.iter().try_for_each(|node| write!(f, " n{node}"))?;
                f.write_str(" ----")
            }
            What::FaultsOver => f.write_str("---- the faults are over ----"),
            What::AtRest => f.write_str("---- at rest ----"),
            What::Broken { checker, found } => write!(f, "BROKEN {checker}: {found}"),
            What::Fault { fault, nodes, cuts, until_ns, more } => {
                write!(f, "FAULT {fault}")?;
                nodes.iter().try_for_each(|node| write!(f, " n{node}"))?;
                if let Some((from, to)) = cuts.first() {
                    write!(f, ", cuts n{from} ⇥ n{to}")?;
                    cuts[1..].iter().try_for_each(|(from, to)| write!(f, " n{from} ⇥ n{to}"))?;
                }
                more.iter().try_for_each(|(name, value)| write!(f, ", {name} {value}"))?;
                until_ns.map_or(Ok(()), |until| write!(f, ", until {}", Seconds(until).to_string().trim()))
            }
            What::Starts { base, last, snapshot, applied } => {
                write!(f, "{n} starts, log {base} to {last}, snapshot {snapshot}, applied {applied}")
            }
            What::Refuses { why } => write!(f, "{n} REFUSES to start: {why}"),
            What::Crashes { kept_bytes, unsynced_bytes } => {
                write!(f, "{n} CRASHES, {kept_bytes} of {unsynced_bytes} unsynced bytes survive")
            }
            What::DropsNode { why } => write!(f, "{n} DROPS its node: {why}"),
            What::SwitchedOff => write!(f, "operator switches {n} off"),
            What::Bootstraps { alien } => {
                write!(f, "{n} bootstraps{}", if *alien { " with another set" } else { "" })
            }
            What::Takes { event } => {
                let text = core.as_ref().unwrap_or(event);
                let end = text.floor_char_boundary(EVENT_BYTES_MAX);
                write!(f, "{at} takes {}{}", &text[..end], if end < text.len() { "…" } else { "" })
            }
            What::Becomes { role } => write!(f, "{at} is {role:?}"),
            What::Votes { candidate } => write!(f, "{at} votes for n{candidate}"),
            What::Commits { through } => write!(f, "{at} commits through {through}"),
            What::Notes { notice } => write!(f, "{n} notes {notice:?}"),
            What::Connects { peers } => write!(f, "{n} connects to {peers:?}"),
            What::Sent { message, arrives_ns, .. } => {
                write!(f, "{message}{}", if arrives_ns.is_empty() { "  (lost)" } else { "" })
            }
            What::Delivered { message, .. } => write!(f, "{n} ← {message}"),
            What::Swallowed { message, why, .. } => write!(f, "{n} ← {message}  ({why})"),
            What::Writes { write, hard_state, reset_to, entries } => {
                write!(f, "{n} writes #{write}")?;
                if let Some(hard_state) = hard_state {
                    write!(f, " term {}", hard_state.term)?;
                    hard_state.voted_for.map_or(Ok(()), |candidate| write!(f, " vote n{candidate}"))?;
                }
                reset_to.map_or(Ok(()), |base| write!(f, " begins anew behind {base}"))?;
                write!(f, " {}", Ids(entries))
            }
            What::Syncs { through } => write!(f, "{n} synced #{through}"),
            What::Compacts { through } => write!(f, "{n} compacts through {through}"),
            What::ReadsLog { from, through } => write!(f, "{n} reads its log from {from} through {through}"),
            What::Applied { through } => write!(f, "{n} applied through {through}"),
            What::TakesSnapshot { snapshot } => write!(f, "{n} takes snapshot {snapshot}"),
            What::TookSnapshot { snapshot, size_bytes } => {
                write!(f, "{n} has taken {snapshot}, {size_bytes} bytes")
            }
            What::LostSnapshot => write!(f, "{n} cannot keep its snapshot"),
            What::Restores { snapshot } => write!(f, "{n} restores snapshot {snapshot}"),
            What::Restored { through } => write!(f, "{n} restored through {through}"),
            What::ReadsChunk { snapshot, offset } => {
                write!(f, "{n} reads snapshot {snapshot} from {offset} on")
            }
            What::WritesChunk { snapshot, offset, bytes } => {
                write!(f, "{n} keeps {bytes} bytes of snapshot {snapshot} from {offset} on")
            }
            What::DropsSnapshot { snapshot } => write!(f, "{n} drops snapshot {snapshot}"),
            What::Asks { client, ticket, requests } => {
                write!(f, "c{client} → {n} ")?;
                for (number, Request { op, write, key }) in requests.iter().enumerate() {
                    f.write_str(if number > 0 { ", " } else { "" })?;
                    if *write { write!(f, "put k{key}={op}")? } else { write!(f, "read k{key} (#{op})")? }
                }
                write!(f, " ticket {ticket}")
            }
            What::GivesUp { client, op, how } => write!(f, "c{client} {how} #{op}"),
            What::Answers { client, op, write, outcome } => {
                write!(f, "{n} → c{client} {outcome} for {} #{op}", if *write { "put" } else { "read" })
            }
            What::Serves { client, op, key, saw } => {
                write!(f, "{n} → c{client} read #{op} k{key}=")?;
                match saw {
                    Some(saw) => write!(f, "{saw}"),
                    None => f.write_str("nothing"),
                }
            }
            What::Orders { errand, order } => {
                write!(f, "operator → {n} {order}")?;
                errand.map_or(Ok(()), |errand| write!(f, " errand {errand}"))
            }
            What::Reports { errand, outcome } => write!(f, "{n} answers {errand}: {outcome}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Run, State};
    use raft_core::{Membership, NodeId};

    fn record(what: What) -> Record {
        let status = crate::testing::status(1, 2);
        let state = State::of(&status, &Membership::default());
        Record { at_ns: 12_345_678_901, node: Some(NodeId::new(1)), what, state: Some(state), core: None }
    }

    #[test]
    fn lines_read_as_protocol() {
        let message = crate::testing::message(1, 3, 2, raft_core::Body::TimeoutNow);
        let lost = What::Sent { id: 1, message: (&message).into(), arrives_ns: vec![] };
        assert_eq!(record(lost).to_string(), " 12.345678 n1@2 → n3 TimeoutNow  (lost)");
        assert_eq!(
            record(What::Commits { through: crate::testing::index(7) }).line(),
            "n1@2 commits through 7"
        );
        let entries = Run::of(&crate::testing::puts(5, 2, &[1]));
        let hard_state = crate::testing::hard_state(2, 1);
        let writes = What::Writes { write: 4, hard_state, reset_to: None, entries };
        assert_eq!(record(writes).line(), "n1 writes #4 term 2 vote n1 [5@2]");
        let cuts = vec![(NodeId::new(1), NodeId::new(2)), (NodeId::new(2), NodeId::new(1))];
        let fault = What::Fault {
            fault: "partition".to_owned(),
            nodes: vec![NodeId::new(1)],
            cuts,
            until_ns: Some(13_000_000_000),
            more: Default::default(),
        };
        let line = "FAULT partition n1, cuts n1 ⇥ n2 n2 ⇥ n1, until 13.000000";
        assert_eq!(record(fault).line(), line);
    }
}
