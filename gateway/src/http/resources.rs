//! What a session has of its own on the host, and what it takes there.

use std::{path::PathBuf, sync::Arc};

use tokio::{sync::Semaphore, task::spawn_blocking};

use jetway_config::{Identity, SessionId};
use jetway_pool::Workspace;

use super::{
    Face,
    fault::{Fault, Kind},
    profile::{Config, Profile},
    view::{Base, Resources, TurnView, View},
};
use crate::{
    directory::{Entry, Status},
    quantity,
    sessions::bounds::LEAST_MEMORY,
};

/// How many workspaces are counted at a time: it keeps a disk busy.
const COUNTING: usize = 2;

/// Who may count.
pub(super) fn counting() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(COUNTING))
}

impl Face {
    /// A session as it is shown in lists.
    pub(super) fn glance(&self, entry: &Entry, who: &Identity, base: &Base) -> View {
        let mut view = View::of(entry, who, base);
        view.turn = self.turn(entry);
        view.warnings = self.warnings(&Profile::of(entry));
        let files = self.files(entry).filter(|_| entry.status != Status::Terminated);
        view.workspace = files.map(|files| files.path().display().to_string());
        view
    }

    /// A session in full.
    pub(super) async fn show(&self, entry: &Entry, who: &Identity, base: &Base) -> View {
        let mut view = self.glance(entry, who, base);
        let usage = if entry.status.is_over() { None } else { self.core.pool.usage(&entry.key.owner) };
        let resources = Resources {
            memory_bytes: usage.map(|u| u.memory),
            cpu_seconds: usage.map(|u| u.cpu.as_secs_f64()),
            workspace_bytes: self.size(entry).await,
        };
        // It may have outlived its session.
        let files = self.files(entry).filter(|_| resources.workspace_bytes.is_some());
        view.workspace = files.map(|files| files.path().display().to_string());
        let known = usage.is_some() || resources.workspace_bytes.is_some();
        view.resources = known.then_some(resources);
        view
    }

    fn turn(&self, entry: &Entry) -> Option<TurnView> {
        let (owner, id) = (&entry.key.owner, &entry.key.id);
        if let Some(held) = self.hubs.held(owner, id).and_then(|hub| hub.pending()) {
            return Some(TurnView {
                id: Some(held.turn),
                status: "pending".into(),
                user: Some(held.user.to_string()),
            });
        }
        let session = self.core.registry.find(owner, id).filter(|session| session.is_running())?;
        let ours = self.hubs.held(owner, id).and_then(|hub| hub.with(|state| state.turn.clone()));
        let user = ours.as_ref().map(|turn| turn.user.clone()).or_else(|| session.turn_of());
        Some(TurnView {
            id: ours.map(|turn| turn.id),
            status: "running".into(),
            user: user.map(|user| user.to_string()),
        })
    }

    /// A session's own files, if it has any.
    pub(super) fn files(&self, entry: &Entry) -> Option<Workspace> {
        Config::of(entry).pvc_enabled.and_then(|_| self.files_of(&entry.key.owner, &entry.key.id))
    }

    fn files_of(&self, owner: &Identity, id: &SessionId) -> Option<Workspace> {
        self.core.pool.workspace(owner, id.as_str())
    }

    /// Their size; unknown while too many others are counted.
    async fn size(&self, entry: &Entry) -> Option<u64> {
        let files = self.files(entry)?;
        let _turn = self.counting.clone().try_acquire_owned().ok()?;
        spawn_blocking(move || files.size()).await.ok()?
    }

    /// Makes a new session's own workspace, if it is to have one, and has it work there.
    pub(super) async fn give_files(
        &self,
        owner: &Identity,
        id: &SessionId,
        profile: &mut Profile,
    ) -> Result<(), Fault> {
        let Some(durable) = profile.config.pvc_enabled else { return Ok(()) };
        let Some(files) = self.files_of(owner, id) else { return Ok(()) };
        if profile.given.contains_key("workingDirectory") {
            let why =
                "A session works in its own workspace (`config.pvc_enabled`) or in a `working_directory`";
            return Err(Fault::new(Kind::Conflict, why).with("field", "working_directory"));
        }
        let made = spawn_blocking(move || {
            if !durable {
                // What another session of that name left is not this one's.
                files.remove()?;
            }
            files.make().map(|()| files.path())
        });
        let path: PathBuf = match made.await {
            Ok(Ok(path)) => path,
            Ok(Err(error)) => {
                return Err(Fault::new(Kind::Internal, format!("The session's workspace: {error}")));
            }
            Err(_) => return Err(Fault::new(Kind::Internal, "The session's workspace was not made")),
        };
        profile.given.insert("workingDirectory".into(), path.display().to_string().into());
        Ok(())
    }

    /// What of a session's settings has no effect here, or another.
    fn warnings(&self, profile: &Profile) -> Vec<String> {
        let config = &profile.config;
        let given = [
            ("cpu_limit", config.cpu_limit.is_some()),
            ("memory_limit", config.memory_limit.is_some()),
            ("pvc_enabled", config.pvc_enabled.is_some()),
            ("pvc_storage_size", config.pvc_storage_size.is_some()),
        ];
        let elsewhere = if profile.given.contains_key("cloud") {
            Some("the session runs in the cloud")
        } else {
            (!self.core.exclusive()).then_some("its CLI server is not of this Jetway's making")
        };
        if let Some(why) = elsewhere {
            let given = given.into_iter().filter(|(_, given)| *given);
            return given.map(|(name, _)| format!("config.{name} has no effect: {why}")).collect();
        }
        let limits = &self.core.config.pool.process.limits;
        let memory = config.memory_limit.as_deref().and_then(quantity::bytes);
        let cpu = config.cpu_limit.as_deref().and_then(quantity::cores);
        let mut warnings = Vec::new();
        let mut warn = |when: bool, what: &str| {
            if when {
                warnings.push(what.to_owned());
            }
        };
        warn(
            cpu.is_some() && !self.core.pool.limits_cpu(),
            "config.cpu_limit has no effect: this host gives Jetway no control group of processors",
        );
        warn(
            cpu.zip(limits.cpu).is_some_and(|(wished, most)| wished > most),
            "config.cpu_limit is more than a user may take here; that holds",
        );
        warn(
            memory.is_some_and(|wished| wished < LEAST_MEMORY),
            "config.memory_limit counts as 128Mi: a CLI server needs as much",
        );
        warn(
            memory.is_some_and(|wished| wished > limits.memory.0),
            "config.memory_limit is more than a user may take here; that holds",
        );
        warn(
            config.pvc_storage_size.is_some() && config.pvc_enabled.is_none(),
            "config.pvc_storage_size has no effect without config.pvc_enabled",
        );
        warnings
    }
}
