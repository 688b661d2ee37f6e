//! A disk in memory that knows what a loss of power would leave of it.

use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use raft_driver_tokio::storage::FileLayer;

/// What was done to the disk, in order.
#[derive(Clone)]
pub(crate) enum Op {
    Write(u64, Arc<[u8]>),
    SetLen(u64),
    Sync,
}

impl Op {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = *offset as usize + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset as usize..end].copy_from_slice(data);
            }
            Self::SetLen(len) => image.resize(*len as usize, 0),
            Self::Sync => {}
        }
    }
}

/// Which calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    Read,
    Write,
    SetLen,
    Sync,
}

#[derive(Default)]
struct State {
    image: Vec<u8>,
    ops: Vec<Op>,
    /// Fail calls of this kind with this error, after so many have worked.
    fault: Option<(On, u32, io::ErrorKind)>,
    ignores_sync: bool,
    /// Syncs wait.
    is_held: bool,
    /// How many do.
    waiting: usize,
}

/// Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    pub(crate) fn of(image: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state().image = image;
        disk
    }

    /// A disk that claims to have synced and has not.
    pub(crate) fn ignore_sync(&self) {
        self.state().ignores_sync = true;
    }

    /// Calls of this kind fail from now on, once `working` more have worked.
    pub(crate) fn fail(&self, on: On, working: u32, error: io::ErrorKind) {
        self.state().fault = Some((on, working, error));
    }

    pub(crate) fn heal(&self) {
        self.state().fault = None;
    }

    /// Changes one bit in each of these places, behind the back of whoever has the disk open.
    pub(crate) fn rot(&self, places: impl Iterator<Item = usize>) {
        let mut state = self.state();
        places.for_each(|place| state.image[place] ^= 1);
    }

    /// What a process reads now: also what is left when a process is killed.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.state().image.clone()
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.state().ops.clone()
    }

    pub(crate) fn ops_len(&self) -> usize {
        self.state().ops.len()
    }

    pub(crate) fn layer(&self) -> Arc<dyn FileLayer> {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    /// Syncs wait from now on, until they are released.
    pub(crate) fn hold(&self) {
        self.state().is_held = true;
    }

    /// Returns when a sync waits.
    pub(crate) fn wait_for_sync(&self) {
        drop(self.0.1.wait_while(self.state(), |state| state.waiting == 0).unwrap());
    }

    pub(crate) fn release(&self) {
        self.state().is_held = false;
        self.0.1.notify_all();
    }

    fn checked(&self, on: On) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if let Some((fails, working, error)) = &mut state.fault
            && *fails == on
        {
            match working.checked_sub(1) {
                Some(left) => *working = left,
                None => return Err((*error).into()),
            }
        }
        Ok(state)
    }
}

impl FileLayer for Disk {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.state().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.checked(On::Read)?;
        let found = state.image.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.checked(On::Write)?;
        let op = Op::Write(offset, data.into());
        op.apply(&mut state.image);
        state.ops.push(op);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.checked(On::SetLen)?;
        let op = Op::SetLen(len);
        op.apply(&mut state.image);
        state.ops.push(op);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.waiting += 1;
        self.0.1.notify_all();
        let mut state = self.0.1.wait_while(state, |state| state.is_held).unwrap();
        state.waiting -= 1;
        drop(state);
        let mut state = self.checked(On::Sync)?;
        if !state.ignores_sync {
            state.ops.push(Op::Sync);
        }
        Ok(())
    }
}

/// What of the operations since the last sync reaches the disk when power is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Nothing.
    All,
    /// Everything, as when only the process was killed.
    Nothing,
    /// Everything but the last.
    Last,
    /// Everything, but the last only up to some byte.
    LastTorn,
    /// Any of them.
    Some,
    /// Any of them, and any 512 bytes of those.
    Sectors,
}

pub(crate) const LOSSES: [Loss; 6] =
    [Loss::All, Loss::Nothing, Loss::Last, Loss::LastTorn, Loss::Some, Loss::Sectors];

/// The disk after `ops` were done to `image` and power was lost.
pub(crate) fn after_loss(image: &[u8], ops: &[Op], loss: Loss, random: &mut fastrand::Rng) -> Vec<u8> {
    let synced = ops.iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
    let mut image = image.to_vec();
    ops[..synced].iter().for_each(|op| op.apply(&mut image));
    let pending = &ops[synced..];
    for (at, op) in pending.iter().enumerate() {
        let is_last = at + 1 == pending.len();
        match (loss, op) {
            (Loss::All, _) => {}
            (Loss::Last, _) if is_last => {}
            (Loss::LastTorn, Op::Write(offset, data)) if is_last => {
                let torn = data[..random.usize(..=data.len())].into();
                Op::Write(*offset, torn).apply(&mut image);
            }
            (Loss::Some | Loss::Sectors, _) if random.bool() => {}
            (Loss::Sectors, Op::Write(offset, data)) => {
                for (at, sector) in data.chunks(512).enumerate() {
                    if random.bool() {
                        Op::Write(offset + at as u64 * 512, sector.into()).apply(&mut image);
                    }
                }
            }
            _ => op.apply(&mut image),
        }
    }
    image
}
