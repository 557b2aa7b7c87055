//! Jobs: a new one gets labels and a selector that no other job's pods can match, and its pods outlive it unless the
//! client says otherwise.

use kubelite_api::object;
use kubelite_api::status::ApiError;
use serde_json::{Value, json};

use super::{Claims, Strategy, WithStatus, text_at};

/// The label that the generated selector asks for; validation knows it too.
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// The strategy of jobs.
pub struct Job;

impl Strategy for Job {
    fn field(&self, object: &Value, path: &str) -> String {
        match path {
            "status.successful" => {
                object.pointer("/status/succeeded").and_then(Value::as_i64).unwrap_or(0).to_string()
            }
            path => text_at(object, path),
        }
    }

    fn prepare_create(&self, claims: &Claims<'_>, object: &mut Value) -> Result<(), ApiError> {
        WithStatus.prepare_create(claims, object)?;
        if object.pointer("/spec/manualSelector") != Some(&Value::Bool(true)) {
            generate_selector(object);
        }
        Ok(())
    }

    fn orphans_by_default(&self) -> bool {
        true
    }
}

/// Labels the template with the job's uid and name, in the new and the older spelling, and selects by the uid. A label
/// that the client set stays; validation refuses it if it is another one.
fn generate_selector(job: &mut Value) {
    let (uid, name) = (object::uid(job).to_owned(), object::name(job).to_owned());
    let labels = [
        (CONTROLLER_UID, &uid),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
    ];
    for (label, value) in labels {
        set_default(job, &["spec", "template", "metadata", "labels"], label, value);
    }
    set_default(job, &["spec", "selector", "matchLabels"], CONTROLLER_UID, &uid);
}

/// Sets `key` in the map at `path`, which is made where it is missing. A value of another type is left to validation.
fn set_default(object: &mut Value, path: &[&str], key: &str, value: &str) {
    let mut at = object;
    for step in path {
        if at.get(*step).is_none_or(Value::is_null) {
            let Some(map) = at.as_object_mut() else { return };
            map.insert((*step).to_owned(), json!({}));
        }
        let Some(next) = at.get_mut(*step) else { return };
        at = next;
    }
    if let Some(map) = at.as_object_mut() {
        map.entry(key).or_insert_with(|| json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_selector_are_generated_and_what_is_there_stays() {
        let mut job = json!({"metadata": {"name": "j", "uid": "u"},
                             "spec": {"template": {"metadata": {"labels": {"app": "x", "job-name": "mine"}}}}});
        generate_selector(&mut job);
        assert_eq!(job["spec"]["selector"], json!({"matchLabels": {CONTROLLER_UID: "u"}}));
        assert_eq!(
            job["spec"]["template"]["metadata"]["labels"],
            json!({"app": "x", "job-name": "mine", "batch.kubernetes.io/job-name": "j", CONTROLLER_UID: "u", "controller-uid": "u"})
        );
        let mut odd = json!({"metadata": {}, "spec": []});
        generate_selector(&mut odd);
        assert_eq!(odd, json!({"metadata": {}, "spec": []}));
    }
}
