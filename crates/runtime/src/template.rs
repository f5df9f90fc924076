//! The template's side: a clean, single-threaded interpreter that forks workers.
//!
//! The interpreter calls [`Host::wait`] in a loop and forks when told to; all
//! waiting, reaping and telling happens here. The template is also the warden: when the
//! client is gone (its process ended, or its socket hung up, as after an `exec`), it ends
//! every worker and whatever they left behind, then itself.

use crate::birth::Birth;
use crate::message::{Ended, MAX_BYTES, Message};
use crate::watchdog::Watchdog;
use bireme_shm::fail::{self, Point};
use bireme_shm::os::{process, socket};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

#[derive(Debug)]
struct Child {
    pid: i32,
    pidfd: OwnedFd,
}

#[derive(Debug)]
struct Pool {
    socket: OwnedFd,
    children: Vec<Child>,
}

/// The template's state.
#[derive(Debug)]
pub struct Host {
    client: OwnedFd,
    /// The client's standard error; ours goes to a memory file at first.
    stderr: Option<OwnedFd>,
    main: OwnedFd,
    pools: Vec<Pool>,
    /// What dead workers left behind, was told to end and has not ended.
    orphans: Vec<Child>,
    /// No pools will come.
    retires: bool,
    asked: Option<(usize, Birth)>,
}

/// What the interpreter must do.
#[derive(Debug)]
pub enum Asked {
    /// Fork; in the child take [`Host::into_birth`], in the parent call [`Host::forked`].
    Fork,
    /// Leave: the client is gone and everything of it was ended, or the last pool is.
    Leave,
}

impl Host {
    /// Serve the client behind `main`, the socket that is our standard input; it first sends its process
    /// descriptor, and its standard error if it has one.
    pub fn new(main: OwnedFd) -> io::Result<Self> {
        fail::arm(0);
        process::adopt_orphans();
        process::continue_with_parents_end();
        let mut buffer = [0; 16];
        let (_, mut fds) = socket::receive(&main, &mut buffer, true)?;
        if fds.is_empty() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let client = fds.remove(0);
        Ok(Self {
            client,
            stderr: fds.pop(),
            main,
            pools: Vec::new(),
            orphans: Vec::new(),
            retires: false,
            asked: None,
        })
    }

    /// Watch for the client's end from another thread, until that is dropped.
    pub fn watch(&self) -> io::Result<Watchdog> {
        Watchdog::start(self.client.try_clone()?, self.main.try_clone()?)
    }

    /// The client's standard error, once: where ours is to go when all is ready.
    pub fn take_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.take()
    }

    /// Wait for something that the interpreter must do.
    pub fn wait(&mut self) -> io::Result<Asked> {
        loop {
            if self.retires && self.pools.is_empty() {
                return Ok(Asked::Leave);
            }
            let ready = process::poll(&self.sources(), None)?;
            let pools = self.pools.len();
            if ready[0] || (ready[1] && !self.read_main()) {
                self.end_everything();
                return Ok(Asked::Leave);
            }
            if ready[2 + pools..].contains(&true) {
                self.reap();
            }
            for index in (0..pools).rev().filter(|index| ready[2 + index]) {
                if self.read_pool(index) {
                    return Ok(Asked::Fork);
                }
            }
        }
    }

    /// Whatever may become readable: the client, the main socket, those of the pools, processes.
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.client.as_fd(), self.main.as_fd()];
        fds.extend(self.pools.iter().map(|pool| pool.socket.as_fd()));
        let children = self.pools.iter().flat_map(|pool| &pool.children);
        fds.extend(
            children
                .chain(&self.orphans)
                .map(|child| child.pidfd.as_fd()),
        );
        fds
    }

    fn read_main(&mut self) -> bool {
        let mut buffer = [0; 16];
        match socket::receive(&self.main, &mut buffer, false) {
            Ok((0, _)) => false,
            Ok((len, fds)) => {
                self.retires |= Message::decode(&buffer[..len]) == Some(Message::Retire);
                self.pools.extend(fds.into_iter().map(|socket| Pool {
                    socket,
                    children: Vec::new(),
                }));
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }

    /// Whether the pool asked for a fork.
    fn read_pool(&mut self, index: usize) -> bool {
        let mut buffer = vec![0; MAX_BYTES];
        match socket::receive(&self.pools[index].socket, &mut buffer, false) {
            Ok((len, fds)) if len > 0 => {
                if let Some(Message::Birth(order)) = Message::decode(&buffer[..len])
                    && let Ok(birth) = Birth::from_parts(order, fds)
                {
                    self.asked = Some((index, birth));
                    fail::point(Point::TemplateFork);
                    return true;
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            _ => {
                // The pool is gone: so are its workers.
                let pool = self.pools.swap_remove(index);
                end(pool.children);
                false
            }
        }
    }

    /// In the parent: `pid` was forked for the last request, or the errno of a failure.
    pub fn forked(&mut self, result: Result<i32, i32>) {
        let Some((index, birth)) = self.asked.take() else {
            return;
        };
        let row = birth.order.row;
        fail::point(Point::TemplateBorn);
        let pool = &mut self.pools[index];
        let answer = match result.and_then(|pid| {
            let errno = |error: io::Error| error.raw_os_error().unwrap_or(0);
            process::open_newborn(pid)
                .map(|pidfd| (pid, pidfd))
                .map_err(errno)
        }) {
            Ok((pid, pidfd)) => {
                let sent = socket::send_blocking(
                    &pool.socket,
                    &Message::Born { row, pid }.encode(),
                    &[pidfd.as_fd()],
                );
                pool.children.push(Child { pid, pidfd });
                sent
            }
            Err(errno) => {
                socket::send_blocking(&pool.socket, &Message::NotBorn { row, errno }.encode(), &[])
            }
        };
        drop(answer); // a client that is gone is noticed by `wait`
    }

    /// No fork will ever be made, for the reason `why`. Leave after this.
    pub fn refuse(&mut self, why: &str) {
        let Some((index, birth)) = self.asked.take() else {
            return;
        };
        let row = birth.order.row;
        let why = why.as_bytes()[..why.len().min(MAX_BYTES / 2)].to_vec();
        let message = Message::Refused { row, why }.encode();
        let _ = socket::send_blocking(&self.pools[index].socket, &message, &[]);
        self.end_everything();
    }

    /// In the child: what it was born with. Everything of the template's own is closed.
    pub fn into_birth(self) -> Option<Birth> {
        self.asked.map(|(_, birth)| birth)
    }

    fn reap(&mut self) {
        for pool in &mut self.pools {
            pool.children.retain(|child| {
                if !process::has_ended(&child.pidfd) {
                    return true;
                }
                let (end, peak_kib) =
                    process::reap(child.pid).unwrap_or((process::End::Unknown, 0));
                fail::point(Point::TemplateEnded);
                let message = Message::Ended(Ended::new(child.pid, end, peak_kib));
                let _ = socket::send_blocking(&pool.socket, &message.encode(), &[]);
                false
            });
        }
        self.orphans.retain(|orphan| {
            !process::has_ended(&orphan.pidfd) || process::reap(orphan.pid).is_none()
        });
        // What a dead worker left behind was handed to us: it goes with it.
        let children = self.pools.iter().flat_map(|pool| &pool.children);
        let known: Vec<i32> = children
            .chain(&self.orphans)
            .map(|child| child.pid)
            .collect();
        for pid in process::children(process::own_pid())
            .into_iter()
            .filter(|pid| !known.contains(pid))
        {
            for descendant in process::descendants(pid) {
                process::kill_pid(descendant);
            }
            process::kill_pid(pid);
            // One that runs as another user by now ends when it likes.
            if let Ok(pidfd) = process::open(pid) {
                self.orphans.push(Child { pid, pidfd });
            }
        }
    }

    fn end_everything(&mut self) {
        for pool in self.pools.drain(..) {
            end(pool.children);
        }
        process::end_descendants();
    }
}

fn end(children: Vec<Child>) {
    for child in &children {
        for pid in process::descendants(child.pid) {
            process::kill_pid(pid);
        }
        let _ = process::signal(child.pidfd.as_fd(), 9);
    }
    for child in children {
        let _ = process::poll(&[child.pidfd.as_fd()], Some(Duration::from_secs(5)));
        let _ = process::reap(child.pid);
    }
}
