//! The tests' own network does what it is told, or what is tested with it shows nothing.

use std::time::Duration;

use rowtide_tests::proxy::{Direction, Flow, Proxy, Upstream};
use rowtide_tests::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// A server that sends every byte back with `add` added, and its own end when the client has ended.
async fn echo(add: u8) -> Upstream {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = vec![0; 1024];
                while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                    bytes[..count].iter_mut().for_each(|byte| *byte += add);
                    if stream.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    Upstream::Tcp(address)
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address()).await.unwrap()
}

/// What comes back for one byte; `None` if nothing does, or the connection is gone.
async fn ask(stream: &mut TcpStream, byte: u8) -> Option<u8> {
    stream.write_u8(byte).await.ok()?;
    timeout(PATIENCE, stream.read_u8()).await.expect("an answer or an end").ok()
}

async fn nothing_comes(stream: &mut TcpStream) {
    // What must not come cannot be waited for, but for a moment.
    assert!(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err());
}

#[tokio::test]
async fn it_passes_on_what_it_is_given_and_can_be_led_elsewhere() {
    let proxy = Proxy::start(echo(1).await).await;
    let mut first = connect(&proxy).await;
    assert_eq!(ask(&mut first, 1).await, Some(2));
    proxy.lead_to(echo(2).await);
    let mut second = connect(&proxy).await;
    assert_eq!(ask(&mut second, 1).await, Some(3));
    assert_eq!(ask(&mut first, 1).await, Some(2), "it stays where it is");
    drop(first);
    eventually("it is forgotten", || async { (proxy.connections() == 1).then_some(()) }).await;
}

#[tokio::test]
async fn what_is_stalled_comes_later_and_what_is_stranded_never() {
    let proxy = Proxy::start(echo(0).await).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 1).await, Some(1));
    for direction in [Direction::ToServer, Direction::ToClient] {
        proxy.flow(direction, Flow::Stalled);
        stream.write_u8(2).await.unwrap();
        nothing_comes(&mut stream).await;
        proxy.heal();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
    }
    proxy.strand();
    proxy.heal();
    stream.write_u8(3).await.unwrap();
    nothing_comes(&mut stream).await;
    let mut other = connect(&proxy).await;
    assert_eq!(ask(&mut other, 4).await, Some(4));
    proxy.cut();
    assert!(stream.read_u8().await.is_err());
}

#[tokio::test]
async fn a_sender_whose_bytes_are_held_back_is_held_up() {
    let proxy = Proxy::start(echo(0).await).await;
    let mut stream = connect(&proxy).await;
    proxy.flow(Direction::ToServer, Flow::Stalled);
    let many = vec![7; 64 << 20];
    let written = stream.write_all(&many);
    assert!(timeout(Duration::from_millis(500), written).await.is_err(), "64 MiB are held");
}

#[tokio::test]
async fn delay_and_drip_keep_every_byte_in_order() {
    let proxy = Proxy::start(echo(0).await).await;
    let mut stream = connect(&proxy).await;
    let sent: Vec<u8> = (0..200).collect();
    let every = Duration::from_millis(1);
    for flow in [Flow::Delayed(Duration::from_millis(30)), Flow::Drip { bytes: 3, every }] {
        proxy.flow(Direction::ToServer, flow);
        let begun = Instant::now();
        stream.write_all(&sent).await.unwrap();
        let mut heard = vec![0; sent.len()];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, sent);
        // Slower than this it may be, but not faster.
        assert!(begun.elapsed() >= Duration::from_millis(30), "{flow:?}");
    }
}

#[tokio::test]
async fn a_cut_ends_both_sides_and_a_half_close_one_direction() {
    let proxy = Proxy::start(echo(0).await).await;
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 1).await, Some(1));
    proxy.cut();
    assert!(stream.read_u8().await.is_err());

    // The server is told that the client has ended, while the client can still write.
    let mut stream = connect(&proxy).await;
    assert_eq!(ask(&mut stream, 1).await, Some(1));
    proxy.half_close(Direction::ToServer);
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the server has ended, too");
    stream.write_u8(1).await.unwrap();

    proxy.refuse(true);
    let mut refused = connect(&proxy).await;
    assert_eq!(ask(&mut refused, 1).await, None);
    proxy.heal();
    let mut taken = connect(&proxy).await;
    assert_eq!(ask(&mut taken, 1).await, Some(1));
}
