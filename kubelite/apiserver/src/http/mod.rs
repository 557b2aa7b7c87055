//! The HTTP front: layers that say what a request is about and who asks, and a file per verb.
//!
//! ```text
//!  request ─► authenticate ─► RequestInfo ─► authorize ─► resource: verb ─► registry
//!                                                     └─► other paths: discovery, OpenAPI, health
//! ```

mod body;
mod delete;
mod negotiate;
mod patch;
mod path;
mod read;
mod respond;
mod watch;
mod write;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use http::header::USER_AGENT;
use http::{HeaderMap, Method};
use kubelite_api::status::ApiError;

pub use negotiate::Format;
pub use respond::value as respond_value;

use negotiate::{Include, View};

use crate::auth::layers::{authenticate, authorize};
use crate::parts::Parts;
use crate::registry::{Context, Owner, Registry};
use crate::request::{RequestInfo, UserInfo};
use crate::resources::Resource;
use crate::{discovery, health, openapi};

/// What the handlers share.
pub struct Front {
    /// The objects.
    pub registry: Registry,
    /// Who may ask, and what is answered elsewhere.
    pub parts: Parts,
}

/// The router over everything; a request from outside carries its peer's identity, one from inside its `UserInfo`.
pub fn router(front: &Arc<Front>) -> Router {
    let auth = front.parts.auth.clone();
    Router::new()
        .fallback(handle)
        .with_state(front.clone())
        .merge(front.parts.discovery.clone())
        .layer(from_fn_with_state(auth.clone(), authorize))
        .layer(from_fn(inform))
        .layer(from_fn_with_state(auth, authenticate))
}

/// Puts the [`RequestInfo`] into the request's extensions.
/// The longest name of a field manager, in characters.
const LONGEST_MANAGER: usize = 128;

async fn inform(mut request: Request, next: Next) -> Response {
    let info = path::Query::parse(request.uri())
        .and_then(|query| path::request_info(request.method(), request.uri().path(), &query));
    match info {
        Ok(info) => {
            request.extensions_mut().insert(info);
            next.run(request).await
        }
        Err(error) => respond::error(&error),
    }
}

/// A request with what the layers found out about it.
struct Asked {
    user: UserInfo,
    info: RequestInfo,
    query: path::Query,
    headers: HeaderMap,
    body: bytes::Bytes,
}

impl Asked {
    async fn of(request: Request) -> Result<Asked, ApiError> {
        let (parts, body) = request.into_parts();
        let missing = || ApiError::internal("the request reached the verbs without user or RequestInfo");
        let user = parts.extensions.get::<UserInfo>().cloned().ok_or_else(missing)?;
        let info = parts.extensions.get::<RequestInfo>().cloned().ok_or_else(missing)?;
        let body = body::read(body).await?;
        Ok(Asked { user, info, query: path::Query::parse(&parts.uri)?, headers: parts.headers, body })
    }

    /// In which form the answer is wanted.
    fn form(&self) -> Result<(View, Format), ApiError> {
        negotiate::accept(&self.headers, Include::parse(self.query.get("includeObject"))?)
    }

    fn context(&self, resource: &'static Resource) -> Result<Context<'_>, ApiError> {
        let dry_run = match self.query.get("dryRun") {
            "" => false,
            "All" => true,
            other => {
                let text = format!("dryRun: Unsupported value: \"{other}\": supported values: \"All\"");
                return Err(ApiError::bad_request(text));
            }
        };
        let owner = Owner::Manager(self.manager());
        Ok(Context { user: &self.user, request: &self.info, resource, dry_run, owner })
    }

    /// Who owns what this request changes: as it says, or else the client's program by its User-Agent, or by its user where both are in
    /// this process.
    fn manager(&self) -> &str {
        let agent = self.headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
        let component = match self.user.name.strip_prefix("system:") {
            Some(node) if node.starts_with("node:") => "kubelet",
            Some(component) => component,
            None => &self.user.name,
        };
        let names = [self.query.get("fieldManager"), agent.split('/').next().unwrap_or_default()];
        let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or(component);
        name.char_indices().nth(LONGEST_MANAGER).map_or(name, |(end, _)| name.get(..end).unwrap_or(name))
    }
}

async fn handle(State(front): State<Arc<Front>>, request: Request) -> Response {
    let Some(info) = request.extensions().get::<RequestInfo>().cloned() else {
        return respond::error(&ApiError::internal("the request has no RequestInfo"));
    };
    if front.parts.connector.handles(&info) {
        return front.parts.connector.connect(request).await;
    }
    let answer = if info.is_resource { resource(&front, request).await } else { other(&front, &request) };
    answer.unwrap_or_else(|error| respond::error(&error))
}

/// Paths that are about no resource.
fn other(front: &Front, request: &Request) -> Result<Response, ApiError> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(not_allowed());
    }
    let path = request.uri().path().trim_end_matches('/');
    let rows = front.registry.caches.rows();
    None.or_else(|| health::answer(path, &front.registry))
        .or_else(|| discovery::answer(rows, path, negotiate::aggregated(request.headers())))
        .or_else(|| openapi::answer(&front.registry.caches, path))
        .ok_or_else(not_found)
}

async fn resource(front: &Arc<Front>, request: Request) -> Result<Response, ApiError> {
    let asked = Asked::of(request).await?;
    if front.parts.reviews.handles(&asked.info) {
        return write::ask(front, &asked).await;
    }
    let info = &asked.info;
    let rows = front.registry.caches.rows();
    let found = rows.lookup(&info.group, &info.version, &info.resource);
    let Some(resource) = found else {
        // `pods/binding` has a second path of its own: a Binding is created in the namespace.
        if info.resource == "bindings" && info.verb == "create" {
            return write::bind(front, &asked).await;
        }
        return discovery::answer(rows, info.path.trim_end_matches('/'), None).ok_or_else(not_found);
    };
    if !info.subresource.is_empty() && !resource.subresources.contains(&info.subresource.as_str()) {
        return Err(not_found());
    }
    if resource.namespaced && info.namespace.is_empty() && !matches!(info.verb.as_str(), "list" | "watch") {
        return Err(not_allowed());
    }
    let answer = verb(front, &asked, resource).await?;
    let deprecated = resource.custom.and_then(|custom| custom.version().deprecation.clone());
    Ok(respond::with_warnings(answer, deprecated.as_slice()))
}

async fn verb(front: &Arc<Front>, asked: &Asked, resource: &'static Resource) -> Result<Response, ApiError> {
    let info = &asked.info;
    match (info.verb.as_str(), info.subresource.as_str()) {
        ("get", "scale") => read::scale(front, asked, resource).await,
        ("get", _) => read::get(front, asked, resource).await,
        ("list", "") => read::list(front, asked, resource).await,
        ("watch", "") => watch::watch(front, asked, resource).await,
        ("create", "") if info.name.is_empty() => write::create(front, asked, resource).await,
        ("create", "binding") => write::bind(front, asked).await,
        ("create", "eviction") => delete::evict(front, asked, resource).await,
        ("update" | "patch", "scale") => write::scale(front, asked, resource).await,
        ("update", _) => write::update(front, asked, resource).await,
        ("patch", _) => patch::patch(front, asked, resource).await,
        ("delete", "") => delete::delete(front, asked, resource).await,
        ("deletecollection", "") => delete::collection(front, asked, resource).await,
        _ => Err(not_allowed()),
    }
}

fn not_found() -> ApiError {
    ApiError::new(404, "NotFound", "the server could not find the requested resource")
}

fn not_allowed() -> ApiError {
    ApiError::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}
