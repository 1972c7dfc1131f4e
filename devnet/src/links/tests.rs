//! What a link does to those who talk over it.

use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// Answers everything with itself.
async fn echo() -> Address {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.into_split();
                tokio::io::copy(&mut from, &mut to).await.ok();
            });
        }
    });
    address
}

/// Says one letter and stops talking.
async fn greeter(letter: u8) -> Address {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(&[letter]).await.unwrap();
            kept.push(stream);
        }
    });
    address
}

async fn dial(link: &Link) -> Box<dyn Stream> {
    timeout(SOON, connect(link.at())).await.unwrap().unwrap()
}

async fn say(stream: &mut Box<dyn Stream>, what: &[u8]) {
    timeout(SOON, stream.write_all(what)).await.unwrap().unwrap();
}

async fn hear(stream: &mut Box<dyn Stream>, length: usize) -> Vec<u8> {
    let mut heard = vec![0; length];
    timeout(SOON, stream.read_exact(&mut heard)).await.unwrap().unwrap();
    heard
}

/// Whether the stream ends, rather than say something.
async fn ends(stream: &mut Box<dyn Stream>) -> bool {
    !matches!(timeout(SOON, stream.read(&mut [0])).await.unwrap(), Ok(1))
}

#[tokio::test]
async fn a_link_carries_everything_both_ways_over_a_port_and_over_a_socket_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = Address::Unix(directory.path().join("link.sock"));
    let content: Vec<u8> = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    for at in [Address::ANY, file] {
        let link = Link::open(&at, Some(echo().await)).await.unwrap();
        let (mut from, mut to) = split(dial(&link).await);
        let said = content.clone();
        let saying = tokio::spawn(async move {
            to.write_all(&said).await.unwrap();
            to.shutdown().await.unwrap();
        });

        let mut heard = Vec::new();
        timeout(SOON, from.read_to_end(&mut heard)).await.unwrap().unwrap();

        saying.await.unwrap();
        assert!(heard == content, "{} of {} bytes", heard.len(), content.len());
    }
}

#[tokio::test]
async fn a_cut_ends_what_there_is_and_lets_nobody_through_until_it_is_mended() {
    let link = Link::open(&Address::ANY, Some(echo().await)).await.unwrap();
    let mut stream = dial(&link).await;
    say(&mut stream, b"a").await;
    assert_eq!(hear(&mut stream, 1).await, b"a");

    link.set(Condition::Cut);
    assert!(ends(&mut stream).await);
    assert!(ends(&mut dial(&link).await).await);

    link.set(Condition::Whole);
    let mut stream = dial(&link).await;
    say(&mut stream, b"b").await;
    assert_eq!(hear(&mut stream, 1).await, b"b");
}

#[tokio::test]
async fn what_goes_over_a_slow_link_comes_in_order_and_late() {
    let link = Link::open(&Address::ANY, Some(echo().await)).await.unwrap();
    let mut stream = dial(&link).await;
    let slow = Duration::from_millis(150);
    link.set(Condition::Slow(slow));
    let begun = Instant::now();
    say(&mut stream, b"first").await;
    assert_eq!(hear(&mut stream, 5).await, b"first");
    // Both directions are slow.
    assert!(begun.elapsed() >= 2 * slow, "{:?}", begun.elapsed());

    // What waits behind an hour goes on when the link is mended, and before what comes then.
    link.set(Condition::Slow(Duration::from_secs(3_600)));
    say(&mut stream, b"second").await;
    link.set(Condition::Whole);
    say(&mut stream, b"third").await;
    assert_eq!(hear(&mut stream, 11).await, b"secondthird");
}

#[tokio::test]
async fn a_link_that_is_led_elsewhere_ends_what_it_carried_and_stays_where_it_is() {
    let (one, two) = (greeter(b'1').await, greeter(b'2').await);
    let link = Link::open(&Address::ANY, None).await.unwrap();
    assert!(ends(&mut dial(&link).await).await, "nobody is behind it");
    link.lead_to(Some(one.clone()));
    let mut stream = dial(&link).await;
    assert_eq!(hear(&mut stream, 1).await, b"1");

    // The same again changes nothing.
    link.lead_to(Some(one));
    let mut second = dial(&link).await;
    assert_eq!(hear(&mut second, 1).await, b"1");
    link.lead_to(Some(two));

    assert!(ends(&mut stream).await && ends(&mut second).await);
    assert_eq!(hear(&mut dial(&link).await, 1).await, b"2");
}
