//! From the address of a peer, as the membership has it, to a socket.
//!
//! * A name is resolved again for every connection: a peer may have moved.
//! * The system's resolver may hang for as long as it likes: it has one thread for each name at most, and a few for all.
//! * All its addresses are tried, the next one when the one before fails or is slow, and the first that answers is
//!   taken. If that was not the peer after all, the next attempt begins with any of them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// After this time the next address is tried too.
const SLOW: Duration = Duration::from_millis(250);

/// Names that the system is asked for at the same time.
const LOOKUPS_MAX: usize = 16;

type Resolved = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Finds the sockets behind an address of the membership. [`Default`] asks the system, for `host:port`.
///
/// ```
/// use raft_driver_tokio::tcp::Resolver;
///
/// // Addresses that are names in a registry of one's own.
/// let resolver = Resolver::new(|address: String| async move {
///     match address.as_str() {
///         "first" => Ok(vec!["127.0.0.1:7101".parse().expect("an address")]),
///         _ => Err(std::io::Error::other(format!("{address} is not registered"))),
///     }
/// });
/// # drop(resolver);
/// ```
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(String) -> Resolved + Send + Sync>);

impl Resolver {
    /// Calls `resolve` before every connection that is made. At most 16 of the addresses that it finds are tried.
    pub fn new<R, F>(resolve: R) -> Self
    where
        R: Fn(String) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |address| Box::pin(resolve(address))))
    }

    /// Connects to whatever is behind `address`; `anew`: whoever answered last was not the peer. The caller limits the time.
    pub(crate) async fn connect(&self, address: &str, anew: bool) -> io::Result<TcpStream> {
        let mut found = (self.0)(address.to_owned()).await?;
        found.truncate(ADDRESSES_MAX);
        if anew && !found.is_empty() {
            let first = fastrand::usize(..found.len());
            found.rotate_left(first);
        }
        let mut untried = found.into_iter();
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        // Dropping it ends the attempts that are under way.
        let mut attempts = JoinSet::new();
        loop {
            let next = untried.next();
            let is_last = next.is_none();
            if let Some(address) = next {
                attempts.spawn(TcpStream::connect(address));
            }
            let slow = tokio::time::sleep(SLOW);
            tokio::select! {
                attempt = attempts.join_next() => match attempt {
                    Some(Ok(Ok(stream))) => return Ok(stream),
                    Some(Ok(Err(error))) => failed = error,
                    Some(Err(error)) => failed = io::Error::other(error),
                    None => return Err(failed),
                },
                () = slow, if !is_last => {}
            }
        }
    }
}

impl Default for Resolver {
    fn default() -> Self {
        let lookups = Lookups::new(|address| Ok(address.to_socket_addrs()?.collect()));
        Self::new(move |address| lookups.clone().find(address))
    }
}

/// Asks something that blocks, and may hang.
#[derive(Clone)]
struct Lookups {
    ask: fn(&str) -> io::Result<Vec<SocketAddr>>,
    /// Threads that may be busy with it.
    threads: Arc<Semaphore>,
    /// Who asks for a name that is being asked for waits, until it gives up. Those that nobody asks for are gone.
    names: Arc<Mutex<BTreeMap<String, Weak<Semaphore>>>>,
}

impl Lookups {
    fn new(ask: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        Self { ask, threads: Arc::new(Semaphore::new(LOOKUPS_MAX)), names: Arc::default() }
    }

    async fn find(self, address: String) -> io::Result<Vec<SocketAddr>> {
        if let Ok(known) = address.parse() {
            return Ok(vec![known]);
        }
        // Held by the thread, not by the caller: who gives up does not end what hangs.
        let name = self.name(&address).acquire_owned().await.map_err(io::Error::other)?;
        let thread = self.threads.acquire_owned().await.map_err(io::Error::other)?;
        let found = tokio::task::spawn_blocking(move || {
            let found = (self.ask)(&address);
            drop((name, thread));
            found
        });
        found.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    fn name(&self, address: &str) -> Arc<Semaphore> {
        // Each use leaves the map in order.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|_, name| name.strong_count() > 0);
        if let Some(name) = names.get(address).and_then(Weak::upgrade) {
            return name;
        }
        let name = Arc::new(Semaphore::new(1));
        names.insert(address.to_owned(), Arc::downgrade(&name));
        name
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn to(addresses: &[SocketAddr]) -> Resolver {
        let addresses = addresses.to_vec();
        Resolver::new(move |_| {
            let addresses = addresses.clone();
            async move { Ok(addresses) }
        })
    }

    /// An address where nobody listens.
    async fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let (one, two) = (closed().await, closed().await);
        let stream = to(&[one, two, there]).connect("name", false).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        let error = to(&[one, two]).connect("name", false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(to(&[]).connect("name", false).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_does_not_hold_up_the_next() {
        // Its queue is full: nobody accepts, and the system answers no more.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let mute = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(mute)).await
        {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 100, "the queue has no end");
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let stream = to(&[mute, there]).connect("name", false).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
    }

    #[tokio::test]
    async fn the_system_resolves_names_and_both_kinds_of_addresses() {
        for host in ["127.0.0.1", "[::1]", "localhost"] {
            // Where the system has no IPv6, there is nothing to try.
            let Ok(listener) = TcpListener::bind(format!("{host}:0")).await else {
                assert_eq!(host, "[::1]");
                continue;
            };
            let there = listener.local_addr().unwrap();
            let address = format!("{host}:{}", there.port());
            assert_eq!(
                Resolver::default().connect(&address, false).await.unwrap().peer_addr().unwrap(),
                there
            );
        }
        let error = Resolver::default().connect("no port", false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn a_resolver_that_hangs_takes_one_thread_for_each_name_and_a_few_for_all() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        static GATE: std::sync::OnceLock<()> = std::sync::OnceLock::new();
        /// Also if the test fails: the runtime waits for the threads.
        struct LetGo;
        impl Drop for LetGo {
            fn drop(&mut self) {
                GATE.get_or_init(|| ());
            }
        }
        let let_go = LetGo;
        let lookups = Lookups::new(|_| {
            ASKED.fetch_add(1, Ordering::SeqCst);
            GATE.wait();
            Ok(Vec::new())
        });
        let ask = async |name: &str| {
            let found = lookups.clone().find(name.to_owned());
            tokio::time::timeout(Duration::from_millis(1), found).await.is_ok()
        };
        for _ in 0..100 {
            assert!(!ask("hangs:1").await);
        }
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        for name in 0..3 * LOOKUPS_MAX {
            assert!(!ask(&format!("hangs-{name}:1")).await);
        }
        assert!(ASKED.load(Ordering::SeqCst) <= LOOKUPS_MAX);
        assert!(lookups.names.lock().unwrap().len() <= LOOKUPS_MAX + 1, "who gave up is forgotten");
        assert!(ask("127.0.0.1:1").await, "what needs no resolver is not held up");
        drop(let_go);
        lookups.find("hangs:1".to_owned()).await.unwrap();
    }
}
