//! How a receipt is made from what the EVM reports.

use alloy_consensus::TransactionEnvelope;
use alloy_evm::{
    Evm,
    eth::receipt_builder::{ReceiptBuilder, ReceiptBuilderCtx},
};
use preconf_chain::{Receipt, TxEnvelope};

/// Builds the one kind of receipt that both chains have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receipts;

impl ReceiptBuilder for Receipts {
    type Transaction = TxEnvelope;
    type Receipt = Receipt;

    fn build_receipt<E: Evm>(
        &self,
        ctx: ReceiptBuilderCtx<'_, <TxEnvelope as TransactionEnvelope>::TxType, E>,
    ) -> Receipt {
        Receipt {
            tx_type: ctx.tx_type,
            success: ctx.result.is_success(),
            cumulative_gas_used: ctx.cumulative_gas_used,
            logs: ctx.result.into_logs(),
        }
    }
}
