//! Tables as `kubectl get` prints them: columns and cells per kind.
//!
//! `KINDS` is the table of tables: for each kind its columns and the function that fills a row's cells. A kind that
//! doesn't stand there has a name and a creation time. What doesn't live here: custom resources' own columns.

mod batch;
mod cells;
mod network;
mod pod;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object;

/// A column of a `meta.k8s.io/v1 Table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The heading as the API has it; kubectl prints it in upper case.
    pub name: &'static str,
    /// `string`, `integer`, `date`, …
    pub kind: &'static str,
    /// `name` for the column that has the object's name, else empty.
    pub format: &'static str,
    /// For people.
    pub description: &'static str,
    /// Above 0: printed with `-o wide` only.
    pub priority: i32,
}

impl Column {
    /// As `columnDefinitions` lists it.
    pub fn to_value(&self) -> Value {
        json!({"name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority})
    }
}

type Cells = fn(&Value, Timestamp) -> Vec<Value>;

struct KindTable {
    group: &'static str,
    kind: &'static str,
    columns: &'static [Column],
    cells: Cells,
}

const fn kind(
    group: &'static str,
    kind: &'static str,
    columns: &'static [Column],
    cells: Cells,
) -> KindTable {
    KindTable { group, kind, columns, cells }
}

const fn text(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", description: name, priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", description: name, priority: 1 }
}

const fn number(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", description: name, priority: 0 }
}

const fn boolean(name: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", description: name, priority: 0 }
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name must be unique within a namespace.",
    priority: 0,
};
const AGE: Column = Column {
    name: "Age",
    kind: "string",
    format: "",
    description: "The time since the object was created.",
    priority: 0,
};
const CREATED: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    description: "When the object was created.",
    priority: 0,
};

const CONTAINERS: Column = wide("Containers");
const IMAGES: Column = wide("Images");
const SELECTOR: Column = wide("Selector");

#[rustfmt::skip]
const KINDS: &[KindTable] = &[
    kind("", "Pod", &[NAME, text("Ready"), text("Status"), text("Restarts"), AGE, wide("IP"), wide("Node"),
        wide("Nominated Node"), wide("Readiness Gates")], pod::cells),
    kind("", "Node", &[NAME, text("Status"), text("Roles"), AGE, text("Version"), wide("Internal-IP"), wide("External-IP"),
        wide("OS-Image"), wide("Kernel-Version"), wide("Container-Runtime")], cells::node),
    kind("", "Namespace", &[NAME, text("Status"), AGE], cells::namespace),
    kind("", "Service", &[NAME, text("Type"), text("Cluster-IP"), text("External-IP"), text("Port(s)"), AGE,
        wide("Selector")], cells::service),
    kind("", "Endpoints", &[NAME, text("Endpoints"), AGE], cells::endpoints),
    kind("discovery.k8s.io", "EndpointSlice", &[NAME, text("AddressType"), text("Ports"), text("Endpoints"), AGE],
        cells::endpoint_slice),
    kind("", "ConfigMap", &[NAME, number("Data"), AGE], cells::config_map),
    kind("", "Secret", &[NAME, text("Type"), number("Data"), AGE], cells::secret),
    kind("", "ServiceAccount", &[NAME, number("Secrets"), AGE], cells::service_account),
    kind("", "Event", &[text("Last Seen"), text("Type"), text("Reason"), text("Object"), wide("Subobject"),
        wide("Source"), text("Message"), wide("First Seen"), wide("Count"),
        Column { priority: 1, ..NAME }], cells::event),
    kind("events.k8s.io", "Event", &[text("Last Seen"), text("Type"), text("Reason"), text("Object"), wide("Subobject"),
        wide("Source"), text("Message"), wide("First Seen"), wide("Count"),
        Column { priority: 1, ..NAME }], cells::event),
    kind("coordination.k8s.io", "Lease", &[NAME, text("Holder"), AGE], cells::lease),
    kind("", "ReplicationController", &[NAME, number("Desired"), number("Current"), number("Ready"), AGE,
        CONTAINERS, IMAGES, SELECTOR], workload::replica_set),
    kind("apps", "ReplicaSet", &[NAME, number("Desired"), number("Current"), number("Ready"), AGE,
        CONTAINERS, IMAGES, SELECTOR], workload::replica_set),
    kind("apps", "Deployment", &[NAME, text("Ready"), number("Up-to-date"), number("Available"), AGE,
        CONTAINERS, IMAGES, SELECTOR], workload::deployment),
    kind("apps", "DaemonSet", &[NAME, number("Desired"), number("Current"), number("Ready"), number("Up-to-date"),
        number("Available"), text("Node Selector"), AGE, CONTAINERS, IMAGES, SELECTOR], workload::daemon_set),
    kind("apps", "StatefulSet", &[NAME, text("Ready"), AGE, wide("Containers"), wide("Images")], workload::stateful_set),
    kind("apps", "ControllerRevision", &[NAME, text("Controller"), number("Revision"), AGE], workload::revision),
    kind("rbac.authorization.k8s.io", "Role", &[NAME, CREATED], cells::created),
    kind("rbac.authorization.k8s.io", "ClusterRole", &[NAME, CREATED], cells::created),
    kind("rbac.authorization.k8s.io", "RoleBinding", &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"),
        wide("ServiceAccounts")], cells::binding),
    kind("rbac.authorization.k8s.io", "ClusterRoleBinding", &[NAME, text("Role"), AGE, wide("Users"), wide("Groups"),
        wide("ServiceAccounts")], cells::binding),
    kind("batch", "Job", &[NAME, text("Status"), text("Completions"), text("Duration"), AGE, CONTAINERS, IMAGES,
        SELECTOR], batch::job),
    kind("batch", "CronJob", &[NAME, text("Schedule"), text("Timezone"), text("Suspend"), number("Active"),
        text("Last Schedule"), AGE, CONTAINERS, IMAGES, SELECTOR], batch::cron_job),
    kind("", "PersistentVolume", &[NAME, text("Capacity"), text("Access Modes"), text("Reclaim Policy"), text("Status"),
        text("Claim"), text("StorageClass"), text("VolumeAttributesClass"), text("Reason"), AGE, wide("VolumeMode")],
        batch::volume),
    kind("", "PersistentVolumeClaim", &[NAME, text("Status"), text("Volume"), text("Capacity"), text("Access Modes"),
        text("StorageClass"), text("VolumeAttributesClass"), AGE, wide("VolumeMode")], batch::claim),
    kind("scheduling.k8s.io", "PriorityClass", &[NAME, number("Value"), text("Global-Default"), AGE,
        wide("PreemptionPolicy")], batch::priority_class),
    kind("networking.k8s.io", "Ingress", &[NAME, text("Class"), text("Hosts"), text("Address"), text("Ports"), AGE], network::ingress),
    kind("networking.k8s.io", "IngressClass", &[NAME, text("Controller"), text("Parameters"), AGE], network::ingress_class),
    kind("networking.k8s.io", "NetworkPolicy", &[NAME, text("Pod-Selector"), AGE], network::policy),
    kind("storage.k8s.io", "StorageClass", &[NAME, text("Provisioner"), text("ReclaimPolicy"), text("VolumeBindingMode"),
        boolean("AllowVolumeExpansion"), AGE], network::class),
    kind("storage.k8s.io", "CSIDriver", &[NAME, boolean("AttachRequired"), boolean("PodInfoOnMount"), boolean("StorageCapacity"),
        text("TokenRequests"), boolean("RequiresRepublish"), text("Modes"), AGE], network::driver),
    kind("storage.k8s.io", "CSINode", &[NAME, number("Drivers"), AGE], network::csi_node),
    kind("storage.k8s.io", "CSIStorageCapacity", &[NAME, text("StorageClassName"), text("Capacity"), wide("NodeTopology")], network::capacity),
    kind("storage.k8s.io", "VolumeAttachment", &[NAME, text("Attacher"), text("PV"), text("Node"), boolean("Attached"), AGE],
        network::attachment),
    kind("storage.k8s.io", "VolumeAttributesClass", &[NAME, text("DriverName"), AGE], network::attributes),
    kind("policy", "PodDisruptionBudget", &[NAME, text("Min Available"), text("Max Unavailable"),
        number("Allowed Disruptions"), AGE], batch::budget),
];

const OTHER: KindTable = kind("", "", &[NAME, CREATED], cells::created);

fn find(group: &str, kind: &str) -> &'static KindTable {
    KINDS.iter().find(|k| k.group == group && k.kind == kind).unwrap_or(&OTHER)
}

/// The columns of a kind.
pub fn columns(group: &str, kind: &str) -> &'static [Column] {
    find(group, kind).columns
}

/// The cells of one object, in the order of [`columns`].
pub fn cells(group: &str, kind: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    (find(group, kind).cells)(object, now)
}

/// How long ago the object was made, as kubectl prints it.
pub fn age(object: &Value, now: Timestamp) -> String {
    since(object::creation_timestamp(object), now)
}

/// How long ago something was; `<unknown>` if that isn't known.
pub(crate) fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    then.map_or_else(|| "<unknown>".into(), |then| human_duration(now.as_second() - then.as_second()))
}

/// A duration with about two digits of precision: `118s`, `5m`, `3h12m`, `2d3h`, `400d`.
pub fn human_duration(seconds: i64) -> String {
    // A clock that is a little off must not print negative ages.
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, sub: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{sub}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests;
