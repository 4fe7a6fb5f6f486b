//! Many clients at once on a real server.

use std::collections::BTreeMap;

use udsmsg::{Address, Client, Namespace, Outgoing, SendOutcome};

use crate::util::real::{PATIENCE, Real};
use crate::util::{text, watchdog};

const CLIENTS: usize = 50;
const EACH: usize = 20;

fn id_in(answer: &str) -> String {
    let (_, id) = answer.split_once(r#""id":""#).unwrap_or_else(|| panic!("no id: {answer}"));
    id.split_once('"').unwrap().0.to_owned()
}

/// The answers to all clients must match the inbox, each message exactly once.
fn compare(real: &Real, told: Vec<(String, String)>) {
    assert_eq!(told.len(), CLIENTS * EACH);
    let told: BTreeMap<String, String> = told.into_iter().collect();
    assert_eq!(told.len(), CLIENTS * EACH, "no id was given twice");
    let found: Vec<(String, String)> = real.with(|server| {
        let batch = server.drain();
        let data =
            |entry: &udsmsg::InboxEntry<'_>| entry.message().data().unwrap().text().unwrap().into_owned();
        batch.iter().map(|entry| (entry.id().to_string(), data(&entry))).collect()
    });
    assert_eq!(found.len(), CLIENTS * EACH);
    for (number, (id, _)) in found.iter().enumerate() {
        assert_eq!(*id, format!("uds-{}", number + 1));
    }
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), told);
}

#[test]
fn a_thousand_messages_from_fifty_connections_arrive_exactly_once() {
    let _watchdog = watchdog::watch("a_thousand_messages_from_fifty_connections");
    for _ in 0..crate::util::scale() {
        let real = Real::start(|_| ());
        let told = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let mut peer = real.connect();
                    scope.spawn(move || {
                        let data = |n: usize| format!("{client}/{n}");
                        let lines: Vec<u8> = (0..EACH).flat_map(|n| text(&data(n))).collect();
                        peer.send(&lines);
                        (0..EACH).map(|n| (id_in(&peer.line().unwrap()), data(n))).collect::<Vec<_>>()
                    })
                })
                .collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        compare(&real, told);
    }
}

#[test]
fn a_thousand_messages_from_fifty_blocking_clients_arrive_exactly_once() {
    let _watchdog = watchdog::watch("a_thousand_messages_from_fifty_blocking_clients");
    let real = Real::start(|_| ());
    let environment = real.home.environment();
    let address = Address::from_path(&real.path).unwrap();
    let told = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (environment, address) = (&environment, &address);
                scope.spawn(move || {
                    let client = Client::in_namespace(&Namespace::default(), environment).unwrap();
                    let mut client = client.with_timeout(PATIENCE);
                    let send = |n: usize| {
                        let data = format!("{number}/{n}");
                        match client.send(address, &Outgoing::new("text").with_text(&data)) {
                            SendOutcome::Accepted { id: Some(id) } => (id, data),
                            other => panic!("{other}"),
                        }
                    };
                    (0..EACH).map(send).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    compare(&real, told);
}
