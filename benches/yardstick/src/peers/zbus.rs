//! zbus from peer to peer: D-Bus messages over a Unix socket, without a bus.

use std::path::Path;

use anyhow::Result;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::net::{UnixListener, UnixStream};
use zbus::Guid;
use zbus::connection::{Builder, Connection};

use super::{IN_FLIGHT, Inbox, Message, Meta, message};

struct Receiver(Inbox);

#[zbus::interface(name = "org.example.Inbox")]
impl Receiver {
    /// Its number, if the message is accepted.
    async fn put(&self, kind: String, data: String, from: String, ts: String, auth_token: String) -> String {
        self.0.put(Message { kind, data, from, ts, meta: Meta { auth_token } }).meta.id
    }
}

#[zbus::proxy(interface = "org.example.Inbox", default_path = "/inbox", assume_defaults = false)]
trait Receiver {
    async fn put(
        &self,
        kind: &str,
        data: &str,
        from: &str,
        ts: &str,
        auth_token: &str,
    ) -> zbus::Result<String>;
}

pub async fn serve(socket: &Path, inbox: Inbox) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        let inbox = inbox.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, inbox).await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
}

async fn connection(stream: UnixStream, inbox: Inbox) -> Result<()> {
    let connection = Builder::unix_stream(stream.into_std()?)
        .server(Guid::generate())
        .p2p()
        .serve_at("/inbox", Receiver(inbox))
        .build()
        .await?;
    connection.closed().await;
    Ok(())
}

pub struct Client {
    _connection: Connection,
    proxy: ReceiverProxy<'static>,
}

impl Client {
    async fn put(&self) -> Result<()> {
        let Message { kind, data, from, ts, meta } = message();
        let id = self.proxy.put(&kind, &data, &from, &ts, &meta.auth_token).await?;
        anyhow::ensure!(!id.is_empty(), "a message was refused");
        Ok(())
    }
}

impl super::Sender for Client {
    async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await?.into_std()?;
        let connection = Builder::unix_stream(stream).p2p().build().await?;
        let proxy = ReceiverProxy::builder(&connection)
            .destination("org.example.Inbox")
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await?;
        Ok(Self { _connection: connection, proxy })
    }

    async fn send(&mut self) -> Result<()> {
        self.put().await
    }

    async fn send_many(&mut self, messages: usize) -> Result<()> {
        let answers = stream::iter(0..messages).map(|_| self.put());
        answers.buffer_unordered(IN_FLIGHT).try_for_each(|()| async { Ok(()) }).await
    }
}
