//! The ids of the last changes: redelivered ones follow a reconnect, so a window is enough.

use std::collections::{HashSet, VecDeque};

use crate::messages::ChangeEvent;

pub(crate) struct Seen {
    size: usize,
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Seen {
    /// Of no size it leaves out nothing.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, order: VecDeque::new(), known: HashSet::new() }
    }

    /// What was not delivered before, in the same order.
    pub(crate) fn fresh(&mut self, mut events: Vec<ChangeEvent>) -> Vec<ChangeEvent> {
        if self.size > 0 {
            events.retain(|event| self.is_fresh(&event.event_id));
        }
        events
    }

    fn is_fresh(&mut self, id: &str) -> bool {
        if !self.known.insert(id.to_owned()) {
            return false;
        }
        self.order.push_back(id.to_owned());
        if self.order.len() > self.size
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_forgets_the_oldest() {
        let mut seen = Seen::new(2);
        let mut fresh = |ids: &[&str]| {
            let events = ids.iter().map(|id| ChangeEvent { event_id: (*id).to_owned(), ..ChangeEvent::default() });
            seen.fresh(events.collect()).len()
        };
        assert_eq!([fresh(&["a", "b", "a"]), fresh(&["b", "c"]), fresh(&["a", "c"])], [2, 1, 1]);
    }
}
