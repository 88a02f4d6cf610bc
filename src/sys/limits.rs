//! Resource limits of the process, and free space on a disk.

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// The free space for unprivileged processes.
    pub free: u64,
    /// The size of the file system.
    pub total: u64,
}

/// Raises the soft limit of open files to `wanted`, or to the hard limit if the hard limit is lower. Never lowers the
/// soft limit. Returns the soft limit in force.
///
/// # Errors
/// The errors of `getrlimit` and `setrlimit`. No error is expected: raising up to the hard limit needs no privilege.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes one `rlimit` through a pointer to a local.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    limit.rlim_cur = wanted.min(limit.rlim_max);
    // SAFETY: setrlimit reads one `rlimit` through a pointer to a local.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Ignores the signal SIGXFSZ. A write that makes a file larger than the process's limit (`RLIMIT_FSIZE`) then fails with
/// `EFBIG`, which the service handles like a full disk. Without this call, the kernel would end the process during the
/// write.
///
/// # Errors
/// The error of `signal`. No error is expected.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler, so no code of this process runs when the signal arrives.
    if unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Returns the space of the file system that contains `path`.
///
/// # Errors
/// The errors of `statvfs`; `InvalidInput` if the path contains a zero byte.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut space = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` is a C string that lives through the call, and statvfs writes one `statvfs` through the pointer.
    check(unsafe { libc::statvfs(path.as_ptr(), space.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the kernel has filled the buffer. Its initial value, all zeros, is valid, too.
    let space = unsafe { space.assume_init() };
    Ok(DiskSpace {
        free: space.f_bavail.saturating_mul(space.f_frsize),
        total: space.f_blocks.saturating_mul(space.f_frsize),
    })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_never_lowered() {
        let now = raise_open_files(1).unwrap();
        assert!(now >= 1);
        assert_eq!(raise_open_files(now).unwrap(), now);
    }

    #[test]
    fn a_disk_has_space_and_a_missing_path_is_an_error() {
        let space = disk_space(Path::new("/")).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert_eq!(
            disk_space(Path::new("/nonexistent")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
