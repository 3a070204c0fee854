//! `jetway status`, `drain` and `undrain`: what an operator asks of a running gateway.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use hyper::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    EX_CONFIG, EX_UNAVAILABLE, File,
    client::{ClientError, Gateway},
    show,
};

/// How often a drain's progress is asked for.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(crate) struct Operator {
    /// The gateway's admin port, http://host:port, if not the configuration's.
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Shows what the gateway does.
pub(crate) fn status(file: &File, operator: &Operator, limit: usize) -> ExitCode {
    run(file, operator, async |gateway| {
        let page = gateway.ask(Method::GET, &format!("/admin/v1/status?limit={limit}")).await?;
        print(operator, &page, show::status);
        Ok(ExitCode::SUCCESS)
    })
}

/// Begins to drain a server; with `wait`, returns when it is drained or after so many seconds.
pub(crate) fn drain(file: &File, operator: &Operator, server: &str, wait: Option<u64>) -> ExitCode {
    run(file, operator, async |gateway| {
        let mut row = gateway.ask(Method::POST, &path("drain", server)).await?;
        let Some(seconds) = wait else {
            print(operator, &row, show::server);
            return Ok(ExitCode::SUCCESS);
        };
        let first = row.clone();
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut last = String::new();
        while !is_over(&row) {
            let now = show::progress(&row);
            if !operator.json && now != last {
                println!("{now}");
            }
            last = now;
            if Instant::now() >= deadline {
                eprintln!("{server} is not drained after {seconds} s; it goes on draining");
                return Ok(EX_UNAVAILABLE.into());
            }
            sleep(LOOK).await;
            row = match gateway.ask(Method::GET, &path("servers", server)).await {
                // A process is gone when it is drained.
                Err(ClientError::Refused { status: 404, .. }) => gone(&row),
                row => row?,
            };
            // Its user was back before we looked.
            if row["pid"] != first["pid"] {
                row = gone(&row);
            }
        }
        print(operator, &row, show::progress);
        Ok(ExitCode::SUCCESS)
    })
}

/// Takes a server into use again.
pub(crate) fn undrain(file: &File, operator: &Operator, server: &str) -> ExitCode {
    run(file, operator, async |gateway| {
        let row = gateway.ask(Method::POST, &path("undrain", server)).await?;
        print(operator, &row, show::server);
        Ok(ExitCode::SUCCESS)
    })
}

/// Whether nothing uses it any more. One that went down meanwhile is over too.
fn is_over(row: &Value) -> bool {
    row["state"] != "draining" && row["state"] != "stopping"
}

/// Where to ask for something about a server, whose name may hold what a path may not.
fn path(what: &str, server: &str) -> String {
    let mut path = format!("/admin/v1/{what}/");
    for byte in server.bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() || b"-._~/:@+".contains(&b) => path.push(b.into()),
            b => path.push_str(&format!("%{b:02X}")),
        }
    }
    path
}

/// The row of a process that is no more.
fn gone(row: &Value) -> Value {
    let mut row = row.clone();
    for key in ["connections", "users", "sessions", "turns"] {
        row[key] = 0.into();
    }
    row["state"] = "drained".into();
    row
}

fn print(operator: &Operator, page: &Value, show: impl Fn(&Value) -> String) {
    if operator.json {
        println!("{page}");
    } else {
        println!("{}", show(page));
    }
}

fn run(
    file: &File,
    operator: &Operator,
    command: impl AsyncFnOnce(&Gateway) -> Result<ExitCode, ClientError>,
) -> ExitCode {
    let config = match file.load() {
        Ok(config) => config,
        Err(errors) => {
            eprint!("{errors}");
            return EX_CONFIG.into();
        }
    };
    let done = Gateway::find(&config, operator.admin.as_deref()).and_then(|gateway| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let unreachable =
            |e: std::io::Error| ClientError::Unreachable { address: String::new(), cause: e.to_string() };
        runtime.map_err(unreachable)?.block_on(command(&gateway))
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        EX_UNAVAILABLE.into()
    })
}
