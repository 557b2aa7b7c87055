//! The pods of a Job: how they are made, and what their annotations say. No I/O.

use super::spec::{self, FINALIZER};
use crate::claim::controller_ref;
use crate::pods;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use kube::ResourceExt;

/// Label and annotation.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What a name may have before its random suffix.
const LONGEST_PREFIX: usize = 58;

/// What came before a pod, where each index has failures of its own (KEP-3850).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attempts {
    pub(super) failures: i32,
    /// Failures that the failure policy doesn't count.
    pub(super) ignored: i32,
}

impl Attempts {
    pub(super) fn total(self) -> i32 {
        self.failures.saturating_add(self.ignored)
    }
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The index that the pod is for, if the job has it.
pub(super) fn index(pod: &Pod, completions: i32) -> Option<i32> {
    let index = pod.annotations().get(INDEX)?.parse().ok()?;
    (0..completions).contains(&index).then_some(index)
}

pub(super) fn attempts(pod: &Pod) -> Attempts {
    let number = |key: &str| pod.annotations().get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    Attempts { failures: number(FAILURES), ignored: number(IGNORED) }
}

/// A new pod.
pub(super) fn pod(job: &Job, index: Option<i32>, attempts: Option<Attempts>) -> Pod {
    let namespace = job.namespace().unwrap_or_default();
    let mut pod = pods::from_template(&spec::of(job).template, controller_ref(job), &namespace);
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let Some(index) = index else { return pod };
    let (name, number) = (job.name_any(), index.to_string());
    let suffix = format!("-{number}-");
    let cut: String = name.chars().take(LONGEST_PREFIX.saturating_sub(suffix.len())).collect();
    pod.metadata.generate_name = Some(cut + &suffix);
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), number.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    if let Some(attempts) = attempts {
        annotations.insert(FAILURES.into(), attempts.failures.to_string());
        if attempts.ignored > 0 {
            annotations.insert(IGNORED.into(), attempts.ignored.to_string());
        }
    }
    annotations.insert(INDEX.into(), number.clone());
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{number}"));
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(add_index);
    pod
}

/// The variable by which the container learns its index, unless it has one of that name.
fn add_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    variables.push(EnvVar { name: INDEX_VARIABLE.into(), value: None, value_from: Some(source) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_knows_its_index() {
        let name = "j".repeat(70);
        let job: Job = serde_json::from_value(json!({"metadata": {"name": name, "uid": "u", "namespace": "ns"},
            "spec": {"template": {"spec": {"containers": [{"name": "c"}, {"name": "d", "env": [{"name": INDEX_VARIABLE, "value": "x"}]}]}}}}))
        .unwrap();
        let made = pod(&job, Some(7), Some(Attempts { failures: 2, ignored: 0 }));
        assert_eq!((index(&made, 8), index(&made, 7)), (Some(7), None));
        assert_eq!(attempts(&made), Attempts { failures: 2, ignored: 0 });
        assert!(is_tracked(&made));
        let prefix = made.metadata.generate_name.unwrap();
        assert!(prefix.len() == LONGEST_PREFIX && prefix.ends_with("j-7-"), "{prefix}");
        let spec = made.spec.unwrap();
        assert_eq!(spec.hostname, Some(format!("{name}-7")));
        let path = "/0/valueFrom/fieldRef/fieldPath";
        assert_eq!(
            json!(spec.containers[0].env).pointer(path),
            Some(&json!(format!("metadata.labels['{INDEX}']")))
        );
        assert_eq!(json!(spec.containers[1].env), json!([{"name": INDEX_VARIABLE, "value": "x"}]));
        assert_eq!(pod(&job, None, None).metadata.annotations, None);
    }
}
