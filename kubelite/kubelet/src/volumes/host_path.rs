//! hostPath: something of the node itself, checked for being what the pod says it is.

use std::fs::{self, DirBuilder, FileType, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The path, if it is of the wanted type; the two `…OrCreate` types make it.
pub(super) fn check(path: &str, kind: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    match kind {
        "" => return Ok(path),
        "DirectoryOrCreate" if !path.exists() => {
            DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(failed)?;
        }
        "FileOrCreate" if !path.exists() => {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&path)
                .map(drop)
                .map_err(failed)?;
        }
        _ => {}
    }
    let found = type_of(&path)
        .map_err(|_| format!("hostPath type check failed: {} is not a {}", path.display(), word(kind)))?;
    let right = match kind {
        "DirectoryOrCreate" | "Directory" => found.is_dir(),
        "FileOrCreate" | "File" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        other => return Err(format!("hostPath type {other} is unknown")),
    };
    if right {
        Ok(path)
    } else {
        Err(format!("hostPath type check failed: {} is not a {}", path.display(), word(kind)))
    }
}

fn type_of(path: &Path) -> std::io::Result<FileType> {
    Ok(fs::metadata(path)?.file_type())
}

fn word(kind: &str) -> &str {
    match kind {
        "DirectoryOrCreate" | "Directory" => "directory",
        "FileOrCreate" | "File" => "file",
        "Socket" => "socket file",
        "CharDevice" => "character device",
        _ => "block device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        assert!(check(&at("anything"), "").is_ok());
        assert!(check(&at("d"), "Directory").unwrap_err().contains("is not a directory"));
        assert!(check(&at("d/e"), "DirectoryOrCreate").is_ok() && check(&at("d/e"), "Directory").is_ok());
        assert!(check(&at("f"), "FileOrCreate").is_ok() && check(&at("f"), "File").is_ok());
        assert!(check(&at("f"), "Directory").is_err() && check(&at("f"), "Socket").is_err());
        assert!(check("/dev/null", "CharDevice").is_ok());
    }
}
