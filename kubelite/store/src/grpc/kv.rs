//! The KV service: range, put, delete, transaction, compaction.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use futures::stream::Empty;
use tonic::{Request, Response, Status};

use super::{Service, header, wire};
use crate::types::KeyRange;

#[tonic::async_trait]
impl PbKvService for Service {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let rights = self.access.rights(&request);
        let range = wire::range_request(request.into_inner());
        rights.keys(&range.range)?;
        Ok(Response::new(wire::range_response(self.store.range(&range)?)))
    }

    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _request: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("RangeStream is not served here: use Range with a limit, page by page"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let rights = self.access.rights(&request);
        let put = wire::put_request(request.into_inner());
        rights.keys(&KeyRange::key(put.key.clone()))?;
        let (previous, revision) = self.store.put(put).await?;
        Ok(Response::new(wire::put_response(previous, revision)))
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        let rights = self.access.rights(&request);
        let delete = wire::delete_request(request.into_inner());
        rights.keys(&delete.range)?;
        let (deleted, revision) = self.store.delete(delete).await?;
        Ok(Response::new(wire::delete_response(deleted, revision)))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let rights = self.access.rights(&request);
        let txn = wire::txn_request(request.into_inner())?;
        rights.txn(&txn)?;
        let response = self.store.txn(txn).await?;
        let revision = response.revision;
        Ok(Response::new(wire::txn_response(response, revision)))
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        self.access.rights(&request).everything()?;
        self.store.compact(request.into_inner().revision).await?;
        Ok(Response::new(PbCompactionResponse { header: header(self.store.revision()) }))
    }
}
