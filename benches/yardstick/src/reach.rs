//! What is to be reached, figure by figure, and what was reached.

use crate::figures::Figures;
use crate::plot::short;

/// A figure with its targets. Less is better unless `more_is_better`.
struct Row {
    what: &'static str,
    value: fn(&Figures) -> Option<f64>,
    /// Before the work on speed began.
    before: &'static str,
    must: f64,
    aim: f64,
    more_is_better: bool,
    /// Why the aim is missed and what would reach it; printed where it is missed.
    missed: &'static str,
}

const fn row(
    what: &'static str,
    value: fn(&Figures) -> Option<f64>,
    targets: (&'static str, f64, f64),
) -> Row {
    let (before, must, aim) = targets;
    Row { what, value, before, must, aim, more_is_better: false, missed: "" }
}

/// The same with what is printed where its aim is missed.
const fn because(row: Row, missed: &'static str) -> Row {
    Row { missed, ..row }
}

/// `missed` is written by hand, for rows that miss their aim.
const ROWS: &[Row] = &[
    because(
        row(
            "user instructions: ping, one at a time",
            |f| f.get("instructions.ping"),
            ("9,884", 4_000.0, 2_400.0),
        ),
        "a turn of the tool waits twice (`poll(2)` for signals and stdout, then the queue) and reads the clock three times; of what the core does, about 1,300 are the scan, 440 the one `match` and the copies of a `Request`, 430 the next deadline, 410 the look at what a connection wants, made twice. One wait, by the tool lending its `mio::Poll`, and one look would come nearer; the rest is the scan.",
    ),
    because(
        row("text, bursts of 64", |f| f.get("instructions.text-64"), ("5,436", 3_200.0, 2_500.0)),
        "the lines of this bench have 330 bytes: most of it is the scan of each line and the copy into the inbox. A scan that compares the shape of the last line first would reach it, and would be a second way to read a line.",
    ),
    because(
        row("a connection for one text", |f| f.get("instructions.one-shot"), ("37,247", 8_000.0, 4_400.0)),
        "it takes two turns, because its end comes after its answer; each costs what a ping does beside its lines. See there.",
    ),
    because(
        row("a text of 60 KiB", |f| f.get("instructions.large-text"), ("455,137", 200_000.0, 100_000.0)),
        "61,000 are the one copy of the text, which callgrind counts by the byte; the rest is one pass for UTF-8 and one for quotes and control bytes.",
    ),
    row("server CPU ÷ floor: 1 × 64", |f| f.get("floor.1x64.udsmsg.ratio"), ("2.4", 1.7, 1.5)),
    because(
        row("depth 1, sleeping", |f| f.get("floor.depth-1.udsmsg.ratio"), ("1.13", 1.06, 1.03)),
        "the second wait of the tool is one system call more than the floor makes; see ping.",
    ),
    because(
        row("connect, send, close", |f| f.get("floor.one-shot.udsmsg.ratio"), ("1.4", 1.2, 1.12)),
        "the identity of the peer is asked, and the tool waits twice in each of two turns; the floor does neither. One wait would save two system calls.",
    ),
    because(
        row("8 × 32", |f| f.get("floor.8x32.udsmsg.ratio"), ("2.5", 2.4, 2.0)),
        "with several clients ready each gets a budget of 16 lines a turn, and a write of its answers after it; the floor answers a whole burst with one write. A budget of 32 would halve the writes, and make others wait twice as long.",
    ),
    because(
        row("100 × 8", |f| f.get("floor.100x8.udsmsg.ratio"), ("1.7", 1.6, 1.4)),
        "each client has one read and one write a turn here as in the floor; the difference is the work on each line.",
    ),
    because(
        row("pings, 8 × 32", |f| f.get("floor.pings-8x32.udsmsg.ratio"), ("2.6", 2.4, 2.0)),
        "as 8 × 32.",
    ),
    row("60 KiB, 4 × 2", |f| f.get("floor.large-4x2.udsmsg.ratio"), ("3.3–4.6", 3.0, 2.2)),
    Row {
        more_is_better: true,
        missed: "0.33 before messages were gathered. What is left was not taken apart; the outbox of the client, which keeps a deadline and an outcome for each message, is the next place to look.",
        ..row(
            "both ends, 64 in flight: rate ÷ tokio's",
            |f| Some(1.0 / f.get("both-ends.tokio.rate.ratio")?),
            ("0.58", 1.2, 2.0),
        )
    },
    because(
        row(
            "both ends, one-shot: time ÷ tokio's, which looks nothing up",
            |f| Some(1.0 / f.get("both-ends.tokio.one-shot.ratio")?),
            ("1.9", 1.15, 1.0),
        ),
        "the look-up is five system calls and a hash that the peer does not make.",
    ),
    because(
        row(
            "both ends, round trip p50 ÷ tokio's",
            |f| Some(1.0 / f.get("both-ends.tokio.round-trip.ratio")?),
            ("1.09", 1.0, 0.95),
        ),
        "most of it is two wake-ups, and runs differ by a third on a shared machine (1.10 in a run before).",
    ),
    because(
        row("system calls of a one-shot send before `socket`", |f| f.get("one-shot.calls"), ("22", 5.0, 4.0)),
        "open, look, who are we, read, close. Our own number could be remembered, but a process can change it.",
    ),
    row("`Client::new` and its drop, µs", |f| f.get("one-shot.new"), ("21", 3.0, 1.0)),
    row("server wake-ups a message, one every 4 ms", |f| f.get("floor.wakeups.udsmsg"), ("1.67", 1.05, 1.0)),
    row(
        "a quiet client beside 7 flooders, p50 ÷ floor",
        |f| f.get("floor.quiet.udsmsg.ratio"),
        ("4.1", 4.0, 3.0),
    ),
    row("heap allocations a message", |f| f.get("memory.allocations"), ("0", 0.0, 0.0)),
    row("wake-ups in 3 s with nothing to do", |f| f.get("floor.wakeups-idle.udsmsg"), ("0", 0.0, 0.0)),
    because(
        row(
            "resident bytes an idle connection, of 10,000",
            |f| f.get("scale.bytes.10000.udsmsg"),
            ("272", 300.0, 200.0),
        ),
        "what a slot, its stream and two timers hold. Times as 32-bit milliseconds would make it smaller, and less exact.",
    ),
];

impl Row {
    /// Whether `value` is as good as `target`, as both are printed.
    fn reaches(&self, value: f64, target: f64) -> bool {
        let value = (value * 1_000.0).round() / 1_000.0;
        if self.more_is_better { value >= target } else { value <= target }
    }
}

/// The table, and below it why aims are missed.
pub fn table(figures: &Figures) -> String {
    let mut table =
        String::from("| figure | before | must | aim | now | reached |\n|---|---|---|---|---|---|\n");
    let mut reasons = String::new();
    for row in ROWS {
        let value = (row.value)(figures).unwrap_or(f64::NAN);
        let reached = match value {
            v if v.is_nan() => "not measured",
            v if row.reaches(v, row.aim) => "aim",
            v if row.reaches(v, row.must) => "must",
            _ => "**no**",
        };
        let [must, aim, now] = [row.must, row.aim, value].map(short);
        table += &format!("| {} | {} | {must} | {aim} | {now} | {reached} |\n", row.what, row.before);
        if reached != "aim" && !row.missed.is_empty() {
            reasons += &format!("- *{}*: {}\n", row.what, row.missed);
        }
    }
    if !reasons.is_empty() {
        table += &format!("\nWhere the aim is missed:\n\n{reasons}");
    }
    table
}
