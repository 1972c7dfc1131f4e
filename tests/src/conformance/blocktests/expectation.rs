//! Which of our refusals an exception of the tests may be.
//!
//! A refusal is known by its words, from the outermost cause to the innermost. The table is
//! strict: an exception that is not in it fails the test, so that a new one is looked at.

/// Each exception, with what the refusal must contain; any one of them will do.
const TABLE: &[(&str, &[&str])] = &[
    // What the bytes are.
    ("BlockException.RLP_STRUCTURES_ENCODING", &["decoding the block"]),
    ("BlockException.RLP_WITHDRAWALS_NOT_READ", &["decoding the block"]),
    ("BlockException.RLP_INVALID_FIELD_OVERFLOW_64", &["decoding the block"]),
    ("BlockException.RLP_INVALID_ADDRESS", &["decoding the block"]),
    // The header after its parent.
    ("BlockException.UNKNOWN_PARENT", &["the parent 0x"]),
    ("BlockException.UNKNOWN_PARENT_ZERO", &["the parent 0x0000000000000000"]),
    ("BlockException.INVALID_BLOCK_NUMBER", &["parent: number is"]),
    ("BlockException.INVALID_BLOCK_TIMESTAMP_OLDER_THAN_PARENT", &["parent: timestamp is"]),
    ("BlockException.INVALID_GASLIMIT", &["parent: gasLimit is"]),
    (
        "BlockException.GAS_USED_OVERFLOW",
        &["parent: gasUsed is", "left in the block", "gas used is"],
    ),
    ("BlockException.EXTRA_DATA_TOO_BIG", &["parent: extraData has"]),
    ("BlockException.INVALID_BASEFEE_PER_GAS", &["parent: baseFeePerGas is"]),
    ("BlockException.IMPORT_IMPOSSIBLE_DIFFICULTY_OVER_PARIS", &["parent: difficulty is that"]),
    ("BlockException.IMPORT_IMPOSSIBLE_UNCLES_OVER_PARIS", &["sha3Uncles is", "ommers hash is"]),
    ("BlockException.INVALID_UNCLES_HASH", &["sha3Uncles is", "ommers hash is"]),
    ("BlockException.INCORRECT_EXCESS_BLOB_GAS", &["parent: excessBlobGas is"]),
    ("BlockException.INCORRECT_BLOB_GAS_USED", &["parent: blobGasUsed is", "blob gas used is"]),
    ("BlockException.BLOB_GAS_USED_ABOVE_LIMIT", &["parent: blobGasUsed is", ": blob gas "]),
    // A field that is left out may make the one after it undecodable.
    (
        "BlockException.INCORRECT_BLOCK_FORMAT",
        &["is missing", "is not a field of this fork", "decoding the block: "],
    ),
    // The header and what comes out.
    ("BlockException.INVALID_STATE_ROOT", &["stateRoot is 0x"]),
    ("BlockException.INVALID_GAS_USED", &["gas used is"]),
    ("BlockException.INVALID_RECEIPTS_ROOT", &["receipts root is"]),
    ("BlockException.INVALID_LOG_BLOOM", &["logs bloom is"]),
    ("BlockException.INVALID_TRANSACTIONS_ROOT", &["transactions root is"]),
    ("BlockException.INVALID_WITHDRAWALS_ROOT", &["withdrawals root is"]),
    ("BlockException.INVALID_REQUESTS", &["requests hash is"]),
    ("BlockException.INVALID_DEPOSIT_EVENT_LAYOUT", &["failed to decode deposit requests"]),
    ("BlockException.SYSTEM_CONTRACT_EMPTY", &["requests contract call"]),
    ("BlockException.SYSTEM_CONTRACT_CALL_FAILED", &["requests contract call"]),
    ("BlockException.RLP_BLOCK_LIMIT_EXCEEDED", &["the block has "]),
    // Transactions.
    ("TransactionException.INSUFFICIENT_ACCOUNT_FUNDS", &["lack of funds"]),
    ("TransactionException.INSUFFICIENT_MAX_FEE_PER_GAS", &["gas price is less than basefee"]),
    ("TransactionException.INSUFFICIENT_MAX_FEE_PER_BLOB_GAS", &["blob gas price is greater"]),
    (
        "TransactionException.PRIORITY_GREATER_THAN_MAX_FEE_PER_GAS",
        &["priority fee is greater than max fee"],
    ),
    ("TransactionException.NONCE_MISMATCH_TOO_LOW", &["is too low, the account is at"]),
    ("TransactionException.NONCE_MISMATCH_TOO_HIGH", &["is too high, the account is at"]),
    ("TransactionException.NONCE_IS_MAX", &["nonce overflow"]),
    ("TransactionException.INTRINSIC_GAS_TOO_LOW", &["call gas cost (", "gas floor ("]),
    ("TransactionException.INITCODE_SIZE_EXCEEDED", &["create initcode size limit"]),
    (
        "TransactionException.GAS_ALLOWANCE_EXCEEDED",
        &["left in the block", "exceeds the block gas limit"],
    ),
    ("TransactionException.SENDER_NOT_EOA", &["reject transactions from senders"]),
    ("TransactionException.INVALID_CHAINID", &["invalid chain ID"]),
    ("TransactionException.TYPE_3_TX_PRE_FORK", &["Eip4844 is not supported"]),
    ("TransactionException.TYPE_3_TX_ZERO_BLOBS", &["empty blobs"]),
    ("TransactionException.TYPE_3_TX_INVALID_BLOB_VERSIONED_HASH", &["blob version not supported"]),
    (
        "TransactionException.TYPE_3_TX_MAX_BLOB_GAS_ALLOWANCE_EXCEEDED",
        &[": blob gas ", "too many blobs"],
    ),
    ("TransactionException.TYPE_3_TX_BLOB_COUNT_EXCEEDED", &[": blob gas ", "too many blobs"]),
    ("TransactionException.TYPE_3_TX_CONTRACT_CREATION", &["decoding the block: "]),
    ("TransactionException.TYPE_1_TX_PRE_FORK", &["Eip2930 is not supported"]),
    ("TransactionException.TYPE_2_TX_PRE_FORK", &["Eip1559 is not supported"]),
    ("TransactionException.TYPE_4_TX_PRE_FORK", &["Eip7702 is not supported"]),
    ("TransactionException.TYPE_4_TX_CONTRACT_CREATION", &["decoding the block: "]),
    ("TransactionException.TYPE_4_EMPTY_AUTHORIZATION_LIST", &["empty authorization list"]),
    ("TransactionException.GASLIMIT_PRICE_PRODUCT_OVERFLOW", &["overflow payment"]),
    ("TransactionException.INTRINSIC_GAS_BELOW_FLOOR_GAS_COST", &["gas floor ("]),
    ("TransactionException.GAS_LIMIT_EXCEEDS_MAXIMUM", &["is greater than the cap ("]),
    ("TransactionException.INVALID_SIGNATURE_VRS", &["decoding the block: ", "the sender of"]),
];

/// What a test expects of a block that is not valid.
pub(super) struct Expectation<'a>(&'a str);

impl<'a> Expectation<'a> {
    /// The expectation with these names; any one of several that are separated by `|` will do.
    pub(super) const fn of(exception: &'a str) -> Self {
        Self(exception)
    }

    /// Whether a refusal is the expected one.
    ///
    /// # Errors
    /// Says what is wrong.
    pub(super) fn judge(&self, refusal: &str) -> Result<(), String> {
        for name in self.0.split('|') {
            let Some((_, words)) = TABLE.iter().find(|(exception, _)| *exception == name) else {
                return Err(format!("nobody has said what {name} is"));
            };
            if words.iter().any(|words| refusal.contains(words)) {
                return Ok(());
            }
        }
        Err(format!("refused, but not for {}", self.0))
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;
    use crate::conformance::import::Refused;

    #[test]
    fn a_block_must_be_refused_for_what_is_wrong_with_it() {
        let refusal = "the header does not follow from its parent: excessBlobGas is 1, not 0";
        let blob_gas = Expectation::of("BlockException.INCORRECT_EXCESS_BLOB_GAS");
        let base_fee = Expectation::of("BlockException.INVALID_BASEFEE_PER_GAS");
        assert_eq!(blob_gas.judge(refusal), Ok(()));
        assert!(base_fee.judge(refusal).is_err());
        let either = "BlockException.INVALID_GASLIMIT|BlockException.INCORRECT_EXCESS_BLOB_GAS";
        assert_eq!(Expectation::of(either).judge(refusal), Ok(()));
        assert!(Expectation::of("BlockException.NEW").judge(refusal).is_err());

        let unknown = Expectation::of("BlockException.UNKNOWN_PARENT");
        let missing = |parent| Refused::UnknownParent(parent).to_string();
        assert!(unknown.judge(&missing(B256::repeat_byte(1))).is_ok());
        let zero = Expectation::of("BlockException.UNKNOWN_PARENT_ZERO");
        assert!(zero.judge(&missing(B256::ZERO)).is_ok());
        assert!(zero.judge(&missing(B256::repeat_byte(1))).is_err());
        for other in [
            "the block is not valid: the header does not follow from its parent: number is 7",
            "timestamp is 5, not after the parent's 5",
            "parentHash is 0x12, but the parent is 0x11",
        ] {
            assert!(unknown.judge(other).is_err(), "{other}");
        }
    }
}
