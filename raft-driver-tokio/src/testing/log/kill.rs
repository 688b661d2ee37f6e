//! A store in a process of its own, which is killed at any moment.
//!
//! The process is the test itself, started again with its name and what it should do in the environment. It says on its
//! standard output what it begins and what was reported to it. Both sides make up the same history from the same seed.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use raft_core::host::LogStore;
use raft_core::{LogId, LogIndex, Term, Write};

use super::LogCheck;
use super::find::{agree, find};
use super::model::{Allowed, Found, Log};
use super::step::{Step, build, history};
use super::verdict::Expected;
use crate::testing::entries::describe;
use crate::testing::medium::{Directory, Medium};
use crate::testing::promise::Promise;
use crate::testing::report::{Broken, Passed, Violation, guarded};

const DIRECTORY: &str = "RAFT_CHECK_DIRECTORY";
const ORDERS: &str = "RAFT_CHECK_ORDERS";
/// In front of what the process says: the test harness writes to the same output.
const SAYS: &str = "raft-check ";

/// What the process must know to make up the same history.
#[derive(Clone, Copy, Debug)]
struct Orders {
    seed: u64,
    number: u64,
    lost: u64,
    goal: u64,
}

impl Orders {
    fn encode(self) -> String {
        let Self { seed, number, lost, goal } = self;
        format!("{seed} {number} {lost} {goal}")
    }

    fn decode(text: &str) -> Option<Self> {
        let mut numbers = text.split(' ').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Self { seed: next()?, number: next()?, lost: next()?, goal: next()? })
    }
}

/// One call of the store.
#[derive(Clone, Debug)]
enum Call {
    Write(Vec<Write>),
    Compact(LogId),
}

impl Call {
    fn words(&self) -> String {
        match self {
            Self::Write(writes) => {
                let words: Vec<String> = writes.iter().map(describe).collect();
                format!("write [{}]", words.join(" | "))
            }
            Self::Compact(through) => format!("compact through {through}"),
        }
    }

    fn apply(&self, log: &mut Log) {
        match self {
            Self::Write(writes) => writes.iter().for_each(|write| log.apply(write)),
            Self::Compact(through) => log.goal = log.goal.max(through.index),
        }
    }
}

impl LogCheck {
    /// The calls that begin at this log.
    fn calls(&self, log: &Log, orders: Orders) -> Vec<Call> {
        let mut log = log.clone();
        let (mut number, mut lost) = (orders.number, (orders.lost > 0).then(|| Term::new(orders.lost)));
        let mut calls = Vec::new();
        let mut random = fastrand::Rng::with_seed(orders.seed);
        for step in history(&mut random, self.steps, self.command_bytes_max) {
            let call = match step {
                Step::Write { parts, .. } => {
                    let mut after = log.clone();
                    let build = |part| {
                        number += 1;
                        let write = build(&after, part, lost.take(), number);
                        after.apply(&write);
                        write
                    };
                    Call::Write(parts.iter().map(build).collect())
                }
                Step::Compact { back } => {
                    let index = LogIndex::new(log.last().index.get().saturating_sub(back));
                    let Some(through) = log.id_at(index) else { continue };
                    Call::Compact(through)
                }
                Step::Read { .. } | Step::Reopen => continue,
            };
            call.apply(&mut log);
            calls.push(call);
        }
        calls
    }

    /// Runs the store in a process of its own, and kills that, so many times, at any moment: also while a write is on
    /// its way. What it had reported must be there when the store is opened again. The page cache is not lost, so a
    /// missing fsync is not noticed; buffers of the process are, and files that are changed in a wrong order.
    ///
    /// The process is the test that calls this: `test` is its name as `cargo test` prints it. Whatever the test does before
    /// this call is done there too.
    ///
    /// # Errors
    /// The first promise that is broken, with the calls before it.
    ///
    /// # Panics
    /// If no directory can be made, no process started, or there is no test of this name.
    pub fn run_killed<S, E>(
        &self,
        test: &str,
        kills: u32,
        open: impl Fn(&Path) -> Result<S, E>,
    ) -> Result<Passed, Broken>
    where
        S: LogStore,
        E: Display,
    {
        if let (Ok(dir), Ok(orders)) = (std::env::var(DIRECTORY), std::env::var(ORDERS)) {
            let orders = Orders::decode(&orders).expect("the check has written it");
            if let Err(violation) = self.obey(Path::new(&dir), orders, &open) {
                say(&format!("broken {}", violation.what.replace('\n', " ")));
            }
            std::process::exit(0);
        }
        let dir = Directory::new_empty().expect("a directory can be made");
        let seed = self.seeds.start;
        let mut parent = Parent { check: self, test, dir, log: Log::default(), number: 0, lost: None };
        let mut random = fastrand::Rng::with_seed(seed);
        let mut passed = Passed { histories: 1, ..Passed::default() };
        for _ in 0..kills {
            let mut history = vec![format!("the store holds entries through {}", parent.log.last())];
            let round = parent.round(&mut random, &open, &mut history);
            passed.calls += history.len() as u64 - 1;
            passed.crashes += 1;
            round.map_err(|Violation { promise, what }| Broken { promise, what, history, seed })?;
        }
        Ok(passed)
    }

    /// What the process does until it is killed.
    fn obey<S, E>(
        &self,
        dir: &Path,
        orders: Orders,
        open: &impl Fn(&Path) -> Result<S, E>,
    ) -> Result<(), Violation>
    where
        S: LogStore,
        E: Display,
    {
        let (mut store, found) = open_and_find(dir, open)?;
        let mut log = Log { goal: LogIndex::new(orders.goal), ..Log::default() };
        log.settle(found);
        let refused = |error: S::Error| {
            Violation::new(Promise::AcceptsWhatIsLegal, format_args!("a call fails: {error}"))
        };
        for (at, call) in self.calls(&log, orders).iter().enumerate() {
            say(&format!("begins {at}"));
            match call {
                Call::Write(writes) => guarded("LogStore::write", || store.write(writes))?,
                Call::Compact(through) => guarded("LogStore::compact", || store.compact(*through))?,
            }
            .map_err(refused)?;
            say(&format!("did {at}"));
        }
        say("rests");
        // Until it is killed, or whoever started it is no more.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        Ok(())
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then nobody is interested.
    let _ = out.write_all(format!("\n{SAYS}{what}\n").as_bytes()).and_then(|()| out.flush());
}

fn open_and_find<S, E>(dir: &Path, open: &impl Fn(&Path) -> Result<S, E>) -> Result<(S, Found), Violation>
where
    S: LogStore,
    E: Display,
{
    let mut store = guarded("opening", || open(dir))?.map_err(|error| {
        Violation::new(Promise::OpensAfterCrash, format_args!("it cannot be opened: {error}"))
    })?;
    let (found, recovery) = find(&mut store)?;
    agree(&recovery, &found.entries)?;
    Ok((store, found))
}

/// The side that kills.
struct Parent<'a> {
    check: &'a LogCheck,
    test: &'a str,
    dir: Directory,
    log: Log,
    number: u64,
    lost: Option<Term>,
}

impl Parent<'_> {
    fn round<S, E>(
        &mut self,
        random: &mut fastrand::Rng,
        open: &impl Fn(&Path) -> Result<S, E>,
        history: &mut Vec<String>,
    ) -> Result<(), Violation>
    where
        S: LogStore,
        E: Display,
    {
        let orders = Orders {
            seed: random.u64(..),
            number: self.number,
            lost: self.lost.map_or(0, Term::get),
            goal: self.log.goal.get(),
        };
        let calls = self.check.calls(&self.log, orders);
        let said = self.kill_after(orders, random.usize(1..=2 * calls.len().max(1)), random.u64(..300));
        let (begun, done) = (said.begun, said.done);
        let mut past = Vec::new();
        for call in &calls[..done] {
            past.push(self.log.clone());
            call.apply(&mut self.log);
        }
        history.extend(calls[..begun].iter().map(Call::words));
        if let Some(broken) = said.broken {
            return Err(Violation::new(Promise::AcceptsWhatIsLegal, broken));
        }
        history.push(match begun > done {
            true => "the process is killed within this call".into(),
            false => "the process is killed after this call had returned".into(),
        });
        let allowed = match calls[..begun].get(done) {
            Some(Call::Write(writes)) => Allowed::prefixes(&self.log, writes),
            Some(compact) => {
                compact.apply(&mut self.log);
                Allowed::exactly(&self.log)
            }
            None => Allowed::exactly(&self.log),
        };
        let (store, found) = open_and_find(self.dir.path(), open)?;
        let expected =
            Expected { allowed: &allowed, reported: &self.log, past: &past, power_was_lost: false };
        let mut log = expected.judge(&found)?;
        drop(store);
        // Every term that may have been used.
        let mut all = self.log.clone();
        calls[done..begun].iter().for_each(|call| call.apply(&mut all));
        self.lost = Some(all.hard_state.term.max(self.lost.unwrap_or(Term::ZERO)));
        self.number += 1_000;
        log.settle(found);
        self.log = log;
        Ok(())
    }

    /// Starts the process, and kills it when it has said so much and some microseconds more.
    fn kill_after(&self, orders: Orders, says: usize, delay_us: u64) -> Said {
        let program = std::env::current_exe().expect("a test knows its own program");
        let mut child: Child = Command::new(program)
            .args([self.test, "--exact", "--nocapture", "--include-ignored"])
            .env(DIRECTORY, self.dir.path())
            .env(ORDERS, orders.encode())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut said = Said::default();
        let mut heard = 0;
        for line in lines.by_ref().map_while(Result::ok) {
            heard += usize::from(said.hear(&line));
            if heard >= says || said.rests {
                break;
            }
        }
        assert!(heard > 0, "there is no test of the name {:?}, or it ends before the check", self.test);
        std::thread::sleep(std::time::Duration::from_micros(delay_us));
        // An error: it has ended by itself, and said why.
        let _ = child.kill();
        for line in lines.map_while(Result::ok) {
            said.hear(&line);
        }
        child.wait().expect("it was started here");
        said
    }
}

/// What the process has said.
#[derive(Debug, Default)]
struct Said {
    begun: usize,
    done: usize,
    rests: bool,
    broken: Option<String>,
}

impl Said {
    /// Whether the line is one of the process.
    fn hear(&mut self, line: &str) -> bool {
        let Some(said) = line.strip_prefix(SAYS) else { return false };
        match said.split_once(' ') {
            Some(("begins", at)) => self.begun = at.parse().map_or(self.begun, |at: usize| at + 1),
            Some(("did", at)) => self.done = at.parse().map_or(self.done, |at: usize| at + 1),
            Some(("broken", what)) => self.broken = Some(what.into()),
            _ => self.rests = true,
        }
        true
    }
}
