//! Decoding transactions with their senders, as the consumer does ahead of execution, beside
//! nothing but secp256k1's recovery of the same public keys on all cores.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use alloy_primitives::{Address, Bytes, keccak256};
use preconf_chain::{Transaction, TxEnvelope};
use secp256k1::{
    Message, SECP256K1,
    ecdsa::{RecoverableSignature, RecoveryId},
};

use crate::{
    clock::on_all_cores,
    measure::{Rounds, Wrong, same},
    report::{Goal, Row},
    world::{Recipient, World},
};

const TRANSACTIONS: usize = 3_000;
const BATCHES: [usize; 3] = [10, 100, 1_500];

pub(crate) fn measure(rounds: Rounds) -> Result<Vec<Row>, Wrong> {
    let mut world = World::new();
    let transactions: Vec<Transaction> =
        (0..TRANSACTIONS).map(|at| world.transfer(at, Recipient::Fresh)).collect();
    let encoded: Vec<Bytes> = transactions.iter().map(|tx| tx.encoded().clone()).collect();
    let senders: Vec<Address> = transactions.iter().map(Transaction::signer).collect();
    let raw: Vec<RawRecovery> = transactions.iter().map(RawRecovery::of).collect();

    let limit = || {
        let (elapsed, recovered) = on_all_cores(|| recover_raw(&raw));
        same("the senders", &recovered, &senders)?;
        Ok(elapsed)
    };
    let mut rows = Vec::new();
    for batch in BATCHES {
        let ours = || {
            let (elapsed, recovered) = on_all_cores(|| decode(&encoded, batch));
            same("the senders", &recovered?, &senders)?;
            Ok(elapsed)
        };
        let (ours, limit) = rounds.interleave(ours, limit)?;
        let row =
            Row::rate(format!("decode with senders, batches of {batch}"), TRANSACTIONS, &ours);
        rows.push(row.beside(TRANSACTIONS, &limit).goal(Goal::AtLeast(1.0 / 1.3)));
    }
    Ok(rows)
}

/// What secp256k1 needs to recover one sender, and nothing else.
pub(crate) struct RawRecovery {
    message: Message,
    signature: RecoverableSignature,
}

impl RawRecovery {
    pub(crate) fn of(transaction: &Transaction) -> Self {
        let TxEnvelope::Ethereum(envelope) = transaction.envelope() else {
            unreachable!("nobody can send another type")
        };
        let signature = envelope.signature();
        let recovery_id = if signature.v() { RecoveryId::One } else { RecoveryId::Zero };
        let compact = [signature.r().to_be_bytes::<32>(), signature.s().to_be_bytes()].concat();
        let signature = RecoverableSignature::from_compact(&compact, recovery_id);
        Self {
            message: Message::from_digest(envelope.signature_hash().0),
            signature: signature.expect("it was made by a key"),
        }
    }

    fn recover(&self) -> Address {
        let key = SECP256K1.recover_ecdsa(&self.message, &self.signature);
        let key = key.expect("it was made by a key").serialize_uncompressed();
        Address::from_slice(&keccak256(&key[1..])[12..])
    }
}

/// Recovers senders on all cores, a few at a time, so that none waits for another.
pub(crate) fn recover_raw(raw: &[RawRecovery]) -> Vec<Address> {
    const SHARE: usize = 16;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let recover = || {
        let mut shares = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = raw.chunks(SHARE).nth(at) else { return shares };
            shares.push((at, share.iter().map(RawRecovery::recover).collect::<Vec<_>>()));
        }
    };
    let mut shares = thread::scope(|scope| {
        let others: Vec<_> = (1..cores).map(|_| scope.spawn(recover)).collect();
        let mut shares = recover();
        for other in others {
            shares.extend(other.join().expect("recovery does not panic"));
        }
        shares
    });
    shares.sort_unstable_by_key(|(at, _)| *at);
    shares.into_iter().flat_map(|(_, senders)| senders).collect()
}

fn decode(encoded: &[Bytes], batch: usize) -> Result<Vec<Address>, Wrong> {
    let decoded = encoded.chunks(batch).flat_map(Transaction::decode_all);
    let signer = |transaction: Transaction| transaction.signer();
    decoded.map(|tx| tx.map(signer).map_err(|error| Wrong(error.to_string()))).collect()
}
