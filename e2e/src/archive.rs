//! Container images without a registry: files and a command line go in, an OCI archive comes out.
//!
//! One layer per image, uncompressed, with fixed times and owners: the same files make the same digest. The format is that
//! of the OCI image layout (image-spec, `image-layout.md`); `ctr images import` and `skopeo` read it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// What an image holds and how it starts.
#[derive(Debug, Default)]
pub struct Image {
    /// The full reference, e.g. `docker.io/kubelite/pause:0.1.0`.
    pub reference: String,
    /// Path in the image → file on this machine; all are executable.
    pub files: Vec<(String, PathBuf)>,
    /// Symbolic links: path in the image → target.
    pub links: Vec<(String, String)>,
    /// Empty folders to make, e.g. `tmp`.
    pub folders: Vec<String>,
    /// The default command.
    pub entrypoint: Vec<String>,
}

impl Image {
    /// Writes the archive; a file that is missing is an error that names it.
    pub fn write(&self, to: &Path) -> Result<()> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(), "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            "history": [{"created_by": "kubelite"}],
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({
            "io.containerd.image.name": self.reference,
            "org.opencontainers.image.ref.name": self.reference.rsplit(':').next(),
        });
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

        let part = to.with_extension("part");
        let mut archive = Builder::new(
            fs::File::create(&part).with_context(|| format!("cannot write {}", part.display()))?,
        );
        put(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        put(&mut archive, "index.json", &index)?;
        for blob in [&layer, &config, &manifest] {
            put(&mut archive, &format!("blobs/sha256/{}", hex(blob)), blob)?;
        }
        archive.into_inner()?.sync_all()?;
        fs::rename(&part, to).with_context(|| format!("cannot put {} in its place", to.display()))
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for folder in &self.folders {
            let mut header = header(EntryType::Directory, 0, if folder == "tmp" { 0o1777 } else { 0o755 });
            layer.append_data(&mut header, format!("{folder}/"), &[][..])?;
        }
        for (path, source) in &self.files {
            let bytes = fs::read(source)
                .with_context(|| format!("image {}: cannot read {}", self.reference, source.display()))?;
            let mut header = header(EntryType::Regular, bytes.len() as u64, 0o755);
            layer.append_data(&mut header, path, bytes.as_slice())?;
        }
        for (path, target) in &self.links {
            let mut header = header(EntryType::Symlink, 0, 0o777);
            layer.append_link(&mut header, path, target)?;
        }
        Ok(layer.into_inner()?)
    }
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn put(archive: &mut Builder<fs::File>, path: &str, bytes: &[u8]) -> Result<()> {
    archive.append_data(&mut header(EntryType::Regular, bytes.len() as u64, 0o644), path, bytes)?;
    Ok(())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The machine's architecture in Go's words, as the image specification wants it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_make_the_same_archive() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("kubelite-archive-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let image = Image {
            reference: "docker.io/kubelite/test:1".into(),
            files: vec![("bin/cargo".into(), PathBuf::from("Cargo.toml"))],
            links: vec![("bin/sh".into(), "/bin/cargo".into())],
            folders: vec!["tmp".into()],
            entrypoint: vec!["/bin/cargo".into()],
        };
        let (a, b) = (dir.join("a.tar"), dir.join("b.tar"));
        image.write(&a)?;
        image.write(&b)?;
        assert_eq!(fs::read(&a)?, fs::read(&b)?);
        let mut names = Vec::new();
        for entry in tar::Archive::new(fs::File::open(&a)?).entries()? {
            names.push(entry?.path()?.display().to_string());
        }
        assert_eq!(names.len(), 5, "layout, index and three blobs: {names:?}");
        fs::remove_dir_all(&dir)?;
        Ok(())
    }

    #[test]
    fn a_missing_file_is_named() {
        let image = Image { files: vec![("x".into(), "/no/such/file".into())], ..Image::default() };
        let error = image.write(Path::new("/tmp/never.tar")).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/file"));
    }
}
