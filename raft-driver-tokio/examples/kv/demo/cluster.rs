//! The demo's processes: started from this very binary, killed by their ids, gone when the demo ends.
//!
//! * Dropping a [`Cluster`] kills what still runs and waits for it, then removes the data.
//! * Nodes also end when their standard input closes, so that not even `kill -9` of the demo leaves one behind.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::failure::Failure;

/// Below the range that systems take the ports of outgoing connections from: the port of a node that is down must
/// not be taken by somebody who connects, least of all by its own peers.
const PORTS: std::ops::Range<u16> = 26_000..32_000;
const TAIL_LINES: usize = 12;
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Processes of `kv serve` on loopback, with their data in a temporary directory.
pub(crate) struct Cluster {
    // Before the directory: whoever writes into it is gone when it is removed.
    nodes: Vec<Node>,
    binary: PathBuf,
    directory: TempDir,
}

struct Node {
    raft: String,
    http: String,
    process: Option<Child>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Errors: it has ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Cluster {
    /// Chooses ports and a directory; nothing runs yet.
    pub(crate) fn new(nodes: usize, keep: bool) -> Result<Self, Failure> {
        let binary = std::env::current_exe().map_err(|error| Failure::other(format!("who am I: {error}")))?;
        let mut directory = tempfile::Builder::new()
            .prefix("kv-demo-")
            .tempdir()
            .map_err(|error| Failure::other(format!("no temporary directory: {error}")))?;
        directory.disable_cleanup(keep);
        let mut ports = free_ports(2 * nodes)?.into_iter();
        let mut address = || ports.next().map(|port| format!("127.0.0.1:{port}"));
        let nodes = std::iter::from_fn(|| Some(Node { raft: address()?, http: address()?, process: None }));
        Ok(Self { nodes: nodes.collect(), binary, directory })
    }

    pub(crate) fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn http(&self) -> impl Iterator<Item = String> + '_ {
        self.nodes.iter().map(|node| node.http.clone())
    }

    /// Starts node `at` (counted from 0; its id is one more) on whatever data it has.
    pub(crate) fn start(&mut self, at: usize) -> Result<(), Failure> {
        let id = at + 1;
        let failed = |error: std::io::Error| Failure::other(format!("node {id} cannot be started: {error}"));
        let output = File::options().create(true).append(true).open(self.output(at)).map_err(failed)?;
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--until-stdin-closes", "--id", &id.to_string()]);
        command.args(["--raft", &self.nodes[at].raft, "--http", &self.nodes[at].http]);
        command.arg("--data").arg(self.directory.path().join(format!("node-{id}")));
        for (peer, node) in self.nodes.iter().enumerate() {
            command.args(["--peer", &format!("{}={}@{}", peer + 1, node.raft, node.http)]);
        }
        command.stdin(Stdio::piped()).stdout(output.try_clone().map_err(failed)?).stderr(output);
        self.nodes[at].process = Some(command.spawn().map_err(failed)?);
        Ok(())
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, at: usize) {
        self.nodes[at].kill();
    }

    /// `kill -9` of all, each before the first is waited for.
    pub(crate) fn kill_all(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            // An error: it has ended already.
            let _ = process.kill();
        }
        self.nodes.iter_mut().for_each(Node::kill);
    }

    /// That nobody ended who was not killed.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let Some(process) = &mut node.process else { continue };
            if let Ok(Some(status)) = process.try_wait() {
                return Err(Failure::other(format!("node {} ended by itself: {status}", at + 1)));
            }
        }
        Ok(())
    }

    /// Asks all to shut down and waits for it.
    pub(crate) async fn stop(&mut self) -> Result<(), Failure> {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            drop(process.stdin.take());
        }
        let deadline = Instant::now() + STOP_LIMIT;
        for (at, node) in self.nodes.iter_mut().enumerate() {
            let Some(process) = &mut node.process else { continue };
            let status = loop {
                match process.try_wait() {
                    Ok(Some(status)) => break status,
                    Ok(None) if Instant::now() < deadline => {
                        tokio::time::sleep(Duration::from_millis(5)).await
                    }
                    _ => return Err(Failure::other(format!("node {} did not shut down", at + 1))),
                }
            };
            node.process = None;
            if !status.success() {
                return Err(Failure::other(format!("node {} shut down with {status}", at + 1)));
            }
        }
        Ok(())
    }

    fn output(&self, at: usize) -> PathBuf {
        self.directory.path().join(format!("node-{}.out", at + 1))
    }

    /// The last lines that each node printed.
    pub(crate) fn tails(&self) -> String {
        let mut text = String::new();
        for at in 0..self.nodes.len() {
            let output = fs::read_to_string(self.output(at)).unwrap_or_default();
            let lines: Vec<&str> = output.lines().collect();
            text.push_str(&format!("-- node {} --\n", at + 1));
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// Ports that are free now.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let mut held = Vec::new();
    for _ in 0..1000 {
        // Held until all are found, so that none is found twice.
        held.extend(TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS))));
        if held.len() == count {
            let port = |listener: &TcpListener| listener.local_addr().map(|address| address.port());
            return held.iter().map(port).collect::<Result<_, _>>().map_err(Failure::other);
        }
    }
    Err(Failure::other("no free ports on 127.0.0.1"))
}
