//! `udsmsg ping`: a sign of life, or many with their figures.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use udsmsg::{Client, Environment, Error, Namespace};

use crate::interrupt;
use crate::output::{Style, complain, say, status_of};
use crate::send::{receiver, seconds};

/// Whom to ask, and how often.
#[derive(clap::Args)]
pub(crate) struct PingArgs {
    /// How often to ask. More than once, the figures come at the end.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,

    /// From one question to the next; 0 for no pause.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = pause)]
    interval: Duration,

    /// How long an answer may take.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    timeout: Duration,

    /// The receiver's socket path, with or without `uds:`; by default the parent server's, as for `send`.
    target: Option<OsString>,
}

/// A time in seconds that may be 0.
fn pause(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

/// Asks for signs of life; how long they took goes to stdout.
pub(crate) fn run(
    args: &PingArgs,
    namespace: &Namespace,
    environment: &Environment,
    style: Style,
) -> Result<ExitCode, Error> {
    let Some(target) = receiver(args.target.as_deref(), namespace, environment)? else {
        return Ok(ExitCode::from(2));
    };
    let mut client = Client::in_namespace(namespace, environment)?.with_timeout(args.timeout);
    let is_many = args.count > 1;
    let figures = Arc::new(Mutex::new(Figures::default()));
    if is_many {
        let figures = Arc::clone(&figures);
        let told = interrupt::say_before_end(move || {
            let mut figures = lock(&figures);
            if !std::mem::replace(&mut figures.are_told, true) {
                status_of(say(style, &figures.summary(style)));
            }
        });
        if let Err(error) = told {
            complain(&format!("cannot handle signals: {error}"));
            return Ok(ExitCode::FAILURE);
        }
    }
    for number in 1..=args.count {
        let begun = Instant::now();
        let outcome = client.ping(&target);
        let took = begun.elapsed();
        // Held while a line is printed, so that the summary agrees with the lines before it.
        let mut figures = lock(&figures);
        if figures.are_told {
            drop(figures);
            interrupt::wait_for_end();
        }
        figures.asked += 1;
        if outcome.is_accepted() {
            figures.took.push(took);
            let millis = millis(took);
            let pong = match style {
                Style::Json => {
                    json!({"event": "pong", "socket": target.path(), "millis": millis}).to_string()
                }
                Style::Text => format!("pong from {} in {millis:.3} ms", target.path()),
            };
            if let Err(error) = say(style, &pong) {
                figures.are_told = true;
                return Ok(status_of(Err(error)));
            }
        } else if is_many {
            complain(&format!("ping {number}: {outcome}"));
        } else {
            complain(&outcome);
        }
        drop(figures);
        if number < args.count {
            thread::sleep(args.interval.saturating_sub(took));
        }
    }
    let mut figures = lock(&figures);
    if std::mem::replace(&mut figures.are_told, true) {
        drop(figures);
        interrupt::wait_for_end();
    }
    let told = if is_many { status_of(say(style, &figures.summary(style))) } else { ExitCode::SUCCESS };
    Ok(if figures.lost() == 0 { told } else { ExitCode::FAILURE })
}

/// The figures, also if a thread that held them has panicked.
fn lock(figures: &Mutex<Figures>) -> MutexGuard<'_, Figures> {
    figures.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What many answers took.
#[derive(Default)]
struct Figures {
    asked: usize,
    took: Vec<Duration>,
    /// The summary was printed: at the end, or for a signal.
    are_told: bool,
}

impl Figures {
    fn lost(&self) -> usize {
        self.asked - self.took.len()
    }

    /// The time that `share` of the answers took at most, in milliseconds; times are in order.
    fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.took.len() as f64).ceil() as usize;
        self.took.get(rank.saturating_sub(1)).copied().map(millis)
    }

    /// The last line.
    fn summary(&mut self, style: Style) -> String {
        self.took.sort_unstable();
        let (asked, lost) = (self.asked, self.lost());
        let [min, median, p99, max] = [0.0, 0.5, 0.99, 1.0].map(|share| self.quantile(share));
        match (style, min, median, p99, max) {
            (Style::Json, ..) => json!({
                "event": "summary", "sent": asked, "received": self.took.len(), "lost": lost,
                "minMillis": min, "medianMillis": median, "p99Millis": p99, "maxMillis": max,
            })
            .to_string(),
            (Style::Text, Some(min), Some(median), Some(p99), Some(max)) => format!(
                "{asked} sent, {lost} lost; min {min:.3} ms, median {median:.3} ms, p99 {p99:.3} ms, max {max:.3} ms"
            ),
            (Style::Text, ..) => format!("{asked} sent, {lost} lost"),
        }
    }
}
