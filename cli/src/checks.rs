//! What `doctor` finds.

use udsmsg::ErrorKind;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    /// Good to know; nothing has to be done.
    Note,
    Fault,
}

impl Status {
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Fault => "fault",
        }
    }
}

/// One thing that was checked.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    pub(crate) detail: String,
    /// What to do about a fault.
    pub(crate) remedy: Option<String>,
}

/// Everything that was checked.
#[derive(Default)]
pub(crate) struct Checks(pub(crate) Vec<Check>);

impl Checks {
    pub(crate) fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.0.push(Check { name, status: Status::Ok, detail: detail.into(), remedy: None });
    }

    pub(crate) fn note(&mut self, name: &'static str, detail: impl Into<String>) {
        self.0.push(Check { name, status: Status::Note, detail: detail.into(), remedy: None });
    }

    pub(crate) fn fault(&mut self, name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into());
        self.0.push(Check { name, status: Status::Fault, detail: detail.into(), remedy });
    }

    /// A fault that the library describes. Its sentence may say what to do; if not, `otherwise` does.
    pub(crate) fn error(&mut self, name: &'static str, kind: ErrorKind, sentence: &str, otherwise: &str) {
        match sentence.split_once("; to mend it: ") {
            Some((detail, remedy)) => self.fault(name, detail, remedy),
            None if kind == ErrorKind::PathTooLong => {
                self.fault(
                    name,
                    sentence,
                    format!("choose a shorter directory, or live with this: {otherwise}"),
                );
            }
            None => self.fault(name, sentence, otherwise),
        }
    }
}
