//! From a request to an answer: which verb goes where.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::apply::Network;
use crate::check::check;
use crate::config::Config;
use crate::error::Error;
use crate::plan::settings;
use crate::request::{Request, Verb};
use crate::result::versions;
use crate::subnet_env::SubnetEnv;
use crate::{delegate, loopback};

/// What goes to stdout.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Nothing: the verb has no result.
    Nothing,
    /// A result of this plugin.
    Json(Value),
    /// A delegate's result, unchanged.
    Text(String),
}

/// Serves one request. `program` is the name that the binary was called under.
pub async fn serve(program: &Path, request: &Request) -> Result<Answer, Error> {
    if loopback::is_meant(program, request.config.get("type")?.value()) {
        return loopback::serve(request);
    }
    if request.verb == Verb::Version {
        return Ok(Answer::Json(versions(request.version)));
    }
    let config = Config::parse(&request.config)?;
    if config.is_built_in() { built_in(request, &config).await } else { delegated(request, &config) }
}

async fn built_in(request: &Request, config: &Config) -> Result<Answer, Error> {
    match &request.verb {
        Verb::Add { attachment, netns } => {
            let result = Network::open(config)?.add(attachment, netns).await?;
            return Ok(Answer::Json(result.to_json(request.version)));
        }
        Verb::Del { attachment, netns } => Network::open(config)?.del(attachment, netns.as_deref()).await?,
        Verb::Check { attachment, netns } => {
            check(&Network::open(config)?, config, attachment, netns).await?;
        }
        Verb::Gc => Network::open(config)?.gc(&valid(config)).await?,
        // That the subnet is full is no reason to say "not available": the runtime would call the whole node not ready.
        Verb::Status => drop(settings(config, &subnet_env(config)?)?),
        Verb::Version => {}
    }
    Ok(Answer::Nothing)
}

fn delegated(request: &Request, config: &Config) -> Result<Answer, Error> {
    match &request.verb {
        Verb::Add { attachment, .. } => return delegate::add(request, config, attachment).map(Answer::Text),
        Verb::Del { attachment, .. } => delegate::del(request, config, attachment)?,
        Verb::Check { attachment, .. } => delegate::check(request, config, attachment)?,
        Verb::Gc => delegate::gc(request, config, &valid(config))?,
        Verb::Status => delegate::status(request, config, &subnet_env(config)?)?,
        Verb::Version => {}
    }
    Ok(Answer::Nothing)
}

/// For STATUS a missing subnet.env is not an error of the moment but the answer.
fn subnet_env(config: &Config) -> Result<SubnetEnv, Error> {
    SubnetEnv::load(&config.subnet_file).map_err(|error| Error::NotAvailable(error.to_string()))
}

fn valid(config: &Config) -> BTreeSet<crate::request::Attachment> {
    config.valid_attachments.iter().cloned().collect()
}
