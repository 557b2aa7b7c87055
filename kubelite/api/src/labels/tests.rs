use proptest::prelude::*;

use super::*;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn matches_as_upstream() {
    let object = labels(&[("a", "b"), ("n", "5"), ("in", "x"), ("empty", "")]);
    for (selector, expected) in [
        ("", true),
        ("a=b", true),
        ("a==b", true),
        ("a!=b", false),
        ("c!=d", true),
        ("a in (x,b)", true),
        ("a notin (x,b)", false),
        ("c notin (x)", true),
        ("a", true),
        ("!a", false),
        ("! c", true),
        ("n>4", true),
        ("n<5", false),
        ("a>1", false),
        ("in=x", true),
        ("in in (x)", true),
        ("empty=", true),
        ("empty in ()", true),
        ("a=b,n=5", true),
        ("a=b,n=6", false),
        (" a = b , n ", true),
        ("empty in (,)", true),
    ] {
        assert_eq!(LabelSelector::parse(selector).unwrap().matches(&object), expected, "{selector}");
    }
}

#[test]
fn refuses_in_upstreams_words() {
    for (selector, text) in [
        ("a,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a==b c", "found 'c', expected: ',' or 'end of string'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
    ] {
        assert_eq!(LabelSelector::parse(selector).unwrap_err().to_string(), text, "{selector}");
    }
    let error = LabelSelector::parse("a=-b").unwrap_err().to_string();
    assert!(
        error.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label")
    );
}

#[test]
fn from_a_spec() {
    let json = serde_json::json!({
        "matchLabels": {"a": "b"},
        "matchExpressions": [{"key": "c", "operator": "In", "values": ["y", "x"]}, {"key": "d", "operator": "DoesNotExist"}],
    });
    let selector = LabelSelector::from_value(&json).unwrap();
    assert_eq!(selector.to_string(), "a=b,c in (x,y),!d");
    assert!(selector.matches(&labels(&[("a", "b"), ("c", "x")])));
    assert!(LabelSelector::from_value(&serde_json::json!({})).unwrap().is_empty());
    assert!(!LabelSelector::from_value(&Value::Null).unwrap().matches(&labels(&[])));
}

proptest! {
    #[test]
    fn never_panics(text in "[a-c=!(), <>in]{0,40}") {
        let _ = LabelSelector::parse(&text);
    }

    #[test]
    fn printing_keeps_the_meaning(text in "[a-c](=|!=| in \\(|>)[a-c0-9]{0,3}\\)?") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }
}
