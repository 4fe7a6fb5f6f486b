//! axum over a Unix socket, with a client of hyper: HTTP/1.1 and JSON. HTTP/1.1 has one request in flight on a
//! connection, so that there are 64 connections for 64 messages.

use std::path::{Path, PathBuf};

use anyhow::Result;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use futures_util::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};

use super::{Answer, IN_FLIGHT, Inbox, Message, message};

async fn put(State(inbox): State<Inbox>, Json(message): Json<Message>) -> Json<Answer> {
    Json(inbox.put(message))
}

pub async fn serve(socket: &Path, inbox: Inbox) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    println!("ready");
    Ok(axum::serve(listener, Router::new().route("/messages", post(put)).with_state(inbox)).await?)
}

struct Http(SendRequest<Full<Bytes>>);

impl Http {
    async fn connect(socket: &Path) -> Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(UnixStream::connect(socket).await?)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    async fn send(&mut self) -> Result<()> {
        let request = Request::post("/messages")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(serde_json::to_vec(&message())?.into()))?;
        self.0.ready().await?;
        let answer = self.0.send_request(request).await?.into_body().collect().await?.to_bytes();
        serde_json::from_slice::<Answer>(&answer)?.check()
    }
}

pub struct Client {
    socket: PathBuf,
    one: Http,
}

impl super::Sender for Client {
    async fn connect(socket: &Path) -> Result<Self> {
        Ok(Self { socket: socket.into(), one: Http::connect(socket).await? })
    }

    async fn send(&mut self) -> Result<()> {
        self.one.send().await
    }

    async fn send_many(&mut self, messages: usize) -> Result<()> {
        let connections = try_join_all((0..IN_FLIGHT).map(|_| Http::connect(&self.socket))).await?;
        let each = messages / IN_FLIGHT;
        try_join_all(connections.into_iter().map(|mut connection| async move {
            for _ in 0..each {
                connection.send().await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok(())
    }
}
