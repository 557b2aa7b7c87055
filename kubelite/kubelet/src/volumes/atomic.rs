//! Files that change all at once: a folder with the new contents, and one link `..data` that is turned to it.
//!
//! ```text
//!  <volume>/a -> ..data/a     ..data -> ..2026_11_23_1     ..2026_11_23_1/a
//! ```
//!
//! A reader sees the old files or the new ones, never some of each. It is upstream's layout, and programs rely on it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

/// What a file holds, and its mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    /// The bytes.
    pub(super) content: Vec<u8>,
    /// E.g. 0o644.
    pub(super) mode: u32,
}

/// Relative paths and what stands there.
pub(super) type Files = BTreeMap<String, Payload>;

const DATA: &str = "..data";

/// Makes the folder hold exactly these files; nothing is written if it does already.
pub(super) fn write(volume: &Path, files: &Files, group: Option<i64>) -> io::Result<()> {
    if let Some(bad) = files.keys().find(|path| !is_inside(path)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("the path {bad} leads out of the volume"),
        ));
    }
    DirBuilder::new().recursive(true).mode(0o755).create(volume)?;
    let current = fs::read_link(volume.join(DATA)).ok();
    if current.as_ref().is_some_and(|dir| holds(&volume.join(dir), files)) {
        return Ok(());
    }
    let name =
        OsString::from(format!("..{}_{}", jiff::Timestamp::now().as_nanosecond(), rand::random::<u16>()));
    let dir = volume.join(&name);
    DirBuilder::new().mode(0o755).create(&dir)?;
    for (path, payload) in files {
        write_file(&dir, path, payload, group)?;
    }
    let turning = volume.join("..data_tmp");
    let _ = fs::remove_file(&turning);
    symlink(&name, &turning)?;
    fs::rename(&turning, volume.join(DATA))?;
    link_first_parts(volume, files)?;
    match current {
        Some(old) => fs::remove_dir_all(volume.join(old)),
        None => Ok(()),
    }
}

fn write_file(dir: &Path, path: &str, payload: &Payload, group: Option<i64>) -> io::Result<()> {
    let path = dir.join(path);
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(&payload.content)?;
    let mut mode = payload.mode;
    if let Some(group) = group.and_then(|g| u32::try_from(g).ok()) {
        chown(&path, None, Some(group))?;
        // Who shares the group can read what the owner can read.
        mode |= (mode & 0o400) >> 3;
    }
    // Set, not asked for at the creation: there the umask has a word.
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

/// A link for the first part of each path; links of paths that are gone go.
fn link_first_parts(volume: &Path, files: &Files) -> io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: std::collections::BTreeSet<String> = files.keys().map(|path| first(path)).collect();
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(volume.join(name))?;
        }
    }
    for name in wanted {
        match symlink(Path::new(DATA).join(&name), volume.join(&name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn holds(dir: &Path, files: &Files) -> bool {
    let same = |(path, payload): (&String, &Payload)| {
        fs::read(dir.join(path)).is_ok_and(|content| content == payload.content)
    };
    count(dir) == files.len() && files.iter().all(same)
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.file_type().is_ok_and(|t| t.is_dir()) { count(&e.path()) } else { 1 }).sum()
}

/// A relative path without `..`, that does not begin like the writer's own names.
fn is_inside(path: &str) -> bool {
    let normal = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    !path.is_empty() && normal && !path.starts_with("..") && PathBuf::from(path).components().count() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let payload = |text: &str| Payload { content: text.into(), mode: 0o640 };
        pairs.iter().map(|(path, text)| ((*path).to_owned(), payload(text))).collect()
    }

    fn read(dir: &Path, path: &str) -> String {
        fs::read_to_string(dir.join(path)).unwrap_or_default()
    }

    #[test]
    fn contents_are_replaced_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        write(&volume, &files(&[("a", "1"), ("deep/er/b", "2")]), None).unwrap();
        assert_eq!((read(&volume, "a"), read(&volume, "deep/er/b")), ("1".into(), "2".into()));
        assert_eq!(fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let before = fs::read_link(volume.join(DATA)).unwrap();
        write(&volume, &files(&[("a", "1"), ("deep/er/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(volume.join(DATA)).unwrap(), before, "nothing changed, nothing is written");
        write(&volume, &files(&[("a", "new"), ("c", "3")]), None).unwrap();
        assert_eq!((read(&volume, "a"), read(&volume, "c")), ("new".into(), "3".into()));
        assert!(!volume.join("deep").exists() && !volume.join(before).exists());
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", "..data", "..x", ""] {
            assert!(write(dir.path(), &files(&[(path, "x")]), None).is_err(), "{path}");
        }
    }
}
