//! Starting fresh interpreters: templates, which all pools of this process share, and spawned workers.

use crate::message::Message;
use bireme_shm::os::{process, socket};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Template {
    command: Vec<OsString>,
    /// Its workers get these: a pool made under others needs another template.
    limits: [Option<u64>; 9],
    main: OwnedFd,
    pid: i32,
    owner: i32,
}

static TEMPLATES: Mutex<Vec<Template>> = Mutex::new(Vec::new());

fn templates() -> MutexGuard<'static, Vec<Template>> {
    TEMPLATES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Start `command` with `input` as its standard input; its process id.
pub fn start(command: &[OsString], input: OwnedFd) -> io::Result<i32> {
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    // Dropping the handle neither waits nor kills: pidfds and `reap` do that.
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(input))
        .spawn()?;
    Ok(child.id() as i32)
}

/// Connect a pool to the template that `command` starts, starting it if there is none.
///
/// Gives the connection and the template's process id.
pub fn connect(command: &[OsString]) -> io::Result<(OwnedFd, i32)> {
    let mut all = templates();
    all.retain(|template| {
        template.owner == process::own_pid() && process::reap(template.pid).is_none()
    });
    let (ours, theirs) = socket::pair()?;
    let limits = process::limits();
    let fits = |template: &&Template| template.command == command && template.limits == limits;
    for template in all.iter().filter(fits) {
        if socket::send_blocking(&template.main, &Message::Attach.encode(), &[theirs.as_fd()])
            .is_ok()
        {
            return Ok((ours, template.pid));
        }
    }
    let (main, peer) = socket::pair()?;
    let pid = start(command, peer)?;
    socket::send_blocking(
        &main,
        &Message::Attach.encode(),
        &[process::open_self()?.as_fd()],
    )?;
    socket::send_blocking(&main, &Message::Attach.encode(), &[theirs.as_fd()])?;
    all.push(Template {
        command: command.to_vec(),
        limits,
        main,
        pid,
        owner: process::own_pid(),
    });
    Ok((ours, pid))
}

/// Close what this process, a forked child, has inherited of templates.
pub fn forget_inherited() {
    if let Ok(mut all) = TEMPLATES.try_lock() {
        all.retain(|template| template.owner == process::own_pid());
    }
}

/// Let all templates of this process go and wait for their end: at interpreter exit.
pub fn end_all() {
    let ended: Vec<Template> = templates()
        .drain(..)
        .filter(|template| template.owner == process::own_pid())
        .collect();
    for Template { main, pid, .. } in ended {
        drop(main); // its hang-up is the order to leave
        if let Ok(pidfd) = process::open(pid) {
            let _ = process::poll(&[pidfd.as_fd()], Some(std::time::Duration::from_secs(2)));
        }
        let _ = process::reap(pid);
    }
}
