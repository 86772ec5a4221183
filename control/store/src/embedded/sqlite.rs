//! The ordered maps in one SQLite file.
//!
//! Chosen over redb, LMDB, fjall and RocksDB for its size on disk, its opening time after a kill and its record;
//! the settings here are what that choice was measured with. The log of entries is a rowid table, so that writes
//! append to it and large values don't burden an index; the other maps are clustered on their keys.
//!
//! Three kinds of connection: the writer's, readers' (each a snapshot, so that reads never wait for writes), and
//! the checkpointer's, so that copying the write-ahead log into the file doesn't hold up commits.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, config::DbConfig, params};

use super::engine::{Budget, Engine, EngineError, Map, Reader, Scan};

/// `PRAGMA application_id`: what tells our file from any other SQLite file ("klet").
pub(crate) const APPLICATION_ID: i64 = 0x6b6c_6574;
/// `PRAGMA user_version`: the layout of the maps and their rows.
pub(crate) const FORMAT: i64 = 1;

/// Pages in the write-ahead log from which it is copied into the file (4 MiB).
const CHECKPOINT_PAGES: u32 = 1024;
/// Pages from which the writer waits for that (32 MiB): a log that is always appended to can't be started afresh.
const BLOCKING_CHECKPOINT_PAGES: u32 = 8192;
/// Unused pages below which the file isn't shrunk; they are used again soon (1 MiB).
const KEEP_FREE_PAGES: i64 = 256;
/// Pages given back in one step (1 MiB).
const SHRINK_PAGES: i64 = 256;

/// What each kind of connection may cache, in KiB. The page cache holds the rest.
const WRITER_CACHE_KIB: i64 = 2048;
const READER_CACHE_KIB: i64 = 256;

/// The size of the write-ahead log in pages, as the last commit left it.
pub(crate) type LogPages = Arc<AtomicU32>;

/// The writer's connection.
pub(crate) struct SqliteEngine {
    db: Connection,
    log_pages: LogPages,
}

/// A reader's connection.
pub(crate) struct SqliteReader {
    db: Connection,
}

/// The checkpointer's connection.
pub(crate) struct Checkpointer {
    db: Connection,
}

impl SqliteEngine {
    /// Opens the file, or makes it where there is none. Whatever a previous run left in the write-ahead log is
    /// copied into the file and synced first: should that run have ended in a failed sync, then the log's pages in
    /// the page cache may not be on the disk, and nothing may be appended after them.
    pub fn open(file: &Path) -> Result<SqliteEngine, rusqlite::Error> {
        let mut db = connect(
            file,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            WRITER_CACHE_KIB,
        )?;
        // The page size and the kind of vacuum count only before the first table.
        db.pragma_update(None, "page_size", 4096)?;
        db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.pragma_update(None, "journal_size_limit", 16 << 20)?;
        let fresh = db.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| {
            row.get(0)
        })?;
        if fresh {
            let tx = db.transaction()?;
            tx.execute_batch(
                "CREATE TABLE log (k INTEGER PRIMARY KEY, v BLOB NOT NULL);
                 CREATE TABLE current (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
                 CREATE TABLE superseded (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
                 CREATE TABLE leases (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
                 CREATE TABLE lease_keys (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;
                 CREATE TABLE meta (k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID;",
            )?;
            tx.pragma_update(None, "application_id", APPLICATION_ID)?;
            tx.pragma_update(None, "user_version", FORMAT)?;
            tx.commit()?;
        }
        checkpoint(&db, "TRUNCATE")?;
        let log_pages = LogPages::default();
        let seen = log_pages.clone();
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
            seen.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(SqliteEngine { db, log_pages })
    }

    /// Whether the write-ahead log is large enough to be worth a checkpoint.
    pub fn checkpoint_due(&self) -> bool {
        self.log_pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES
    }

    /// (application id, format) of a file, without making or changing anything.
    pub fn identify(file: &Path) -> Result<(i64, i64), rusqlite::Error> {
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, READER_CACHE_KIB)?;
        Ok((
            db.query_row("PRAGMA application_id", [], |row| row.get(0))?,
            db.query_row("PRAGMA user_version", [], |row| row.get(0))?,
        ))
    }
}

impl SqliteReader {
    pub fn open(file: &Path) -> Result<SqliteReader, rusqlite::Error> {
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, READER_CACHE_KIB)?;
        db.pragma_update(None, "query_only", true)?;
        Ok(SqliteReader { db })
    }

    /// Runs `read` on one consistent view.
    pub fn snapshot<T>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.db.execute_batch("BEGIN").map_err(failed)?;
        let result = read(self);
        let end = self.db.execute_batch("COMMIT").map_err(failed);
        let value = result?;
        end?;
        Ok(value)
    }

    /// SQLite's own check of the file; what it finds wrong, a line each.
    pub fn integrity(&self) -> Result<Vec<String>, EngineError> {
        let mut statement = self.db.prepare("PRAGMA integrity_check").map_err(failed)?;
        let rows = statement
            .query_map([], |row| row.get::<_, String>(0))
            .map_err(failed)?;
        let mut found = Vec::new();
        for row in rows {
            let line = row.map_err(failed)?;
            if line != "ok" {
                found.push(line);
            }
        }
        Ok(found)
    }

    /// (all pages, unused pages) in bytes.
    pub fn sizes(&self) -> Result<(u64, u64), EngineError> {
        let page_count = pragma_i64(&self.db, "page_count").map_err(failed)?;
        let free = pragma_i64(&self.db, "freelist_count").map_err(failed)?;
        let bytes = |pages: i64| u64::try_from(pages).unwrap_or(0) * 4096;
        Ok((bytes(page_count), bytes(free)))
    }

    /// Copies everything into the new file `to`, in one snapshot.
    pub fn backup(&self, to: &Path) -> Result<(), rusqlite::Error> {
        let mut copy = Connection::open(to)?;
        {
            let backup = rusqlite::backup::Backup::new(&self.db, &mut copy)?;
            // All pages in one step: a backup in several starts again whenever the source is written to.
            while backup.step(-1)? != rusqlite::backup::StepResult::Done {}
        }
        // The copy is one file, not a file and a log.
        copy.pragma_update(None, "journal_mode", "DELETE")?;
        copy.close().map_err(|(_, error)| error)
    }
}

impl Checkpointer {
    pub fn open(file: &Path) -> Result<Checkpointer, rusqlite::Error> {
        let db = connect(file, OpenFlags::SQLITE_OPEN_READ_WRITE, READER_CACHE_KIB)?;
        db.pragma_update(None, "synchronous", "FULL")?;
        Ok(Checkpointer { db })
    }

    /// Copies what it can of the log into the file, waiting for nobody.
    pub fn run(&self) -> Result<(), EngineError> {
        checkpoint(&self.db, "PASSIVE").map_err(failed)
    }

    /// Nothing may be written any more, closing included.
    pub fn abandon(&self) {
        abandon(&self.db);
    }
}

fn connect(file: &Path, flags: OpenFlags, cache_kib: i64) -> Result<Connection, rusqlite::Error> {
    let db = Connection::open_with_flags(file, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.pragma_update(None, "cache_size", -cache_kib)?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    // A page whose bytes make no sense is an error, not a wrong answer.
    db.pragma_update(None, "cell_size_check", true)?;
    db.set_prepared_statement_cache_capacity(40);
    Ok(db)
}

fn checkpoint(db: &Connection, mode: &str) -> Result<(), rusqlite::Error> {
    db.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

fn abandon(db: &Connection) {
    // Can only fail on an option that the library doesn't know.
    let _ = db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
}

fn pragma_i64(db: &Connection, name: &str) -> Result<i64, rusqlite::Error> {
    db.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
}

/// SQLite's error in the store's terms. Only "no space while writing" leaves the file in a known state; a failed
/// sync is among the rest.
pub(crate) fn failed(error: rusqlite::Error) -> EngineError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => EngineError::Full,
        _ => match &error {
            rusqlite::Error::SqliteFailure(code, text) => EngineError::Fatal(format!(
                "{} (SQLite's code {})",
                text.clone().unwrap_or_else(|| code.to_string()),
                code.extended_code
            )),
            other => EngineError::Fatal(other.to_string()),
        },
    }
}

/// The statements of one map.
struct Sql {
    get: &'static str,
    scan: &'static str,
    scan_to_end: &'static str,
    last: &'static str,
    count: &'static str,
    count_to_end: &'static str,
    put: &'static str,
    remove: &'static str,
}

macro_rules! sql {
    ($table:literal) => {
        Sql {
            get: concat!("SELECT v FROM ", $table, " WHERE k = ?1"),
            scan: concat!(
                "SELECT k, v FROM ",
                $table,
                " WHERE k >= ?1 AND k < ?2 ORDER BY k LIMIT ?3"
            ),
            scan_to_end: concat!(
                "SELECT k, v FROM ",
                $table,
                " WHERE k >= ?1 ORDER BY k LIMIT ?2"
            ),
            last: concat!("SELECT k FROM ", $table, " ORDER BY k DESC LIMIT 1"),
            count: concat!("SELECT count(*) FROM ", $table, " WHERE k >= ?1 AND k < ?2"),
            count_to_end: concat!("SELECT count(*) FROM ", $table, " WHERE k >= ?1"),
            put: concat!(
                "INSERT INTO ",
                $table,
                " (k, v) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = excluded.v"
            ),
            remove: concat!("DELETE FROM ", $table, " WHERE k = ?1"),
        }
    };
}

fn sql(map: Map) -> &'static Sql {
    static LOG: Sql = sql!("log");
    static CURRENT: Sql = sql!("current");
    static SUPERSEDED: Sql = sql!("superseded");
    static LEASES: Sql = sql!("leases");
    static LEASE_KEYS: Sql = sql!("lease_keys");
    static META: Sql = sql!("meta");
    match map {
        Map::Log => &LOG,
        Map::Current => &CURRENT,
        Map::Superseded => &SUPERSEDED,
        Map::Leases => &LEASES,
        Map::LeaseKeys => &LEASE_KEYS,
        Map::Meta => &META,
    }
}

/// A map's key as SQLite sees it: the log's are its row numbers.
enum SqlKey<'a> {
    Row(i64),
    Bytes(&'a [u8]),
}

impl<'a> SqlKey<'a> {
    fn new(map: Map, key: &'a [u8]) -> SqlKey<'a> {
        match map {
            // An empty start is the map's beginning; ids are positive.
            Map::Log => SqlKey::Row(key.try_into().map_or(0, i64::from_be_bytes)),
            _ => SqlKey::Bytes(key),
        }
    }
}

impl rusqlite::ToSql for SqlKey<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        match self {
            SqlKey::Row(row) => row.to_sql(),
            SqlKey::Bytes(bytes) => bytes.to_sql(),
        }
    }
}

fn key_of(map: Map, row: &rusqlite::Row<'_>) -> rusqlite::Result<Vec<u8>> {
    match map {
        Map::Log => Ok(row.get::<_, i64>(0)?.to_be_bytes().to_vec()),
        _ => row.get(0),
    }
}

fn get(db: &Connection, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    db.prepare_cached(sql(map).get)?
        .query_row([SqlKey::new(map, key)], |row| row.get(0))
        .optional()
}

fn scan(
    db: &Connection,
    map: Map,
    start: &[u8],
    end: Option<&[u8]>,
    budget: Budget,
) -> Result<Scan, rusqlite::Error> {
    // One more than asked for says whether there is more.
    let limit = i64::try_from(budget.entries).unwrap_or(i64::MAX - 1) + 1;
    let mut found = Scan::default();
    let mut bytes = 0;
    let sql = sql(map);
    let mut statement = db.prepare_cached(if end.is_some() {
        sql.scan
    } else {
        sql.scan_to_end
    })?;
    let mut rows = match end {
        Some(end) => statement.query(params![
            SqlKey::new(map, start),
            SqlKey::new(map, end),
            limit
        ])?,
        None => statement.query(params![SqlKey::new(map, start), limit])?,
    };
    while let Some(row) = rows.next()? {
        if found.pairs.len() == budget.entries || bytes >= budget.bytes {
            found.more = true;
            break;
        }
        let key = key_of(map, row)?;
        let value: Vec<u8> = row.get(1)?;
        bytes += key.len() + value.len();
        found.pairs.push((key, value));
    }
    Ok(found)
}

fn last_key(db: &Connection, map: Map) -> Result<Option<Vec<u8>>, rusqlite::Error> {
    db.prepare_cached(sql(map).last)?
        .query_row([], |row| key_of(map, row))
        .optional()
}

fn count(
    db: &Connection,
    map: Map,
    start: &[u8],
    end: Option<&[u8]>,
) -> Result<u64, rusqlite::Error> {
    let sql = sql(map);
    let count: i64 = match end {
        Some(end) => db
            .prepare_cached(sql.count)?
            .query_row([SqlKey::new(map, start), SqlKey::new(map, end)], |row| {
                row.get(0)
            })?,
        None => db
            .prepare_cached(sql.count_to_end)?
            .query_row([SqlKey::new(map, start)], |row| row.get(0))?,
    };
    Ok(u64::try_from(count).unwrap_or(0))
}

macro_rules! reader {
    ($type:ty) => {
        impl Reader for $type {
            fn get(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
                get(&self.db, map, key).map_err(failed)
            }

            fn scan(
                &self,
                map: Map,
                start: &[u8],
                end: Option<&[u8]>,
                budget: Budget,
            ) -> Result<Scan, EngineError> {
                scan(&self.db, map, start, end, budget).map_err(failed)
            }

            fn last_key(&self, map: Map) -> Result<Option<Vec<u8>>, EngineError> {
                last_key(&self.db, map).map_err(failed)
            }

            fn count(
                &self,
                map: Map,
                start: &[u8],
                end: Option<&[u8]>,
            ) -> Result<u64, EngineError> {
                count(&self.db, map, start, end).map_err(failed)
            }
        }
    };
}

reader!(SqliteEngine);
reader!(SqliteReader);

impl Engine for SqliteEngine {
    fn begin(&self) -> Result<(), EngineError> {
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(failed)
    }

    fn put(&self, map: Map, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.db
            .prepare_cached(sql(map).put)
            .and_then(|mut put| put.execute(params![SqlKey::new(map, key), value]))
            .map_err(failed)?;
        Ok(())
    }

    fn remove(&self, map: Map, key: &[u8]) -> Result<(), EngineError> {
        self.db
            .prepare_cached(sql(map).remove)
            .and_then(|mut remove| remove.execute([SqlKey::new(map, key)]))
            .map_err(failed)?;
        Ok(())
    }

    fn commit(&self) -> Result<(), EngineError> {
        self.db.execute_batch("COMMIT").map_err(failed)
    }

    fn rollback(&self) {
        // After some errors SQLite has rolled back by itself, and says so; there is nothing open either way.
        let _ = self.db.execute_batch("ROLLBACK");
    }

    fn shrink(&self) -> Result<bool, EngineError> {
        if pragma_i64(&self.db, "freelist_count").map_err(failed)? <= KEEP_FREE_PAGES {
            return Ok(false);
        }
        // Each step of this statement frees one page, so it has to be stepped to its end.
        let mut statement = self
            .db
            .prepare(&format!("PRAGMA incremental_vacuum({SHRINK_PAGES})"))
            .map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while rows.next().map_err(failed)?.is_some() {}
        Ok(true)
    }

    fn tidy(&self) -> Result<(), EngineError> {
        if self.log_pages.load(Ordering::Relaxed) < BLOCKING_CHECKPOINT_PAGES {
            return Ok(());
        }
        match checkpoint(&self.db, "RESTART") {
            Ok(()) => {
                self.log_pages.store(0, Ordering::Relaxed);
                Ok(())
            }
            // A long reader, or the other checkpoint; the next batch tries again.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    fn abandon(&self) {
        abandon(&self.db);
    }
}

/// The database file of a data folder.
pub(crate) fn file_in(dir: &Path) -> PathBuf {
    dir.join("store.db")
}
