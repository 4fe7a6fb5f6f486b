//! tokio with `LinesCodec` and serde_json: what one writes in an afternoon. Answers and messages are flushed when
//! nothing more is there to be read.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::codec::{Framed, LinesCodec};

use super::{Answer, IN_FLIGHT, Inbox, Message, message};

pub async fn serve(socket: &Path, inbox: Inbox) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await?;
        let inbox = inbox.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(lines(stream), inbox).await {
                eprintln!("a connection failed: {error}");
            }
        });
    }
}

fn lines(stream: UnixStream) -> Framed<UnixStream, LinesCodec> {
    Framed::new(stream, LinesCodec::new_with_max_length(65_536))
}

async fn flush(lines: &mut Framed<UnixStream, LinesCodec>) -> Result<()> {
    Ok(SinkExt::<String>::flush(lines).await?)
}

async fn connection(mut lines: Framed<UnixStream, LinesCodec>, inbox: Inbox) -> Result<()> {
    loop {
        let line = match lines.next().now_or_never() {
            Some(line) => line,
            None => {
                flush(&mut lines).await?;
                lines.next().await
            }
        };
        let Some(line) = line else { break };
        let message: Message = serde_json::from_str(&line?)?;
        lines.feed(serde_json::to_string(&inbox.put(message))?).await?;
    }
    flush(&mut lines).await
}

pub struct Client(Framed<UnixStream, LinesCodec>);

impl super::Sender for Client {
    async fn connect(socket: &Path) -> Result<Self> {
        Ok(Self(lines(UnixStream::connect(socket).await?)))
    }

    async fn send(&mut self) -> Result<()> {
        self.0.send(serde_json::to_string(&message())?).await?;
        let line = self.0.next().await.context("the server closed the connection")??;
        serde_json::from_str::<Answer>(&line)?.check()
    }

    async fn send_many(&mut self, messages: usize) -> Result<()> {
        let (mut sent, mut answered) = (0, 0);
        while answered < messages {
            while sent < messages && sent - answered < IN_FLIGHT {
                self.0.feed(serde_json::to_string(&message())?).await?;
                sent += 1;
            }
            let line = match self.0.next().now_or_never() {
                Some(line) => line,
                None => {
                    flush(&mut self.0).await?;
                    self.0.next().await
                }
            };
            serde_json::from_str::<Answer>(&line.context("the server closed the connection")??)?.check()?;
            answered += 1;
        }
        ensure!(sent == messages, "too many answers");
        Ok(())
    }
}
