//! A file's bytes in pages that copies share: of a crash, most files are the same.

use std::sync::Arc;

const PAGE_BYTES: usize = 4096;
type Page = [u8; PAGE_BYTES];

#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    len: usize,
    /// `None` is zeros. Behind the end all is zeros.
    pages: Vec<Option<Arc<Page>>>,
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn set_len(&mut self, len: usize) {
        if len < self.len {
            let page = len / PAGE_BYTES;
            if let Some(Some(page)) = self.pages.get_mut(page) {
                Arc::make_mut(page)[len % PAGE_BYTES..].fill(0);
            }
        }
        self.pages.resize(len.div_ceil(PAGE_BYTES), None);
        self.len = len;
    }

    pub(super) fn write(&mut self, mut offset: usize, mut data: &[u8]) {
        if self.len < offset + data.len() {
            self.set_len(offset + data.len());
        }
        while !data.is_empty() {
            let within = offset % PAGE_BYTES;
            let (now, later) = data.split_at(data.len().min(PAGE_BYTES - within));
            let page = &mut self.pages[offset / PAGE_BYTES];
            if page.is_some() || now.iter().any(|byte| *byte != 0) {
                let page = page.get_or_insert_with(|| Arc::new([0; PAGE_BYTES]));
                Arc::make_mut(page)[within..within + now.len()].copy_from_slice(now);
            }
            (data, offset) = (later, offset + now.len());
        }
    }

    /// Whether there is so much.
    pub(super) fn read(&self, mut offset: usize, mut out: &mut [u8]) -> bool {
        if offset.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        while !out.is_empty() {
            let within = offset % PAGE_BYTES;
            let count = out.len().min(PAGE_BYTES - within);
            let (now, later) = out.split_at_mut(count);
            match &self.pages[offset / PAGE_BYTES] {
                Some(page) => now.copy_from_slice(&page[within..within + count]),
                None => now.fill(0),
            }
            (out, offset) = (later, offset + count);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_the_bytes_that_were_written() {
        let mut random = fastrand::Rng::with_seed(3);
        let (mut pages, mut bytes) = (Pages::default(), Vec::new());
        for _ in 0..500 {
            let offset = random.usize(..=bytes.len());
            if random.u32(..4) == 0 {
                let len = random.usize(..40_000);
                pages.set_len(len);
                bytes.resize(len, 0);
            } else {
                let data: Vec<u8> = (0..random.usize(..9_000)).map(|_| random.u8(..3)).collect();
                pages.write(offset, &data);
                bytes.resize(bytes.len().max(offset + data.len()), 0);
                bytes[offset..offset + data.len()].copy_from_slice(&data);
            }
            let from = random.usize(..=bytes.len());
            let mut out = vec![7; random.usize(..=bytes.len() - from)];
            assert!(pages.read(from, &mut out));
            assert_eq!(out, bytes[from..from + out.len()]);
            assert_eq!(pages.len(), bytes.len());
            assert!(!pages.read(from, &mut vec![0; bytes.len() - from + 1]));
        }
    }
}
