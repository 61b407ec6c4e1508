//! Bytes as a source of choices.

/// Takes choices off the front of the bytes; once they are used up, everything is zero.
pub(crate) struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of `count`, which is at least 1.
    pub(crate) fn choice(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes([(); 8].map(|()| self.byte()))
    }

    /// As many bytes as there are, but no more than these.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// A number that hurts: near this one as a rule, small, at an end of the range, or any.
    pub(crate) fn number(&mut self, near: u64) -> u64 {
        const ENDS: [u64; 8] =
            [1 << 31, 1 << 32, (1 << 32) + 1, 1 << 63, u64::MAX - 1, u64::MAX, 1 << 16, 255];
        let choice = self.byte();
        match choice {
            0..=127 => near.saturating_add(u64::from(choice % 8)).saturating_sub(3),
            128..=191 => u64::from(choice % 8),
            192..=223 => ENDS[usize::from(choice) % ENDS.len()],
            _ => self.u64(),
        }
    }
}
