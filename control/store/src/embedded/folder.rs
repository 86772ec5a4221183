//! The data folder: who may use it, and whether what lies in it is a store.
//!
//! ```text
//! <dir>/lock          flock while a process has the store open; says "kernelet-store" once the store was made
//! <dir>/store.db      the database, with store.db-wal and store.db-shm beside it while it is open
//! ```
//! SQLite would take an empty or missing file for a new database, so the mark in `lock` is what tells a first start
//! from a lost store.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::sqlite::{APPLICATION_ID, FORMAT, SqliteEngine, file_in};
use crate::OpenError;

const MARK: &[u8] = b"kernelet-store\n";

/// A folder that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    lock: File,
    marked: bool,
}

impl Folder {
    /// Makes the folder if need be, and takes its lock.
    pub fn lock(dir: &Path) -> Result<Folder, OpenError> {
        let io = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io {
                attempt,
                path,
                source,
            }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("make the data folder", dir))?;
        let path = dir.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open the lock file", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked {
                    dir: dir.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => {
                return Err(io("lock", &path)(source));
            }
        }
        let mut mark = Vec::new();
        lock.read_to_end(&mut mark).map_err(io("read", &path))?;
        Ok(Folder {
            dir: dir.to_owned(),
            lock,
            marked: mark == MARK,
        })
    }

    /// Opens the database, telling a first start, a whole store and a broken one apart.
    pub fn open(&mut self) -> Result<SqliteEngine, OpenError> {
        let file = file_in(&self.dir);
        let size = match fs::metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(source) => {
                return Err(OpenError::Io {
                    attempt: "read",
                    path: file,
                    source,
                });
            }
        };
        // A first start that was killed may leave an empty file and a log. With the mark, the database was whole.
        if size == 0 && self.marked {
            return Err(self.broken("its database file is missing or empty"));
        }
        if size > 0 {
            let (application, format) = SqliteEngine::identify(&file).map_err(|e| self.sql(e))?;
            match (application, format) {
                (APPLICATION_ID, FORMAT) => {}
                (APPLICATION_ID, found) => {
                    return Err(OpenError::Format {
                        dir: self.dir.clone(),
                        found,
                        supported: FORMAT,
                    });
                }
                // A first start that was killed before its only transaction.
                (0, 0) if !self.marked => {}
                _ => return Err(self.broken("its database file was not made by this program")),
            }
        } else {
            // So that SQLite's files are readable by nobody else, whatever the umask.
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&file)
                .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
                .map_err(|source| OpenError::Io {
                    attempt: "make",
                    path: file.clone(),
                    source,
                })?;
        }
        let engine = SqliteEngine::open(&file).map_err(|e| self.sql(e))?;
        if !self.marked {
            self.mark().map_err(|source| {
                if source.kind() == io::ErrorKind::StorageFull {
                    return OpenError::DiskFull {
                        dir: self.dir.clone(),
                    };
                }
                OpenError::Io {
                    attempt: "write the mark of a whole store into",
                    path: self.dir.clone(),
                    source,
                }
            })?;
        }
        Ok(engine)
    }

    /// The database is whole and synced: its name is made durable, then the mark.
    fn mark(&mut self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()?;
        self.lock.rewind()?;
        self.lock.write_all(MARK)?;
        self.lock.sync_all()?;
        // The folder itself, should it be new.
        if let Some(parent) = self
            .dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            File::open(parent)?.sync_all()?;
        }
        self.marked = true;
        Ok(())
    }

    pub fn has_store(&self) -> bool {
        self.marked || file_in(&self.dir).exists()
    }

    pub fn broken(&self, detail: impl ToString) -> OpenError {
        OpenError::Broken {
            dir: self.dir.clone(),
            detail: detail.to_string(),
        }
    }

    /// SQLite's error while opening.
    pub fn sql(&self, error: rusqlite::Error) -> OpenError {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => OpenError::DiskFull {
                dir: self.dir.clone(),
            },
            Some(ErrorCode::NotADatabase) => {
                self.broken("its database file is damaged, or no database at all")
            }
            Some(ErrorCode::DatabaseCorrupt) => self.broken("its database file is damaged"),
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                OpenError::Io {
                    attempt: "open the database",
                    path: file_in(&self.dir),
                    source: io::Error::other(error),
                }
            }
            _ => OpenError::Io {
                attempt: "read the database",
                path: file_in(&self.dir),
                source: io::Error::other(error),
            },
        }
    }
}
