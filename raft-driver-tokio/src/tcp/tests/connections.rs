//! Connections come and go, and messages arrive.

use super::*;

#[tokio::test]
async fn messages_arrive_as_they_were_sent() {
    let mut side = side(config()).await;
    let (mut stream, verdict) = connect(&side, &hello()).await;
    assert_eq!(verdict.unwrap().node, node(1));
    let sent = [append(2, 1, &["a", "b"]), append(2, 1, &[]), append(2, 1, &["c"])];
    let bytes: Vec<u8> = sent.iter().flat_map(message_frame).collect();
    // In pieces that respect no boundary.
    for piece in bytes.chunks(7) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
    }
    for message in sent {
        assert_eq!(side.message().await, message);
    }
    assert_eq!((side.stats)().messages_received, 3);
}

#[tokio::test]
async fn a_newer_connection_of_a_peer_replaces_the_older() {
    let mut side = side(config()).await;
    let (mut older, _) = connect(&side, &hello()).await;
    let (mut newer, _) = connect(&side, &hello()).await;
    closed(&mut older).await;
    newer.write_all(&message_frame(&append(2, 1, &["new"]))).await.unwrap();
    assert_eq!(side.message().await, append(2, 1, &["new"]));
}

#[tokio::test]
async fn a_message_is_sent_and_sent_again_after_the_peer_was_away() {
    let mut side = side(config()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    side.peers(&[(1, side.address.clone()), (2, peer.local_addr().unwrap().to_string())]);
    for round in 0..3 {
        let (control, mut stream, said) = accepted(&peer).await;
        assert_eq!((said.from.node, said.to, said.address), (node(1), node(2), side.address.clone()));
        // The sender learns of the connection a little later, and drops what came before: so once more each time.
        let mut reader = FrameReader::new(&mut stream, 1 << 20);
        let received = loop {
            side.sender.send(append(1, 2, &["again"]));
            if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), reader.next()).await {
                break frame.unwrap();
            }
        };
        assert_eq!(unframed(received), append(1, 2, &["again"]));
        drop((control, stream));
        // Told when a connection is lost, and when it is there again after that: what came between was dropped.
        for _ in 0..if round == 0 { 2 } else { 4 } {
            let told = async {
                while !matches!(side.incoming.recv().await.unwrap(), Incoming::Unreachable(peer) if peer == node(2))
                {
                }
            };
            within(told).await;
        }
        assert_eq!((side.stats)().disconnects, 2 * (round + 1));
    }
    side.sender.send(append(1, 9, &["nobody"]));
    assert!((side.stats)().messages_dropped > 0);
}

#[tokio::test]
async fn a_node_without_members_answers_who_speaks_to_it() {
    let mut side = side(config()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    let hello = Hello { address: peer.local_addr().unwrap().to_string(), ..hello() };
    let (_stream, verdict) = connect(&side, &hello).await;
    assert!(verdict.is_ok());
    side.sender.send(append(1, 2, &["answer"]));
    let (mut stream, _) = within(peer.accept()).await.unwrap();
    let said = Hello::decode(&within(FrameReader::new(&mut stream, 1 << 20).next()).await.unwrap()).unwrap();
    assert_eq!(said.to, node(2));
}

/// It joins, listens on all addresses of its host, and moves before anybody here has heard of its membership.
#[tokio::test]
async fn a_stranger_is_answered_where_it_is_now() {
    let mut side = side(config()).await;
    let speak = |peer: &TcpListener| {
        // As a node says it that listens on all addresses.
        let address = format!("0.0.0.0:{}", peer.local_addr().unwrap().port());
        Hello { address, ..hello() }
    };
    let here = TcpListener::bind(LOOPBACK).await.unwrap();
    let (_spoken, verdict) = connect(&side, &speak(&here)).await;
    assert!(verdict.is_ok());
    side.sender.send(append(1, 2, &["answer"]));
    let (control, bulk, _) = accepted(&here).await;
    // The connections of before stand, until it says that it is elsewhere.
    let there = TcpListener::bind(LOOPBACK).await.unwrap();
    let (_spoken, verdict) = connect(&side, &speak(&there)).await;
    assert!(verdict.is_ok());
    let (_control, mut stream, _) = accepted(&there).await;
    for mut before in [control, bulk] {
        let mut rest = Vec::new();
        // What was said before, and the end.
        let _ = within(before.read_to_end(&mut rest)).await;
    }
    let mut reader = FrameReader::new(&mut stream, 1 << 20);
    let answer = loop {
        // The sender learns of the connection a little later.
        side.sender.send(append(1, 2, &["answer"]));
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), reader.next()).await {
            break frame.unwrap();
        }
    };
    assert_eq!(unframed(answer), append(1, 2, &["answer"]));
}

/// A leader that was added while this node was away is none of those that it knows (§6).
#[tokio::test]
async fn a_node_answers_members_that_it_has_not_heard_of_as_long_as_they_speak() {
    let mut side = side(config()).await;
    let member = TcpListener::bind(LOOPBACK).await.unwrap();
    let set = [(1, side.address.clone()), (3, member.local_addr().unwrap().to_string())];
    side.peers(&set);
    let stranger = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    side.sender.send(append(1, 2, &["who is that"]));
    assert_eq!((side.stats)().messages_dropped, 1, "it never spoke");
    let (mut spoken, verdict) = connect(&side, &Hello { address: address.clone(), ..hello() }).await;
    assert!(verdict.is_ok());
    spoken.write_all(&message_frame(&append(2, 1, &["I lead"]))).await.unwrap();
    assert_eq!(side.message().await, append(2, 1, &["I lead"]));
    side.sender.send(append(1, 2, &["yes"]));
    let (control, mut stream, _) = accepted(&stranger).await;
    let mut reader = FrameReader::new(&mut stream, 1 << 20);
    let answer = loop {
        // The sender learns of the connection a little later.
        side.sender.send(append(1, 2, &["yes"]));
        if let Ok(frame) = tokio::time::timeout(Duration::from_millis(20), reader.next()).await {
            break frame.unwrap();
        }
    };
    assert_eq!(unframed(answer), append(1, 2, &["yes"]));

    // Other members change nothing about that, nor does becoming one.
    side.peers(&set[..1]);
    side.peers(&[set[0].clone(), (2, address)]);
    side.sender.send(append(1, 2, &["still"]));
    let mut reader = FrameReader::new(&mut stream, 1 << 20);
    let answer = within(reader.next()).await.unwrap();
    assert_eq!(unframed(answer), append(1, 2, &["still"]));
    // Once it left, the connection ends, though it still speaks.
    side.peers(&set[..1]);
    closed(&mut stream).await;
    drop(control);

    // An answer is still due, and once it is silent it is not looked for any more.
    side.sender.send(append(1, 2, &["goodbye"]));
    let (control, mut stream, _) = accepted(&stranger).await;
    let mut reader = FrameReader::new(&mut stream, 1 << 20);
    within(reader.next()).await.unwrap();
    drop(spoken);
    let stats = Arc::clone(&side.stats);
    within(async {
        while stats().inbound_closed == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop((control, stream, stranger));
    let lost = async {
        while !matches!(side.incoming.recv().await.unwrap(), Incoming::Unreachable(peer) if peer == node(2)) {
        }
    };
    within(lost).await;
    let dropped = stats().messages_dropped;
    within(async {
        while stats().messages_dropped == dropped {
            side.sender.send(append(1, 2, &["anybody?"]));
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(stats().connect_failures, 0, "nobody looked for it again");
}

#[tokio::test]
async fn stopping_closes_everything() {
    let mut side = side(config()).await;
    let (mut stream, _) = connect(&side, &hello()).await;
    side.peers(&[(2, "127.0.0.1:1".to_owned())]);
    within(side.stop).await;
    closed(&mut stream).await;
    drop(side.sender);
    assert!(TcpStream::connect(&side.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_port_in_use_and_a_bad_configuration_are_told() {
    let taken = Tcp::bind(LOOPBACK, config()).await.unwrap();
    let address = taken.local_addr().to_string();
    let error = Tcp::bind(&address, config()).await.expect_err("in use");
    assert!(matches!(&error, TcpError::Bind { address: told, .. } if *told == address), "{error}");
    let mut bad = config();
    bad.queue_messages_max = 0;
    assert!(matches!(Tcp::bind(LOOPBACK, bad).await, Err(TcpError::Config(_))));
    for nowhere in ["0.0.0.0:7101", "[::]:7101", "[::ffff:0.0.0.0]:7101"] {
        let bad = TcpConfig { advertise: Some(nowhere.to_owned()), ..config() };
        assert!(matches!(Tcp::bind(LOOPBACK, bad).await, Err(TcpError::Config(_))), "{nowhere}");
    }
}

/// A name with two addresses, behind the first of which another node answers.
#[tokio::test]
async fn a_wrong_server_behind_one_address_does_not_hide_the_right_one_behind_the_next() {
    let wrong = side_of(3, config()).await;
    let right = side_of(1, config()).await;
    let found: Vec<std::net::SocketAddr> =
        vec![wrong.address.parse().unwrap(), right.address.parse().unwrap()];
    let resolver = crate::tcp::Resolver::new(move |_| {
        let found = found.clone();
        async move { Ok(found) }
    });
    let mut two = side_of(2, TcpConfig { resolver, ..config() }).await;
    two.peers(&[(1, "name:1".to_owned())]);
    for _ in 0..100 {
        if (two.stats)().connects > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{:?}", (two.stats)());
}
