//! The file of the embedded store: how it is made, opened, read, and what its errors
//! mean to people.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock, RwLockReadGuard},
};

use bytes::Bytes;
use chancery_shared::{
    durable,
    number::{Epoch, Revision},
};
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase as _, StorageError,
    TableDefinition, backends::FileBackend,
};

use crate::store::{Entry, Error, Snapshot};

/// Key to the revision that wrote it, and the value.
pub(super) const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
/// The store's own numbers.
pub(super) const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// Number: the last commit.
pub(super) const REVISION: &str = "revision";
/// Number: the last epoch.
pub(super) const EPOCH: &str = "epoch";
/// Number: how the tables are to be read.
const FORMAT: &str = "format";
/// The only format so far.
const THIS_FORMAT: u64 = 1;
/// The mirror holds everything that is read often, so pages need little room.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// The database and where it is.
#[derive(Debug)]
pub(super) struct StoreFile {
    path: PathBuf,
    /// `None` after a write has failed, until it could be opened again.
    database: RwLock<Option<Database>>,
}

/// The numbers that grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) revision: Revision,
    pub(super) epoch: Epoch,
}

/// A snapshot.
pub(super) struct View {
    entries: ReadOnlyTable<&'static str, (u64, &'static [u8])>,
    numbers: ReadOnlyTable<&'static str, u64>,
}

impl StoreFile {
    /// Opens the file, and makes it if it is not there. Tells what it holds.
    pub(super) fn open(path: &Path) -> Result<(Self, Numbers), Error> {
        let file = Self { path: path.to_owned(), database: RwLock::default() };
        file.make()?;
        let numbers = file.reopen()?;
        Ok((file, numbers))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The database, if it is open.
    pub(super) fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        // A panic while it was being exchanged leaves `None`, which is what it means.
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the database once no read is running; frees the lock.
    pub(super) fn close(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Closes the database and opens it again, which repairs it, and tells what it holds.
    pub(super) fn reopen(&self) -> Result<Numbers, Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *database = None;
        // A file that somebody has damaged may make the library panic; that is an
        // answer too, and must not end the coordinator.
        let opened = catch_unwind(AssertUnwindSafe(|| self.open_database()))
            .unwrap_or_else(|_| Err(self.damaged("its pages contradict each other")))?;
        let numbers = self.numbers(&opened)?;
        *database = Some(opened);
        Ok(numbers)
    }

    /// Reads a snapshot; `None` if the database is not open.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&View) -> Result<T, redb::Error>,
    ) -> Option<Result<T, Error>> {
        let database = self.database();
        let database = database.as_ref()?;
        let result = database
            .begin_read()
            .map_err(redb::Error::from)
            .and_then(|transaction| View::of(&transaction))
            .and_then(|view| read(&view));
        Some(result.map_err(|error| self.explain(&error)))
    }

    /// Makes an empty database, if nothing is at the path. A process that is killed here leaves
    /// a temporary file at most, never half a database under the real name.
    fn make(&self) -> Result<(), Error> {
        let explain = |error: io::Error| self.explain(&redb::Error::Io(error));
        if fs::exists(&self.path).map_err(explain)? {
            return Ok(());
        }
        let folder = match self.path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // `tempfile` makes it with mode 0600.
        let temporary = tempfile::Builder::new()
            .prefix(".chancery-store-")
            .tempfile_in(folder)
            .map_err(explain)?;
        let database = FileBackend::new(temporary.reopen().map_err(explain)?)
            .and_then(|backend| builder().create_with_backend(backend))
            .map_err(|error| self.explain(&error.into()))?;
        write_format(&database).map_err(|error| self.explain(&error))?;
        drop(database);
        match temporary.persist_noclobber(&self.path) {
            Ok(_) => {}
            // Another process was faster; what it made is as good.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(explain(error.error)),
        }
        durable::sync_dir(folder).map_err(|error| Error::Unavailable(error.to_string()))
    }

    fn open_database(&self) -> Result<Database, Error> {
        let explain = |error: DatabaseError| self.explain(&error.into());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(|error| explain(error.into()))?;
        let restrict = || {
            let mode = file.metadata()?.permissions().mode();
            if mode & 0o777 == 0o600 {
                return Ok(());
            }
            file.set_permissions(fs::Permissions::from_mode(0o600))
        };
        restrict().map_err(|error: io::Error| explain(error.into()))?;
        FileBackend::new(file)
            .and_then(|backend| builder().create_with_backend(backend))
            .map_err(explain)
    }

    fn numbers(&self, database: &Database) -> Result<Numbers, Error> {
        let read = || -> Result<(u64, Numbers), redb::Error> {
            let view = View::of(&database.begin_read()?)?;
            Ok((view.number(FORMAT)?, view.all_numbers()?))
        };
        let (format, numbers) = read().map_err(|error| self.explain(&error))?;
        if format > THIS_FORMAT {
            return Err(self.damaged(&format!(
                "it has format {format}, which this version of Chancery does not know (it knows \
                 up to {THIS_FORMAT}): upgrade this coordinator"
            )));
        }
        Ok(numbers)
    }

    /// What an error of the database means, and what to do about it.
    pub(super) fn explain(&self, error: &redb::Error) -> Error {
        use redb::Error as E;
        let path = self.path.display();
        match error {
            E::DatabaseAlreadyOpen | E::LockProtocolMismatch => Error::InUse(path.to_string()),
            E::Io(error) => self.explain_io(error),
            E::PreviousIo | E::DatabaseClosed => Error::Unavailable(format!(
                "{path} is being opened again after a failed read or write"
            )),
            error => self.damaged(&error.to_string()),
        }
    }

    fn explain_io(&self, error: &io::Error) -> Error {
        let path = self.path.display();
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Error::Full(format!(
                "{path}: {error}; make room on this file system, the coordinator then goes on by \
                 itself"
            )),
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                self.damaged(&error.to_string())
            }
            io::ErrorKind::NotFound => Error::Unavailable(format!(
                "{path}: {error}; create its folder and give it to the user that the coordinator \
                 runs as"
            )),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Error::Unavailable(format!(
                    "{path}: {error}; the user that the coordinator runs as must be able to write \
                     the file and its folder"
                ))
            }
            io::ErrorKind::IsADirectory => {
                Error::Unavailable(format!("{path} is a folder; name a file in it as the store"))
            }
            _ => Error::Unavailable(format!("{path}: {error}")),
        }
    }

    /// What is in the file cannot be used.
    pub(super) fn damaged(&self, reason: &str) -> Error {
        let path = self.path.display();
        Error::Damaged(format!(
            "{path} is not a whole Chancery store: {reason}. Nothing was changed. Put the file of \
             a backup in its place, or name another path to start with an empty store"
        ))
    }
}

impl View {
    fn of(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            entries: transaction.open_table(ENTRIES)?,
            numbers: transaction.open_table(NUMBERS)?,
        })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, redb::Error> {
        Ok(self.entries.get(key)?.map(|row| entry(key, row.value())))
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Snapshot, redb::Error> {
        let revision = self.all_numbers()?.revision;
        let mut entries = Vec::new();
        for row in self.entries.range(prefix..)? {
            let (key, value) = row?;
            if !key.value().starts_with(prefix) {
                break;
            }
            entries.push(entry(key.value(), value.value()));
        }
        Ok(Snapshot { revision, entries })
    }

    fn all_numbers(&self) -> Result<Numbers, redb::Error> {
        let revision = Revision(self.number(REVISION)?);
        Ok(Numbers { revision, epoch: Epoch(self.number(EPOCH)?) })
    }

    fn number(&self, name: &str) -> Result<u64, redb::Error> {
        let missing = || {
            let reason = format!("it has no {name}");
            redb::Error::from(StorageError::Corrupted(reason))
        };
        Ok(self.numbers.get(name)?.ok_or_else(missing)?.value())
    }
}

fn entry(key: &str, (revision, value): (u64, &[u8])) -> Entry {
    Entry {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        revision: Revision(revision),
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn write_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert(FORMAT, THIS_FORMAT)?;
        numbers.insert(REVISION, 0)?;
        numbers.insert(EPOCH, 0)?;
        transaction.open_table(ENTRIES)?;
    }
    Ok(transaction.commit()?)
}
