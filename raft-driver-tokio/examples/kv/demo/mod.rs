//! `kv demo`: three processes on loopback, killed and restarted under load, and a check that nothing is lost.
//!
//! * Every number printed was measured in this run.
//! * Ends by itself: each wait has a limit, and so has the whole. Whatever happens, the processes are killed and
//!   the data is removed.

mod cluster;
mod load;
mod wait;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::time::sleep;

use crate::cli::Demo;
use crate::client::{Client, Status};
pub(crate) use crate::demo::cluster::Cluster;
use crate::demo::load::{Book, Control, Seen, Stage};
use crate::demo::wait::{POLL, WAIT_LIMIT, elected, leading, reached, waited_for};
use crate::failure::{Failure, Kind};
use crate::report::{bar, line, ms, percentile, rate, thousands};
use crate::stop::Signals;

const NODES: usize = 3;
/// Keys that each client goes round while nodes are killed, so that most writes replace another.
const KEYS_PER_CLIENT: u32 = 20;

/// Runs the demo.
pub(crate) fn run(options: &Demo) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        // Before anything is started: a signal from here on cleans up.
        let mut signals = Signals::new()?;
        let mut cluster = Cluster::new(NODES, options.keep)?;
        let limit = Duration::from_secs(options.limit_s.into());
        let result = tokio::select! {
            // First: Ctrl-C reaches the nodes too, and that they end then is no failure.
            biased;
            signal = signals.next() => Err(Failure::new(Kind::Interrupted, format!("interrupted by {signal}"), "")),
            result = tokio::time::timeout(limit, Run::new(options, &mut cluster).all()) => {
                result.unwrap_or_else(|_| Err(Failure::other(format!("not done within {} s", options.limit_s))))
            }
        };
        if result.as_ref().is_err_and(|failure| failure.kind != Kind::Interrupted) {
            eprint!("{}", cluster.tails());
        }
        if options.keep {
            line("kept", cluster.directory().display());
        }
        result
    })
}

struct Run<'a> {
    options: &'a Demo,
    cluster: &'a mut Cluster,
    client: Arc<Client>,
    book: Book,
}

impl<'a> Run<'a> {
    fn new(options: &'a Demo, cluster: &'a mut Cluster) -> Self {
        let client = Arc::new(Client::new(cluster.http()));
        Self { options, cluster, client, book: Book::default() }
    }

    async fn all(mut self) -> Result<(), Failure> {
        self.elect().await?;
        self.write().await?;
        let killed = self.kill_leader().await?;
        self.restart_one(killed).await?;
        self.kill_all().await?;
        self.restart_all().await?;
        let audited = self.read_back().await;
        let equal = self.compare().await;
        audited.and(equal)?;
        self.cluster.stop().await?;
        line("done", "every acknowledged write is there, and all three nodes shut down in order");
        Ok(())
    }

    async fn elect(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        for at in 0..NODES {
            self.cluster.start(at)?;
        }
        for at in 0..NODES {
            self.until("a node to answer", async |run| run.client.status(at).await).await?;
        }
        let up = began.elapsed();
        line("start", format!("{NODES} processes on loopback answer after {}", ms(up)));
        let leader = self.leader(0).await?;
        let text = format!(
            "node {} leads in term {}, {} after the start",
            leader.id,
            leader.term,
            ms(began.elapsed())
        );
        line("election", text);
        Ok(())
    }

    async fn write(&mut self) -> Result<(), Failure> {
        let seen = self.stage("write", self.options.writes, self.options.writes, &Control::new()).await?;
        let mut times: Vec<Duration> = seen.acknowledged.iter().map(|(_, took)| *took).collect();
        times.sort_unstable();
        let count = times.len() as u64;
        line(
            "write",
            format!(
                "{} writes of {} bytes by {} clients in {}: {}/s, p50 {}, p99 {}, longest {}",
                thousands(count),
                self.options.value_bytes,
                self.options.clients,
                ms(seen.took),
                rate(count, seen.took),
                ms(percentile(&times, 50)),
                ms(percentile(&times, 99)),
                ms(percentile(&times, 100)),
            ),
        );
        if seen.unknown > 0 {
            line("", format!("and {} whose outcome is unknown, although nothing was killed", seen.unknown));
        }
        Ok(())
    }

    /// Kills the leader under load, and returns which node that was.
    async fn kill_leader(&mut self) -> Result<usize, Failure> {
        let leader = self.leader(0).await?;
        let at = place(&leader);
        let control = Control::new();
        let writes = self.options.writes / 2;
        let (client, book) = (Arc::clone(&self.client), &mut self.book);
        let stage = stage(self.options, "kill", writes, KEYS_PER_CLIENT);
        let shown = bar("kill -9", writes.into());
        let load = load(stage, &client, book, &control, &shown);
        let kill = async {
            reached(&control, writes / 4).await?;
            let killed = Instant::now();
            self.cluster.kill(at);
            let new = elected(&client, leader.term).await?;
            Ok((killed, new, killed.elapsed()))
        };
        let (seen, (killed, new, took)) = tokio::try_join!(load, kill)?;
        self.cluster.check()?;
        line(
            "kill -9",
            format!(
                "node {} while it led, after {} acknowledged writes under load",
                leader.id,
                thousands(seen.acknowledged.iter().filter(|(at, _)| *at <= killed).count() as u64),
            ),
        );
        line("new leader", format!("node {} in term {}, {} after the kill", new.id, new.term, ms(took)));
        line(
            "gap",
            match gap(&seen, killed) {
                Some(gap) => format!("{} without an acknowledged write, as clients saw it", ms(gap)),
                None => "no write was left to see it".to_owned(),
            },
        );
        let acknowledged = thousands(seen.acknowledged.len() as u64);
        line("", format!("{acknowledged} writes acknowledged in all, {} of unknown outcome", seen.unknown));
        Ok(at)
    }

    async fn restart_one(&mut self, at: usize) -> Result<(), Failure> {
        let goal = self.leader(0).await?.commit_index;
        let began = Instant::now();
        self.cluster.start(at)?;
        self.until("the restarted node to answer", async |run| run.client.status(at).await).await?;
        let up = began.elapsed();
        self.until("the restarted node to catch up", async |run| {
            run.client.status(at).await.filter(|status| status.last_applied >= goal)
        })
        .await?;
        line(
            "restart",
            format!(
                "node {} answers after {}, and has applied all {} entries after {}",
                at + 1,
                ms(up),
                thousands(goal),
                ms(began.elapsed()),
            ),
        );
        Ok(())
    }

    async fn kill_all(&mut self) -> Result<(), Failure> {
        let control = Control::new();
        let writes = self.options.writes / 2;
        let (client, book) = (Arc::clone(&self.client), &mut self.book);
        let stage = stage(self.options, "all", writes, KEYS_PER_CLIENT);
        let shown = bar("kill -9", writes.into());
        let load = load(stage, &client, book, &control, &shown);
        let kill = async {
            reached(&control, writes / 2).await?;
            self.cluster.kill_all();
            control.stop.store(true, Ordering::Relaxed);
            Ok(())
        };
        let (seen, ()) = tokio::try_join!(load, kill)?;
        let acknowledged = thousands(seen.acknowledged.len() as u64);
        line(
            "kill -9",
            format!(
                "all {NODES} at once under load, after {acknowledged} acknowledged writes; {} of unknown outcome",
                seen.unknown
            ),
        );
        Ok(())
    }

    async fn restart_all(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        for at in 0..NODES {
            self.cluster.start(at)?;
        }
        let leader = self.leader(0).await?;
        let led = began.elapsed();
        let read = self.client.get("none", WAIT_LIMIT).await;
        read.map_err(|why| Failure::other(format!("no read after the restart: {why}")))?;
        line(
            "restart",
            format!(
                "all {NODES}; node {} leads in term {} after {}, reads are served after {}",
                leader.id,
                leader.term,
                ms(led),
                ms(began.elapsed()),
            ),
        );
        Ok(())
    }

    async fn read_back(&mut self) -> Result<(), Failure> {
        let book = Arc::new(std::mem::take(&mut self.book));
        let shown = bar("read back", book.keys());
        let began = Instant::now();
        let count = shown.clone();
        let audit =
            book.audit(&self.client, self.options.value_bytes as usize, move |read| count.inc(read)).await;
        shown.finish_and_clear();
        let audit = audit.map_err(Failure::other)?;
        line(
            "read back",
            format!(
                "{} keys in {}: {} hold their last acknowledged write, {} a write of unknown outcome, {} nothing, as \
             they may; wrong: {}",
                thousands(book.keys()),
                ms(began.elapsed()),
                thousands(audit.acknowledged),
                audit.unknown_there,
                audit.unknown_absent,
                audit.wrong.len(),
            ),
        );
        line(
            "",
            format!(
                "{} writes were acknowledged, {} of unknown outcome",
                thousands(book.acknowledged),
                thousands(book.unknown)
            ),
        );
        if audit.wrong.is_empty() {
            return Ok(());
        }
        audit.wrong.iter().take(10).for_each(|wrong| eprintln!("wrong: {wrong}"));
        Err(Failure::other(format!("{} keys do not hold what they should", audit.wrong.len())))
    }

    async fn compare(&mut self) -> Result<(), Failure> {
        let machine = self.until("all three state machines to be equal", async |run| {
            let mut first = None;
            for at in 0..NODES {
                let machine = run.client.status(at).await?.machine;
                if *first.get_or_insert(machine.clone()) != machine {
                    return None;
                }
            }
            first
        });
        let machine = machine.await?;
        line(
            "equal",
            format!(
                "all {NODES} state machines at index {}: {} keys, digest {}",
                thousands(machine.applied),
                thousands(machine.keys),
                machine.digest
            ),
        );
        Ok(())
    }

    async fn stage(
        &mut self,
        name: &'static str,
        writes: u32,
        keys_per_client: u32,
        control: &Arc<Control>,
    ) -> Result<Seen, Failure> {
        let shown = bar(name, writes.into());
        let stage = stage(self.options, name, writes, keys_per_client);
        let seen = load(stage, &self.client, &mut self.book, control, &shown).await?;
        self.cluster.check()?;
        Ok(seen)
    }

    async fn leader(&mut self, above_term: u64) -> Result<Status, Failure> {
        self.until("a leader", async |run| leading(&run.client, above_term).await).await
    }

    /// Asks again and again, within the limit and while all processes that should run do.
    async fn until<T>(&mut self, what: &str, ask: impl AsyncFn(&Self) -> Option<T>) -> Result<T, Failure> {
        let deadline = Instant::now() + WAIT_LIMIT;
        loop {
            if let Some(found) = ask(self).await {
                return Ok(found);
            }
            self.cluster.check()?;
            if Instant::now() > deadline {
                return Err(waited_for(what));
            }
            sleep(POLL).await;
        }
    }
}

fn place(status: &Status) -> usize {
    usize::try_from(status.id - 1).expect("one of a few nodes")
}

fn stage(options: &Demo, name: &'static str, writes: u32, keys_per_client: u32) -> Stage {
    let (clients, value_bytes) = (options.clients, options.value_bytes as usize);
    Stage { name, writes, keys_per_client, clients, value_bytes }
}

async fn load(
    stage: Stage,
    client: &Arc<Client>,
    book: &mut Book,
    control: &Arc<Control>,
    shown: &ProgressBar,
) -> Result<Seen, Failure> {
    let count = shown.clone();
    let seen = stage.run(client, book, control, move |written| count.inc(written)).await;
    shown.finish_and_clear();
    let seen = seen.map_err(Failure::other)?;
    match &seen.given_up {
        Some(why) => Err(Failure::other(format!("a write was not accepted for long: {why}"))),
        None => Ok(seen),
    }
}

/// The longest time without an acknowledged write that ended after the kill.
fn gap(seen: &Seen, killed: Instant) -> Option<Duration> {
    let pairs = seen.acknowledged.windows(2).filter(|pair| pair[1].0 > killed);
    pairs.map(|pair| pair[1].0 - pair[0].0).max()
}
