//! Starting, asking and killing `kv serve`. Every wait has a limit, and every process is killed when its test ends.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::PROGRAM;

/// The longest wait for anything; far longer than it takes, since other tests run at the same time.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The program.
pub(crate) fn binary() -> PathBuf {
    example(PROGRAM)
}

/// An example's program.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("examples").join(name);
    assert!(binary.is_file(), "{} is missing: cargo build --workspace --example {name}", binary.display());
    binary
}

/// Ports below those that systems give to outgoing connections: nobody takes the port of a node that is down. Clusters that
/// the program starts by itself take theirs from beyond.
const PORTS: Range<u16> = 20_000..26_000;

/// A port that is free, and that no other test of this program gets.
pub(crate) fn free_address() -> String {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in PORTS {
        let port = next.unwrap_or_else(|| fastrand::u16(PORTS));
        *next = Some(if port + 1 < PORTS.end { port + 1 } else { PORTS.start });
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return format!("127.0.0.1:{port}");
        }
    }
    panic!("no free port");
}

/// Asks until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a process to end by itself, and returns what it printed.
pub(crate) fn ended(mut process: Child) -> Output {
    let deadline = Instant::now() + LIMIT;
    loop {
        if process.try_wait().unwrap().is_some() {
            return process.wait_with_output().unwrap();
        }
        if Instant::now() > deadline {
            process.kill().unwrap();
            panic!("did not end: {:?}", process.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    ended(command.spawn().unwrap())
}

pub(crate) fn terminate(process: &Child) {
    let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

/// One node: what it is started with, and its process if it runs.
pub(crate) struct Node {
    pub(crate) raft: String,
    pub(crate) http: String,
    pub(crate) data: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) program: PathBuf,
    process: Option<Child>,
}

impl Node {
    /// Everything that `kv serve` needs beside `--peer`.
    pub(crate) fn new(id: usize, raft: String, http: String, data: PathBuf) -> Self {
        let mut arguments = vec!["serve".into(), "--id".into(), id.to_string()];
        arguments.extend(["--raft".into(), raft.clone(), "--http".into(), http.clone()]);
        arguments.extend(["--data".into(), data.to_str().unwrap().into()]);
        Self { raft, http, data, arguments, program: binary(), process: None }
    }

    pub(crate) fn with(&self, more: &[&str]) -> Self {
        let arguments = self.arguments.iter().cloned().chain(more.iter().map(|text| (*text).to_owned()));
        let (raft, http, data) = (self.raft.clone(), self.http.clone(), self.data.clone());
        let (arguments, program) = (arguments.collect(), self.program.clone());
        Self { raft, http, data, arguments, program, process: None }
    }

    /// With another value for the first `flag`.
    pub(crate) fn set(&self, flag: &str, value: &str) -> Self {
        let mut changed = self.with(&[]);
        let at = changed.arguments.iter().position(|argument| argument == flag).unwrap();
        value.clone_into(&mut changed.arguments[at + 1]);
        changed
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
        command
    }

    /// Starts it in the background.
    pub(crate) fn start(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let log = self.data.with_extension("out");
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let process = self.command().stdout(log.try_clone().unwrap()).stderr(log).spawn();
        self.process = Some(process.unwrap());
    }

    /// Runs it to its end.
    pub(crate) fn refused(&self) -> Refused {
        let process = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Refused::of(&ended(process))
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// SIGTERM; returns how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal();
        self.ended()
    }

    /// SIGTERM, and no more.
    pub(crate) fn signal(&self) {
        terminate(self.process.as_ref().expect("it runs"));
    }

    /// Waits for it to end by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        ended(self.process.take().expect("it runs")).status
    }

    /// What it has printed.
    pub(crate) fn printed(&self) -> String {
        fs::read_to_string(self.data.with_extension("out")).unwrap_or_default()
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.try_wait().unwrap().is_none())
    }

    pub(crate) fn status(&self) -> Option<Value> {
        let answer = Answer::get(&self.http, "/status")?;
        (answer.status == 200).then(|| serde_json::from_slice(&answer.body).unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            let mut text = String::new();
            let log = fs::File::open(self.data.with_extension("out"));
            let _ = log.and_then(|mut log| log.read_to_string(&mut text));
            eprintln!("-- {} --\n{text}", self.data.display());
        }
    }
}

/// A start that was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl Refused {
    pub(crate) fn of(output: &Output) -> Self {
        Self { code: output.status.code(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    /// That it ended with this code and said all of this.
    #[track_caller]
    pub(crate) fn says(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "expected \"{part}\" in: {}", self.stderr);
        }
    }
}

/// Nodes that know each other, and their directory.
pub(crate) struct Cluster {
    // Before the directory: whoever writes into it is gone when it is removed.
    pub(crate) nodes: Vec<Node>,
    _directory: TempDir,
}

impl Cluster {
    /// Nodes that know each other's HTTP addresses; nothing runs yet.
    pub(crate) fn new(nodes: usize) -> Self {
        Self::build(nodes, true)
    }

    pub(crate) fn build(nodes: usize, with_http: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let addresses: Vec<_> = (1..=nodes).map(|id| (id, free_address(), free_address())).collect();
        let peers: Vec<String> = addresses
            .iter()
            .flat_map(|(id, raft, http)| {
                let http = if with_http { format!("@{http}") } else { String::new() };
                ["--peer".to_owned(), format!("{id}={raft}{http}")]
            })
            .collect();
        let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
        let node = |(id, raft, http): &(usize, String, String)| {
            Node::new(*id, raft.clone(), http.clone(), directory.path().join(format!("node-{id}")))
                .with(&peers)
        };
        Self { nodes: addresses.iter().map(node).collect(), _directory: directory }
    }

    pub(crate) fn started(nodes: usize) -> Self {
        let mut cluster = Self::new(nodes);
        cluster.start();
        cluster
    }

    pub(crate) fn start(&mut self) {
        self.nodes.iter_mut().for_each(Node::start);
    }

    /// The place of the node that leads.
    pub(crate) fn leader(&self) -> usize {
        until("a leader", || {
            // One that was deposed and has not heard of it may say so too: the highest term is right.
            let leads = |node: &Node| node.status().filter(|status| status["role"] == "leader");
            let terms = self
                .nodes
                .iter()
                .enumerate()
                .filter_map(|(at, node)| Some((leads(node)?["term"].as_u64()?, at)));
            terms.max().map(|(_, at)| at)
        })
    }

    /// A node that knows that another one leads.
    pub(crate) fn follower(&self) -> usize {
        until("a follower", || {
            self.nodes.iter().position(|node| {
                node.status()
                    .is_some_and(|status| status["role"] == "follower" && !status["leader"].is_null())
            })
        })
    }

    /// For `--endpoints`.
    pub(crate) fn endpoints(&self) -> String {
        self.nodes.iter().map(|node| node.http.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Sends a request to whoever leads, for as long as the answer is 307 or 503.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.ask_with(method, path, &[], body)
    }

    /// The same, with headers.
    pub(crate) fn ask_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        until("an answer", || {
            let mut address = self.nodes[fastrand::usize(..self.nodes.len())].http.clone();
            for _ in 0..3 {
                let answer = Answer::with(method, &address, path, headers, body)?;
                match (answer.status, &answer.location) {
                    (307, Some(location)) => {
                        address =
                            location.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
                    }
                    (503, _) => return None,
                    _ => return Some(answer),
                }
            }
            None
        })
    }

    /// Writes until it is acknowledged. An unknown outcome may be tried again: it is the same key and value.
    pub(crate) fn put(&self, key: &str, value: &str) -> u64 {
        until("an acknowledged write", || {
            let answer = self.ask("PUT", &format!("/kv/{key}"), value.as_bytes());
            (answer.status == 200).then(|| answer.json()["index"].as_u64().unwrap())
        })
    }

    pub(crate) fn get(&self, key: &str) -> Option<String> {
        let answer = until("a read", || {
            Some(self.ask("GET", &format!("/kv/{key}"), b"")).filter(|answer| answer.status < 500)
        });
        match answer.status {
            200 => Some(String::from_utf8(answer.body).unwrap()),
            404 => None,
            _ => panic!("{answer:?}"),
        }
    }

    /// Waits until all machines are at the same index, and returns how many keys they hold. Panics if they differ.
    pub(crate) fn equal(&self) -> u64 {
        let machines = until("equal indexes", || {
            let machines: Option<Vec<Value>> =
                self.nodes.iter().map(|node| Some(node.status()?["machine"].clone())).collect();
            machines.filter(|machines| {
                machines.iter().all(|machine| machine["applied"] == machines[0]["applied"])
            })
        });
        assert!(machines.iter().all(|machine| *machine == machines[0]), "{machines:?}");
        machines[0]["keys"].as_u64().unwrap()
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) retry_after: Option<String>,
    pub(crate) allow: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn get(address: &str, path: &str) -> Option<Self> {
        Self::to("GET", address, path, b"")
    }

    /// Follows nothing. `None` if there is no answer.
    pub(crate) fn to(method: &str, address: &str, path: &str, body: &[u8]) -> Option<Self> {
        Self::with(method, address, path, &[], body)
    }

    /// The same, with headers.
    pub(crate) fn with(
        method: &str,
        address: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Self> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build()
            .into();
        let request = ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let answer = match method {
            "PUT" | "POST" | "PATCH" => agent.run(request.body(body).unwrap()),
            _ => agent.run(request.body(()).unwrap()),
        };
        let mut answer = answer.ok()?;
        let header = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
        let (location, retry_after, allow) = (header("location"), header("retry-after"), header("allow"));
        let body = answer.body_mut().with_config().limit(16 << 20).read_to_vec().ok()?;
        Some(Self { status: answer.status().as_u16(), location, retry_after, allow, body })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
