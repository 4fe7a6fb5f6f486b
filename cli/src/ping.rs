//! `udsmsg ping`: asks a server whether it is alive, once, or many times with a summary.

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use udsmsg::{Address, Error};

use crate::args::PingArgs;
use crate::complaints::complain;
use crate::context::Context;
use crate::interrupt;
use crate::output::{Style, say, status_of};
use crate::target;

/// Asks a server whether it is alive, and prints how long each answer took.
pub(crate) fn run(args: &PingArgs, context: &Context) -> Result<ExitCode, Error> {
    let Some(target) = target::given_or_parent(args.target.as_deref(), context)? else {
        return Ok(ExitCode::from(2));
    };
    let style = context.style;
    let mut client = context.client(args.timeout)?;
    let is_many = args.count > 1;
    let figures = Arc::new(Mutex::new(Figures::default()));
    if is_many {
        let figures = Arc::clone(&figures);
        interrupt::say_before_end(move || {
            let mut figures = interrupt::lock(&figures);
            if !std::mem::replace(&mut figures.are_printed, true) {
                status_of(say(style, &figures.summary(style)));
            }
        })?;
    }
    for number in 1..=args.count {
        let begun = Instant::now();
        let outcome = client.ping(&target);
        let took = begun.elapsed();
        // Locked while a line is printed, so that the summary agrees with the lines before it.
        let mut figures = interrupt::lock_unless(&figures, |figures| figures.are_printed);
        figures.asked += 1;
        if outcome.is_accepted() {
            figures.took.push(took);
            if let Err(error) = say(style, &pong(&target, took, style)) {
                figures.are_printed = true;
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
    let mut figures = interrupt::lock_unless(&figures, |figures| figures.are_printed);
    figures.are_printed = true;
    let printed = if is_many { status_of(say(style, &figures.summary(style))) } else { ExitCode::SUCCESS };
    Ok(if figures.lost() == 0 { printed } else { ExitCode::FAILURE })
}

/// The line for one answer.
fn pong(target: &Address, took: Duration, style: Style) -> String {
    let (path, millis) = (target.path(), millis(took));
    match style {
        Style::Json => json!({"event": "pong", "socket": path, "millis": millis}).to_string(),
        Style::Text => format!("pong from {path} in {millis:.3} ms"),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The number of questions, and how long the answers took.
#[derive(Default)]
struct Figures {
    asked: usize,
    took: Vec<Duration>,
    /// The summary was printed, at the end or for a signal; no other thread prints any more.
    are_printed: bool,
}

impl Figures {
    fn lost(&self) -> usize {
        self.asked - self.took.len()
    }

    /// The time in milliseconds that was enough for `share` of the answers (0 to 1). The times must be
    /// sorted.
    fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.took.len() as f64).ceil() as usize;
        self.took.get(rank.saturating_sub(1)).copied().map(millis)
    }

    /// The last line; sorts the times.
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
                "{asked} sent, {lost} lost; min {min:.3} ms, median {median:.3} ms, p99 {p99:.3} ms, \
                 max {max:.3} ms"
            ),
            (Style::Text, ..) => format!("{asked} sent, {lost} lost"),
        }
    }
}
