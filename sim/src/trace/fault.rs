//! Faults as records show them: made from what a transcript says of them, so that a new kind needs nothing here.
//!
//! * Which links a kind cuts is known here for those that cut some; whatever else is drawn for a fault is told by its name.

use std::collections::BTreeMap;

use raft_core::NodeId;
use serde_json::Value;

use super::What;
use crate::clock::Nanos;
use crate::faults::Fault;

/// Parameters that name a server, counted from 0.
const SERVERS: [&str; 6] = ["server", "leader", "from", "to", "peer", "usurper"];

impl What {
    /// What goes wrong now, among so many servers.
    pub(crate) fn fault(fault: &Fault, now: Nanos, servers: usize) -> Self {
        let value = serde_json::to_value(fault).unwrap_or_default();
        let (name, mut more) = named(value);
        let id = |at: usize| NodeId::new(at as u64 + 1);
        let mut nodes = Vec::new();
        for name in SERVERS {
            if let Some(at) = more.remove(name).as_ref().and_then(Value::as_u64) {
                nodes.push(NodeId::new(at + 1));
            }
        }
        let until_ns = more.remove("lasts").as_ref().and_then(Value::as_u64).map(|lasts| now + lasts);
        let mut cuts = Vec::new();
        let others = |at: usize| (0..servers).filter(move |other| *other != at);
        match *fault {
            Fault::Partition { group, .. } => {
                more.remove("group");
                let inside = |at: &usize| (group >> at) & 1 == 1;
                let (one, other): (Vec<usize>, Vec<usize>) = (0..servers).partition(inside);
                for (a, b) in one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b))) {
                    cuts.extend([(id(a), id(b)), (id(b), id(a))]);
                }
                let smaller = if one.len() <= other.len() { one } else { other };
                nodes = smaller.into_iter().map(id).collect();
            }
            Fault::OneWay { from, to, .. } => cuts.push((id(from), id(to))),
            Fault::Isolate { server, .. } | Fault::Usurp { leader: server, alone: true, .. } => {
                let links = others(server).map(|other| (id(server), id(other)));
                cuts.extend(links.flat_map(|(from, to)| [(from, to), (to, from)]));
            }
            Fault::Deaf { server, .. } | Fault::Usurp { leader: server, .. } => {
                cuts.extend(others(server).map(|from| (id(from), id(server))));
            }
            Fault::Mute { server, .. } => cuts.extend(others(server).map(|to| (id(server), id(to)))),
            _ => {}
        }
        Self::Fault { fault: name, nodes, cuts, until_ns, more }
    }
}

/// The kind's name and its parameters, of `{"pause":{"server":1,"lasts":5}}`.
fn named(value: Value) -> (String, BTreeMap<String, Value>) {
    match value {
        Value::String(name) => (name, BTreeMap::new()),
        Value::Object(kinds) => kinds.into_iter().next().map_or_else(Default::default, |(name, fields)| {
            let fields = fields.as_object().cloned().unwrap_or_default();
            (name, fields.into_iter().collect())
        }),
        _ => Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Record;

    fn told(fault: Fault) -> String {
        let what = What::fault(&fault, 1_000_000_000, 3);
        Record { at_ns: 1_000_000_000, node: None, what, state: None, core: None }.line()
    }

    #[test]
    fn what_a_fault_hits_is_told_as_nodes_and_links() {
        let lasts = 500_000_000;
        let cuts = "cuts n1 ⇥ n2 n2 ⇥ n1 n3 ⇥ n2 n2 ⇥ n3, until 1.500000";
        assert_eq!(told(Fault::Partition { group: 0b1101, lasts }), format!("FAULT partition n2, {cuts}"));
        let one_way = told(Fault::OneWay { from: 0, to: 2, lasts });
        assert_eq!(one_way, "FAULT one_way n1 n3, cuts n1 ⇥ n3, until 1.500000");
        let deaf = told(Fault::Deaf { server: 1, lasts });
        assert_eq!(deaf, "FAULT deaf n2, cuts n1 ⇥ n2 n3 ⇥ n2, until 1.500000");
        let soon = told(Fault::CrashSoon { server: 1, actions: 4, down: 6 });
        assert_eq!(soon, "FAULT crash_soon n2, actions 4, down 6");
    }
}
