//! Storage classes, drivers, and what they tell of nodes and capacity.

use serde_json::Value;

use super::report::{Report, list, text};
use crate::names;

/// A driver's name may have so many characters.
const DRIVER_NAME: usize = 63;

pub(super) fn class(report: &mut Report, new: &Value, old: Option<&Value>) {
    match text(new, "/provisioner") {
        "" => report.required("provisioner", ""),
        provisioner => {
            report.each("provisioner", provisioner, &names::qualified_name(&provisioner.to_lowercase()));
        }
    }
    report.one_of("reclaimPolicy", text(new, "/reclaimPolicy"), &["Delete", "Retain"]);
    report.one_of(
        "volumeBindingMode",
        text(new, "/volumeBindingMode"),
        &["Immediate", "WaitForFirstConsumer"],
    );
    let Some(old) = old else { return };
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        if new.get(field) != old.get(field) {
            report.forbidden(field, &format!("updates to {field} are forbidden."));
        }
    }
}

pub(super) fn driver(report: &mut Report, new: &Value, old: Option<&Value>) {
    report.one_of(
        "spec.fsGroupPolicy",
        text(new, "/spec/fsGroupPolicy"),
        &["File", "None", "ReadWriteOnceWithFSType"],
    );
    for mode in list(new, "/spec/volumeLifecycleModes") {
        report.one_of(
            "spec.volumeLifecycleModes",
            mode.as_str().unwrap_or_default(),
            &["Ephemeral", "Persistent"],
        );
    }
    if let Some(old) = old {
        for field in ["attachRequired", "volumeLifecycleModes"] {
            let at = format!("/spec/{field}");
            report.immutable(&format!("spec.{field}"), new.pointer(&at), old.pointer(&at));
        }
    }
}

pub(super) fn node(report: &mut Report, new: &Value, _: Option<&Value>) {
    let drivers = list(new, "/spec/drivers");
    for (i, driver) in drivers.iter().enumerate() {
        let (at, name) = (format!("spec.drivers[{i}]"), text(driver, "/name"));
        driver_name(report, &format!("{at}.name"), name);
        if drivers.iter().take(i).any(|other| text(other, "/name") == name) {
            report.duplicate(format!("{at}.name"), &name.into());
        }
        if text(driver, "/nodeID").is_empty() {
            report.required(format!("{at}.nodeID"), "");
        }
    }
}

fn driver_name(report: &mut Report, at: &str, name: &str) {
    match name {
        "" => report.required(at, ""),
        _ if name.len() > DRIVER_NAME => report.too_long(at, DRIVER_NAME),
        _ => report.each(at, name, &names::dns1123_subdomain(&name.to_lowercase())),
    }
}

pub(super) fn capacity(report: &mut Report, new: &Value, old: Option<&Value>) {
    match text(new, "/storageClassName") {
        "" => report.required("storageClassName", ""),
        class => report.each("storageClassName", class, &names::dns1123_subdomain(class)),
    }
    if let Some(old) = old {
        for field in ["nodeTopology", "storageClassName"] {
            report.immutable(field, new.get(field), old.get(field));
        }
    }
}

pub(super) fn attachment(report: &mut Report, new: &Value, old: Option<&Value>) {
    driver_name(report, "spec.attacher", text(new, "/spec/attacher"));
    if text(new, "/spec/nodeName").is_empty() {
        report.required("spec.nodeName", "");
    }
    let there = |field: &str| new.pointer(&format!("/spec/source/{field}")).is_some_and(|it| !it.is_null());
    match (there("persistentVolumeName"), there("inlineVolumeSpec")) {
        (false, false) => report
            .required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (true, true) => report.forbidden(
            "spec.source",
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
        _ => {}
    }
    if let Some(old) = old {
        report.immutable("spec", new.get("spec"), old.get("spec"));
    }
}

pub(super) fn attributes(report: &mut Report, new: &Value, old: Option<&Value>) {
    driver_name(report, "driverName", text(new, "/driverName"));
    let Some(old) = old else { return };
    for field in ["driverName", "parameters"] {
        if new.get(field) != old.get(field) {
            report.forbidden(field, &format!("updates to {field} are forbidden."));
        }
    }
}
