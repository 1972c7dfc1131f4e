//! A builder that answers what it is told, over real gRPC.

use std::{future::pending, path::Path, sync::Arc};

use alloy_eips::{eip4844::Blob, eip4895::Withdrawal};
use alloy_primitives::{B256, Bloom, Bytes, FixedBytes, U256, address};
use alloy_rpc_types_engine::{ExecutionPayloadV1, ExecutionPayloadV2, ExecutionPayloadV3};
use parking_lot::Mutex;
use preconf_chassis::{Context, Security, grpc};
use preconf_payload_api::{BlobsBundle, ForkVersion, HealthBody, PayloadRequest, PayloadResponse};
use preconf_wire::payload::{Absence, NoPayload, PayloadService, payloads};
use tonic::service::Routes;

/// What the builder does when it is asked.
#[derive(Clone)]
pub(crate) enum Reply {
    Payload(Box<PayloadResponse>),
    Absent(Absence),
    Failure,
    Silence,
}

pub(crate) struct Builder {
    pub(crate) reply: Mutex<Reply>,
    pub(crate) health: Mutex<HealthBody>,
    pub(crate) asked: Mutex<Vec<PayloadRequest>>,
    pub(crate) context: Context,
}

impl Builder {
    pub(crate) async fn start(socket: &Path) -> Arc<Self> {
        let context = Context::for_test();
        let endpoint = format!("unix:{}", socket.display()).parse().unwrap();
        let listener = context.bind("payloads", &endpoint, &Security::default()).await.unwrap();
        let health = HealthBody { is_ready: true, is_syncing: false, el_connected: true };
        let builder = Arc::new(Self {
            reply: Mutex::new(Reply::Payload(Box::new(payload()))),
            health: Mutex::new(health),
            asked: Mutex::default(),
            context: context.clone(),
        });
        let routes = Routes::new(payloads(Arc::new(Door(Arc::clone(&builder)))));
        let shutdown = context.shutdown.clone();
        context.tasks.spawn("payloads", grpc::serve(listener, routes, shutdown));
        builder
    }

    pub(crate) fn will(&self, reply: Reply) {
        *self.reply.lock() = reply;
    }
}

struct Door(Arc<Builder>);

impl PayloadService for Door {
    async fn payload(&self, request: PayloadRequest) -> Result<PayloadResponse, NoPayload> {
        self.0.asked.lock().push(request);
        let reply = self.0.reply.lock().clone();
        match reply {
            Reply::Payload(payload) => Ok(*payload),
            Reply::Absent(absence) => Err(absence.into()),
            Reply::Failure => Err(NoPayload::Failed),
            Reply::Silence => pending().await,
        }
    }

    async fn health(&self) -> HealthBody {
        *self.0.health.lock()
    }
}

/// The payload of the golden answer.
pub(crate) fn payload() -> PayloadResponse {
    let payload_inner = ExecutionPayloadV1 {
        parent_hash: B256::repeat_byte(0x11),
        fee_recipient: address!("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"),
        state_root: B256::repeat_byte(0x22),
        receipts_root: B256::repeat_byte(0x33),
        logs_bloom: Bloom::ZERO,
        prev_randao: B256::repeat_byte(0x44),
        block_number: 100,
        gas_limit: 30_000_000,
        gas_used: 21_000,
        timestamp: 0x68e7_f0a1,
        extra_data: Bytes::from_static(b"preconf"),
        base_fee_per_gas: U256::from(1_000_000_000),
        block_hash: B256::repeat_byte(0x55),
        transactions: vec![Bytes::from_static(&[0x7e, 1]), Bytes::from_static(&[2, 0xc0])],
    };
    let withdrawals = vec![Withdrawal {
        index: u64::MAX,
        validator_index: u64::MAX,
        address: address!("0x4206942069420694206942069420694206942069"),
        amount: 12_000_000_000,
    }];
    PayloadResponse {
        fork_version: ForkVersion::FULU,
        execution_payload: ExecutionPayloadV3 {
            payload_inner: ExecutionPayloadV2 { payload_inner, withdrawals },
            blob_gas_used: 0,
            excess_blob_gas: 0,
        },
        blobs_bundle: BlobsBundle::default(),
        block_value: U256::from(21_000_000_000_000_u64),
        execution_requests: Vec::new(),
    }
}

/// The same with blobs.
pub(crate) fn with_blobs(count: usize) -> PayloadResponse {
    let mut payload = payload();
    payload.blobs_bundle = BlobsBundle {
        commitments: vec![FixedBytes::repeat_byte(1); count],
        proofs: vec![FixedBytes::repeat_byte(2); count],
        blobs: vec![Blob::repeat_byte(3); count],
    };
    payload
}
