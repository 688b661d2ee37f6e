//! Recordings of nodes: written beside a run, and replayed as protocol lines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::process::ExitCode;

use raft_core::NodeId;
use raft_core::host::recording::{Ending, RecorderOptions, RecordingPart, ReplayError, Replayed};

use super::{Unusable, cannot_write};
use crate::workload::Workload;
use crate::{Failure, ReplayFailure, Simulation, Summary, replay_recording};

/// Replays a file of which [`is_recording`](crate::is_recording) says that it is a recording. With `trace` its steps are
/// printed as protocol lines (`-`), or written to a file as JSON, one a line.
pub(super) fn replay(name: &Path, file: Vec<u8>, trace: Option<&Path>) -> Result<ExitCode, Unusable> {
    let to = trace.unwrap_or(Path::new("-"));
    let lines = to == Path::new("-");
    let out: Box<dyn io::Write> = match lines {
        true => Box::new(io::stdout().lock()),
        false => Box::new(File::create(to).map_err(|error| cannot_write(to, &error))?),
    };
    let mut out = BufWriter::new(out);
    let mut written = Ok(());
    let result = replay_recording(file.into(), &mut |step| {
        if written.is_ok() && trace.is_some() {
            written = if lines { writeln!(out, "{step}") } else { write_json(&mut out, step) };
        }
    });
    match written.and_then(|()| out.flush()) {
        Ok(()) => {}
        // A reader that has seen enough closes the pipe: what would follow could only fail to be printed.
        Err(error) if lines && error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Err(error) => return Err(cannot_write(to, &error)),
    }
    drop(out);
    match result {
        Ok(verified) => {
            println!("{verified}");
            let damaged = matches!(verified.ending, Ending::Damaged { .. });
            Ok(if damaged { ExitCode::from(2) } else { ExitCode::SUCCESS })
        }
        Err(ReplayFailure::Replay(ReplayError::Recording(error))) => {
            Err(format!("{}: {error}", name.display()))
        }
        Err(failure) => {
            println!("FAILED: {failure}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn write_json(out: &mut impl io::Write, step: &Replayed) -> io::Result<()> {
    serde_json::to_writer(&mut *out, step)?;
    out.write_all(b"\n")
}

/// Runs a seed, and records every node into files of a directory: `n1.0.0.recording` is the first file of the first life
/// of server 1.
pub(super) fn record<W: Workload>(
    simulation: &Simulation<W>,
    seed: u64,
    directory: &Path,
) -> Result<Result<Summary, Box<Failure>>, Unusable> {
    fs::create_dir_all(directory).map_err(|error| cannot_write(directory, &error))?;
    let mut files = Files::new();
    let mut written = Ok(());
    let result = simulation.record(seed, RecorderOptions::new(crc32fast::hash), &mut |node, life, part| {
        if written.is_ok() {
            written = write(directory, &mut files, node, life, part);
        }
    });
    written.map(|()| result).map_err(|error| cannot_write(directory, &error))
}

/// Where each life's recording goes on: how many files it had before its current one.
type Files = BTreeMap<(NodeId, u32), usize>;

fn write(
    directory: &Path,
    files: &mut Files,
    node: NodeId,
    life: u32,
    part: RecordingPart<'_>,
) -> io::Result<()> {
    let before = files.get(&(node, life)).map_or(0, |before| before + usize::from(part.begins));
    let path = directory.join(format!("n{node}.{life}.{before}.recording"));
    let mut file =
        if part.begins { File::create(&path)? } else { File::options().append(true).open(&path)? };
    files.insert((node, life), before);
    file.write_all(part.bytes)
}
