//! Who holds how much memory, and who goes when it is too much. Pure.

use std::collections::BTreeSet;
use std::time::Instant;

/// What a client may hold in peace: most callbacks are not longer. As many bytes are read at once before
/// the head tells how long a request is.
pub(super) const MODEST: usize = 4096;

/// The accounts.
#[derive(Debug)]
pub(super) struct Memory {
    bound: usize,
    /// Bytes of requests that are not complete, and of what came along with complete ones.
    incomplete: usize,
    /// Those whose incomplete request is more than modest, the oldest first.
    greedy: BTreeSet<(Instant, usize)>,
    /// Bytes of complete requests that nobody has taken yet.
    queued: usize,
    /// Who waits with how much.
    waiting: BTreeSet<(usize, usize)>,
}

impl Memory {
    /// `bound` holds for incomplete requests, and once more for complete ones.
    pub(super) fn new(bound: usize) -> Self {
        Self { bound, incomplete: 0, greedy: BTreeSet::new(), queued: 0, waiting: BTreeSet::new() }
    }

    /// All bytes, but for those that are on their way to the server.
    pub(super) fn held(&self) -> usize {
        self.incomplete.saturating_add(self.queued)
    }

    /// A client that held `before` bytes of an incomplete request holds `now`.
    pub(super) fn grown(&mut self, before: usize, now: usize) {
        self.incomplete = self.incomplete.saturating_add(now).saturating_sub(before);
    }

    /// Whether this client, who is at it since then, is one of the first to go.
    pub(super) fn set_greedy(&mut self, since: Instant, slot: usize, greedy: bool) {
        if greedy {
            self.greedy.insert((since, slot));
        } else {
            self.greedy.remove(&(since, slot));
        }
    }

    /// A request has become complete.
    pub(super) fn enqueued(&mut self, slot: usize, bytes: usize) {
        if self.waiting.insert((bytes, slot)) {
            self.queued = self.queued.saturating_add(bytes);
        }
    }

    /// It waits no more.
    pub(super) fn dequeued(&mut self, slot: usize, bytes: usize) {
        if self.waiting.remove(&(bytes, slot)) {
            self.queued = self.queued.saturating_sub(bytes);
        }
    }

    /// Whose incomplete request must go: the oldest of those that are more than modest. All the modest
    /// ones together cannot hold too much.
    pub(super) fn too_greedy(&self) -> Option<usize> {
        let first = self.greedy.first().filter(|_| self.incomplete > self.bound);
        first.map(|(_, slot)| *slot)
    }

    /// Whose complete request must be refused, while as much as this is on its way to the server: the
    /// largest. Events are small, and small ones are not refused.
    pub(super) fn too_large(&self, on_the_way: usize) -> Option<usize> {
        let full = self.queued.saturating_add(on_the_way) > self.bound;
        let last = self.waiting.last().filter(|(bytes, _)| full && *bytes > MODEST);
        last.map(|(_, slot)| *slot)
    }

    /// Whether a complete request may be sent to the server while as much as this is on its way there.
    pub(super) fn may_go(&self, bytes: usize, on_the_way: usize) -> bool {
        bytes <= MODEST || on_the_way == 0 || on_the_way.saturating_add(bytes) <= self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_greedy_one_goes_and_modest_ones_never() {
        let (mut memory, now) = (Memory::new(10_000), Instant::now());
        memory.grown(0, 12_000);
        assert_eq!(memory.too_greedy(), None);
        memory.set_greedy(now, 1, true);
        memory.set_greedy(now - Duration::from_secs(1), 2, true);
        assert_eq!(memory.too_greedy(), Some(2));
        memory.grown(6000, 0);
        memory.set_greedy(now - Duration::from_secs(1), 2, false);
        assert_eq!((memory.too_greedy(), memory.held()), (None, 6000));
    }

    #[test]
    fn the_largest_complete_one_goes() {
        let mut memory = Memory::new(10_000);
        memory.enqueued(1, 3000);
        memory.enqueued(2, 5000);
        memory.enqueued(3, 1000);
        assert_eq!((memory.too_large(1000), memory.too_large(1001)), (None, Some(2)));
        memory.dequeued(2, 5000);
        memory.dequeued(2, 5000);
        assert_eq!((memory.too_large(20_000), memory.held()), (None, 4000));
    }

    #[test]
    fn large_requests_wait_for_one_another_and_small_ones_for_none() {
        let memory = Memory::new(10_000);
        for (bytes, on_the_way, goes) in
            [(5000, 5000, true), (5000, 5001, false), (MODEST, 90_000, true), (90_000, 0, true)]
        {
            assert_eq!(memory.may_go(bytes, on_the_way), goes, "{bytes} {on_the_way}");
        }
    }
}
