//! What the commands need of Windows, with the names and shapes that `unix` has.

mod command;
mod facts;
mod signals;
mod sink;
mod waiting;

pub(crate) use self::command::{Running, Status};
pub(crate) use self::facts::{
    ERASE, HOME, absolute, check_default_location, check_system, is_server_name, own_directory, peer_json,
    unset,
};
pub(crate) use self::signals::{Came, Signals, Stop, prepare_process};
pub(crate) use self::sink::Sink;
pub(crate) use self::waiting::{Alarm, Output, Source, Stdin, Woken, alarm, wait};
