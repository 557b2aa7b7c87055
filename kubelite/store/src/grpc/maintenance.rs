//! The Maintenance service: status, hashes, alarms.

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest,
    PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse,
    PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest, PbSnapshotResponse,
    PbStatusRequest, PbStatusResponse,
};
use futures::stream::Empty;
use tonic::{Request, Response, Status};

use super::{MEMBER_ID, Service};

/// The etcd release whose API this is, with our own version behind it: that of 3.4, with watch progress that can be
/// relied on, as since 3.4.25.
const VERSION: &str = concat!("3.4.25+kubelite-", env!("CARGO_PKG_VERSION"));
/// `AlarmRequest.action`: list the alarms.
const ALARM_GET: i32 = 0;

#[tonic::async_trait]
impl PbMaintenanceService for Service {
    async fn alarm(&self, request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        if request.into_inner().action != ALARM_GET {
            return Err(Status::unimplemented(
                "alarms cannot be set or cleared: writes go on by themselves once the disk has room",
            ));
        }
        Ok(Response::new(PbAlarmResponse { header: self.header(), alarms: Vec::new() }))
    }

    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        let status = self.store.status();
        let index = status.revision.cast_unsigned();
        Ok(Response::new(PbStatusResponse {
            header: self.header(),
            version: VERSION.to_owned(),
            db_size: (status.bytes + status.log_bytes).cast_signed(),
            db_size_in_use: status.bytes.cast_signed(),
            leader: MEMBER_ID,
            raft_index: index,
            raft_applied_index: index,
            raft_term: 1,
            errors: self.store.trouble().into_iter().collect(),
            ..PbStatusResponse::default()
        }))
    }

    /// There is nothing to do: the log is bounded by its snapshots.
    async fn defragment(
        &self,
        request: Request<PbDefragmentRequest>,
    ) -> Result<Response<PbDefragmentResponse>, Status> {
        self.access.rights(&request).everything()?;
        Ok(Response::new(PbDefragmentResponse { header: self.header() }))
    }

    async fn hash(&self, request: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        self.access.rights(&request).everything()?;
        let (hash, _) = self.store.hash(0)?;
        Ok(Response::new(PbHashResponse { header: self.header(), hash }))
    }

    async fn hash_kv(&self, request: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        self.access.rights(&request).everything()?;
        let (hash, hash_revision) = self.store.hash(request.into_inner().revision)?;
        let compact_revision = self.store.compacted();
        Ok(Response::new(PbHashKvResponse { header: self.header(), hash, compact_revision, hash_revision }))
    }

    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(
        &self,
        _: Request<PbSnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented(
            "the embedded store's files are not etcd's: stop the server and copy its data directory",
        ))
    }

    async fn move_leader(
        &self,
        _: Request<PbMoveLeaderRequest>,
    ) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::unimplemented("the embedded store has one member, which is the leader"))
    }

    async fn downgrade(
        &self,
        _: Request<PbDowngradeRequest>,
    ) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(Status::unimplemented("the embedded store has one member and no cluster version"))
    }
}
