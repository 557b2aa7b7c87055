//! The three images of the project, and the table that says what is in each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::Image;
use crate::run::run;

/// The version that the images carry as their tag.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
const BUSYBOX: &str = "/bin/busybox";
const NFT: &str = "/usr/sbin/nft";

/// Builds all images into `dir` from the binaries beside the lab's own; the paths of the archives.
pub fn build(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut archives = Vec::new();
    for (name, image) in [("pause", pause()?), ("busybox", busybox()?), ("flannel", flannel()?)] {
        let archive = dir.join(format!("{name}.tar"));
        image.write(&archive).with_context(|| format!("cannot write {}", archive.display()))?;
        archives.push(archive);
    }
    Ok(archives)
}

/// A binary of this workspace, from the folder that the lab's own binary lies in.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    // Under `cargo test` the running binary lies one folder deeper.
    let deeper = path.parent().and_then(Path::parent).map(|dir| dir.join(name));
    [Some(path), deeper]
        .into_iter()
        .flatten()
        .find(|p| p.exists())
        .with_context(|| format!("the binary {name} is not built: `make build` does that"))
}

fn reference(name: &str, tag: &str) -> String {
    format!("docker.io/kubelite/{name}:{tag}")
}

fn pause() -> Result<Image> {
    Ok(Image {
        reference: reference("pause", VERSION),
        files: vec![("pause".into(), binary("pause")?)],
        entrypoint: vec!["/pause".into()],
        ..Image::default()
    })
}

fn busybox() -> Result<Image> {
    let applets =
        run(Command::new(BUSYBOX).arg("--list")).context("busybox is missing (package busybox-static)")?;
    Ok(Image {
        reference: reference("busybox", "1"),
        files: vec![("bin/busybox".into(), BUSYBOX.into())],
        links: applets
            .lines()
            .filter(|a| *a != "busybox")
            .map(|a| (format!("bin/{a}"), "busybox".into()))
            .collect(),
        folders: ["etc", "proc", "root", "sys", "tmp", "var", "www"].map(String::from).to_vec(),
        entrypoint: Vec::new(),
    })
}

/// flanneld, the CNI plugin, and what they call: `nft` with its libraries, busybox for the init containers' `cp`.
fn flannel() -> Result<Image> {
    let mut image = busybox()?;
    image.reference = reference("flannel", VERSION);
    image.entrypoint = vec!["/opt/bin/flanneld".into()];
    image.files.push(("opt/bin/flanneld".into(), binary("flanneld")?));
    image.files.push(("opt/bin/flannel".into(), binary("flannel")?));
    // flanneld does what flannel's script of this name does, if it is called by it.
    image.links.push(("opt/bin/mk-docker-opts.sh".into(), "flanneld".into()));
    image.files.push(("usr/sbin/nft".into(), NFT.into()));
    for library in libraries(NFT)? {
        let inside = library.to_string_lossy().trim_start_matches('/').to_owned();
        image.files.push((inside, library));
    }
    Ok(image)
}

/// The shared libraries of a program with their paths, the loader among them, as `ldd` finds them.
fn libraries(program: &str) -> Result<Vec<PathBuf>> {
    let text = run(Command::new("ldd").arg(program)).context("nft is missing (package nftables)")?;
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}
