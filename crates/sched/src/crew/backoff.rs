//! The pause between two tries at something that the system refused.
//!
//! Events carry no time, except the tick. So a refusal only *arms* the pause; the next tick, which
//! is due at once, starts it, and a tick past its end finishes it.

/// First pause (10 ms): long enough for a process that is just ending to give its share back.
pub(super) const FIRST_NS: u64 = 10_000_000;
/// Longest pause (1 s): a person who raises the limit does not want to wait longer.
pub(super) const LONGEST_NS: u64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Backoff {
    #[default]
    Idle,
    Armed,
    Until(u64),
}

impl Backoff {
    pub(super) fn is_idle(self) -> bool {
        self == Self::Idle
    }

    /// Asks for a pause; one that is asked for or runs already stays as it is.
    pub(super) fn arm(&mut self) {
        if self.is_idle() {
            *self = Self::Armed;
        }
    }

    /// Passes time on. `tries` failed tries make a pause of `FIRST_NS * 2^(tries - 1)`. Returns
    /// whether the pause ended.
    pub(super) fn tick(&mut self, now_ns: u64, tries: u32) -> bool {
        match *self {
            Self::Idle => {}
            Self::Armed => {
                let factor = 1u64
                    .checked_shl(tries.saturating_sub(1))
                    .unwrap_or(u64::MAX);
                *self = Self::Until(
                    now_ns.saturating_add(FIRST_NS.saturating_mul(factor).min(LONGEST_NS)),
                );
            }
            Self::Until(due_ns) => {
                if due_ns <= now_ns {
                    *self = Self::Idle;
                    return true;
                }
            }
        }
        false
    }

    /// When a tick is wanted; 0 for at once.
    pub(super) fn next_due_ns(self) -> Option<u64> {
        match self {
            Self::Idle => None,
            Self::Armed => Some(0),
            Self::Until(due_ns) => Some(due_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let pause = |tries| {
            let mut backoff = Backoff::Idle;
            backoff.arm();
            assert_eq!(backoff.next_due_ns(), Some(0));
            assert!(!backoff.tick(5, tries));
            backoff.next_due_ns().map(|due_ns| due_ns - 5)
        };
        assert_eq!(pause(0), Some(FIRST_NS));
        assert_eq!(pause(1), Some(FIRST_NS));
        assert_eq!(pause(3), Some(4 * FIRST_NS));
        assert_eq!(pause(8), Some(LONGEST_NS));
        assert_eq!(pause(u32::MAX), Some(LONGEST_NS));
    }

    #[test]
    fn ends_once_and_arming_again_does_not_prolong() {
        let mut backoff = Backoff::Idle;
        assert!(!backoff.tick(0, 1));
        backoff.arm();
        backoff.tick(0, 1);
        backoff.arm();
        assert_eq!(backoff, Backoff::Until(FIRST_NS));
        assert!(!backoff.tick(FIRST_NS - 1, 1));
        assert!(backoff.tick(FIRST_NS, 1));
        assert!(!backoff.tick(FIRST_NS, 1));
    }
}
