//! Starting fresh interpreters: templates, which all pools of this process share, and spawned workers.

use crate::certificate::read_story;
use crate::message::Message;
use bireme_shm::fork_lock::ForkLock;
use bireme_shm::os::process::End;
use bireme_shm::os::{memory, process, socket};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
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

    /// Have it leave, and wait for its end.
    fn dismiss(self) {
        drop(self.main); // its hang-up is the order to leave
        if let Ok(pidfd) = process::open(self.pid) {
            let _ = process::poll(&[pidfd.as_fd()], Some(LONGEST_END));
        }
        let _ = process::reap(self.pid);
    }
}

/// Bytes that a template may write to standard error until it is ready; memory is taken for what it writes.
const WORDS_BYTES: usize = 1 << 20;
/// Templates kept for pools to come; each is an interpreter in memory.
const MOST_KEPT: usize = 4;
/// How long a template whose sockets are closed may take to end.
const LONGEST_END: Duration = Duration::from_secs(2);

/// How a template ended.
#[derive(Clone, Debug)]
pub struct Fate {
    /// The same in words, and what it said last.
    pub story: String,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}

impl Fate {
    fn new(pid: i32, end: End, words: Option<&OwnedFd>) -> Self {
        let (how, signal) = match end {
            End::Exited(code) => (format!(" with exit code {code}"), None),
            End::Signalled(signal) => (format!(": signal {signal} killed it"), Some(signal)),
            End::Unknown => (String::new(), None),
        };
        let words = words.map(read_story).unwrap_or_default();
        let last = words.lines().rfind(|line| !line.trim().is_empty());
        let last = last.map_or_else(String::new, |line| format!("; its last words: {line}"));
        let story = format!("the template process (pid {pid}) ended{how}{last}");
        Self { story, signal }
    }
}

#[derive(Debug, Default)]
struct Templates {
    living: Vec<Template>,
    /// Of the last ones that ended, with their process ids: each of their pools asks.
    fates: Vec<(i32, Fate)>,
}

impl Templates {
    /// Part with those that have ended, and with a parent's.
    fn bury(&mut self) {
        let fates = &mut self.fates;
        self.living.retain(|template| {
            if !template.is_ours() {
                return false;
            }
            let Some((end, _)) = process::reap(template.pid) else {
                return true;
            };
            let fate = Fate::new(template.pid, end, template.words.as_ref());
            fates.push((template.pid, fate));
            false
        });
        let surplus = fates.len().saturating_sub(MOST_KEPT);
        fates.drain(..surplus);
    }
}

static TEMPLATES: ForkLock<Templates> = ForkLock::new();

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

/// Connect a pool to the template that `command` starts, starting it if there is none.
///
/// Gives the connection, by which it is seen whether the template is used, and the template's process id.
pub fn connect(command: &[OsString]) -> io::Result<(Arc<OwnedFd>, i32)> {
    let mut templates = TEMPLATES.lock();
    templates.bury();
    let all = &mut templates.living;
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
    retire_surplus(all);
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
    let greeted = [&given, &[theirs.as_fd()][..]]
        .into_iter()
        .try_for_each(|fds| socket::send_blocking(&main, &Message::Attach.encode(), fds));
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
    // The hang-up of one that has been killed already is still to be heard, by whoever listens to `ours`.
    if let Err(error) = greeted
        && !socket::is_hang_up(&error)
    {
        template.dismiss();
        return Err(error);
    }
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
pub fn fate_of(pid: i32) -> Fate {
    if let Ok(pidfd) = process::open(pid) {
        let _ = process::poll(&[pidfd.as_fd()], Some(LONGEST_END));
    }
    let mut templates = TEMPLATES.lock();
    templates.bury();
    let known = templates.fates.iter().rfind(|(whose, _)| *whose == pid);
    known.map_or_else(
        || Fate::new(pid, End::Unknown, None),
        |(_, fate)| fate.clone(),
    )
}

/// Close what this process, a forked child, has inherited of templates.
pub fn forget_inherited() {
    TEMPLATES.after_fork_in_child();
    TEMPLATES.lock().living.retain(Template::is_ours);
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
    let ended: Vec<Template> = TEMPLATES
        .lock()
        .living
        .extract_if(.., |template| !template.is_ours() || which(template))
        .collect();
    let ours = ended.into_iter().filter(Template::is_ours);
    ours.for_each(Template::dismiss);
}
