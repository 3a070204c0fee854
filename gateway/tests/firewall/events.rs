//! What the runtime tells every connection comes to nobody whom it does not concern.

use crate::{common::client::Client, scene::Scene};

/// Turns of each: with their events, some thousand messages.
const TURNS: usize = 10;

async fn talk(scene: &Scene, who: &str) -> Client {
    let mut client = scene.client(who).await;
    let session = format!("{who}s-own");
    client.call("session.create", scene.params(&session)).await.unwrap();
    for n in 0..TURNS {
        client.turn(&session, &format!("[[stream 100 10 0]] {who}s prompt {n}")).await;
    }
    client
}

/// Check 26, before the real runtime; `relay.rs` has the 10,000 messages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_26_nothing_of_others_sessions_from_the_real_runtime() {
    let test = "check_26_nothing_of_others_sessions_from_the_real_runtime";
    let Some(scene) = Scene::start(test).await else { return };
    // A connection without a gateway before it hears of everybody: so the test can fail.
    let mut witness = scene.runtime.connect().await;
    let (mut ada, mut bob, mut eve) =
        tokio::join!(talk(&scene, "ada"), talk(&scene, "bob"), talk(&scene, "eve"));
    // Whoever was ready first reads what came meanwhile.
    for client in [&mut witness, &mut ada, &mut bob, &mut eve] {
        client.call("ping", serde_json::json!({})).await.unwrap();
    }
    let mine = |who: &str| format!("{who}s-own");
    let heard = |client: &Client, who: &str| client.raw.iter().filter(|raw| raw.contains(&mine(who))).count();
    let all = [("ada", &ada), ("bob", &bob), ("eve", &eve)];
    let (mut messages, mut foreign) = (0, 0);
    for (who, client) in all {
        messages += client.raw.len();
        foreign += all
            .iter()
            .filter(|(other, _)| *other != who)
            .map(|(other, _)| heard(client, other))
            .sum::<usize>();
        assert!(heard(client, who) > 100 * TURNS, "{who}'s own are delivered");
    }
    let witnessed = all.map(|(who, _)| heard(&witness, who));
    println!(
        "CHECK 26: {messages} messages to three users of one real runtime: {foreign} of others' sessions (directly: {})",
        witnessed.iter().sum::<usize>()
    );
    assert!(witnessed.iter().all(|n| *n > TURNS), "the runtime does tell everybody: {witnessed:?}");
    assert_eq!(foreign, 0);
}
