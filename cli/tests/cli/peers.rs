//! `udsmsg peers`, `udsmsg sweep` and `udsmsg doctor`: what they print, what they change, how they end.

use std::fs;
#[cfg(unix)]
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::util::{Home, Process, exists, private_dir};

/// The JSON lines of `udsmsg` with `args`, which ends with `code`.
fn lines(home: &Home, args: &[&str], code: i32) -> Vec<Value> {
    let ended = home.run(args);
    ended.assert_code(code);
    let lines = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    // A sweep looks at the directory for temporary files that all share, too: what lies there is another's.
    let own = home.path().to_str().unwrap();
    lines.filter(|line: &Value| line["path"].as_str().is_none_or(|path| path.starts_with(own))).collect()
}

/// The socket of a server that was killed.
fn crashed(home: &Home) -> String {
    let serve = home.serve(&[]);
    let socket = serve.socket.clone();
    serve.kill();
    while serve.is_running() {
        std::thread::sleep(Duration::from_millis(1));
    }
    socket
}

#[cfg(unix)]
fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Whether this machine can prove that a process has ended.
fn can_prove(home: &Home) -> bool {
    lines(home, &["doctor"], 0).iter().any(|it| it["check"] == "identity" && it["status"] == "ok")
}

#[test]
fn live_and_dead_servers_are_listed_and_only_dead_ones_are_swept() {
    let home = Home::new();
    if !can_prove(&home) {
        return;
    }
    assert!(lines(&home, &["peers"], 0).is_empty());
    let live = home.serve(&[]);
    let dead = crashed(&home);
    let found = lines(&home, &["peers"], 0);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((&found[0]["state"], &found[0]["socket"]), (&json!("live"), &json!(live.socket)));
    assert_eq!(
        (&found[0]["pid"], &found[0]["address"]),
        (&json!(live.pid()), &json!(format!("uds:{}", live.socket)))
    );
    assert_eq!((&found[1]["state"], &found[1]["socket"]), (&json!("dead"), &json!(dead)));
    assert!(found[1]["reason"].as_str().unwrap().contains("process"));
    assert!(found[0]["ageSeconds"].as_u64().unwrap() < 60);
    let text = serde_json::to_string(&found).unwrap();
    assert!(!text.contains(&home.token(&live.socket)) && !text.contains(&home.token(&dead)));

    let before = home.snapshot();
    let foretold = lines(&home, &["sweep", "--dry-run"], 0);
    assert_eq!(home.snapshot(), before);
    let swept = lines(&home, &["sweep"], 0);
    let of = |lines: &[Value], event: &str| -> Vec<Value> {
        lines.iter().filter(|line| line["event"] == event).map(|line| line["path"].clone()).collect()
    };
    let file = home.capability_file(&dead);
    let own = Path::new(&dead).parent().unwrap();
    // A pipe ends with its process.
    let left = if cfg!(unix) { vec![json!(dead), json!(file), json!(own)] } else { vec![json!(file)] };
    assert_eq!(of(&swept, "removed"), left);
    assert_eq!(of(&foretold, "would_be_removed"), of(&swept, "removed"));
    assert_eq!(of(&swept, "kept"), [json!(home.capability_file(&live.socket))]);
    assert!(left.iter().all(|path| !exists(path.as_str().unwrap())));
    home.run(&["ping", &live.socket]).assert_code(0);
    assert_eq!(lines(&home, &["peers"], 0).len(), 1);
    live.stop().assert_clean(0);
    assert!(lines(&home, &["sweep"], 0).is_empty());
}

#[test]
fn many_servers_started_in_the_same_second_are_all_reachable() {
    // Under Wine the fiftieth would not be asked in time.
    let total = if cfg!(unix) { 50 } else { 10 };
    let home = Home::new();
    let begun = std::time::Instant::now();
    let starting: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..total).map(|_| scope.spawn(|| home.serve(&["--quiet"]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let took = begun.elapsed();
    let found = lines(&home, &["peers"], 0);
    assert_eq!(found.len(), total);
    for peer in &found {
        assert_eq!(peer["state"], "live", "{peer}");
    }
    eprintln!("{total} servers, all started within {took:?}, all live");
    drop(starting);
}

// Terminals are those of Unix.
#[cfg(unix)]
#[test]
fn terminal_gets_a_table_without_escape_characters() {
    let home = Home::new();
    let evil = format!("{}/\u{1b}[2J\u{202e}x", home.path().display());
    home.publish(&evil);
    let mut command = home.command("script");
    let tool = env!("CARGO_BIN_EXE_udsmsg");
    command.args(["-qec", &format!("{tool} peers; {tool} sweep; {tool} doctor"), "/dev/null"]);
    if std::process::Command::new("script").arg("--version").output().is_err() {
        crate::machine::skip("there is no script(1), so there is no terminal");
        return;
    }
    let shown = Process::spawn(command).end().stdout;
    assert!(
        shown.contains("STATE") && shown.contains("unknown") && shown.contains("kept capability"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown:?}");
}

#[cfg(unix)]
/// How a fault is made, and what doctor says about it.
struct Fault {
    name: &'static str,
    /// Makes the fault in a home; variables for doctor.
    make: fn(&Home) -> Vec<(&'static str, String)>,
    check: &'static str,
    detail: &'static str,
    remedy: &'static str,
}

#[cfg(unix)]
const FAULTS: [Fault; 17] = [
    Fault {
        name: "capability directory open",
        make: |home| {
            private_dir(&home.capability_dir());
            chmod(&home.capability_dir(), 0o755);
            vec![]
        },
        check: "capabilities",
        detail: "0755",
        remedy: "chmod 700",
    },
    Fault {
        name: "capability directory a link",
        make: |home| {
            private_dir(&home.config());
            symlink(home.tmp(), home.capability_dir()).unwrap();
            vec![]
        },
        check: "capabilities",
        detail: "symbolic link",
        remedy: "name the directory",
    },
    Fault {
        name: "capability directory a file",
        make: |home| {
            private_dir(&home.config());
            fs::write(home.capability_dir(), "").unwrap();
            vec![]
        },
        check: "capabilities",
        detail: "a regular file",
        remedy: "another directory",
    },
    Fault {
        name: "config home can be changed by others",
        make: |home| {
            private_dir(&home.config());
            chmod(&home.config(), 0o777);
            vec![]
        },
        check: "capabilities",
        detail: "can be changed by others",
        remedy: "of your own",
    },
    Fault {
        name: "config home relative",
        make: |_| vec![("CLAUDE_CONFIG_DIR", "rel".into())],
        check: "config_home",
        detail: "relative",
        remedy: "absolute path",
    },
    Fault {
        name: "shared directory open",
        make: |home| {
            private_dir(&home.tmp().join("claude-code-socks"));
            chmod(&home.tmp().join("claude-code-socks"), 0o755);
            vec![]
        },
        check: "default_socket",
        detail: "0755",
        remedy: "chmod 700",
    },
    Fault {
        name: "shared directory a link",
        make: |home| {
            symlink("/nowhere", home.tmp().join("claude-code-socks")).unwrap();
            vec![]
        },
        check: "default_socket",
        detail: "symbolic link",
        remedy: "name the directory",
    },
    Fault {
        name: "shared directory keeps its owner out",
        make: |home| {
            private_dir(&home.tmp().join("claude-code-socks"));
            chmod(&home.tmp().join("claude-code-socks"), 0o500);
            vec![]
        },
        check: "default_socket",
        detail: "0500",
        remedy: "chmod 700",
    },
    Fault {
        name: "TMPDIR too long",
        make: |home| vec![("TMPDIR", format!("{}/{}", home.path().display(), "x".repeat(70)))],
        check: "default_socket",
        detail: "at most 107 fit",
        remedy: "shorter directory",
    },
    Fault {
        name: "TMPDIR relative",
        make: |_| vec![("TMPDIR", "tmp".into())],
        check: "default_socket",
        detail: "absolute path",
        remedy: "$TMPDIR",
    },
    Fault {
        name: "TMPDIR open without sticky",
        make: |home| {
            chmod(&home.tmp(), 0o777);
            vec![]
        },
        check: "default_socket",
        detail: "can be changed by others",
        remedy: "of your own",
    },
    Fault {
        name: "an unusable capability",
        make: |home| {
            home.write_capability("/x", "{");
            vec![]
        },
        check: "peer",
        detail: "no JSON object",
        remedy: "move it out of there",
    },
    Fault {
        name: "a capability open to others",
        make: |home| {
            home.publish("/x");
            chmod(&home.capability_file("/x"), 0o644);
            vec![]
        },
        check: "peer",
        detail: "0644",
        remedy: "move it out of there",
    },
    Fault {
        name: "a stale socket",
        make: |home| {
            let own = home.private(&format!("t/claude-code-socks/{}-{}", i32::MAX, "0".repeat(32)));
            crate::util::leave_stale(&own.join("messaging.sock"));
            vec![]
        },
        check: "stale_files",
        detail: "no such process",
        remedy: "udsmsg sweep",
    },
    Fault {
        name: "a dead parent's socket",
        make: |_| vec![("CLAUDE_CODE_MESSAGING_SOCKET", "/nowhere/s".into())],
        check: "parent_socket",
        detail: "does not answer",
        remedy: "unset CLAUDE_CODE_MESSAGING_SOCKET",
    },
    Fault {
        name: "a parent's socket with a token",
        make: |_| vec![("CLAUDE_CODE_MESSAGING_SOCKET", "/x#token=secret".into())],
        check: "parent_socket",
        detail: "inline auth token",
        remedy: "unset CLAUDE_CODE_MESSAGING_SOCKET",
    },
    Fault {
        name: "few descriptors",
        make: |_| vec![("LIMIT", "200".into())],
        check: "open_files",
        detail: "200 descriptors",
        remedy: "ulimit -n",
    },
];

// The faults are those of directories and descriptors of Unix.
#[cfg(unix)]
#[test]
fn doctor_names_each_fault_and_its_remedy() {
    for Fault { name, make, check, detail, remedy } in FAULTS {
        let home = Home::new();
        let variables = make(&home);
        let before = home.snapshot();
        let tool = env!("CARGO_BIN_EXE_udsmsg");
        let mut command = home.command("sh");
        command.args(["-c", "${LIMIT:+ulimit -n $LIMIT}\nexec \"$0\" doctor", tool]);
        command.envs(variables);
        let ended = Process::spawn(command).end();
        ended.assert_code(1);
        assert_eq!(home.snapshot(), before, "{name}: something was made");
        let found: Vec<Value> =
            ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let faults: Vec<_> = found.iter().filter(|it| it["status"] == "fault").collect();
        let is_named = |it: &&&Value| {
            it["check"] == check
                && it["detail"].as_str().unwrap().contains(detail)
                && it["remedy"].as_str().unwrap().contains(remedy)
        };
        assert!(faults.iter().any(|it| is_named(&it)), "{name}: {found:#?}");
        assert_eq!(found.last().unwrap()["faults"], json!(faults.len()), "{name}");
        assert!(!ended.stdout.contains("secret"));
    }
    eprintln!("doctor named {0} of {0} faults and made nothing", FAULTS.len());
}

#[test]
fn doctor_finds_no_fault_in_a_good_home_and_makes_no_files() {
    let home = Home::new();
    let before = home.snapshot();
    let found = lines(&home, &["doctor"], 0);
    assert_eq!(home.snapshot(), before);
    assert_eq!(found.last().unwrap(), &json!({"event": "doctor", "faults": 0}));
    let serve = home.serve(&[]);
    let with_server = lines(&home, &["doctor"], 0);
    assert!(with_server.iter().any(|it| it["detail"].as_str().is_some_and(|it| it.contains("1 live"))));
    serve.stop().assert_clean(0);
    // Another namespace has other names.
    let other = lines(&home, &["--namespace", "my-app", "doctor"], 0);
    assert!(other.iter().any(|it| it["detail"].as_str().is_some_and(|it| it.contains("my-app-"))));
}

/// Runs `body` with an empty `/tmp` that only it sees, with the mode of a shared one; false, after a line, if
/// there is none.
#[cfg(target_os = "linux")]
fn with_own_tmp(body: impl FnOnce() + Send) -> bool {
    use std::os::fd::AsRawFd;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let none = None::<&str>;
    let mount_it = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // The tool may lie in the /tmp that is hidden.
        let tool = Path::new(env!("CARGO_BIN_EXE_udsmsg"));
        let open_tool = fs::File::open(tool).unwrap();
        mount(Some("test"), "/tmp", Some("tmpfs"), MsFlags::empty(), Some("mode=1777,nr_inodes=0"))?;
        if !tool.exists() {
            fs::create_dir_all(tool.parent().unwrap()).unwrap();
            fs::write(tool, "").unwrap();
            let source = format!("/proc/self/fd/{}", open_tool.as_raw_fd());
            mount(Some(source.as_str()), tool, none, MsFlags::MS_BIND, none)?;
        }
        nix::Result::Ok(())
    };
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                if let Err(cause) = mount_it() {
                    crate::machine::skip(&format!("a /tmp of our own cannot be had here: {cause}"));
                    return false;
                }
                body();
                true
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Plays another user.
const OTHER: u32 = 65_534;

#[cfg(target_os = "linux")]
#[test]
fn shared_temp_directory_full_of_other_files_is_no_fault_and_is_swept() {
    const FILES: usize = 16_385;
    with_own_tmp(|| {
        for number in 0..FILES {
            fs::write(format!("/tmp/{number}"), "").unwrap();
            // Named like a directory that a dead server left, and of another user.
            let path = format!("/tmp/claude-code-{}-{number:032x}", i32::MAX);
            fs::write(&path, "").unwrap();
            std::os::unix::fs::chown(&path, Some(OTHER), None).unwrap();
        }
        let home = Home::new();
        let found = lines(&home, &["doctor"], 0);
        assert_eq!(found.last().unwrap()["faults"], json!(0), "{found:#?}");
        let left = format!("/tmp/claude-code-{}-{}", i32::MAX, "f".repeat(32));
        private_dir(Path::new(&left));
        // All of it, as this /tmp is ours alone.
        let swept = home.run(&["sweep"]);
        let [removed] = swept.assert_code(0).stdout.lines().collect::<Vec<_>>()[..] else {
            panic!("{}", swept.stdout)
        };
        let removed: Value = serde_json::from_str(removed).unwrap();
        assert_eq!((&removed["event"], &removed["path"]), (&json!("removed"), &json!(left)));
    });
}

// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn files_beyond_the_limit_of_one_sweep_are_swept_by_the_next() {
    const DEAD: usize = 16_500;
    let home = Home::new();
    let shared = home.private("it's t/claude-code-socks");
    for number in 0..DEAD {
        private_dir(&shared.join(format!("{}-{number:032x}", i32::MAX)));
    }
    // Many files take a while on a busy machine.
    let run = |arg| {
        let mut command = home.udsmsg(&[arg]);
        command.env("TMPDIR", shared.parent().unwrap());
        Process::spawn_within(command, Duration::from_secs(300)).end()
    };
    let doctor = run("doctor");
    assert!(doctor.stdout.contains("more than one sweep looks at"), "{}", doctor.stderr);
    let first = run("sweep");
    assert!(first.assert_code(0).stderr.contains("run it again to look at others"), "{}", first.stderr);
    assert!(first.stderr.contains(r"it'\''s t/claude-code-socks' -maxdepth 1 -uid"), "{}", first.stderr);
    let second = run("sweep");
    assert_eq!(second.assert_code(0).stderr, "");
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
}

// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn shared_directory_of_another_user_is_a_note_while_another_place_works() {
    let home = Home::new();
    let squatted = home.private("t/claude-code-socks");
    let is_root = udsmsg::os::effective_uid() == 0;
    if !is_root || std::os::unix::fs::chown(&squatted, Some(OTHER), None).is_err() {
        crate::machine::skip("not root, so there is no second user");
        return;
    }
    let found = lines(&home, &["doctor"], 0);
    let note = found.iter().find(|it| it["status"] == "note" && it["check"] == "default_socket").unwrap();
    assert!(note["detail"].as_str().unwrap().contains("belongs to uid 65534"), "{note}");
    assert_eq!(found.last().unwrap()["faults"], json!(0));
    home.serve(&[]).stop().assert_clean(0);
}

/// The advice never is to change a directory that others may rely on.
// A pipe stands in no directory, and files have no mode.
#[cfg(unix)]
#[test]
fn refused_start_suggests_a_private_directory() {
    let home = Home::new();
    chmod(home.path(), 0o755);
    let own = format!("{}/udsmsg-{}", home.path().display(), udsmsg::os::effective_uid());
    for socket in ["x.sock", "./x.sock", &format!("{}/x.sock", home.path().display()), "/tmp/x.sock"] {
        let ended = home.run(&["serve", "--socket", socket]);
        ended.assert_code(1);
        let expected = if socket == "/tmp/x.sock" {
            "mkdir -m 700 /tmp/udsmsg-"
        } else {
            &format!("mkdir -m 700 {own}")
        };
        assert!(ended.stderr.contains(expected) && !ended.stderr.contains("chmod"), "{ended:?}");
    }
    // With the suggested directory the server starts.
    private_dir(Path::new(&own));
    home.serve(&["--socket", &format!("{own}/x.sock")]).stop().assert_clean(0);
}
