//! What is on a disk, and what of some changes reaches it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pages::Pages;

/// Files by number, and their names.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) files: BTreeMap<u64, Pages>,
    pub(super) names: BTreeMap<String, u64>,
}

/// What is done to a disk.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Create {
        name: String,
        file: u64,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    SyncNames,
    Write {
        file: u64,
        offset: u64,
        data: Arc<[u8]>,
    },
    SetLen {
        file: u64,
        len: u64,
    },
    Sync {
        file: u64,
    },
    /// What was not durable before never will be.
    FailedSync {
        file: u64,
    },
}

impl Change {
    pub(super) fn apply(&self, image: &mut Image) {
        match self {
            Self::Create { name, file } => {
                // Its data may have been durable before its name.
                image.files.entry(*file).or_default();
                image.names.insert(name.clone(), *file);
            }
            Self::Rename { from, to } => {
                if let Some(file) = image.names.remove(from) {
                    image.names.insert(to.clone(), file);
                }
            }
            Self::Remove { name } => {
                image.names.remove(name);
            }
            Self::Write { file, offset, data } => {
                image.files.entry(*file).or_default().write(place(*offset), data);
            }
            Self::SetLen { file, len } => image.files.entry(*file).or_default().set_len(place(*len)),
            Self::SyncNames | Self::Sync { .. } | Self::FailedSync { .. } => {}
        }
    }

    /// The file whose data it changes.
    fn data_of(&self) -> Option<u64> {
        match self {
            Self::Write { file, .. } | Self::SetLen { file, .. } => Some(*file),
            _ => None,
        }
    }

    fn is_name(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Rename { .. } | Self::Remove { .. })
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("files are in memory")
}

/// What becomes of each change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Durable,
    Pending,
    /// A sync for it failed.
    Lost,
}

fn fates(changes: &[Change]) -> Vec<Fate> {
    let mut fates = vec![Fate::Pending; changes.len()];
    for (at, change) in changes.iter().enumerate() {
        let settle = |fates: &mut Vec<Fate>, fate: Fate, covers: &dyn Fn(&Change) -> bool| {
            for (before, old) in fates[..at].iter_mut().enumerate() {
                if *old == Fate::Pending && covers(&changes[before]) {
                    *old = fate;
                }
            }
        };
        match change {
            Change::Sync { file } => settle(&mut fates, Fate::Durable, &|c| c.data_of() == Some(*file)),
            Change::FailedSync { file } => settle(&mut fates, Fate::Lost, &|c| c.data_of() == Some(*file)),
            Change::SyncNames => settle(&mut fates, Fate::Durable, &Change::is_name),
            _ => {}
        }
    }
    fates
}

/// What is durable after these changes, and the changes that are not. None of them may have failed.
pub(super) fn split(durable: &Image, changes: &[Change]) -> (Image, Vec<Change>) {
    let mut image = durable.clone();
    let mut pending = Vec::new();
    for (change, fate) in changes.iter().zip(fates(changes)) {
        match fate {
            Fate::Durable => change.apply(&mut image),
            _ if change.is_name() || change.data_of().is_some() => pending.push(change.clone()),
            _ => {}
        }
    }
    // A file exists as soon as it is created; what is not durable is its name.
    (image, pending)
}

/// What of the changes that were not synced reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// All reach it, later: only the process is gone.
    Nothing,
    /// None.
    Everything,
    /// All but the last.
    Last,
    /// All, but the last only up to some byte.
    LastTorn,
    /// Any of them.
    Some,
    /// Any of them, and any 512 bytes of those.
    Sectors,
}

impl Loss {
    /// The first one loses no power.
    pub(super) const ALL: [Self; 6] =
        [Self::Nothing, Self::Everything, Self::Last, Self::LastTorn, Self::Some, Self::Sectors];

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Nothing => "the process was killed",
            Self::Everything => "power was lost, and all that was not synced",
            Self::Last => "power was lost, and the last change that was not synced",
            Self::LastTorn => "power was lost, and a part of the last change that was not synced",
            Self::Some => "power was lost, and some changes that were not synced",
            Self::Sectors => "power was lost, and some sectors that were not synced",
        }
    }
}

/// What is on the disk after these changes were done to what was durable, and power was lost.
pub(super) fn after_loss(
    durable: &Image,
    changes: &[Change],
    loss: Loss,
    random: &mut fastrand::Rng,
) -> Image {
    let fates = fates(changes);
    let mut image = durable.clone();
    let last = fates.iter().rposition(|fate| *fate == Fate::Pending);
    let last = last.filter(|at| changes[*at].is_name() || changes[*at].data_of().is_some());
    // Names reach the disk in order.
    let pending_names = || changes.iter().zip(&fates).filter(|(c, f)| c.is_name() && **f == Fate::Pending);
    let mut names_left = match loss {
        Loss::Everything => 0,
        Loss::Some | Loss::Sectors => random.usize(..=pending_names().count()),
        Loss::Nothing | Loss::Last | Loss::LastTorn => usize::MAX,
    };
    for (at, (change, fate)) in changes.iter().zip(&fates).enumerate() {
        match (fate, loss, change) {
            (Fate::Durable, ..) => change.apply(&mut image),
            (Fate::Lost, ..) | (_, Loss::Everything, _) => {}
            (_, Loss::Last, _) if Some(at) == last => {}
            (_, Loss::LastTorn, Change::Write { file, offset, data }) if Some(at) == last => {
                let data = data[..random.usize(..=data.len())].into();
                Change::Write { file: *file, offset: *offset, data }.apply(&mut image);
            }
            (_, _, change) if change.is_name() => {
                if names_left > 0 {
                    names_left -= 1;
                    change.apply(&mut image);
                }
            }
            (_, Loss::Some | Loss::Sectors, _) if random.bool() => {}
            (_, Loss::Sectors, Change::Write { file, offset, data }) => {
                for (sector, part) in data.chunks(512).enumerate() {
                    if random.bool() {
                        let offset = offset + sector as u64 * 512;
                        Change::Write { file: *file, offset, data: part.into() }.apply(&mut image);
                    }
                }
            }
            _ => change.apply(&mut image),
        }
    }
    // A file whose name is not there is no more.
    let named: Vec<u64> = image.names.values().copied().collect();
    image.files.retain(|file, _| named.contains(file));
    for file in named {
        image.files.entry(file).or_default();
    }
    image
}
