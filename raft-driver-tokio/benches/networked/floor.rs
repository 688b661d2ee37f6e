//! What the machine allows without a protocol: group commit on three plain files, two of them behind sockets.
//!
//! * Nothing is numbered, checked or recovered. What gathers while a batch is on its way is the next one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{mpsc, oneshot};

use crate::{Figures, PAYLOAD_BYTES, load};

const BATCH_BYTES_MAX: usize = 1 << 20;

/// A file, and how often all of them were synced.
struct Disk {
    file: File,
    syncs: Arc<AtomicU64>,
}

impl Disk {
    fn append(&mut self, batch: &[u8]) {
        self.file.write_all(batch).and_then(|()| self.file.sync_data()).expect("the disk works");
        self.syncs.fetch_add(1, Ordering::Relaxed);
    }
}

/// A client's write.
struct Write {
    command: Bytes,
    done: oneshot::Sender<()>,
}

/// How much one of the three has on its disk: which one, and how many bytes.
type Durable = (usize, u64);

/// Appends and acknowledges what it receives until the connection ends.
fn follow(listener: &TcpListener, mut disk: Disk) {
    let (mut stream, _) = listener.accept().expect("the leader connects");
    stream.set_nodelay(true).expect("an option that all have");
    let mut buffer = vec![0; BATCH_BYTES_MAX];
    let mut durable = 0_u64;
    loop {
        let Ok(count @ 1..) = stream.read(&mut buffer) else { return };
        disk.append(&buffer[..count]);
        durable += count as u64;
        if stream.write_all(&durable.to_le_bytes()).is_err() {
            // The leader is gone: the round is over.
            return;
        }
    }
}

/// Appends what the leader has for itself.
fn write(
    batches: &blocking::Receiver<Arc<Vec<u8>>>,
    mut disk: Disk,
    reports: &mpsc::UnboundedSender<Durable>,
) {
    let (mut buffer, mut durable) = (Vec::new(), 0);
    while let Ok(first) = batches.recv() {
        buffer.clear();
        std::iter::once(first).chain(batches.try_iter()).for_each(|batch| buffer.extend_from_slice(&batch));
        disk.append(&buffer);
        durable += buffer.len() as u64;
        if reports.send((0, durable)).is_err() {
            return;
        }
    }
}

async fn hear(mut stream: OwnedReadHalf, who: usize, reports: mpsc::UnboundedSender<Durable>) {
    let mut word = [0; 8];
    while stream.read_exact(&mut word).await.is_ok() {
        if reports.send((who, u64::from_le_bytes(word))).is_err() {
            return;
        }
    }
}

/// Takes what has gathered, sends it everywhere, and answers what two of three have.
async fn lead(
    mut writes: mpsc::UnboundedReceiver<Write>,
    followers: Vec<tokio::net::TcpStream>,
    file: blocking::Sender<Arc<Vec<u8>>>,
    (reports, mut reported): (mpsc::UnboundedSender<Durable>, mpsc::UnboundedReceiver<Durable>),
) {
    let mut sockets = Vec::new();
    for (who, stream) in (1..).zip(followers) {
        let (reader, writer) = stream.into_split();
        sockets.push(writer);
        tokio::spawn(hear(reader, who, reports.clone()));
    }
    let (mut waiting, mut batch) = (VecDeque::new(), Vec::new());
    let (mut durable, mut answered) = ([0_u64; 3], 0);
    loop {
        tokio::select! {
            count = writes.recv_many(&mut batch, BATCH_BYTES_MAX / PAYLOAD_BYTES) => {
                if count == 0 {
                    return;
                }
                let mut bytes = Vec::with_capacity(count * PAYLOAD_BYTES);
                for Write { command, done } in batch.drain(..) {
                    bytes.extend_from_slice(&command);
                    waiting.push_back(done);
                }
                let bytes = Arc::new(bytes);
                for socket in &mut sockets {
                    socket.write_all(&bytes).await.expect("the follower listens");
                }
                file.send(bytes).expect("the file is written");
            }
            Some((who, bytes)) = reported.recv() => {
                durable[who] = bytes;
                let mut sorted = durable;
                sorted.sort_unstable();
                while answered + PAYLOAD_BYTES as u64 <= sorted[1] {
                    answered += PAYLOAD_BYTES as u64;
                    let done: oneshot::Sender<()> = waiting.pop_front().expect("it was written");
                    // The client waits to the end of its write.
                    let _ = done.send(());
                }
            }
        }
    }
}

pub(crate) fn measure(dir: &Path, clients: usize, round: Duration) -> Figures {
    let syncs = Arc::new(AtomicU64::new(0));
    let disk = |name: &str| Disk {
        file: File::create(dir.join(name)).expect("a new file"),
        syncs: Arc::clone(&syncs),
    };
    let (mut threads, mut followers): (Vec<JoinHandle<()>>, Vec<TcpStream>) = (Vec::new(), Vec::new());
    for name in ["2", "3"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let disk = disk(name);
        threads.push(std::thread::spawn(move || follow(&listener, disk)));
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).expect("options that all have");
        followers.push(stream);
    }
    let (file, batches) = blocking::channel();
    let (reports, reported) = mpsc::unbounded_channel();
    let (own, told) = (disk("1"), reports.clone());
    threads.push(std::thread::spawn(move || write(&batches, own, &told)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let figures = runtime.block_on(async {
        let (sender, writes) = mpsc::unbounded_channel();
        let followers = followers.into_iter().map(|stream| tokio::net::TcpStream::from_std(stream));
        let followers = followers.collect::<Result<_, _>>().expect("a runtime with sockets");
        let leading = tokio::spawn(lead(writes, followers, file, (reports, reported)));
        let figures = load(
            clients,
            round,
            || syncs.load(Ordering::Relaxed),
            move |command| {
                let sender = sender.clone();
                async move {
                    let (done, answer) = oneshot::channel();
                    assert!(sender.send(Write { command, done }).is_ok(), "it leads");
                    answer.await.expect("it is answered");
                }
            },
        )
        .await;
        leading.await.expect("it ends in order");
        figures
    });
    drop(runtime);
    threads.into_iter().for_each(|thread| thread.join().expect("it ends in order"));
    figures
}
