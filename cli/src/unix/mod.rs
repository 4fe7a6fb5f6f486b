//! What the commands need of a Unix system: signals, waiting, output that never waits, a command that runs.

mod command;
mod facts;
mod signals;
mod sink;
mod waiting;

pub(crate) use self::command::Running;
pub(crate) use self::facts::{check_system, is_server_name};
pub(crate) use self::signals::{Came, Signals, Stop, handle_file_size_limit};
pub(crate) use self::sink::Sink;
pub(crate) use self::waiting::{Alarm, Output, Source, Stdin, Woken, alarm, wait};
