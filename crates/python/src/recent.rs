//! A table that keeps what was used last, within bounds.

use std::collections::BTreeMap;

/// Kept whatever their size.
const KEPT_ALWAYS: usize = 64;
/// Kept at most; both sides have the same bounds, so that what one forgets the other, which sees it no more, will.
const KEPT_MOST: usize = 1024;
/// Bytes of what is kept beyond [`KEPT_ALWAYS`].
const KEPT_BYTES: u64 = 8 << 20;

struct Entry<V> {
    value: V,
    bytes: u64,
    /// When it was used last, by the table's clock.
    used: u64,
}

/// Values by number. What goes is given to the caller, who drops it without a lock: that may run Python code.
pub(crate) struct Recent<V> {
    entries: BTreeMap<u64, Entry<V>>,
    clock: u64,
    bytes: u64,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            clock: 0,
            bytes: 0,
        }
    }
}

impl<V> Recent<V> {
    /// Whether one more will make another one go.
    pub(crate) fn is_full(&self) -> bool {
        let count = self.entries.len();
        count >= KEPT_MOST || count >= KEPT_ALWAYS && self.bytes >= KEPT_BYTES
    }

    /// Use the value with this number.
    pub(crate) fn get(&mut self, number: u64) -> Option<&mut V> {
        let entry = self.entries.get_mut(&number)?;
        self.clock += 1;
        entry.used = self.clock;
        Some(&mut entry.value)
    }

    /// Keep a value of this size; gives what goes for it.
    pub(crate) fn insert(&mut self, number: u64, value: V, bytes: u64) -> Vec<V> {
        let mut gone: Vec<V> = self.remove(number).into_iter().collect();
        while self.is_full() {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(number, _)| *number);
            gone.extend(oldest.and_then(|number| self.remove(number)));
        }
        self.clock += 1;
        self.bytes += bytes;
        let used = self.clock;
        self.entries.insert(number, Entry { value, bytes, used });
        gone
    }

    /// Note that a value has another size; gives what goes for it.
    pub(crate) fn resize(&mut self, number: u64, bytes: u64) -> Vec<V> {
        let value = self.remove(number);
        value.map_or_else(Vec::new, |value| self.insert(number, value, bytes))
    }

    /// Give up the value with this number.
    pub(crate) fn remove(&mut self, number: u64) -> Option<V> {
        let entry = self.entries.remove(&number)?;
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    /// Give up those for which `is_gone` holds.
    pub(crate) fn remove_if(&mut self, is_gone: impl Fn(&V) -> bool) -> Vec<V> {
        let gone = self
            .entries
            .extract_if(.., |_, entry| is_gone(&entry.value));
        let gone: Vec<Entry<V>> = gone.map(|(_, entry)| entry).collect();
        self.bytes -= gone.iter().map(|entry| entry.bytes).sum::<u64>();
        gone.into_iter().map(|entry| entry.value).collect()
    }
}
