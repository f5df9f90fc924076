//! Bytes that a worker wrote, cut into whole lines.

use std::collections::VecDeque;

/// Lines kept for a death certificate.
const KEPT: usize = 20;
/// A line without end is cut after so many bytes, so that memory stays bounded.
const LONGEST: usize = 1 << 20;

/// The unfinished line of one stream, and the last finished ones.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    last: VecDeque<Vec<u8>>,
}

impl Lines {
    /// Add `bytes`; gives the whole lines that are now complete, as one run of bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.partial.extend_from_slice(bytes);
        let end = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if self.partial.len() >= LONGEST => self.partial.len(),
            None => return None,
        };
        let rest = self.partial.split_off(end);
        let whole = std::mem::replace(&mut self.partial, rest);
        self.remember(&whole);
        Some(whole)
    }

    /// Give the unfinished line away: its task has ended.
    pub(crate) fn flush(&mut self) -> Option<Vec<u8>> {
        let partial = std::mem::take(&mut self.partial);
        if partial.is_empty() {
            return None;
        }
        self.remember(&partial);
        Some(partial)
    }

    fn remember(&mut self, whole: &[u8]) {
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        for line in &lines[lines.len().saturating_sub(KEPT)..] {
            if self.last.len() == KEPT {
                self.last.pop_front();
            }
            self.last.push_back(line[..line.len().min(1000)].to_vec());
        }
    }

    /// The last lines, oldest first.
    pub(crate) fn last_lines(&self) -> String {
        let bytes: Vec<u8> = self
            .last
            .iter()
            .flatten()
            .chain(&self.partial)
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_leave() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"one\ntw"), Some(b"one\n".to_vec()));
        assert_eq!(lines.push(b"o"), None);
        assert_eq!(lines.push(b"\nthree"), Some(b"two\n".to_vec()));
        assert_eq!(lines.last_lines(), "one\ntwo\nthree");
        assert_eq!(lines.flush(), Some(b"three".to_vec()));
        assert_eq!(lines.flush(), None);
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut lines = Lines::default();
        assert!(lines.push(&vec![b'x'; LONGEST]).is_some());
    }
}
