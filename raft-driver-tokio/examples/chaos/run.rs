//! One run from the first server to the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::clients::Load;
use crate::cluster::{Cluster, Setup, certificates};
use crate::disk;
use crate::events::{Event, Events};
use crate::history::{Lines, Outcome, Record, read_lines};
use crate::members::Members;
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::recordings::{self, Replayed};
use crate::report::{Figures, Progress, Report};
use crate::said::Said;
use crate::schedule::{Fault, Who, plan};
use crate::settle::Settle;
use crate::verdict::{Judged, judge};
use crate::watch::{View, watch};

/// What a run is asked to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) server: PathBuf,
    pub(crate) seed: u64,
    pub(crate) duration_s: u64,
    pub(crate) servers: u64,
    pub(crate) clients: u32,
    pub(crate) ops_per_s: u32,
    pub(crate) namespaces: bool,
    pub(crate) tls: bool,
    pub(crate) record: bool,
    pub(crate) arguments: Vec<String>,
    /// Keep the servers' data even if all is well.
    pub(crate) keep: bool,
}

/// What a run found beside its histories. Kept as a file, so that the verdict can be repeated.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Found {
    title: String,
    healed_ns: u64,
    recovery: Option<Duration>,
    keys: Option<u64>,
    #[serde(default)]
    said: Said,
    #[serde(default)]
    replayed: Replayed,
}

/// Runs, prints the report, and says whether all is well. The directory is left as it is.
pub(crate) async fn run(options: &Options, directory: &Path) -> io::Result<bool> {
    let network = match options.namespaces {
        true => Network::of_namespaces().await?,
        false => Network::of_proxies(),
    };
    let packets = network.has_packets();
    let disks = disk::Kind::available(directory);
    let title = title(options, disks);
    println!("{title}\nin {}", directory.display());
    // A program that is built anew meanwhile must not be another one.
    let server = directory.join("server");
    fs::copy(&options.server, &server)?;
    let mut arguments = options.arguments.clone();
    if options.record {
        arguments.extend(["--record".to_owned(), recordings::directory(directory).display().to_string()]);
    }
    let tls = options.tls.then(|| certificates(&server, directory)).transpose()?;
    let setup = Setup { server, directory: directory.to_owned(), disks, tls, arguments };
    let events = Arc::new(Events::create(&directory.join("events.jsonl"))?);
    let cluster = Arc::new(Cluster::found(setup, network, options.servers).await?);

    let (sender, views) = watch::channel(View::default());
    let watching = tokio::spawn(watch(Arc::clone(&cluster), Arc::clone(&events), sender));
    let schedule = plan(options.seed, Duration::from_secs(options.duration_s), packets);
    let (changes, asked) = mpsc::channel(1);
    let members = || Members {
        cluster: Arc::clone(&cluster),
        events: Arc::clone(&events),
        views: views.clone(),
        voters: usize::try_from(options.servers).unwrap_or(usize::MAX),
    };
    let changing = tokio::spawn(members().run(asked));
    let nemesis =
        Nemesis { cluster: Arc::clone(&cluster), events: Arc::clone(&events), views: views.clone(), changes };
    let clients = Clients::start(options, &cluster, &events, directory)?;

    let mut storm = tokio::spawn(nemesis.run(schedule));
    let shown = Progress::new("chaos", options.duration_s);
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = &mut storm => break,
            _ = every_second.tick() => {
                let done = clients.done.load(Ordering::Relaxed);
                shown.at(events.now_ns() / 1_000_000_000, format!("s, {done} operations. {}", events.now()));
            }
        }
    }
    drop(shown);
    // A change under way may take long: whatever is left of it is made good below.
    changing.abort();

    let settle = Settle { cluster: Arc::clone(&cluster), events: Arc::clone(&events), views: views.clone() };
    let mut found = Found { title, healed_ns: settle.heal().await, ..Found::default() };
    let mut written = clients.written_ns.subscribe();
    found.recovery = settle.recovery(found.healed_ns, &mut written).await;
    // A cluster that takes no writes shows nothing more, and that slowly.
    if found.recovery.is_some() {
        settle.members(&mut members()).await;
    }
    let (load, mut records, mut lines) = clients.stop().await?;
    if found.recovery.is_some() && settle.agreement("at the end").await.is_some() {
        let keys: BTreeSet<&String> = records.iter().map(|record| &record.key).collect();
        let keys: Vec<String> = keys.into_iter().cloned().collect();
        let shown = Progress::new("read", keys.len() as u64);
        let read = settle.read_back(&load, keys, &shown).await;
        drop(shown);
        read.iter().try_for_each(|record| lines.write(record))?;
        records.extend(read);
        found.keys = settle.restart_and_compare().await;
    }
    lines.flush()?;
    watching.abort();
    settle.kill_all().await;
    found.said = Said::by(&cluster)?;
    let full = events.faults().get(Fault::DiskFull(Who::All).kind()).copied().unwrap_or_default();
    let shown = Progress::new("replay", 0);
    found.replayed = recordings::replay(directory, || shown.step())?;
    drop(shown);
    let wrong = found.said.wrong.iter().chain(&found.replayed.wrong).cloned();
    wrong.chain(found.said.never_out_of_room(full)).for_each(|what| events.wrong(what));
    fs::write(directory.join("found.json"), serde_json::to_vec(&found)?)?;

    let faults = events.faults().into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
    let passed = tell(&found, faults, &records, &events.all_wrong());
    if !passed || options.keep {
        cluster.keep_data().await?;
    }
    Ok(passed)
}

/// Judges what an earlier run left in its directory.
pub(crate) fn check(directory: &Path) -> io::Result<bool> {
    let records: Vec<Record> = read_lines(&directory.join("history.jsonl"))?;
    let events: Vec<Event> = read_lines(&directory.join("events.jsonl"))?;
    let found = match fs::read(directory.join("found.json")) {
        Ok(found) => serde_json::from_slice(&found)?,
        Err(_) => Found { title: "a run that did not come to its end".to_owned(), ..Found::default() },
    };
    let mut faults = BTreeMap::new();
    for event in events.iter().filter(|event| event.kind == "begin") {
        let kind = event.what.split(':').next().unwrap_or_default();
        *faults.entry(kind.to_owned()).or_default() += 1;
    }
    let wrong = events.iter().filter(|event| event.kind == "wrong");
    let wrong: Vec<String> = wrong.map(|event| event.what.clone()).collect();
    Ok(tell(&found, faults, &records, &wrong))
}

fn title(options: &Options, disks: disk::Kind) -> String {
    format!(
        "seed {}, {} s, {} servers, {} clients, {}{}, {}",
        options.seed,
        options.duration_s,
        options.servers,
        options.clients,
        if options.namespaces { "network namespaces" } else { "loopback through a proxy" },
        if options.tls { ", TLS" } else { "" },
        match disks {
            disk::Kind::Tmpfs => "a small file system for each server",
            disk::Kind::Limit => "disks limited by the size of files",
        }
    )
}

fn tell(found: &Found, faults: BTreeMap<String, u64>, records: &[Record], wrong: &[String]) -> bool {
    let keys = records.iter().map(|record| &record.key).collect::<BTreeSet<_>>().len();
    let shown = Progress::new("judge", keys as u64);
    let judged: Judged = judge(records, || shown.step());
    drop(shown);
    let report = Report {
        title: found.title.clone(),
        figures: &Figures::of(records),
        faults,
        healed_ns: found.healed_ns,
        recovery: found.recovery,
        keys: found.keys,
        said: &found.said,
        replayed: &found.replayed,
        judged: &judged,
        wrong,
    };
    println!("\n{report}");
    report.passed()
}

/// The clients of a run, and whoever writes down what they did.
struct Clients {
    load: Arc<Load>,
    tasks: JoinSet<()>,
    recorder: tokio::task::JoinHandle<io::Result<(Vec<Record>, Lines)>>,
    done: Arc<AtomicU64>,
    /// When a write was acknowledged last.
    written_ns: watch::Sender<u64>,
}

impl Clients {
    fn start(
        options: &Options,
        cluster: &Cluster,
        events: &Arc<Events>,
        directory: &Path,
    ) -> io::Result<Self> {
        let (records, mut made) = mpsc::unbounded_channel::<Record>();
        let mut lines = Lines::create(&directory.join("history.jsonl"))?;
        let (done, written_ns) = (Arc::new(AtomicU64::new(0)), watch::Sender::new(0));
        let (counted, written) = (Arc::clone(&done), written_ns.clone());
        let recorder = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(record) = made.recv().await {
                lines.write(&record)?;
                if let Outcome::Done { .. } = record.outcome {
                    written.send_replace(record.returned_ns);
                }
                counted.fetch_add(1, Ordering::Relaxed);
                all.push(record);
            }
            Ok((all, lines))
        });
        let load = Arc::new(Load {
            servers: cluster.http(),
            events: Arc::clone(events),
            records,
            numbers: AtomicU64::new(1),
            register_uses: AtomicU64::new(0),
            cell_uses: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            think: Duration::from_secs(1) * options.clients / options.ops_per_s.max(1),
        });
        let mut tasks = JoinSet::new();
        for client in 0..options.clients {
            tasks.spawn(Arc::clone(&load).client(client, options.seed));
        }
        Ok(Self { load, tasks, recorder, done, written_ns })
    }

    /// Lets every client end what it is doing, and hands out all records.
    async fn stop(self) -> io::Result<(Arc<Load>, Vec<Record>, Lines)> {
        self.load.stop.store(true, Ordering::Relaxed);
        let mut tasks = self.tasks;
        while tasks.join_next().await.is_some() {}
        // The recorder ends with the last sender of records.
        let load = Arc::new(self.load.without_records());
        drop(self.load);
        let (records, lines) = self.recorder.await.map_err(io::Error::other)??;
        Ok((load, records, lines))
    }
}
