//! Who can be in a group, where that is certain.
//!
//! Where the umask is 002, a user's directories can be written by a group that is the user's alone. That a
//! group is one can be relied on only where accounts come from nowhere but `/etc/passwd` and `/etc/group`: a
//! name service that is asked over a network may not answer, and may answer something else tomorrow. So these
//! files are read as they are, and a name service is never asked. The list of members of a group is not
//! enough: it does not name the users whose first group it is.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// Bytes that are read of each file; a longer one is not believed.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where systemd's name service finds accounts besides the two files.
const USER_DATABASES: [&str; 5] =
    ["/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/lib/userdb", "/var/lib/systemd/home"];

/// Whether it is certain that only root and the user `uid` are in the group `gid`.
///
/// A password that lets others join the group (`gshadow`) cannot be seen, and neither can set-group-id
/// programs.
pub(super) fn is_of_one_user(gid: u32, uid: u32) -> bool {
    if !cfg!(target_os = "linux") {
        return false;
    }
    let is_known = match read("/etc/nsswitch.conf") {
        Some(services) => ["passwd", "group", "initgroups"].iter().all(|it| is_from_files(&services, it)),
        None => false,
    };
    let (Some(accounts), Some(groups)) = (read("/etc/passwd"), read("/etc/group")) else { return false };
    is_known && has_no_other(&accounts, &groups, gid, uid)
}

/// The contents of a file of the system.
fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).ok()?;
    (text.len() as u64 <= FILE_BYTES_MAX).then_some(text)
}

/// Whether the entries of `database` come from files alone.
fn is_from_files(services: &str, database: &str) -> bool {
    let lines = services.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut sources = lines.filter_map(|line| line.trim().strip_prefix(database)?.trim().strip_prefix(':'));
    sources.all(|sources| {
        sources.split_whitespace().all(|source| match source {
            "files" => true,
            "systemd" => USER_DATABASES.iter().all(|path| is_absent_or_empty(Path::new(path))),
            _ => false,
        })
    })
}

fn is_absent_or_empty(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Whether no account but that of `uid` and root's has `gid` as its own group, and no other is listed as a
/// member.
fn has_no_other(accounts: &str, groups: &str, gid: u32, uid: u32) -> bool {
    let mut names = vec!["root"];
    for account in accounts.lines() {
        let mut fields = account.split(':');
        let (name, ids) = (fields.next().unwrap_or_default(), (fields.nth(1), fields.next()));
        let number = |field: Option<&str>| field.and_then(|field| field.parse::<u32>().ok());
        let (Some(its_uid), Some(its_gid)) = (number(ids.0), number(ids.1)) else {
            if account.trim().is_empty() {
                continue;
            }
            // What this line means is not known.
            return false;
        };
        if its_uid == uid {
            names.push(name);
        } else if its_gid == gid && its_uid != 0 {
            return false;
        }
    }
    groups.lines().filter(|group| !group.trim().is_empty()).all(|group| {
        let mut fields = group.split(':').skip(2);
        let (its_gid, members) = (fields.next().and_then(|field| field.parse::<u32>().ok()), fields.next());
        match (its_gid, members) {
            (Some(its_gid), _) if its_gid != gid => true,
            (Some(_), Some(members)) => {
                members.split(',').map(str::trim).all(|name| name.is_empty() || names.contains(&name))
            }
            _ => false,
        }
    })
}
