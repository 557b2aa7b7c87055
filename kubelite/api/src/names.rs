//! The rules for names, label keys and values, and a few other short strings, in upstream's words.
//!
//! Each function returns what is wrong, empty if nothing is. What doesn't live here: which kind obeys which rule
//! (`validate`).

/// The longest DNS label.
pub const LABEL_MAX: usize = 63;
/// The longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;
/// A generated name is a prefix of at most this length and five random characters.
pub const GENERATED_PREFIX_MAX: usize = LABEL_MAX - SUFFIX_LEN;
const SUFFIX_LEN: usize = 5;
/// No vowels and nothing that looks like another character, so that no word and no misreading comes out.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_1035_FMT: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_TEXT: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const VALUE_FMT: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";

/// An RFC 1123 label: namespaces, port names of services, volume names.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut problems = too_long(value, LABEL_MAX);
    if !is_label(value) {
        problems.push(pattern(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            LABEL_FMT,
            &["my-name", "123-abc"],
        ));
    }
    problems
}

/// An RFC 1123 subdomain: the names of most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut problems = too_long(value, SUBDOMAIN_MAX);
    if !value.split('.').all(is_label) {
        problems.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            SUBDOMAIN_FMT,
            &["example.com"],
        ));
    }
    problems
}

/// An RFC 1035 label: the names of services.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut problems = too_long(value, LABEL_MAX);
    if !is_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        problems.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035_FMT,
            &["my-name", "abc-123"],
        ));
    }
    problems
}

/// `name` or `prefix.example.com/name`: label and annotation keys, resource names, finalizers, condition types.
pub fn qualified_name(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let examples = ["MyName", "my.name", "123-abc"];
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".into());
            } else {
                problems.extend(dns1123_subdomain(prefix).iter().map(|p| format!("prefix part {p}")));
            }
            name
        }
        _ => {
            let rule = pattern(QUALIFIED_TEXT, QUALIFIED_FMT, &examples);
            return vec![format!(
                "a qualified name {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else {
        problems.extend(too_long(name, LABEL_MAX).iter().map(|p| format!("name part {p}")));
    }
    if !is_qualified(name) {
        problems.push(format!("name part {}", pattern(QUALIFIED_TEXT, QUALIFIED_FMT, &examples)));
    }
    problems
}

/// The key of a label.
pub fn label_key(value: &str) -> Vec<String> {
    qualified_name(value)
}

/// The key of an annotation: as a label's, but upper case may stand in the prefix.
pub fn annotation_key(value: &str) -> Vec<String> {
    qualified_name(&value.to_lowercase())
}

/// The value of a label.
pub fn label_value(value: &str) -> Vec<String> {
    let mut problems = too_long(value, LABEL_MAX);
    if !value.is_empty() && !is_qualified(value) {
        problems.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            VALUE_FMT,
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// A name that is a segment of a URL path and nothing more: RBAC objects.
pub fn path_segment(value: &str) -> Vec<String> {
    match value {
        "." | ".." => vec![format!("may not be '{value}'")],
        _ => ['/', '%']
            .iter()
            .filter(|c| value.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// A key of a ConfigMap or a Secret, which is a file name in a volume.
pub fn config_key(value: &str) -> Vec<String> {
    let mut problems = too_long(value, SUBDOMAIN_MAX);
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if value.is_empty() || !value.bytes().all(allowed) {
        problems.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." | ".." => problems.push(format!("must not be '{value}'")),
        _ if value.starts_with("..") => problems.push("must not start with '..'".into()),
        _ => {}
    }
    problems
}

/// The name of an environment variable (relaxed rule: printable ASCII without `=`).
pub fn env_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .into(),
    ]
}

/// The name of a container's port (an IANA service name, RFC 6335).
pub fn port_name(value: &str) -> Vec<String> {
    let mut problems = too_long(value, 15);
    if !value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') || value.is_empty() {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        problems.push("must not contain consecutive hyphens".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        problems.push("must not begin or end with a hyphen".into());
    }
    problems
}

/// A port number.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".into()]
    }
}

/// `prefix` and five random characters. `random` yields any number; only its remainder is used.
pub fn generate_name(prefix: &str, random: &mut impl FnMut() -> u32) -> String {
    let mut end = prefix.len().min(GENERATED_PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    for _ in 0..SUFFIX_LEN {
        let at = random() as usize % SUFFIX_ALPHABET.len();
        name.push(char::from(SUFFIX_ALPHABET[at]));
    }
    name
}

fn is_label(value: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = value.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_qualified(value: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn too_long(value: &str, max: usize) -> Vec<String> {
    if value.len() > max { vec![format!("must be no more than {max} bytes")] } else { Vec::new() }
}

/// The rule, examples and the regular expression. (The doubled blank before `or` is upstream's.)
fn pattern(text: &str, expression: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{text} (e.g. {}regex used for validation is '{expression}')", examples.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert!(dns1123_label(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "a.b", "-a", "a-", "a_b", &"a".repeat(64)] {
            assert!(!dns1123_label(bad).is_empty(), "{bad}");
        }
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        for bad in ["a..b", ".a", "A_b", "a.-b"] {
            assert_eq!(dns1123_subdomain(bad).len(), 1, "{bad}");
        }
        assert!(dns1123_subdomain("A_b")[0].ends_with(
            r"(e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        ));
        assert!(!dns1035_label("1a").is_empty());
        assert!(dns1123_label("A")[0].contains("(e.g. 'my-name',  or '123-abc', regex"));
    }

    #[test]
    fn keys_and_values() {
        for good in ["simple", "now-with-dashes", "1.2.3.4/5678", "a/B_c.d", "example.com/x"] {
            assert!(qualified_name(good).is_empty(), "{good}");
        }
        for bad in ["", "a/", "/a", "a/b/c", "-x", "A.com/x", "x y"] {
            assert!(!qualified_name(bad).is_empty(), "{bad}");
        }
        assert!(annotation_key("Example.com/x").is_empty());
        assert!(label_value("").is_empty() && label_value("A_b.c").is_empty());
        assert!(!label_value("a b").is_empty() && !label_value("-a").is_empty());
        assert_eq!(config_key("..a"), ["must not start with '..'"]);
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        assert!(env_name("a.b-c").is_empty() && !env_name("a=b").is_empty());
    }

    #[test]
    fn generated_names_fit_a_label() {
        let mut n = 0;
        let name = generate_name(&"é".repeat(60), &mut || {
            n += 7;
            n
        });
        assert!(name.len() <= LABEL_MAX);
        assert!(name.chars().rev().take(5).all(|c| SUFFIX_ALPHABET.contains(&(c as u8))));
    }
}
