//! On which CLI server a session is attached: where it lives, and somewhere else once that server is left or lost.
//!
//! A session is on one CLI server at a time. Whoever attaches it holds [`Session::placing`] from the choice of the
//! server until the session counts as attached there; and it moves only while nobody has it attached, after the
//! old server has closed it or is known to have ended.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use jetway_pool::{PoolError, ServerId};

use super::{client::Client, leg::Leg, registry::Session, resting, room::Room};
use crate::{
    directory::{MoveError, UnixMs},
    stack::{Limit, RETRY_AFTER, Refusal},
};

/// How often a server is looked for, when the one that was found turns out to be gone.
const TRIES: u32 = 4;

/// Where a session is to be attached. To be kept until its route stands.
pub(crate) struct Spot {
    pub(crate) leg: Arc<Leg>,
    _placing: Option<OwnedMutexGuard<()>>,
    _room: Option<Room>,
}

/// Where a session that is new is to be made: at home.
pub(crate) async fn of_new(client: &Arc<Client>) -> Result<Spot, Refusal> {
    let leg = client.home().await?;
    let room = resting::make_room(client.core(), leg.server().id(), &client.who().tenant).await?;
    Ok(Spot { leg, _placing: None, _room: Some(room) })
}

/// Where a session is to be attached.
pub(crate) async fn of(client: &Arc<Client>, session: &Arc<Session>) -> Result<Spot, Refusal> {
    let placing = session.placing().lock_owned().await;
    let leg = match session.is_detached() && !client.core().exclusive() {
        true => find(client, session).await?,
        // With the others who have it attached.
        false => client.leg_at(session).await?,
    };
    let tenant = &session.key.owner.tenant;
    let room = match session.is_detached() {
        true => Some(resting::make_room(client.core(), leg.server().id(), tenant).await?),
        false => None,
    };
    Ok(Spot { leg, _placing: Some(placing), _room: room })
}

async fn find(client: &Arc<Client>, session: &Session) -> Result<Arc<Leg>, Refusal> {
    let core = client.core();
    let mut tries = 1..TRIES;
    loop {
        let lived = session.server();
        let owner = &session.key.owner;
        let at = match core.pool.place_of(&lived, owner, core.processes_of(&owner.tenant)).await {
            Ok(at) => at,
            Err(PoolError::ShuttingDown) => return Err(Refusal::Draining(core.config.drain.timeout)),
            // What else shares its state may yet learn that it has ended.
            Err(error) if session.place().0.group.is_some() => {
                warn!(session = %session.key.id, %error, "a session cannot be had");
                return Err(Refusal::Overloaded(Limit::Servers, RETRY_AFTER));
            }
            Err(_) => return client.leg_at(session).await,
        };
        let found = async {
            if *at.id() == lived {
                return client.leg_on(at).await;
            }
            close(client, &lived, session).await?;
            let leg = client.leg_on(at).await?;
            note(client, session, &leg).await?;
            info!(session = %session.key.id, from = %lived, to = %leg.server().id(), "session moved");
            Ok(leg)
        };
        match found.await {
            Ok(leg) => return Ok(leg),
            // The server was lost and nobody had noticed yet.
            Err(_) if tries.next().is_some() => {}
            Err(refusal) => return Err(refusal),
        }
    }
}

/// Has the server on which a session lived close it, if that server has not ended.
async fn close(client: &Arc<Client>, server: &ServerId, session: &Session) -> Result<(), Refusal> {
    let pool = &client.core().pool;
    if pool.has_ended(server) {
        return Ok(());
    }
    let old = pool.attach(server).map_err(|_| Refusal::Overloaded(Limit::Servers, RETRY_AFTER))?;
    let leg = client.leg_on(old).await?;
    let params = json!({ "sessionId": session.key.id }).to_string();
    match leg.call("sessions.close", params.as_bytes()).await? {
        Ok(_) => Ok(()),
        Err(error) => {
            let error = String::from_utf8_lossy(&error).into_owned();
            warn!(session = %session.key.id, %server, error, "a CLI server does not close a session");
            Err(Refusal::Overloaded(Limit::ServerStart, RETRY_AFTER))
        }
    }
}

/// Notes that a session lives on the leg's server now.
async fn note(client: &Client, session: &Session, leg: &Leg) -> Result<(), Refusal> {
    let (directory, place) = (&client.core().directory, leg.place());
    let (_, epoch) = session.place();
    let no_directory = |error: &dyn std::error::Error| {
        warn!(error = %error, "the session directory");
        Refusal::Overloaded(Limit::Directory, RETRY_AFTER)
    };
    match directory.move_to(&session.key, epoch, &place, UnixMs::now()).await {
        Ok(epoch) => {
            session.moved(place, epoch);
            Ok(())
        }
        // Another gateway has moved it: that is where it lives.
        Err(MoveError::Stale { .. }) => {
            let entry = directory.find(&session.key.owner, &session.key.id).await;
            let entry = entry.map_err(|e| no_directory(&e))?.ok_or(Refusal::SessionNotFound)?;
            session.moved(entry.place, entry.epoch);
            Err(Refusal::Overloaded(Limit::Directory, RETRY_AFTER))
        }
        Err(MoveError::Store(error)) => Err(no_directory(&error)),
        Err(MoveError::NotFound | MoveError::Taken) => Err(Refusal::SessionNotFound),
    }
}
