//! What workers say: messages, output, log records, and how much of it may wait.

use super::state::State;
use super::{Shared, Ticket};
use crate::message::Message;
use bireme_shm::os::{process, socket};
use bireme_shm::prim::Ordering;
use bireme_shm::segment::Segment;
use std::collections::VecDeque;
use std::sync::Arc;

/// What workers have printed and logged waits to be delivered, up to so many bytes; then they wait.
const MOST_EVENT_BYTES: usize = 16 << 20;
/// What a pipe can hold, unless its owner is privileged.
const PIPE_BYTES: usize = 1 << 20;
/// Messages that are read from one worker at a time, more than a socket holds: its task may log for ever.
const MOST_MESSAGES: usize = 1024;

/// Something that a worker printed or logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Whole lines (or a last, unfinished one) of standard output (1) or error (2).
    Output {
        /// 1 or 2.
        stream: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// An encoded log record.
    Log(Vec<u8>),
}

/// What waits to be delivered to the caller.
#[derive(Debug, Default)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    bytes: usize,
}

impl Events {
    fn push(&mut self, event: Event) {
        let (Event::Output { bytes, .. } | Event::Log(bytes)) = &event;
        self.bytes += bytes.len();
        self.waiting.push_back(event);
    }

    /// Take all; whether workers had to wait with more.
    pub(super) fn take(&mut self, into: &mut Vec<Event>) -> bool {
        let held_up = self.are_many();
        into.extend(self.waiting.drain(..));
        self.bytes = 0;
        held_up
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether so much waits that workers are not listened to.
    pub(super) fn are_many(&self) -> bool {
        self.bytes > MOST_EVENT_BYTES
    }
}

impl<T: Ticket> Shared<T> {
    /// Read what a worker has to say.
    pub(super) fn hear_worker(&self, state: &mut State<T>, row: u32) {
        let mut buffer = vec![0; crate::message::MAX_BYTES];
        for _ in 0..MOST_MESSAGES {
            let Some(worker) = state.workers.get_mut(row as usize).and_then(Option::as_mut) else {
                return;
            };
            let (len, mut fds) = match socket::receive(&worker.socket, &mut buffer, false) {
                Ok((len, fds)) if len > 0 => (len, fds),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                _ => {
                    worker.deaf_since_ns.get_or_insert_with(process::now_ns);
                    return; // its end is told by its pidfd
                }
            };
            let message = Message::decode(&buffer[..len]);
            match message.and_then(|message| worker.parts.join(message)) {
                Some(Message::Ready) => {
                    let now_ns = process::now_ns();
                    worker.ready_ns = Some(now_ns);
                    state.statistics.last_birth_ns = now_ns - worker.ordered_ns;
                    self.act(state, bireme_sched::Event::Ready { row });
                }
                // What is older than the worker is not its own, whatever wrote this.
                Some(Message::Stays { pid, started }) if started >= worker.since => {
                    worker.family.push((pid, started));
                }
                Some(Message::Segment(id)) => {
                    let attached = match fds.pop() {
                        Some(fd) => Segment::attach(id, fd),
                        None => Err(socket::descriptor_dropped()),
                    };
                    match attached {
                        Ok(segment) => drop(state.segments.insert(id, Arc::new(segment))),
                        Err(error) => {
                            state.refusal = error.to_string();
                            self.retire(state, row); // its successor has other segments
                        }
                    }
                }
                Some(Message::InitializerFailed(why)) => {
                    worker.initializer_failed = true; // the crew is told when the process is gone
                    state.initializer_error = Some(why);
                }
                Some(Message::Log(record)) => {
                    state.events.push(Event::Log(record));
                    self.news.store(true, Ordering::Release);
                }
                _ => {}
            }
        }
    }

    /// Give an unfinished line away: its task, or its worker, has ended.
    pub(super) fn flush_output(&self, state: &mut State<T>, row: u32) {
        let Some(worker) = state.workers.get_mut(row as usize).and_then(Option::as_mut) else {
            return;
        };
        let rests = worker.streams.each_mut().map(|(_, lines)| lines.flush());
        for (stream, rest) in (1..).zip(rests) {
            if let Some(bytes) = rest {
                state.events.push(Event::Output { stream, bytes });
                self.news.store(true, Ordering::Release);
            }
        }
    }

    /// Read what a worker printed, up to what a pipe can hold: its task may print on for ever.
    pub(super) fn hear_output(&self, state: &mut State<T>, row: u32) {
        let mut buffer = vec![0; 64 << 10];
        for index in 0..2 {
            let stream = index as u8 + 1;
            let mut left = PIPE_BYTES;
            while left > 0 {
                let worker = state.workers.get_mut(row as usize).and_then(Option::as_mut);
                let Some((fd, lines)) = worker.map(|worker| &mut worker.streams[index]) else {
                    return;
                };
                let Some(open) = fd else { break };
                match process::read(&**open, &mut buffer) {
                    Ok(0) => *fd = None,
                    Ok(len) => {
                        left = left.saturating_sub(len);
                        if let Some(bytes) = lines.push(&buffer[..len]) {
                            state.events.push(Event::Output { stream, bytes });
                            self.news.store(true, Ordering::Release);
                        }
                    }
                    Err(_) => break, // nothing waits
                }
            }
        }
    }
}
