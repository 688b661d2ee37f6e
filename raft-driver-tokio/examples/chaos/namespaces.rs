//! A network of real packets: each server in a network namespace of its own, on one bridge.
//!
//! * Needs the right to make namespaces, and `ip` and `nft`. The program itself is in a namespace of its own first, and
//!   everything here goes with it, however it ends.
//! * A pair of servers is treated at the receiver's firewall: packets are dropped all, or some at random. TCP sees what
//!   it would see of a bad cable: retransmissions, time-outs, connections that die without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command as Blocking, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::process::Command;

use crate::links::{CLIENTS, Id, Links};
use crate::network::Addresses;

const BRIDGE: &str = "chaos0";
/// Where `ip` keeps the names of namespaces.
const NAMES: &str = "/run/netns";
/// Ports are free: the namespace is the server's own.
const RAFT_PORT: u16 = 7100;
const HTTP_PORT: u16 = 8100;

/// The namespaces of a run.
pub(crate) struct Namespaces {
    ends: Arc<Mutex<BTreeSet<Id>>>,
}

fn host(id: Id) -> String {
    match id {
        CLIENTS => "10.99.255.254".to_owned(),
        id => format!("10.99.{}.{}", id / 250, id % 250 + 1),
    }
}

fn name(id: Id) -> String {
    format!("chaos-{id}")
}

/// Runs a program of the system to its end.
fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let mut command = Blocking::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} {}: {}", arguments.join(" "), said.trim())))
}

fn ip(arguments: &str) -> io::Result<()> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>(), "")
}

/// The firewall of one end.
fn firewall(links: &Links, to: Id, ends: &BTreeSet<Id>) -> String {
    let mut rules = String::from("table inet chaos\nflush table inet chaos\ntable inet chaos {\n");
    rules.push_str("chain in { type filter hook input priority 0; policy accept;\n");
    for from in ends {
        let rule = links.rule((*from, to));
        let which = match (rule.stalled, rule.loss_percent) {
            (true, _) => String::new(),
            (false, 0) => continue,
            (false, percent) => format!("meta mark 0 numgen random mod 100 < {percent} "),
        };
        rules.push_str(&format!("ip saddr {} {which}drop\n", host(*from)));
    }
    rules.push_str("}\n}\n");
    rules
}

fn set_firewall(to: Id, rules: &str) -> io::Result<()> {
    match to {
        CLIENTS => run("nft", &["-f", "-"], rules),
        id => run("ip", &["netns", "exec", &name(id), "nft", "-f", "-"], rules),
    }
}

impl Namespaces {
    pub(crate) async fn new(links: Arc<Links>) -> io::Result<Self> {
        // Their names are files that outlive them: these go with this process's own mounts.
        std::fs::create_dir_all(NAMES)?;
        rustix::mount::mount("chaos", NAMES, "tmpfs", rustix::mount::MountFlags::empty(), None)?;
        ip("link set lo up")?;
        ip(&format!("link add {BRIDGE} type bridge"))?;
        ip(&format!("addr add {}/16 dev {BRIDGE}", host(CLIENTS)))?;
        ip(&format!("link set {BRIDGE} up"))?;
        let ends = Arc::new(Mutex::new(BTreeSet::from([CLIENTS])));
        let known = Arc::clone(&ends);
        let mut changes = links.changes();
        tokio::spawn(async move {
            let mut set: BTreeMap<Id, String> = BTreeMap::new();
            // Ends with the last link.
            while changes.changed().await.is_ok() {
                let ends = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                for end in &ends {
                    let rules = firewall(&links, *end, &ends);
                    if set.get(end) == Some(&rules) {
                        continue;
                    }
                    let (at, text) = (*end, rules.clone());
                    match tokio::task::spawn_blocking(move || set_firewall(at, &text)).await {
                        Ok(Ok(())) => drop(set.insert(*end, rules)),
                        Ok(Err(error)) => eprintln!("chaos: {error}"),
                        Err(error) => eprintln!("chaos: {error}"),
                    }
                }
            }
        });
        Ok(Self { ends })
    }

    pub(crate) async fn join(&self, id: Id) -> io::Result<Addresses> {
        if id > 60_000 {
            return Err(io::Error::other("too many servers for the addresses there are"));
        }
        let (name, host) = (name(id), host(id));
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add ve{id} type veth peer name eth0 netns {name}"))?;
        ip(&format!("link set ve{id} master {BRIDGE} up"))?;
        ip(&format!("-n {name} addr add {host}/16 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        let (raft, http) = (format!("{host}:{RAFT_PORT}"), format!("{host}:{HTTP_PORT}"));
        Ok(Addresses { raft_listen: raft.clone(), http_listen: http.clone(), raft, http })
    }

    /// Begins the command that runs `program` as this server.
    pub(crate) fn command(&self, id: Id, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(id)]).arg(program);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::links::Rule;

    #[test]
    fn a_firewall_drops_all_some_or_nothing() {
        let links = Links::new();
        links.lay(1, [(1, 3)].into(), Rule { stalled: true, ..Rule::default() });
        links.lay(2, [(2, 3)].into(), Rule { loss_percent: 30, ..Rule::default() });
        let rules = firewall(&links, 3, &[CLIENTS, 1, 2, 3].into());
        assert!(rules.contains("ip saddr 10.99.0.2 drop\n"), "{rules}");
        assert!(
            rules.contains("ip saddr 10.99.0.3 meta mark 0 numgen random mod 100 < 30 drop\n"),
            "{rules}"
        );
        assert!(!rules.contains("10.99.255.254"), "{rules}");
    }
}
