//! The commands.

pub(crate) mod check;
mod client;
pub(crate) mod key;
pub(crate) mod operate;
pub(crate) mod serve;
mod show;
mod table;

use std::path::PathBuf;

use clap::Args;

use jetway_config::{Config, ConfigErrors, Sources};

/// `sysexits.h`: the configuration is wrong.
pub(crate) const EX_CONFIG: u8 = 78;
/// `sysexits.h`: something that is needed cannot be had.
pub(crate) const EX_UNAVAILABLE: u8 = 69;

#[derive(Debug, Args)]
pub(crate) struct File {
    /// Configuration file (TOML). Without one: the embedded defaults, for this machine only.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl File {
    fn load(&self) -> Result<Config, ConfigErrors> {
        jetway_gateway::load(&self.sources())
    }

    fn sources(&self) -> Sources {
        Sources::system(self.config.as_deref())
    }
}
