//! The fault proxy between a client and an echo server: one test for each fault.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jetway_loadtest::faults::{self, Fault, FaultProxy, Way};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Long enough for anything on loopback on a busy machine.
const SOON: Duration = Duration::from_secs(5);
/// Long enough to believe that nothing comes.
const NEVER: Duration = Duration::from_millis(150);

/// A server that returns what it gets, and closes when the client has.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    addr
}

async fn proxied() -> (FaultProxy, TcpStream) {
    let proxy = FaultProxy::start(echo().await).await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(trip(&mut client, "hi").await.unwrap(), "hi");
    (proxy, client)
}

async fn trip(client: &mut TcpStream, text: &str) -> std::io::Result<String> {
    client.write_all(text.as_bytes()).await?;
    receive(client, text.len()).await
}

async fn receive(client: &mut TcpStream, len: usize) -> std::io::Result<String> {
    let mut bytes = vec![0; len];
    timeout(SOON, client.read_exact(&mut bytes)).await.expect("an answer in time")?;
    Ok(String::from_utf8(bytes).unwrap())
}

async fn assert_silent(client: &mut TcpStream) {
    let read = timeout(NEVER, client.read_u8()).await;
    assert!(read.is_err(), "{read:?} instead of silence");
}

#[tokio::test]
async fn a_healthy_proxy_is_transparent() {
    let (proxy, client) = proxied().await;
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut read, mut write) = client.into_split();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    timeout(SOON, read.read_to_end(&mut received)).await.expect("the end in time").unwrap();
    writer.await.unwrap();
    assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
    let status = proxy.status();
    assert_eq!((status.accepted, status.up, status.down), (1, 3_000_002, 3_000_002));
}

#[tokio::test]
async fn pause_holds_and_loses_nothing() {
    for way in [Way::Up, Way::Down, Way::Both] {
        let (proxy, mut client) = proxied().await;
        proxy.set(Fault::Pause(way)).await;
        client.write_all(b"later").await.unwrap();
        assert_silent(&mut client).await;
        proxy.set(Fault::Heal).await;
        assert_eq!(receive(&mut client, 5).await.unwrap(), "later");
    }
}

#[tokio::test]
async fn drop_swallows_for_good() {
    for way in [Way::Up, Way::Down] {
        let (proxy, mut client) = proxied().await;
        proxy.set(Fault::Drop(way)).await;
        client.write_all(b"lost").await.unwrap();
        assert_silent(&mut client).await;
        proxy.set(Fault::Heal).await;
        assert_eq!(trip(&mut client, "kept").await.unwrap(), "kept");
    }
}

#[tokio::test]
async fn delay_adds_latency_only() {
    let (proxy, mut client) = proxied().await;
    proxy.set(Fault::Delay(Way::Up, Duration::from_millis(200))).await;
    let started = Instant::now();
    for chunk in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"] {
        client.write_all(chunk.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(receive(&mut client, 10).await.unwrap(), "abcdefghij");
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test]
async fn drip_goes_byte_by_byte() {
    let (proxy, mut client) = proxied().await;
    proxy.set(Fault::Drip(Way::Down, Duration::from_millis(20))).await;
    let started = Instant::now();
    assert_eq!(trip(&mut client, "0123456789").await.unwrap(), "0123456789");
    assert!(started.elapsed() >= Duration::from_millis(9 * 20), "{:?}", started.elapsed());
}

#[tokio::test]
async fn cut_is_an_orderly_end_and_reset_is_not() {
    let (proxy, mut client) = proxied().await;
    proxy.set(Fault::Cut).await;
    let mut end = [0];
    assert_eq!(timeout(SOON, client.read(&mut end)).await.unwrap().unwrap(), 0);

    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    assert_eq!(trip(&mut client, "new").await.unwrap(), "new");
    proxy.set(Fault::Reset).await;
    let error = timeout(SOON, client.read(&mut end)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_target_passes_through() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap().to_string()).await.unwrap();
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    server.set_zero_linger().unwrap();
    drop(server);
    let error = timeout(SOON, client.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn refuse_is_what_a_dead_program_does() {
    let (proxy, mut client) = proxied().await;
    for _ in 0..3 {
        proxy.set(Fault::Refuse).await;
        let error = TcpStream::connect(proxy.addr()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(trip(&mut client, "old").await.unwrap(), "old");
        proxy.set(Fault::Heal).await;
        let mut new = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(trip(&mut new, "new").await.unwrap(), "new");
    }
}

#[tokio::test]
async fn commands_work_one_per_line() {
    let (proxy, mut client) = proxied().await;
    let proxy = Arc::new(proxy);
    let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let control_addr = control.local_addr().unwrap();
    let serving = tokio::spawn(faults::serve_control(control, proxy.clone()));
    let mut controller = BufReader::new(TcpStream::connect(control_addr).await.unwrap());
    for (command, answer) in [
        ("status", "ok accepted=1 open=1 up=2 down=2"),
        ("pause up", "ok"),
        ("drop both", "ok"),
        ("delay 5 down", "ok"),
        ("delay five", "error: not a number of milliseconds: five"),
        ("explode", "error: unknown command: explode"),
        ("heal", "ok"),
    ] {
        controller.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let mut line = String::new();
        timeout(SOON, controller.read_line(&mut line)).await.expect(command).unwrap();
        assert_eq!(line.trim_end(), answer);
    }
    assert_eq!(trip(&mut client, "fine").await.unwrap(), "fine");
    serving.abort();
}
