//! Where a cluster lives and whose its files are: directories that are made for the server alone and
//! never taken over from others, the lock of whoever uses one, the socket's place, and the
//! unprivileged user that the server runs as if we are root.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ClusterError;

/// The longest path of a socket that every system takes, in bytes, without the socket's own name.
const MAX_SOCKET_PATH: usize = 80;

/// Whom the server runs as.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

pub(super) fn files(path: &Path, source: io::Error) -> ClusterError {
    ClusterError::Files { path: path.to_owned(), source }
}

/// Takes the directory for this process, until the file is closed.
pub(super) fn lock(dir: &Path) -> Result<File, ClusterError> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|source| files(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ClusterError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(files(&path, source)),
    }
}

/// Makes a directory for the server alone.
pub(super) fn make_dir(path: &Path, owner: Option<User>) -> Result<(), ClusterError> {
    let make = || {
        match fs::create_dir(path) {
            // In a directory for all, another may have put a link there.
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

/// A directory that was not there before: another's must not be taken for ours.
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

/// Where the socket of a cluster in `dir` is: there, or, if the path is too long for a socket or has
/// characters that need quotes, under a name made from it in the directory for temporary files.
pub(super) fn socket_dir(dir: &Path) -> PathBuf {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let text = dir.as_os_str().as_encoded_bytes();
    if text.len() <= MAX_SOCKET_PATH && text.iter().all(plain) {
        return dir.join("socket");
    }
    let mut hasher = rustc_hash::FxHasher::default();
    std::hash::Hash::hash(dir, &mut hasher);
    let name = format!("rowtide-{:016x}", std::hash::Hasher::finish(&hasher));
    std::env::temp_dir().join(name)
}

pub(super) fn is_root() -> bool {
    match fs::metadata("/proc/self") {
        Ok(metadata) => metadata.uid() == 0,
        Err(_) => Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n"),
    }
}

/// Whom the server runs as if we are root: the owner of the data directory, if it is there.
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
