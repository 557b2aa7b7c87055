//! The Lease service. A client may touch a lease if it may touch every key that hangs on it.

use std::pin::Pin;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService,
    PbLeaseStatus, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::access::Rights;
use super::{Service, header};
use crate::error::Error;
use crate::store::Store;
use crate::types::{KeyRange, LeaseId};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn may_touch(store: &Store, rights: &Rights, id: LeaseId) -> Result<(), Status> {
    let keys = store.lease(id).map(|lease| lease.keys).unwrap_or_default();
    keys.into_iter().try_for_each(|key| rights.keys(&KeyRange::key(key)))
}

#[tonic::async_trait]
impl PbLeaseService for Service {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let PbLeaseGrantRequest { ttl, id } = request.into_inner();
        let id = self.store.grant(id, ttl).await?;
        let ttl = self.store.lease(id).map_or(ttl, |lease| lease.granted);
        Ok(Response::new(PbLeaseGrantResponse { header: self.header(), id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let rights = self.access.rights(&request);
        let id = request.into_inner().id;
        may_touch(&self.store, &rights, id)?;
        let revision = self.store.revoke(id).await?;
        Ok(Response::new(PbLeaseRevokeResponse { header: header(revision) }))
    }

    type LeaseKeepAliveStream = Answers<PbLeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let rights = self.access.rights(&request);
        let store = self.store.clone();
        let answers = request.into_inner().map(move |request| {
            let id = request?.id;
            may_touch(&store, &rights, id)?;
            // A lease that is gone is answered with a time to live of 0.
            let ttl = match store.keep_alive(id) {
                Ok(ttl) => ttl,
                Err(Error::LeaseNotFound(_)) => 0,
                Err(error) => return Err(error.into()),
            };
            Ok(PbLeaseKeepAliveResponse { header: header(store.revision()), id, ttl })
        });
        let answers = answers.take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let rights = self.access.rights(&request);
        let PbLeaseTimeToLiveRequest { id, keys } = request.into_inner();
        may_touch(&self.store, &rights, id)?;
        let header = self.header();
        let response = match self.store.lease(id) {
            Some(lease) => PbLeaseTimeToLiveResponse {
                header,
                id,
                ttl: lease.remaining,
                granted_ttl: lease.granted,
                keys: lease.keys.into_iter().filter(|_| keys).map(Into::into).collect(),
            },
            None => PbLeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() },
        };
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let rights = self.access.rights(&request);
        let visible =
            self.store.leases().into_iter().filter(|&id| may_touch(&self.store, &rights, id).is_ok());
        let leases = visible.map(|id| PbLeaseStatus { id }).collect();
        Ok(Response::new(PbLeaseLeasesResponse { header: self.header(), leases }))
    }
}
