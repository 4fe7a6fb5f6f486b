//! `udsmsg doctor`: what would keep a server from starting or its clients from finding it, and what to do
//! about it. It makes nothing.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use udsmsg::peers::{Fate, PeerList, PeerState, ProcessIdentity, ProcessState, Remains, SweepReport};
use udsmsg::{Address, Error};

use crate::checks::{Check, Checks, Status};
use crate::context::Context;
use crate::escape::{Escaped, Json};
use crate::output::{Style, print, status_of};
use crate::platform;

/// How long all servers together may take to answer.
const PEERS_TIMEOUT: Duration = Duration::from_secs(4);

/// Checks everything; exit status 1 if something is wrong.
pub(crate) fn doctor(context: &Context) -> Result<ExitCode, Error> {
    let mut checks = Checks::default();
    // Only the list follows paths that other processes chose; it waits for no file system.
    let listed = context
        .peers()
        .map(|peers| peers.with_timeout(PEERS_TIMEOUT))
        .and_then(|peers| Ok((peers.list()?, peers.sweep(true)?)));
    config_home(&mut checks, context);
    capability_dir(&mut checks, context);
    platform::check_default_location(&mut checks, &context.namespace, &context.environment)?;
    platform::check_system(&mut checks);
    identity(&mut checks);
    let list = listed.as_ref().ok().map(|(list, _)| list);
    inherited_socket(&mut checks, context, list);
    // If there is no list, a check above says why.
    if let Ok((list, report)) = &listed {
        files(&mut checks, list, report);
    }
    let faults = checks.0.iter().filter(|check| check.status == Status::Fault).count();
    let mut lines = String::new();
    for check in &checks.0 {
        lines.push_str(&match context.style {
            Style::Json => format!("{}\n", Json(json_of(check))),
            Style::Text => text_of(check),
        });
    }
    lines.push_str(&match (context.style, faults) {
        (Style::Json, _) => format!("{}\n", json!({"event": "doctor", "faults": faults})),
        (Style::Text, 0) => String::from("all is well\n"),
        (Style::Text, 1) => String::from("1 fault\n"),
        (Style::Text, faults) => format!("{faults} faults\n"),
    });
    let printed = status_of(print(&lines));
    Ok(if faults == 0 { printed } else { ExitCode::FAILURE })
}

fn json_of(check: &Check) -> serde_json::Value {
    json!({
        "event": "check",
        "check": check.name.replace(' ', "_"),
        "status": check.status.code(),
        "detail": check.detail,
        "remedy": check.remedy,
    })
}

fn text_of(check: &Check) -> String {
    let mut text = format!("{:<5}  {:<16}  {}\n", check.status.code(), check.name, Escaped(&check.detail));
    if let Some(remedy) = &check.remedy {
        text.push_str(&format!("{:>25}-> {}\n", "", Escaped(remedy)));
    }
    text
}

/// Which directory it is, and whether every program finds the same one.
fn config_home(checks: &mut Checks, context: &Context) {
    const NAME: &str = "config home";
    let home = match context.namespace.config_home(&context.environment) {
        Ok(home) => home,
        Err(error) => return checks.fault(NAME, error.to_string(), format!("set {}", platform::HOME)),
    };
    let variable = context.namespace.config_variable();
    let origin = match context.environment.get(&variable) {
        Some(_) => format!("from ${variable}"),
        None => format!("${variable} is not set"),
    };
    if home.is_relative() {
        let detail = format!("{home:?} ({origin}) is relative: each program would look in another place");
        return checks.fault(NAME, detail, format!("set ${variable} to an absolute path"));
    }
    checks.ok(NAME, format!("{home:?} ({origin})"));
}

/// Whether the directory of the capability files is private.
fn capability_dir(checks: &mut Checks, context: &Context) {
    const NAME: &str = "capabilities";
    let Ok(dir) = context.capability_dir() else { return };
    match dir.check() {
        Ok(true) => checks.ok(NAME, format!("{:?} is private", dir.path())),
        Ok(false) => {
            checks.ok(NAME, format!("{:?} does not exist yet; the first server makes it", dir.path()))
        }
        Err(error) => {
            let namespace = &context.namespace;
            let variable = namespace.config_variable();
            let command = platform::own_directory(&variable, &format!("{namespace}-config"));
            let otherwise = format!("set ${variable} to a directory of your own: {command}");
            checks.error(NAME, error.kind(), &error.to_string(), &otherwise);
            // The library does not know which variable names the config home.
            if let Some(remedy) = checks.0.last_mut().and_then(|check| check.remedy.as_mut())
                && remedy.starts_with("use a config home")
            {
                *remedy = format!("{remedy}: {command}");
            }
        }
    }
}

/// Whether a crash of a server started now can be proven later.
fn identity(checks: &mut Checks) {
    const NAME: &str = "identity";
    match ProcessIdentity::current().state_and_reason() {
        (ProcessState::Live, _) => {
            checks.ok(NAME, "a server of ours that crashes can be told from a live one")
        }
        (_, why) => checks.note(NAME, format!("what a crash leaves cannot be swept: {why}")),
    }
}

/// Whether the server that the environment names answers.
fn inherited_socket(checks: &mut Checks, context: &Context, list: Option<&PeerList>) {
    const NAME: &str = "parent socket";
    let variable = context.namespace.socket_variable();
    let Some(path) = context.environment.get(&variable) else { return };
    let address = match Address::parse(&path) {
        Ok(address) => address,
        Err(error) => {
            let detail = format!("${variable} names no server: {error}");
            return checks.fault(NAME, detail, platform::unset(&variable));
        }
    };
    let found = list.and_then(|list| list.peers.iter().find(|peer| peer.address.as_ref() == Some(&address)));
    let why = match found {
        Some(peer) if peer.state == PeerState::Live => {
            return checks.ok(NAME, format!("{path:?} (from ${variable}) answers"));
        }
        Some(peer) => peer.reason.clone(),
        None => match context.capability_dir().and_then(|dir| dir.read(&address)) {
            Ok(_) => return checks.note(NAME, format!("{path:?} (from ${variable}) was not asked")),
            Err(error) => error.to_string(),
        },
    };
    let detail = format!("{path:?} (from ${variable}) does not answer: {why}");
    let unset = platform::unset(&variable);
    checks.fault(NAME, detail, format!("{unset}, or start that server again"));
}

/// What is published, and what dead servers left behind.
fn files(checks: &mut Checks, list: &PeerList, report: &SweepReport) {
    const NAME: &str = "stale files";
    let before = checks.0.len();
    for peer in &list.peers {
        let file = &peer.file_name;
        let runs = peer.process.as_ref().is_some_and(|process| process.state() == ProcessState::Live);
        match peer.state {
            PeerState::Live | PeerState::Dead => {}
            PeerState::Unusable => {
                let remedy = format!("start its server again, or move it out of there: {file}");
                checks.fault("peer", peer.reason.clone(), remedy);
            }
            PeerState::Unknown if runs => {
                let remedy = peer
                    .pid()
                    .map_or_else(String::new, |pid| format!("look at process {pid}, start it again"));
                let address = peer.address.as_ref().map(ToString::to_string).unwrap_or_default();
                checks.fault("peer", format!("{address}: {}", peer.reason), remedy);
            }
            PeerState::Unknown => checks.note("peer", format!("{file}: {}", peer.reason)),
        }
    }
    for swept in &report.swept {
        let path = swept.path.to_string_lossy();
        match swept.fate {
            Fate::WouldBeRemoved => {
                let detail = format!("{} {path:?}: {}", swept.remains.code(), swept.reason);
                checks.fault(NAME, detail, "udsmsg sweep");
            }
            // Capability files are reported above.
            Fate::Kept if swept.remains != Remains::Capability => {
                checks.note(NAME, format!("{} {path:?} is kept: {}", swept.remains.code(), swept.reason));
            }
            _ => {}
        }
    }
    if !list.is_complete {
        checks
            .note("peer", "there are more capability files than one call reads; run it again to see others");
    }
    for sentence in &report.truncated {
        checks.note(NAME, sentence);
    }
    if checks.0.len() == before {
        let live = list.peers.iter().filter(|peer| peer.state == PeerState::Live).count();
        checks.ok(NAME, format!("none; {live} live peers"));
    }
}
