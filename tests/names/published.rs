//! Capability files of servers that there are not: written, changed and swept.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use udsmsg::os::CapabilityDir;
use udsmsg::peers::{PeerState, ProcessIdentity, SweepReport};
use udsmsg::{Address, Environment, Namespace, Peers};

use crate::util::{Place, make_private_dir, token, write_private};

/// The environment in which the capabilities and the sockets of `place` are found.
pub fn environment(place: &Place) -> Environment {
    place.environment_with([("CLAUDE_CONFIG_DIR", place.path("config")), ("TMPDIR", place.path("tmp"))])
}

pub fn peers(place: &Place) -> Peers {
    Peers::in_namespace(&Namespace::default(), &environment(place)).unwrap()
}

/// Sweeps, or only reports; returns what is reported of `place`. The shared directory for temporary files is
/// looked at as well, and its contents belong to others.
pub fn sweep(place: &Place, is_dry: bool) -> SweepReport {
    let mut report = peers(place).sweep(is_dry).unwrap();
    let own = place.path("");
    report.swept.retain(|swept| swept.path.starts_with(&own));
    report
}

/// What a server of this process writes into its capability file for the socket at `path`.
pub fn contents(path: &Path) -> Value {
    let ProcessIdentity { pid, start } = ProcessIdentity::current();
    json!({"socketPath": path, "authToken": token(1).expose(), "pid": pid, "process": start})
}

/// Writes `contents` where the capability file for `path` belongs.
pub fn publish(place: &Place, path: &Path, contents: &Value) -> PathBuf {
    let dir = place.path("config/messaging-capabilities");
    make_private_dir(&dir);
    let file = dir.join(CapabilityDir::file_name(&Address::from_path(path).unwrap()));
    write_private(&file, contents.to_string());
    file
}

/// Whether this machine can prove anything about a process.
pub fn can_prove() -> bool {
    let can = ProcessIdentity::current().state() == udsmsg::peers::ProcessState::Live;
    if !can {
        crate::machine::skip("this machine has no id, so nothing can be proven on it");
    }
    can
}

/// Changes to a capability file of this process: what became of the process, in which state its peer then is,
/// and why.
pub type Change = (&'static str, fn(&mut Value), PeerState, &'static str);

pub const CHANGES: &[Change] = &[
    ("this process", |_| {}, PeerState::Unknown, "its process runs; cannot connect"),
    (
        "a recycled pid",
        |it| it["process"]["startTime"] = json!(it["process"]["startTime"].as_u64().unwrap() - 1),
        PeerState::Dead,
        "given to another process",
    ),
    ("no such pid", |it| it["pid"] = json!(i32::MAX), PeerState::Dead, "no such process"),
    #[cfg(unix)]
    ("another boot", |it| it["process"]["bootId"] = json!("0".repeat(32)), PeerState::Dead, "booted since"),
    (
        "another machine",
        |it| {
            it["process"]["machineId"] = json!("0".repeat(32));
            it["pid"] = json!(i32::MAX);
        },
        PeerState::Unknown,
        "another machine",
    ),
    (
        "another machine and boot",
        |it| {
            it["process"]["machineId"] = json!("0".repeat(32));
            it["process"]["bootId"] = json!("0".repeat(32));
        },
        PeerState::Unknown,
        "another machine",
    ),
    #[cfg(unix)]
    (
        "another pid namespace",
        |it| {
            it["process"]["pidNamespace"] = json!(1);
            it["pid"] = json!(i32::MAX);
        },
        PeerState::Unknown,
        "another pid namespace",
    ),
    #[cfg(unix)]
    (
        "another time namespace",
        |it| {
            it["process"]["timeNamespace"] = json!(1);
            it["process"]["startTime"] = json!(1);
        },
        PeerState::Unknown,
        "another time namespace",
    ),
    #[cfg(unix)]
    (
        "a time namespace that is not known",
        |it| {
            it["process"].as_object_mut().unwrap().remove("timeNamespace");
            it["process"]["startTime"] = json!(1);
        },
        PeerState::Unknown,
        "an unknown one",
    ),
    (
        "no identity",
        |it| {
            it.as_object_mut().unwrap().remove("pid");
            it.as_object_mut().unwrap().remove("process");
        },
        PeerState::Unknown,
        "does not say which process",
    ),
    (
        "only a pid",
        |it| {
            it.as_object_mut().unwrap().remove("process");
            it["pid"] = json!(i32::MAX);
        },
        PeerState::Unknown,
        "does not say on which machine",
    ),
    (
        "an identity of the wrong types",
        |it| it["process"] = json!({"startTime": "x", "bootId": 7}),
        PeerState::Unknown,
        "does not say on which machine",
    ),
    ("a pid that cannot be one", |it| it["pid"] = json!(0), PeerState::Unknown, "cannot be one"),
];
