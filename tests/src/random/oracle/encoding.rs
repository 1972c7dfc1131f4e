//! What a block encodes to: receipts, the chain's own transaction, headers, requests.
//!
//! The RLP of single values and of Ethereum's own receipts and headers is the libraries'.

use alloy_consensus::{Eip658Value, Header, Receipt, RlpEncodableReceipt, TxReceipt};
use alloy_primitives::{Address, B256, Bytes, FixedBytes, Log, U256, address, b256, keccak256};
use alloy_rlp::Encodable;
use sha2::{Digest, Sha256};

/// Who makes the calls of the chain itself.
pub(super) const SYSTEM: Address = address!("0xfffffffffffffffffffffffffffffffffffffffe");
/// The type of Berachain's own transaction.
pub(super) const REWARD_TYPE: u8 = 0x7e;
/// The gas of a call of the chain itself.
pub(super) const SYSTEM_GAS: u64 = 30_000_000;

/// Ethereum's deposit contract and Berachain's log this of each deposit.
pub(super) const ETHEREUM_DEPOSIT: B256 =
    b256!("0x649bbc62d0e31342afea4e5cd82d4049e7e1ee912fc0889aa790803be39038c5");
const BERACHAIN_DEPOSIT: &str = "Deposit(bytes,bytes,uint64,bytes,uint64)";

/// What happened to one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) kind: u8,
    pub(super) success: bool,
    pub(super) cumulative_gas: u64,
    pub(super) logs: Vec<Log>,
}

impl Outcome {
    /// The receipt as the receipts' trie holds it.
    pub(super) fn encoded(&self) -> Vec<u8> {
        let receipt = Receipt {
            status: Eip658Value::Eip658(self.success),
            cumulative_gas_used: self.cumulative_gas,
            logs: self.logs.clone(),
        };
        let bloom = receipt.bloom();
        let mut out = Vec::new();
        if self.kind != 0 {
            out.push(self.kind);
        }
        receipt.rlp_encode_with_bloom(&bloom, &mut out);
        out
    }
}

/// The input of the call that rewards a proposer: `distributeFor(bytes)` with the key.
pub(super) fn reward_input(key: &FixedBytes<48>) -> Bytes {
    let mut input = keccak256("distributeFor(bytes)")[..4].to_vec();
    input.extend(U256::from(32).to_be_bytes::<32>());
    input.extend(U256::from(48).to_be_bytes::<32>());
    input.extend_from_slice(key.as_slice());
    input.resize(input.len() + 16, 0);
    input.into()
}

/// The transaction that rewards a proposer.
pub(super) fn reward(
    chain_id: u64,
    distributor: Address,
    number: u64,
    base_fee: u64,
    key: &FixedBytes<48>,
) -> Bytes {
    let input = reward_input(key);
    let fields: [&dyn Encodable; 7] =
        [&chain_id, &SYSTEM, &distributor, &(number - 1), &SYSTEM_GAS, &base_fee, &input];
    let mut payload = Vec::new();
    fields.iter().for_each(|field| field.encode(&mut payload));
    let mut out = vec![REWARD_TYPE];
    list(&payload, &mut out);
    out.into()
}

/// The hash of a header, with Berachain's 22nd field if there is one.
pub(super) fn header_hash(header: &Header, key: Option<&FixedBytes<48>>) -> B256 {
    let plain = alloy_rlp::encode(header);
    let Some(key) = key else { return keccak256(plain) };
    let mut payload = plain.as_slice();
    alloy_rlp::Header::decode(&mut payload).expect("it was just encoded");
    let mut payload = payload.to_vec();
    key.encode(&mut payload);
    let mut out = Vec::new();
    list(&payload, &mut out);
    keccak256(out)
}

fn list(payload: &[u8], out: &mut Vec<u8>) {
    alloy_rlp::Header { list: true, payload_length: payload.len() }.encode(out);
    out.extend_from_slice(payload);
}

/// EIP-7685, over requests that begin with their type and hold something.
pub(super) fn requests_hash(requests: &[Bytes]) -> B256 {
    let mut all = Sha256::new();
    for request in requests.iter().filter(|request| request.len() > 1) {
        all.update(Sha256::digest(request));
    }
    B256::from_slice(&all.finalize())
}

/// The deposits that these logs report, one after the other: EIP-6110's, or Berachain's, in whose
/// logs the amount and the index are numbers.
pub(super) fn deposits<'a>(
    logs: impl Iterator<Item = &'a Log>,
    contract: Option<Address>,
    is_berachain: bool,
) -> Result<Vec<u8>, String> {
    let topic = if is_berachain { keccak256(BERACHAIN_DEPOSIT) } else { ETHEREUM_DEPOSIT };
    let mut all = Vec::new();
    for log in
        logs.filter(|log| Some(log.address) == contract && log.topics().first() == Some(&topic))
    {
        let data = &log.data.data;
        let part = |at: usize, length: usize| {
            data.get(at..at + length).ok_or_else(|| "a deposit's log is too short".to_owned())
        };
        // The words of the head, and behind them each text with its length, in whole words.
        let (key, credentials) = (part(192, 48)?, part(288, 32)?);
        if is_berachain {
            let little = |at| Ok::<_, String>(part(at, 8)?.iter().rev().copied().collect());
            let (amount, index): (Vec<u8>, Vec<u8>) = (little(64 + 24)?, little(128 + 24)?);
            let parts = [key, credentials, &amount, part(352, 96)?, &index];
            all.extend(parts.concat());
        } else {
            let (amount, index) = (part(352, 8)?, part(544, 8)?);
            all.extend([key, credentials, amount, part(416, 96)?, index].concat());
        }
    }
    Ok(all)
}
