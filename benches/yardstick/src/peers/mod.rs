//! The same job done with other software: a text of 330 bytes with a token, compared, stored in an inbox, answered
//! with its number. Each file here has a server and a client, as its documentation suggests to write them. All run
//! on one thread; libzmq starts its own.

pub mod axum;
pub mod ours;
pub mod tarpc;
pub mod tokio;
pub mod zbus;
pub mod zeromq;
pub mod zlink;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::figures::median;
use crate::process::{TOKEN, cpu};

/// So many messages are in flight, where there is more than one.
pub const IN_FLIGHT: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize, ::zlink::introspect::Type)]
pub struct Message {
    #[serde(rename = "type")]
    pub kind: String,
    pub data: String,
    pub from: String,
    pub ts: String,
    pub meta: Meta,
}

#[derive(Clone, Debug, Serialize, Deserialize, ::zlink::introspect::Type)]
pub struct Meta {
    #[serde(rename = "authToken")]
    pub auth_token: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    #[serde(rename = "type")]
    pub kind: String,
    pub data: String,
    pub ts: String,
    pub meta: AnswerMeta,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AnswerMeta {
    pub id: String,
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// A message, made as a sender makes it.
pub fn message() -> Message {
    Message {
        kind: "text".into(),
        data: ours::DATA.into(),
        from: ours::FROM.into(),
        ts: now(),
        meta: Meta { auth_token: TOKEN.into() },
    }
}

/// What the peers' servers keep. Their owner takes all messages away, once for so many.
#[derive(Clone, Default)]
pub struct Inbox(Arc<Mutex<(Vec<Message>, u64)>>);

impl Inbox {
    /// Stores the message, and answers with its number.
    pub fn put(&self, message: Message) -> Answer {
        let mut inbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (messages, number) = &mut *inbox;
        if message.meta.auth_token != TOKEN {
            let meta = AnswerMeta { id: String::new() };
            return Answer { kind: "error".into(), data: "unauthorized".into(), ts: now(), meta };
        }
        messages.push(message);
        if messages.len() == IN_FLIGHT {
            messages.clear();
        }
        *number += 1;
        let meta = AnswerMeta { id: format!("uds-{number}") };
        Answer { kind: "response".into(), data: "ok".into(), ts: now(), meta }
    }
}

impl Answer {
    pub fn check(&self) -> Result<()> {
        ensure!(
            self.kind == "response" && self.meta.id.starts_with("uds-"),
            "a message was refused: {self:?}"
        );
        Ok(())
    }
}

/// A client. Those of ours and of libzmq wait inside of what is `async` for the others.
pub trait Sender: Sized {
    async fn connect(socket: &Path) -> Result<Self>;

    /// Sends one message, and waits for its answer.
    async fn send(&mut self) -> Result<()>;

    /// Sends `messages`, of which [`IN_FLIGHT`] wait for their answers at a time.
    async fn send_many(&mut self, messages: usize) -> Result<()>;
}

/// In µs, and messages a second.
#[derive(Serialize, Deserialize)]
pub struct Measured {
    pub round_trip: f64,
    pub rate: f64,
    pub server_cpu: f64,
    pub one_shot: f64,
}

async fn measure<S: Sender>(socket: &Path, server: u32) -> Result<Measured> {
    const ROUND_TRIPS: usize = 8_000;
    const MANY: usize = 64_000;
    const ONE_SHOTS: usize = 1_000;
    let mut sender = S::connect(socket).await?;
    sender.send_many(MANY / 10).await?;
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let start = Instant::now();
        sender.send().await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let (cpu_before, start) = (cpu(server)?, Instant::now());
    sender.send_many(MANY).await?;
    let rate = MANY as f64 / start.elapsed().as_secs_f64();
    let server_cpu = (cpu(server)? - cpu_before).as_secs_f64() * 1e6 / MANY as f64;
    drop(sender);
    let mut one_shots = Vec::new();
    for _ in 0..ONE_SHOTS {
        let start = Instant::now();
        let mut sender = S::connect(socket).await?;
        sender.send().await?;
        drop(sender);
        one_shots.push(start.elapsed().as_secs_f64() * 1e6);
        // Tasks that close what was dropped.
        ::tokio::task::yield_now().await;
    }
    Ok(Measured { round_trip: median(times), rate, server_cpu, one_shot: median(one_shots) })
}

fn runtime() -> Result<::tokio::runtime::Runtime> {
    Ok(::tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Measures the client of this name against the server `server`, whose process it is.
pub fn client(name: &str, socket: PathBuf, server: u32) -> Result<Measured> {
    runtime()?.block_on(async {
        match name {
            "udsmsg" => measure::<ours::Client>(&socket, server).await,
            "tokio" => measure::<tokio::Client>(&socket, server).await,
            "tarpc" => measure::<tarpc::Client>(&socket, server).await,
            "zlink" => measure::<zlink::Client>(&socket, server).await,
            "zbus" => measure::<zbus::Client>(&socket, server).await,
            "zeromq" => measure::<zeromq::Client>(&socket, server).await,
            "axum" => measure::<axum::Client>(&socket, server).await,
            _ => anyhow::bail!("no client is called {name}"),
        }
    })
}

/// Serves until the process is killed.
pub fn serve(name: &str, socket: PathBuf) -> Result<()> {
    let inbox = Inbox::default();
    runtime()?.block_on(async {
        match name {
            "udsmsg" => ours::serve(&socket),
            "tokio" => tokio::serve(&socket, inbox).await,
            "tarpc" => tarpc::serve(&socket, inbox).await,
            "zlink" => zlink::serve(&socket, inbox).await,
            "zbus" => zbus::serve(&socket, inbox).await,
            "zeromq" => zeromq::serve(&socket, &inbox),
            "axum" => axum::serve(&socket, inbox).await,
            _ => anyhow::bail!("no server is called {name}"),
        }
    })
}
