//! What only the kernel can do, and no safe wrapper offers: a network interface whose other end is a
//! file, a file system that forgets what was not synced, and a thread in another network namespace.

#![allow(
    unsafe_code,
    reason = "two ioctls that no crate wraps: TUNSETIFF and EXT4_IOC_SHUTDOWN"
)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::Context;
use nix::sched::{CloneFlags, setns};

/// `IFF_TAP | IFF_NO_PI` of linux/if_tun.h: whole Ethernet frames, nothing before them.
const TAP_WITHOUT_INFO: libc_short = 0x0002 | 0x1000;
/// `EXT4_GOING_FLAGS_NOLOGFLUSH` of fs/ext4/ext4.h: not even the journal's buffers are written.
const NOLOGFLUSH: u32 = 2;

#[allow(non_camel_case_types, reason = "as C calls it")]
type libc_short = i16;

/// `struct ifreq` of linux/if.h as far as TUNSETIFF reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc_short,
    rest: [u8; 22],
}

nix::ioctl_write_ptr_bad!(
    /// Makes the file the other end of an interface (linux/if_tun.h).
    set_interface,
    nix::request_code_write!(b'T', 202, size_of::<i32>()),
    InterfaceRequest
);

nix::ioctl_read!(
    /// Declared as a read in ext4.h, though it takes its flags from the pointer.
    ext4_shutdown,
    b'X',
    125,
    u32
);

/// Makes the interface `name` in the network namespace `netns` (a path); frames are read from and
/// written to the file.
///
/// # Errors
/// Without the right to, or without /dev/net/tun.
pub(crate) fn open_tap(netns: &Path, name: &str) -> anyhow::Result<File> {
    let (netns, name) = (netns.to_owned(), name.to_owned());
    let thread = std::thread::spawn(move || -> anyhow::Result<File> {
        enter_netns(&netns)?;
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("opening /dev/net/tun")?;
        let mut request = InterfaceRequest {
            name: [0; 16],
            flags: TAP_WITHOUT_INFO,
            rest: [0; 22],
        };
        let length = name.len().min(15);
        request.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        // SAFETY: the descriptor is open, and the struct outlives the call and is as large as ifreq.
        unsafe { set_interface(file.as_raw_fd(), &raw const request) }
            .with_context(|| format!("making the interface {name}"))?;
        Ok(file)
    });
    let made = thread.join();
    made.map_err(|_| anyhow::anyhow!("the thread that makes interfaces panicked"))?
}

/// Moves the calling thread, and threads that it starts later, into a network namespace.
///
/// # Errors
/// Without the right to.
pub(crate) fn enter_netns(netns: &Path) -> anyhow::Result<()> {
    let file = File::open(netns).with_context(|| format!("opening {}", netns.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
}

/// Ends an ext4 file system as a power cut would: from here on nothing reaches the device, and what
/// was not synced is gone once it is mounted again.
///
/// # Errors
/// Where it is not ext4, or not mounted.
pub(crate) fn cut_power(mounted: &Path) -> anyhow::Result<()> {
    let folder = File::open(mounted)?;
    let mut flags = NOLOGFLUSH;
    // SAFETY: the descriptor is open and the kernel reads one u32 through the pointer.
    unsafe { ext4_shutdown(folder.as_raw_fd(), &raw mut flags) }
        .with_context(|| format!("shutting down {}", mounted.display()))?;
    Ok(())
}
