//! One message in and its answer out: through the core alone, and over a real socket with the server in the
//! same thread.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench may fail loudly, and its entry points are made by a macro"
)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use udsmsg::parts::{AuthToken, ConnKey, Mono, Now};
use udsmsg::{Batch, Endpoint, Limits, PeerIdentity, Wall};

const IN_FLIGHT: usize = 64;

/// A message as it is usually sent: about 330 bytes.
fn line(auth_token: &AuthToken) -> Vec<u8> {
    format!(
        "{{\"type\":\"text\",\"data\":\"{}\",\"from\":\"/tmp/claude-code-socks/1234-0123/messaging.sock\",\
         \"ts\":\"2026-11-22T10:00:00.000Z\",\"meta\":{{\"authToken\":\"{}\"}}}}\n",
        "lorem ipsum ".repeat(8),
        auth_token.expose()
    )
    .into_bytes()
}

/// The core with one client; what a turn of a host does, without a system call.
struct Core {
    endpoint: Endpoint,
    key: ConnKey,
    now: u64,
    batch: Batch,
}

impl Core {
    fn new(auth_token: AuthToken) -> Self {
        let mut endpoint = Endpoint::new("/tmp/bench/messaging.sock", auth_token, Limits::default()).unwrap();
        let peer = PeerIdentity::unix(1000, Some(1));
        let key = endpoint.accepted(peer, Now::default()).unwrap();
        while endpoint.next_step().is_some() {}
        Self { endpoint, key, now: 0, batch: Batch::new() }
    }

    /// Takes `bytes` in, and turns until nothing is left over; returns how many messages were drained.
    fn turns(&mut self, mut bytes: &[u8]) -> usize {
        let mut drained = 0;
        while !bytes.is_empty() || self.endpoint.has_work() {
            drained += self.turn(&mut bytes);
        }
        drained
    }

    /// Reads once what there is room for, and returns how many messages were drained.
    fn turn(&mut self, bytes: &mut &[u8]) -> usize {
        // A microsecond a turn: the time stamp is formatted as often as it would be.
        self.now += 1_000;
        let now = Now { mono: Mono::from_nanos(self.now), wall: Wall::from_millis(self.now / 1_000_000) };
        self.endpoint.work(now);
        if let Some(mut space) = self.endpoint.recv_space(self.key, now) {
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            space.received(n);
            *bytes = &bytes[n..];
        }
        while let Some((key, _)) = self.endpoint.next_step() {
            let n = black_box(self.endpoint.output(key)).len();
            self.endpoint.sent(key, n, now);
        }
        self.endpoint.deadlines_reached(now);
        self.endpoint.turn_ended();
        black_box(self.endpoint.next_deadline());
        self.endpoint.drain_into(&mut self.batch)
    }
}

fn core(criterion: &mut Criterion) {
    let auth_token = AuthToken::from_bytes([7; 32]);
    let line = line(&auth_token);
    let mut group = criterion.benchmark_group("endpoint");
    for in_flight in [1, IN_FLIGHT] {
        let bytes = line.repeat(in_flight);
        let mut core = Core::new(auth_token.clone());
        group.throughput(Throughput::Elements(in_flight as u64));
        group.bench_function(format!("{in_flight} in flight"), |bencher| {
            bencher.iter(|| assert_eq!(core.turns(black_box(&bytes)), in_flight));
        });
    }
    group.finish();
}

#[cfg(all(unix, feature = "server"))]
fn socket(criterion: &mut Criterion) {
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::net::UnixStream;

    use udsmsg::os::CapabilityDir;
    use udsmsg::{Environment, Namespace, Server};

    let dir = tempfile::tempdir().unwrap();
    let environment = Environment::from_pairs([("CLAUDE_CONFIG_DIR", dir.path()), ("TMPDIR", dir.path())]);
    let mut server = Server::builder().environment(environment.clone()).start().unwrap();
    let capabilities = CapabilityDir::of(&Namespace::default(), &environment).unwrap();
    let auth_token = capabilities.read(server.address()).unwrap().auth_token;
    let line = line(&auth_token);
    let mut stream = UnixStream::connect(server.address().path()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut batch = Batch::new();
    let mut answers = vec![0; 1 << 16];

    let mut group = criterion.benchmark_group("socket");
    for in_flight in [1, IN_FLIGHT] {
        let bytes = line.repeat(in_flight);
        group.throughput(Throughput::Elements(in_flight as u64));
        group.bench_function(format!("{in_flight} in flight"), |bencher| {
            bencher.iter(|| {
                stream.write_all(&bytes).unwrap();
                let (mut drained, mut answered) = (0, 0);
                while drained < in_flight || answered < in_flight {
                    let _ = server.turn(Some(Duration::from_millis(100))).unwrap();
                    drained += server.drain_into(&mut batch);
                    match stream.read(&mut answers) {
                        Ok(n) => answered += answers[..n].iter().filter(|byte| **byte == b'\n').count(),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    }
                }
            });
        });
    }
    group.finish();
}

#[cfg(not(all(unix, feature = "server")))]
fn socket(_: &mut Criterion) {}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots();
    targets = core, socket
}
criterion_main!(benches);
