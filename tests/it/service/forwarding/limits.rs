//! A client that does not read its answers can't block the forwarded calls of others.

use prost::Message;
use tally::proto::transaction_service_client::TransactionServiceClient;
use tonic::transport::Endpoint;

use super::*;

/// Number of calls with unread answers.
const UNREAD: usize = 300;
/// Number of transactions.
const PAGE: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_forwarded_calls_with_unread_answers_do_not_block_another_client() {
    let pair = Pair::start().await;
    pair.standby.open_accounts(&["a", "b"]).await;
    let mut honest = pair.standby.transactions().await;
    let transactions = (0..PAGE).map(|number| pay(&format!("page-{number}"))).collect();
    honest
        .process_transactions(ProcessTransactionsRequest { transactions })
        .await
        .unwrap();

    // All answers together have far more bytes than HTTP/2's default window of a connection, 64 KiB. Both clients have
    // the same address, so they use the same connection to the leader.
    let unread = Endpoint::from_shared(pair.standby.endpoint())
        .unwrap()
        .initial_stream_window_size(1);
    let unread = TransactionServiceClient::new(unread.connect().await.unwrap());
    let calls: Vec<_> = (0..UNREAD)
        .map(|_| {
            let mut client = unread.clone();
            let page = ListTransactionsRequest {
                page_size: 1000,
                ..ListTransactionsRequest::default()
            };
            tokio::spawn(async move { client.list_transactions(page).await })
        })
        .collect();
    for number in 0..20 {
        let paid = tokio::time::timeout(
            WAIT_MAX,
            honest.process_transaction(pay(&format!("paid-{number}"))),
        )
        .await;
        assert!(
            !paid
                .expect("the honest client is served")
                .unwrap()
                .into_inner()
                .replayed
        );
    }
    let page = ListTransactionsRequest {
        page_size: 1000,
        ..ListTransactionsRequest::default()
    };
    let page = tokio::time::timeout(WAIT_MAX, honest.list_transactions(page)).await;
    let page = page.expect("the honest client is served").unwrap().into_inner();
    // The page must be longer than the window of a forwarded answer. It may have fewer transactions than `page_size`, because they are long.
    assert!(page.encoded_len() > 16 << 10, "{} bytes", page.encoded_len());
    for call in calls {
        call.abort();
    }
    drop(pair.drivers);
}
