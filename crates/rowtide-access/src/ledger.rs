//! What is kept of effects in a SQLite database: what is to be done, what failed, and how far the stream was followed. What
//! is written together is durable together, so that a mark is never there without the position that it came with, nor
//! the other way round. The server has it open for as long as it has the documents; the command of an operator reads it
//! beside, and writes into one table what is to be repeated.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rowtide_documents::host::DocumentId;
use rowtide_protocol::{Epoch, Lsn};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use thiserror::Error;

use crate::effects::{Gone, PendingEffect};

/// The form of the database (`user_version`).
const FORMAT: i64 = 1;

/// What `is_gone` is of one whose row is but missing.
const MISSING: i64 = 2;

/// How long one who writes waits for another.
const BUSY: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS progress (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        epoch INTEGER NOT NULL,
        lsn INTEGER NOT NULL,
        kinds TEXT NOT NULL,
        is_reconciled INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS pending (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        is_gone INTEGER NOT NULL,
        is_changed INTEGER NOT NULL,
        xid INTEGER,
        failure TEXT,
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS repeats (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (kind, id)
    ) STRICT, WITHOUT ROWID;
";

/// Why what is kept of effects cannot be read or written.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The storage engine failed.
    #[error("`{path}` cannot be used: {source}")]
    Storage {
        /// The file.
        path: PathBuf,
        /// What it says.
        #[source]
        source: rusqlite::Error,
    },
    /// A later version of this server wrote it.
    #[error("`{0}` was written by a later version")]
    Later(PathBuf),
}

/// How far the stream was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Followed {
    pub(crate) epoch: Epoch,
    /// Everything up to here is marked.
    pub(crate) lsn: Lsn,
    /// What kinds of documents there were.
    pub(crate) kinds: String,
    /// Whether all that happened before is known too.
    pub(crate) is_reconciled: bool,
}

/// What is written together.
#[derive(Debug, Default)]
pub(crate) struct LedgerWrite {
    pub(crate) entries: BTreeMap<DocumentId, Option<PendingEffect>>,
    pub(crate) followed: Option<Followed>,
}

/// A document of which nothing is tried any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedEffect {
    /// The document, as `NAME/ID`.
    pub document: String,
    /// Why.
    pub reason: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct EffectLedger {
    db: Connection,
    path: PathBuf,
}

fn path_of(dir: &Path) -> PathBuf {
    dir.join("effects.db")
}

fn read_entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, String, PendingEffect)> {
    let xid: Option<i64> = row.get(4)?;
    let kept = PendingEffect {
        gone: match row.get::<_, i64>(2)? {
            0 => None,
            MISSING => Some(Gone::Missing),
            _ => Some(Gone::Deleted),
        },
        is_changed: row.get(3)?,
        xid: xid.and_then(|xid| u32::try_from(xid).ok()),
        failure: row.get(5)?,
    };
    Ok((row.get(0)?, row.get(1)?, kept))
}

impl EffectLedger {
    /// Opens what is kept in the directory of documents, or makes it. Waits for the disk.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(crate) fn open(dir: &Path) -> Result<EffectLedger, LedgerError> {
        let path = path_of(dir);
        let opened = || {
            let db = Connection::open(&path)?;
            db.busy_timeout(BUSY)?;
            db.pragma_update(None, "journal_mode", "wal")?;
            db.pragma_update(None, "synchronous", "full")?;
            let format: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if format <= FORMAT {
                db.execute_batch(SCHEMA)?;
                db.pragma_update(None, "user_version", FORMAT)?;
            }
            Ok((db, format))
        };
        match opened() {
            Ok((_, format)) if format > FORMAT => Err(LedgerError::Later(path)),
            Ok((db, _)) => Ok(EffectLedger { db, path }),
            Err(source) => Err(LedgerError::Storage { path, source }),
        }
    }

    fn fail(&self, source: rusqlite::Error) -> LedgerError {
        LedgerError::Storage { path: self.path.clone(), source }
    }

    /// How far the stream was followed; none if it never was.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn followed(&self) -> Result<Option<Followed>, LedgerError> {
        let sql = "SELECT epoch, lsn, kinds, is_reconciled FROM progress";
        let followed = self.db.query_row(sql, (), |row| {
            Ok(Followed {
                epoch: Epoch(row.get::<_, i64>(0)?.cast_unsigned()),
                lsn: Lsn(row.get::<_, i64>(1)?.cast_unsigned()),
                kinds: row.get(2)?,
                is_reconciled: row.get(3)?,
            })
        });
        followed.optional().map_err(|source| self.fail(source))
    }

    /// All that is to be done, and what failed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn pending(&self) -> Result<BTreeMap<DocumentId, PendingEffect>, LedgerError> {
        let read = || {
            let sql = "SELECT kind, id, is_gone, is_changed, xid, failure FROM pending";
            let mut rows = self.db.prepare(sql)?;
            let rows = rows.query_map((), read_entry)?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let rows = read().map_err(|source| self.fail(source))?;
        let entries = rows.into_iter().filter_map(|(kind, id, kept)| {
            // Nothing else was ever written.
            Some((DocumentId::new(&kind, &id).ok()?, kept))
        });
        Ok(entries.collect())
    }

    /// Writes all of it, durably, or nothing.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&mut self, write: &LedgerWrite) -> Result<(), LedgerError> {
        let path = self.path.clone();
        let mut written = || {
            let transaction = self.db.transaction()?;
            for (document, kept) in &write.entries {
                let (kind, id) = (document.kind(), document.id());
                let Some(kept) = kept else {
                    let sql = "DELETE FROM pending WHERE kind = ? AND id = ?";
                    transaction.prepare_cached(sql)?.execute((kind, id))?;
                    continue;
                };
                let sql = "INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?, ?)";
                let (xid, failure) = (kept.xid.map(i64::from), &kept.failure);
                let gone = match kept.gone {
                    None => 0,
                    Some(Gone::Deleted) => 1,
                    Some(Gone::Missing) => MISSING,
                };
                let values = params![kind, id, gone, kept.is_changed, xid, failure];
                transaction.prepare_cached(sql)?.execute(values)?;
            }
            if let Some(Followed { epoch, lsn, kinds, is_reconciled }) = &write.followed {
                let (epoch, lsn) = (epoch.0.cast_signed(), lsn.0.cast_signed());
                let sql = "INSERT OR REPLACE INTO progress VALUES (1, ?, ?, ?, ?)";
                let values = (epoch, lsn, kinds, is_reconciled);
                transaction.prepare_cached(sql)?.execute(values)?;
            }
            transaction.commit()
        };
        written().map_err(|source| LedgerError::Storage { path, source })
    }

    /// What an operator wants repeated, each told once.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn repeats(&self) -> Result<Vec<DocumentId>, LedgerError> {
        let read = || {
            let is_there = self.db.prepare_cached("SELECT 1 FROM repeats LIMIT 1")?.exists(())?;
            if !is_there {
                return Ok(Vec::new());
            }
            let mut rows = self.db.prepare_cached("DELETE FROM repeats RETURNING kind, id")?;
            let rows = rows.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(String, String)>>>()
        };
        let rows = read().map_err(|source| self.fail(source))?;
        Ok(rows.iter().filter_map(|(kind, id)| DocumentId::new(kind, id).ok()).collect())
    }
}

/// Opens the database of a server, which may be running; none if there never was one with documents.
fn beside(dir: &Path) -> Result<Option<EffectLedger>, LedgerError> {
    let path = path_of(dir);
    if !path.exists() {
        return Ok(None);
    }
    let opened = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&path, flags)?;
        db.busy_timeout(BUSY)?;
        Ok(db)
    };
    match opened() {
        Ok(db) => Ok(Some(EffectLedger { db, path })),
        Err(source) => Err(LedgerError::Storage { path, source }),
    }
}

/// The documents below a directory of documents of which nothing is tried any more, and why.
///
/// # Errors
/// When it cannot be read.
pub fn failed_effects(dir: &Path) -> Result<Vec<FailedEffect>, LedgerError> {
    let Some(ledger) = beside(dir)? else { return Ok(Vec::new()) };
    let failed = ledger.pending()?.into_iter().filter_map(|(document, kept)| {
        Some(FailedEffect { document: document.to_string(), reason: kept.failure? })
    });
    Ok(failed.collect())
}

/// Has a server try again what had failed: of this document, given as `NAME/ID`, or of all. It does so within a second, or
/// when it is started. Returns of how many.
///
/// # Errors
/// When it cannot be written.
pub fn repeat_effects(dir: &Path, document: Option<&str>) -> Result<usize, LedgerError> {
    let Some(ledger) = beside(dir)? else { return Ok(0) };
    let sql = "INSERT OR REPLACE INTO repeats SELECT kind, id FROM pending \
               WHERE failure IS NOT NULL AND (?1 IS NULL OR kind || '/' || id = ?1)";
    ledger.db.execute(sql, [document]).map_err(|source| ledger.fail(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_there_after_a_restart_and_what_is_repeated_is_told_once() {
        let dir = std::env::temp_dir().join(format!("rowtide-ledger-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let document = |id| DocumentId::new("file", id).expect("a name");
        let followed = Followed {
            epoch: Epoch(u64::MAX),
            lsn: Lsn(7),
            kinds: "file".to_owned(),
            is_reconciled: true,
        };
        let failed = PendingEffect {
            gone: Some(Gone::Deleted),
            xid: Some(u32::MAX),
            failure: Some("why".to_owned()),
            ..PendingEffect::default()
        };
        let gone = Some(Gone::Missing);
        let changed = PendingEffect { is_changed: true, gone, ..PendingEffect::default() };
        let entries: BTreeMap<_, _> =
            [(document("a"), Some(failed.clone())), (document("b/c"), Some(changed.clone()))]
                .into();
        assert_eq!(failed_effects(&dir).expect("an answer"), []);
        let mut ledger = EffectLedger::open(&dir).expect("a ledger");
        assert_eq!(ledger.followed().expect("an answer"), None);
        let write = LedgerWrite { entries, followed: Some(followed.clone()) };
        ledger.write(&write).expect("written");
        drop(ledger);
        let mut ledger = EffectLedger::open(&dir).expect("a ledger");
        assert_eq!(ledger.followed().expect("an answer"), Some(followed));
        let kept = [(document("a"), failed), (document("b/c"), changed)].into();
        assert_eq!(ledger.pending().expect("an answer"), kept);
        let told = failed_effects(&dir).expect("an answer");
        assert_eq!(told, [FailedEffect { document: "file/a".into(), reason: "why".into() }]);
        assert_eq!(repeat_effects(&dir, Some("file/b/c")).expect("an answer"), 0);
        assert_eq!(repeat_effects(&dir, None).expect("an answer"), 1);
        assert_eq!(ledger.repeats().expect("an answer"), [document("a")]);
        assert_eq!(ledger.repeats().expect("an answer"), []);
        let entries = [(document("a"), None)].into();
        ledger.write(&LedgerWrite { entries, followed: None }).expect("written");
        assert_eq!(ledger.pending().expect("an answer").len(), 1);
        std::fs::remove_dir_all(&dir).ok();
    }
}
