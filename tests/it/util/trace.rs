//! A subscriber that prints every `tracing` event of the library, at every level and with all fields, to
//! stderr.

use std::fmt::{self, Debug, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber, span};

/// Installs it if `UDSMSG_TEST_TRACE` is set: `.ci/run secrets` searches the output of the whole suite.
pub fn print_if_asked() {
    if std::env::var_os("UDSMSG_TEST_TRACE").is_some() {
        // Only the first call succeeds.
        let _ = tracing::subscriber::set_global_default(Print(AtomicU64::new(0)));
    }
}

struct Print(AtomicU64);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

fn print(what: fmt::Arguments<'_>) {
    eprintln!("{what}");
}

impl Subscriber for Print {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut fields = Fields(String::new());
        span.record(&mut fields);
        print(format_args!("span {}{}", span.metadata().name(), fields.0));
        span::Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        let mut fields = Fields(String::new());
        values.record(&mut fields);
        print(format_args!("record{}", fields.0));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let metadata = event.metadata();
        print(format_args!("{} {}{}", metadata.level(), metadata.target(), fields.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
