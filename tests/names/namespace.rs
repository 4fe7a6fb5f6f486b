//! Families of servers and the names that follow from theirs.

use std::ffi::OsStr;
use std::path::Path;
#[cfg(unix)]
use std::path::PathBuf;

use udsmsg::os::CapabilityDir;
use udsmsg::{Environment, ErrorKind, Namespace};

use crate::util::expect_error;

#[test]
fn invalid_namespaces_are_refused() {
    let longest = format!("a{}", "0".repeat(31));
    for name in ["a", "my-app", "x86-64", "a-", &longest, "claude-code"] {
        assert_eq!(Namespace::new(name).unwrap().name(), name);
    }
    let too_long = format!("{longest}x");
    for name in ["", "-a", "1a", "A", "aB", "a_b", "a.b", "a/b", "a b", "ä", "aä", "a\0", &too_long] {
        expect_error(Namespace::new(name), ErrorKind::InvalidNamespace, &["my-app"]);
    }
}

#[test]
fn every_name_follows_from_the_namespace() {
    let default = Namespace::default();
    assert_eq!(default.socket_dir_name(), "claude-code-socks");
    assert_eq!(default.socket_variable(), "CLAUDE_CODE_MESSAGING_SOCKET");
    assert_eq!(default.config_variable(), "CLAUDE_CONFIG_DIR");
    assert_eq!(Namespace::new("claude-code").unwrap(), default);
    let own = Namespace::new("my-app").unwrap();
    assert_eq!(own.socket_dir_name(), "my-app-socks");
    assert_eq!(own.socket_variable(), "MY_APP_MESSAGING_SOCKET");
    assert_eq!(own.config_variable(), "MY_APP_CONFIG_DIR");
}

#[test]
fn the_config_home_is_the_variable_byte_for_byte_or_a_default() {
    let own = Namespace::new("my-app").unwrap();
    let default = Namespace::default();
    type Variables<'a> = &'a [(&'a str, &'a str)];
    #[cfg(windows)]
    let table: [(&Namespace, Variables<'_>, &str); 9] = [
        (&default, &[("USERPROFILE", r"C:\h")], r"C:\h\.claude"),
        (&default, &[("USERPROFILE", r"C:\h"), ("CLAUDE_CONFIG_DIR", "")], r"C:\h\.claude"),
        (&default, &[("USERPROFILE", r"C:\h"), ("APPDATA", r"C:\a"), ("HOME", r"C:\x")], r"C:\h\.claude"),
        (&default, &[("USERPROFILE", r"C:\h"), ("CLAUDE_CONFIG_DIR", r"C:\c\\d/")], r"C:\c\\d/"),
        (&default, &[("USERPROFILE", r"C:\h"), ("CLAUDE_CONFIG_DIR", "rel")], "rel"),
        (&default, &[("USERPROFILE", r"C:\h"), ("MY_APP_CONFIG_DIR", r"C:\m")], r"C:\h\.claude"),
        (&own, &[("APPDATA", r"C:\a"), ("MY_APP_CONFIG_DIR", r"C:\m")], r"C:\m"),
        (&own, &[("APPDATA", r"C:\a"), ("CLAUDE_CONFIG_DIR", r"C:\c")], r"C:\a\my-app"),
        (&own, &[("USERPROFILE", r"C:\h"), ("APPDATA", "")], r"C:\h\AppData\Roaming\my-app"),
    ];
    #[cfg(unix)]
    let table: [(&Namespace, Variables<'_>, &str); 9] = [
        (&default, &[("HOME", "/h")], "/h/.claude"),
        (&default, &[("HOME", "/h"), ("CLAUDE_CONFIG_DIR", "")], "/h/.claude"),
        (&default, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "/x")], "/h/.claude"),
        (&default, &[("HOME", "/h"), ("CLAUDE_CONFIG_DIR", "/c//d/")], "/c//d/"),
        (&default, &[("HOME", "/h"), ("CLAUDE_CONFIG_DIR", "rel")], "rel"),
        (&default, &[("HOME", "/h"), ("MY_APP_CONFIG_DIR", "/m")], "/h/.claude"),
        (&own, &[("HOME", "/h"), ("MY_APP_CONFIG_DIR", "/m")], "/m"),
        (&own, &[("HOME", "/h"), ("CLAUDE_CONFIG_DIR", "/c"), ("XDG_CONFIG_HOME", "/x")], "/x/my-app"),
        (&own, &[("HOME", "/h"), ("XDG_CONFIG_HOME", "rel")], "/h/.config/my-app"),
    ];
    for (namespace, pairs, home) in table {
        if cfg!(target_vendor = "apple") && namespace == &own && !home.starts_with("/m") {
            continue;
        }
        let environment = Environment::from_pairs(pairs.iter().copied());
        // Compared as text: a path compares equal to another spelling of itself.
        assert_eq!(namespace.config_home(&environment).unwrap().as_os_str(), OsStr::new(home), "{pairs:?}");
        let dir = namespace.capability_dir(&environment).unwrap();
        assert_eq!(dir, Path::new(home).join("messaging-capabilities"));
        assert_eq!(CapabilityDir::of(namespace, &environment).unwrap().path(), dir);
    }
    #[cfg(unix)]
    let other: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(b"/c\xff".to_vec());
    #[cfg(windows)]
    let other: std::ffi::OsString = std::os::windows::ffi::OsStringExt::from_wide(&[0x63, 0xd800]);
    let environment = Environment::from_pairs([("CLAUDE_CONFIG_DIR", &other)]);
    assert_eq!(default.config_home(&environment).unwrap().as_os_str(), other);
}

/// Windows asks the system for the profile, which only the environment of this process could change.
#[cfg(unix)]
#[test]
fn without_home_the_user_database_says_where_it_is() {
    let Some(user) = nix::unistd::User::from_uid(nix::unistd::Uid::effective()).unwrap() else {
        // An account without an entry in the user database.
        for pairs in [vec![], vec![("HOME", "")]] {
            assert!(Namespace::default().config_home(&Environment::from_pairs(pairs)).is_err());
        }
        return;
    };
    for pairs in [vec![], vec![("HOME", "")]] {
        let environment = Environment::from_pairs(pairs);
        assert_eq!(Namespace::default().config_home(&environment).unwrap(), user.dir.join(".claude"));
    }
    let environment = Environment::from_process();
    assert_eq!(environment.get("HOME").map(PathBuf::from), std::env::var_os("HOME").map(PathBuf::from));
}
