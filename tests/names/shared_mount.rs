//! A file system that answers, but may belong to another machine.

use std::path::Path;

use crate::fuse::with_mount;

/// Opcodes of requests.
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const MKNOD: u32 = 8;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const RELEASEDIR: u32 = 29;

/// Runs `body` where a file system that answers, but may belong to another machine, is mounted at the
/// directory `at` with one `file` in it: its name and its contents. Sockets can be made there, and nothing
/// else.
pub fn with_shared_mount(at: &Path, file: (&str, &str), body: impl FnOnce() + Send) -> bool {
    let mut files = vec![Node::new("", 0o040_700, ""), Node::new(file.0, 0o100_600, file.1)];
    with_mount(
        at,
        "fuse.shared",
        move |opcode, node, input| Some(answer(&mut files, opcode, node, input)),
        body,
    )
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u32_bytes(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// A file of the shared file system; its number is its place, counted from 1, and the first is the root.
struct Node {
    name: Vec<u8>,
    mode: u32,
    contents: Vec<u8>,
}

impl Node {
    fn new(name: impl AsRef<[u8]>, mode: u32, contents: &str) -> Self {
        Self { name: name.as_ref().to_owned(), mode, contents: contents.as_bytes().to_owned() }
    }

    /// `fuse_attr` of the node `number`.
    fn attributes(&self, number: u64) -> Vec<u8> {
        let wide = [number, self.contents.len() as u64, 0, 0, 0, 0];
        let mut bytes: Vec<u8> = wide.iter().flat_map(|wide| wide.to_ne_bytes()).collect();
        let uid = udsmsg::os::effective_uid();
        bytes.extend(u32_bytes(&[0, 0, 0, self.mode, 1, uid, 0, 0, 4096, 0]));
        bytes
    }
}

fn answer(files: &mut Vec<Node>, opcode: u32, node: u64, input: &[u8]) -> Result<Vec<u8>, i32> {
    const ENOENT: i32 = 2;
    const EROFS: i32 = 30;
    const ENOSYS: i32 = 38;
    let name = |input: &[u8]| input.split(|&byte| byte == 0).next().unwrap().to_owned();
    let entry = |files: &[Node], at: usize| {
        let number = at as u64 + 1;
        let mut bytes: Vec<u8> = [number, 0, 0, 0, 0].iter().flat_map(|wide| wide.to_ne_bytes()).collect();
        bytes.extend(files[at].attributes(number));
        bytes
    };
    let file = usize::try_from(node).unwrap() - 1;
    match opcode {
        LOOKUP => {
            let name = name(input);
            let at = files.iter().skip(1).position(|file| file.name == name).ok_or(ENOENT)?;
            Ok(entry(files, at + 1))
        }
        GETATTR | SETATTR => {
            if opcode == SETATTR && u32_at(input, 0) & 1 == 1 {
                files[file].mode = u32_at(input, 68);
            }
            Ok([vec![0; 16], files[file].attributes(node)].concat())
        }
        MKNOD if u32_at(input, 0) & 0o170_000 == 0o140_000 => {
            files.push(Node::new(name(&input[16..]), u32_at(input, 0), ""));
            Ok(entry(files, files.len() - 1))
        }
        OPEN | OPENDIR => Ok(vec![0; 16]),
        READ => {
            let at = usize::try_from(u64::from_ne_bytes(input[8..16].try_into().unwrap())).unwrap();
            Ok(files[file].contents.get(at..).unwrap_or_default().to_owned())
        }
        READDIR if input[8] == 0 => Ok(files
            .iter()
            .enumerate()
            .skip(1)
            .flat_map(|(at, file)| {
                let number = at as u64 + 1;
                let mut entry = [number.to_ne_bytes(), number.to_ne_bytes()].concat();
                entry.extend(u32_bytes(&[file.name.len() as u32, 0]));
                entry.extend(&file.name);
                entry.resize(entry.len().next_multiple_of(8), 0);
                entry
            })
            .collect()),
        READDIR | RELEASE | RELEASEDIR | FLUSH => Ok(Vec::new()),
        // Nothing can be removed or renamed here.
        10..=13 | 45 => Err(EROFS),
        _ => Err(ENOSYS),
    }
}
