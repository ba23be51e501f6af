//! Remembers the fences of the runtimes that a client acquired.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// The fence of each runtime that the client acquired: it goes with every write to it.
#[derive(Debug, Default)]
pub(crate) struct Fences(Mutex<HashMap<String, u64>>);

impl Fences {
    /// Tells the fence that is sent with writes to the runtime; `None` if the client did not acquire it.
    pub(crate) fn held(&self, runtime_id: &str) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(runtime_id).copied()
    }

    /// Sends this fence with every write to the runtime from now on; `instead_of` was held when it was asked for.
    ///
    /// Without `instead_of` it takes the place of older ones only.
    pub(crate) fn hold(&self, runtime_id: &str, fence: u64, instead_of: Option<u64>) {
        let mut fences = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of two that were asked for at once the greater is the newer, whichever was answered last. But not the
        // greatest ever seen: a store that was restored from a backup counts from there.
        let held = fences.get(runtime_id).copied();
        let newest = match held {
            Some(held) if instead_of != Some(held) => fence.max(held),
            _ => fence,
        };
        fences.insert(runtime_id.to_owned(), newest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_that_were_asked_for_at_once_the_newer_is_held() {
        let fences = Fences::default();
        fences.hold("rt:1", 6, None);
        fences.hold("rt:1", 5, None);
        assert_eq!((fences.held("rt:1"), fences.held("rt:2")), (Some(6), None));
    }

    #[test]
    fn a_restored_store_counts_from_where_it_was() {
        let fences = Fences::default();
        fences.hold("rt:1", 9, None);
        fences.hold("rt:1", 3, Some(9));
        assert_eq!(fences.held("rt:1"), Some(3));
        // An answer to a call of before that comes late.
        fences.hold("rt:1", 2, Some(9));
        assert_eq!(fences.held("rt:1"), Some(3));
    }
}
