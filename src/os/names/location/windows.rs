//! Windows: pipes stand in no directory, so a name that no other process draws is all there is to choose.

use std::path::PathBuf;
use std::process;

use super::Location;
use crate::os::names::address::Address;
use crate::os::names::namespace::{Environment, Namespace};
use crate::os::random::Random;
use crate::proto::error::Error;

impl Location {
    /// A new name; nothing is made for it, whether or not this `is_dry`.
    pub(super) fn choose(
        namespace: &Namespace,
        environment: &Environment,
        random: &mut Random,
        is_dry: bool,
    ) -> Result<Self, Error> {
        let _ = (environment, is_dry);
        let name = format!("{namespace}-{}-{}", process::id(), random.nonce());
        Address::from_path(&format!(r"\\.\pipe\{name}")).map(Self::from)
    }
}

/// Directories of ours that the paths of servers lead through: none.
pub(crate) fn own_directories(namespace: &Namespace, environment: &Environment) -> Vec<PathBuf> {
    let _ = (namespace, environment);
    Vec::new()
}
