//! A directory in memory without faults, cheap to copy: for tests that open very many of them.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use kvstore::storage::Disk;

/// A handle to a directory; clones are handles to the same one. Copies of a directory share the
/// files that neither has written to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Rc<RefCell<Directory>>);

#[derive(Clone, Debug, Default)]
struct Directory {
    names: BTreeMap<String, usize>,
    inodes: Vec<Rc<Vec<u8>>>,
    is_touched: bool,
}

impl Memory {
    /// Another directory with the same files.
    pub(crate) fn copy(&self) -> Self {
        let directory = Directory { is_touched: false, ..self.0.borrow().clone() };
        Self(Rc::new(RefCell::new(directory)))
    }

    /// Another directory with the same files, but for this one.
    pub(crate) fn with(&self, name: &str, content: &[u8]) -> Self {
        let copy = self.copy();
        copy.0.borrow_mut().add(name, content.to_vec());
        copy
    }

    /// Another directory with the same files, without this one.
    pub(crate) fn without(&self, name: &str) -> Self {
        let copy = self.copy();
        copy.0.borrow_mut().names.remove(name);
        copy
    }

    /// What a file holds.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let directory = self.0.borrow();
        directory.inodes[directory.names[name]].to_vec()
    }

    /// Whether anything in it was created, written, renamed or removed.
    pub(crate) fn is_touched(&self) -> bool {
        self.0.borrow().is_touched
    }

    fn touch(&self) -> RefMut<'_, Directory> {
        let mut directory = self.0.borrow_mut();
        directory.is_touched = true;
        directory
    }
}

impl Directory {
    fn add(&mut self, name: &str, content: Vec<u8>) -> usize {
        self.inodes.push(Rc::new(content));
        self.names.insert(name.to_owned(), self.inodes.len() - 1);
        self.inodes.len() - 1
    }
}

impl Disk for Memory {
    type File = usize;

    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().names.keys().cloned().collect())
    }

    fn create(&mut self, name: &str) -> io::Result<usize> {
        Ok(self.touch().add(name, Vec::new()))
    }

    fn open(&mut self, name: &str) -> io::Result<usize> {
        self.0.borrow().names.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    fn size(&mut self, file: &usize) -> io::Result<u64> {
        Ok(self.0.borrow().inodes[*file].len() as u64)
    }

    fn read_at(&mut self, file: &usize, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let directory = self.0.borrow();
        let there = directory.inodes[*file].get(offset as usize..).unwrap_or_default();
        let count = into.len().min(there.len());
        into[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn write_at(&mut self, file: &usize, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut directory = self.touch();
        let content = Rc::make_mut(&mut directory.inodes[*file]);
        let (offset, end) = (offset as usize, offset as usize + bytes.len());
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn shrink(&mut self, file: &usize, size_bytes: u64) -> io::Result<()> {
        Rc::make_mut(&mut self.touch().inodes[*file]).truncate(size_bytes as usize);
        Ok(())
    }

    fn sync(&mut self, _file: &usize) -> io::Result<()> {
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let names = &mut self.touch().names;
        let inode = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.touch().names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn free_space(&mut self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn path_of(&self, name: &str) -> String {
        format!("memory/{name}")
    }
}
