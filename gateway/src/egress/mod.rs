//! The way out of sandboxed CLI servers: a proxy of HTTP, inside each sandbox, that connects to what [`judge`] allows.

mod head;
mod judge;
mod upstream;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jetway_config::{Identity, net::HttpUrl, stores::Redis};
use jetway_pool::sandbox::{Outside, Serving};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tracing::debug;

use self::{
    head::{Asked, Malformed},
    judge::{Judge, Refused},
    upstream::Upstream,
};
use crate::{
    auth::Rules,
    metrics,
    policy::{
        Resolve, System,
        address::{Host, Target},
    },
};

/// Connections out of one sandbox at a time; who wants more waits.
const CONNECTIONS: usize = 256;
/// How long a process may take to say what it wants, and a machine to be connected to.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks for connections where the host has no descriptors left.
const PAUSE: Duration = Duration::from_millis(100);

/// The way out of all sandboxes of a gateway.
pub(crate) struct Exit {
    judge: Judge,
    upstream: Option<Upstream>,
}

impl Exit {
    /// For a gateway whose own ports are `own`, and which reaches public addresses by the proxy at `upstream`.
    pub(crate) fn new(
        rules: Arc<ArcSwap<Rules>>,
        redis: &Redis,
        own: Vec<u16>,
        upstream: Option<&HttpUrl>,
    ) -> Arc<Self> {
        let upstream = upstream.and_then(|url| Upstream::at(url.as_str()));
        Arc::new(Self { judge: Judge::new(rules, redis, own), upstream })
    }

    /// Lets processes of `who` reach `target` on this machine's loopback, which an accepted call of theirs names.
    pub(crate) fn accept(&self, who: &Identity, target: Target) {
        self.judge.accept(who, target);
    }

    async fn serve_one(&self, who: &Identity, mut client: TcpStream) -> io::Result<()> {
        let Ok(asked) = timeout(PATIENCE, ask(&mut client)).await else { return Ok(()) };
        let Some((asked, rest)) = asked? else {
            metrics::egress("malformed");
            return answer(&mut client, 400, "expected a request to a proxy").await;
        };
        let mut server = match self.connect(who, &asked.target).await {
            Ok(server) => server,
            Err(NoWay::Refused(refused)) => {
                metrics::egress(refused.as_str());
                debug!(tenant = %who.tenant, user = %who.user, why = refused.as_str(), "connection out refused");
                return answer(&mut client, 403, refused.told()).await;
            }
            Err(NoWay::Unreachable(error)) => {
                metrics::egress("unreachable");
                return answer(&mut client, 502, &error.kind().to_string()).await;
            }
        };
        metrics::egress("connected");
        match &asked.forward {
            Some(head) => server.write_all(head).await?,
            None => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?,
        }
        server.write_all(&rest).await?;
        copy_bidirectional(&mut client, &mut server).await.map(drop)
    }

    async fn connect(&self, who: &Identity, target: &Target) -> Result<TcpStream, NoWay> {
        let addresses = match &target.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => System.resolve(name).await,
        };
        if let Some(upstream) = &self.upstream
            && self.judge.is_far(who, target, &addresses)?
        {
            let connected = timeout(PATIENCE, upstream.connect(target)).await;
            return match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => Ok(prompt(stream)),
                Err(error) => Err(NoWay::Unreachable(error)),
            };
        }
        let mut why = NoWay::Refused(Refused::Unresolved);
        for ip in addresses {
            if let Err(refused) = self.judge.allows(who, target, ip) {
                why = NoWay::Refused(refused);
                continue;
            }
            // The address that was judged: the name is not asked for again.
            let connected = timeout(PATIENCE, TcpStream::connect(SocketAddr::new(ip, target.port))).await;
            match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(stream) => return Ok(prompt(stream)),
                Err(error) => why = NoWay::Unreachable(error),
            }
        }
        Err(why)
    }
}

impl Outside for Exit {
    fn serve(self: Arc<Self>, who: Identity, listener: TcpListener) -> Serving {
        Box::pin(async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS));
            let mut connections = JoinSet::new();
            while let Ok(place) = places.clone().acquire_owned().await {
                match listener.accept().await {
                    Ok((client, _)) => {
                        let (exit, who) = (self.clone(), who.clone());
                        connections.spawn(async move {
                            let _place = place;
                            let _ = client.set_nodelay(true);
                            // Either end may go at any time.
                            let _ = exit.serve_one(&who, client).await;
                        });
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                }
                while connections.try_join_next().is_some() {}
            }
        })
    }

    fn no_proxy(&self) -> &'static str {
        if !self.judge.live().auth.anonymous { "localhost,127.0.0.1,::1" } else { "" }
    }

    fn directories(&self, who: &Identity) -> Vec<PathBuf> {
        self.judge
            .live()
            .tenants
            .get(&who.tenant)
            .policy
            .allow_paths
            .iter()
            .map(|path| path.as_str().into())
            .collect()
    }
}

enum NoWay {
    Refused(Refused),
    Unreachable(io::Error),
}

impl From<Refused> for NoWay {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// It relays in small pieces what others wrote in small pieces.
fn prompt(stream: TcpStream) -> TcpStream {
    let _ = stream.set_nodelay(true);
    stream
}

/// What the client wants, and what it sent after that; `None` if that is no such request.
async fn ask(client: &mut TcpStream) -> io::Result<Option<(Asked, Vec<u8>)>> {
    let mut bytes = Vec::new();
    loop {
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match head::parse(&bytes) {
            Ok(Some(asked)) => {
                let rest = bytes.split_off(asked.length);
                return Ok(Some((asked, rest)));
            }
            Ok(None) => {}
            Err(Malformed) => return Ok(None),
        }
    }
}

/// Says `why` where a runtime's error messages quote it from: in the status line.
async fn answer(client: &mut TcpStream, status: u16, why: &str) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status} {why}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    client.write_all(head.as_bytes()).await?;
    client.shutdown().await
}
