//! The atomic writer: a directory of files whose content changes as a whole, for containers that look at any time.
//!
//! ```text
//! volume/..2026_01_01_00_00_00.123456789/key    the files of now
//! volume/..data ─► ..2026_01_01_00_00_00.123456789    swapped by one rename
//! volume/key ─► ..data/key
//! ```

use jiff::Timestamp;
use nix::unistd::{Gid, Uid, chown};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

/// The symbolic link that is swapped.
const DATA: &str = "..data";
/// Its successor until the swap.
const NEXT: &str = "..data_tmp";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Content.
    pub(super) data: Vec<u8>,
    /// Permission bits.
    pub(super) mode: u32,
    /// Owner, if not root.
    pub(super) uid: Option<u32>,
}

/// Files by their path below the volume's directory.
pub(super) type Files = BTreeMap<String, File>;

/// Makes `volume` hold `files` and nothing else. Does nothing if it does already. With `group` everything belongs to it
/// and is readable for it.
///
/// # Errors
/// If a path would lie outside of the volume, or the disk fails; then the old content stays.
pub(super) fn write(volume: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    files.keys().try_for_each(|path| check(path))?;
    fs::create_dir_all(volume)?;
    let old = fs::read_link(volume.join(DATA)).ok();
    if old.as_ref().is_some_and(|old| same(&volume.join(old), files)) {
        return Ok(());
    }
    let name = Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let result = fill(&volume.join(&name), files, group).and_then(|()| swap(volume, &name, files));
    if result.is_err() {
        // The error counts; what is left of the attempt goes with the pod.
        let _ = fs::remove_dir_all(volume.join(&name));
        return result;
    }
    remove_stale(volume, &name, files)?;
    own(volume, None, group, 0o755)
}

/// A path stays below the volume, and doesn't begin with the writer's own two dots.
fn check(path: &str) -> io::Result<()> {
    let normal = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    if path.is_empty() || !normal || path.starts_with("..") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path \"{path}\": it must be relative and without '..'"),
        ));
    }
    Ok(())
}

/// Whether the directory has exactly these files with these contents. Modes come from the pod, which does not change.
fn same(directory: &Path, files: &Files) -> bool {
    let equal =
        |(path, file): (&String, &File)| fs::read(directory.join(path)).is_ok_and(|data| data == file.data);
    files.iter().all(equal) && count(directory).is_ok_and(|count| count == files.len())
}

fn count(directory: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        files += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(files)
}

fn fill(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(directory)?;
    own(directory, None, group, 0o755)?;
    for (path, file) in files {
        let path = Path::new(path);
        let mut parent = directory.to_path_buf();
        for part in path.parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            if !parent.is_dir() {
                fs::create_dir(&parent)?;
                own(&parent, None, group, 0o755)?;
            }
        }
        let target = directory.join(path);
        fs::write(&target, &file.data)?;
        let readable = if group.is_some() { 0o440 } else { 0 };
        own(&target, file.uid, group, file.mode | readable)?;
    }
    Ok(())
}

fn own(path: &Path, uid: Option<u32>, group: Option<u32>, mode: u32) -> io::Result<()> {
    if uid.is_some() || group.is_some() {
        chown(path, uid.map(Uid::from_raw), group.map(Gid::from_raw))?;
    }
    // A directory of a group hands the group on to what is made in it.
    let inherit = if group.is_some() && path.is_dir() { 0o2050 } else { 0 };
    fs::set_permissions(path, Permissions::from_mode(mode | inherit))
}

/// Swaps the content and links the new names to it.
fn swap(volume: &Path, name: &str, files: &Files) -> io::Result<()> {
    let next = volume.join(NEXT);
    match fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(name, &next)?,
    }
    fs::rename(&next, volume.join(DATA))?;
    for top in tops(files) {
        let link = volume.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    Ok(())
}

/// The names directly below the volume.
fn tops(files: &Files) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

/// Removes what earlier contents left.
fn remove_stale(volume: &Path, name: &str, files: &Files) -> io::Result<()> {
    let tops = tops(files);
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let own = entry.file_name();
        let own = own.to_string_lossy();
        if own == name || own == DATA || tops.contains(&*own) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn files(all: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { data: text.into(), mode: 0o400, uid: None };
        all.iter().map(|(path, text)| (path.to_string(), file(text))).collect()
    }

    fn names(directory: &Path) -> Vec<String> {
        let all = fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<_> = all.filter(|name| !name.starts_with("..2")).collect();
        all.sort();
        all
    }

    #[test]
    fn contents_change_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        write(&volume, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(names(&volume), ["..data", "a", "d"]);
        assert_eq!(fs::read_to_string(volume.join("d/b")).unwrap(), "2");
        assert_eq!(fs::metadata(volume.join("a")).unwrap().mode() & 0o7777, 0o400);
        let first = fs::read_link(volume.join(DATA)).unwrap();

        write(&volume, &files(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), first, "nothing changed, nothing is written");

        write(&volume, &files(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!(names(&volume), ["..data", "a", "c"]);
        assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "3");
        assert!(!volume.join(first).exists());

        write(&volume, &files(&[]), None).unwrap();
        assert_eq!(names(&volume), ["..data"]);
    }

    #[test]
    fn a_group_may_read() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files(&[("d/a", "1")]), Some(4321)).unwrap();
        let a = fs::metadata(dir.path().join("d/a")).unwrap();
        assert_eq!((a.gid(), a.mode() & 0o7777), (4321, 0o440));
        let d = fs::metadata(dir.path().join("d")).unwrap();
        assert_eq!((d.gid(), d.mode() & 0o7777), (4321, 0o2755));
    }

    #[test]
    fn paths_stay_below_the_volume() {
        for path in ["../x", "/x", "a/../../x", "", "..x", "./a/..", "."] {
            let dir = tempfile::tempdir().unwrap();
            let error = write(&dir.path().join("v"), &files(&[(path, "1")]), None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        }
    }
}
