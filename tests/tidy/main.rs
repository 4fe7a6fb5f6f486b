//! The rules of the house, checked in the source tree itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may fail loudly"
)]

mod syntax;

use std::path::{Path, PathBuf};

/// A source file: its path from the root with `/`, and its text.
struct File {
    path: String,
    text: String,
}

impl File {
    /// What is left of each line without comments and string contents, with its number; test modules are as good as
    /// any other code.
    fn code(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        (1..).zip(self.text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//")).map(
            |(number, line)| {
                let mut kept = String::new();
                let mut chars = line.chars().peekable();
                let mut is_in_string = false;
                while let Some(char) = chars.next() {
                    match char {
                        '\\' if is_in_string => {
                            chars.next();
                        }
                        '\'' if !is_in_string && chars.peek() == Some(&'"') => {
                            chars.next();
                        }
                        '"' => is_in_string = !is_in_string,
                        '/' if !is_in_string && chars.peek() == Some(&'/') => break,
                        _ if is_in_string => {}
                        _ => kept.push(char),
                    }
                }
                (number, kept)
            },
        )
    }

    /// Whether it is white-box tests that lie in `src`.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.ends_with("/test_scale.rs")
    }

    /// Whether `path` is this file or a folder that holds it.
    fn is_in(&self, path: &str) -> bool {
        self.path == path || self.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(dir: &Path, found: &mut Vec<File>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
            found.push(File { path: name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

fn files(dirs: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    for dir in dirs {
        collect(&root().join(dir), &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn source() -> Vec<File> {
    let found = files(&["src"]);
    assert!(found.len() > 20, "the source tree was not found");
    found
}

/// Fails with every line of `files` that `is_wrong`.
fn refuse(rule: &str, files: impl IntoIterator<Item = File>, is_wrong: impl Fn(&File, &str) -> bool) {
    let mut wrong = String::new();
    for file in files {
        for (number, line) in file.code() {
            if is_wrong(&file, &line) {
                wrong.push_str(&format!("\n  {}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{rule}:{wrong}");
}

/// Whether `word` stands in `line` as a word of its own.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
}

#[test]
fn unsafe_code_stays_under_sys() {
    refuse("`unsafe` belongs under src/os/sys", source(), |file, line| {
        has_word(line, "unsafe") && !file.is_in("src/os/sys")
    });
    refuse("`unsafe_code` is allowed for src/os/sys only", source(), |file, line| {
        has_word(line, "unsafe_code") && file.path != "src/os/mod.rs" && !file.is_in("src/os/sys")
    });
}

#[test]
fn clocks_are_read_in_one_place() {
    refuse("clocks are read in src/os/clock.rs", source(), |file, line| {
        let reads = ["Instant::now", "SystemTime::now", ".elapsed()"];
        reads.iter().any(|read| line.contains(read)) && file.path != "src/os/clock.rs"
    });
}

#[test]
fn mio_stays_in_the_reactor() {
    refuse(
        "mio belongs under src/server, src/os/transport, src/os/pipe and src/os/sys/windows",
        source(),
        |file, line| {
            // The root passes it on to hosts that lend their loop.
            let is_passed_on = file.path == "src/lib.rs" && line.starts_with("pub use server::");
            let rooms = ["src/server", "src/os/transport", "src/os/pipe", "src/os/sys/windows"];
            has_word(line, "mio") && !rooms.iter().any(|room| file.is_in(room)) && !is_passed_on
        },
    );
}

#[test]
fn the_core_looks_at_nothing_above_it() {
    refuse("src/proto knows no floor above it", source(), |file, line| {
        let above = ["crate::os", "crate::server", "crate::client", "crate::peers", "super::super::"];
        file.is_in("src/proto") && !file.is_test() && above.iter().any(|floor| line.contains(floor))
    });
    refuse("src/proto knows no operating system", source(), |file, line| {
        let world =
            ["std::fs", "std::net", "std::os", "std::process", "std::thread", "nix::", "libc::", "getrandom"];
        file.is_in("src/proto") && !file.is_test() && world.iter().any(|part| line.contains(part))
    });
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> = files(&["src", "tests", "benches", "examples", "cli/src", "fuzz/fuzz_targets"])
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path)
        .collect();
    assert!(silent.is_empty(), "these do not open with `//!`: {silent:#?}");
}

#[test]
fn nothing_unfinished_and_nothing_printed() {
    refuse("this does not belong into a library", source(), |file, line| {
        let words = ["todo!", "unimplemented!", "dbg!", "println!", "print!", "eprintln!", "eprint!"];
        !file.is_test() && words.iter().any(|word| line.contains(word))
    });
}

#[test]
fn nothing_panics_on_purpose() {
    // What stood between quotes is gone: `.expect()` had a message, and a method of that name is none of ours.
    refuse("use a typed error", source(), |file, line| {
        let words = [".unwrap()", ".expect()", "panic!(", "unreachable!("];
        !file.is_test() && words.iter().any(|word| line.contains(word))
    });
}

#[test]
fn every_exception_from_a_lint_has_its_reason() {
    let mut wrong = String::new();
    for file in source() {
        for (at, _) in file.text.match_indices("#[").chain(file.text.match_indices("#![")) {
            let attribute = &file.text[at..];
            let Some(attribute) = attribute.split_once(']').map(|(attribute, _)| attribute) else { continue };
            let is_exception = ["allow(", "expect("].iter().any(|word| attribute.contains(word));
            if is_exception && !attribute.contains("reason =") {
                let line = file.text[..at].lines().count();
                wrong.push_str(&format!("\n  {}:{line}: {attribute}]", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "say why:{wrong}");
}

/// The map of the house names every room: a file by its path, which is counted from `src/` for those there, or a
/// `mod.rs` by its folder.
#[test]
fn the_map_names_every_file() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    let all = files(&["src", "benches", "examples", "cli/src", "fuzz/fuzz_targets"]);
    let missing: Vec<&str> = all
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| {
            let below = path.strip_prefix("src/").unwrap_or(path);
            let is_module = below.strip_suffix("/mod.rs").is_some_and(|dir| map.contains(&format!("{dir}/")));
            !map.contains(below) && !is_module
        })
        .collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md does not name these: {missing:#?}");
}

#[test]
fn the_checks_see_what_they_should() {
    let file = File {
        path: "src/os/sys/unix.rs".into(),
        text: "//! x\n// unsafe\nlet a = \"unsafe \\\" unsafe\"; b // unsafe\nlet c = '\"'; unsafe {}".into(),
    };
    let code: Vec<String> = file.code().map(|(_, line)| line).collect();
    assert_eq!(code, ["let a = ; b ", "let c = '; unsafe {}"]);
    assert!(has_word("unsafe {", "unsafe") && !has_word("unsafe_code", "unsafe"));
    assert!(file.is_in("src/os/sys") && !file.is_in("src/os/sy"));
}
