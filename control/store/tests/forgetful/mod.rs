//! A disk that may forget: a file system in user space on which only what was synced is sure to survive a power cut.
//!
//! It keeps, of each file, what has been synced and the writes since. A power cut makes an image of it: everything
//! synced, and of the rest a random part in random order, torn into sectors. A new name survives only if its folder
//! was synced. One flat folder is all that a store needs.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, TimeOrNow,
    WriteFlags,
};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Attributes aren't cached: they change behind the kernel's back when an image is loaded.
const TTL: Duration = Duration::ZERO;

/// A folder's files after a power cut.
type Image = BTreeMap<String, Vec<u8>>;

/// What the disk does with a sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, Default)]
pub enum Syncs {
    /// What it should.
    #[default]
    Work,
    /// Nothing, and says that all is well: the disk's view of an engine whose sync is a no-op.
    DoNothing,
    /// It fails, and nothing is known about what it should have made durable.
    Fail,
}

/// A mounted disk, as the test has it. Dropping it unmounts it and ends its process.
pub struct Disk {
    control: Mutex<UnixStream>,
    child: Child,
    _socket: tempfile::TempDir,
}

/// What the test asks of the disk's process.
#[derive(serde::Serialize, serde::Deserialize)]
enum Ask {
    Mount { at: PathBuf, from: Option<PathBuf> },
    SetSyncs(Syncs),
    FailSyncsOf(String),
    SetRoom(u64),
    Used,
    Synced,
    Record(u64),
    Recorded { to: PathBuf },
    Cut { seed: u64, to: PathBuf },
}

/// What it answers.
#[derive(serde::Serialize, serde::Deserialize)]
enum Answer {
    Done,
    Number(u64),
}

const SOCKET: &str = "KERNELET_STORE_FORGETFUL_DISK";

/// The disk in its own process.
#[derive(Clone)]
struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    syncs: Syncs,
    /// Only syncs of the file with this name fail; of every file when it is empty.
    failing: String,
    /// Syncs that were asked for.
    synced: u64,
    /// Bytes that all files together may have, if there is a limit.
    room: Option<u64>,
    /// An image is kept after each change, by this generator, while it is set.
    recorder: Option<Random>,
    recorded: Vec<Image>,
}

#[derive(Default)]
struct Inode {
    mode: u16,
    data: Vec<u8>,
    durable: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Change {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => {
                if data.len() < at + bytes.len() {
                    data.resize(at + bytes.len(), 0);
                }
                data[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Length(length) => data.resize(*length, 0),
        }
    }
}

/// Random numbers that a seed gives again (splitmix64).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

impl Disk {
    /// Mounts a disk at an empty folder, with the files of another folder on it, all synced, or none.
    pub fn mount(from: Option<&Path>, at: &Path) -> Disk {
        let socket = tempfile::tempdir().unwrap();
        let path = socket.path().join("disk");
        let listener = UnixListener::bind(&path).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk_process", "--nocapture"])
            .env(SOCKET, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let (control, _) = listener.accept().unwrap();
        let disk = Disk {
            control: Mutex::new(control),
            child,
            _socket: socket,
        };
        disk.ask(&Ask::Mount {
            at: at.to_owned(),
            from: from.map(Path::to_owned),
        });
        disk
    }

    fn ask(&self, ask: &Ask) -> Answer {
        let mut control = self.control.lock().unwrap();
        send(&mut control, ask);
        receive(&mut control).expect("the disk's process lives")
    }

    fn number(&self, ask: &Ask) -> u64 {
        match self.ask(ask) {
            Answer::Number(number) => number,
            Answer::Done => panic!("a number was asked for"),
        }
    }

    pub fn set_syncs(&self, syncs: Syncs) {
        self.ask(&Ask::SetSyncs(syncs));
    }

    /// Only syncs of this file fail.
    pub fn fail_syncs_of(&self, name: &str) {
        self.ask(&Ask::FailSyncsOf(name.to_owned()));
    }

    pub fn set_room(&self, bytes: u64) {
        self.ask(&Ask::SetRoom(bytes));
    }

    pub fn used(&self) -> u64 {
        self.number(&Ask::Used)
    }

    /// How often a sync was asked for.
    pub fn synced(&self) -> u64 {
        self.number(&Ask::Synced)
    }

    /// Keeps an image after every change from now on.
    pub fn record(&self, random: &mut Random) {
        self.ask(&Ask::Record(random.next()));
    }

    /// Writes the images that were kept into folders of `to` named 0, 1 and so on, and answers how many there are; no
    /// more are kept.
    pub fn recorded(&self, to: &Path) -> u64 {
        self.number(&Ask::Recorded { to: to.to_owned() })
    }

    /// Writes into the new folder `to` what a power cut at this moment might leave.
    pub fn cut(&self, random: &mut Random, to: &Path) {
        self.ask(&Ask::Cut {
            seed: random.next(),
            to: to.to_owned(),
        });
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The end of the connection is its end.
        if let Ok(control) = self.control.get_mut() {
            let _ = control.shutdown(std::net::Shutdown::Both);
        }
        let _ = self.child.wait();
    }
}

fn send<T: serde::Serialize>(stream: &mut UnixStream, message: &T) {
    let bytes = postcard::to_stdvec(message).unwrap();
    stream
        .write_all(&(bytes.len() as u64).to_be_bytes())
        .unwrap();
    stream.write_all(&bytes).unwrap();
}

/// None: the other side has gone.
fn receive<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> Option<T> {
    let mut length = [0; 8];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; u64::from_be_bytes(length) as usize];
    stream.read_exact(&mut bytes).ok()?;
    Some(postcard::from_bytes(&bytes).unwrap())
}

/// The disk's process, when this binary was started for that: call it from a test named `disk_process`.
pub fn serve() {
    let Ok(path) = std::env::var(SOCKET) else {
        return;
    };
    let mut control = UnixStream::connect(path).unwrap();
    let server = Server(Arc::new(Mutex::new(State::default())));
    let mut mounted = None;
    while let Some(ask) = receive(&mut control) {
        let mut state = server.0.lock().unwrap();
        let answer = match ask {
            Ask::Mount { at, from } => {
                if let Some(from) = from {
                    state.load(&from);
                }
                drop(state);
                let session = Session::new(server.clone(), at, &Config::default()).unwrap();
                mounted = Some(session.spawn().unwrap());
                Answer::Done
            }
            Ask::SetSyncs(syncs) => {
                state.syncs = syncs;
                state.failing.clear();
                Answer::Done
            }
            Ask::FailSyncsOf(name) => {
                state.syncs = Syncs::Fail;
                state.failing = name;
                Answer::Done
            }
            Ask::SetRoom(bytes) => {
                state.room = Some(bytes);
                Answer::Done
            }
            Ask::Used => Answer::Number(state.used()),
            Ask::Synced => Answer::Number(state.synced),
            Ask::Record(seed) => {
                state.recorder = Some(Random(seed));
                Answer::Done
            }
            Ask::Recorded { to } => {
                state.recorder = None;
                for (n, image) in state.recorded.iter().enumerate() {
                    write(image, &to.join(n.to_string()));
                }
                Answer::Number(state.recorded.len() as u64)
            }
            Ask::Cut { seed, to } => {
                let image = state.cut(&mut Random(seed));
                drop(state);
                write(&image, &to);
                Answer::Done
            }
        };
        send(&mut control, &answer);
    }
    drop(mounted);
}

fn write(image: &Image, to: &Path) {
    fs::create_dir(to).unwrap();
    for (name, bytes) in image {
        fs::write(to.join(name), bytes).unwrap();
    }
}

impl State {
    fn load(&mut self, from: &Path) {
        for file in fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            let ino = self.add(&name_of(&file.file_name()), 0o600);
            let inode = self.inodes.get_mut(&ino).expect("just added");
            inode.data = fs::read(file.path()).unwrap();
            inode.durable.clone_from(&inode.data);
        }
        self.durable_names = self.names.clone();
    }

    fn add(&mut self, name: &str, mode: u16) -> u64 {
        let ino = self.inodes.last_key_value().map_or(1, |(last, _)| *last) + 1;
        self.inodes.insert(
            ino,
            Inode {
                mode,
                ..Inode::default()
            },
        );
        self.names.insert(name.to_owned(), ino);
        ino
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|ino| self.inodes[ino].data.len() as u64)
            .sum()
    }

    fn cut(&self, random: &mut Random) -> Image {
        // Each change of a name since the folder's last sync may have reached the disk or not.
        let mut names = self.durable_names.clone();
        for (name, ino) in &self.names {
            if self.durable_names.get(name) != Some(ino) && random.below(2) == 0 {
                names.insert(name.clone(), *ino);
            }
        }
        for name in self.durable_names.keys() {
            if !self.names.contains_key(name) && random.below(2) == 0 {
                names.remove(name);
            }
        }
        names
            .into_iter()
            .map(|(name, ino)| (name, self.inodes[&ino].cut(random)))
            .collect()
    }

    fn changed(&mut self) {
        if let Some(mut random) = self.recorder.take() {
            let image = self.cut(&mut random);
            self.recorded.push(image);
            self.recorder = Some(random);
        }
    }

    fn change(&mut self, ino: u64, change: Change) -> Result<(), Errno> {
        let grows = match &change {
            Change::Write { at, bytes } => at + bytes.len(),
            Change::Length(length) => *length,
        };
        let length = self.inodes.get(&ino).ok_or(Errno::ENOENT)?.data.len();
        let full = |room| self.used() + (grows - length) as u64 > room;
        if grows > length && self.room.is_some_and(full) {
            return Err(Errno::ENOSPC);
        }
        let inode = self.inodes.get_mut(&ino).expect("just found");
        change.apply(&mut inode.data);
        inode.since.push(change);
        self.changed();
        Ok(())
    }

    fn sync(&mut self, ino: u64) -> Result<(), Errno> {
        self.synced += 1;
        let spared = !self.failing.is_empty() && self.names.get(&self.failing) != Some(&ino);
        match self.syncs {
            Syncs::Work => {}
            Syncs::DoNothing => return Ok(()),
            Syncs::Fail if spared => {}
            Syncs::Fail => return Err(Errno::EIO),
        }
        if ino == 1 {
            self.durable_names = self.names.clone();
        } else if let Some(inode) = self.inodes.get_mut(&ino) {
            for change in std::mem::take(&mut inode.since) {
                change.apply(&mut inode.durable);
            }
        }
        self.changed();
        Ok(())
    }

    fn attributes(&self, ino: u64) -> Option<FileAttr> {
        let (size, kind, perm) = match (ino, self.inodes.get(&ino)) {
            (1, _) => (0, FileType::Directory, 0o700),
            (_, Some(inode)) => (inode.data.len() as u64, FileType::RegularFile, inode.mode),
            (_, None) => return None,
        };
        Some(FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Inode {
    /// What is durable, and a random part of the changes since, torn and out of order.
    fn cut(&self, random: &mut Random) -> Vec<u8> {
        let mut data = self.durable.clone();
        let mut left = Vec::new();
        for change in &self.since {
            match change {
                Change::Length(_) if random.below(2) == 0 => left.push(change.clone()),
                Change::Length(_) => {}
                // Mostly some sectors, sometimes all or none.
                Change::Write { at, bytes } => {
                    let survive = [0, 1, 2, 3, 4][random.below(5)];
                    let mut start = 0;
                    while start < bytes.len() {
                        let end = bytes
                            .len()
                            .min((at + start) / SECTOR * SECTOR + SECTOR - at);
                        if random.below(4) < survive {
                            left.push(Change::Write {
                                at: at + start,
                                bytes: bytes[start..end].to_vec(),
                            });
                        }
                        start = end;
                    }
                }
            }
        }
        while !left.is_empty() {
            let next = left.swap_remove(random.below(left.len()));
            next.apply(&mut data);
        }
        data
    }
}

fn name_of(name: &OsStr) -> String {
    name.to_str().expect("a store's names are text").to_owned()
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        match state
            .names
            .get(&name_of(name))
            .and_then(|ino| state.attributes(*ino))
        {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(ino.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut state = self.state();
        if let (Some(mode), Some(inode)) = (mode, state.inodes.get_mut(&ino.0)) {
            inode.mode = (mode & 0o777) as u16;
        }
        if let Some(size) = size
            && let Err(error) = state.change(ino.0, Change::Length(size as usize))
        {
            return reply.error(error);
        }
        match state.attributes(ino.0) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut state = self.state();
        let ino = state.add(&name_of(name), (mode & 0o777) as u16);
        state.changed();
        let attributes = state.attributes(ino).expect("just made");
        reply.created(
            &TTL,
            &attributes,
            Generation(0),
            FileHandle(0),
            FopenFlags::empty(),
        );
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.state();
        state.names.remove(&name_of(name));
        state.changed();
        reply.ok();
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        to: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        match state.names.remove(&name_of(name)) {
            Some(ino) => {
                state.names.insert(name_of(to), ino);
                state.changed();
                reply.ok();
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let state = self.state();
        let Some(inode) = state.inodes.get(&ino.0) else {
            return reply.error(Errno::ENOENT);
        };
        let start = (offset as usize).min(inode.data.len());
        let end = (start + size as usize).min(inode.data.len());
        reply.data(&inode.data[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let change = Change::Write {
            at: offset as usize,
            bytes: data.to_vec(),
        };
        match self.state().change(ino.0, change) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.state().sync(ino.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.state().sync(ino.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let state = self.state();
        for (n, (name, ino)) in state.names.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*ino), n as u64 + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
