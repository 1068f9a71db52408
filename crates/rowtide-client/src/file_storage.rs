//! A queue in a file. The first line names the format, and each other line is a record as JSON. Records are
//! appended and flushed to the disk. When the file is read again, an incomplete last write is cut off.
//! Compaction writes a new file and renames it over the old one. The lock is on a second file, which is
//! never renamed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::queue::Record;
use crate::storage::{Storage, StorageError};

const FORMAT: &str = r#"{"format":"rowtide-queue","version":1}"#;

/// A queue in a file, which no other client can open at the same time.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    file: File,
    /// How many bytes of the file are durable records; `None` before the file was read.
    length: Option<u64>,
    /// The file may be longer than `length`.
    dirty: bool,
    /// Held as long as the storage lives.
    _lock: File,
}

impl FileStorage {
    /// Opens the queue in this file, and creates the file and its directory if they are missing.
    ///
    /// # Errors
    /// [`StorageError::Locked`] when another client has it open, [`StorageError::Io`] when it cannot be
    /// opened. [`Storage::load`] reads the records.
    pub fn open(path: impl Into<PathBuf>) -> Result<FileStorage, StorageError> {
        let path: PathBuf = path.into();
        let directory = directory(&path);
        fs::create_dir_all(directory).map_err(failed("make the directory", directory))?;
        let lock = beside(&path, "lock");
        let held = open(&lock).map_err(failed("open", &lock))?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StorageError::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &lock)(error)),
        }
        let file = open(&path).map_err(failed("open", &path))?;
        sync_directory(directory)?;
        Ok(FileStorage { path, file, length: None, dirty: false, _lock: held })
    }

    /// Where the queue is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts off everything behind the durable records, and returns the length of the file.
    fn clean(&mut self) -> Result<u64, StorageError> {
        let length = match self.length {
            Some(length) => length,
            None => {
                self.load()?;
                self.length.unwrap_or_default()
            }
        };
        if self.dirty {
            self.file.set_len(length).map_err(failed("cut", &self.path))?;
            self.dirty = false;
        }
        Ok(length)
    }

    fn write(&mut self, text: &str) -> Result<(), StorageError> {
        let length = self.clean()?;
        self.dirty = true;
        self.file.write_all(text.as_bytes()).map_err(failed("write", &self.path))?;
        self.file.sync_data().map_err(failed("flush", &self.path))?;
        self.dirty = false;
        self.length = Some(length + text.len() as u64);
        Ok(())
    }
}

impl Storage for FileStorage {
    fn load(&mut self) -> Result<Vec<Record>, StorageError> {
        let mut bytes = Vec::new();
        let mut file = File::open(&self.path).map_err(failed("open", &self.path))?;
        file.read_to_end(&mut bytes).map_err(failed("read", &self.path))?;
        let (records, length) = read(&self.path, &bytes)?;
        self.length = Some(length as u64);
        self.dirty = length < bytes.len();
        if length == 0 {
            self.write(&format!("{FORMAT}\n"))?;
        }
        self.clean()?;
        Ok(records)
    }

    fn append(&mut self, records: &[Record]) -> Result<(), StorageError> {
        self.write(&lines(records)?)
    }

    fn replace(&mut self, records: &[Record]) -> Result<(), StorageError> {
        let path = beside(&self.path, "new");
        let text = format!("{FORMAT}\n{}", lines(records)?);
        let mut file = open(&path).map_err(failed("open", &path))?;
        // A crash may have left an incomplete file.
        file.set_len(0).map_err(failed("cut", &path))?;
        file.write_all(text.as_bytes()).map_err(failed("write", &path))?;
        file.sync_all().map_err(failed("flush", &path))?;
        fs::rename(&path, &self.path).map_err(failed("rename", &path))?;
        self.file = file;
        self.length = Some(text.len() as u64);
        self.dirty = false;
        sync_directory(directory(&self.path))
    }
}

/// The records in a file's bytes, and the number of bytes that hold them. The rest is a write that a crash
/// has interrupted. A line that cannot be read is damage if a readable line follows it.
fn read(path: &Path, bytes: &[u8]) -> Result<(Vec<Record>, usize), StorageError> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let whole = |line: &&[u8]| line.ends_with(b"\n");
    let Some(first) = lines.next().filter(whole) else {
        // No record was ever appended, since the first line is made durable before.
        let torn = FORMAT.as_bytes().starts_with(bytes) || bytes.iter().all(|byte| *byte == 0);
        let format = StorageError::Format { path: path.to_owned() };
        return if torn { Ok((Vec::new(), 0)) } else { Err(format) };
    };
    if first.trim_ascii_end() != FORMAT.as_bytes() {
        return Err(StorageError::Format { path: path.to_owned() });
    }
    let (mut records, mut length) = (Vec::new(), first.len());
    let mut bad: Option<(usize, String)> = None;
    for (index, line) in lines.enumerate() {
        let record = match whole(&line) {
            true => serde_json::from_slice::<Record>(line).map_err(|error| error.to_string()),
            false => Err("it has no end".to_owned()),
        };
        match (record, &bad) {
            (Ok(record), None) => {
                records.push(record);
                length += line.len();
            }
            (Ok(_), Some((line, why))) => {
                let (path, line, why) = (path.to_owned(), *line, why.clone());
                return Err(StorageError::Damaged { path, line, why });
            }
            (Err(why), None) => bad = Some((index + 2, why)),
            (Err(_), Some(_)) => {}
        }
    }
    Ok((records, length))
}

fn lines(records: &[Record]) -> Result<String, StorageError> {
    let mut text = String::new();
    for record in records {
        let line = serde_json::to_string(record).map_err(|e| StorageError::Other(e.into()))?;
        text += &line;
        text.push('\n');
    }
    Ok(text)
}

/// Opens a file that only its owner can read, because it holds what a user wrote.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes new and renamed files durable.
fn sync_directory(directory: &Path) -> Result<(), StorageError> {
    if cfg!(unix) {
        let sync = File::open(directory).and_then(|directory| directory.sync_all());
        sync.map_err(failed("flush", directory))?;
    }
    Ok(())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError::Io { what, path, source }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::op::Op;
    use crate::optimistic::Optimistic;
    use crate::row::row_of;

    struct Dir(PathBuf);

    impl Dir {
        fn new() -> Dir {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("rowtide-queue-{}-{count}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Dir(path)
        }

        fn queue(&self) -> PathBuf {
            self.0.join("queue.jsonl")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn records(count: u64) -> Vec<Record> {
        let client_id = "client-1".to_owned();
        let mut records = vec![Record::Client { client_id, offset: 0, acked: 0 }];
        records.extend((1..=count).map(|id| {
            let row = row_of(&json!({"id": id, "text": "zwei\nZeilen, \u{0} und ü"})).unwrap();
            Record::Mutation { id, ops: vec![Op::insert("note", row)].into() }
        }));
        records
    }

    fn loaded(path: &Path) -> Result<Vec<Record>, StorageError> {
        FileStorage::open(path)?.load()
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_in_order() {
        let dir = Dir::new();
        let path = dir.0.join("a directory/of its own/queue");
        let mut storage = FileStorage::open(&path).unwrap();
        assert_eq!(storage.load().unwrap(), []);
        let all = records(3);
        storage.append(&all[..2]).unwrap();
        storage.append(&all[2..]).unwrap();
        drop(storage);
        assert_eq!(loaded(&path).unwrap(), all);
    }

    #[test]
    fn a_torn_last_write_is_cut_off_wherever_it_was_torn() {
        let dir = Dir::new();
        let path = dir.queue();
        FileStorage::open(&path).unwrap().append(&records(1)).unwrap();
        let before = fs::read(&path).unwrap();
        FileStorage::open(&path).unwrap().append(&records(2)[2..]).unwrap();
        let after = fs::read(&path).unwrap();
        for length in 0..after.len() {
            fs::write(&path, &after[..length]).unwrap();
            let mut storage = FileStorage::open(&path).unwrap();
            let held = storage.load().unwrap();
            assert!(records(1).starts_with(&held), "{length}");
            assert!(length < before.len() || held == records(1), "{length}");
            let next = Record::User { user_id: "ann".to_owned() };
            storage.append(std::slice::from_ref(&next)).unwrap();
            drop(storage);
            assert_eq!(loaded(&path).unwrap(), [&held[..], &[next]].concat(), "{length}");
        }
        // A machine that lost its power may leave zeros in the place of what was written.
        let mut zeros = before.clone();
        zeros.resize(after.len(), 0);
        fs::write(&path, zeros).unwrap();
        assert_eq!(loaded(&path).unwrap(), records(1));
    }

    #[test]
    fn damage_in_the_middle_is_an_error_and_nothing_is_cut_off() {
        let dir = Dir::new();
        let path = dir.queue();
        FileStorage::open(&path).unwrap().append(&records(3)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let damaged = text.replacen("\"id\":1", "\"id\":", 1);
        fs::write(&path, &damaged).unwrap();
        let error = loaded(&path).unwrap_err();
        assert!(matches!(error, StorageError::Damaged { line: 3, .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
    }

    #[test]
    fn a_queue_that_an_earlier_version_stored_is_read_and_written_as_it_was() {
        // As version 0.1.0 wrote it.
        let stored = concat!(
            r#"{"format":"rowtide-queue","version":1}"#,
            "\n",
            r#"{"record":"client","clientId":"client-1","offset":-2,"settled":2}"#,
            "\n",
            r#"{"record":"user","userId":"ann"}"#,
            "\n",
            r#"{"record":"tables","keys":{"note":["id"]}}"#,
            "\n",
            r#"{"record":"offset","offset":0}"#,
            "\n",
            r#"{"record":"mutation","id":3,"ops":[{"op":"insert","table":"note","row":{"id":3}}]}"#,
            "\n",
            r#"{"record":"mutation","id":4,"ops":[{"op":"insert","table":"note","row":{"id":4}}]}"#,
            "\n",
            r#"{"record":"mutation","id":5,"ops":[{"op":"insert","table":"note","row":{"id":5}}]}"#,
            "\n",
            r#"{"record":"refused","id":4}"#,
            "\n",
            r#"{"record":"settled","id":3}"#,
            "\n",
        );
        let dir = Dir::new();
        fs::write(dir.queue(), stored).unwrap();
        let records = loaded(&dir.queue()).unwrap();
        let client = Optimistic::restore(&records).unwrap().unwrap();
        assert_eq!((client.client_id(), client.user_id()), ("client-1", Some("ann")));
        assert_eq!(client.acked(), Some(3));
        assert_eq!(client.pending().collect::<Vec<_>>(), [5], "4 is rejected");
        let shown: Vec<&Value> = client.rows("note").map(|row| &row["id"]).collect();
        assert_eq!(shown, [5]);
        let mut storage = FileStorage::open(dir.0.join("written")).unwrap();
        storage.append(&records).unwrap();
        assert_eq!(fs::read_to_string(dir.0.join("written")).unwrap(), stored);
    }

    #[test]
    fn another_file_is_not_taken_for_a_queue_and_stays_as_it_is() {
        let dir = Dir::new();
        for text in ["{\"a\":1}\n", "a letter", "{\"format\":\"rowtide-queue\",\"version\":2}\n"] {
            fs::write(dir.queue(), text).unwrap();
            let error = loaded(&dir.queue()).unwrap_err();
            assert!(matches!(error, StorageError::Format { .. }), "{error}");
            assert_eq!(fs::read_to_string(dir.queue()).unwrap(), text);
        }
    }

    #[test]
    fn two_clients_cannot_share_a_queue_not_even_after_a_compaction() {
        let dir = Dir::new();
        let mut first = FileStorage::open(dir.queue()).unwrap();
        let locked = || matches!(loaded(&dir.queue()), Err(StorageError::Locked { .. }));
        assert!(locked());
        first.append(&records(2)).unwrap();
        first.replace(&records(1)).unwrap();
        assert!(locked());
        drop(first);
        assert_eq!(loaded(&dir.queue()).unwrap(), records(1));
    }

    #[test]
    fn a_compaction_replaces_everything_also_over_what_a_crash_left_of_another() {
        let dir = Dir::new();
        let mut storage = FileStorage::open(dir.queue()).unwrap();
        storage.append(&records(9)).unwrap();
        fs::write(beside(&dir.queue(), "new"), "half a fi").unwrap();
        storage.replace(&records(1)).unwrap();
        storage.append(&records(2)[2..]).unwrap();
        drop(storage);
        assert_eq!(loaded(&dir.queue()).unwrap(), records(2));
        assert!(!beside(&dir.queue(), "new").exists());
    }

    #[test]
    fn an_error_of_the_disk_is_reported_and_the_write_can_be_tried_again() {
        let dir = Dir::new();
        let path = dir.queue();
        let mut storage = FileStorage::open(&path).unwrap();
        storage.append(&records(1)).unwrap();
        // Writes to this file fail.
        let good = std::mem::replace(&mut storage.file, File::open(&path).unwrap());
        let next = &records(2)[2..];
        let error = storage.append(next).unwrap_err();
        assert!(matches!(error, StorageError::Io { what: "write", .. }), "{error}");
        assert!(error.to_string().contains("queue.jsonl"));
        storage.file = good;
        // A part of the failed write is on the disk.
        storage.file.write_all(b"{\"record\":\"mut").unwrap();
        storage.append(next).unwrap();
        drop(storage);
        assert_eq!(loaded(&path).unwrap(), records(2));

        fs::create_dir(dir.0.join("here")).unwrap();
        let error = FileStorage::open(dir.0.join("here")).unwrap_err();
        assert!(matches!(error, StorageError::Io { what: "open", .. }), "{error}");
        let error = FileStorage::open(path.join("below a file")).unwrap_err();
        assert!(matches!(error, StorageError::Io { what: "make the directory", .. }), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn only_its_owner_can_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = Dir::new();
        let mut storage = FileStorage::open(dir.queue()).unwrap();
        storage.append(&records(1)).unwrap();
        storage.replace(&records(1)).unwrap();
        assert_eq!(fs::metadata(dir.queue()).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
