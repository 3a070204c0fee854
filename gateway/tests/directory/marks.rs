//! Names of requests.

use jetway_gateway::directory::{MARKED_FOR, MAX_MARKS, Mark, UnixMs};

use super::{Store, who};

const T: u64 = 1_700_000_000_000;

fn mark(n: usize) -> Mark {
    Mark { digest: format!("digest-{n}"), turn: format!("turn-{n}"), message: None }
}

pub(crate) async fn a_name_stands_for_one_request(mut store: Store) {
    let directory = store.open().await;
    let (ada, bob) = (who("acme/ada"), who("acme/bob"));
    assert_eq!(directory.mark(&ada, "k", &mark(1), UnixMs(T)).await.unwrap(), None);
    assert_eq!(directory.mark(&bob, "k", &mark(2), UnixMs(T)).await.unwrap(), None, "another's is another");
    assert_eq!(directory.mark(&ada, "k", &mark(3), UnixMs(T)).await.unwrap(), Some(mark(1)));
    directory.complete_mark(&ada, "k", "m-1").await.unwrap();
    directory.complete_mark(&ada, "none", "m-2").await.unwrap();
    let taken = Mark { message: Some("m-1".into()), ..mark(1) };
    assert_eq!(directory.mark(&ada, "k", &mark(3), UnixMs(T + 1)).await.unwrap(), Some(taken.clone()));
    directory.close().await;
    store.crash();
    let directory = store.open().await;
    assert_eq!(directory.mark(&ada, "k", &mark(3), UnixMs(T + 2)).await.unwrap(), Some(taken));
    directory.unmark(&ada, "k").await.unwrap();
    assert_eq!(directory.mark(&ada, "k", &mark(4), UnixMs(T + 3)).await.unwrap(), None);
    // For a day.
    let day = MARKED_FOR.as_millis() as u64;
    assert_eq!(directory.mark(&ada, "k", &mark(5), UnixMs(T + 3 + day)).await.unwrap(), Some(mark(4)));
    assert_eq!(directory.mark(&ada, "k", &mark(5), UnixMs(T + 4 + day)).await.unwrap(), None);
    directory.close().await;
}

pub(crate) async fn the_oldest_names_make_room(store: Store) {
    let directory = store.open().await;
    let ada = who("acme/ada");
    for n in 0..MAX_MARKS + 2 {
        let at = UnixMs(T + n as u64);
        assert_eq!(directory.mark(&ada, &n.to_string(), &mark(n), at).await.unwrap(), None);
    }
    let at = UnixMs(T + 1000);
    assert_eq!(directory.mark(&ada, "2", &mark(0), at).await.unwrap(), Some(mark(2)));
    assert_eq!(directory.mark(&ada, "1", &mark(0), at).await.unwrap(), None, "it had to go");
    directory.close().await;
}
