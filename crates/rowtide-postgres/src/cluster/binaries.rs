//! Finds the binaries of a PostgreSQL server: in the directory of `ROWTIDE_PG_BIN`, or where distributions
//! and Homebrew install them. Only the major version that made a data directory can use it, so this module
//! looks for that version. Without a data directory it takes the newest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::ClusterError;

/// The directory of the server's binaries: of the version that made the data directory, or else of
/// the newest.
pub(super) fn find(data: &Path, wanted: Option<&str>) -> Result<PathBuf, ClusterError> {
    let named = std::env::var_os("ROWTIDE_PG_BIN").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let installed: Vec<(String, PathBuf)> = match &named {
        Some(dir) => vec![dir.clone()],
        None => places(),
    }
    .into_iter()
    .filter_map(|dir| Some((version(&dir)?, dir)))
    .collect();
    let major = |version: &str| version.split(['.', 'b', 'r']).next().map(str::to_owned);
    let fits = |version: &str| wanted.is_none() || wanted.map(str::to_owned) == major(version);
    if let Some((_, dir)) = installed.iter().find(|(version, _)| fits(version)) {
        return Ok(dir.clone());
    }
    Err(match (installed.first(), wanted, named) {
        (Some((installed, _)), Some(found), _) => ClusterError::Version {
            dir: data.to_owned(),
            found: found.to_owned(),
            installed: installed.clone(),
        },
        (_, _, Some(dir)) => ClusterError::NoBinariesIn(dir),
        _ => ClusterError::NotInstalled,
    })
}

/// The version of the server in `dir`, such as `15.18`; `None` if not all that is needed is there.
fn version(dir: &Path) -> Option<String> {
    if !["initdb", "pg_ctl", "postgres"].iter().all(|name| dir.join(name).is_file()) {
        return None;
    }
    let said = Command::new(dir.join("postgres")).arg("--version").output().ok()?;
    String::from_utf8_lossy(&said.stdout).split_whitespace().nth(2).map(str::to_owned)
}

/// The directories that may have binaries, the preferred ones first.
fn places() -> Vec<PathBuf> {
    let versions = |root: &str| {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let mut dirs: Vec<(u32, PathBuf)> = entries
            .filter_map(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                let version =
                    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .collect();
        dirs.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        dirs.into_iter().map(|(_, dir)| dir)
    };
    let configured = Command::new("pg_config").arg("--bindir").output().ok();
    let configured = configured.map(|output| String::from_utf8_lossy(&output.stdout).trim().into());
    let path = std::env::var_os("PATH").unwrap_or_default();
    versions("/usr/lib/postgresql")
        .chain(configured)
        .chain(std::env::split_paths(&path))
        .chain(versions("/usr").filter(|dir| dir.to_string_lossy().contains("/pgsql-")))
        .chain(versions("/opt/homebrew/opt"))
        .chain(versions("/usr/local/opt"))
        .collect()
}
