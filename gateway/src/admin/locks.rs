//! Who holds which shared session, and who waits for it, as this gateway knows.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use serde_json::{Value, json};

use jetway_config::UserId;

use crate::app::Core;

/// Sessions that this gateway holds or waits for, those with the longest lines first, `limit` of them at most.
pub(super) fn rows(core: &Core, limit: usize) -> Vec<Value> {
    let leases = core.lockd.status();
    let held: HashMap<_, _> = leases.held.iter().map(|held| (&held.key, held)).collect();
    let awaited: HashMap<_, _> = leases.waiting.iter().map(|waiting| (&waiting.key, waiting)).collect();
    let mut rooms = core.turns.status();
    rooms.sort_by_key(|room| (Reverse(room.waiting.len()), room.running.is_none(), room.key.session.clone()));
    let row = |room: &jetway_lockd::RoomStatus| {
        let (held, awaited) = (held.get(&room.key), awaited.get(&room.key));
        // Of a session that another gateway has, its store says who, as of when this one got in line.
        let place = awaited.and_then(|awaited| awaited.place.as_ref());
        json!({
            "session": room.key.session.as_str(),
            "owner": room.key.owner.to_string(),
            "fence": room.fence.map(|fence| fence.to_string()),
            "heldSeconds": held.map(|held| held.time.as_secs_f64()),
            "wanted": held.is_some_and(|held| held.wanted),
            "turn": room.running.as_ref().map(person),
            "waiting": room.waiting.iter().map(person).collect::<Vec<_>>(),
            "elsewhere": awaited.map(|awaited| json!({
                "holder": place.and_then(|place| place.holder.as_ref()),
                "ahead": place.map(|place| place.ahead),
                "seconds": awaited.time.as_secs_f64(),
            })),
        })
    };
    rooms.iter().take(limit).map(row).collect()
}

fn person((user, time): &(UserId, Duration)) -> Value {
    json!({ "user": user, "seconds": time.as_secs_f64() })
}
