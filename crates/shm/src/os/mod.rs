//! The system calls: the only code of the project that talks to the kernel
//! about memory, processes and sockets. Another platform is added here.

pub mod futex;
pub mod memory;
pub mod process;
pub mod socket;
pub mod thread;
