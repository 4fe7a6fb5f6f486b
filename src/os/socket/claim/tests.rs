//! Whether a process may live that a capability file names, where the system tells only which pids exist.

use std::process::Command;

use super::*;

#[test]
fn without_starts_a_process_may_live_while_its_pid_exists() {
    let here = ProcessIdentity::current();
    let of = |pid| ProcessIdentity { pid, start: ProcessStart::default() };
    let mut child = Command::new("sleep").arg("100").spawn().unwrap();
    let running = of(child.id());
    let (with, without) = (true, false);
    let looked = |process, tells| may_live(process, &here, Origin::Anywhere, tells);
    let while_it_runs = (looked(&running, with), looked(&running, without));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(while_it_runs, (Some(MayLive::Unknown), Some(MayLive::Unknown)));
    // Where starts are told, one without a start is of another machine or container, perhaps.
    assert_eq!((looked(&running, with), looked(&running, without)), (Some(MayLive::Unknown), None));
    // A server of this process is asked by a connection, and no other process can have our pid now.
    let (ours, none) = (of(here.pid), of(u32::MAX));
    assert_eq!(looked(&ours, without), None);
    assert_eq!(looked(&none, without), Some(MayLive::Unknown), "no pid at all");
}
