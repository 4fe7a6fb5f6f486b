//! This library at both ends.

use std::path::Path;

use anyhow::{Result, ensure};
use udsmsg::{Address, Batch, Outgoing, SendOutcome};

use super::IN_FLIGHT;

/// The message's payload and its sender: with the rest about 330 bytes.
pub const DATA: &str = "lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem ipsum lorem \
                        ipsum ";
pub const FROM: &str = "/tmp/claude-code-socks/1234-0123/messaging.sock";

pub fn serve(socket: &Path) -> Result<()> {
    let mut server = udsmsg::Server::builder().address(Address::from_path(socket)?).start()?;
    println!("ready");
    let mut batch = Batch::new();
    loop {
        let _ = server.turn(None)?;
        server.drain_into(&mut batch);
    }
}

pub struct Client {
    client: udsmsg::Client,
    target: Address,
}

fn message() -> Outgoing {
    Outgoing::new("text").with_text(DATA)
}

fn check(outcome: &SendOutcome) -> Result<()> {
    ensure!(matches!(outcome, SendOutcome::Accepted { .. }), "a message was not accepted: {outcome}");
    Ok(())
}

impl super::Sender for Client {
    async fn connect(socket: &Path) -> Result<Self> {
        let client = udsmsg::Client::new()?.with_from(Address::parse(FROM)?);
        Ok(Self { client, target: Address::from_path(socket)? })
    }

    async fn send(&mut self) -> Result<()> {
        check(&self.client.send(&self.target, &message()))
    }

    async fn send_many(&mut self, messages: usize) -> Result<()> {
        for started in 0..messages {
            self.client.start(&self.target, &message())?;
            if started >= IN_FLIGHT - 1
                && let Some((_, outcome)) = self.client.next_outcome()?
            {
                check(&outcome)?;
            }
        }
        while let Some((_, outcome)) = self.client.next_outcome()? {
            check(&outcome)?;
        }
        Ok(())
    }
}
