//! What this plugin remembers of an attachment: enough to remove it when container, namespace and subnet.env are gone, and to write the
//! network's NAT table anew.
//!
//! One file per attachment, `<dataDir>/.attachments/<network>/<container>:<interface>`. Neither name can contain a colon, and no container id
//! begins with a dot, so these files never meet those of a delegate.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::config::PortMapping;
use crate::error::Error;
use crate::files::{self, Lock};
use crate::request::Attachment;

/// One attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The kernel's boot id when it was made: namespaces do not outlive a boot, this file does.
    pub boot: String,
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_IFNAME.
    pub interface: String,
    /// The host's end of the veth pair.
    pub host_interface: String,
    /// The bridge it is plugged into.
    pub bridge: String,
    /// The container's addresses with their subnet's length.
    pub addresses: Vec<IpNetwork>,
    /// Masquerade what the container sends to anything outside of these; empty: don't masquerade.
    pub masquerade_outside: Vec<IpNetwork>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
}

impl Record {
    /// Whose it is.
    pub fn attachment(&self) -> Attachment {
        Attachment { container: self.container.clone(), interface: self.interface.clone() }
    }

    /// Does it need rules at all?
    pub fn needs_nat(&self) -> bool {
        !self.port_mappings.is_empty() || !self.masquerade_outside.is_empty()
    }
}

/// The records of one network.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    boot: String,
}

impl Records {
    /// The records of `network` under flannel's `dataDir`, read during the boot with this id.
    pub fn new(data_dir: &Path, network: &str, boot: &str) -> Records {
        Records { dir: data_dir.join(".attachments").join(network), boot: boot.to_owned() }
    }

    /// Held while records and rules change together.
    pub fn lock(&self) -> Result<Lock, Error> {
        Lock::take(&self.dir)
    }

    /// The records of this boot. One that cannot be read is left out: it must not keep other pods from starting, and GC removes it.
    pub fn all(&self) -> Result<Vec<Record>, Error> {
        let mut records = self.read()?;
        records.retain(|record| record.boot == self.boot);
        Ok(records)
    }

    /// Whose container died with a former boot, while nobody called DEL.
    pub fn of_former_boots(&self) -> Result<Vec<Attachment>, Error> {
        let mut records = self.read()?;
        records.retain(|record| record.boot != self.boot);
        Ok(records.iter().map(Record::attachment).collect())
    }

    fn read(&self) -> Result<Vec<Record>, Error> {
        let mut records = Vec::new();
        for (_, path) in files::list(&self.dir)? {
            records.extend(files::read(&path)?.and_then(|text| serde_json::from_str(&text).ok()));
        }
        Ok(records)
    }

    /// The record of `owner`.
    pub fn get(&self, owner: &Attachment) -> Result<Option<Record>, Error> {
        Ok(files::read(&self.path(owner))?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Writes or replaces one, as of this boot. The lock is held.
    pub fn put(&self, record: &Record) -> Result<(), Error> {
        let record = &Record { boot: self.boot.clone(), ..record.clone() };
        let text = serde_json::to_vec(record).map_err(|error| Error::Decode(error.to_string()))?;
        files::write(&self.path(&record.attachment()), &text)
    }

    /// Removes one; it may be gone already.
    pub fn remove(&self, owner: &Attachment) -> Result<(), Error> {
        files::remove(&self.path(owner))
    }

    /// GC: removes all that none of `valid` has, also unreadable ones.
    pub fn retain(&self, valid: &BTreeSet<Attachment>) -> Result<(), Error> {
        let keep: BTreeSet<PathBuf> = valid.iter().map(|owner| self.path(owner)).collect();
        let stale = files::list(&self.dir)?.into_iter().filter(|(_, path)| !keep.contains(path));
        stale.map(|(_, path)| path).try_for_each(|path| files::remove(&path))
    }

    fn path(&self, owner: &Attachment) -> PathBuf {
        self.dir.join(format!("{}:{}", owner.container, owner.interface))
    }
}
