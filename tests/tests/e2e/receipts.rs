//! A transaction has a receipt before its block is canonical, and the same receipt after.

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use preconf_chain::{TxType, rpc::RpcReceipt};
use preconf_devnet::{
    genesis::{DISTRIBUTOR, LEDGER},
    rpc::Rpc,
    traffic::{Intent, contracts, preconfirmed_and_canonical, same},
};
use preconf_tests::cluster::{Cluster, DEADLINE};
use serde_json::json;
use tokio::time::{Instant, interval};

const TOKENS: u64 = 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn on_berachain_a_receipt_comes_before_the_block_and_is_the_same_after_it() {
    let mut cluster = Cluster::start(&["--tps", "0", "--chain", "berachain"]).await;
    receipts_are_the_same(&mut cluster).await;
    the_chains_own_receipt_is_the_first(&mut cluster).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_ethereum_a_receipt_comes_before_the_block_and_is_the_same_after_it() {
    let mut cluster = Cluster::start(&["--tps", "0", "--chain", "ethereum"]).await;
    receipts_are_the_same(&mut cluster).await;
    cluster.stop().await;
}

/// The proof-of-liquidity transaction, in the pending block and in the canonical one.
async fn the_chains_own_receipt_is_the_first(cluster: &mut Cluster) {
    cluster.next_window().await;
    let nonce = cluster.overlay.next_nonce(cluster.devnet.accounts[0].address()).await.unwrap();
    let intent = Intent::payment(Address::repeat_byte(0x78), U256::from(1));
    let hash = send(cluster, intent, nonce).await;
    let users = receipt(cluster, hash, |_| true).await;
    assert_eq!(users.transaction_index, 1);
    let number = U64::from(users.block_number);
    let before: Vec<RpcReceipt> =
        cluster.overlay.call("eth_getBlockReceipts", (number,)).await.unwrap();
    let (own, pending) = (&before[0], counted(&cluster.overlay, number).await);
    assert!(cluster.rpc_node.receipt(hash).await.unwrap().is_none(), "it is canonical already");
    assert_eq!((own.tx_type, own.transaction_index), (TxType::Pol, 0));
    assert_eq!((own.gas_used, own.logs.len(), own.logs[0].address), (0, 1, DISTRIBUTOR));
    // Once in each block.
    assert_eq!(pending, U256::from(users.block_number));

    cluster.canonical(users.block_number).await;
    let after: Vec<RpcReceipt> =
        cluster.rpc_node.call("eth_getBlockReceipts", (number,)).await.unwrap();
    assert_eq!(preconfirmed_and_canonical(own, &after[0]), Ok(()));
    assert_eq!(counted(&cluster.rpc_node, number).await, pending);
}

/// How many blocks the ledger has seen, at this one.
async fn counted(at: &Rpc, number: U64) -> U256 {
    at.call("eth_getStorageAt", (LEDGER, "0x0", number)).await.unwrap()
}

async fn receipts_are_the_same(cluster: &mut Cluster) {
    let owner = cluster.devnet.accounts[0].address();
    let somebody = Address::repeat_byte(0x77);
    let token = owner.create(0);
    let code = contracts::token(&[owner], U256::from(TOKENS));
    let move_tokens =
        |amount| Intent::call(token, contracts::transfer(somebody, U256::from(amount)));

    cluster.next_window().await;
    let mut hashes = Vec::new();
    for (nonce, intent) in [
        Intent::creation(code, 2_000_000),
        Intent::payment(somebody, U256::from(5)),
        move_tokens(TOKENS),
        move_tokens(TOKENS),
        Intent::creation(contracts::answer(), 200_000),
    ]
    .into_iter()
    .enumerate()
    {
        hashes.push(send(cluster, intent, nonce as u64).await);
    }
    let mut before = Vec::new();
    for hash in hashes {
        let receipt = receipt(cluster, hash, |_| true).await;
        let canonical = cluster.devnet.clients.rpc_node.client().head().number();
        assert!(canonical < receipt.block_number, "the receipt came with its block");
        assert!(cluster.rpc_node.receipt(hash).await.unwrap().is_none());
        before.push(receipt);
    }

    let [deployment, payment, transfer, revert, creation] = &before[..] else { panic!() };
    let statuses = before.iter().map(|receipt| receipt.success).collect::<Vec<_>>();
    assert_eq!(statuses, [true, true, true, false, true]);
    assert_eq!(deployment.contract_address, Some(token));
    assert_eq!((payment.gas_used, payment.logs.len()), (21_000, 0));
    assert_eq!(transfer.logs[0].topics[2], somebody.into_word());
    assert!(revert.logs.is_empty());
    assert_eq!(creation.contract_address, Some(owner.create(4)));
    assert_eq!(tokens_of(cluster, token, somebody).await, U256::from(TOKENS));
    assert_eq!(balance(cluster, somebody).await, U256::from(5));
    assert_eq!(cluster.overlay.next_nonce(owner).await.unwrap(), 5);

    let last = before.iter().map(|receipt| receipt.block_number).max().unwrap();
    cluster.canonical(last).await;
    for before in &before {
        let hash = before.transaction_hash;
        let after = cluster.rpc_node.receipt(hash).await.unwrap().unwrap();
        assert_eq!(preconfirmed_and_canonical(before, &after), Ok(()));
        assert_ne!(before.block_hash, after.block_hash, "the hash was provisional");
        let shown = receipt(cluster, hash, |shown| shown.block_hash == after.block_hash).await;
        assert_eq!(same(&shown, &after), Ok(()));
    }
}

async fn send(cluster: &Cluster, intent: Intent, nonce: u64) -> B256 {
    let transaction = intent.sign(&cluster.devnet.accounts[0], cluster.chain_id, nonce);
    cluster.overlay.send_raw_transaction(&transaction).await.unwrap()
}

/// The overlay's receipt, once there is one that is as wanted.
async fn receipt(
    cluster: &Cluster,
    hash: B256,
    wanted: impl Fn(&RpcReceipt) -> bool,
) -> RpcReceipt {
    let started = Instant::now();
    let mut polls = interval(std::time::Duration::from_millis(5));
    loop {
        polls.tick().await;
        let receipt = cluster.overlay.receipt(hash).await.unwrap();
        if let Some(receipt) = receipt.filter(|receipt| wanted(receipt)) {
            return receipt;
        }
        assert!(started.elapsed() < DEADLINE, "{hash} has no such receipt");
    }
}

async fn tokens_of(cluster: &Cluster, token: Address, owner: Address) -> U256 {
    let call = json!({ "to": token, "input": contracts::balance_of(owner) });
    let answer: Bytes = cluster.overlay.call("eth_call", (call, "latest")).await.unwrap();
    U256::from_be_slice(&answer)
}

async fn balance(cluster: &Cluster, owner: Address) -> U256 {
    cluster.overlay.call("eth_getBalance", (owner, "latest")).await.unwrap()
}
