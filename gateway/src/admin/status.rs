//! What the gateway is doing, for its operator: everything in totals, of the rest the first rows.

use std::collections::HashMap;

use axum::{
    Json,
    extract::{Query, State},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use jetway_config::{Identity, limits::STATUS_ROWS};
use jetway_pool::{ServerId, ServerState, ServerStatus};

use super::{Shared, locks};
use crate::{app::Core, metrics, sessions::registry::Glance};

/// `GET /admin/v1/status?limit=N`.
pub(super) async fn get(
    State((core, _)): Shared,
    Query(query): Query<HashMap<String, String>>,
) -> Json<Value> {
    let asked = query.get("limit").and_then(|n| n.parse().ok());
    Json(of(&core, asked.unwrap_or(*STATUS_ROWS.start()).min(*STATUS_ROWS.end())))
}

/// The whole page, with at most `limit` servers, users and sessions, the busiest first.
fn of(core: &Core, limit: usize) -> Value {
    let now = Instant::now();
    let sessions = core.registry.glance();
    let servers = core.pool.status();
    let load = by_server(&sessions);
    let users = users(core, &sessions, now);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": core.since.elapsed().as_secs_f64(),
        "state": if core.drain.is_draining() { "draining" } else { "serving" },
        "mode": core.config.pool.mode.as_str(),
        "totals": totals(core, &servers, &users, &sessions),
        "memory": core.pool.memory().map(|m| json!({ "used": m.used, "budget": m.budget, "processes": m.processes })),
        "servers": rows_of_servers(servers, &load, limit),
        "users": rows_of_users(users, limit, now),
        "sessions": rows_of_sessions(sessions, limit, now),
        "locks": locks::rows(core, limit),
        "departed": departed(core, limit),
    })
}

/// Brings the metrics up to date that are counted when somebody looks.
pub(super) fn measure(core: &Core) {
    let servers = core.pool.status();
    for state in ServerState::ALL {
        metrics::backends(state.as_str(), servers.iter().filter(|s| s.state == state).count());
    }
    let left = |id: &ServerId| servers.iter().any(|s| s.id == *id && s.draining.is_some());
    let sessions = core.registry.glance();
    metrics::draining_sessions(sessions.iter().filter(|s| left(&s.server)).count());
}

/// What one server carries.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Load {
    /// Sessions that are attached there.
    pub(super) sessions: usize,
    /// Turns that run there.
    pub(super) turns: usize,
    last_turn: Option<Instant>,
}

fn by_server(sessions: &[Glance]) -> HashMap<&ServerId, Load> {
    let mut loads: HashMap<_, Load> = HashMap::new();
    for session in sessions {
        let load = loads.entry(&session.server).or_default();
        load.sessions += 1;
        load.turns += session.turns.len();
        load.last_turn = load.last_turn.max(session.last_turn);
    }
    loads
}

/// What a server carries now, and its row.
pub(super) fn server(core: &Core, id: &ServerId) -> Option<(ServerStatus, Load)> {
    let status = core.pool.status().into_iter().find(|s| s.id == *id)?;
    let load = by_server(&core.registry.glance()).get(id).copied().unwrap_or_default();
    Some((status, load))
}

pub(super) fn row_of_server(server: &ServerStatus, load: Load) -> Value {
    json!({
        "id": server.id.as_str(),
        "state": server.state.as_str(),
        "address": server.address,
        "pid": server.pid,
        "version": server.version,
        "connections": server.attachments,
        "users": server.users,
        "sessions": load.sessions,
        "turns": load.turns,
        "served": server.served,
        "turnsServed": server.turns,
        "memory": server.memory,
        "ageSeconds": server.uptime.map(|d| d.as_secs_f64()),
        "lastTurnSeconds": load.last_turn.map(|t| t.elapsed().as_secs_f64()),
        "pingSeconds": server.rtt.map(|d| d.as_secs_f64()),
        "restarts": server.restarts,
        "draining": server.draining.map(|why| why.as_str()),
        "worn": server.worn.map(|why| why.as_str()),
        "sandbox": server.sandbox.map(|level| level.as_str()),
        "stateGroup": server.group.as_ref().map(|g| g.as_str()),
        "problem": server.problem,
    })
}

fn rows_of_servers(
    mut servers: Vec<ServerStatus>,
    load: &HashMap<&ServerId, Load>,
    limit: usize,
) -> Vec<Value> {
    let load = |id: &ServerId| load.get(id).copied().unwrap_or_default();
    // What is not as it should be first.
    servers.sort_by_key(|s| {
        let Load { sessions, turns, .. } = load(&s.id);
        (s.state == ServerState::Up, std::cmp::Reverse((turns, sessions)), s.id.clone())
    });
    servers.iter().take(limit).map(|s| row_of_server(s, load(&s.id))).collect()
}

/// What one user has.
#[derive(Debug, Default)]
struct User {
    connections: usize,
    sessions: usize,
    resting: usize,
    turns: usize,
    unanswered: usize,
    used: Option<Instant>,
}

fn users(core: &Core, sessions: &[Glance], now: Instant) -> HashMap<Identity, User> {
    let mut users: HashMap<Identity, User> = HashMap::new();
    for client in core.clients.all() {
        let user = users.entry(client.who().clone()).or_default();
        user.connections += 1;
        user.resting += client.resting();
        user.unanswered += client.unanswered();
        user.used = user.used.max(Some(client.used().min(now)));
    }
    for session in sessions {
        let user = users.entry(session.key.owner.clone()).or_default();
        user.sessions += 1;
        user.turns += session.turns.len();
    }
    users
}

fn rows_of_users(users: HashMap<Identity, User>, limit: usize, now: Instant) -> Vec<Value> {
    let mut users: Vec<_> = users.into_iter().collect();
    users.sort_by(|(a, x), (b, y)| (y.turns, y.used).cmp(&(x.turns, x.used)).then_with(|| a.cmp(b)));
    let row = |(who, user): (Identity, User)| {
        json!({
            "user": who.to_string(),
            "connections": user.connections,
            "sessions": user.sessions,
            "resting": user.resting,
            "turns": user.turns,
            "unanswered": user.unanswered,
            "lastUsedSeconds": user.used.map(|t| (now - t).as_secs_f64()),
        })
    };
    users.into_iter().take(limit).map(row).collect()
}

fn rows_of_sessions(mut sessions: Vec<Glance>, limit: usize, now: Instant) -> Vec<Value> {
    let rank = |s: &Glance| (s.turns.len(), s.used);
    sessions.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| a.key.id.cmp(&b.key.id)));
    let row = |s: Glance| {
        let turns = s.turns.iter().map(|(id, since)| {
            json!({ "id": id.to_string(), "seconds": now.saturating_duration_since(*since).as_secs_f64() })
        });
        json!({
            "id": s.key.id.as_str(),
            "owner": s.key.owner.to_string(),
            "server": s.server.as_str(),
            "attached": s.attached,
            "turns": turns.collect::<Vec<_>>(),
            "lastUsedSeconds": now.saturating_duration_since(s.used).as_secs_f64(),
            "lastTurnSeconds": s.last_turn.map(|t| now.saturating_duration_since(t).as_secs_f64()),
        })
    };
    sessions.into_iter().take(limit).map(row).collect()
}

fn totals(
    core: &Core,
    servers: &[ServerStatus],
    users: &HashMap<Identity, User>,
    sessions: &[Glance],
) -> Value {
    let mut states: HashMap<_, usize> = ServerState::ALL.map(|s| (s.as_str(), 0)).into();
    servers.iter().for_each(|s| *states.entry(s.state.as_str()).or_default() += 1);
    json!({
        "servers": states,
        "connections": users.values().map(|u| u.connections).sum::<usize>(),
        "users": users.len(),
        "sessions": sessions.len(),
        "resting": users.values().map(|u| u.resting).sum::<usize>(),
        "turns": core.registry.running_turns(),
        "placing": core.placing.now(),
    })
}

fn departed(core: &Core, limit: usize) -> Vec<Value> {
    let row = |d: jetway_pool::Departed| {
        json!({
            "id": d.id.as_str(),
            "pid": d.pid,
            "agoSeconds": d.at.elapsed().as_secs_f64(),
            "livedSeconds": d.uptime.as_secs_f64(),
            "why": d.why.to_string(),
        })
    };
    core.pool.departed().into_iter().take(limit).map(row).collect()
}
