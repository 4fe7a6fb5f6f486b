//! Servers as processes of their own: started on one processor, measured from outside, killed at the end.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use tempfile::TempDir;
use udsmsg::Address;
use udsmsg::os::CapabilityDir;

/// What servers other than ours compare with.
pub const TOKEN: &str = "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5";

/// The processor that a process and its children run on.
#[derive(Clone, Copy)]
pub enum Side {
    Server,
    Client,
}

/// Keeps this process, and what it starts from here on, on one processor: the servers on the first that there
/// is, the clients on the last.
pub fn run_on(side: Side) -> Result<()> {
    let online: usize = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(match side {
        Side::Server => 0,
        Side::Client => online_last(online),
    })?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The last processor, also when this process is on one already.
fn online_last(allowed: usize) -> usize {
    let listed = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let last = listed.trim().rsplit(['-', ',']).next().and_then(|last| last.parse().ok());
    last.unwrap_or(allowed - 1)
}

/// Whether a server and a client can have a processor each.
pub fn has_two_processors() -> bool {
    sched_getaffinity(Pid::from_raw(0)).is_ok() && online_last(1) > 0
}

/// A server that runs until this is dropped.
pub struct Server {
    child: Child,
    pub dir: TempDir,
    pub socket: PathBuf,
    pub token: String,
}

impl Server {
    /// `udsmsg serve --quiet`, under `wrapper` if there is one, and with more arguments.
    pub fn tool(wrapper: &[&str], more: &[&str]) -> Result<Self> {
        let tool = tool()?;
        Self::start(|socket| {
            let mut words = wrapper.iter().map(Path::new).chain([tool.as_path()]);
            let mut command = Command::new(words.next().unwrap_or(&tool));
            command.args(words).args(["serve", "--quiet"]).args(more).arg("--socket").arg(socket);
            command
        })
    }

    /// One of the servers in this program.
    pub fn own(name: &str) -> Result<Self> {
        let program = std::env::current_exe()?;
        Self::start(|socket| {
            let mut command = Command::new(&program);
            command.args(["serve", name]).arg(socket);
            command
        })
    }

    fn start(command: impl FnOnce(&Path) -> Command) -> Result<Self> {
        let private = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().permissions(private).tempdir()?;
        let socket = dir.path().join("messaging.sock");
        run_on(Side::Server)?;
        let mut command = command(&socket);
        let child = with_environment(&mut command, dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        run_on(Side::Client)?;
        let mut child = child.with_context(|| format!("cannot start {command:?}"))?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
        if line.is_empty() {
            bail!(
                "{command:?} ended: {}",
                std::io::read_to_string(child.stderr.take().context("no stderr")?)?
            );
        }
        let token = token(dir.path(), &socket)?;
        Ok(Self { child, dir, socket, token })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts another process of this program, on the clients' processor: `flood`, at the lowest priority.
    pub fn flooders(&self) -> Result<Child> {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe()?).arg("flood").arg(&self.socket);
        let mut child = with_environment(&mut command, self.dir.path()).stdout(Stdio::piped()).spawn()?;
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut String::new())?;
        Ok(child)
    }

    /// How often it has slept and been woken.
    pub fn wakeups(&self) -> Result<f64> {
        status(self.pid(), "voluntary_ctxt_switches:")
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<f64> {
        Ok(status(self.pid(), "VmRSS:")? * 1_024.0)
    }

    /// Asks it to stop, and returns what it wrote to stderr.
    pub fn stop(mut self) -> Result<String> {
        let pid = Pid::from_raw(self.child.id().try_into()?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let said = std::io::read_to_string(self.child.stderr.take().context("no stderr")?)?;
        self.child.wait()?;
        Ok(said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a server at `socket` compares with: what it has published below `dir`, or what all others have.
pub fn token(dir: &Path, socket: &Path) -> Result<String> {
    let address = Address::from_path(socket)?;
    Ok(match CapabilityDir::at(dir.join("messaging-capabilities")).read(&address) {
        Ok(capability) => capability.auth_token.expose().to_owned(),
        Err(_) => TOKEN.to_owned(),
    })
}

/// With this, servers and clients of ours find each other, and nothing else.
pub fn with_environment<'c>(command: &'c mut Command, dir: &Path) -> &'c mut Command {
    command.env("CLAUDE_CONFIG_DIR", dir).env("TMPDIR", dir)
}

/// The processor time that all threads of a process have had.
pub fn cpu(pid: u32) -> Result<Duration> {
    let clock: ClockId = clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?;
    Ok(clock_gettime(clock)?.into())
}

/// A figure in `/proc/PID/status`.
fn status(pid: u32, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("an odd /proc/PID/status")?;
    Ok(line.split_whitespace().next().unwrap_or("").parse()?)
}

/// The top of the repository.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The program `udsmsg`, built for release from this repository; built at most once.
fn tool() -> Result<PathBuf> {
    static TOOL: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    if let Some(tool) = TOOL.get() {
        return Ok(tool.clone());
    }
    let output = Command::new("cargo")
        .args(["build", "--release", "--bin", "udsmsg", "--message-format=json-render-diagnostics"])
        .current_dir(repository())
        .stderr(Stdio::inherit())
        .output()?;
    let tool = String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|value| value["executable"].as_str().map(PathBuf::from))
        .context("the tool cannot be built")?;
    Ok(TOOL.get_or_init(|| tool).clone())
}
