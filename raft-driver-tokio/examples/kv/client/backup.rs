//! `kv backup`: the state of a running cluster in a file, checked before it has its name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use indicatif::{ProgressBar, ProgressStyle};
use raft_driver_tokio::storage::BackupFile;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::BackupTo;
use crate::client::told;
use crate::failure::{Failure, Kind, chain};
use crate::report::line;

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long a node may be silent before it is given up. It takes a snapshot first, however long that is.
const BEGIN_LIMIT: Duration = Duration::from_secs(660);
const PART_LIMIT: Duration = Duration::from_secs(60);
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// `kv backup`: of the first node that sends all of it.
pub(crate) fn backup(options: &BackupTo) -> Result<(), Failure> {
    let to = &options.to;
    if to.exists() {
        let what = format!("{} exists", to.display());
        return Err(Failure::new(Kind::Arguments, what, "choose another name: a backup replaces nothing"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::other(format!("no runtime: {error}")))?;
    let aside = Aside::beside(to);
    let mut whys = Vec::new();
    for address in &options.at.endpoints {
        match runtime.block_on(fetch(address, &aside.0)) {
            Ok(()) => return named(&aside.0, to, address),
            Err(Broken::Here(error)) => {
                return Err(Failure::other(format!("{} cannot be written: {error}", aside.0.display())));
            }
            Err(Broken::There(why)) => whys.push(format!("{address}: {why}")),
        }
    }
    let what = format!("no backup: {}", whys.join("; "));
    Err(Failure::new(Kind::NotDone, what, "see that a majority runs, and that --endpoints names one of them"))
}

/// A file that is written aside; gone when dropped, under this name.
struct Aside(PathBuf);

impl Aside {
    fn beside(to: &Path) -> Self {
        let mut name = to.as_os_str().to_owned();
        name.push(format!(".{}.part", std::process::id()));
        Self(name.into())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // An error: there is none.
        let _ = fs::remove_file(&self.0);
    }
}

/// Whose fault it is.
enum Broken {
    Here(io::Error),
    There(String),
}

/// Asks one node, and writes what it sends.
async fn fetch(address: &str, aside: &Path) -> Result<(), Broken> {
    let mut body = ask(address).await.map_err(Broken::There)?.into_body();
    let mut file = File::create(aside).map_err(Broken::Here)?;
    let shown = ProgressBar::no_length().with_style(
        ProgressStyle::with_template("backup      {spinner} {bytes} {bytes_per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    loop {
        let part = timeout(PART_LIMIT, body.frame()).await;
        let Some(part) = part.map_err(|_| Broken::There("it stopped sending".into()))? else { break };
        let part = part.map_err(|error| Broken::There(chain(&error)))?;
        if let Some(data) = part.data_ref() {
            file.write_all(data).map_err(Broken::Here)?;
            shown.inc(data.len() as u64);
        }
    }
    shown.finish_and_clear();
    file.sync_all().map_err(Broken::Here)
}

async fn ask(address: &str) -> Result<Response<Incoming>, String> {
    let connect = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let stream =
        connect.map_err(|_| "no connection in time".to_owned())?.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // Ends with the answer, which says how.
    tokio::spawn(connection);
    let request = Request::post("/backup").header(HOST, address).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let answered = timeout(BEGIN_LIMIT, sender.send_request(request)).await;
    let answer = answered.map_err(|_| "no answer in time".to_owned())?.map_err(|error| chain(&error))?;
    match answer.status() {
        StatusCode::OK => Ok(answer),
        status => {
            let said = timeout(PART_LIMIT, Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect());
            let said = said.await.ok().and_then(Result::ok).map(|said| said.to_bytes()).unwrap_or_default();
            Err(told(status, &said))
        }
    }
}

/// Compares all of it with its checksums, and gives it its name.
fn named(aside: &Path, to: &Path, from: &str) -> Result<(), Failure> {
    let backup = BackupFile::open(aside).map_err(|error| Failure::new(Kind::Data, chain(&error), ""))?;
    let backup = backup.name(to).map_err(|error| Failure::other(chain(&error)))?;
    let (meta, origin) = (backup.meta(), backup.origin());
    let whose = format!("of cluster {:#x} by node {} at {from}", origin.cluster.get(), origin.node);
    line("backup", format!("{} bytes of state through {}, {whose}", meta.size_bytes, meta.id.last));
    Ok(())
}
