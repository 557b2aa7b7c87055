//! Custom resources: rows of the resource table that come and go with their definitions.
//!
//! ```text
//!  a definition is written ─► watch cache ─► names: NamesAccepted, Established (written to its status)
//!                                        └─► rows: a row a version, with a cache ─► discovery, verbs, watch: as for every kind
//!  it is deleted ─► names: its objects go first, then its finalizer ─► rows: gone
//! ```
//!
//! What a server serves follows from what its cache says, so that several servers over one store agree. What the objects may be is in
//! `kubelite_api::custom`; the semantics of verbs are the registry's, as for all kinds.

pub mod names;
pub mod rows;
pub mod strategy;

use std::sync::Arc;

use arc_swap::ArcSwap;
use kubelite_api::custom::Version;
use kubelite_api::schema::Decoded;
use parking_lot::RwLock;
use serde_json::Value;

use crate::resources::Resource;

/// What makes a row that of a custom kind: it lives as long as the program, and what the definition says of it changes.
pub struct Custom {
    version: ArcSwap<Version>,
    /// The row in whose version objects are stored.
    stored: RwLock<Option<&'static Resource>>,
}

impl Custom {
    /// What the definition says now.
    pub fn version(&self) -> Arc<Version> {
        self.version.load_full()
    }

    /// The row in whose version objects are stored.
    pub fn stored(&self) -> Option<&'static Resource> {
        *self.stored.read()
    }

    /// An object from a client: what isn't known goes.
    pub fn prune(&self, object: &mut Value) -> Decoded {
        self.version.load().structural.prune(object)
    }

    /// Fills in what isn't given.
    pub fn fill(&self, object: &mut Value) {
        self.version.load().structural.fill(object);
    }
}
