//! How many sessions are live on each CLI server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jetway_pool::ServerId;

/// Sessions that are attached, and room that is kept for more, by server.
#[derive(Debug, Default)]
pub(super) struct Live(Mutex<HashMap<ServerId, usize>>);

impl Live {
    pub(super) fn more(&self, server: &ServerId) {
        self.change(server, |n| *n += 1);
    }

    pub(super) fn less(&self, server: &ServerId) {
        self.change(server, |n| *n = n.saturating_sub(1));
    }

    /// Room for one more, while there are fewer than `most`.
    pub(super) fn reserve(self: &Arc<Self>, server: &ServerId, most: usize) -> Option<Room> {
        let one_more = |n: &mut usize| {
            let free = *n < most;
            *n += usize::from(free);
            free
        };
        self.change(server, one_more).then(|| Room { server: server.clone(), live: self.clone() })
    }

    fn change<T>(&self, server: &ServerId, change: impl FnOnce(&mut usize) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nearly always it is there: then its name is not copied.
        if let Some(n) = all.get_mut(server) {
            let changed = change(n);
            if *n == 0 {
                all.remove(server);
            }
            return changed;
        }
        let mut n = 0;
        let changed = change(&mut n);
        if n > 0 {
            all.insert(server.clone(), n);
        }
        changed
    }
}

/// Room for a session on a server, until it is attached there and counts itself.
#[derive(Debug)]
pub(crate) struct Room {
    server: ServerId,
    live: Arc<Live>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.live.less(&self.server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_comes_back() {
        let live = Arc::new(Live::default());
        let [a, b] = ["a", "b"].map(ServerId::new);
        live.more(&a);
        let room = live.reserve(&a, 2);
        assert!(room.is_some() && live.reserve(&a, 2).is_none() && live.reserve(&b, 2).is_some());
        drop(room);
        live.less(&a);
        assert!(live.0.lock().unwrap().is_empty(), "what is gone leaves nothing");
        assert!(live.reserve(&a, 0).is_none());
        assert!(live.0.lock().unwrap().is_empty());
    }
}
