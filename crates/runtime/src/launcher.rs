//! Starting fresh interpreters: templates, which all pools of this process share, and spawned workers.

use crate::certificate::read_story;
use crate::message::Message;
use bireme_shm::os::process::End;
use bireme_shm::os::{memory, process, socket};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

#[derive(Debug)]
struct Template {
    command: Vec<OsString>,
    /// Its workers get these: a pool made under others needs another template.
    limits: [Option<u64>; 9],
    main: OwnedFd,
    /// The connections of its pools, those that are still open among them.
    pools: Vec<Weak<OwnedFd>>,
    /// What it wrote to standard error until it was ready.
    words: Option<OwnedFd>,
    pid: i32,
    owner: i32,
    /// It leaves with its last pool, and gets no more.
    retires: bool,
}

/// Bytes that a template may write to standard error until it is ready; memory is taken for what it writes.
const WORDS_BYTES: usize = 1 << 20;
/// Templates kept for pools to come; each is an interpreter in memory.
const MOST_KEPT: usize = 4;
/// How long a template whose sockets are closed may take to end.
const LONGEST_END: Duration = Duration::from_secs(2);

static TEMPLATES: Mutex<Vec<Template>> = Mutex::new(Vec::new());

fn templates() -> MutexGuard<'static, Vec<Template>> {
    TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Start `command` with `input` as its standard input, `errors` as its standard error, or else ours; its process id.
pub fn start(command: &[OsString], input: OwnedFd, errors: Option<OwnedFd>) -> io::Result<i32> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    // Dropping the handle neither waits nor kills: pidfds and `reap` do that.
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(input))
        .stderr(errors.map_or_else(Stdio::inherit, Stdio::from))
        .spawn()?;
    Ok(child.id() as i32)
}

impl Template {
    fn is_ours(&self) -> bool {
        self.owner == process::own_pid()
    }

    /// Take in a pool's connection, whose other end the template has.
    fn serve(&mut self, connection: OwnedFd) -> (Arc<OwnedFd>, i32) {
        let connection = Arc::new(connection);
        self.pools.retain(|pool| pool.strong_count() > 0);
        self.pools.push(Arc::downgrade(&connection));
        (connection, self.pid)
    }
}

/// Connect a pool to the template that `command` starts, starting it if there is none.
///
/// Gives the connection, by which it is seen whether the template is used, and the template's process id.
pub fn connect(command: &[OsString]) -> io::Result<(Arc<OwnedFd>, i32)> {
    let mut all = templates();
    all.retain(|template| template.is_ours() && process::reap(template.pid).is_none());
    let (ours, theirs) = socket::pair()?;
    let limits = process::limits();
    let fits = |template: &Template| {
        !template.retires && template.command == command && template.limits == limits
    };
    for place in (0..all.len()).filter(|place| fits(&all[*place])) {
        let attach = Message::Attach.encode();
        if socket::send_blocking(&all[place].main, &attach, &[theirs.as_fd()]).is_ok() {
            let served = all[place].serve(ours);
            all[place..].rotate_left(1); // the one used last is the last
            return Ok(served);
        }
    }
    retire_surplus(&mut all);
    let (main, peer) = socket::pair()?;
    // What it says while it starts is kept, to be told if it does not get far. Then ours is its own.
    let stderr = io::stderr().as_fd().try_clone_to_owned().ok();
    let words = stderr
        .as_ref()
        .and_then(|_| memory::create("bireme-words", WORDS_BYTES).ok());
    let errors = words.as_ref().map(OwnedFd::try_clone).transpose()?;
    let pid = start(command, peer, errors)?;
    let this = process::open_self()?;
    let mut given = vec![this.as_fd()];
    given.extend(stderr.iter().filter(|_| words.is_some()).map(AsFd::as_fd));
    socket::send_blocking(&main, &Message::Attach.encode(), &given)?;
    socket::send_blocking(&main, &Message::Attach.encode(), &[theirs.as_fd()])?;
    let mut template = Template {
        command: command.to_vec(),
        limits,
        main,
        pools: Vec::new(),
        words,
        pid,
        owner: process::own_pid(),
        retires: false,
    };
    let served = template.serve(ours);
    all.push(template);
    Ok(served)
}

/// Have those leave, with their last pool, that were not used for longest; one more is about to start.
fn retire_surplus(all: &mut [Template]) {
    let kept = all.iter().filter(|template| !template.retires).count();
    for template in all
        .iter_mut()
        .filter(|template| !template.retires)
        .take((kept + 1).saturating_sub(MOST_KEPT))
    {
        template.retires =
            socket::send_blocking(&template.main, &Message::Retire.encode(), &[]).is_ok();
    }
}

/// How template `pid`, which hung up, ended, and what it said last; waits for its end.
pub fn fate_of(pid: i32) -> String {
    if let Ok(pidfd) = process::open(pid) {
        let _ = process::poll(&[pidfd.as_fd()], Some(LONGEST_END));
    }
    let mut all = templates();
    let place = all.iter().position(|template| template.pid == pid);
    let how = match place.and_then(|_| process::reap(pid)) {
        Some((End::Exited(code), _)) => format!(" with exit code {code}"),
        Some((End::Signalled(signal), _)) => format!(": signal {signal} killed it"),
        Some((End::Unknown, _)) | None => String::new(),
    };
    let words = match place {
        Some(place) if !how.is_empty() => all.swap_remove(place).words,
        _ => None, // another pool was told, and has started the next one
    };
    let words = words.as_ref().map(read_story).unwrap_or_default();
    let last = words.lines().rfind(|line| !line.trim().is_empty());
    let last = last.map_or_else(String::new, |line| format!("; its last words: {line}"));
    format!("the template process (pid {pid}) ended{how}{last}")
}

/// Close what this process, a forked child, has inherited of templates.
pub fn forget_inherited() {
    if let Ok(mut all) = TEMPLATES.try_lock() {
        all.retain(Template::is_ours);
    }
}

/// Let all templates of this process go and wait for their end: at interpreter exit.
pub fn end_all() {
    end(|_| true);
}

/// Let the templates go that serve no pool, and wait for their end.
pub fn end_unused() {
    end(|template| template.pools.iter().all(|pool| pool.strong_count() == 0));
}

fn end(which: impl Fn(&Template) -> bool) {
    let ended: Vec<Template> = templates()
        .extract_if(.., |template| !template.is_ours() || which(template))
        .filter(Template::is_ours)
        .collect();
    for Template { main, pid, .. } in ended {
        drop(main); // its hang-up is the order to leave
        if let Ok(pidfd) = process::open(pid) {
            let _ = process::poll(&[pidfd.as_fd()], Some(LONGEST_END));
        }
        let _ = process::reap(pid);
    }
}
