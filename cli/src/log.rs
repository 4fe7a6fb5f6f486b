//! What the library reports while it works, on stderr, one line each: warnings and errors, or as much as was
//! asked for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use udsmsg::Environment;

use crate::complaints::{Stderr, complain};

/// The variable that says how much is reported, unless an option does.
const VARIABLE: &str = "UDSMSG_LOG";

/// Warnings of one kind that are printed within [`WINDOW`]. A peer can cause as many as it likes.
const LINES_MAX: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Starts the reports: nothing if `is_quiet`, also every step of a connection if `is_verbose`.
pub(crate) fn start(is_quiet: bool, is_verbose: bool, environment: &Environment) {
    let level = match (is_quiet, is_verbose) {
        (true, _) => LevelFilter::OFF,
        (false, true) => LevelFilter::DEBUG,
        (false, false) => from_environment(environment),
    };
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .without_time()
        .with_ansi(false)
        .with_target(level > LevelFilter::WARN)
        .log_internal_errors(false)
        .with_writer(|| Stderr);
    let filter = Limited { level, seen: Mutex::default() };
    // It fails only if there is a subscriber already, and there is none.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

fn from_environment(environment: &Environment) -> LevelFilter {
    let Some(asked) = environment.get(VARIABLE).filter(|asked| !asked.is_empty()) else {
        return LevelFilter::WARN;
    };
    asked.to_str().and_then(|asked| asked.parse().ok()).unwrap_or_else(|| {
        complain(&format!("{VARIABLE} is {asked:?}; use off, error, warn, info, debug or trace"));
        LevelFilter::WARN
    })
}

/// Lets through what is important enough, and of each kind of warning or error at most [`LINES_MAX`] in a
/// window.
struct Limited {
    level: LevelFilter,
    /// The key is the place in the library that reports.
    seen: Mutex<HashMap<tracing::callsite::Identifier, Seen>>,
}

/// Lines of one kind in one window.
struct Seen {
    since: Instant,
    lines: u32,
}

impl<S> Filter<S> for Limited {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn event_enabled(&self, event: &tracing::Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Lower levels come only if they were asked for.
        *metadata.level() > tracing::Level::WARN || self.has_room(metadata.callsite(), Instant::now())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }
}

impl Limited {
    /// Whether one more line of a kind may be printed at `now`.
    fn has_room(&self, kind: tracing::callsite::Identifier, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.entry(kind).or_insert(Seen { since: now, lines: 0 });
        if now.duration_since(seen.since) >= WINDOW {
            let left_out = seen.lines.saturating_sub(LINES_MAX);
            if left_out > 0 {
                complain(&format!("{left_out} more lines like the next one were left out"));
            }
            *seen = Seen { since: now, lines: 0 };
        }
        seen.lines = seen.lines.saturating_add(1);
        seen.lines <= LINES_MAX
    }
}
