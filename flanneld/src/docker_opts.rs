//! `mk-docker-opts`: from subnet.env, what the Docker daemon is started with, for units that have `EnvironmentFile=/run/docker_opts.env`.
//! flannel ships a shell script of this name; flags, variables and bytes are its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

/// As it is called: by this name, or as flanneld's first argument.
const NAME: &str = "mk-docker-opts";

/// Generate Docker daemon options based on flannel env file
#[derive(Debug, Parser)]
#[command(name = NAME, disable_help_subcommand = true)]
struct Args {
    /// Path to flannel env file
    #[arg(short = 'f', value_name = "FLANNEL-ENV-FILE", default_value = "/run/flannel/subnet.env")]
    flannel_env: PathBuf,
    /// Path to Docker env file to write to
    #[arg(short = 'd', value_name = "DOCKER-ENV-FILE", default_value = "/run/docker_opts.env")]
    docker_env: PathBuf,
    /// Output each Docker option as individual var, e.g. DOCKER_OPT_MTU="--mtu=1500"
    #[arg(short = 'i')]
    individual: bool,
    /// Output combined Docker options into DOCKER_OPTS var
    #[arg(short = 'c')]
    combined: bool,
    /// Do not output --ip-masq (useful for older Docker version)
    #[arg(short = 'm')]
    no_masquerade: bool,
    /// Set the combined options key to this value
    #[arg(short = 'k', value_name = "COMBINED-KEY", default_value = "DOCKER_OPTS")]
    key: String,
    /// Ignored, as by the script
    #[arg(hide = true, trailing_var_arg = true)]
    rest: Vec<String>,
}

/// Does it, if the arguments ask for it: its exit code, which is 1 for whatever goes wrong.
pub fn called(args: impl Iterator<Item = String>) -> Option<ExitCode> {
    let mut args = args.peekable();
    let own_name = args.next()?;
    let by_name = Path::new(&own_name).file_stem().is_some_and(|name| name == NAME);
    if !by_name {
        args.next_if(|first| first == NAME)?;
    }
    let outcome = match Args::try_parse_from([NAME.to_owned()].into_iter().chain(args)) {
        Ok(args) => write(&args),
        Err(error) => {
            let _ = error.print();
            return Some(if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    };
    if let Err(error) = &outcome {
        eprintln!("{NAME}: {error:#}");
    }
    Some(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(args: &Args) -> Result<()> {
    // A name or value that is no text is nobody's that counts here.
    let text = |text: std::ffi::OsString| text.into_string().ok();
    let mut variables: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
    match fs::read_to_string(&args.flannel_env) {
        Ok(file) => variables.extend(assignments(&file)),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", args.flannel_env.display()));
        }
    }
    fs::write(&args.docker_env, options(args, variables)?)
        .with_context(|| format!("cannot write {}", args.docker_env.display()))
}

/// The assignments of a file as a shell would read it, of those that flannel writes.
fn assignments(file: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = file.lines().filter_map(|line| line.trim().split_once('='));
    let pairs = pairs.filter(|(name, _)| !name.is_empty() && !name.starts_with('#'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches(['"', '\'']).to_owned()))
}

/// The file's text. Variables that are called `DOCKER_OPT_…` already, or as the combined one, are taken along.
fn options(args: &Args, mut variables: BTreeMap<String, String>) -> Result<String> {
    let told = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
    let bip = told("FLANNEL_SUBNET").map(|subnet| format!("--bip={subnet}"));
    let mtu = told("FLANNEL_MTU").map(|mtu| format!("--mtu={mtu}"));
    let masquerade = match told("FLANNEL_IPMASQ").filter(|_| !args.no_masquerade).as_deref() {
        None => None,
        // Where flannel does it Docker must not.
        Some("true") => Some("--ip-masq=false".to_owned()),
        Some("false") => Some("--ip-masq=true".to_owned()),
        Some(other) => bail!("Invalid value of FLANNEL_IPMASQ: {other}"),
    };
    let found = [("DOCKER_OPT_BIP", bip), ("DOCKER_OPT_IPMASQ", masquerade), ("DOCKER_OPT_MTU", mtu)];
    variables.extend(found.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));

    let (individual, combined) = match (args.individual, args.combined) {
        (false, false) => (true, true),
        chosen => chosen,
    };
    let mut all =
        variables.get(&args.key).filter(|all| !all.is_empty()).map_or(String::new(), |all| format!("{all} "));
    let mut text = String::new();
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("DOCKER_OPT_")) {
        if individual {
            text.push_str(&format!("{name}=\"{value}\"\n"));
        }
        all.push_str(&format!(" {value}"));
    }
    if combined {
        text.push_str(&format!("{}=\"{all}\"\n", args.key));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENV: &str =
        "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.89.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=true\n";
    const THREE: &str = "DOCKER_OPT_BIP=\"--bip=10.5.89.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1472\"\n";
    const ALL: &str = " --bip=10.5.89.1/24 --ip-masq=false --mtu=1472";

    fn made(flags: &[&str], file: &str, variables: &[(&str, &str)]) -> Result<String> {
        let args = Args::try_parse_from([NAME].iter().chain(flags)).unwrap();
        let mut all: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        all.extend(assignments(file));
        options(&args, all)
    }

    #[test]
    fn the_bytes_are_the_scripts() {
        let combined = |key: &str, all: &str| format!("{key}=\"{all}\"\n");
        for (flags, expected) in [
            (&[][..], format!("{THREE}{}", combined("DOCKER_OPTS", ALL))),
            (&["-i"], THREE.to_owned()),
            (&["-c"], combined("DOCKER_OPTS", ALL)),
            (&["-ic"], format!("{THREE}{}", combined("DOCKER_OPTS", ALL))),
            (&["-c", "-k", "DOCKER_NETWORK_OPTIONS"], combined("DOCKER_NETWORK_OPTIONS", ALL)),
            (&["-kX", "-c", "-m"], combined("X", " --bip=10.5.89.1/24 --mtu=1472")),
        ] {
            assert_eq!(made(flags, ENV, &[]).unwrap(), expected, "{flags:?}");
        }
    }

    #[test]
    fn what_is_there_already_is_kept_and_what_is_missing_left_out() {
        for (file, variables, expected) in [
            ("", &[][..], "DOCKER_OPTS=\"\"\n"),
            ("FLANNEL_IPMASQ=false\n", &[], "DOCKER_OPTS=\" --ip-masq=true\"\n"),
            ("FLANNEL_MTU=\"1450\"\n", &[("DOCKER_OPTS", "-D")], "DOCKER_OPTS=\"-D  --mtu=1450\"\n"),
            ("FLANNEL_MTU=1450\n", &[("DOCKER_OPT_LOG", "-l=warn")], "DOCKER_OPTS=\" -l=warn --mtu=1450\"\n"),
            ("", &[("FLANNEL_MTU", "1400")], "DOCKER_OPTS=\" --mtu=1400\"\n"),
        ] {
            assert_eq!(made(&["-c"], file, variables).unwrap(), expected, "{file:?} {variables:?}");
        }
        let error = made(&[], "FLANNEL_IPMASQ=maybe\n", &[]).unwrap_err().to_string();
        assert_eq!(error, "Invalid value of FLANNEL_IPMASQ: maybe");
    }

    #[test]
    fn it_is_called_by_its_name_or_as_an_argument() {
        let dir = tempfile::tempdir().unwrap();
        let (env, opts) = (dir.path().join("subnet.env"), dir.path().join("docker.env"));
        fs::write(&env, ENV).unwrap();
        let files = format!("-f{} -d{} -i", env.display(), opts.display());
        for (name, first) in
            [("flanneld", Some(NAME)), ("/opt/bin/mk-docker-opts.sh", None), ("mk-docker-opts", None)]
        {
            let _ = fs::remove_file(&opts);
            let args = [name].into_iter().chain(first).chain(files.split(' ')).map(str::to_owned);
            assert_eq!(called(args), Some(ExitCode::SUCCESS), "{name}");
            assert_eq!(fs::read_to_string(&opts).unwrap(), THREE, "{name}");
        }
        let other = ["flanneld", "--ip-masq", NAME].map(str::to_owned);
        assert_eq!(called(other.into_iter()), None);
        let wrong = [NAME, "-z"].map(str::to_owned);
        assert_eq!(called(wrong.into_iter()), Some(ExitCode::FAILURE));
    }
}
