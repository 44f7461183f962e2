//! The disk of one node: an ext4 file system of its own on a loop device, so that it can be full, stand
//! still, or lose power without anybody else noticing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::sys;

/// Bytes of one disk. The image is sparse and lies in memory.
pub(crate) const DISK_BYTES: u64 = 1 << 30;

/// One node's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    folder: PathBuf,
    is_mounted: bool,
}

impl Disk {
    /// Makes and mounts it.
    pub(crate) fn make(images: &Path, name: &str) -> anyhow::Result<Self> {
        let image = images.join(format!("{name}.img"));
        let folder = images.join(name);
        std::fs::create_dir(&folder)?;
        File::create(&image)?.set_len(DISK_BYTES)?;
        let path = image.display().to_string();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &path])?;
        let mut disk = Self {
            image,
            folder,
            is_mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        let (image, folder) = (self.image.display(), self.folder.display());
        run(
            "mount",
            &[
                "-o",
                "loop,noatime",
                &image.to_string(),
                &folder.to_string(),
            ],
        )?;
        self.is_mounted = true;
        Ok(())
    }

    /// From here on nothing reaches the device.
    pub(crate) fn cut_power(&self) -> anyhow::Result<()> {
        sys::cut_power(&self.folder)
    }

    /// The power is back: what was synced is there. Nobody may use the disk.
    pub(crate) fn restore_power(&mut self) -> anyhow::Result<()> {
        run("umount", &[&self.folder.display().to_string()])?;
        self.is_mounted = false;
        self.mount()
    }

    /// Writes stand still until [`Disk::thaw`].
    pub(crate) fn freeze(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["-f", &self.folder.display().to_string()])
    }

    /// Writes go on.
    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["-u", &self.folder.display().to_string()])
    }

    /// Takes all the space that is left.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let ballast = File::create(self.ballast())?;
        let mut step = DISK_BYTES;
        let mut taken = 0;
        // Halves its steps until not even a small one fits.
        while step >= 4096 {
            let fits = nix::fcntl::fallocate(
                &ballast,
                nix::fcntl::FallocateFlags::empty(),
                i64::try_from(taken)?,
                i64::try_from(step)?,
            );
            match fits {
                Ok(()) => taken += step,
                Err(nix::errno::Errno::ENOSPC) => step /= 2,
                Err(error) => bail!("filling the disk: {error}"),
            }
        }
        Ok(())
    }

    /// Gives the space back.
    pub(crate) fn clear(&self) -> anyhow::Result<()> {
        match std::fs::remove_file(self.ballast()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            let _ = run("umount", &["-l", &self.folder.display().to_string()]);
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// What it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    output(program, args).map(drop)
}

/// Runs a command to its end; answers with what it printed on stdout.
pub(crate) fn output(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {args:?}: {}: {printed}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
