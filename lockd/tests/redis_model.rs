//! The scripts of the Redis store do what the lease table does: the same random commands to both, the
//! same answers. Time does not pass for the table; in Redis, leases are made to expire by hand.

mod common;

use common::{Redis, key, who};
use jetway_lockd::{
    Fence, Moment, RedisStore, Rules,
    store::{Answer, Enter, Heard, Leave, Node, Notice, Place, Renew, Ticket},
    table::Table,
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Times left differ by what passes in Redis.
fn roughly(answer: Answer) -> Answer {
    match answer {
        Answer::Waiting(place) => Answer::Waiting(Place { left: Duration::ZERO, ..place }),
        Answer::Full(place) => Answer::Full(Place { left: Duration::ZERO, ..place }),
        answer => answer,
    }
}

#[tokio::test]
async fn scripts_do_what_the_table_does() {
    let redis = Redis::start(&[]);
    // So long that nothing expires by itself.
    let rules = Rules { offer: Duration::from_secs(3600), ..Rules::new(Duration::from_secs(3600)) };
    let heard: Arc<Mutex<VecDeque<Notice>>> = Arc::default();
    let mut nodes = Vec::new();
    for id in 1..=4 {
        let (node, heard) = (Node(id), Arc::clone(&heard));
        let ear = Arc::new(move |h| {
            if let Heard::Notice(notice) = h {
                heard.lock().unwrap().push_back(notice);
            }
        });
        nodes.push(RedisStore::connect(&redis.settings(), rules, node, ear).await.unwrap());
    }
    for shard in 0..16 {
        let _: i64 = redis.query(&["DEL", &format!("jetway:lock:{{{shard}}}:quarantine")]).await;
    }
    let client = redis::Client::open(redis.url()).unwrap();
    let mut hand = client.get_multiplexed_async_connection().await.unwrap();

    let seed = std::env::var("LOCKD_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut random = Random(seed);
    let (mut commands, mut told) = (0, 0);
    for round in 0..60 {
        let key = key(&format!("s{round}"));
        let mut table = Table::begin(rules, Fence::NONE);
        let mut now = Moment::ZERO;
        // The shard's counter has gone on: the table's begins where it is.
        let mut offset = None;
        let mut tickets: Vec<(Ticket, Fence)> = (0..8)
            .map(|seq| (Ticket { node: Node(1 + seq % 4), seq: round * 100 + seq }, Fence::NONE))
            .collect();
        for step in 0..50 {
            let context = format!("LOCKD_SEED={seed} round {round} step {step}");
            let i = random.below(tickets.len() as u64) as usize;
            let (ticket, fence) = tickets[i];
            let node = &nodes[ticket.node.0 as usize - 1];
            let who = who(&format!("u{}", ticket.seq));
            commands += 1;
            let mut notices = Vec::new();
            match random.below(10) {
                0..=4 => {
                    let max_waiters = random.below(7) as usize;
                    let enter = Enter { key: key.clone(), ticket, who, floor: Fence::NONE, max_waiters };
                    let (answer, told) = table.enter(now, &enter);
                    notices = told;
                    let mut real = node.enter(&enter).await.unwrap();
                    if let (Answer::Held { fence: modelled, .. }, Answer::Held { fence, .. }) =
                        (&answer, &mut real)
                    {
                        tickets[i].1 = *fence;
                        let distance = fence.to_u64() - modelled.to_u64();
                        assert_eq!(*offset.get_or_insert(distance), distance, "{context}: fences");
                        *fence = *modelled;
                    }
                    assert_eq!(roughly(real), roughly(answer), "{context}: {enter:?}");
                }
                5..=6 => {
                    let leave = Leave { key: key.clone(), ticket, who };
                    notices = table.leave(now, &leave);
                    node.leave(&leave).await.unwrap();
                }
                7..=8 => {
                    let renew = Renew { key: key.clone(), ticket, who, fence };
                    let outcome = table.renew(now, &Renew { fence: Fence::NONE, ..renew.clone() });
                    assert_eq!(node.renew(&[renew]).await, [outcome], "{context}");
                }
                _ => {
                    now += Duration::from_secs(4000);
                    let keys: Vec<String> = redis::cmd("KEYS")
                        .arg(format!("*:lease:{key}"))
                        .query_async(&mut hand)
                        .await
                        .unwrap();
                    for lease in keys {
                        redis::cmd("DEL").arg(lease).exec_async(&mut hand).await.unwrap();
                    }
                }
            }
            told += notices.len();
            expect(&heard, notices, &context).await;
        }
    }
    println!("model: {commands} commands and {told} notices, table and Redis agree");
}

/// Each notice arrives, on its node's connection.
async fn expect(heard: &Mutex<VecDeque<Notice>>, mut notices: Vec<Notice>, context: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while !notices.is_empty() {
        while let Some(notice) = heard.lock().unwrap().pop_front() {
            let at = notices.iter().position(|expected| *expected == notice);
            notices.remove(at.unwrap_or_else(|| panic!("{context}: unexpected {notice:?}, not {notices:?}")));
        }
        assert!(tokio::time::Instant::now() < deadline, "{context}: not told {notices:?}");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert!(heard.lock().unwrap().is_empty(), "{context}: {:?}", heard.lock().unwrap());
}
