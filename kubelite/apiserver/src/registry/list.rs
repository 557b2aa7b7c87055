//! List: from the cache, page by page at one revision.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kubelite_api::fields::FieldSelector;
use kubelite_api::labels::LabelSelector;
use kubelite_api::status::ApiError;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{CATCH_UP, Registry, unavailable};
use crate::cache::Entry;
use crate::resources::Resource;
use crate::storage::{ListOptions, Revision, StorageError};

/// What to list.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// By labels.
    pub labels: LabelSelector,
    /// By fields.
    pub fields: FieldSelector,
    /// At the most so many; 0: all.
    pub limit: usize,
    /// Where the last page ended; empty for the first.
    pub token: String,
    /// `resourceVersion` as given.
    pub version: String,
    /// Whether `resourceVersionMatch=Exact`.
    pub exact: bool,
}

impl Default for ListQuery {
    fn default() -> Self {
        ListQuery {
            labels: LabelSelector::everything(),
            fields: FieldSelector::everything(),
            limit: 0,
            token: String::new(),
            version: String::new(),
            exact: false,
        }
    }
}

impl ListQuery {
    /// Whether an object is selected.
    pub fn selects(&self, resource: &Resource, entry: &Entry) -> bool {
        self.labels.matches(&entry.labels) && self.fields.matches(|path| entry.field(resource, path))
    }
}

/// A page.
#[derive(Debug)]
pub struct Listed {
    /// The objects.
    pub entries: Vec<Arc<Entry>>,
    /// As of which revision.
    pub revision: Revision,
    /// For the next page; empty if this is the last.
    pub token: String,
    /// How many follow; none if a selector makes that unknown.
    pub remaining: Option<usize>,
}

/// What a continue token holds.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: Revision,
    start: String,
}

const TOKEN_VERSION: &str = "kubelite/v1";

impl Registry {
    /// Lists a namespace (`""`: all).
    pub async fn list(
        &self,
        resource: &'static Resource,
        namespace: &str,
        query: &ListQuery,
    ) -> Result<Listed, ApiError> {
        let mut prefix = resource.key_prefix();
        if !namespace.is_empty() && resource.namespaced {
            prefix.push_str(namespace);
            prefix.push('/');
        }
        if !query.token.is_empty() {
            let token = parse_token(&query.token, &prefix)?;
            return self.list_at(resource, &prefix, query, token.rv, Some(token.start)).await;
        }
        let wanted = parse_version(&query.version)?;
        if query.exact && wanted > 0 {
            return self.list_at(resource, &prefix, query, wanted, None).await;
        }
        if wanted > 0 && !self.caches.wait_for(wanted, CATCH_UP).await {
            let mut error = ApiError::new(
                504,
                "Timeout",
                format!("Too large resource version: {wanted}, current: {}", self.caches.revision()),
            );
            error.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
            return Err(error);
        }
        let revision = self.caches.revision();
        let entries = self.caches.of(resource).list(&prefix);
        // Read before the entries: an entry may be newer, never older, and a watch from here tells it again.
        Ok(self.page(resource, entries, revision, query))
    }

    /// As of one revision, from the store.
    async fn list_at(
        &self,
        resource: &'static Resource,
        prefix: &str,
        query: &ListQuery,
        revision: Revision,
        after: Option<String>,
    ) -> Result<Listed, ApiError> {
        let options = ListOptions { revision, limit: 0, after: after.clone() };
        let page = match self.storage.list(prefix, options).await {
            Err(StorageError::Compacted { .. }) => return Err(self.expired(after.is_some(), prefix, after)),
            other => other.map_err(unavailable)?,
        };
        let entries =
            page.items.iter().filter_map(|kv| Entry::read(resource.stored(), kv)).map(Arc::new).collect();
        Ok(self.page(resource, entries, revision, query))
    }

    fn page(
        &self,
        resource: &'static Resource,
        entries: Vec<Arc<Entry>>,
        revision: Revision,
        query: &ListQuery,
    ) -> Listed {
        let stored = resource.stored();
        let selected = entries.into_iter().filter(|entry| query.selects(stored, entry));
        if query.limit == 0 {
            return Listed { entries: selected.collect(), revision, token: String::new(), remaining: None };
        }
        let mut entries: Vec<_> = selected.collect();
        let rest = entries.len().saturating_sub(query.limit);
        entries.truncate(query.limit);
        let token = match entries.last() {
            Some(last) if rest > 0 => make_token(revision, &last.key),
            _ => String::new(),
        };
        let counted = query.labels.is_empty() && query.fields.is_empty() && rest > 0;
        Listed { entries, revision, token, remaining: counted.then_some(rest) }
    }

    /// 410 with a token by which the client may go on, if it can live with a list of two revisions.
    fn expired(&self, paging: bool, prefix: &str, after: Option<String>) -> ApiError {
        if !paging {
            return ApiError::expired("The resourceVersion for the provided list is too old.");
        }
        let mut error = ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
             the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
             Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the list.",
        );
        let start = after.unwrap_or_else(|| prefix.to_owned());
        error.details = json!({"continue": make_token(self.caches.revision(), &start)});
        error
    }
}

fn make_token(rv: Revision, start: &str) -> String {
    let token = Token { v: TOKEN_VERSION.to_owned(), rv, start: start.to_owned() };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

/// A token can be forged; it may only name a key of the listed resource and namespace.
fn parse_token(text: &str, prefix: &str) -> Result<Token, ApiError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let token: Option<Token> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    token
        .filter(|t| t.v == TOKEN_VERSION && t.rv > 0 && t.start.starts_with(prefix))
        .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
}

/// A resourceVersion as a number; 0 if none is given.
pub(crate) fn parse_version(text: &str) -> Result<Revision, ApiError> {
    if text.is_empty() {
        return Ok(0);
    }
    let number = text.parse().ok().filter(|n: &Revision| *n >= 0);
    number.ok_or_else(|| {
        ApiError::bad_request(format!("Invalid value: \"{text}\": resourceVersion: must be a number"))
    })
}
