//! Control sockets: pairs that keep message boundaries and carry descriptors.

use crate::os::process;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// How often, and after which pauses, what the system has no room for is sent again: one second.
const SHORTAGE_ROUNDS: u32 = 100;
const SHORTAGE_PAUSE: Duration = Duration::from_millis(10);
/// Most descriptors that travel with one message: the system's limit (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Make a connected pair, close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Send one message with descriptors; never blocks and never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when the peer is slow, `BrokenPipe` when it is gone; see [`may_pass`].
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with(
        socket,
        bytes,
        fds,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )
}

/// As [`send`], but waits while the peer is slow, and a while if the system has no room.
pub fn send_blocking(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    for _ in 0..SHORTAGE_ROUNDS {
        match send_with(&socket, bytes, fds, SendFlags::NOSIGNAL) {
            Err(error) if may_pass(&error) => process::pause(SHORTAGE_PAUSE),
            other => return other,
        }
    }
    send_with(socket, bytes, fds, SendFlags::NOSIGNAL)
}

/// Whether a message that was not sent may be sent later: the peer is slow, or the system has no memory,
/// or too many descriptors of this user are under way.
pub fn may_pass(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [
        Errno::AGAIN,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::TOOMANYREFS,
    ];
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| passing.contains(&errno))
}

/// Whether a message was not sent, or not received, because the peer is gone.
pub fn is_hang_up(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
    kinds.contains(&error.kind())
}

fn send_with(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut ancillary,
            flags,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

/// Wait until most of the socket's buffer is free, the peer is gone, a signal has come or `timeout` is over;
/// whether one of the first two holds.
pub fn wait_writable(socket: impl AsFd, timeout: Duration) -> bool {
    let limit = Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: i64::from(timeout.subsec_nanos()),
    };
    let mut entry = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
    rustix::event::poll(&mut entry, Some(&limit)).is_ok_and(|ready| ready > 0)
}

/// The number by which the system knows the socket, whatever descriptor it has; 0 if it is none of ours.
pub fn inode(socket: impl AsFd) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}

/// Say that nothing more will be sent; what the peer still sends, and its end, can be heard.
pub fn hang_up(socket: impl AsFd) {
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
}

/// Why a message came without the descriptor that was sent with it.
pub fn descriptor_dropped() -> io::Error {
    rustix::io::Errno::MFILE.into()
}

/// Receive one message into `buffer`: its length and its descriptors.
///
/// A length of 0 means that the peer is gone.
///
/// # Errors
/// `WouldBlock` when there is none, `InvalidData` when it was longer than `buffer`: the rest of it is lost.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    block: bool,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC
        | if block {
            RecvFlags::empty()
        } else {
            RecvFlags::DONTWAIT
        };
    let message = loop {
        match rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            &mut ancillary,
            flags,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_does_not_fit_is_an_error() {
        let (one, other) = pair().expect("a pair");
        send(&one, &[1; 9], &[]).expect("sent");
        send(&one, &[2; 8], &[]).expect("sent");
        let mut buffer = [0; 8];
        let cut = receive(&other, &mut buffer, false).expect_err("longer than the buffer");
        assert_eq!(cut.kind(), io::ErrorKind::InvalidData);
        let (len, _) = receive(&other, &mut buffer, false).expect("the next one fits");
        assert_eq!((len, buffer), (8, [2; 8]));
    }
}
