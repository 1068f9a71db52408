//! The places and the owner of a cluster's files. Directories are created for the server alone, and a
//! directory of somebody else is never used. A lock keeps two processes from using one directory. If this
//! process is root, an unprivileged user owns the files and runs the server.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ClusterError;

/// The longest directory of a socket that every system accepts, in bytes.
const MAX_SOCKET_PATH: usize = 80;

/// The user that the server runs as.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

pub(super) fn files(path: &Path, source: io::Error) -> ClusterError {
    ClusterError::Files { path: path.to_owned(), source }
}

/// Locks the directory for this process, until the file is closed.
pub(super) fn lock(dir: &Path) -> Result<File, ClusterError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|source| files(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ClusterError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(files(&path, source)),
    }
}

/// Creates a directory that only the server can access.
pub(super) fn make_dir(path: &Path, owner: Option<User>) -> Result<(), ClusterError> {
    let make = || {
        match fs::create_dir(path) {
            // In a directory for everyone, somebody may have put a link there.
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists
                    && fs::symlink_metadata(path)?.is_dir() => {}
            made => made?,
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        give(path, owner)
    };
    make().map_err(|source| files(path, source))
}

pub(super) fn give(path: &Path, owner: Option<User>) -> io::Result<()> {
    owner.map_or(Ok(()), |user| chown(path, Some(user.uid), Some(user.gid)))
}

/// Creates a directory that did not exist before, so that it is nobody else's.
pub(super) fn make_temporary_dir() -> Result<PathBuf, ClusterError> {
    let root = std::env::temp_dir();
    for count in 0.. {
        let dir = root.join(format!("rowtide-{}-{count}", std::process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(files(&dir, source)),
        }
    }
    Err(files(&root, io::ErrorKind::AlreadyExists.into()))
}

/// The directory of the socket of a cluster in `dir`. It is in `dir`, unless that path is too long for a
/// socket or has characters that need quotes. Then it is in the directory for temporary files, under a name
/// made from the path.
pub(super) fn socket_dir(dir: &Path) -> PathBuf {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let text = dir.as_os_str().as_encoded_bytes();
    if text.len() <= MAX_SOCKET_PATH && text.iter().all(plain) {
        return dir.join("socket");
    }
    // FNV-1a. It has to be the same each time, and the path is of this machine.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.iter().fold(0xcbf2_9ce4_8422_2325, mix);
    std::env::temp_dir().join(format!("rowtide-{hash:016x}"))
}

pub(super) fn is_root() -> bool {
    match fs::metadata("/proc/self") {
        Ok(metadata) => metadata.uid() == 0,
        Err(_) => Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n"),
    }
}

/// The user that the server runs as if this process is root: the owner of the data directory, if it exists.
pub(super) fn server_user(data: &Path) -> Option<User> {
    match fs::metadata(data) {
        Ok(data) if data.uid() != 0 => Some(User { uid: data.uid(), gid: data.gid() }),
        _ => unprivileged_user(),
    }
}

fn unprivileged_user() -> Option<User> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let of = |wanted: &str| {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?, fields.next()?);
            (name == wanted).then_some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
        })
    };
    of("postgres").or_else(|| of("nobody"))
}
