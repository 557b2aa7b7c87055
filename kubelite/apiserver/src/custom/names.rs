//! The life of a definition: its names are accepted or not, it is established, and when it is deleted its objects go first.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use kubelite_api::custom::definition;
use kubelite_api::status::ApiError;
use kubelite_api::{object, scalar};
use serde_json::{Value, json};

use super::rows::Rows;
use super::strategy::CLEANUP;
use crate::http::Front;
use crate::registry::{Change, Context, DeleteOptions, ListQuery, Owner, Registry};
use crate::request::{RequestInfo, UserInfo};
use crate::resources::{Resource, by_plural};
use crate::storage::Revision;
use crate::strategy::Part;

/// How long until it is looked again whether the objects of a deleted definition are gone, or after something failed.
const AGAIN: Duration = Duration::from_millis(500);
/// How long nothing may be looked at, though nothing seems to have changed.
const AT_LEAST: Duration = Duration::from_secs(60);

/// Looks after all definitions for as long as the server lives.
pub async fn run(front: Weak<Front>) {
    let Some(definitions) = by_plural("customresourcedefinitions") else { return };
    let Some(mut changed) = front.upgrade().map(|front| front.registry.caches.of(definitions).subscribe())
    else {
        return;
    };
    // At which revision there was nothing left to do.
    let mut settled: HashMap<String, Revision> = HashMap::new();
    loop {
        changed.borrow_and_update();
        let Some(this) = front.upgrade() else { return };
        let entries = this.registry.caches.of(definitions).list(&definitions.key_prefix());
        settled
            .retain(|name, revision| entries.iter().any(|it| it.name == *name && it.revision == *revision));
        let open = entries.iter().filter(|it| !settled.contains_key(&it.name));
        let mut all: Vec<(Value, Revision)> =
            open.map(|it| (serde_json::from_slice(&it.bytes).unwrap_or_default(), it.revision)).collect();
        // Of two that want one name the older one gets it.
        all.sort_by_key(|(it, _)| object::creation_timestamp(it));
        let mut busy = false;
        for (it, revision) in all {
            let done = if object::deletion_timestamp(&it).is_some() {
                clean_up(&this.registry, definitions, &it).await
            } else {
                if definition::is(&it, "Established") && definition::is(&it, "NamesAccepted") {
                    settled.insert(object::name(&it).to_owned(), revision);
                }
                accept(&this.registry, definitions, &it).await.map(|()| true)
            };
            match done {
                Ok(done) => busy |= !done,
                Err(error) => {
                    tracing::warn!(definition = object::name(&it), error = error.message, "trying again");
                    settled.remove(object::name(&it));
                    busy = true;
                }
            }
        }
        drop(this);
        let wait = if busy { AGAIN } else { AT_LEAST };
        tokio::select! {
            gone = changed.changed() => if gone.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Writes into the status whether the names are free and the definition is served.
async fn accept(registry: &Registry, definitions: &'static Resource, it: &Value) -> Result<(), ApiError> {
    let status = judged(registry.caches.rows(), it);
    if it.get("status") == Some(&status) {
        return Ok(());
    }
    let change = |live: &Value| {
        let mut changed = live.clone();
        changed["status"] = judged(registry.caches.rows(), live);
        Ok(changed)
    };
    write(registry, definitions, it, Part::Status, &change).await
}

/// Deletes the objects, then the finalizer; whether both are gone.
async fn clean_up(registry: &Registry, definitions: &'static Resource, it: &Value) -> Result<bool, ApiError> {
    if !object::finalizers(it).contains(&CLEANUP) {
        return Ok(true);
    }
    if !definition::is(it, "Terminating") {
        let change = |live: &Value| {
            let mut changed = live.clone();
            let deleting = "CustomResource deletion is in progress";
            set_condition(
                &mut changed["status"],
                "Terminating",
                true,
                "InstanceDeletionInProgress",
                deleting,
            );
            Ok(changed)
        };
        write(registry, definitions, it, Part::Status, &change).await?;
    }
    if let Some(row) = registry.caches.rows().stored(object::name(it)) {
        let (user, request) = (user(), request(row, ""));
        let context = Context { user: &user, request: &request, resource: row, dry_run: false, owner: OWNER };
        let mut left =
            registry.delete_collection(context, &ListQuery::default(), &DeleteOptions::default()).await?;
        left.retain(|object| !object::finalizers(object).is_empty());
        if !left.is_empty() {
            return Ok(false);
        }
    }
    let change = |live: &Value| {
        let mut changed = live.clone();
        let kept: Vec<&str> = object::finalizers(live).into_iter().filter(|f| *f != CLEANUP).collect();
        object::set_finalizers(&mut changed, &kept);
        Ok(changed)
    };
    write(registry, definitions, it, Part::Main, &change).await?;
    Ok(true)
}

const OWNER: Owner<'static> = Owner::Manager("kube-apiserver");

fn user() -> UserInfo {
    UserInfo::new("system:apiserver", &["system:masters"])
}

fn request(row: &Resource, name: &str) -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "update".to_owned(),
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        resource: row.plural.to_owned(),
        name: name.to_owned(),
        ..RequestInfo::default()
    }
}

/// Changes a definition as the server itself.
async fn write(
    registry: &Registry,
    definitions: &'static Resource,
    it: &Value,
    part: Part,
    change: Change<'_>,
) -> Result<(), ApiError> {
    let (user, request) = (user(), request(definitions, object::name(it)));
    let context =
        Context { user: &user, request: &request, resource: definitions, dry_run: false, owner: OWNER };
    match registry.update(context, object::name(it), part, change).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The status that a definition should have.
fn judged(rows: &Rows, it: &Value) -> Value {
    let mut status = it["status"].clone();
    match conflict(rows, it) {
        Some((reason, name)) => {
            set_condition(
                &mut status,
                "NamesAccepted",
                false,
                reason,
                &format!("{name:?} is already in use"),
            );
            if !definition::is(it, "Established") {
                set_condition(&mut status, "Established", false, "NotAccepted", "not all names are accepted");
            }
        }
        None => {
            status["acceptedNames"] = it["spec"]["names"].clone();
            set_condition(&mut status, "NamesAccepted", true, "NoConflicts", "no conflicts found");
            let accepted = "the initial names have been accepted";
            set_condition(&mut status, "Established", true, "InitialNamesAccepted", accepted);
        }
    }
    status
}

/// The first of its names that another kind of its group has.
fn conflict(rows: &Rows, it: &Value) -> Option<(&'static str, String)> {
    let (group, names) = (&it["spec"]["group"], &it["spec"]["names"]);
    let text = |field: &str| names[field].as_str().unwrap_or_default().to_owned();
    let short =
        names["shortNames"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let (mut resources, kinds) = (
        vec![("PluralConflict", text("plural")), ("SingularConflict", text("singular"))],
        [("KindConflict", text("kind")), ("ListKindConflict", text("listKind"))],
    );
    resources.extend(short.map(|name| ("ShortNamesConflict", name)));
    let own = text("plural");
    let others: Vec<&Resource> = rows
        .all()
        .filter(|row| *group == row.group && !(row.custom.is_some() && row.plural == own))
        .collect();
    let resource = |name: &str| {
        others.iter().any(|row| row.plural == name || row.singular == name || row.short.contains(&name))
    };
    let kind = |name: &str| others.iter().any(|row| row.kind == name || row.list_kind() == name);
    let taken = resources.into_iter().find(|(_, name)| resource(name));
    taken.or_else(|| kinds.into_iter().find(|(_, name)| kind(name)))
}

/// Sets a condition; its time changes with its state only.
fn set_condition(status: &mut Value, kind: &str, is: bool, reason: &str, message: &str) {
    let is = if is { "True" } else { "False" };
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let now = scalar::format_time(jiff::Timestamp::now());
    let known = conditions.iter().position(|it| it["type"] == kind);
    let since = known
        .map(|at| &conditions[at])
        .filter(|it| it["status"] == is)
        .map(|it| it["lastTransitionTime"].clone());
    let condition = json!({"type": kind, "status": is, "lastTransitionTime": since.unwrap_or(now.into()), "reason": reason, "message": message});
    match known {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}
