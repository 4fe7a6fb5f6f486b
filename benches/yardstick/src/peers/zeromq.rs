//! libzmq: a router and a dealer with JSON, over its `ipc` transport. It has a thread of its own at each end.

use std::path::Path;

use anyhow::Result;
use zmq::{Context, DEALER, ROUTER, Socket};

use super::{Answer, IN_FLIGHT, Inbox, message};

pub fn serve(socket: &Path, inbox: &Inbox) -> Result<()> {
    let router = Context::new().socket(ROUTER)?;
    router.bind(&format!("ipc://{}", socket.display()))?;
    println!("ready");
    loop {
        let sender = router.recv_bytes(0)?;
        let answer = inbox.put(serde_json::from_slice(&router.recv_bytes(0)?)?);
        router.send(sender, zmq::SNDMORE)?;
        router.send(serde_json::to_vec(&answer)?, 0)?;
    }
}

pub struct Client(Socket);

impl Client {
    fn start(&self) -> Result<()> {
        Ok(self.0.send(serde_json::to_vec(&message())?, 0)?)
    }

    fn finish(&self) -> Result<()> {
        serde_json::from_slice::<Answer>(&self.0.recv_bytes(0)?)?.check()
    }
}

impl super::Sender for Client {
    async fn connect(socket: &Path) -> Result<Self> {
        let dealer = Context::new().socket(DEALER)?;
        dealer.connect(&format!("ipc://{}", socket.display()))?;
        Ok(Self(dealer))
    }

    async fn send(&mut self) -> Result<()> {
        self.start()?;
        self.finish()
    }

    async fn send_many(&mut self, messages: usize) -> Result<()> {
        for started in 0..messages {
            self.start()?;
            if started >= IN_FLIGHT - 1 {
                self.finish()?;
            }
        }
        (1..IN_FLIGHT).try_for_each(|_| self.finish())
    }
}
