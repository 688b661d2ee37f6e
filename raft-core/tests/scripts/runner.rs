//! Performs a script line by line on a cluster by function calls.

use std::collections::BTreeMap;
use std::fmt::Debug;

use raft_core::{AdminOutcome, Config, Lease, Message, ReadOutcome, Response, SnapshotPolicy, WriteOutcome};

use super::support::{Cluster, in_term, log};

pub(super) fn run(name: &str, text: &str) {
    let mut script = Script { cluster: None, size: 0, settings: Vec::new(), held: BTreeMap::new() };
    for (number, line) in (1..).zip(text.lines()) {
        let comment = if line.starts_with('#') { Some(0) } else { line.find(" #") };
        let said = line[..comment.unwrap_or(line.len())].trim();
        if !said.is_empty() {
            let place = format!("{name}.script:{number}: {said}");
            println!("{place}");
            if script.line(said).is_none() {
                panic!("{place}: not a line of a script");
            }
        }
    }
}

struct Script {
    cluster: Option<Cluster>,
    size: u64,
    settings: Vec<(String, u64)>,
    held: BTreeMap<String, Vec<Message>>,
}

/// `n3` is 3.
fn server(word: &str) -> Option<u64> {
    word.strip_prefix('n')?.parse().ok()
}

fn servers(words: &[&str]) -> Option<Vec<u64>> {
    words.iter().map(|word| server(word)).collect()
}

fn numbers(words: &[&str]) -> Option<Vec<u64>> {
    words.iter().map(|word| word.parse().ok()).collect()
}

fn adjust(config: &mut Config, name: &str, value: u64) -> Option<()> {
    match name {
        "snapshot_chunk_bytes" => config.snapshot_chunk_bytes = value,
        "compaction_margin_entries" => config.compaction_margin_entries = value,
        "append_entries_max" => config.append_entries_max = value,
        "lease_drift_ppm" => {
            config.lease = Some(Lease { clock_drift_ppm_max: u32::try_from(value).ok()? });
        }
        _ => return None,
    }
    Some(())
}

/// A variant's name, and the node that it names, if any.
fn word(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    text.chars().take_while(|c| c.is_ascii_alphanumeric()).collect()
}

impl Script {
    fn cluster(&mut self) -> &mut Cluster {
        self.cluster.as_mut().expect("a script begins with its servers")
    }

    /// Performs a line; `None` if there is no such line.
    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(pattern) = line.strip_prefix("> ") {
            let wire = &self.cluster().wire;
            let found = wire.iter().any(|message| fits(&format!("{message:?}"), pattern));
            assert!(found, "no such message waits: {wire:#?}");
            return Some(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["set", name, value] => self.settings.push((name.to_owned(), value.parse().ok()?)),
            ["servers", count] => self.begin(count.parse().ok()?, true)?,
            ["servers", count, "with", "logs"] => self.begin(count.parse().ok()?, false)?,
            ["elect", who] => self.cluster().elect(server(who)?),
            ["cut", ref who @ ..] => self.cluster().cut = servers(who)?,
            ["heal"] => self.cluster().cut.clear(),
            ["pass", ms, "ms"] => self.cluster().pass_ms(ms.parse().ok()?),
            ["run", ms, "ms"] => self.cluster().run_ms(ms.parse().ok()?),
            ["deliver"] => self.cluster().settle(),
            ["deliver", from, to] => {
                for message in self.take(from, to)? {
                    self.cluster().deliver(message);
                }
            }
            ["lose", from, to] => drop(self.take(from, to)?),
            ["hold", from, to, "as", name] => {
                let held = self.take(from, to)?;
                assert!(!held.is_empty(), "nothing waits");
                self.held.insert(name.to_owned(), held);
            }
            ["release", name] => {
                for message in self.held.remove(name)? {
                    self.cluster().deliver(message);
                }
            }
            ["expect", "nobody", "leads"] => assert_eq!(self.cluster().leader(), None),
            ["expect", "silence"] => assert!(self.cluster().wire.is_empty(), "{:#?}", self.cluster().wire),
            ["expect", who, ref rest @ ..] => self.expect(server(who)?, rest)?,
            [who, ref rest @ ..] => self.act(server(who)?, rest)?,
            [] => {}
        }
        Some(())
    }

    fn begin(&mut self, size: u64, bootstrapped: bool) -> Option<()> {
        let settings = core::mem::take(&mut self.settings);
        let cluster = Cluster::with(size, |config| {
            config.snapshot_policy = SnapshotPolicy::Never;
            for (name, value) in &settings {
                adjust(config, name, *value).unwrap_or_else(|| panic!("{name} cannot be set"));
            }
        });
        self.size = size;
        self.cluster = Some(cluster);
        if bootstrapped {
            self.cluster().bootstrap();
        }
        Some(())
    }

    /// What waits between two servers.
    fn take(&mut self, from: &str, to: &str) -> Option<Vec<Message>> {
        let (from, to) = (server(from)?, server(to)?);
        Some(self.cluster().intercept(|message| (message.from.get(), message.to.get()) == (from, to)))
    }

    fn act(&mut self, who: u64, words: &[&str]) -> Option<()> {
        let size = self.size;
        let cluster = self.cluster();
        match *words {
            ["joins"] => cluster.join(who),
            ["log", ref terms @ .., "in", "term", term] => {
                cluster.place(who, in_term(term.parse().ok()?), log(size, &numbers(terms)?));
            }
            ["campaigns"] => cluster.campaign(who),
            ["wakes"] => cluster.time_out(who),
            ["beats"] => cluster.beat(who, 1),
            ["beats", times] => cluster.beat(who, times.parse().ok()?),
            ["restarts"] => cluster.restart(who),
            ["proposes", ref commands @ ..] => drop(cluster.propose(who, commands)),
            ["reads"] => drop(cluster.read(who)),
            ["reads", "by", "lease"] => drop(cluster.lease_read(who)),
            ["transfers", "to", to] => drop(cluster.transfer(who, Some(server(to)?))),
            ["steps", "down"] => drop(cluster.step_down(who)),
            ["takes", "a", "snapshot"] => drop(cluster.take_snapshot(who)),
            ["cancels"] => drop(cluster.cancel(who)),
            ["wants", "voters", ref rest @ ..] => {
                let (voters, learners) = match rest.iter().position(|word| *word == "learners") {
                    Some(at) => (&rest[..at], &rest[at + 1..]),
                    None => (rest, &rest[..0]),
                };
                cluster.set_members(who, &servers(voters)?, &servers(learners)?);
            }
            ["disk", "is", "slow"] => cluster.slow_disks.push(who),
            ["disk", "syncs", "one"] => cluster.sync_one(who),
            ["disk", "syncs"] => {
                cluster.sync(who);
                cluster.slow_disks.retain(|slow| *slow != who);
            }
            _ => return None,
        }
        Some(())
    }

    fn expect(&mut self, who: u64, words: &[&str]) -> Option<()> {
        let cluster = self.cluster();
        let host = &cluster.servers[&who];
        let status = host.node.status();
        let text = |value: &dyn Debug| format!("{value:?}");
        match *words {
            [role @ ("leads" | "follows" | "campaigns")] => {
                let is = match text(&status.role).as_str() {
                    "Leader" => "leads",
                    "Follower" => "follows",
                    _ => "campaigns",
                };
                assert_eq!(is, role, "{status:?}");
            }
            ["term", term] => assert_eq!(text(&status.term), term),
            ["commit", commit] => assert_eq!(text(&status.commit), commit),
            ["durable", durable] => assert_eq!(text(&status.durable), durable),
            ["last", last] => assert_eq!(text(&status.last), last),
            ["base", base] => assert_eq!(text(&status.base), base),
            ["snapshot", last] => assert_eq!(text(&status.snapshot), last),
            ["log", ref terms @ ..] => assert_eq!(host.terms(), numbers(terms)?),
            ["applied", ref commands @ ..] => assert_eq!(host.commands(), commands),
            ["restored", ref all @ ..] => {
                assert_eq!(host.restored.iter().map(|last| text(last)).collect::<Vec<_>>(), all);
            }
            ["served", count] => {
                let served: u32 = host.served.iter().map(|tickets| tickets.count).sum();
                assert_eq!(text(&served), count);
            }
            ["voters", ref all @ ..] => assert_eq!(cluster.voters(who), servers(all)?),
            ["joint"] => assert!(host.node.membership().is_joint(), "{:?}", host.node.membership()),
            ["answers", ref outcomes @ ..] => {
                let said: Vec<String> = host.responses.iter().filter_map(answer).collect();
                assert_eq!(said, outcomes);
            }
            _ => return None,
        }
        Some(())
    }
}

/// An outcome as a word; campaigns and bootstraps of the script itself are of no interest.
fn answer(response: &Response) -> Option<String> {
    match response {
        Response::Write { outcome: WriteOutcome::Refused(refusal), .. } => Some(word(refusal)),
        Response::Write { outcome, .. } => Some(word(outcome)),
        Response::Read { outcome: ReadOutcome::NotLeader { .. }, .. } => Some("NotRead".to_owned()),
        Response::Read { outcome, .. } => Some(word(outcome)),
        Response::Admin { ticket, .. } if ticket.get() == 0 => None,
        Response::Admin { outcome: AdminOutcome::Refused(refusal), .. } => Some(word(refusal)),
        Response::Admin { outcome, .. } => Some(word(outcome)),
    }
}

/// Whether a message reads like this; `..` in the pattern stands for anything.
fn fits(message: &str, pattern: &str) -> bool {
    let mut parts = pattern.split(" .. ").peekable();
    let Some(mut rest) = parts.next().and_then(|first| message.strip_prefix(first.trim_end_matches(" ..")))
    else {
        return false;
    };
    for part in parts {
        let part = part.trim_end_matches(" ..");
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    pattern.ends_with(" ..") || rest.is_empty()
}
