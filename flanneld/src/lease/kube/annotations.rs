//! The names of flannel's annotations on nodes.

/// The part before the slash, and a part behind it that ends with `-`, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotations(String);

impl Annotations {
    /// From `--kube-annotation-prefix`: a domain, or a domain, a slash and the beginning of a name.
    ///
    /// # Errors
    /// Text that cannot begin an annotation's name, with what is wanted.
    pub fn new(prefix: &str) -> Result<Annotations, String> {
        let (domain, name) = prefix.split_once('/').unwrap_or((prefix, ""));
        if name.contains('/') {
            return Err(format!("{prefix}: at most one slash"));
        }
        let letters = |text: &str| text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
        let labels = || domain.split('.').all(|label| !label.is_empty() && letters(label));
        if !domain.contains('.') || !labels() || !letters(name) {
            return Err(format!(
                "{prefix}: must be a domain, or domain/name, in lower case, such as flannel.alpha.coreos.com"
            ));
        }
        let dash = if name.is_empty() || name.ends_with('-') { "" } else { "-" };
        Ok(Annotations(format!("{domain}/{name}{dash}")))
    }

    /// The whole name of one.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_domain_and_the_beginning_of_a_name() {
        for (prefix, name) in [
            ("flannel.alpha.coreos.com", "flannel.alpha.coreos.com/public-ip"),
            ("flannel.alpha.coreos.com/", "flannel.alpha.coreos.com/public-ip"),
            ("example.org/second", "example.org/second-public-ip"),
            ("example.org/second-", "example.org/second-public-ip"),
        ] {
            assert_eq!(Annotations::new(prefix).unwrap().name("public-ip"), name);
        }
        for prefix in ["", "flannel", "a.b/c/d", "A.b", "a..b", ".a", "a.b/C"] {
            assert!(Annotations::new(prefix).is_err(), "{prefix}");
        }
    }
}
