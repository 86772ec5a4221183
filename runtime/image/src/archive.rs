//! Where an image's parts come from: a folder, or an archive that is indexed first, because an archive's manifest may
//! stand behind the layers it names.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::FileExt as _,
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use kernelet_sys::root::{self, Symlinks};
use nix::fcntl::OFlag;

use crate::ImageError;

/// Links among an archive's members, at most so many in a row.
const MAX_LINKS: usize = 16;

/// The parts of one or more images, by name.
#[derive(Debug)]
pub(crate) enum Source {
    Folder(OwnedFd),
    Archive {
        file: Arc<File>,
        members: HashMap<PathBuf, Member>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Member {
    At { offset: u64, size: u64 },
    Link(PathBuf),
}

/// A part's bytes. Ending before its size is an error, not an end.
#[derive(Debug)]
pub(crate) struct Part {
    file: Arc<File>,
    position: u64,
    end: u64,
    pub size: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.file.read_at(&mut buffer[..wanted], self.position)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += read as u64;
        Ok(read)
    }
}

impl Source {
    /// A folder, or a file as it is or decompressed into `spool`.
    pub fn open(
        path: &Path,
        spool: impl FnOnce() -> io::Result<File>,
    ) -> Result<Source, ImageError> {
        let io = |source| ImageError::Io {
            attempt: "open the image",
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_dir() {
            return Ok(Source::Folder(file.into()));
        }
        if metadata.is_file() {
            let mut magic = [0; 4];
            let read = file.read_at(&mut magic, 0).map_err(io)?;
            if matches!(Compression::of(&magic[..read]), Ok(Compression::None)) {
                return Source::index(file);
            }
        }
        file.seek(SeekFrom::Start(0)).or_else(|error| {
            // A pipe is read from where it stands.
            if error.raw_os_error() == Some(nix::libc::ESPIPE) {
                Ok(0)
            } else {
                Err(io(error))
            }
        })?;
        Source::read(file, spool)
    }

    /// A stream, decompressed into `spool`.
    pub fn read(
        reader: impl Read + Send,
        spool: impl FnOnce() -> io::Result<File>,
    ) -> Result<Source, ImageError> {
        let io = |source| ImageError::Io {
            attempt: "make a file for the image in",
            path: "tmp".into(),
            source,
        };
        let mut file = spool().map_err(io)?;
        let mut decoder = decompress(BufReader::new(reader)).map_err(damaged("the image file"))?;
        copy(&mut decoder, &mut file, "the image file", Path::new("tmp"))?;
        file.seek(SeekFrom::Start(0)).map_err(io)?;
        Source::index(file)
    }

    fn index(file: File) -> Result<Source, ImageError> {
        let cut_short = damaged("the image file");
        let length = file.metadata().map_err(&cut_short)?.len();
        let mut members = HashMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().map_err(&cut_short)? {
            let entry = entry.map_err(&cut_short)?;
            let Some(name) = plain(&entry.path().map_err(&cut_short)?) else {
                continue;
            };
            let kind = entry.header().entry_type();
            let member = if kind.is_file() {
                let (offset, size) = (entry.raw_file_position(), entry.size());
                // With the padding: an archive that lacks even that was cut short.
                let end = offset
                    .checked_add(size)
                    .and_then(|end| end.checked_next_multiple_of(512));
                if end.is_none_or(|end| end > length) {
                    return Err(cut_short(io::ErrorKind::UnexpectedEof.into()));
                }
                Member::At { offset, size }
            } else if kind.is_symlink() || kind.is_hard_link() {
                let Some(target) = entry.link_name().map_err(&cut_short)? else {
                    continue;
                };
                let base = if kind.is_symlink() {
                    name.parent()
                } else {
                    None
                };
                match join(base.unwrap_or(Path::new("")), &target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                }
            } else {
                continue;
            };
            members.insert(name, member);
        }
        Ok(Source::Archive {
            file: Arc::new(file),
            members,
        })
    }

    /// A part by its name; none if it isn't there.
    pub fn part(&self, name: &str) -> Result<Option<Part>, ImageError> {
        match self {
            Source::Folder(dir) => {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
                let opened =
                    root::open_in(dir.as_fd(), Path::new(name), flags, 0, Symlinks::Inside);
                let file = match opened {
                    Ok(file) => File::from(file),
                    Err(error) if error.errno == nix::errno::Errno::ENOENT => return Ok(None),
                    Err(error) => {
                        return Err(damaged(name)(io::Error::other(error)));
                    }
                };
                let metadata = file.metadata().map_err(damaged(name))?;
                if !metadata.is_file() {
                    return Err(ImageError::NotAnImage(format!("{name} is not a file")));
                }
                Ok(Some(Part::new(Arc::new(file), 0, metadata.len())))
            }
            Source::Archive { file, members } => {
                let mut name = plain(Path::new(name));
                for _ in 0..MAX_LINKS {
                    match name.as_ref().and_then(|name| members.get(name)) {
                        None => return Ok(None),
                        Some(Member::At { offset, size }) => {
                            return Ok(Some(Part::new(file.clone(), *offset, *size)));
                        }
                        Some(Member::Link(target)) => name = Some(target.clone()),
                    }
                }
                Ok(None)
            }
        }
    }
}

impl Part {
    fn new(file: Arc<File>, offset: u64, size: u64) -> Part {
        Part {
            file,
            position: offset,
            end: offset + size,
            size,
        }
    }
}

/// A member's name without `./`; none for one that leads out of the archive.
fn plain(path: &Path) -> Option<PathBuf> {
    join(Path::new(""), path)
}

fn join(base: &Path, path: &Path) -> Option<PathBuf> {
    let mut joined = base.to_owned();
    for component in path.components() {
        match component {
            Component::Normal(name) => joined.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !joined.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => joined.clear(),
        }
    }
    Some(joined)
}

enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(magic: &[u8]) -> io::Result<Compression> {
        Ok(match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            [b'B', b'Z', b'h', ..] | [0xfd, b'7', b'z', b'X', ..] => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    "only gzip and zstd compression are supported",
                ));
            }
            _ => Compression::None,
        })
    }
}

/// Decompresses what is compressed, told by its first bytes: media types are often wrong.
pub(crate) fn decompress<'a>(
    mut reader: impl BufRead + Send + 'a,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match Compression::of(reader.fill_buf()?)? {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(reader)?),
    })
}

/// Copies to the end, and says which side failed.
pub(crate) fn copy(
    from: &mut dyn Read,
    to: &mut dyn io::Write,
    what: &str,
    path: &Path,
) -> Result<u64, ImageError> {
    let mut buffer = vec![0; 128 << 10];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(damaged(what)(error)),
        };
        to.write_all(&buffer[..read])
            .map_err(|source| ImageError::Io {
                attempt: "write",
                path: path.to_owned(),
                source,
            })?;
        copied += read as u64;
    }
}

pub(crate) fn damaged(what: &str) -> impl Fn(io::Error) -> ImageError + '_ {
    move |source| ImageError::Damaged {
        what: what.to_owned(),
        source,
    }
}
