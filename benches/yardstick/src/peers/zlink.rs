//! zlink: Varlink, which is JSON ended by a zero byte. It sends ahead by chains: 64 calls leave together, and the
//! next 64 when all of them are answered.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, pin_mut};
use serde::{Deserialize, Serialize};
use zlink::tokio::unix;
use zlink::{ReplyError, Server, introspect, proxy, service};

use super::{IN_FLIGHT, Inbox, Message, message};

#[derive(Debug, Serialize, Deserialize, introspect::Type)]
struct Receipt {
    id: String,
    ts: String,
}

#[derive(Debug, ReplyError, introspect::ReplyError)]
#[zlink(interface = "org.example.Inbox")]
enum Refusal {
    Unauthorized,
}

struct Receiver(Inbox);

#[service(interface = "org.example.Inbox")]
impl Receiver {
    async fn put(&mut self, message: Message) -> Result<Receipt, Refusal> {
        let answer = self.0.put(message);
        if answer.kind != "response" {
            return Err(Refusal::Unauthorized);
        }
        Ok(Receipt { id: answer.meta.id, ts: answer.ts })
    }
}

#[proxy("org.example.Inbox")]
trait ReceiverProxy {
    async fn put(&mut self, message: &Message) -> zlink::Result<Result<Receipt, Refusal>>;
}

pub async fn serve(socket: &Path, inbox: Inbox) -> Result<()> {
    let listener = unix::bind(socket)?;
    println!("ready");
    Ok(Server::new(listener, Receiver(inbox)).run().await?)
}

pub struct Client(unix::Connection);

impl super::Sender for Client {
    async fn connect(socket: &Path) -> Result<Self> {
        Ok(Self(unix::connect(socket).await?))
    }

    async fn send(&mut self) -> Result<()> {
        match self.0.put(&message()).await? {
            Ok(receipt) => ensure!(receipt.id.starts_with("uds-"), "{receipt:?}"),
            Err(refusal) => bail!("a message was refused: {refusal:?}"),
        }
        Ok(())
    }

    async fn send_many(&mut self, messages: usize) -> Result<()> {
        for _ in 0..messages / IN_FLIGHT {
            let mut chain = self.0.chain_put(&message())?;
            for _ in 1..IN_FLIGHT {
                chain = chain.put(&message())?;
            }
            let receipts = chain.send::<Receipt, Refusal>().await?;
            pin_mut!(receipts);
            while let Some(receipt) = receipts.next().await {
                let (receipt, _descriptors) = receipt?;
                let Ok(receipt) = receipt else { bail!("a message was refused") };
                let receipt = receipt.into_parameters().context("an empty receipt")?;
                ensure!(receipt.id.starts_with("uds-"), "{receipt:?}");
            }
        }
        Ok(())
    }
}
