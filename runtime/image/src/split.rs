//! What a layer's archive has beside its files' contents: enough to write the very same archive again from the
//! unpacked layer, so that the archive itself needs no space.
//!
//! A zstd stream of records: `0`, length (u32), bytes of the archive; or `1`, size (u64), length (u32), the path of a
//! file whose content comes here.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read, Write},
    os::{fd::BorrowedFd, unix::ffi::OsStrExt as _},
    path::Path,
    rc::Rc,
};

use kernelet_sys::root::{self, Symlinks};
use nix::fcntl::OFlag;

/// Raw bytes are written in pieces of at most so many.
const PIECE: usize = 256 << 10;

/// Writes the records while an archive is read.
pub(crate) struct SplitWriter {
    out: zstd::Encoder<'static, File>,
    raw: Vec<u8>,
    in_content: bool,
    /// The first failure; the archive's reader sees it as the end of reading.
    pub failed: Option<io::Error>,
}

impl SplitWriter {
    pub fn new(file: File) -> io::Result<SplitWriter> {
        Ok(SplitWriter {
            out: zstd::Encoder::new(file, 3)?,
            raw: Vec::new(),
            in_content: false,
            failed: None,
        })
    }

    /// From here on come `size` bytes of the content of the file at `path`.
    pub fn content(&mut self, path: &Path, size: u64) -> io::Result<()> {
        self.flush_raw()?;
        let path = path.as_os_str().as_bytes();
        self.out.write_all(&[1])?;
        self.out.write_all(&size.to_be_bytes())?;
        self.out.write_all(&length(path)?)?;
        self.out.write_all(path)?;
        self.in_content = true;
        Ok(())
    }

    pub fn content_ended(&mut self) {
        self.in_content = false;
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.in_content {
            self.raw.extend_from_slice(bytes);
            if self.raw.len() >= PIECE {
                self.flush_raw()?;
            }
        }
        Ok(())
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.out.write_all(&[0])?;
            self.out.write_all(&length(&self.raw)?)?;
            self.out.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }

    pub fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.out.finish()?;
        Ok(())
    }
}

fn length(bytes: &[u8]) -> io::Result<[u8; 4]> {
    Ok(u32::try_from(bytes.len())
        .map_err(io::Error::other)?
        .to_be_bytes())
}

/// Reads an archive for its unpacker, and shows everything to the writer of records.
pub(crate) struct Tap<R> {
    pub inner: R,
    pub split: Rc<RefCell<SplitWriter>>,
}

impl<R: Read> Read for Tap<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let mut split = self.split.borrow_mut();
        if let Err(error) = split.push(&buffer[..read]) {
            let kind = error.kind();
            split.failed.get_or_insert(error);
            return Err(kind.into());
        }
        Ok(read)
    }
}

/// Writes the archive again, from its records and the unpacked layer.
pub(crate) fn assemble(
    records: impl Read,
    layer: BorrowedFd<'_>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut records = zstd::Decoder::new(records)?;
    let mut kind = [0];
    loop {
        if records.read(&mut kind)? == 0 {
            return Ok(());
        }
        match kind {
            [0] => {
                let raw = piece(&mut records)?;
                out.write_all(&raw)?;
            }
            [1] => {
                let mut size = [0; 8];
                records.read_exact(&mut size)?;
                let size = u64::from_be_bytes(size);
                let path = piece(&mut records)?;
                let path = Path::new(std::ffi::OsStr::from_bytes(&path));
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let file = root::open_in(layer, path, flags, 0, Symlinks::Refused)
                    .map_err(io::Error::other)?;
                let copied = io::copy(&mut File::from(file).take(size), out)?;
                if copied != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn piece(records: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    records.read_exact(&mut length)?;
    let mut bytes = Vec::new();
    let length = u64::from(u32::from_be_bytes(length));
    if records.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}
