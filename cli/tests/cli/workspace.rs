//! The two commands of README in a fresh checkout, at the root of the workspace.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::util::{Home, Process, Serve, scale};

/// The command may have to be built first.
const BUILD: Duration = Duration::from_secs(900);

/// In the profile of the tests; with `UDSMSG_TEST_SCALE=2` with `--release`, as README says.
#[test]
fn cargo_run_starts_the_command_at_the_workspace_root() {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let may_write = nix::unistd::access(target, nix::unistd::AccessFlags::W_OK).is_ok();
    if !may_write || Command::new(env!("CARGO")).arg("--version").output().is_err() {
        crate::machine::skip("this account cannot run cargo here");
        return;
    }
    let home = Home::new();
    let is_release = scale() > 1 || !cfg!(debug_assertions);
    let cargo = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.arg("run").args(is_release.then_some("--release")).args(["--offline", "--"]).args(args);
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
        command.env("TMPDIR", home.tmp()).env("CLAUDE_CONFIG_DIR", home.config());
        // A shell does not have the variables that cargo gives to tests.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let is_for_the_test =
                name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_");
            if is_for_the_test || name_text.starts_with("CARGO_BIN_EXE_") {
                command.env_remove(name);
            }
        }
        command
    };
    let mut serve = Serve::start_within(cargo(&["serve"]), BUILD);
    let target = format!("uds:{}", serve.socket);
    let ended = Process::spawn_within(cargo(&["send", &target, "text", "hello"]), BUILD).end();
    assert!(ended.assert_code(0).stdout.contains("uds-1"), "{ended:?}");
    let entry = serve.entry();
    assert_eq!((entry.id.as_str(), &entry.json()["data"]), ("uds-1", &json!("hello")));
    // The command replaces the cargo process that was started.
    serve.stop().assert_clean(0);
}
