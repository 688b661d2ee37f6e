//! A network on loopback that can be broken without any rights: every connection goes through here.
//!
//! * A server is known to its peers and to clients by addresses at which this proxy listens. Who connects is found out
//!   by [`owner`](crate::owner), so that each direction between two servers can be treated by itself.
//! * What arrives arrives unaltered and in order, as TCP promises. What can happen is what TCP allows: bytes are late,
//!   wait for long, or never come because the connection breaks, in the middle of a frame or with one end unaware.
//! * While a pair is stalled nothing of it moves, the end of a stream included; new connections come about, and are
//!   silent.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use raft_sim::Rng;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::links::{CLIENTS, Id, Links, Pair, Shake};
use crate::owner::Owners;

/// What is read at once, and so what a cut or a delay applies to.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks on their way: with the buffers of the system, what a link holds.
const CHUNKS_MAX: usize = 64;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Who connects to a listener of the proxy.
#[derive(Clone)]
pub(crate) enum From {
    /// Clients only.
    Clients,
    /// Whichever server owns the other end.
    Servers(Arc<Owners>),
}

/// Accepts connections for server `to` and carries them to `target`, for ever.
pub(crate) async fn serve(links: Arc<Links>, listener: TcpListener, from: From, to: Id, target: SocketAddr) {
    loop {
        let Ok((near, peer)) = listener.accept().await else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (links, from) = (Arc::clone(&links), from.clone());
        tokio::spawn(async move {
            let dialer = match from {
                From::Clients => Some(CLIENTS),
                From::Servers(owners) => match near.local_addr() {
                    Ok(here) => owners.of_connection(peer, here).await,
                    Err(_) => None,
                },
            };
            // Nobody: whoever it was has gone already.
            let Some(dialer) = dialer else { return };
            links.passes((dialer, to)).await;
            let far = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(target)).await;
            match far {
                Ok(Ok(far)) => carry(&links, (dialer, to), near, far).await,
                // The server is down, or does not accept: the same is seen through here.
                _ => reset(&near),
            }
        });
    }
}

/// Makes the other end see a reset when `stream` is dropped.
fn reset(stream: &TcpStream) {
    // An error: it is closed already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Carries bytes both ways until the connection ends.
async fn carry(links: &Links, (from, to): Pair, near: TcpStream, far: TcpStream) {
    let mut shakes = links.shakes();
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let both = async {
        tokio::try_join!(pump(links, (from, to), &near, &far), pump(links, (to, from), &far, &near))
    };
    tokio::select! {
        ended = both => if ended.is_err() {
            reset(&near);
            reset(&far);
        },
        shake = shaken(&mut shakes, (from, to)) => {
            reset(&near);
            reset(&far);
            if let Shake::HalfOpen(unaware_of, _, time) = shake {
                let (gone, left) = if unaware_of == from { (near, far) } else { (far, near) };
                drop(gone);
                tokio::time::sleep(time).await;
                drop(left);
            }
        }
    }
}

/// Resolves with the next shake of this connection.
async fn shaken(shakes: &mut broadcast::Receiver<Shake>, pair: Pair) -> Shake {
    loop {
        match shakes.recv().await {
            Ok(shake) if shake.concerns(pair) => return shake,
            // Some were missed: as if they had been for others.
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Carries one direction until its stream ends.
async fn pump(links: &Links, pair: Pair, from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_MAX);
    tokio::try_join!(take_in(links, pair, from, sender), give_out(links, pair, to, receiver))?;
    Ok(())
}

/// Reads, and says of each chunk when it arrives.
async fn take_in(
    links: &Links,
    pair: Pair,
    from: &TcpStream,
    sender: mpsc::Sender<(Instant, Bytes)>,
) -> io::Result<()> {
    // Not drawn from the run's seed: how often this is asked is not determined either.
    let mut rng = Rng::new(fastrand::u64(..), pair.0);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut due = Instant::now();
    loop {
        links.passes(pair).await;
        from.readable().await?;
        let read = match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let rule = links.rule(pair);
        let jitter_ns = u64::try_from(rule.jitter.as_nanos()).unwrap_or(u64::MAX);
        let late = rule.delay + Duration::from_nanos(rng.below(jitter_ns));
        due = due.max(Instant::now() + late);
        if let Some(bytes_per_s) = rule.bytes_per_s {
            due += Duration::from_secs_f64(read as f64 / bytes_per_s as f64);
        }
        if sender.send((due, Bytes::copy_from_slice(&buffer[..read]))).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes each chunk when it is due, then ends the stream.
async fn give_out(
    links: &Links,
    pair: Pair,
    to: &TcpStream,
    mut receiver: mpsc::Receiver<(Instant, Bytes)>,
) -> io::Result<()> {
    let mut rng = Rng::new(fastrand::u64(..), pair.1);
    while let Some((due, mut chunk)) = receiver.recv().await {
        tokio::time::sleep_until(due).await;
        links.passes(pair).await;
        let cut = rng.chance(links.rule(pair).cut_ppm);
        if cut {
            chunk.truncate(rng.index(chunk.len()));
        }
        while chunk.has_remaining() {
            to.writable().await?;
            match to.try_write(&chunk) {
                Ok(written) => chunk.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if cut {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
    links.passes(pair).await;
    SockRef::from(to).shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::links::Rule;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A client's connection through a proxy of server 1, and the server's end.
    async fn connected(links: &Arc<Links>) -> (TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target) = (listener.local_addr().unwrap(), server.local_addr().unwrap());
        tokio::spawn(serve(Arc::clone(links), listener, From::Clients, 1, target));
        let client = TcpStream::connect(address).await.unwrap();
        (client, server.accept().await.unwrap().0)
    }

    async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 1024];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await.unwrap()?;
        bytes.truncate(read);
        Ok(bytes)
    }

    #[tokio::test]
    async fn bytes_and_ends_pass() {
        let links = Arc::new(Links::new());
        let (mut client, mut server) = connected(&links).await;
        client.write_all(b"ask").await.unwrap();
        assert_eq!(read(&mut server).await.unwrap(), b"ask");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        assert_eq!(read(&mut client).await.unwrap(), b"answer");
        assert_eq!(read(&mut client).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_stall_of_one_direction_holds_what_was_sent_and_lets_the_other_pass() {
        let links = Arc::new(Links::new());
        let (mut client, mut server) = connected(&links).await;
        links.lay(1, [(CLIENTS, 1)].into(), Rule { stalled: true, ..Rule::default() });
        client.write_all(b"held").await.unwrap();
        server.write_all(b"passes").await.unwrap();
        assert_eq!(read(&mut client).await.unwrap(), b"passes");
        let early = server.try_read(&mut [0; 8]);
        assert_eq!(early.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        links.lift(1);
        assert_eq!(read(&mut server).await.unwrap(), b"held");
    }

    #[tokio::test]
    async fn a_cut_breaks_both_ends() {
        let links = Arc::new(Links::new());
        let (mut client, mut server) = connected(&links).await;
        links.lay(1, [(CLIENTS, 1)].into(), Rule { cut_ppm: 1_000_000, ..Rule::default() });
        client.write_all(b"12345678").await.unwrap();
        let mut seen = Vec::new();
        let end = loop {
            match read(&mut server).await {
                Ok(bytes) if bytes.is_empty() => panic!("ended in order"),
                Ok(bytes) => seen.extend(bytes),
                Err(error) => break error,
            }
        };
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        assert!(seen.len() < 8 && b"12345678".starts_with(&seen), "{seen:?}");
        assert_eq!(read(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn half_open_leaves_one_end_unaware() {
        let links = Arc::new(Links::new());
        let (mut client, mut server) = connected(&links).await;
        // Once something has passed, the connection hears of what concerns it.
        client.write_all(b"here").await.unwrap();
        assert_eq!(read(&mut server).await.unwrap(), b"here");
        links.shake(Shake::HalfOpen(1, CLIENTS, PATIENCE * 2));
        assert_eq!(read(&mut server).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        client.write_all(b"into the void").await.unwrap();
        let nothing = client.try_read(&mut [0; 8]);
        assert_eq!(nothing.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
