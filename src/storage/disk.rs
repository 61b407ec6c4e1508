//! The directory of one node, as the log sees it, and the real one.
//!
//! [`Disk`] is small so that a simulator can bring its own, with all that real disks do wrong.
//! [`FileDisk`] is the only code of the library that opens a file.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::{BackupError, OpenError, is_own_name};

/// One flat directory of files. Names have no separators.
///
/// What an implementation promises, and no more:
/// - Bytes written to a file are seen by later reads, and survive a crash once [`Disk::sync`] of
///   that file has succeeded. Until then any part of them may survive, in any order. Bytes that
///   were durable and are written again with the same values are never lost.
/// - After a failed `sync` nothing is known of the bytes written since the last one that
///   succeeded, whatever reads show and later syncs return.
/// - A created, renamed or removed name survives a crash once [`Disk::sync_dir`] has succeeded.
/// - An open file stays the same file when it is renamed.
pub trait Disk {
    /// An open file.
    type File;

    /// The names of all files, in any order.
    fn list(&mut self) -> io::Result<Vec<String>>;

    /// Creates an empty file; an error if one of this name exists.
    fn create(&mut self, name: &str) -> io::Result<Self::File>;

    /// An empty file for the caller alone, in the place of one that somebody left who is gone. None if
    /// somebody who lives has it. Where one process alone uses the directory, nobody else lives.
    fn claim(&mut self, name: &str) -> io::Result<Option<Self::File>> {
        match self.remove(name) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => self.create(name).map(Some),
        }
    }

    /// Opens an existing file for reading and writing.
    fn open(&mut self, name: &str) -> io::Result<Self::File>;

    /// The size of a file in bytes.
    fn size(&mut self, file: &Self::File) -> io::Result<u64>;

    /// Reads at most `into.len()` bytes from `offset` on. Gives how many; 0 at the end.
    fn read_at(&mut self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes at most all of `bytes` at `offset`; a file grows as needed. Gives how many.
    fn write_at(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Cuts off what a file that lost its name holds beyond `size_bytes`, so that this is free again.
    fn shrink(&mut self, file: &Self::File, size_bytes: u64) -> io::Result<()>;

    /// Makes all that was written to a file durable.
    fn sync(&mut self, file: &Self::File) -> io::Result<()>;

    /// Gives a file another name. A file that has that name already is removed.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Makes all names durable.
    fn sync_dir(&mut self) -> io::Result<()>;

    /// How many bytes can still be stored.
    fn free_space(&mut self) -> io::Result<u64>;

    /// Where people find the file of this name, for messages.
    fn path_of(&self, name: &str) -> String;
}

/// Reads until `into` is full. A file that ends before is an error.
pub(super) fn read_exact<D: Disk>(
    disk: &mut D,
    file: &D::File,
    mut offset: u64,
    mut into: &mut [u8],
) -> io::Result<()> {
    while !into.is_empty() {
        match disk.read_at(file, offset, into) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                offset += count as u64;
                into = &mut into[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes until all of `bytes` are written.
pub(super) fn write_all<D: Disk>(
    disk: &mut D,
    file: &D::File,
    mut offset: u64,
    mut bytes: &[u8],
) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write_at(file, offset, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                offset += count as u64;
                bytes = &bytes[count..];
            }
            // Interrupted before anything was written: no failure, and nothing to doubt.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The name of the file whose lock says that the directory is in use. It holds the process id.
const LOCK: &str = "lock";

/// A real directory, locked for as long as this value lives: by the lock of its lock file, and by its own,
/// as that file may be removed.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    directory: File,
    /// Missing only where nothing is written and nobody ever locked.
    _lock: Option<File>,
    is_read_only: bool,
}

impl FileDisk {
    /// Opens `path`, creating it (and what lies above it) if missing, and locks it.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process has it open, [`OpenError::Directory`] if it is no
    /// directory or is not ours to use, [`OpenError::Read`] if its lock file is not, and
    /// [`OpenError::NoFile`] if what has the name of one of a node's files is none.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let refused = |cause: io::Error| directory_error(path, &cause);
        create_durably(path).map_err(refused)?;
        check_access(path).map_err(refused)?;
        let directory = File::open(path).map_err(refused)?;
        lock_directory(path, directory.try_lock())?;
        check_files(path)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut lock = options.open(path.join(LOCK)).map_err(|cause| lock_error(path, cause))?;
        take_lock(path, lock.try_lock())?;
        // For people alone. A disk that is full must not keep a node from starting, which may free some.
        let _ = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        Ok(Self { path: path.to_owned(), directory, _lock: Some(lock), is_read_only: false })
    }

    /// Opens an existing directory to read it. Nothing in it is changed, not even the lock's file; no
    /// node can be started in it meanwhile. Files are opened for reading alone, and all that would
    /// change something fails.
    ///
    /// # Errors
    /// As [`FileDisk::open`].
    pub fn read_only(path: &Path) -> Result<Self, OpenError> {
        let refused = |cause: io::Error| directory_error(path, &cause);
        if !std::fs::metadata(path).map_err(refused)?.is_dir() {
            return Err(refused(io::ErrorKind::NotADirectory.into()));
        }
        let directory = File::open(path).map_err(refused)?;
        lock_directory(path, directory.try_lock_shared())?;
        check_files(path)?;
        // A directory whose lock cannot be read is one that another user's process may hold.
        let lock = match File::open(path.join(LOCK)) {
            Ok(lock) => Some(lock),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(lock_error(path, cause)),
        };
        take_lock(path, lock.as_ref().map_or(Ok(()), File::try_lock_shared))?;
        Ok(Self { path: path.to_owned(), directory, _lock: lock, is_read_only: true })
    }

    /// The directory of a file that is no node's own, such as a backup, and the file's name in it.
    /// Nothing is locked.
    ///
    /// # Errors
    /// [`BackupError::File`] if the directory cannot be opened, or the path names no file.
    pub fn of_file(path: &Path) -> Result<(Self, String), BackupError> {
        let (parent, name) = (parent_of(path), path.file_name().and_then(OsStr::to_str));
        let failed = |action, path: &Path, cause| {
            let path = path.display().to_string();
            BackupError::File { action, path, cause }
        };
        let Some(name) = name else { return Err(failed("use", path, io::ErrorKind::InvalidFilename.into())) };
        let directory = File::open(parent).map_err(|cause| failed("open the directory", parent, cause))?;
        let disk = Self { path: parent.to_owned(), directory, _lock: None, is_read_only: false };
        Ok((disk, name.to_owned()))
    }

    /// The same, but all that would change something fails.
    #[must_use]
    pub fn for_reading(self) -> Self {
        Self { is_read_only: true, ..self }
    }

    /// Whether the user of this process may create files in this directory, and change the lock and
    /// these files, as a node must: what a start would say if not.
    ///
    /// # Errors
    /// As [`FileDisk::open`], and as a start that cannot open one of the files.
    pub fn check_writable<'a>(path: &Path, names: impl Iterator<Item = &'a str>) -> Result<(), OpenError> {
        let refused = |cause: io::Error| directory_error(path, &cause);
        check_access(path).map_err(refused)?;
        // Of a file system that went over to reading alone by itself only this tells; it changes nothing.
        File::open(path).and_then(|directory| directory.sync_all()).map_err(refused)?;
        let lock = path.join(LOCK);
        if lock.exists() {
            check_access(&lock).map_err(|cause| lock_error(path, cause))?;
        }
        for file in names.map(|name| path.join(name)) {
            let path = file.display().to_string();
            check_access(&file).map_err(|cause| OpenError::Read { path, cause })?;
        }
        Ok(())
    }

    fn writable(&self) -> io::Result<()> {
        if self.is_read_only { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}

fn check_access(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(path, rustix::fs::Access::WRITE_OK)?)
}

/// Whether all that has the name of a node's file is one. Opening a pipe would wait for ever, and what a
/// directory stands in the way of would fail much later, in the middle of a write.
fn check_files(path: &Path) -> Result<(), OpenError> {
    let refused = |cause: io::Error| directory_error(path, &cause);
    for entry in std::fs::read_dir(path).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let is_own = entry.file_name().to_str().is_some_and(|name| name == LOCK || is_own_name(name));
        let Some(kind) = entry.file_type().ok().filter(|kind| is_own && !kind.is_file()) else { continue };
        let found = match std::fs::metadata(entry.path()) {
            Ok(file) if file.is_file() => continue, // at the end of a link
            Ok(directory) if directory.is_dir() => "a directory",
            Err(cause) if kind.is_symlink() && cause.kind() == io::ErrorKind::NotFound => "a broken link",
            _ => "something else",
        };
        return Err(OpenError::NoFile { path: entry.path().display().to_string(), found });
    }
    Ok(())
}

fn take_lock(path: &Path, taken: Result<(), TryLockError>) -> Result<(), OpenError> {
    match taken {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(locked_error(path)),
        Err(TryLockError::Error(cause)) => Err(directory_error(path, &cause)),
    }
}

/// The same for the directory itself, which not every file system can lock (NFS cannot): then the lock
/// file alone counts.
fn lock_directory(path: &Path, taken: Result<(), TryLockError>) -> Result<(), OpenError> {
    match taken {
        Err(TryLockError::WouldBlock) => Err(locked_error(path)),
        _ => Ok(()),
    }
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates the directories that are missing and makes their names durable.
fn create_durably(path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    if path.is_dir() {
        // A crash may have come between creating it and making that durable. A parent that cannot
        // be opened is one in which we did not create anything.
        return File::open(parent).map_or(Ok(()), |parent| parent.sync_all());
    }
    create_durably(parent)?;
    match std::fs::create_dir(path) {
        // Another node that starts now has the same parent to create.
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created?,
    }
    File::open(parent)?.sync_all()
}

fn directory_error(path: &Path, cause: &io::Error) -> OpenError {
    let cure = match cause.kind() {
        io::ErrorKind::PermissionDenied => "run as the user who owns it",
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "move the file that is in the way",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space",
        io::ErrorKind::ReadOnlyFilesystem => "mount it for writing",
        io::ErrorKind::NotFound => "correct the path",
        _ => "see to the cause",
    };
    OpenError::Directory { path: path.display().to_string(), cause: cause.to_string(), cure }
}

/// A lock file that is there and may not be opened; one that cannot be made is the directory's fault.
fn lock_error(path: &Path, cause: io::Error) -> OpenError {
    let lock = path.join(LOCK);
    match lock.exists() && cause.kind() == io::ErrorKind::PermissionDenied {
        true => OpenError::Read { path: lock.display().to_string(), cause },
        false => directory_error(path, &cause),
    }
}

fn locked_error(path: &Path) -> OpenError {
    let holder = std::fs::read_to_string(path.join(LOCK)).ok();
    // Who reads a directory locks it too, and leaves no trace: the last node there may be gone.
    let is_alive = |pid: &u32| {
        let pid = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
    };
    let pid = holder.and_then(|holder| holder.trim().parse().ok()).filter(is_alive);
    OpenError::Locked { path: path.display().to_string(), pid }
}

impl Disk for FileDisk {
    type File = File;

    fn list(&mut self) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours, nor is that of a directory.
        let names = std::fs::read_dir(&self.path)?.map(|entry| {
            let entry = entry?;
            let name = entry.file_name().into_string().ok();
            Ok(name.filter(|_| !entry.file_type().is_ok_and(|kind| kind.is_dir())))
        });
        names.filter_map(Result::transpose).collect()
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        self.writable()?;
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))
    }

    fn claim(&mut self, name: &str) -> io::Result<Option<File>> {
        self.writable()?;
        let path = self.path.join(name);
        let mut options = OpenOptions::new();
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.read(true).write(true).create(true).truncate(false).custom_flags(flags.bits().cast_signed());
        let file = options.open(&path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(cause)) if cause.kind() != io::ErrorKind::Unsupported => {
                return Err(cause);
            }
            _ => {}
        }
        // Between opening and locking, who had it may have ended and given it another name: only the
        // holder of the lock does.
        let inode = file.metadata().ok().map(|file| file.ino());
        let is_claimed = std::fs::symlink_metadata(&path).is_ok_and(|found| Some(found.ino()) == inode);
        if !is_claimed {
            return Ok(None);
        }
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        file.set_len(0)?;
        Ok(Some(file))
    }

    fn open(&mut self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(!self.is_read_only).open(self.path.join(name))
    }

    fn size(&mut self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read_at(&mut self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        FileExt::read_at(file, into, offset)
    }

    fn write_at(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        FileExt::write_at(file, bytes, offset)
    }

    fn shrink(&mut self, file: &File, size_bytes: u64) -> io::Result<()> {
        file.set_len(size_bytes)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        // Sizes are metadata that reading needs, so this stores them too.
        file.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.writable()?;
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_space(&mut self) -> io::Result<u64> {
        let file_system = rustix::fs::fstatvfs(&self.directory)?;
        Ok(file_system.f_bavail.saturating_mul(file_system.f_frsize))
    }

    fn path_of(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    /// The system refuses to sync a pipe: by this one sees that it is asked.
    #[test]
    fn sync_of_what_the_system_cannot_sync_is_an_error() {
        let directory = tempfile::TempDir::new().unwrap();
        let mut disk = FileDisk::open(directory.path()).unwrap();
        let file = disk.create("file").unwrap();
        disk.sync(&file).unwrap();
        disk.sync_dir().unwrap();
        let (pipe, _) = io::pipe().unwrap();
        let pipe = File::from(OwnedFd::from(pipe));
        assert!(disk.sync(&pipe).is_err());
        disk.directory = pipe;
        assert!(disk.sync_dir().is_err());
    }
}
