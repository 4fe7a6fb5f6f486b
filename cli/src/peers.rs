//! `udsmsg peers` and `udsmsg sweep`: which servers there are, and removing what dead ones left behind.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use udsmsg::Error;
use udsmsg::peers::{Fate, Peer, Swept};

use crate::args::SweepArgs;
use crate::complaints::complain;
use crate::context::Context;
use crate::escape::{Escaped, Json};
use crate::output::{Style, print, status_of};

/// Lists every server that has a capability file.
pub(crate) fn peers(context: &Context) -> Result<ExitCode, Error> {
    let list = context.peers()?.list()?;
    if !list.is_complete {
        complain(&"there are more capability files than one call reads; run it again to see others");
    }
    let mut lines = String::new();
    match context.style {
        Style::Json => {
            list.peers.iter().for_each(|peer| lines.push_str(&format!("{}\n", Json(json_of(peer)))))
        }
        Style::Text if list.peers.is_empty() => lines.push_str("there are no peers\n"),
        Style::Text => {
            lines.push_str(&format!("{:<9} {:>8} {:>6}  {}\n", "STATE", "PID", "AGE", "ADDRESS"));
            list.peers.iter().for_each(|peer| lines.push_str(&row_of(peer)));
        }
    }
    Ok(status_of(print(&lines)))
}

fn json_of(peer: &Peer) -> serde_json::Value {
    json!({
        "event": "peer",
        "state": peer.state.code(),
        "reason": peer.reason,
        "socket": peer.address.as_ref().map(udsmsg::Address::path),
        "address": peer.address.as_ref().map(ToString::to_string),
        "pid": peer.pid(),
        "publishedAt": peer.published_at.map(udsmsg::Wall::as_millis),
        "ageSeconds": peer.age.map(|age| age.as_secs()),
        "file": peer.file_name,
    })
}

/// One row; for a peer that is not live, the reason stands below it.
fn row_of(peer: &Peer) -> String {
    let pid = peer.pid().map_or_else(|| String::from("-"), |pid| pid.to_string());
    let age = peer.age.map_or_else(|| String::from("-"), short);
    let address = match &peer.address {
        Some(address) => address.to_string(),
        None => peer.file_name.clone(),
    };
    let mut row = format!("{:<9} {pid:>8} {age:>6}  {}\n", peer.state.code(), Escaped(&address));
    if peer.state != udsmsg::peers::PeerState::Live {
        row.push_str(&format!("{:>27}{}\n", "", Escaped(&peer.reason)));
    }
    row
}

/// A span as one number and one letter.
fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Removes what provably belongs to dead servers, or says what would be removed.
pub(crate) fn sweep(args: &SweepArgs, context: &Context) -> Result<ExitCode, Error> {
    let report = context.peers()?.sweep(args.dry_run)?;
    for sentence in &report.truncated {
        complain(sentence);
    }
    let mut lines = String::new();
    for swept in &report.swept {
        lines.push_str(&match context.style {
            Style::Json => format!("{}\n", Json(json_of_swept(swept))),
            Style::Text => text_of_swept(swept),
        });
    }
    if context.style == Style::Text && report.swept.is_empty() {
        lines.push_str("there is nothing to sweep\n");
    }
    let has_failed = report.swept.iter().any(|swept| swept.fate == Fate::Failed);
    let printed = status_of(print(&lines));
    Ok(if has_failed { ExitCode::FAILURE } else { printed })
}

fn json_of_swept(swept: &Swept) -> serde_json::Value {
    json!({
        "event": swept.fate.code(),
        "what": swept.remains.code(),
        "path": swept.path.to_string_lossy(),
        "reason": swept.reason,
    })
}

fn text_of_swept(swept: &Swept) -> String {
    let fate = match swept.fate {
        Fate::Removed => "removed",
        Fate::WouldBeRemoved => "would remove",
        Fate::Kept => "kept",
        Fate::Failed => "failed",
    };
    let path = swept.path.to_string_lossy();
    format!("{fate} {} {}: {}\n", swept.remains.code(), Escaped(&path), Escaped(&swept.reason))
}
