//! The file of one open store: the first failure to change it is the last call that would.
//!
//! First page, journal and redb share it: none of them hears of a failure of the others, and redb writes and syncs when it
//! is closed. After a failed fsync that one may succeed without having written anything.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::file::FileLayer;

#[derive(Debug)]
pub(super) struct UntilFailure {
    file: Arc<dyn FileLayer>,
    has_failed: AtomicBool,
}

impl UntilFailure {
    pub(super) fn of(file: Arc<dyn FileLayer>) -> Arc<Self> {
        Arc::new(Self { file, has_failed: AtomicBool::new(false) })
    }

    fn change(&self, call: impl FnOnce(&dyn FileLayer) -> io::Result<()>) -> io::Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            return Err(io::Error::other("an earlier call failed"));
        }
        call(&*self.file).inspect_err(|_| self.has_failed.store(true, Ordering::Release))
    }
}

impl FileLayer for UntilFailure {
    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(|file| file.write(offset, data))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|file| file.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.change(FileLayer::sync)
    }
}
