//! A fleet, with servers of the test's own.

mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{MANY, fleet, nothing_outside, until, who};
use jetway_config::{Identity, Limits, SecretString, net::HostPort, pool::Backend};
use jetway_pool::{Attachment, DrainReason, Gone, Pool, PoolError, ServerId, ServerState};
use jetway_wire::{frame::Caps, peer::Peer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

const CAPS: Caps = Caps { header: 4096, body: 1 << 20 };
const TOKEN: &str = "hunter2";

/// A CLI server of which only `connect` and `ping` are real.
struct Stub {
    port: u16,
    protocol: u64,
    pings: Arc<AtomicU64>,
    /// Answers no pings.
    hang: Arc<AtomicBool>,
    /// Ends its connections, as a process does that is restarted at once.
    drop_connections: Arc<Notify>,
    serving: JoinHandle<()>,
}

impl Stub {
    async fn start() -> Self {
        Self::at(0, 3).await
    }

    async fn at(port: u16, protocol: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pings = Arc::<AtomicU64>::default();
        let count = pings.clone();
        let (hang, drop_connections) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let (hung, ended) = (hang.clone(), drop_connections.clone());
        let serving = tokio::spawn(async move {
            // Connections end with the server.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (count, hung, ended) = (count.clone(), hung.clone(), ended.clone());
                connections.spawn(async move {
                    tokio::select! {
                        () = serve(stream, protocol, count, hung) => {}
                        () = ended.notified() => {}
                    }
                });
            }
        });
        Self { port, protocol, pings, hang, drop_connections, serving }
    }

    fn stop(&self) {
        self.serving.abort();
    }

    async fn again(&self) -> Self {
        until("the port is free", || std::net::TcpListener::bind(("127.0.0.1", self.port)).is_ok()).await;
        Self::at(self.port, self.protocol).await
    }

    fn id(&self) -> ServerId {
        ServerId::new(format!("127.0.0.1:{}", self.port))
    }

    fn backend(&self) -> Backend {
        Backend {
            address: HostPort { host: "127.0.0.1".into(), port: self.port },
            token: Some(SecretString::new(TOKEN.into())),
            weight: 1,
            state: None,
        }
    }
}

async fn serve(stream: TcpStream, protocol: u64, pings: Arc<AtomicU64>, hung: Arc<AtomicBool>) {
    let (peer, mut incoming) = Peer::new(stream, CAPS);
    let mut known = false;
    while let Some(request) = incoming.recv().await {
        let Some(id) = &request.id else { continue };
        if hung.load(Ordering::Relaxed) {
            continue;
        }
        let outcome: Result<Value, (i64, String)> = match request.method.as_str() {
            "connect" if request.params["token"] == TOKEN => {
                known = true;
                Ok(json!({ "ok": true, "protocolVersion": protocol, "version": "stub" }))
            }
            "connect" => Err((-32002, "AUTHENTICATION_FAILED".into())),
            "ping" if known => {
                pings.fetch_add(1, Ordering::Relaxed);
                Ok(json!({ "message": "pong", "protocolVersion": protocol }))
            }
            _ => Err((-32001, "AUTHENTICATION_REQUIRED".into())),
        };
        // What a CLI tells everybody: more of it than anybody's queue holds.
        for n in 0..300 {
            let _ = peer.notify("session.lifecycle", json!({ "n": n })).await;
        }
        if peer.reply(id, outcome).await.is_err() {
            return;
        }
    }
}

async fn stubs(n: usize) -> Vec<Stub> {
    let mut stubs = Vec::new();
    for _ in 0..n {
        stubs.push(Stub::start().await);
    }
    stubs
}

async fn pool(stubs: &[Stub]) -> Pool {
    let settings = fleet(stubs.iter().map(Stub::backend).collect());
    Pool::start(&settings, &Limits::default(), nothing_outside()).await.unwrap()
}

async fn stop(pool: Pool) {
    pool.shutdown(Instant::now() + Duration::from_secs(1)).await;
}

fn users(n: usize) -> impl Iterator<Item = Identity> {
    (0..n).map(|n| who(&format!("acme/user-{n}")))
}

/// Everybody attached at once, by user.
async fn attach_all(pool: &Pool, n: usize) -> HashMap<Identity, Attachment> {
    let mut all = HashMap::new();
    for user in users(n) {
        all.insert(user.clone(), pool.home(&user, MANY).await.unwrap());
    }
    all
}

fn ids(all: &HashMap<Identity, Attachment>) -> HashMap<Identity, ServerId> {
    all.iter().map(|(user, a)| (user.clone(), a.id().clone())).collect()
}

fn state_of(pool: &Pool, id: &ServerId) -> ServerState {
    pool.status().iter().find(|s| s.id == *id).unwrap().state
}

#[tokio::test]
async fn a_loss_moves_only_its_own_users_and_its_return_brings_them_back() {
    let mut stubs = stubs(3).await;
    let pool = pool(&stubs).await;
    let mut all = attach_all(&pool, 100).await;
    let before = ids(&all);
    let lost = stubs[1].id();
    assert!(before.values().any(|id| *id == lost));

    stubs[1].stop();
    let lost_user = before.iter().find(|(_, id)| **id == lost).unwrap().0.clone();
    let gone = tokio::time::timeout(Duration::from_secs(5), all[&lost_user].closed()).await.unwrap();
    assert!(matches!(gone, Gone::Down { .. }), "{gone}");
    assert_eq!(state_of(&pool, &lost), ServerState::Down);
    assert!(matches!(pool.attach(&lost), Err(PoolError::Unreachable { .. })));
    assert!(pool.ready().ready && pool.ready().reasons.len() == 1);

    // Each attaches once more before letting go of the old attachment, as one does who fails over.
    let during = attach_all(&pool, 100).await;
    for (user, attachment) in &during {
        assert!(*attachment.id() != lost, "{user} was sent to a server that is down");
        assert!(before[user] == lost || *attachment.id() == before[user], "{user} moved without need");
    }
    drop(std::mem::replace(&mut all, during));

    stubs[1] = stubs[1].again().await;
    until("it is up again", || state_of(&pool, &lost) == ServerState::Up).await;
    // Who is attached stays where they are; who comes anew is where they were at first.
    let after = pool.home(&lost_user, MANY).await.unwrap();
    assert_eq!(after.id(), all[&lost_user].id());
    drop(after);
    drop(all);
    let status = pool.status();
    assert!(status.iter().all(|s| s.attachments == 0 && s.users == 0), "{status:?}");
    assert_eq!(status[1].restarts, 1);
    assert_eq!(ids(&attach_all(&pool, 100).await), before);
    stop(pool).await;
}

#[tokio::test]
async fn failed_dials_open_the_circuit_too() {
    let stubs = stubs(2).await;
    let mut settings = fleet(stubs.iter().map(Stub::backend).collect());
    // No probe will tell in time.
    settings.health.interval = Duration::from_secs(600);
    settings.health.failures = 100;
    let patient = Pool::start(&settings, &Limits::default(), nothing_outside()).await.unwrap();
    settings.health.failures = 2;
    let pool = Pool::start(&settings, &Limits::default(), nothing_outside()).await.unwrap();
    let attachment = pool.attach(&stubs[0].id()).unwrap();
    attachment.dial().await.unwrap();
    stubs[0].stop();
    until("nobody listens", || std::net::TcpStream::connect(("127.0.0.1", stubs[0].port)).is_err()).await;
    for _ in 0..2 {
        let error = attachment.dial().await.unwrap_err();
        assert!(matches!(error, PoolError::Unreachable { .. }), "{error}");
    }
    assert!(matches!(attachment.closed().await, Gone::Down { .. }));
    assert!(patient.attach(&stubs[0].id()).is_ok());
    for user in users(20) {
        assert_eq!(*pool.home(&user, MANY).await.unwrap().id(), stubs[1].id());
    }
    stop(pool).await;
    stop(patient).await;
}

#[tokio::test]
async fn nobody_up() {
    let stubs = stubs(2).await;
    stubs.iter().for_each(Stub::stop);
    let pool = pool(&stubs).await;
    let error = pool.home(&who("acme/ada"), MANY).await.unwrap_err();
    assert!(
        matches!(error, PoolError::NoServer { configured: 2, .. }) && error.retry_after().is_some(),
        "{error}"
    );
    let readiness = pool.ready();
    assert!(!readiness.ready && readiness.reasons.len() == 2, "{readiness:?}");
    assert!(matches!(pool.attach(&ServerId::new("nowhere:1")), Err(PoolError::NotRunning(_))));
    let _back = stubs[0].again().await;
    until("it is found", || pool.ready().ready).await;
    pool.home(&who("acme/ada"), MANY).await.unwrap();
    stop(pool.clone()).await;
    assert!(matches!(pool.home(&who("acme/ada"), MANY).await, Err(PoolError::ShuttingDown)));
}

#[tokio::test]
async fn wrong_token_wrong_protocol_and_silence_are_told() {
    let good = Stub::start().await;
    let newer = Stub::at(0, 4).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut stranger = Stub::start().await.backend();
    stranger.token = Some(SecretString::new("wrong-secret".into()));
    let mut mute = good.backend();
    mute.address.port = silent.local_addr().unwrap().port();
    let mut unknown = good.backend();
    unknown.address.host = "no-such-host.invalid".into();
    let settings = fleet(vec![good.backend(), newer.backend(), stranger, mute, unknown]);
    let pool = Pool::start(&settings, &Limits::default(), nothing_outside()).await.unwrap();
    let status = pool.status();
    let expected = ["", "protocol version 4", "AUTHENTICATION_FAILED", "no answer within", ""];
    for (server, problem) in status.iter().zip(expected).skip(1) {
        assert_ne!(server.state, ServerState::Up, "{server:?}");
        let told = server.problem.as_deref().unwrap();
        assert!(told.contains(problem) && !told.contains("wrong-secret"), "{told}");
    }
    assert_eq!((status[0].state, status[0].version.as_deref()), (ServerState::Up, Some("stub")));
    assert!(status[0].rtt.is_some() && status[0].uptime.is_some());
    // The kept connection goes on being pinged, with all that the server tells beside.
    let pings = good.pings.load(Ordering::Relaxed);
    until("five more pings", || good.pings.load(Ordering::Relaxed) >= pings + 5).await;
    assert_eq!(state_of(&pool, &good.id()), ServerState::Up);
    stop(pool).await;
}

#[tokio::test]
async fn weights_and_the_bound_hold() {
    let stubs = stubs(3).await;
    let mut backends: Vec<_> = stubs.iter().map(Stub::backend).collect();
    backends[2].weight = 2;
    let pool = Pool::start(&fleet(backends), &Limits::default(), nothing_outside()).await.unwrap();
    let all = attach_all(&pool, 1000).await;
    let shares: Vec<_> = pool.status().iter().map(|s| s.attachments).collect();
    for (share, fair) in shares.iter().zip([250, 250, 500]) {
        assert!((fair * 3 / 4..=fair * 5 / 4 + 1).contains(share), "{shares:?}");
    }
    drop(all);
    stop(pool).await;
}

/// However its end is noticed, another process is no longer what its predecessor was.
#[tokio::test]
async fn a_server_that_is_another_process_starts_from_nothing() {
    let stubs = stubs(2).await;
    let mut settings = fleet(stubs.iter().map(Stub::backend).collect());
    settings.recycle.max_turns = Some(1);
    // No dial sees that nobody listens: it is restarted too fast for that.
    settings.health.failures = 100;
    let pool = Pool::start(&settings, &Limits::default(), nothing_outside()).await.unwrap();
    let id = stubs[0].id();
    let row = || pool.status().into_iter().find(|s| s.id == id).unwrap();
    for hangs in [false, true] {
        let at = pool.attach(&id).unwrap();
        at.served_turn();
        drop(at);
        until("it is worn", || row().draining == Some(DrainReason::Recycle)).await;
        if hangs {
            stubs[0].hang.store(true, Ordering::Relaxed);
            until("its silence is noticed", || row().problem.is_some_and(|p| p.contains("no answer"))).await;
            stubs[0].hang.store(false, Ordering::Relaxed);
        }
        stubs[0].drop_connections.notify_waiters();
        until("it is fresh", || row().draining.is_none() && row().worn.is_none() && row().turns == 0).await;
    }
    stop(pool).await;
}
