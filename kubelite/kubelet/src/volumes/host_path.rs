//! hostPath: a path of the node as it is, after a check of its type.

use k8s_openapi::api::core::v1::HostPathVolumeSource;
use std::fs::{self, FileType, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a type demands of the path.
struct Rule {
    type_: &'static str,
    holds: fn(&FileType) -> bool,
    /// As in `hostPath type check failed: /x is not a …`.
    noun: &'static str,
    /// Made if nothing is there.
    create: Option<fn(&Path) -> io::Result<()>>,
}

const RULES: [Rule; 7] = [
    Rule {
        type_: "DirectoryOrCreate",
        holds: FileType::is_dir,
        noun: "directory",
        create: Some(create_directory),
    },
    Rule { type_: "Directory", holds: FileType::is_dir, noun: "directory", create: None },
    Rule { type_: "FileOrCreate", holds: FileType::is_file, noun: "file", create: Some(create_file) },
    Rule { type_: "File", holds: FileType::is_file, noun: "file", create: None },
    Rule { type_: "Socket", holds: FileTypeExt::is_socket, noun: "socket file", create: None },
    Rule { type_: "CharDevice", holds: FileTypeExt::is_char_device, noun: "character device", create: None },
    Rule { type_: "BlockDevice", holds: FileTypeExt::is_block_device, noun: "block device", create: None },
];

fn create_directory(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

fn create_file(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o644))
}

/// Checks the path's type, makes it where the type says so, and returns it.
pub(super) fn set_up(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    let wanted = source.type_.as_deref().unwrap_or_default();
    if wanted.is_empty() {
        return Ok(path);
    }
    let failed = |text: String| Err(format!("hostPath type check failed: {} {text}", path.display()));
    let Some(rule) = RULES.iter().find(|rule| rule.type_ == wanted) else {
        return failed(format!("has the unknown type {wanted}"));
    };
    match (fs::metadata(&path), rule.create) {
        (Ok(metadata), _) if (rule.holds)(&metadata.file_type()) => {}
        (Err(error), Some(create)) if error.kind() == io::ErrorKind::NotFound => {
            create(&path).map_err(|e| format!("creating {}: {e}", path.display()))?;
        }
        (Err(error), _) if error.kind() != io::ErrorKind::NotFound => return failed(error.to_string()),
        _ => return failed(format!("is not a {}", rule.noun)),
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let path = |name: &str| match name {
            "null" => PathBuf::from("/dev/null"),
            name => dir.path().join(name),
        };
        let cases = [
            ("none", "", None),
            ("none", "Directory", Some("directory")),
            ("file", "Directory", Some("directory")),
            ("file", "DirectoryOrCreate", Some("directory")),
            ("new/dir", "DirectoryOrCreate", None),
            ("new/dir", "Directory", None),
            ("new/dir", "FileOrCreate", Some("file")),
            ("new/file", "File", Some("file")),
            ("new/file", "FileOrCreate", None),
            ("new/file", "File", None),
            ("socket", "Socket", None),
            ("file", "Socket", Some("socket file")),
            ("null", "CharDevice", None),
            ("null", "BlockDevice", Some("block device")),
        ];
        for (name, type_, noun) in cases {
            let path = path(name);
            let source =
                HostPathVolumeSource { path: path.to_str().unwrap().into(), type_: Some(type_.into()) };
            let expected =
                noun.map(|noun| format!("hostPath type check failed: {} is not a {noun}", path.display()));
            assert_eq!(set_up(&source).err(), expected, "{name} {type_}");
        }
        assert!(!dir.path().join("none").exists());
    }
}
