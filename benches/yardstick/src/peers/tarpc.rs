//! tarpc over a Unix socket, with bincode.

use std::path::Path;

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use tarpc::context;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;

use super::{Answer, IN_FLIGHT, Inbox, Message, message};

#[tarpc::service]
trait Receiver {
    async fn put(message: Message) -> Answer;
}

impl Receiver for Inbox {
    async fn put(self, _: context::Context, message: Message) -> Answer {
        Self::put(&self, message)
    }
}

pub async fn serve(socket: &Path, inbox: Inbox) -> Result<()> {
    let mut connections = tarpc::serde_transport::unix::listen(socket, Bincode::default).await?;
    println!("ready");
    while let Some(connection) = connections.next().await {
        let answers = BaseChannel::with_defaults(connection?).execute(inbox.clone().serve());
        tokio::spawn(answers.for_each(|answer| async {
            tokio::spawn(answer);
        }));
    }
    Ok(())
}

pub struct Client(ReceiverClient);

impl super::Sender for Client {
    async fn connect(socket: &Path) -> Result<Self> {
        let connection = tarpc::serde_transport::unix::connect(socket, Bincode::default).await?;
        Ok(Self(ReceiverClient::new(tarpc::client::Config::default(), connection).spawn()))
    }

    async fn send(&mut self) -> Result<()> {
        self.0.put(context::current(), message()).await?.check()
    }

    async fn send_many(&mut self, messages: usize) -> Result<()> {
        let answers = stream::iter(0..messages).map(|_| self.0.put(context::current(), message()));
        answers
            .buffer_unordered(IN_FLIGHT)
            .err_into()
            .try_for_each(|answer| async move { answer.check() })
            .await
    }
}
