//! What every command has to know beside its own arguments.

use std::time::Duration;

use udsmsg::os::CapabilityDir;
use udsmsg::{Client, Environment, Error, Namespace, Peers, Server, ServerBuilder};

use crate::output::Style;

/// Which names a command uses, and how it prints.
pub(crate) struct Context {
    pub(crate) namespace: Namespace,
    pub(crate) environment: Environment,
    pub(crate) style: Style,
}

impl Context {
    pub(crate) fn client(&self, timeout: Duration) -> Result<Client, Error> {
        Ok(Client::in_namespace(&self.namespace, &self.environment)?.with_timeout(timeout))
    }

    pub(crate) fn server(&self) -> ServerBuilder {
        Server::builder().namespace(self.namespace.clone()).environment(self.environment.clone())
    }

    pub(crate) fn capability_dir(&self) -> Result<CapabilityDir, Error> {
        CapabilityDir::of(&self.namespace, &self.environment)
    }

    pub(crate) fn peers(&self) -> Result<Peers, Error> {
        Peers::in_namespace(&self.namespace, &self.environment)
    }
}
