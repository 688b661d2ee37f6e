//! `kv bench`: load on a cluster, and what came of it.
//!
//! * Closed loop: a client asks again when it was answered. Open loop: requests are due at fixed times, and a latency
//!   counts from when its request was due.
//! * Latencies go into histograms of fixed size; a bench of any length needs a few megabytes.
//! * Errors are counted by kind, and are no latencies.

mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use indicatif::ProgressBar;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::bench::report::{Figures, Report};
use crate::cli::{Bench, Load};
use crate::client::session::Session;
use crate::client::{Ask, Client, Failed, Until};
use crate::demo::Cluster;
use crate::failure::{Failure, Kind};
use crate::report::bar;
use crate::stop::Signals;

/// How long one request may take before it counts as an error.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// How often progress is shown.
const SHOWN_EVERY: Duration = Duration::from_millis(100);
/// Nodes of a cluster that is started for a bench.
const LOCAL_NODES: usize = 3;

/// Runs a bench.
pub(crate) fn run(options: &Bench) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut cluster = None;
        let endpoints = if options.local {
            let cluster = cluster.insert(Cluster::new(LOCAL_NODES, false)?);
            (0..LOCAL_NODES).try_for_each(|at| cluster.start(at))?;
            cluster.http().collect()
        } else {
            options.reach.at.endpoints.clone()
        };
        let limit = Duration::from_secs(options.reach.limit_s.into());
        let report = tokio::select! {
            biased;
            signal = signals.next() => {
                return Err(Failure::new(Kind::Interrupted, format!("interrupted by {signal}"), ""));
            }
            report = bench(&options.load, &endpoints, limit) => report?,
        };
        if let Some(mut cluster) = cluster {
            cluster.check()?;
            cluster.stop().await?;
        }
        report.print(options.json)
    })
}

/// What all clients share.
struct Shared {
    load: Load,
    began: Instant,
    ends: Option<Instant>,
    /// Requests begun.
    begun: AtomicU64,
    done: AtomicU64,
    /// Random bytes that values are cut from.
    filler: Bytes,
}

async fn bench(load: &Load, endpoints: &[String], limit: Duration) -> Result<Report, Failure> {
    let clients = (0..load.connections).map(|_| Arc::new(Client::new(endpoints.iter().cloned())));
    let clients: Vec<_> = clients.collect();
    // Connections are made and the leader is found before anything is measured.
    let mut ready = JoinSet::new();
    for client in &clients {
        let client = Arc::clone(client);
        ready.spawn(async move { client.get("bench/none", limit).await });
    }
    while let Some(read) = ready.join_next().await {
        let read = read.map_err(Failure::other)?;
        read.map_err(|why| {
            let advice = "name nodes that run in --endpoints, or let --local start some";
            Failure::new(Kind::NotDone, format!("no node serves a read: {why}"), advice)
        })?;
    }
    let began = Instant::now();
    let filler =
        std::iter::repeat_with(|| fastrand::u8(..)).take(2 * load.value_bytes as usize + 1).collect();
    let ends = load.count.is_none().then(|| began + Duration::from_secs(load.duration_s.into()));
    let (begun, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let shared = Arc::new(Shared { load: load.clone(), began, ends, begun, done, filler });
    let shown = tokio::spawn(show(Arc::clone(&shared)));
    let mut workers = JoinSet::new();
    for number in 0..load.clients {
        let client = Arc::clone(&clients[number as usize % clients.len()]);
        workers.spawn(work(Arc::clone(&shared), client, number as usize));
    }
    let mut figures = Figures::new();
    while let Some(seen) = workers.join_next().await {
        figures.add(&seen.map_err(Failure::other)?);
    }
    shown.abort();
    let took = began.elapsed();
    // Its bar goes with it.
    let _ = shown.await;
    for client in &clients {
        for (kind, count) in client.retries() {
            *figures.retries.entry(kind).or_default() += count;
        }
    }
    Ok(Report { load: load.clone(), took, figures })
}

/// One client.
async fn work(shared: Arc<Shared>, client: Arc<Client>, number: usize) -> Figures {
    let load = &shared.load;
    let mut figures = Figures::new();
    let mut session = load.sessions.then(Session::default);
    loop {
        let turn = shared.begun.fetch_add(1, Ordering::Relaxed);
        if load.count.is_some_and(|count| turn >= count) {
            return figures;
        }
        let due = match load.rate {
            Some(rate) => {
                let due = shared.began + Duration::from_secs_f64(turn as f64 / f64::from(rate));
                if shared.ends.is_some_and(|ends| due >= ends) {
                    return figures;
                }
                sleep_until(due.into()).await;
                due
            }
            None => Instant::now(),
        };
        if shared.ends.is_some_and(|ends| Instant::now() >= ends) {
            // Requests that were due and never sent: the cluster was slower than the rate.
            if load.rate.is_some() {
                *figures.errors.entry("not sent: too slow for the rate".into()).or_default() += 1;
            }
            return figures;
        }
        let path = format!("/kv/bench/{}", fastrand::u32(..load.keys));
        let read = fastrand::u8(..100) < load.reads;
        let until = Until { deadline: Instant::now() + REQUEST_LIMIT, stop: None };
        let answered = if read {
            let first = load.spread_reads.then(|| number.wrapping_add(turn as usize));
            client.send_from(first, &Ask::new(Method::GET, path), until).await
        } else {
            let ask = Ask::new(Method::PUT, path).body(shared.value());
            match &mut session {
                Some(session) => session.write(&client, ask, until).await,
                None => client.send(&ask, until).await,
            }
        };
        shared.done.fetch_add(1, Ordering::Relaxed);
        match answered {
            Ok((StatusCode::OK | StatusCode::NOT_FOUND, _)) => figures.record(read, due.elapsed()),
            Ok((status, _)) => {
                *figures.errors.entry(format!("answered {}", status.as_u16())).or_default() += 1
            }
            Err(Failed::NotDone(_)) => *figures.errors.entry("not served in time".into()).or_default() += 1,
            Err(Failed::Unknown(_)) => *figures.errors.entry("outcome unknown".into()).or_default() += 1,
        }
    }
}

impl Shared {
    /// Another part of the filler each time.
    fn value(&self) -> Bytes {
        let bytes = self.load.value_bytes as usize;
        let from = fastrand::usize(..=bytes);
        self.filler.slice(from..from + bytes)
    }
}

/// A progress bar by requests or by time.
async fn show(shared: Arc<Shared>) {
    let bar: ProgressBar = match (shared.load.count, shared.ends) {
        (Some(count), _) => bar("bench", count),
        (None, _) => bar("bench", u64::from(shared.load.duration_s) * 1000),
    };
    let mut before = 0;
    loop {
        sleep(SHOWN_EVERY).await;
        let done = shared.done.load(Ordering::Relaxed);
        match shared.load.count {
            Some(_) => bar.set_position(done),
            None => bar.set_position(u64::try_from(shared.began.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
        bar.set_message(format!("{}/s", (done - before) * 10));
        before = done;
    }
}
