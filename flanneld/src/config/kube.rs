//! `--kube-subnet-mgr`: its flags, and the variables that have no flag.

use super::{BadConfig, Cli, bad};
use crate::lease::kube::annotations::Annotations;
use crate::lease::kube::{Access, Name};

/// As flannel's.
const QUEUE: usize = 5000;
/// Nobody needs more: it is not how many nodes there may be, but how many changes are taken over at once.
const LONGEST_QUEUE: usize = 100_000;

/// What the flags and variables say.
pub(super) fn access(cli: &Cli, variable: impl Fn(&str) -> Option<String>) -> Result<Access, BadConfig> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let node = match (variable("NODE_NAME"), variable("POD_NAMESPACE"), variable("POD_NAME")) {
        (Some(node), _, _) => Name::Node(node),
        (None, Some(namespace), Some(pod)) => Name::OfPod(namespace, pod),
        _ => {
            return Err(bad(
                "kube-subnet-mgr",
                "which node this is must be said: set the variable NODE_NAME (fieldRef spec.nodeName), or POD_NAME and POD_NAMESPACE",
            ));
        }
    };
    let batch = match variable("EVENT_QUEUE_DEPTH") {
        None => QUEUE,
        Some(text) => match text.parse::<i64>() {
            // As in flannel.
            Ok(..=0) => QUEUE,
            Ok(depth) => usize::try_from(depth).unwrap_or(LONGEST_QUEUE).min(LONGEST_QUEUE),
            Err(_) => {
                let problem = format!("the variable EVENT_QUEUE_DEPTH={text} is no number");
                return Err(bad("kube-subnet-mgr", problem));
            }
        },
    };
    Ok(Access {
        url: cli.kube_api_url.clone(),
        kubeconfig: cli.kubeconfig_file.clone(),
        annotations: Annotations::new(&cli.kube_annotation_prefix)
            .map_err(|problem| bad("kube-annotation-prefix", problem))?,
        node,
        net_config: cli.net_config_path.clone(),
        set_network_unavailable: cli.set_node_network_unavailable.0,
        batch,
        begin_alone: variable("CONT_WHEN_CACHE_NOT_READY")
            .is_some_and(|value| value.eq_ignore_ascii_case("true")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(flags: &[&str], variables: &[(&str, &str)]) -> Result<Access, BadConfig> {
        let all = ["flanneld", "--kube-subnet-mgr"].iter().chain(flags).map(ToString::to_string);
        let find =
            |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        access(&Cli::try_from_args(all).unwrap(), find)
    }

    #[test]
    fn variables_mean_what_they_mean_in_flannel() {
        const NODE: (&str, &str) = ("NODE_NAME", "n1");
        let plain = said(&[], &[NODE]).unwrap();
        assert_eq!((plain.node, plain.batch, plain.begin_alone), (Name::Node("n1".into()), 5000, false));
        assert_eq!(plain.net_config.to_str(), Some("/etc/kube-flannel/net-conf.json"));
        assert!(plain.set_network_unavailable && plain.url.is_empty() && plain.kubeconfig.is_empty());
        let pod = said(&[], &[("POD_NAME", "p"), ("POD_NAMESPACE", "ns"), ("NODE_NAME", "")]).unwrap();
        assert_eq!(pod.node, Name::OfPod("ns".into(), "p".into()));
        for (depth, batch) in
            [("7", 7), ("0", 5000), ("-3", 5000), ("999999999999", LONGEST_QUEUE), ("", 5000)]
        {
            assert_eq!(said(&[], &[NODE, ("EVENT_QUEUE_DEPTH", depth)]).unwrap().batch, batch, "{depth}");
        }
        for (text, alone) in [("true", true), ("TRUE", true), ("false", false), ("1", false)] {
            assert_eq!(said(&[], &[NODE, ("CONT_WHEN_CACHE_NOT_READY", text)]).unwrap().begin_alone, alone);
        }
        let other = ["--set-node-network-unavailable=false", "--kube-annotation-prefix=a.b/c"];
        let other = said(&other, &[NODE]).unwrap();
        assert!(!other.set_network_unavailable && other.annotations.name("x") == "a.b/c-x");
    }

    #[test]
    fn what_cannot_be_is_told() {
        for (flags, variables, words) in [
            (&[][..], &[][..], "NODE_NAME"),
            (&[], &[("POD_NAME", "p")], "POD_NAMESPACE"),
            (&[], &[("NODE_NAME", "n"), ("EVENT_QUEUE_DEPTH", "many")], "EVENT_QUEUE_DEPTH=many"),
            (&["--kube-annotation-prefix=a/b/c"], &[("NODE_NAME", "n")], "kube-annotation-prefix"),
        ] {
            let text = said(flags, variables).unwrap_err().to_string();
            assert!(text.contains(words), "{text}");
        }
    }
}
