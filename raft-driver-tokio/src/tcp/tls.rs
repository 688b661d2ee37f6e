//! A node's certificate, its key, and the authorities it trusts.
//!
//! Both sides of a connection show a certificate (mutual TLS, version 1.3 only). A certificate stands for one node of
//! one cluster: it must have the DNS name [`Tls::name`] among its subject alternative names. The chain, the time and
//! the name are judged by rustls; nothing of that is done here.
//!
//! * Whoever shows a certificate that is good for several nodes, by a wildcard or by their names, is refused: it does not
//!   say who that is.
//! * Certificates that would be refused by peers are refused here first, when they are loaded.
//! * Files that were replaced are read again before the next connection; as long as they are of no use, what was read
//!   before stays in use. Connections that stand are not ended.
//! * A file system may hang for as long as it likes: it has one thread at most, and connections are made with what was
//!   read before.
//! * No session is resumed: every connection shows its certificate again, and it must be good at that time.
//! * A key is never printed.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use raft_core::NodeId;
use tokio::sync::OwnedMutexGuard;
use tokio_rustls::rustls;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, InconsistentKeys, RootCertStore, ServerConfig, version};
use webpki::EndEntityCert;

use crate::cluster::ClusterId;
use crate::storage::Identity;
use crate::tcp::Refusal;

/// A connection waits no longer than this for a look at the files.
const LOOK_MAX: Duration = Duration::from_millis(250);

/// A node's certificate and key, and the authorities whose certificates it accepts from peers. Clones are the same
/// one: what is renewed is renewed for all.
///
/// ```no_run
/// use raft_core::NodeId;
/// use raft_driver_tokio::ClusterId;
/// use raft_driver_tokio::storage::{DurableLog, Identity};
/// use raft_driver_tokio::tcp::{Tcp, TcpConfig, Tls};
///
/// # async fn start() -> Result<(), Box<dyn std::error::Error>> {
/// let (cluster, node) = (ClusterId::new(7), NodeId::new(3));
/// assert_eq!(Tls::name(cluster, node), "node-3.00000000000000000000000000000007.raft");
///
/// let log = DurableLog::open("/var/lib/node-3", Identity { cluster, node })?;
/// let tls = Tls::from_files(Identity { cluster, node }, "ca.pem", "node-3.pem", "node-3.key")?;
/// let mut config = TcpConfig { tls: Some(tls), ..TcpConfig::new(cluster) };
/// config.known_peers = Some(log.peers()); // a peer that comes back with an emptied directory is refused
/// let network = Tcp::bind("[::]:7103", config).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    identity: Identity,
    files: Option<Files>,
    current: Mutex<Current>,
    /// Held by the one who looks at the files.
    looks: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug)]
struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

struct Current {
    loaded: Arc<Loaded>,
    /// What the files looked like when it was read from them.
    seen: Stamps,
    /// What they looked like when they were of no use, and why: said once.
    failed: Option<(Stamps, String)>,
}

/// Those of the three files; `None` if one of them is not there: then the attempt to read it says why.
type Stamps = Option<[Stamp; 3]>;

/// Tells a file from the one that takes its place: when it was written, its length, and its number.
type Stamp = (SystemTime, u64, u64);

/// What connections are made with.
pub(crate) struct Loaded {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

/// The three things that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsPart {
    /// Certificates of the authorities that are trusted.
    Ca,
    /// The node's certificate, and those between it and the authority.
    Certificate,
    /// The key of the node's certificate.
    Key,
}

impl fmt::Display for TlsPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "the certificates of the authorities",
            Self::Certificate => "the node's certificate",
            Self::Key => "the node's key",
        })
    }
}

/// Why certificates or a key are of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {part} from {}: {error}", path.display())]
    Read {
        /// Which one.
        part: TlsPart,
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// There is no such thing in the bytes, or it is encrypted.
    #[error("no {} found where {part} should be", match part {
        TlsPart::Key => "PEM block of an unencrypted private key (PKCS#8, PKCS#1 or SEC1)",
        _ => "PEM block of a certificate",
    })]
    Missing {
        /// What was looked for.
        part: TlsPart,
    },
    /// The bytes are not PEM.
    #[error("{part} cannot be read: {error}")]
    Pem {
        /// Which one.
        part: TlsPart,
        /// What is wrong.
        error: pem::Error,
    },
    /// A certificate or key is damaged, or of a kind that is not supported.
    #[error("{part} cannot be used: {error}")]
    Unusable {
        /// Which one.
        part: TlsPart,
        /// What is wrong.
        error: rustls::Error,
    },
    /// The key belongs to another certificate.
    #[error(
        "the node's key is not the key of its certificate: one of the two files is an older one, or another node's"
    )]
    KeyMismatch,
    /// The certificate was not signed by one of the authorities.
    #[error("the node's certificate is not signed by one of the given authorities: peers would refuse it")]
    Untrusted,
    /// The certificate has expired or is not valid yet.
    #[error("the node's certificate has expired, or is not valid yet: renew it, or set the clock")]
    Expired,
    /// The certificate is someone else's.
    #[error(
        "the node's certificate must have the DNS name {expected} as a subject alternative name; it has {found:?}"
    )]
    Name {
        /// The name that it must have.
        expected: String,
        /// The names that it has.
        found: Vec<String>,
    },
    /// The certificate is good for any node.
    #[error("the node's certificate has a wildcard name, which is good for any node: name the node instead")]
    Wildcard,
    /// The certificate is good for several nodes.
    #[error(
        "the node's certificate names several nodes, {found:?}: give each one of its own, named {expected} here"
    )]
    Several {
        /// The one name of this kind that it must have.
        expected: String,
        /// Those that it has.
        found: Vec<String>,
    },
    /// There are no files: it was made from bytes.
    #[error("made from bytes: there are no files to read again")]
    NoFiles,
}

impl Tls {
    /// The DNS name that the certificate of this node must have: `node-3.<cluster>.raft`, the cluster as 32 hexadecimal
    /// digits. It is never looked up.
    #[must_use]
    pub fn name(cluster: ClusterId, node: NodeId) -> String {
        format!("node-{node}.{:032x}.raft", cluster.get())
    }

    /// Reads three PEM files. They are looked at again before every connection that is made, and read again when one
    /// has changed.
    ///
    /// # Errors
    /// If a file cannot be read, or what it holds would be refused by peers.
    pub fn from_files(
        identity: Identity,
        ca: impl AsRef<Path>,
        certificate: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let files = Files {
            ca: ca.as_ref().to_owned(),
            certificate: certificate.as_ref().to_owned(),
            key: key.as_ref().to_owned(),
        };
        // Before they are read: what changes meanwhile is read again.
        let seen = files.stamps();
        let loaded = files.load(identity)?;
        Ok(Self::new(identity, Some(files), loaded, seen))
    }

    /// The same from PEM in memory; see [`replace`](Self::replace).
    ///
    /// # Errors
    /// If it would be refused by peers.
    pub fn from_pem(identity: Identity, ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Ok(Self::new(identity, None, load(identity, ca, certificate, key)?, None))
    }

    fn new(identity: Identity, files: Option<Files>, loaded: Loaded, seen: Stamps) -> Self {
        let current = Mutex::new(Current { loaded: Arc::new(loaded), seen, failed: None });
        Self(Arc::new(Inner { identity, files, current, looks: Arc::default() }))
    }

    /// Reads the files again, now. Connections that stand are not ended. Blocks.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files); what was in use stays in use then.
    pub fn reload(&self) -> Result<(), TlsError> {
        let files = self.0.files.as_ref().ok_or(TlsError::NoFiles)?;
        let seen = files.stamps();
        let loaded = files.load(self.0.identity)?;
        *self.current() = Current { loaded: Arc::new(loaded), seen, failed: None };
        Ok(())
    }

    /// Uses other certificates and another key from the next connection on: for one made
    /// [from bytes](Self::from_pem), since files that differ would take their place again.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem); what was in use stays in use then.
    pub fn replace(&self, ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let loaded = load(self.0.identity, ca, certificate, key)?;
        self.current().loaded = Arc::new(loaded);
        Ok(())
    }

    /// Whose certificate this is.
    pub(crate) fn identity(&self) -> Identity {
        self.0.identity
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        // Each use is one assignment or one clone.
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next connection is made with.
    pub(crate) async fn latest(&self) -> Arc<Loaded> {
        if self.0.files.is_some() {
            let this = self.clone();
            let look = async {
                // The thread's, not the caller's: who gives up does not end what hangs.
                let turn = Arc::clone(&this.0.looks).lock_owned().await;
                tokio::task::spawn_blocking(move || this.look(turn)).await
            };
            // What takes longer goes on, for connections to come.
            if tokio::time::timeout(LOOK_MAX, look).await.is_err() {
                self.not_renewed(
                    None,
                    "to look at the files takes long: does their file system hang?".into(),
                );
            }
        }
        Arc::clone(&self.current().loaded)
    }

    /// Reads the files again if they are not those that are in use.
    fn look(&self, _turn: OwnedMutexGuard<()>) {
        let Some(files) = &self.0.files else { return };
        let seen = files.stamps();
        let mut current = self.current();
        if current.seen == seen {
            current.failed = None;
            return;
        }
        drop(current);
        let id = self.0.identity.node;
        match files.load(self.0.identity) {
            Ok(loaded) => {
                tracing::info!(%id, "raft.tls.renewed");
                *self.current() = Current { loaded: Arc::new(loaded), seen, failed: None };
            }
            // Perhaps half of a replacement, or not good yet: tried again at each look.
            Err(error) => self.not_renewed(seen, error.to_string()),
        }
    }

    /// Said once for each change.
    fn not_renewed(&self, seen: Stamps, error: String) {
        let mut current = self.current();
        if current.failed.as_ref() != Some(&(seen, error.clone())) {
            tracing::warn!(id = %self.0.identity.node, error, "raft.tls.not_renewed");
            current.failed = Some((seen, error));
        }
    }

    /// What peers would refuse.
    #[cfg(test)]
    pub(crate) fn from_pem_unchecked(identity: Identity, ca: &[u8], certificate: &[u8], key: &[u8]) -> Self {
        let loaded = Parts::read(ca, certificate, key).and_then(Parts::into_configs).expect("certificates");
        Self::new(identity, None, loaded, None)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { identity, files, .. } = &*self.0;
        f.debug_struct("Tls").field("identity", identity).field("files", files).finish_non_exhaustive()
    }
}

impl Files {
    fn stamps(&self) -> Stamps {
        let stamp = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            #[cfg(unix)]
            let number = std::os::unix::fs::MetadataExt::ino(&found);
            #[cfg(not(unix))]
            let number = 0;
            Some((found.modified().ok()?, found.len(), number))
        };
        Some([stamp(&self.ca)?, stamp(&self.certificate)?, stamp(&self.key)?])
    }

    fn load(&self, identity: Identity) -> Result<Loaded, TlsError> {
        let read = |part, path: &Path| {
            fs::read(path).map_err(|error| TlsError::Read { part, path: path.to_owned(), error })
        };
        let ca = read(TlsPart::Ca, &self.ca)?;
        let certificate = read(TlsPart::Certificate, &self.certificate)?;
        load(identity, &ca, &certificate, &read(TlsPart::Key, &self.key)?)
    }
}

fn load(identity: Identity, ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Loaded, TlsError> {
    let parts = Parts::read(ca, certificate, key)?;
    parts.check(identity)?;
    parts.into_configs()
}

/// What was read.
struct Parts {
    roots: Arc<RootCertStore>,
    /// The node's certificate first.
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Parts {
    fn read(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let certificates = |part, bytes| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
            let read = read.map_err(|error| TlsError::Pem { part, error })?;
            if read.is_empty() { Err(TlsError::Missing { part }) } else { Ok(read) }
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(TlsPart::Ca, ca)? {
            roots.add(authority).map_err(unusable(TlsPart::Ca))?;
        }
        let part = TlsPart::Key;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::Missing { part },
            error => TlsError::Pem { part, error },
        })?;
        let chain = certificates(TlsPart::Certificate, certificate)?;
        Ok(Self { roots: Arc::new(roots), chain, key, provider: Arc::new(ring::default_provider()) })
    }

    /// Judges peers that are connected to.
    fn of_servers(&self) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(&self.provider));
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
        verifier.map_err(|error| unusable(TlsPart::Ca)(rustls::Error::General(error.to_string())))
    }

    /// Judges peers that connect.
    fn of_clients(&self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let (roots, provider) = (Arc::clone(&self.roots), Arc::clone(&self.provider));
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
        verifier.map_err(|error| unusable(TlsPart::Ca)(rustls::Error::General(error.to_string())))
    }

    /// Whether peers will take this certificate, whichever side connects.
    fn check(&self, identity: Identity) -> Result<(), TlsError> {
        let part = TlsPart::Certificate;
        let (own, between) = self.chain.split_first().ok_or(TlsError::Missing { part })?;
        let expected = Tls::name(identity.cluster, identity.node);
        let refused = |error| match error {
            rustls::Error::InvalidCertificate(error) => match error {
                CertificateError::NotValidForNameContext { presented: found, .. } => {
                    TlsError::Name { expected: expected.clone(), found }
                }
                error => match refusal_of(&error) {
                    Refusal::Untrusted => TlsError::Untrusted,
                    Refusal::Expired => TlsError::Expired,
                    _ => unusable(part)(error.into()),
                },
            },
            error => unusable(part)(error),
        };
        let now = UnixTime::now();
        let name = server_name(identity.cluster, identity.node);
        self.of_servers()?.verify_server_cert(own, between, &name, &[], now).map_err(refused)?;
        self.of_clients()?.verify_client_cert(own, between, now).map_err(refused)?;
        let found = nodes_named(own);
        if found.iter().any(|name| name.contains('*')) {
            return Err(TlsError::Wildcard);
        }
        if found.len() > 1 { Err(TlsError::Several { expected, found }) } else { Ok(()) }
    }

    fn into_configs(self) -> Result<Loaded, TlsError> {
        let (servers, clients) = (self.of_servers()?, self.of_clients()?);
        let Self { chain, key, provider, .. } = self;
        let own = |error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch,
            error => unusable(TlsPart::Key)(error),
        };
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(own)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(own)?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(own)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .map_err(own)?;
        // A resumed session would not show its certificate again.
        client.resumption = Resumption::disabled();
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Loaded { client: Arc::new(client), server: Arc::new(server) })
    }
}

fn unusable(part: TlsPart) -> impl Fn(rustls::Error) -> TlsError {
    move |error| TlsError::Unusable { part, error }
}

/// The name that a node's certificate must have, as rustls wants it.
pub(crate) fn server_name(cluster: ClusterId, node: NodeId) -> ServerName<'static> {
    ServerName::try_from(Tls::name(cluster, node))
        .expect("letters, digits, a hyphen and dots in short labels")
}

/// Whether a certificate, which was verified before, is that of this node and of no other.
pub(crate) fn names(certificate: &CertificateDer<'_>, cluster: ClusterId, node: NodeId) -> bool {
    let is_its_own = ParsedCertificate::try_from(certificate)
        .is_ok_and(|certificate| verify_server_name(&certificate, &server_name(cluster, node)).is_ok());
    is_its_own && nodes_named(certificate) == [Tls::name(cluster, node)]
}

/// The names of a certificate that can be nodes', of whatever cluster, wildcards included; each once.
fn nodes_named(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(certificate) = EndEntityCert::try_from(certificate) else { return Vec::new() };
    let names = certificate.valid_dns_names().map(str::to_ascii_lowercase);
    names.filter(|name| name.ends_with(".raft")).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What peers are told about a certificate that is not good.
pub(crate) fn refusal_of(error: &CertificateError) -> Refusal {
    use CertificateError as E;
    match error {
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            Refusal::Expired
        }
        E::UnknownIssuer | E::BadSignature => Refusal::Untrusted,
        E::NotValidForName | E::NotValidForNameContext { .. } => Refusal::Name,
        _ => Refusal::Certificate,
    }
}
